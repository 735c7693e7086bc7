"""A fork server: torch is imported once, each child saves in a loop until it is killed.

Run as a script it kills, and prints what was acknowledged; `faults` looks at what is left.
"""

import json
import os
import random
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fncb import formats, store


def a_tree(step: int, size: int) -> dict[str, Any]:
    return {"step": step, "model": {"small": torch.tensor(step), "large": torch.full((size,), float(step))}}


def save_until_killed(folder: Path, size: int, overwrite: bool, report: int) -> None:
    for step in range(1, 1_000_000):
        path = folder / ("last.safetensors" if overwrite else f"{step}.safetensors")
        tree = a_tree(step, size)
        os.write(report, b"%d begin\n" % step)
        store.write(path, tree, overwrite=overwrite)
        os.write(report, b"%d saved\n" % step)
        if step > 2 and not overwrite:
            store.delete(folder / f"{step - 2}.safetensors")  # two stay


def kill_one(folder: Path, rng: random.Random) -> dict[str, Any]:
    size, overwrite = rng.choice([100, 10_000, 200_000]), rng.random() < 0.3
    formats.LARGE = store.LARGE = rng.choice([1, 4 << 20])  # with a second thread and without
    folder.mkdir()
    reports, report = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reports)
        save_until_killed(folder, size, overwrite, report)
        os._exit(1)
    os.close(report)
    text, saves = b"", rng.randrange(4)
    kill_at = latest = time.monotonic() + 10
    while (now := time.monotonic()) < kill_at:
        if select.select([reports], [], [], kill_at - now)[0]:
            text += os.read(reports, 1 << 16)
            if kill_at == latest and text.count(b"saved") >= saves:
                kill_at = time.monotonic() + rng.uniform(0, 0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reports, 1 << 16):
        text += more
    os.close(reports)
    lines = [line.split() for line in text.decode().splitlines()]
    begun, saved = ([int(step) for step, what in lines if what == which] for which in ("begin", "saved"))
    return {"folder": str(folder), "begun": begun, "saved": saved, "size": size, "overwrite": overwrite}


def inside(kill: dict[str, Any]) -> bool:
    """Whether a save had begun and was not acknowledged."""
    return len(kill["begun"]) > len(kill["saved"])


def faults(kill: dict[str, Any]) -> list[str]:
    """What is wrong with the folder of a child that was killed."""
    folder, saved = Path(kill["folder"]), kill["saved"]
    latest = store.latest(folder)
    wrong = [f"unloadable: {each}" for each in latest.rejected]
    if not kill["begun"]:
        return ["nothing was killed"]
    if not saved and latest.path is None:
        return wrong
    if latest.path is None:
        return [*wrong, f"nothing loads, {saved[-1]} was acknowledged"]
    step = store.read_header(latest.path)["step"]
    if not (saved or [0])[-1] <= step <= kill["begun"][-1]:
        wrong.append(f"newest is {step}, acknowledged {saved[-1:]}, begun {kill['begun'][-1]}")
    for kept in {step, *([] if kill["overwrite"] else saved[-1:])}:
        tree = store.read(latest.path if kept == step else folder / f"{kept}.safetensors")
        model = tree["model"]
        if tree["step"] != kept or model["small"] != kept or len(model["large"]) != kill["size"]:
            wrong.append(f"{kept} holds {tree['step']}")
        elif not bool((model["large"] == kept).all()):
            wrong.append(f"{kept} holds other values")
    return wrong


if __name__ == "__main__":
    torch.set_num_threads(1)
    root, n, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    for i in range(n):
        kill = kill_one(root / str(i), rng)
        sys.stdout.write(json.dumps({**kill, "faults": faults(kill), "inside": inside(kill)}) + "\n")
        shutil.rmtree(kill["folder"])
