"""What a sink is, and how metrics reach those of a run."""

import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import attrs

from fncb.callback import Callback
from fncb.effects import Effect, LogHistogram, LogImage
from fncb.events import Event, Metrics, TestEnd, TrainBatchEnd, TrainEpochEnd, ValidationEnd
from fncb.metrics import chosen

log: logging.Logger = logging.getLogger("fncb")


@attrs.frozen(kw_only=True)
class Sink:
    """Functions: one takes metrics, one is called at the end, and maybe some take images and histograms.

    Attributes:
      log: given the metrics and the event that they belong to (its `epoch`, `step` and `seconds`). The metrics may
        still be on the device: keep them and read them when many are written.
      close: writes what is left, at the end.
      image: given a name, an image and the event; the image is a tensor (channels, height, width), of 1, 3 or 4
        channels with values in [0, 1]. None for a sink that shows none.
      histogram: given a name, a tensor of any shape and the event. None for a sink that shows none.
      start: called when a run begins; None if there is nothing to be done.
      fail: called in place of `close` if the run has failed; None if that makes no difference.
    """

    log: Callable[[Metrics, Event], None]
    close: Callable[[], None]
    image: Callable[[str, Any, Event], None] | None = None
    histogram: Callable[[str, Any, Event], None] | None = None
    start: Callable[[], Any] | None = None
    fail: Callable[[], None] | None = None


class Sinks:
    """The sinks of a run.

    Args:
      sinks: all of them.
      every: how often a batch's metrics go to them, in optimizer steps.

    Attributes:
      resting: whether nothing goes to them for now.
      failed: whether the run has failed.
    """

    HEAR = frozenset((TrainBatchEnd, TrainEpochEnd, ValidationEnd, TestEnd))
    """Events whose metrics go to sinks."""

    def __init__(self, sinks: Iterable[Sink], every: int):
        self._sinks, self._every = tuple(sinks), every
        self.resting = self.failed = False
        self._validated: set[str] = set()  # names of what validations measured
        self._of_batch: tuple[int, Iterable[str]] = (0, ())  # the last batch that was passed on: its step and names

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def hear(self, event: Event, metrics: Metrics) -> None:
        """Passes on what an event measured, if that is due.

        At the end of an epoch there also is what its last batch and validation had measured: a sink has that already.
        """
        kind = type(event)
        if kind not in self.HEAR or (kind is TrainBatchEnd and event.step % self._every):
            return
        if kind is TrainBatchEnd:
            self._of_batch = event.step, metrics
        elif kind is ValidationEnd:
            self._validated.update(metrics)
        elif kind is TrainEpochEnd:
            step, of_batch = self._of_batch
            known = {*self._validated, *(of_batch if step == event.step else ())}
            metrics = chosen(metrics, [name for name in metrics if name not in known]) if known else metrics
        if metrics:
            self.log(metrics, event)

    def log(self, metrics: Metrics, event: Event) -> None:
        """Passes on metrics."""
        for sink in () if self.resting else self._sinks:
            sink.log(metrics, event)

    def shows(self, kind: type[Effect]) -> bool:
        """Whether any of them takes what an effect brings, `LogImage` or `LogHistogram`."""
        return any((sink.image if kind is LogImage else sink.histogram) is not None for sink in self._sinks)

    def image(self, effect: LogImage, event: Event) -> None:
        """Passes on an image."""
        for sink in () if self.resting else self._sinks:
            if sink.image is not None:
                sink.image(effect.name, effect.image, event)

    def histogram(self, effect: LogHistogram, event: Event) -> None:
        """Passes on the values of a tensor."""
        for sink in () if self.resting else self._sinks:
            if sink.histogram is not None:
                sink.histogram(effect.name, effect.values, event)

    def start(self) -> None:
        """Tells all of them that the run begins; if one raises, those that began are closed."""
        with ExitStack() as closing:
            for sink in self._sinks:
                if sink.start is not None:
                    sink.start()
                closing.callback(sink.fail or sink.close)
            closing.pop_all()

    def close(self) -> None:
        """Closes all of them, whatever one raises."""
        with ExitStack() as closing:
            for sink in self._sinks:
                closing.callback(sink.fail if self.failed and sink.fail else sink.close)


def tell_what_nobody_shows(callbacks: Callback[Any], sinks: Sinks) -> None:
    """Warns of callbacks that give images or histograms when no sink takes them."""
    for part in callbacks.parts or ():
        for kind, what in ((LogImage, "images"), (LogHistogram, "histograms")):
            if kind in (part.emits or ()) and not sinks.shows(kind):
                log.warning("fncb: %s gives %s, which no sink of this run shows. Pass sinks=[...].", part.key, what)
