"""How an event or an effect is written down, and how it is read again.

A record is written as a JSON array of its fields, in the order of its class, live fields of events left out and those
of effects noted by their shapes. Fields that are added to a class later come last and have a default, so that older
arrays are shorter and can be read. Before format 2 it was an object of the fields that differ from their defaults.

Numbers that are not finite are written as strings; in fields whose type does not tell them from text, as `"!inf"`, and
text that begins with `!` has one more. Metrics that were not recorded are null.
"""

import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import isfinite
from operator import itemgetter
from typing import Any

import attrs
import msgspec

from fncb import effects as ef
from fncb.effects import Effect
from fncb.events import HOOKS, Event, Metrics
from fncb.live import is_live, recorded_fields
from fncb.metrics import Unrecorded

_ANYTHING = (Any, Mapping[str, Any])
_FACTORY: Any = type(attrs.Factory(dict))
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines


@attrs.frozen
class Notation:
    """How records of one class are written and read.

    Attributes:
      cls: the class.
      take: gives the values of the fields that are written, from an event's `__dict__`, which is fast, or an effect;
        of an effect's live field it gives the shape.
      decode: reads an array, fills in defaults and checks types.
      decode_named: the same of an object, as format 1 had it.
      live: the fields that are live.
      names: of the fields.
      metrics: where among the values an event's metrics are; None for a class without.
      loose: the fields that hold any plain data.
      is_rare: whether values are spelled out one by one: of effects, and of what has loose fields.
    """

    cls: type[Event | Effect]
    take: Callable[[Any], tuple[Any, ...]]
    decode: Callable[[bytes], Any]
    decode_named: Callable[[bytes], Any]
    names: tuple[str, ...]
    live: tuple[str, ...]
    metrics: int | None
    loose: tuple[str, ...]
    is_rare: bool

    def write(self, values: tuple[Any, ...]) -> bytes:
        """The JSON of a record from which `values` were taken.

        Example:
          >>> notation = notation_of(ef.SetLR)
          >>> notation.write(notation.take(ef.SetLR(float("inf"), key="warm_up")))
          b'["warm_up","inf",null,null]'
        """
        return _encode(self.spelled(values))

    def spelled(self, values: tuple[Any, ...]) -> list[Any]:
        """Values as plain data that JSON can hold."""
        return [_plain(value, name in self.loose) for name, value in zip(self.names, values, strict=True)]

    def read(self, fields: bytes) -> Event | Effect:
        """The record, equal to the one that was written.

        Raises:
          msgspec.DecodeError: for unknown or missing fields and wrong types.

        Example:
          >>> notation_of(ef.SetLR).read(b'["warm_up","inf",null,null]')
          SetLR(lr=inf, group=None, optimizer=None)
        """
        decode = self.decode if fields[:1] == b"[" else self.decode_named
        given = msgspec.structs.asdict(decode(fields))
        for name in self.live:
            del given[name]
        for name in self.loose:
            given[name] = _told_apart(given[name])
        if self.metrics is not None and given["metrics"] is None:
            given["metrics"] = Unrecorded(f"{self.cls.__name__} at step {given['step']}")
        return self.cls(**given)


@cache
def notation_of(cls: type) -> Notation:
    """How records of a class are written.

    Raises:
      TypeError: if it is no class of events or effects.
    """
    if not issubclass(cls, Event | Effect):
        raise TypeError(f"record: every record must be an event or an effect, got one of class {cls.__name__}.")
    is_effect, hints = issubclass(cls, Effect), typing.get_type_hints(cls)
    fields: list[Any] = [field for field in (attrs.fields(cls) if is_effect else recorded_fields(cls)) if field.init]
    live = [field.name for field in fields if is_live(field)]

    def take_from_effect(effect: Effect) -> tuple[Any, ...]:
        values = ((field.name, getattr(effect, field.name)) for field in fields)
        return tuple(_shape(value) if name in live else value for name, value in values)

    metrics = next((i for i, field in enumerate(fields) if field.name == "metrics" and not is_effect), None)

    def form_of(field: "attrs.Attribute[Any]") -> tuple[Any, ...]:
        kind = list[int] | None if field.name in live else hints[field.name]
        optional = metrics is not None and field is fields[metrics]
        return (field.alias, kind | None if optional else kind, *_default(field))

    def decoder(array_like: bool) -> Callable[[bytes], Any]:
        forms = map(form_of, fields)
        form = msgspec.defstruct(cls.__name__, forms, kw_only=True, forbid_unknown_fields=True, array_like=array_like)
        return msgspec.json.Decoder(form, strict=False).decode  # not strict: "nan" is read as a float

    loose = tuple(field.alias for field in fields if field.name not in live and hints[field.name] in _ANYTHING)
    return Notation(
        cls=cls,
        take=take_from_effect if is_effect else itemgetter(*[field.name for field in fields]),
        decode=decoder(array_like=True),
        decode_named=decoder(array_like=False),
        names=tuple(field.alias for field in fields),
        live=tuple(field.alias for field in fields if field.name in live),
        metrics=metrics,
        loose=loose,
        is_rare=is_effect or bool(loose),
    )


