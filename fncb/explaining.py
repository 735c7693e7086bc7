"""Why a run went as it did: what ended it, which checkpoint is best, what was left out, what changed which state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import attrs

from fncb import events as ev
from fncb.account import Account, File, account_of, known_metrics
from fncb.callback import Callback
from fncb.events import Event, hook_name
from fncb.hindsight import Callbacks, history
from fncb.recalling import recalled
from fncb.recording import Recording, read
from fncb.snapshot import state_dict

_FRAME = (ev.InitStart, ev.InitEnd, ev.Setup, ev.SanityCheckStart, ev.SanityCheckEnd, ev.Teardown)
"""Events at which states are set up and put to rest, which explains nothing."""


@attrs.frozen
class BestFile:
    """The best checkpoint of a callback that writes them.

    Attributes:
      key: the callback's.
      monitor, mode: by what it chooses; None without a monitor, and then the newest counts.
      file: the best that was kept; None if there is none.
      value: its value of the monitored metric; None if it has none.
      why: a sentence.
    """

    key: str
    monitor: str | None
    mode: str | None
    file: File | None
    value: float | None
    why: str


@attrs.frozen
class Changes:
    """What changed the state of a callback.

    Attributes:
      key: the callback's.
      hooks: how many events changed it, by the hook that heard them; those of set-up, sanity check and teardown aside.
      last: the last one, None if there was none.
      fields: what that one changed: values before and after, by name.
      unknown: why this is not known; empty if it is.
    """

    key: str
    hooks: Mapping[str, int] = attrs.field(factory=dict)
    last: Event | None = None
    fields: Mapping[str, tuple[Any, Any]] = attrs.field(factory=dict)
    unknown: str = ""

    def __str__(self) -> str:
        if self.unknown:
            return f"{self.key}: {self.unknown}"
        if self.last is None:
            return f"{self.key}: nothing changed it"
        times = ", ".join(f"{n:,} by {hook}" for hook, n in self.hooks.items())
        fields = ", ".join(f"{name} {_short(a)} -> {_short(b)}" for name, (a, b) in self.fields.items())
        where = f"{hook_name(type(self.last))} at epoch {self.last.epoch}, step {self.last.step}"
        return f"{self.key}: {times}; last {where}: {fields}"


@attrs.frozen
class Explanation:
    """Why a run went as it did; prints as a text.

    Attributes:
      account: how far it came, how it ended, what it wrote and left out.
      best: the best checkpoint of each callback that writes them.
      changes: what changed the state of each callback.
    """

    account: Account = attrs.field(repr=False)
    best: tuple[BestFile, ...]
    changes: tuple[Changes, ...]

    def __str__(self) -> str:
        lines = [str(self.account.ending)]
        lines += [f"went on at epoch {epoch}, step {step}" for epoch, step in self.account.resumed]
        lines += [f"best checkpoint of {each.key}: {each.why}" for each in self.best]
        lines += [f"left out: {sentence}" for sentence in self.account.skipped]
        return "\n".join([*lines, *(f"state of {each}" for each in self.changes)])


def explain(run: Recording | str | Path, callbacks: Callbacks[Any] | None = None) -> Explanation:
    """Why a recorded run ended, which checkpoint is best and why, what was left out, what changed which state.

    Args:
      run: a recording, or its path.
      callbacks: those of the run, whose states are computed again. None makes them again from what the recording says
        of them; one that was made by hand or with a function cannot be, and then its states are not known.

    Raises:
      DamagedRecording, ValueError: as `read`.

    Example:
      >>> from fncb.effects import Stop
      >>> entries = (
      ...     *(ev.ValidationEnd(epoch=i, step=9 * i + 9, metrics={"val_loss": x}) for i, x in enumerate((0.5, 0.7))),
      ...     Stop("val_loss has not improved on 0.5 in 1 check", key="early_stop(val_loss)"),
      ...     ev.FitEnd(step=18),
      ... )
      >>> made_of = {"early_stop(val_loss)": "early_stop('val_loss', patience=1)"}
      >>> print(explain(Recording({"callbacks": made_of}, entries)))
      stopped by early_stop(val_loss) at epoch 1, step 18: val_loss has not improved on 0.5 in 1 check
      state of early_stop(val_loss): 2 by on_validation_end; last on_validation_end at epoch 1, step 18: stale 0 -> 1, \
