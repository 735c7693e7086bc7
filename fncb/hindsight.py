"""What callbacks make of events that are over: the same again, step by step, or had they been others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

from fncb.callback import Callback, compose
from fncb.effects import Delete, Effect, Save, Stop
from fncb.events import HOOKS, Event, SaveCheckpoint, Saved, StopRequested, hook_name
from fncb.recording import Recording, read

S = TypeVar("S")
Callbacks: TypeAlias = "Callback[S] | Iterable[Callback[Any]]"
Events: TypeAlias = "Iterable[Event] | Recording | str | Path"
"""Events made by hand, a recording, or the path of one."""


@attrs.frozen
class Replay(Generic[S]):
    """What became of events: the last state, and all effects in order."""

    state: S
    effects: tuple[Effect, ...]


@attrs.frozen
class Moment(Generic[S]):
    """An event, the state after it, and the effects that it brought."""

    event: Event
    state: S
    effects: tuple[Effect, ...]


def replay(callback: Callbacks[S], events: Events, state: S | None = None) -> Replay[S]:
    """Folds events through callbacks: no model, no data, no device.

    The events are taken exactly as they are: a recording has the `Saved` events that answered its run's `Save`s, a
    list made by hand has those that are in it.

    Args:
      callback: a callback, a composition or a list of callbacks, which is composed.
      events: events made by hand, a recording, or the path of one.
      state: the state to begin with; None is what `init` gives.

    Raises:
      ValueError: if a hook listens to events that the recording does not hold because nobody heard them then.

    Example:
      >>> from fncb.events import ValidationEnd
      >>> count = Callback(key="count", init=int, on_validation_end=lambda state, event: state + 1)
      >>> replay(count, [ValidationEnd(step=10), ValidationEnd(step=20)])
      Replay(state=2, effects=())
    """
    callback = _one(callback)
    heard = _heard(callback)
    if isinstance(events, str | Path):
        events = read(events, only=[kind.__name__ for kind in heard])
    state = callback.init() if state is None else state
    _must_hold("replay", events, callback, heard)
    transition, effects = callback.transition, []
    entries: Any = events.entries if isinstance(events, Recording) else events
    for event in entries:
        if type(event) in heard:  # so effects and what nobody hears cost next to nothing
            state, asked = transition(state, event)
            if asked:
                effects.extend(asked)
    return Replay(state, tuple(effects))


def history(callback: Callbacks[S], events: Events, state: S | None = None) -> Iterator[Moment[S]]:
    """Every event with the state after it and the effects that it brought. Arguments and errors as of `replay`.

    Example:
      >>> from fncb.events import TrainEnd, ValidationEnd
      >>> count = Callback(key="count", init=int, on_validation_end=lambda state, event: state + 1)
      >>> [moment.state for moment in history(count, [ValidationEnd(), TrainEnd(), ValidationEnd()])]
      [1, 1, 2]
    """
    callback = _one(callback)
    if isinstance(events, str | Path):
        events = read(events)
    _must_hold("history", events, callback, _heard(callback))
    events = events.events if isinstance(events, Recording) else events
    return _moments(callback.transition, events, callback.init() if state is None else state)


def _moments(transition: Callable[..., Any], events: Iterable[Event], state: Any) -> Iterator[Moment[Any]]:
    for event in events:
        state, effects = transition(state, event)
        yield Moment(event, state, effects)


@attrs.frozen
class Outcome:
    """What one alternative would have done.

    Attributes:
      epoch, step, seconds: of the event at which it first asked to stop; None if it never did.
      reason: why it would have stopped; None if it never did.
      saved: the files that it would have written, in order.
      kept: those of them that it would not have deleted.
    """

    epoch: int | None = None
    step: int | None = None
    seconds: float | None = None
    reason: str | None = None
    saved: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@attrs.frozen
class WhatIf:
    """The outcome of each alternative by name; prints as a table."""

    outcomes: Mapping[str, Outcome]

    def __getitem__(self, name: str) -> Outcome:
        return self.outcomes[name]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("", "stops at", "seconds", "saves", "keeps", "reason")]
        for name, out in self.outcomes.items():
            at = ("never", "") if out.reason is None else (f"epoch {out.epoch}, step {out.step}", f"{out.seconds:.1f}")
            rows.append((name, *at, str(len(out.saved)), str(len(out.kept)), out.reason or ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def whatif(events: Events, alternatives: Mapping[str, Callbacks[Any]]) -> WhatIf:
    """What other callbacks would have done in a run: when they had stopped it, what they had saved and kept.

    Each alternative begins with its first state and is fed the events up to the one at which it asks to stop. Its own
    `Save`s and `Stop` are answered as a run answers them, and the answers to the recorded run's are left out. What
    would have changed the numbers themselves, another learning rate for example, can't be known from a recording: the
    metrics stay as they are, and after the recorded run's end there is nothing.

    Args:
      events: events made by hand, a recording, or the path of one.
      alternatives: by name, callbacks, compositions or lists of callbacks.

    Raises:
      ValueError: as `replay`.

    Example:
      >>> from fncb.callback import emit
      >>> from fncb.events import ValidationEnd
      >>> def stop_at(step):
      ...     def on_validation_end(state, event):
      ...         return emit(state, Stop(f"step {step}")) if event.step >= step else state
      ...     return Callback(key="stop_at", on_validation_end=on_validation_end)
      >>> print(whatif([ValidationEnd(step=i) for i in (1, 2, 3)], {"early": stop_at(2), "late": stop_at(9)}))
             stops at         seconds  saves  keeps  reason
      early  epoch 0, step 2  0.0      0      0      step 2
      late   never                     0      0
    """
    callbacks = {name: _one(each) for name, each in alternatives.items()}
    if isinstance(events, str | Path):
        events = read(events)
    for callback in callbacks.values():
        _must_hold("whatif", events, callback, _heard(callback) - _ANSWERS)
    events = events.events if isinstance(events, Recording) else events
    facts = [event for event in events if type(event) not in _ANSWERS]
    return WhatIf({name: _outcome(callback, facts) for name, callback in callbacks.items()})


_ANSWERS = {Saved, SaveCheckpoint, StopRequested}


def _outcome(callback: Callback[Any], events: Iterable[Event]) -> Outcome:
    state, stopped = callback.init(), Outcome()
    saved: list[str] = []
    kept: dict[str, None] = {}
    for happened in events:
        now = {"epoch": happened.epoch, "step": happened.step, "seconds": happened.seconds}
        queue = deque([happened])
        while queue:
            state, effects = callback.transition(state, queue.popleft())
            for effect in effects:
                if isinstance(effect, Save):
                    path = _free(effect.path, kept)
                    saved.append(path)
                    kept[path] = None
                    queue.append(Saved(**now, path=path, requested=effect.path))
                elif isinstance(effect, Delete):
                    kept.pop(effect.path, None)
                elif isinstance(effect, Stop) and stopped.reason is None:
                    stopped = Outcome(**now, reason=effect.reason)
                    queue.append(StopRequested(**now, reason=effect.reason))
        if stopped.reason is not None:
            break
    return attrs.evolve(stopped, saved=tuple(saved), kept=tuple(kept))


def _free(path: str, taken: Collection[str]) -> str:
    """The name that the file would have got: as asked for, or with `-v1`, `-v2`, ... before its suffix."""
    free, attempt, asked = path, 0, PurePath(path)
    while free in taken:
        attempt += 1
        free = str(asked.with_name(f"{asked.stem}-v{attempt}{asked.suffix}"))
    return free


def _one(callback: Callbacks[Any]) -> Callback[Any]:
    return callback if isinstance(callback, Callback) else compose(*callback)


def _heard(callback: Callback[Any]) -> set[type[Event]]:
    return {kind for kind in HOOKS.values() if callback.hears(kind)}


def _must_hold(who: str, events: object, callback: Callback[Any], heard: Collection[type[Event]]) -> None:
    if not isinstance(events, Recording) or "recorded" not in events.header:
        return
    for kind in HOOKS.values():
        if kind in heard and kind.__name__ not in events.header["recorded"]:
            keys = [part.key for part in callback.parts or (callback,) if part.hears(kind)]
            raise ValueError(
                f"{who}: {', '.join(keys)} must be given what {hook_name(kind)} hears, got a recording without it: "
                f"this recording holds no {kind.__name__} events, since nobody heard them. Record a run with a "
                "callback that does."
            )
