"""What a sink is, and how metrics reach those of a run."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import attrs

from fncb.events import Event, Metrics, TestEnd, TrainBatchEnd, TrainEpochEnd, ValidationEnd


@attrs.frozen(kw_only=True)
class Sink:
    """Two functions: one takes metrics, one is called at the end.

    Attributes:
      log: given the metrics and the event that they belong to (its `epoch`, `step` and `seconds`). The metrics may
        still be on the device: keep them and read them when many are written.
      close: writes what is left.
    """

    log: Callable[[Metrics, Event], None]
    close: Callable[[], None]


class Sinks:
    """The sinks of a run.

    Args:
      sinks: all of them.
      every: how often a batch's metrics go to them, in optimizer steps.

    Attributes:
      resting: whether nothing goes to them for now.
    """

    HEAR = frozenset((TrainBatchEnd, TrainEpochEnd, ValidationEnd, TestEnd))
    """Events whose metrics go to sinks."""

    def __init__(self, sinks: Iterable[Sink], every: int):
        self._sinks, self._every = tuple(sinks), every
        self.resting = False

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def hear(self, event: Any) -> None:
        """Passes on the metrics of an event, if they are due."""
        kind = type(event)
        if kind in self.HEAR and not (kind is TrainBatchEnd and event.step % self._every):
            self.log(event.metrics, event)

    def log(self, metrics: Metrics, event: Event) -> None:
        """Passes on metrics."""
        for sink in () if self.resting else self._sinks:
            sink.log(metrics, event)

    def close(self) -> None:
        """Closes all of them, whatever one raises."""
        with ExitStack() as closing:
            for sink in self._sinks:
                closing.callback(sink.close)
