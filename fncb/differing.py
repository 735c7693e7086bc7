"""Where two runs part, and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isclose, isnan
from pathlib import Path, PurePath
from typing import Any

import attrs

from fncb import effects as ef
from fncb.effects import Effect
from fncb.events import Event, StepCompiled, hook_name
from fncb.hindsight import Events
from fncb.live import recorded_fields
from fncb.metrics import Unrecorded
from fncb.recording import Recording, read

_OF_THE_MACHINE = frozenset(("seconds", "waited", "took", "time", "bytes", "within", "dirpath"))
"""Fields that differ from one machine, minute or folder to the next; of paths the last part counts."""

_ONLY_SHOWN = (ef.Render, ef.Print, StepCompiled)


@attrs.frozen
class Difference:
    """What two runs have in common, and where they part.

    Attributes:
      same: how many events and effects are the same before that; all of them if the runs do not part.
      last: the last event that both have, or None.
      parts: whether they do.
      ours, theirs: the event or effect of each at which they do; None where a run has no more.
      fields: what is different about those, by name: our value and theirs. Metrics are named `metrics.val_loss`.
      only_ours, only_theirs: the keys of callbacks that only one of them has.
      configs: arguments of callbacks that both have, `key.argument`: our value and theirs.
    """

    same: int
    last: Event | None
    parts: bool
    ours: Event | Effect | None = None
    theirs: Event | Effect | None = None
    fields: Mapping[str, tuple[Any, Any]] = attrs.field(factory=dict)
    only_ours: tuple[str, ...] = ()
    only_theirs: tuple[str, ...] = ()
    configs: Mapping[str, tuple[Any, Any]] = attrs.field(factory=dict)

    def __str__(self) -> str:
        lines = [f"callbacks: {key} only in the first" for key in self.only_ours]
        lines += [f"callbacks: {key} only in the second" for key in self.only_theirs]
        lines += [f"callbacks: {name} is {a!r} against {b!r}" for name, (a, b) in self.configs.items()]
        if not self.parts:
            return "\n".join([*lines, f"the runs are the same: {self.same} events and effects"])
        since = "from the beginning" if self.last is None else f"after {_named(self.last)}"
        lines.append(f"the runs part {since}; {self.same} events and effects before that are the same")
        if type(self.ours) is type(self.theirs) and self.ours is not None:
            lines.append(f"both then have {_named(self.ours)}, with")
            lines += [f"  {name} {a!r} against {b!r}" for name, (a, b) in self.fields.items()]
        else:
            lines.append(f"  the first then has {_named(self.ours)}")
            lines.append(f"  the second then has {_named(self.theirs)}")
        return "\n".join(lines)


def diff(a: Events, b: Events, *, rtol: float = 0.0) -> Difference:
    """The first event or effect at which two runs are not the same.

    Left out of the comparison is what differs between any two runs: times, the sizes of files and the folders that they
    are in, what was only shown, and the classes of event that only one of the recordings holds.

    Args:
      a, b: recordings, their paths, or events made by hand.
      rtol: by how much floats may differ, relative to the larger one; 0.0 or more.

    Example:
      >>> from fncb.events import ValidationEnd
      >>> ours, theirs = ([ValidationEnd(step=s, metrics={"val_loss": x / s}) for s in (1, 2)] for x in (1.0, 1.0))
      >>> print(diff(ours, [theirs[0], ValidationEnd(step=2, metrics={"val_loss": 0.75})]))
      the runs part after on_validation_end at epoch 0, step 1; 1 events and effects before that are the same
      both then have on_validation_end at epoch 0, step 2, with
        metrics.val_loss 0.5 against 0.75
    """
    ours, theirs = (_read(each) for each in (a, b))
    kinds = [header.get("recorded") for header, _ in (ours, theirs)]
    left, right = (_comparable(entries, kinds) for _, entries in (ours, theirs))
    keys = _keys(ours[0], theirs[0])
    last: Event | None = None
    for i, (one, other) in enumerate(zip(left, right, strict=False)):
        fields = _fields(one, other, rtol)
        if fields or type(one) is not type(other):
            return Difference(i, last, True, one, other, fields, **keys)
        last = one if isinstance(one, Event) else last
    i = min(len(left), len(right))
    if len(left) != len(right):
        return Difference(i, last, True, _at(left, i), _at(right, i), **keys)
    return Difference(i, last, False, **keys)


def _at(entries: list[Event | Effect], i: int) -> Event | Effect | None:
    return entries[i] if i < len(entries) else None


def _read(events: Events) -> tuple[Mapping[str, Any], Iterable[Event | Effect]]:
    found = read(events) if isinstance(events, str | Path) else events
    return (found.header, found.entries) if isinstance(found, Recording) else ({}, found)


def _comparable(entries: Iterable[Event | Effect], recorded: list[Any]) -> list[Event | Effect]:
    shared = set.intersection(*map(set, recorded)) if all(recorded) else None
    return [
        entry
        for entry in entries
        if not isinstance(entry, _ONLY_SHOWN)
        and (shared is None or isinstance(entry, Effect) or type(entry).__name__ in shared)
    ]


def _fields(one: Any, other: Any, rtol: float) -> dict[str, tuple[Any, Any]]:
    """What is different about two records of one class."""
    if type(one) is not type(other):
        return {}
    found: dict[str, tuple[Any, Any]] = {}
    for field in recorded_fields(type(one)):
        if field.name in _OF_THE_MACHINE or (not field.eq and field.name != "key"):
            continue
        a: Any = getattr(one, field.name)
        b: Any = getattr(other, field.name)
        if field.name in ("path", "requested", "to"):
            a, b = PurePath(a).name, PurePath(b).name
        if field.name == "metrics" and not isinstance(a, Unrecorded) and not isinstance(b, Unrecorded):
            pairs = {name: (a.get(name), b.get(name)) for name in {**a, **b}}
            found |= {f"metrics.{name}": pair for name, pair in pairs.items() if not _alike(*pair, rtol)}
        elif not _alike(a, b, rtol):
            found[field.name] = (a, b)
    return found


def _alike(a: Any, b: Any, rtol: float) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (isnan(a) and isnan(b)) or isclose(a, b, rel_tol=rtol)
    return a == b


def _keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    mine: dict[str, Any] = ours.get("configs", {})
    others: dict[str, Any] = theirs.get("configs", {})
    configs: dict[str, tuple[Any, Any]] = {}
    for key in mine:
        if key in others:
            names = [name for name in {**mine[key], **others[key]} if name not in _OF_THE_MACHINE]
            pairs = {f"{key}.{name}": (mine[key].get(name), others[key].get(name)) for name in names}
            configs |= {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    return {
        "only_ours": tuple(key for key in mine if key not in others),
        "only_theirs": tuple(key for key in others if key not in mine),
        "configs": configs,
    }


def _named(entry: Event | Effect | None) -> str:
    if entry is None:
        return "nothing more"
    if isinstance(entry, Event):
        return f"{hook_name(type(entry))} at epoch {entry.epoch}, step {entry.step}"
    return f"{entry!r}"
