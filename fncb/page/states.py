"""What each callback remembered at each event: a recording folded again, and compared with what it holds."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from fncb.callback import Callback
from fncb.effects import Effect
from fncb.hindsight import Moment, heard_by, history
from fncb.live import recorded_fields
from fncb.page.plain import SAME, cut, patch, plain
from fncb.recording import Recording

Asked = Mapping[int, Sequence[Effect]]
"""Effects by the number of the event at which they were asked for."""


def changes_of(callback: Callback[Any], recording: Recording) -> list[int]:
    """The numbers of the events that change a callback's state, up to one at which it raises."""
    changed, state = [], None
    try:
        state = callback.init()
        for i, moment in _folded(callback, recording):
            if moment.state is not state:
                changed.append(i)
                state = moment.state
    except Exception:  # whatever a hook raises: `told` tells of it
        pass
    return changed


def told(callback: Callback[Any], recording: Recording, recorded: Asked | None, shown: Sequence[int]) -> dict[str, Any]:
    """A callback's first state, what changed it, and whether it asked for what the recording holds.

    Args:
      callback: a single one.
      recording: what it hears.
      recorded: what it asked for in the recorded run; None if that is not known.
      shown: the numbers of the events that a page shows, in order. A change at another is told at the next of them.

    Returns:
      `known`, whether it could be folded at all; `init`, the first state; `at` and `patches`, which are of
      `page.plain`; `asked`, how many effects folding gave; `failed`, None or the event `at` which folding ended and
      `why`; `compared`, whether it is known what was recorded; and `differs`, None or the first event at which other
      effects came than were recorded, with both.
    """
    events = recording.events
    at, patches, asked = array("I"), [], {}
    failed = None
    try:
        first = base = waiting = callback.init()
        moments = _folded(callback, recording)
    except Exception as error:  # whatever goes wrong is told, and the other callbacks go on
        return _untold(sentence(error))
    where = due = -1
    try:
        for where, moment in moments:
            if moment.effects:
                asked[where] = moment.effects
            if moment.state is waiting:
                continue
            position = bisect_left(shown, where)
            if position != due:
                _note(at, patches, due, base, waiting)
                base, due = waiting, position
            waiting = moment.state
    except Exception as error:  # likewise: a hook may raise anything
        where = next(i for i, event in enumerate(events) if i > where and callback.hears(type(event)))
        failed = {"at": bisect_left(shown, where), "why": sentence(error)}
    _note(at, patches, due, base, waiting)
    folded = range(where if failed else len(events))
    differs = None if recorded is None else _first_difference(recorded, asked, folded, len(events) - 1)
    return {
        "known": True,
        "init": plain(first),
        "at": at,
        "patches": patches,
        "asked": sum(map(len, asked.values())),
        "failed": failed,
        "compared": recorded is not None,
        "differs": differs and {**differs, "at": bisect_left(shown, differs["at"])},
    }


def _untold(why: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {"known": False, "init": None, "at": array("I"), "patches": [], "asked": 0}
    return {**nothing, "failed": {"at": 0, "why": why}, "compared": False, "differs": None}


def sentence(error: BaseException) -> str:
    """What an exception says, with the notes that were added to it, such as where it was raised.

    Example:
      >>> sentence(ValueError("no metric 'acc'"))
      "ValueError: no metric 'acc'"
    """
    notes = getattr(error, "__notes__", [])
    return cut(" ".join([f"{type(error).__name__}: {error}", *map(str, notes)]), 600)


def _folded(callback: Callback[Any], recording: Recording) -> Iterator[tuple[int, Moment[Any]]]:
    """Number and moment of the events that a callback hears, which `history` gives for all."""
    heard = heard_by(callback)
    numbers = [i for i, event in enumerate(recording.events) if type(event) in heard]
    events = recording.events
    some = attrs.evolve(recording, entries=tuple([events[i] for i in numbers]))
    return zip(numbers, history(callback, some), strict=True)


def _note(at: array[int], patches: list[Any], position: int, base: Any, state: Any) -> None:
    change = SAME if position < 0 else patch(base, state)
    if change is not SAME:
        at.append(position)
        patches.append(change)


def _first_difference(recorded: Asked, asked: Asked, folded: range, last: int) -> dict[str, Any] | None:
    for i in sorted({*recorded, *asked}):
        if i not in folded:
            return None
        there, here = list(recorded.get(i, ())), list(asked.get(i, ()))
        if i == last:
            here = here[: len(there)]  # the file may end before all that was asked for at its last event
        if len(there) != len(here) or not all(map(_alike, there, here)):
            return {"at": i, "recorded": _text(there), "folded": _text(here)}
    return None


def _alike(one: Effect, other: Effect) -> bool:
    if type(one) is not type(other):
        return False
    return one == other or _fields(one) == _fields(other)  # such as two NaNs, and a tuple that was read as a list


def _fields(effect: Effect) -> list[Any]:
    return [plain(getattr(effect, field.name)) for field in recorded_fields(type(effect)) if field.eq]


def _text(effects: Sequence[Effect]) -> str:
    return cut(", ".join(map(repr, effects)) or "nothing", 400)
