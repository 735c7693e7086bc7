"""Records as plain data, for JSON."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import attrs

from fncb.effects import Effect
from fncb.events import Event
from fncb.live import recorded_fields
from fncb.metrics import Unrecorded


def plain(value: Any) -> Any:
    """A value of dicts, lists, text, finite numbers, booleans and None.

    A record is a dict of its fields but the live ones; an event or effect has its class as `kind`. Numbers that are
    not finite are text, metrics that were not recorded None.

    Example:
      >>> from fncb.events import ValidationEnd
      >>> plain((ValidationEnd(step=3, metrics={"val_loss": float("inf")}),))
      [{'kind': 'ValidationEnd', 'epoch': 0, 'step': 3, 'seconds': 0.0, 'metrics': {'val_loss': 'inf'}, \
'epoch_is_over': False}]
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if isfinite(value) else str(float(value))
    if isinstance(value, Unrecorded):
        return None
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if attrs.has(type(value)):
        kind = {"kind": type(value).__name__} if isinstance(value, Event | Effect) else {}
        return kind | {name: plain(each) for name, each in fields_of(value).items()}
    return str(value)


def fields_of(record: Any) -> dict[str, Any]:
    """The fields of a record by name, but the live ones.

    Example:
      >>> from fncb.effects import Print
      >>> fields_of(Print("text"))
      {'key': None, 'text': 'text'}
    """
    return {field.name: getattr(record, field.name) for field in recorded_fields(type(record))}
