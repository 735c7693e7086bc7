"""Times training loops by turns, in one process, and writes down what came out.

A machine is not equally fast from one second to the next. So contenders are never timed one after the other: each
trains a short chunk of batches, then the next, round after round, and what is compared is the time of two chunks of
the same round. Since `fit` and its like own their loop, each contender runs in a thread of its own, and hands over
from within the iterable that gives it its batches. Only one thread ever runs; the others wait.
"""

import importlib.metadata
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results.md"
TRY = "--try" in sys.argv  # a few rounds, to see whether it runs; nothing is written


class Lane:
    """One contender's batches: the same one again and again, a chunk each time that it is this lane's turn.

    Attributes:
      seconds: what a step took, one mean for each chunk.
    """

    def __init__(self, race: "_Race", run: Callable[["Lane"], object], batch: Any):
        self.race, self.run, self.batch = race, run, batch
        self.seconds: list[float] = []
        self.turn = threading.Semaphore(0)
        self.next = self

    def __iter__(self) -> Iterator[Any]:
        while len(self.seconds) < self.race.rounds:
            began = perf_counter()
            for _ in range(self.race.chunk):
                yield self.batch
            self.seconds.append((perf_counter() - began) / self.race.chunk)

            self.next.turn.release()
            self.turn.acquire()  # what others do meanwhile is not timed
            if self.race.error:
                return

    def drive(self) -> None:
        """Runs the contender from set-up to its end, always and only when it is its turn."""
        self.turn.acquire()
        try:
            torch.set_num_threads(1)  # a setting of each thread
            if not self.race.error:
                self.run(self)
        except BaseException as error:
            self.race.error = self.race.error or error
        finally:
            self.next.turn.release()


class _Race:
    def __init__(self, chunk: int, rounds: int):
        self.chunk, self.rounds = chunk, rounds
        self.error: BaseException | None = None


def race(
    contenders: Mapping[str, Callable[[Lane], object]], batch: Any, *, chunk: int, rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Seconds a step of each contender, one value a round.

    Args:
      contenders: name to a function that trains on each batch of the iterable that it is given, once.
      batch: what all of them train on.
      chunk: batches a turn; many enough that a clock's tick and a first step after the others are nothing.
      rounds: turns that count.
      warmup: turns before those, in which code is compiled and caches fill.
    """
    arena = _Race(chunk, warmup + rounds)
    lanes = [Lane(arena, run, batch) for run in contenders.values()]
    for lane, following in zip(lanes, lanes[1:] + lanes[:1], strict=True):
        lane.next = following
    threads = [threading.Thread(target=lane.drive, daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()

    lanes[0].turn.release()
    for thread in threads:
        thread.join()
    if arena.error:
        raise arena.error
    return {name: lane.seconds[warmup:] for name, lane in zip(contenders, lanes, strict=True)}


def ratio(these: list[float], those: list[float]) -> float:
    """The median of the ratios of two contenders, round by round."""
    return median(a / b for a, b in zip(these, those, strict=True))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: the first column to the left, numbers to the right.

    Example:
      >>> print(table(["loop", "µs"], [["eager", "525"]]))
      | loop  |  µs |
      | :---- | --: |
      | eager | 525 |
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, [":" + "-" * (widths[0] - 1), *["-" * (width - 1) + ":" for width in widths[1:]]], *rows]
    padded = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def write(title: str, text: str) -> None:
    """Prints a section and puts it into the results, in the place of the one with the same title."""
    section = f"## {title}\n\n{text.strip()}\n\nMeasured on {machine()}.\n"
    print(f"\n{section}", flush=True)
    if TRY:
        return

    old = RESULTS.read_text() if RESULTS.exists() else "# Results of the benchmarks\n"
    head, *sections = re.split(r"^(?=## )", old, flags=re.MULTILINE)
    same = [i for i, each in enumerate(sections) if each.startswith(f"## {title}\n")]
    if same:
        sections[same[0]] = section
    else:
        sections.append(section)
    RESULTS.write_text("\n\n".join(part.strip() for part in [head, *sections]) + "\n")


def machine() -> str:
    """What the figures depend on: processor, system and versions."""
    versions = [f"Python {platform.python_version()}"] + [
        f"{name} {version}" for name in ("torch", "lightning") if (version := _version(name))
    ]
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()}; {', '.join(versions)}; one thread"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
