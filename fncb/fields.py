"""Checks of a record's fields when it is made, so that a slip is told where it was written."""

import difflib
from collections.abc import Mapping
from typing import Any

import attrs

from fncb import events as ev


def hook_names(record: object) -> list[str]:
    """The hooks that a record has, in the order of the events."""
    return [name for name in ev.HOOKS if getattr(record, name, None) is not None]


def must_be_callable(who: str, name: str, value: Any) -> None:
    """Raises `TypeError` unless a field holds a function."""
    if not callable(value):
        raise TypeError(f"{who}: {name} must be a function, got {value!r}.")


def refuse_unknown(cls: type, who: str, fields: Mapping[str, Any]) -> None:
    """Raises `TypeError` for a field that the record has not, with the one that was probably meant."""
    known = [field.name for field in attrs.fields(cls) if field.init]
    for name in fields:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else f" There are {', '.join(known)}."
            raise TypeError(f"{who}: every field must be a hook, got {name}.{hint}")
