"""What a step holds in memory at its peak, for a large MLP.

Each loop trains in a process of its own: a few steps, in which things are compiled and made, then the kernel's mark of
the peak (`VmHWM`) is reset, then a few more. The same is done with a tiny model, and its peak, which is the code of
Python, torch and the compiler, is taken off. Linux only.

Usage: python benchmarks/memory.py [--try]
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loops import COMPILED, SET, Run, by_hand, by_hand_compiled, with_fncb
from problems import Problem
from side_by_side import TRY, table, write

WARMUP, STEPS = 4, 2 if TRY else 6


def problem(width: int) -> Problem:
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(width // 4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )

    return Problem(f"MLP {width}", model, (torch.randn(64, width // 4), torch.randint(10, (64,))), 1)


def contenders(problem: Problem) -> dict[str, Run]:
    return {
        "by hand, eager": by_hand(problem),
        COMPILED: by_hand_compiled(problem),
        "fncb, no callbacks": with_fncb(problem, callbacks=False),
        "fncb, the set without EMA": with_fncb(problem, averaged=False),
        SET: with_fncb(problem),
        "fncb, the set, eager": with_fncb(problem, compile=False),
    }


def peak(loop: str, width: int) -> int:
    """Bytes that this process held at most in a step of a loop, once warm."""
    small_or_big, found = problem(width), []

    def batches() -> Iterator[Any]:
        for _ in range(WARMUP):
            yield small_or_big.batch
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        for _ in range(STEPS):
            yield small_or_big.batch
        found.append(int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)

    torch.set_num_threads(1)
    contenders(small_or_big)[loop](batches())
    return found[0]


def peak_of_its_own(loop: str, width: int) -> int:
    command = [sys.executable, __file__, "--peak-of", loop, str(width)]
    # freed tensors go back to the system at once, so that the mark is that of tensors in use
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return int(subprocess.run(command, env=settings, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def main() -> None:
    width = 1024 if TRY else 4096
    copy = sum(p.numel() * p.element_size() for p in problem(width).model().parameters())
    peaks = {loop: peak_of_its_own(loop, width) - peak_of_its_own(loop, 8) for loop in contenders(problem(8))}
    base = peaks[COMPILED]
    rows = [
        [loop, f"{size / 2**20:,.0f}", f"{(size - base) / 2**20:+,.0f}", f"{(size - base) / copy:+.2f}"]
        for loop, size in peaks.items()
    ]
    text = table(["loop", "MiB", "beyond by hand, compiled", "in copies of the parameters"], rows)
    write(
        "Memory of a step",
        f"{text}\n\nAn MLP of {copy / 4e6:.0f} million parameters ({copy / 2**20:,.0f} MiB), batch 64, AdamW. Peak "
        f"resident memory over {STEPS} steps after {WARMUP}, a process for each loop, less the same for a tiny model.",
    )


if __name__ == "__main__":
    if "--peak-of" in sys.argv:
        print(peak(sys.argv[-2], int(sys.argv[-1])))
    else:
        main()
