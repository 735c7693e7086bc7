"""What callbacks make of events that are over: the same again, at once or event by event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, overload

import attrs

from fncb.callback import Callback, compose
from fncb.cards import DRAWN, card, curve_of, kept_files
from fncb.effects import Effect, Stop
from fncb.events import HOOKS, Event, hook_name
from fncb.recording import Recording, read

S = TypeVar("S")
Callbacks: TypeAlias = "Callback[S] | Iterable[Callback[Any]]"
Events: TypeAlias = "Iterable[Event] | Recording | str | Path"
"""Events made by hand, a recording, or the path of one."""


@attrs.frozen
class Replay(Generic[S]):
    """What became of events: the last state, and all effects in order. In a notebook it shows a card.

    Attributes:
      entries: what was folded, if it was not used up by that.
    """

    state: S
    effects: tuple[Effect, ...]
    entries: Sequence[Any] = attrs.field(default=(), eq=False, repr=False)

    def _repr_html_(self) -> str:
        stop = next((effect for effect in self.effects if isinstance(effect, Stop)), None)
        by = f" by {stop.key}" if stop is not None and stop.key else ""
        headline = f"asked to stop{by}: {stop.reason}" if stop is not None else "replayed to the end"
        files = kept_files([*self.entries, *self.effects])
        counts = Counter(type(effect).__name__ for effect in self.effects)
        facts = [f"{n} {name}" for name, n in counts.items()]
        return card(headline, curve_of(self.entries), files=files, facts=facts)


@attrs.frozen
class Moment(Generic[S]):
    """An event, the state after it, and the effects that it brought."""

    event: Event
    state: S
    effects: tuple[Effect, ...]


@overload
def replay(callback: Callback[S], events: Events, state: S | None = None) -> Replay[S]: ...
@overload
def replay(
    callback: Iterable[Callback[Any]], events: Events, state: Mapping[str, Any] | None = None
) -> Replay[Mapping[str, Any]]: ...
def replay(callback: Callbacks[Any], events: Events, state: Any = None) -> Replay[Any]:
    """Folds events through callbacks: no model, no data, no device.

    The events are taken exactly as they are: a recording has the `Saved` events that answered each `Save` of its run,
    a list made by hand has those that are in it.

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
    callback = one(callback)
    heard = heard_by(callback)
    if isinstance(events, str | Path):
        events = read(events, only=[*(kind.__name__ for kind in heard), *DRAWN])
    state = callback.init() if state is None else state
    must_hold("replay", events, callback, heard)
    transition, effects = callback.transition, []
    entries: Any = events.entries if isinstance(events, Recording) else events
    for event in entries:
        if type(event) in heard:  # so effects and what nobody hears cost next to nothing
            state, asked = transition(state, event)
            if asked:
                effects.extend(asked)
    return Replay(state, tuple(effects), entries if isinstance(entries, Sequence) else ())


@overload
def history(callback: Callback[S], events: Events, state: S | None = None) -> Iterator[Moment[S]]: ...
@overload
def history(
    callback: Iterable[Callback[Any]], events: Events, state: Mapping[str, Any] | None = None
) -> Iterator[Moment[Mapping[str, Any]]]: ...
def history(callback: Callbacks[Any], events: Events, state: Any = None) -> Iterator[Moment[Any]]:
    """Every event with the state after it and the effects that it brought. Arguments and errors as of `replay`.

    Example:
      >>> from fncb.events import TrainEnd, ValidationEnd
      >>> count = Callback(key="count", init=int, on_validation_end=lambda state, event: state + 1)
      >>> [moment.state for moment in history(count, [ValidationEnd(), TrainEnd(), ValidationEnd()])]
      [1, 1, 2]
    """
    callback = one(callback)
    if isinstance(events, str | Path):
        events = read(events)
    must_hold("history", events, callback, heard_by(callback))
    events = events.events if isinstance(events, Recording) else events
    return _moments(callback.transition, events, callback.init() if state is None else state)


def _moments(transition: Callable[..., Any], events: Iterable[Event], state: Any) -> Iterator[Moment[Any]]:
    for event in events:
        state, effects = transition(state, event)
        yield Moment(event, state, effects)


def one(callback: Callbacks[Any]) -> Callback[Any]:
    """A composition of what is given as several, or what is given as one."""
    return callback if isinstance(callback, Callback) else compose(*callback)


def heard_by(callback: Callback[Any]) -> set[type[Event]]:
    """The classes of event that a callback listens to."""
    return {kind for kind in HOOKS.values() if callback.hears(kind)}


def must_hold(who: str, events: object, callback: Callback[Any], heard: Collection[type[Event]]) -> None:
    """Raises `ValueError` if a recording leaves out a class of event that a callback listens to."""
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
