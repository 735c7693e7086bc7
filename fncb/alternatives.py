"""What other callbacks would have done in a run that is over, and how far that can be known."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any

import attrs

from fncb import events as ev
from fncb.callback import Callback
from fncb.effects import CHANGE_NUMBERS, Delete, Effect, Log, Save, Stop
from fncb.events import Event, Saved, StopRequested, counters, hook_name
from fncb.hindsight import Callbacks, Events, heard_by, must_hold, one
from fncb.metrics import Unrecorded
from fncb.naming import free_name
from fncb.recording import Recording, asked_at, noted, read

_ANSWERS = {ev.Saved, ev.SaveCheckpoint, ev.StopRequested}
_MEASURED = {ev.ValidationEnd, ev.TrainEpochEnd}
_OF_THE_RUN = {*_MEASURED, ev.SanityCheckStart, ev.SanityCheckEnd, ev.TrainEnd, ev.FitEnd, ev.Teardown}


@attrs.frozen
class Best:
    """The best value of a monitored metric.

    Attributes:
      mode: "min" or "max".
      value: up to the end of the alternative, at `epoch` and `step`; None if there was none.
      of_run: in all of the recording.
      lost: how much better that is; 0.0 or more, None if there is no value.
    """

    mode: str
    value: float | None = None
    epoch: int | None = None
    step: int | None = None
    of_run: float | None = None
    lost: float | None = None


@attrs.frozen
class Deviation:
    """Where an alternative would have changed the training: what it did from there on was not recorded.

    Attributes:
      epoch, step: of the event; None from the very beginning.
      because: a word on what it would have done.
    """

    epoch: int | None
    step: int | None
    because: str


@attrs.frozen
class Outcome:
    """What one alternative would have done.

    Attributes:
      epoch, step, seconds: of the event at which it first asked to stop; None if it never did.
      reason: why it would have stopped; None if it never did.
      saved: the files that it would have written, in order.
      kept: those of them that it would not have deleted.
      epochs_saved: epochs that the run made after that; 0 if it never asked to stop.
      seconds_saved: seconds likewise.
      best: of each metric that it monitors.
      deviates: from where on the answer is an extrapolation; None if it is exact as far as the recording goes.
      is_open: whether the alternative would have gone on where the recorded run was stopped by what it replaces, so
        that what came next is not known.
    """

    epoch: int | None = None
    step: int | None = None
    seconds: float | None = None
    reason: str | None = None
    saved: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    epochs_saved: int = 0
    seconds_saved: float = 0.0
    best: Mapping[str, Best] = attrs.field(factory=dict)
    deviates: Deviation | None = None
    is_open: bool = False

    @property
    def holds(self) -> str:
        """How far the answer can be trusted, as a sentence.

        Example:
          >>> Outcome(deviates=Deviation(3, 57, "SetLR(lr=0.01)")).holds
          'exact up to epoch 3, step 57: there it would have done SetLR(lr=0.01); an extrapolation from there on'
        """
        at = self.deviates
        if at is not None and at.step is None:
            return f"an extrapolation from the beginning: it would have had {at.because}"
        if at is not None:
            where = f"epoch {at.epoch}, step {at.step}"
            return f"exact up to {where}: there it would have done {at.because}; an extrapolation from there on"
        if self.is_open:
            return "exact as far as the run went; it would have gone on, and nobody knows how"
        return "exact"


@attrs.frozen
class WhatIf:
    """The outcome of each alternative by name; prints as a table, with a line below for each that is not exact."""

    outcomes: Mapping[str, Outcome]

    def __getitem__(self, name: str) -> Outcome:
        return self.outcomes[name]

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for out in self.outcomes.values() for name in out.best))
        head = ("", "stops at", "saves epochs", "and seconds", *(f"best {n} (lost)" for n in names), "writes", "keeps")
        rows: list[tuple[str, ...]] = [(*head, "reason")]
        for name, out in self.outcomes.items():
            at = ("never", "", "") if out.reason is None else _stop_cells(out)
            best = [_best_cell(out.best.get(each)) for each in names]
            rows.append((name, *at, *best, str(len(out.saved)), str(len(out.kept)), out.reason or ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        notes = [f"{name}: {out.holds}." for name, out in self.outcomes.items() if out.holds != "exact"]
        return "\n".join([*lines, *([""] * bool(notes)), *notes])


def _stop_cells(out: Outcome) -> tuple[str, str, str]:
    return f"epoch {out.epoch}, step {out.step}", str(out.epochs_saved), f"{out.seconds_saved:.1f}"


def _best_cell(best: Best | None) -> str:
    if best is None or best.value is None:
        return ""
    return f"{best.value:.6g} ({best.lost:.3g})" if best.lost else f"{best.value:.6g}"


def whatif(events: Events, alternatives: Mapping[str, Callbacks[Any]]) -> WhatIf:
    """What other callbacks would have done in a run: when they had stopped it, what they had saved and kept.

    Each alternative begins with its first state and is fed the events up to the one at which it asks to stop. Its own
    `Save` and `Stop` are answered as a run answers them, and the answers to the recorded run's are left out. What it
    logs joins the metrics of later events.

    An alternative takes the place of the recorded callbacks that have its keys; all others are taken to be as they
    were. The answer is exact until it would have changed the training itself by other means than the callbacks that
    it replaces: another learning rate, for example, or other step hooks. From there on the metrics are those of a run
    that did not happen, and the outcome says so. After the recorded run's end there is nothing.

    Args:
      events: events made by hand, a recording, or the path of one.
      alternatives: by name, callbacks, compositions or lists of callbacks.

    Raises:
      ValueError: as `replay`.
      LiveFieldError, UnrecordedMetrics: if an alternative needs what is not recorded, naming it.

    Example:
      >>> from fncb.callbacks import early_stop
      >>> losses = [0.9, 0.5, 0.6, 0.7, 0.4, 0.8]
      >>> events = [ev.ValidationEnd(epoch=i, step=10 * i, metrics={"val_loss": x}) for i, x in enumerate(losses)]
      >>> print(whatif(events, {f"patience={n}": early_stop("val_loss", patience=n) for n in (2, 3)}))
                  stops at          saves epochs  and seconds  best val_loss (lost)  writes  keeps  reason
      patience=2  epoch 3, step 30  2             0.0          0.5 (0.1)             0       0      val_loss has not \
