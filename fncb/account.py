"""What a recording tells of its run as a whole: how far it came, how it ended, what it wrote, what it left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Literal

import attrs

from fncb import effects as ef
from fncb import events as ev
from fncb.effects import Effect
from fncb.events import Event, counters, hook_name
from fncb.metrics import Metrics, Unrecorded
from fncb.recording import Recording, asked_at

Entries = Sequence[Event | Effect]


@attrs.frozen
class Ending:
    """How a run ended.

    Attributes:
      how: "finished" (all that was to be done), "stopped" (by a callback, or it was told to), "signal", "raised", "cut
        off" (the recording has no end: it was killed, or it goes on), or "empty".
      why: the rest of the sentence.
      key: of the callback that asked for it; None for others.
      epoch, step, seconds: of the last event, or of that at which it was asked for.
    """

    how: Literal["finished", "stopped", "signal", "raised", "cut off", "empty"]
    why: str
    key: str | None = None
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        by = f" by {self.key}" if self.key else ""
        return f"{self.how}{by} at epoch {self.epoch}, step {self.step}: {self.why}"


@attrs.frozen
class File:
    """A checkpoint that a run wrote.

    Attributes:
      path: its name.
      epoch, step: that it is of.
      key: of the callback that asked for it; None if it is not known.
      hook: at which it was asked for.
      bytes, took: its size, and for how many seconds it was written.
      metrics: those known when it was asked for: of the last validation and the last epoch.
      kept: whether the run did not delete it.
    """

    path: str
    epoch: int
    step: int
    key: str | None
    hook: str
    bytes: int
    took: float
    metrics: Mapping[str, float] = attrs.field(repr=False)
    kept: bool = True


@attrs.frozen(kw_only=True)
class Account:
    """What a recording tells of its run.

    Attributes:
      stage: "fit", "validate", "test" or "predict".
      epochs: that were trained, the last one maybe in part.
      steps: that the optimizer made.
      seconds: that it took, resumes summed up.
      counts: how many events of each class it has, in the order in which they first came.
      resumed: epoch and step at which it went on, for each time that it did.
      ending: how it ended.
      metrics: the last value of each.
      files: checkpoints, in the order in which they were written.
      skipped: what was left out, a sentence each.
    """

    stage: str
    epochs: int
    steps: int
    seconds: float
    counts: Mapping[str, int]
    resumed: tuple[tuple[int, int], ...]
    ending: Ending
    metrics: Mapping[str, float]
    files: tuple[File, ...]
    skipped: tuple[str, ...]


def account_of(recording: Recording) -> Account:
    """Goes through a recording once.

    Example:
      >>> from fncb.effects import Stop
      >>> entries = (ev.TrainBatchEnd(step=1, metrics={"loss": 0.5}), Stop("enough", key="mine"), ev.FitEnd(step=1))
      >>> account = account_of(Recording({}, entries))
      >>> account.steps, account.metrics, str(account.ending)
      (1, {'loss': 0.5}, 'stopped by mine at epoch 0, step 1: enough')
    """
    entries = recording.entries
    events = recording.events
    last = events[-1] if events else Event()
    begun = recording.resumed[-1] if recording.resumed else 0
    metrics: dict[str, float] = {}
    for event in events:
        metrics |= known_metrics(event)
    return Account(
        stage=next((event.stage for event in events if isinstance(event, ev.InitStart)), "fit"),
        epochs=max((event.epoch + 1 for event in events if isinstance(event, _TRAINED)), default=0),
        steps=max((event.step for event in events), default=0),
        seconds=last.seconds,
        counts=Counter(type(event).__name__ for event in events),
        resumed=tuple((at.epoch, at.step) for at in (_next_event(entries, place) for place in recording.resumed)),
        ending=_ending(entries[begun:], last),
        metrics=metrics,
        files=_files(entries),
        skipped=(*_left_out(entries), *_unwritten(entries)),
    )


_TRAINED = (ev.TrainBatchEnd, ev.TrainEpochEnd)


def known_metrics(record: Event | Effect) -> Mapping[str, float]:
    """The metrics of an event, or of a `Log`; none where it has none, or where they were not recorded."""
    metrics = getattr(record, "metrics", {})
    if isinstance(metrics, Unrecorded):
        return {}
    return metrics.as_dict() if isinstance(metrics, Metrics) else metrics


def _next_event(entries: Entries, place: int) -> Event:
    return next((entry for entry in entries[place:] if isinstance(entry, Event)), Event())


def _ending(entries: Entries, last: Event) -> Ending:
    at = counters(last)
    event, limits, stop, requested, raised, is_over = last, "", None, None, None, False
    for entry in entries:
        if isinstance(entry, ev.FitStart):
            named = {"max_epochs": entry.max_epochs, "max_steps": entry.max_steps}
            limits = " and ".join(f"{name}={n}" for name, n in named.items() if n >= 0)
        elif isinstance(entry, ef.Stop):
            stop = stop or (entry, event)
        elif isinstance(entry, ev.StopRequested):
            requested = requested or entry
        elif isinstance(entry, ev.ExceptionRaised):
            raised = entry
        is_over = is_over or isinstance(entry, ev.FitEnd | ev.TrainEnd | ev.Teardown)
        event = entry if isinstance(entry, Event) else event
    if not entries:
        return Ending("empty", "there are no events")
    if raised is not None and raised.signal:
        return Ending("signal", f"{raised.signal} came", **at)
    if raised is not None:
        return Ending("raised", ": ".join(filter(None, (raised.error, raised.message))), **at)
    if stop is not None:
        asked, event = stop
        return Ending("stopped", asked.reason, asked.key, event.epoch, event.step, event.seconds)
    if requested is not None:
        return Ending("stopped", requested.reason, None, requested.epoch, requested.step, requested.seconds)
    if is_over:
        return Ending("finished", limits or "all was done", **at)
    return Ending("cut off", "the recording has no end: the run was killed, or it goes on", **at)


def _files(entries: Entries) -> tuple[File, ...]:
    asked: dict[str, tuple[ef.Save, Event, Mapping[str, float]]] = {}
    metrics: dict[str, float] = {}
    files: dict[str, File] = {}
    event = Event()
    for entry in entries:
        if isinstance(entry, ev.Saved):
            save, at, known = asked.get(entry.requested, (ef.Save(entry.requested), entry, dict(metrics)))
            hook = hook_name(type(at))
            files[entry.path] = File(entry.path, at.epoch, at.step, save.key, hook, entry.bytes, entry.took, known)
        elif isinstance(entry, ef.Save):
            asked[entry.path] = (entry, event, dict(metrics))
        elif isinstance(entry, ef.Delete) and entry.path in files:
            files[entry.path] = attrs.evolve(files[entry.path], kept=False)
        elif isinstance(entry, ev.ValidationEnd | ev.TrainEpochEnd):
            metrics |= known_metrics(entry)
        if isinstance(entry, Event) and not isinstance(entry, ev.SaveCheckpoint | ev.Saved):
            event = entry
    return tuple(files.values())


def _left_out(entries: Entries) -> Iterable[str]:
    """Batches and rests of epochs that callbacks had left out, and updates that step hooks did."""
    batches, rests = Counter[str](), Counter[str]()
    counts: dict[str, float] = {}
    for entry in entries:
        if isinstance(entry, ef.Skip):
            batches[entry.key or "a callback"] += 1
        elif isinstance(entry, ef.StopEpoch):
            rests[entry.key or "a callback"] += 1
        elif isinstance(entry, ev.TrainBatchEnd):
            known = known_metrics(entry)
            counts |= {name: known[name] for name in ("skipped", "skipped_updates") if name in known}
    yield from (f"{key} had {n} batch{'es' * (n > 1)} left out" for key, n in batches.items())
    yield from (f"{key} had the rest of {n} epoch{'s' * (n > 1)} left out" for key, n in rests.items())
    for name, n in counts.items():
        if isfinite(n) and n > 0:
            yield f"{n:.0f} update{'s' * (n > 1)} of the weights left out inside the step (metric {name!r})"


def _unwritten(entries: Entries) -> Iterable[str]:
    """Checkpoints that were asked for and that no `Saved` answers."""
    asked: dict[str, tuple[ef.Save, Event]] = {}
    for event, effects in asked_at(entries):
        if isinstance(event, ev.Saved):
            asked.pop(event.requested, None)
        asked |= {effect.path: (effect, event) for effect in effects if isinstance(effect, ef.Save)}
    for save, at in asked.values():
        yield (
            f"{save.key or 'a callback'} asked for {save.path} at epoch {at.epoch}, step {at.step}, and it was not "
            "written: parameters were not finite, or the run ended first"
        )
