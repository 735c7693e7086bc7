"""What callbacks went through while a run was under way, and in what a replay of its recording differs from that."""

import math
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest

from fncb import events as ev
from fncb import loop
from fncb.callback import compose
from fncb.hindsight import history, replay
from fncb.live import recorded_fields
from fncb.recording import read
from fncb.session import Session


@attrs.frozen
class Lived:
    """An event or effect that was recorded, as it was, and the states by key that were there after its event.

    What came after the moment that a checkpoint is of and belongs to it all the same, as does what interrupted the run,
    is recorded once more when it goes on from there: then the states are None, and so is the entry until it is found
    among all that ever was. Of an event that was not made, it is only known `between` which seconds it was.
    """

    entry: Any
    states: Mapping[str, Any] | None
    between: tuple[float, float] | None = None


class Tape:
    """What went into recordings, kept beside them as it was.

    Attributes:
      lives: by the path of a recording, what was lived; a resumed run goes on where it was saved, as a recording does.
      session: the last one there was.
      ever: all events and effects, of runs that others went on before the end of too.
      sizes: by the path of a checkpoint, the recording's size in bytes when it was heard to be on disk.
      gone_on_from: what the checkpoint that is being loaded tells of its recording.
    """

    def __init__(self):
        self.lives: dict[Any, list[Lived]] = {}
        self.ever: list[Any] = []
        self.sizes: dict[Path, int] = {}
        self.session: Any = None
        self.gone_on_from: Any = None

    def keep(self, path, lines, event, effects, states, between=None):
        """Keeps an event and its effects, the last of so many lines of a recording."""
        lived = self.lives.setdefault(path, [])
        if lived and self.gone_on_from is not None:
            first = self.gone_on_from["lines"]
            lived[first:] = [Lived(None, None)] * (lines - 1 - len(effects) - first)
        self.gone_on_from = None
        if isinstance(event, ev.Saved):
            self.sizes[Path(event.path)] = path.stat().st_size
        lived += [Lived(each, states, between) for each in (event, *effects)]
        self.ever += [event, *effects]
        assert len(lived) == lines, "what a resumed run goes on after must have been lived"


class Watched(Session):
    """A session that keeps on a tape what it records."""

    def __init__(self, tape, *args, **settings):
        super().__init__(*args, **settings)
        self._tape, tape.session, tape.gone_on_from = tape, self, None
        write = self._journal.write

        def kept(event, effects):
            write(event, effects)
            if self._journal.wants(type(event)):
                tape.keep(self._journal.path, self._journal.lines, event, effects, self.state)

        self._journal.write = kept

    def record_batch_end(self, epoch, step, batch_idx, metrics):
        """As `Session.record_batch_end`."""
        before = self.seconds
        super().record_batch_end(epoch, step, batch_idx, metrics)
        event = ev.TrainBatchEnd(epoch=epoch, step=step, batch_idx=batch_idx, metrics=metrics.with_values(self.logged))
        between = before - 1e-6, self.seconds + 1e-6  # it is rounded to microseconds
        self._tape.keep(self._journal.path, self._journal.lines, event, (), self.state, between)

    def load(self, snapshot):
        """As `Session.load`."""
        self._tape.gone_on_from = snapshot["recorded"]
        return super().load(snapshot)


@contextmanager
def taped():
    """Has what the runs in this block record kept on a tape."""
    tape = Tape()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Session", partial(Watched, tape))
        yield tape


def faults(tape, callbacks, path, states=None):
    """In what a recording, and what callbacks make of it, differ from what was lived; at most ten of them.

    `states` are the last ones by key: what a run returned, or, where it raised, what its session was left with.
    """
    composed, recording, lived = compose(*callbacks), read(path), tape.lives[path]
    for i, (each, recorded) in enumerate(zip(lived, recording.entries, strict=False)):
        lived[i] = _settled(each, recorded, tape.ever)
    states = tape.session.state if states is None else states
    found = _unlike_entries([each.entry for each in lived], recording.entries)
    found += _unlike_at_events(composed, lived, recording)
    whole = replay(composed, path)
    asked = [each.entry for each in lived if not isinstance(each.entry, ev.Event)]
    found += unlike(states, whole.state, "state") + unlike(asked, [*whole.effects], "effects")
    for part in composed.parts or ():
        alone = replay(part, recording)
        mine = [each for each in asked if each.key == part.key]
        found += unlike((states[part.key], mine), (alone.state, [*alone.effects]), f"{part.key} alone")
    return found[:10]