reason None -> 'patience', stopped_epoch None -> 1, \
reason_message None -> 'val_loss has not improved on 0.5 in 1 check', validated 0 -> 1
    """
    recording = run if isinstance(run, Recording) else read(run)
    account = account_of(recording)
    configs = recording.header.get("configs", {})
    best = [_best(key, config, account, recording) for key, config in configs.items() if "dirpath" in config]
    return Explanation(account, tuple(best), tuple(_changes(recording, callbacks)))


def _best(key: str, config: Mapping[str, Any], account: Account, recording: Recording) -> BestFile:
    monitor, mode = config.get("monitor"), config.get("mode")
    written = [file for file in account.files if file.key == key or file.key is None]
    kept = [file for file in written if file.kept]
    if not kept:
        why = "none was written" if not written else f"none of {len(written)} was kept"
        return BestFile(key, monitor, mode, None, None, why)
    if monitor is None:
        newest = max(kept, key=lambda file: file.step)
        return BestFile(key, None, None, newest, None, f"{newest.path}, the newest of {len(kept)} kept: no monitor")
    scored = [(file.metrics[monitor], file) for file in kept if isfinite(file.metrics.get(monitor, float("nan")))]
    if not scored:
        return BestFile(key, monitor, mode, None, None, f"{monitor} was not known when {len(kept)} were written")
    pick, least = (min, "least") if mode == "min" else (max, "most")
    value, file = pick(scored, key=lambda pair: pair[0])
    seen = [(x, at) for x, at in _values(monitor, recording)]
    why = f"{file.path}, {monitor} {value:.6g} at epoch {file.epoch}, step {file.step}"
    missed = pick(seen, key=lambda pair: pair[0], default=(value, None))
    if missed[1] is not None and missed[0] != value and pick(missed[0], value) == missed[0]:
        at = missed[1]
        why += f"; {missed[0]:.6g} at epoch {at.epoch}, step {at.step} was better, and nothing was kept of it"
    else:
        why += f", the {least} of {len(seen)} checks"
    return BestFile(key, monitor, mode, file, value, why)


def _values(monitor: str, recording: Recording) -> Iterator[tuple[float, Event]]:
    for event in ev.outside_sanity_checks(recording.events):
        if isinstance(event, ev.ValidationEnd):
            value = known_metrics(event).get(monitor)
            if value is not None and isfinite(value):
                yield value, event


def _changes(recording: Recording, callbacks: Callbacks[Any] | None) -> Iterator[Changes]:
    for each in recalled(recording.header, callbacks):
        yield Changes(each.key, unknown=each.why) if each.callback is None else _changes_of(each.callback, recording)


def _changes_of(callback: Callback[Any], recording: Recording) -> Changes:
    hooks, last, before, after = Counter[str](), None, None, None
    state = callback.init()
    try:
        for moment in history(callback, recording):
            if moment.state is not state and not isinstance(moment.event, _FRAME):
                hooks[hook_name(type(moment.event))] += 1
                last, before, after = moment.event, state, moment.state
            state = moment.state
    except (ValueError, AttributeError, LookupError) as error:  # what is not recorded, and who needs it
        return Changes(callback.key, unknown=f"{error}")
    return Changes(callback.key, hooks, last, {} if last is None else _differences(before, after))


def _differences(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    a, b = (state_dict(state) for state in (before, after))
    if not isinstance(a, dict) or not isinstance(b, dict):
        return {"state": (a, b)}
    return {name: (a.get(name), b.get(name)) for name in {**a, **b} if a.get(name) != b.get(name)}


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
