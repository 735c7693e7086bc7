"""How long a training step is held up by a checkpoint, written at once or behind its back.

A model and its Adam state are saved by each contender in turn, round after round, in one process. Before each turn
there is a training step, so that caches and free memory are what a save finds them to be. Timed is only the call that
the loop waits for. After it, what goes on in the background is waited for and the files are deleted.

Usage: python benchmarks/checkpoint.py [--sizes 1,10,100,500] [--rounds N] [--threads N]
With any of these, nothing is written down.
"""

import argparse
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch import nn
from torch.distributed import checkpoint as dcp

from fncb import store
from fncb.packing import pack
from fncb.saving import Saver
from side_by_side import ratio, table, write

LAYERS = {1: 3, 10: 4, 100: 8, 500: 12}
ROUNDS = {1: 100, 10: 50, 100: 15, 500: 7}

CLONE, COPY, TORCH = "[t.clone() for t in tensors]", "copy into buffers of before", "torch.save, flush, fsync"
WRITE, ASYNC = "fncb, store.write", "fncb, Saver.save_async"
DCP = "torch DCP, async_save"
LIGHTNING, LIGHTNING_ASYNC = "Lightning, TorchCheckpointIO", "Lightning, AsyncCheckpointIO"

Turn = tuple[Callable[[Path], Any], Callable[[Any], object]]
"""What is timed, given a free path; and what is then waited for, given what the first returned."""


def state(megabytes: int) -> tuple[dict[str, Any], Callable[[], None]]:
    """A checkpoint of an MLP and Adam: of float32, a third each of parameters and the two averages; a training step."""
    layers = LAYERS.get(megabytes, 8)
    width = int((megabytes * 1e6 / 12 / layers) ** 0.5)
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)])
    optimizer = torch.optim.Adam(model.parameters())
    batch = torch.randn(8, width)

    def step() -> None:
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    objects = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    random = {"torch": torch.get_rng_state()}
    return {"epoch": 3, "step": 1000, "metrics": {"loss": 0.5}, "random": random, **objects}, step


def contenders(tree: dict[str, Any], saver: Saver, lightning: AsyncCheckpointIO) -> dict[str, Turn]:
    tensors = list(pack(tree).tensors.values())
    buffers = [torch.empty_like(tensor) for tensor in tensors]

    def torch_save(path: Path) -> None:
        with open(path, "wb") as file:
            torch.save(tree, file)
            file.flush()
            os.fsync(file.fileno())

    def nothing(_: Any) -> None:
        pass

    def lightning_done(_: Any) -> None:
        lightning.teardown()  # its only way to wait
        lightning._ensure_setup()

    return {
        CLONE: (lambda _: [tensor.clone() for tensor in tensors], nothing),
        COPY: (lambda _: torch._foreach_copy_(buffers, tensors), nothing),
        ASYNC: (lambda path: saver.save_async(path, tree), lambda _: saver.finished(wait=True)),
        DCP: (lambda path: dcp.async_save(tree, checkpoint_id=path, no_dist=True), lambda future: future.result()),
        LIGHTNING_ASYNC: (lambda path: lightning.save_checkpoint(tree, path), lightning_done),
        WRITE: (lambda path: store.write(path, tree), nothing),
        TORCH: (torch_save, nothing),
        LIGHTNING: (lambda path: TorchCheckpointIO().save_checkpoint(tree, path), nothing),
    }


def seconds(megabytes: int, rounds: int) -> tuple[dict[str, list[float]], int]:
    """What each contender held the loop up for, one value a round, and how many tensors there were."""
    (tree, step), saver, lightning = state(megabytes), Saver(), AsyncCheckpointIO(TorchCheckpointIO())
    turns = contenders(tree, saver, lightning)
    times: dict[str, list[float]] = {name: [] for name in turns}
    with tempfile.TemporaryDirectory(prefix="fncb-benchmark-") as folder:
        for each in range(rounds + 1):
            for name, (do, settle) in turns.items():
                path = Path(folder, "checkpoint")
                step()
                began = perf_counter()
                result = do(path)
                took = perf_counter() - began
                if each:  # the first round warms up
                    times[name].append(took)
                settle(result)
                del result
                _delete(path)
    lightning.teardown()
    saver.close()
    return times, len(pack(tree).tensors)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,10,100,500", help="in MB, with commas")
    parser.add_argument("--rounds", type=int, help="for each size")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", module="torch.distributed")
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)

    sizes = [int(size) for size in given.sizes.split(",")]
    found, counts = {}, {}
    for size in sizes:
        found[size], counts[size] = seconds(size, given.rounds or ROUNDS.get(size, 10))

    head = [f"{size} MB" for size in sizes]
    rows = [[name, *(f"{1e3 * median(found[size][name]):,.2f}" for size in sizes)] for name in found[sizes[0]]]
    pairs = [(ASYNC, CLONE, 1.3), (ASYNC, COPY, None), (DCP, CLONE, None), (LIGHTNING_ASYNC, CLONE, None)]
    pairs += [(WRITE, TORCH, 1.2), (WRITE, LIGHTNING, None)]
    ratios, missed = [], []
    for a, b, bar in pairs:
        reached = [ratio(found[size][a], found[size][b]) for size in sizes]
        ratios.append([f"{a} / {b}", *(f"{value:.2f}" for value in reached), f"{bar}" if bar else ""])
        missed += [f"{a} at {size} MB" for size, value in zip(sizes, reached, strict=True) if bar and value > bar]
    text = (
        f"{table(['milliseconds that a step waits', *head], rows)}\n\n{table(['ratio', *head, 'at most'], ratios)}\n\n"
        f"An MLP and its Adam state, a third each of parameters and the two averages: {_listed(counts)} tensors. "
        "Lightning's ways flush nothing to the disk; its asynchronous one clones the tensors, without a bound on how "
        "many writes may wait. DCP's flushes each file. fncb's hashes what it writes, and flushes the file and its "
        "directory. Ratios are medians of the ratios within a round. Beyond what is aimed at: "
        f"{', '.join(missed) or 'none'}."
    )
    if len(sys.argv) > 1:
        print(f"{text}\n\nTorch had {given.threads} threads.")
    else:
        write("How long a checkpoint holds up a step", text)


def _listed(counts: dict[int, int]) -> str:
    return ", ".join(map(str, counts.values()))


if __name__ == "__main__":
    main()
