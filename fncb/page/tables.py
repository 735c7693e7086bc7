"""Records as columns, so that a hundred thousand of them take little room.

A table has one part for each class of record, and a column for each field that is not always as its class has it by
default. A column is `{"all": value}`, or `{"values": ...}` with a value for each record of the class, and with
`"rows"`, the records that have one, where not all have. What is no number is left out where it is as by default.
Numbers are arrays, which a page holds as bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import attrs

from fncb.account import known_metrics
from fncb.effects import Effect
from fncb.events import Event
from fncb.live import recorded_fields
from fncb.page.plain import LONGEST_NAME, cut, plain

_FACTORY: Any = type(attrs.Factory(dict))
_ELSEWHERE = ("epoch", "step", "seconds", "metrics", "key")
"""Fields that all have, which are columns of the table, and those that are mappings from name to number."""


def table_of(records: Sequence[Event | Effect]) -> dict[str, Any]:
    """The classes of records, the class of each, and for each class its columns.

    Example:
      >>> from fncb.events import ValidationEnd
      >>> table_of([ValidationEnd(metrics={"val_loss": x}) for x in (0.5, 0.25)])["parts"]
      [{'fields': [], 'metrics': [['val_loss', {'values': array('f', [0.5, 0.25])}]]}]
    """
    classes = {cls: i for i, cls in enumerate(dict.fromkeys(map(type, records)))}
    of_class: dict[type, list[Any]] = {cls: [] for cls in classes}
    for record in records:
        of_class[type(record)].append(record)
    return {
        "kinds": [cls.__name__ for cls in classes],
        "kind": array("B" if len(classes) < 256 else "H", [classes[type(record)] for record in records]),
        "parts": [_part(cls, of) for cls, of in of_class.items()],
    }


def metrics_of(record: Event | Effect) -> Mapping[str, float]:
    """The metrics of a record by name; none where it has none, they are live, or its recording left them out."""
    return known_metrics(record) if _has_metrics(type(record)) else {}


@cache
def _has_metrics(cls: type) -> bool:
    return any(field.name == "metrics" for field in recorded_fields(cls))


def numbers(values: Iterable[float]) -> array[float]:
    """Floats in four bytes each if that loses nothing, which is so for what comes from a device, else in eight."""
    wide = array("d", values)
    narrow = array("f", wide)
    return narrow if array("d", narrow).tobytes() == wide.tobytes() else wide


def _part(cls: type, records: Sequence[Any]) -> dict[str, Any]:
    columns = [
        (field.alias or field.name, _column([getattr(record, field.name) for record in records], field.default))
        for field in recorded_fields(cls)
        if field.name not in _ELSEWHERE
    ]
    return {
        "fields": [[cut(name, LONGEST_NAME), column] for name, column in columns if column],
        "metrics": _metric_columns(records),
    }


def _column(values: list[Any], default: Any) -> dict[str, Any] | None:
    """A column of values; numbers all, if any is not the default, and of others those that are not."""
    kinds = {*map(type, values)}
    if kinds == {int} and max(map(abs, values)) < 2**31:
        if len({*values}) > 1:
            return {"values": array("i", values)}
        return None if values[0] == default else {"all": values[0]}
    if kinds == {float}:
        return None if {*values} == {default} else {"values": numbers(values)}
    rows = array("I", [row for row, value in enumerate(values) if not _is_default(value, default)])
    if not rows:
        return None
    kept = [values[row] for row in rows]
    if len(rows) == len(values) and kinds <= {str, bool} and len({*values}) == 1:
        return {"all": plain(values[0])}
    return {"values": [plain(value) for value in kept], **_sparse(rows, len(values))}


def _is_default(value: Any, default: Any) -> bool:
    if value is default or (isinstance(value, bool | str) and type(value) is type(default) and value == default):
        return True
    return isinstance(value, Mapping) and not value and type(default) is _FACTORY


def _metric_columns(records: Sequence[Event | Effect]) -> list[list[Any]]:
    rows: dict[str, array[int]] = {}
    values: dict[str, array[float]] = {}
    for row, record in enumerate(records):
        for name, value in metrics_of(record).items():
            if name not in rows:
                rows[name], values[name] = array("I"), array("d")
            rows[name].append(row)
            values[name].append(value)
    return [
        [cut(str(name), LONGEST_NAME), {"values": numbers(values[name]), **_sparse(rows[name], len(records))}]
        for name in rows
    ]


def _sparse(rows: array[int], of: int) -> dict[str, Any]:
    return {} if len(rows) == of else {"rows": rows}