improved on 0.5 in 2 checks
      patience=3  never                                        0.4                   0       0
    """
    callbacks = {name: one(each) for name, each in alternatives.items()}
    if isinstance(events, str | Path):
        heard = {kind for callback in callbacks.values() for kind in heard_by(callback)}
        wanted = [*(heard | _OF_THE_RUN), *CHANGE_NUMBERS, Stop]
        events = read(events, only=[kind.__name__ for kind in wanted])
    for callback in callbacks.values():
        must_hold("whatif", events, callback, heard_by(callback) - _ANSWERS)
    known = _known(events)
    return WhatIf({name: _outcome(callback, known) for name, callback in callbacks.items()})


def grid(constructor: Callable[..., Callback[Any]], *args: Any, **settings: Any) -> dict[str, Callback[Any]]:
    """Alternatives for `whatif`: a callback for each combination of settings, by a name such as `patience=2`.

    Args:
      constructor: what makes the callback.
      *args: passed on.
      **settings: passed on; of those that are lists, tuples or ranges each value is tried with each of the others.

    Example:
      >>> from fncb.callbacks import early_stop
      >>> [*grid(early_stop, "val_loss", patience=[2, 5], min_delta=(0.0, 0.01), mode="min")]
      ['patience=2, min_delta=0.0', 'patience=2, min_delta=0.01', 'patience=5, min_delta=0.0', 'patience=5, \
min_delta=0.01']
    """
    axes = {name: values for name, values in settings.items() if isinstance(values, list | tuple | range)}
    fixed = {name: value for name, value in settings.items() if name not in axes}
    found = {}
    for chosen in product(*axes.values()):
        given = dict(zip(axes, chosen, strict=True))
        found[", ".join(f"{name}={value!r}" for name, value in given.items())] = constructor(*args, **fixed, **given)
    return found


@attrs.frozen
class _Known:
    """A run that is over: each event with the effects that were asked for at it, and what its callbacks were."""

    moments: list[tuple[Event, tuple[Effect, ...]]]
    configs: Mapping[str, Any]
    measured: list[Event]
    epochs: int
    seconds: float


def _known(events: Iterable[Event] | Recording) -> _Known:
    entries = events.entries if isinstance(events, Recording) else events
    facts = [(event, effects) for event, effects in asked_at(entries) if type(event) not in _ANSWERS]
    trained = [event.epoch + 1 for event, _ in facts if type(event) in _MEASURED]
    return _Known(
        moments=facts,
        configs=events.header.get("configs", {}) if isinstance(events, Recording) else {},
        measured=[each for each in ev.outside_sanity_checks(at for at, _ in facts) if type(each) in _MEASURED],
        epochs=max(trained, default=0),
        seconds=facts[-1][0].seconds if facts else 0.0,
    )


def _outcome(callback: Callback[Any], known: _Known) -> Outcome:
    state, stopped, deviates = callback.init(), Outcome(), _other_step_hooks(callback, known.configs)
    keys = {part.key for part in callback.parts or (callback,)}
    saved: list[str] = []
    kept: dict[str, None] = {}
    logged: dict[str, float] = {}
    stopped_at: int | None = None  # the step at which the recorded run was stopped by what is replaced
    happened: Any
    for happened, recorded in known.moments:
        now = counters(happened)
        queue, mine = deque([happened]), []
        while queue:
            event: Any = queue.popleft()
            if logged and hasattr(event, "metrics"):
                event = attrs.evolve(event, metrics=event.metrics.with_values(logged))
            state, effects = callback.transition(state, event)
            for effect in effects:
                if isinstance(effect, Save):
                    path = str(free_name(effect.path, is_taken=lambda path: str(path) in kept))
                    saved.append(path)
                    kept[path] = None
                    queue.append(Saved(**now, path=path, requested=effect.path))
                elif isinstance(effect, Delete):
                    kept.pop(effect.path, None)
                elif isinstance(effect, Log) and not effect.only_to_sinks:
                    logged.update(effect.metrics)
                elif isinstance(effect, Stop) and stopped.reason is None:
                    stopped = Outcome(**now, reason=effect.reason)
                    queue.append(StopRequested(**now, reason=effect.reason))
                elif type(effect) in CHANGE_NUMBERS:
                    mine.append(effect)
        deviates = deviates or _deviation(happened, mine, recorded, keys)
        if stopped.reason is not None:
            break
        if stopped_at is not None and happened.step > stopped_at:
            stopped_at = None  # it went on all the same: it had to, or it was resumed
        if any(isinstance(effect, Stop) and effect.key in keys for effect in recorded):
            stopped_at = happened.step
    ended = stopped.reason is not None
    return attrs.evolve(
        stopped,
        saved=tuple(saved),
        kept=tuple(kept),
        epochs_saved=max(known.epochs - (stopped.epoch or 0) - 1, 0) if ended else 0,
        seconds_saved=round(known.seconds - (stopped.seconds or 0.0), 6) if ended else 0.0,
        best=_bests(callback, known, stopped),
        deviates=deviates,
        is_open=stopped_at is not None and not ended,
    )


def _deviation(event: Event, mine: list[Effect], recorded: tuple[Effect, ...], keys: set[str]) -> Deviation | None:
    """Whether the training would have been changed otherwise at an event than it was by the callbacks replaced.

    In a recording of format 1, effects have no keys: there, what is the same counts as recorded.
    """
    theirs = [
        effect
        for effect in recorded
        if type(effect) in CHANGE_NUMBERS and (effect.key in keys or (effect.key is None and effect in mine))
    ]
    if mine == theirs:
        return None
    what = next((effect for effect in mine if effect not in theirs), None)
    because = f"{what!r}" if what is not None else f"something else than {theirs[0]!r}"
    return Deviation(event.epoch, event.step, f"{because} at {hook_name(type(event))}")


def _other_step_hooks(callback: Callback[Any], configs: Mapping[str, Any]) -> Deviation | None:
    for part in callback.parts or (callback,):
        if part.step is not None and not _is_as_recorded(part.config, configs.get(part.key)):
            return Deviation(None, None, f"other step hooks ({part.key})")
    return None


def _is_as_recorded(config: Mapping[str, Any], recorded: Any) -> bool:
    return isinstance(recorded, Mapping) and recorded == noted(dict(config))


def _bests(callback: Callback[Any], known: _Known, stopped: Outcome) -> dict[str, Best]:
    found: dict[str, Best] = {}
    for part in callback.parts or (callback,):
        monitor, mode = part.config.get("monitor"), part.config.get("mode")
        if isinstance(monitor, str) and mode in ("min", "max") and monitor not in found:
            best = _best(monitor, mode, known, stopped)
            if best is not None:
                found[monitor] = best
    return found


def _best(monitor: str, mode: str, known: _Known, stopped: Outcome) -> Best | None:
    values: list[tuple[float, Event]] = []
    for event in known.measured:
        metrics: Any = getattr(event, "metrics", {})
        if not isinstance(metrics, Unrecorded) and monitor in metrics and isfinite(metrics[monitor]):
            values.append((metrics[monitor], event))
    if not values:
        return None
    pick = min if mode == "min" else max
    of_run = pick(value for value, _ in values)
    until = [
        (value, event)
        for value, event in values
        if stopped.step is None or (event.step, event.seconds) <= (stopped.step, stopped.seconds or 0.0)
    ]
    if not until:
        return Best(mode, of_run=of_run)
    value, at = pick(until, key=lambda pair: pair[0])
    return Best(mode, value, at.epoch, at.step, of_run, abs(of_run - value))