def _settled(lived, recorded, ever):
    """What was lived, with what only the recording tells of it, if that can be."""
    if lived.entry is None:
        alike = [entry for entry in ever if type(entry) is type(recorded) and entry == recorded]
        return Lived(alike[0] if alike else Unknown(), None)
    if lived.between and isinstance(recorded, ev.Event) and lived.between[0] <= recorded.seconds <= lived.between[1]:
        return attrs.evolve(lived, entry=attrs.evolve(lived.entry, seconds=recorded.seconds), between=None)
    return lived


@attrs.frozen
class Unknown:
    """Stands for what was recorded and never was."""

    key: None = None


def _unlike_at_events(composed, lived, recording):
    """In what states and effects differ after each event."""
    found, moments = [], [*history(composed, recording)]
    starts = [i for i, each in enumerate(lived) if isinstance(each.entry, ev.Event)]
    if len(starts) != len(moments):
        return [f"history: {len(starts)} and {len(moments)} events"]
    alike: set[tuple[int, int]] = set()  # states that were compared already, which most are
    for (start, end), moment in zip(pairwise([*starts, len(lived)]), moments, strict=True):
        at = f"history/{start} {type(moment.event).__name__}"
        now, asked = lived[start].states, [each.entry for each in lived[start + 1 : end]]
        found += unlike((type(lived[start].entry), asked), (type(moment.event), [*moment.effects]), at)
        for key, state in (now or {}).items():
            if (id(state), id(moment.state[key])) not in alike:
                found += unlike(state, moment.state[key], f"{at}/{key}")
                alike.add((id(state), id(moment.state[key])))
    return found


def _unlike_entries(lived, recorded):
    """In what events and effects differ from those that were recorded."""
    found = unlike([type(each) for each in lived], [type(each) for each in recorded], "recorded")
    for i, pair in enumerate(zip(lived, recorded, strict=False)):
        one, other = map(told, pair)
        if not isinstance(pair[0], ev.Event):  # a whole number in a field for floats is read as one
            one, other = map(of_floats, (one, other))
        found += unlike(one, other, f"recorded/{i} {type(pair[0]).__name__}")
    return found


def told(entry):
    """The fields of an event or effect, but for those that are live."""
    return {field.name: getattr(entry, field.name) for field in recorded_fields(type(entry))}


def of_floats(value):
    """Plain data with each whole number as a float."""
    if isinstance(value, Mapping):
        return {name: of_floats(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(of_floats, value))
    return float(value) if type(value) is int else value


def unlike(one: Any, other: Any, at: str) -> list[str]:
    """Where two trees differ, to the bit, type and order of keys; NaN equals NaN."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if [*one] != [*other]:
            return [f"{at}: keys {[*one]} and {[*other]}"]
        return [each for key in one for each in unlike(one[key], other[key], f"{at}/{key}")]
    if type(one) is not type(other):
        return [f"{at}: {one!r} and {other!r}"]
    if attrs.has(type(one)):
        names = [field.name for field in attrs.fields(type(one)) if field.eq]
        return [each for name in names for each in unlike(getattr(one, name), getattr(other, name), f"{at}/{name}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            pairs = zip(one, other, strict=False)
            first = next((pair for pair in pairs if unlike(*pair, at)), (one[len(other) :], other[len(one) :]))
            return [f"{at}: {len(one)} and {len(other)} of them, first {first!r}"[:600]]
        pairs = zip(one, other, strict=True)
        return [each for i, pair in enumerate(pairs) for each in unlike(*pair, f"{at}/{i}")]
    return [] if repr(one) == repr(other) and (one == other or _is_nan(one)) else [f"{at}: {one!r} and {other!r}"]


def _is_nan(value):
    if isinstance(value, float):
        return math.isnan(value)
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    if attrs.has(type(value)):
        values = [getattr(value, field.name) for field in attrs.fields(type(value)) if field.eq]
    return any(map(_is_nan, values))