def taken_from(record: Event | Effect) -> tuple[Notation, tuple[Any, ...]]:
    """What is written of a record: its notation and the values for it."""
    notation = notation_of(type(record))
    return notation, notation.take(record.__dict__ if isinstance(record, Event) else record)


def must_be_readable(notation: Notation, values: tuple[Any, ...]) -> None:
    """Raises `TypeError` for values that would be written and not be read again, naming what is wrong.

    Metrics that are on a device still are not looked at: that would wait for it.
    """
    if any(isinstance(value, Metrics) for value in values):
        return
    try:
        notation.decode(notation.write(values))
    except (TypeError, RuntimeError, msgspec.DecodeError) as error:
        raise TypeError(
            f"record: {notation.cls.__name__} must have fields of its types, got others: {error}."
        ) from None


def write_all(records: list[tuple[Notation, tuple[Any, ...]]]) -> list[bytes]:
    """The lines of many records, `["Class",[...]]` without the bracket that closes them, in one go."""
    lines, nulls = [], 0
    try:
        for notation, values in records:
            if notation.is_rare:
                values = notation.spelled(values)
                nulls += _encode(values).count(b"null")
            else:
                at = notation.metrics
                if at is not None and isinstance(metrics := values[at], Metrics):
                    values = (*values[:at], metrics.as_dict(), *values[at + 1 :])
                nulls += values.count(None)
            lines.append((notation.cls.__name__, values))
        written = _encode_lines(lines)
    except (TypeError, UnicodeEncodeError):
        written = None
    # What is rare is slow: msgspec writes null for numbers that are not finite, and refuses what is not plain.
    if written is None or written.count(b"null") != nulls:
        return [_line(*record) for record in records]
    return written.split(b"]\n")[:-1]  # nothing that is written has a newline in it


def _line(notation: Notation, values: tuple[Any, ...]) -> bytes:
    return b'["%s",%s' % (notation.cls.__name__.encode(), notation.write(values))


def notation_named(name: str) -> Notation | None:
    """How records of the class with a name are written; None if no such class is loaded. Nothing is imported."""
    if name in _BUILT_IN:
        return notation_of(_BUILT_IN[name])
    for effect in _subclasses(Effect):
        if effect.__name__ == name:
            return notation_of(effect)
    return None


_BUILT_IN: dict[str, type[Event | Effect]] = {
    **{name: cls for name, cls in vars(ef).items() if isinstance(cls, type) and issubclass(cls, Effect)},
    **{cls.__name__: cls for cls in HOOKS.values()},
}


def _subclasses(cls: type[Effect]) -> Iterator[type[Effect]]:
    for effect in reversed(cls.__subclasses__()):  # the class before its shadow, which attrs leaves for want of slots
        yield effect
        yield from _subclasses(effect)


def _default(field: "attrs.Attribute[Any]") -> tuple[Any, ...]:
    """The default of a field, in a tuple that is empty if it has none."""
    default: Any = field.default
    if default is attrs.NOTHING:
        return ()
    made = default.factory() if isinstance(default, _FACTORY) else default
    return ({} if type(made) is Metrics else made,)


def _plain(value: Any, loose: bool = False) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if isfinite(value) else "!" * loose + str(float(value))
    if isinstance(value, str):
        value = "!" + value if loose and value.startswith("!") else value
        return value if value.isascii() else value.encode(errors="replace").decode()  # half a surrogate pair is no text
    if isinstance(value, Mapping):
        return {_plain(name): _as_number(each) if not loose else _plain(each, True) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, loose) for each in value]
    if hasattr(value, "item"):  # a 0-d tensor or array; waits for the device
        return _plain(value.item(), loose)
    raise TypeError(f"record: a field must be plain, got {value!r}. Declare it live, or make it a number or a string.")


def _as_number(value: Any) -> Any:
    """A value of a mapping of metrics, in which True is 1."""
    return int(value) if isinstance(value, bool) else _plain(value)


def _told_apart(value: Any) -> Any:
    """What `_plain` made of loose data, as it was."""
    if isinstance(value, str) and value.startswith("!"):
        return value[1:] if value.startswith("!!") else float(value[1:])
    if isinstance(value, dict):
        return {name: _told_apart(each) for name, each in value.items()}
    return [_told_apart(each) for each in value] if isinstance(value, list) else value


def _shape(value: Any) -> list[int] | None:
    return list(value.shape) if hasattr(value, "shape") else None
