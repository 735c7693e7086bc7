"""Metrics on their way into a sink: they wait on the device, and many are read and written at once."""

import time
from collections.abc import Callable
from pathlib import Path

import attrs

from fncb.events import IN_STEP, Event
from fncb.metrics import Metrics, read_pending
from fncb.sinks.sink import Sink

_MOST = 512  # rows that may wait
_LONGEST = 10.0  # seconds that the first of them may wait


@attrs.frozen
class Row:
    """Metrics of a moment.

    Attributes:
      metrics: by name; still on the device while the row waits.
      epoch, step, seconds: of the event that they belong to.
      time: when they were logged, in seconds since 1970.
    """

    metrics: Metrics
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    time: float = 0.0

    @property
    def counters(self) -> dict[str, float]:
        """Epoch, step and seconds by name."""
        return {"epoch": self.epoch, "step": self.step, "seconds": self.seconds}


def in_bulk(write: Callable[[list[Row]], None]) -> Sink:
    """A sink that writes many rows at once.

    Rows of training batches wait until there is one of something else, or there are 512, or the first has waited for
    10 seconds. Then all are read from the device in one go. What fails to be written waits on.

    Args:
      write: is given rows in order, at least one, with metrics that are read.
    """
    waiting: list[Row] = []  # and not the events, which hold batches

    def log(metrics: Metrics, event: Event) -> None:
        waiting.append(Row(metrics, event.epoch, event.step, event.seconds, time.time()))
        waited = event.seconds - waiting[0].seconds
        if not isinstance(event, IN_STEP) or len(waiting) >= _MOST or waited >= _LONGEST:
            write_all()

    def write_all() -> None:
        if waiting:
            read_pending(row.metrics for row in waiting)  # waits for the device
            write(waiting.copy())
            waiting.clear()

    return Sink(log=log, close=write_all)


def append_lines(path: Path, text: str) -> None:
    """Adds lines to a file; if its last one is torn, as a crash leaves it, they begin on a new one."""
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, 2)
            text = text if file.read(1) == b"\n" else f"\n{text}"
        file.write(text.encode())
