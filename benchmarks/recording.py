"""What recording every event costs: in a step, for an event, and on the disk.

Usage: python benchmarks/recording.py [--try]
"""

import tempfile
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

import fncb
from fncb.events import TrainBatchEnd
from fncb.metrics import Metrics
from fncb.recorder import Recorder
from loops import adamw
from problems import Problem, loss, problems
from side_by_side import TRY, race, ratio, table, write

SUFFIXES = ("jsonl", "jsonl.gz", "jsonl.zst")
N = 2_560 if TRY else 102_400
ATTEMPTS = 3 if TRY else 9
LEGEND = f"""\
The MLP's step, a `TrainBatchEnd` each that no hook hears; ratios are medians of the ratios within a round. An event
alone is the mean over {N:,} that are recorded one after the other, encoding and writing included, medians of
{ATTEMPTS}: as they come where nobody hears them / as events where somebody does. Aimed at: at most 1.03 of the step,
2 µs an event, 120 bytes an event.
"""
_names = count()


def with_fncb(problem: Problem, folder: Path, suffix: str | None, every: int = 1) -> Callable[[Iterable], object]:
    def run(batches: Iterable) -> None:
        path = None if suffix is None else folder / f"{next(_names)}.{suffix}"
        task = fncb.Task(problem.model(), loss=loss, optimizer=adamw)
        fncb.fit(task, batches, max_epochs=1, progress=False, record=path, record_metrics_every_n_steps=every)

    return run


def alone(path: Path, heard: bool) -> tuple[float, float]:
    """Microseconds that `Recorder` takes for the end of a batch whose loss was not read yet, and the bytes."""
    metrics = [Metrics(None, ("loss",), vector) for vector in torch.rand(N, 1)]
    counters = [(i // 1000, i + 1, i / 7, i % 1000) for i in range(N)]
    events = [
        TrainBatchEnd(epoch=epoch, step=step, seconds=seconds, batch_idx=batch_idx, metrics=each)
        for (epoch, step, seconds, batch_idx), each in zip(counters, metrics, strict=True)
    ]
    recorder = Recorder(path, {})
    began = perf_counter()
    if heard:
        for event in events:
            recorder.event(event)
    else:
        for (epoch, step, seconds, batch_idx), each in zip(counters, metrics, strict=True):
            recorder.batch_end(epoch, step, seconds, batch_idx, each)
    recorder.flush()
    took = perf_counter() - began
    recorder.close()
    return 1e6 * took / N, path.stat().st_size / N


def main() -> None:
    problem = problems()["mlp"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contenders = {
            "nothing": with_fncb(problem, folder, None),
            **{suffix: with_fncb(problem, folder, suffix) for suffix in SUFFIXES},
            "jsonl, metrics every 100 steps": with_fncb(problem, folder, "jsonl", 100),
        }
        times = race(contenders, problem.batch, chunk=problem.chunk, rounds=3 if TRY else 40)
        rows = []
        for what, seconds in times.items():
            row = [what, f"{median(seconds) * 1e6:,.1f}", f"{ratio(seconds, times['nothing']):.3f}"]
            if what in SUFFIXES:
                found = [
                    [alone(folder / f"{next(_names)}.{what}", heard) for _ in range(ATTEMPTS)]
                    for heard in (False, True)
                ]
                row.append(" / ".join(f"{median(took for took, _ in each):.2f}" for each in found))
                row.append(" / ".join(f"{each[0][1]:.0f}" for each in found))
            rows.append(row + [""] * (5 - len(row)))
    head = ["recorded to", "µs a step", "/ nothing", "µs an event", "bytes an event"]
    write(
        "Recording",
        table(head, rows) + f"\n\n{LEGEND}",
    )


if __name__ == "__main__":
    main()
