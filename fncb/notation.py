"""How an event or an effect is written down, and how it is read again.

A record is written as a JSON object of those of its fields that differ from their defaults. Numbers that are not finite
are written as strings; in fields whose type does not tell them from text, as `"!inf"`, and text that begins with `!`
has one more. Live fields of events are left out, those of effects are noted by their shapes.
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
      form: the record as it is written: it omits defaults and fills them in, and tells types.
      decode: reads a form and checks it.
      live: the fields of the form that are live.
      metrics: where among the values the metrics are; None for a class without.
      loose: the fields of the form that hold any plain data.
    """

    cls: type[Event | Effect]
    take: Callable[[Any], tuple[Any, ...]]
    form: type[msgspec.Struct]
    decode: Callable[[bytes], Any]
    live: tuple[str, ...]
    metrics: int | None
    loose: tuple[str, ...]

    def write(self, values: tuple[Any, ...]) -> bytes:
        """The JSON of a record from which `values` were taken.

        Example:
          >>> notation = notation_of(ef.SetLR)
          >>> notation.write(notation.take(ef.SetLR(float("inf"))))
          b'{"lr":"inf"}'
        """
        return _encode(self._spelled(values))

    def formed(self, values: tuple[Any, ...]) -> msgspec.Struct:
        """The form of a record from which `values` were taken, as they are; its metrics are read."""
        at = self.metrics
        if self.loose:
            return self._spelled(values)
        return self.form(*values) if at is None else self.form(*values[:at], values[at].as_dict(), *values[at + 1 :])

    def _spelled(self, values: tuple[Any, ...]) -> msgspec.Struct:
        names = self.form.__struct_fields__
        return self.form(*[_plain(value, name in self.loose) for name, value in zip(names, values, strict=True)])

    def read(self, fields: bytes) -> Event | Effect:
        """The record, equal to the one that was written.

        Raises:
          msgspec.DecodeError: for unknown or missing fields and wrong types.

        Example:
          >>> notation_of(ef.SetLR).read(b'{"lr":"inf"}')
          SetLR(lr=inf, group=None, optimizer=None)
        """
        given = msgspec.structs.asdict(self.decode(fields))
        for name in self.live:
            del given[name]
        for name in self.loose:
            given[name] = _told_apart(given[name])
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
    fields = [field for field in attrs.fields(cls) if field.init and (is_effect or not field.metadata.get("live"))]
    live = [field.name for field in fields if field.metadata.get("live")]

    def take_from_effect(effect: Effect) -> tuple[Any, ...]:
        values = ((field.name, getattr(effect, field.name)) for field in fields)
        return tuple(_shape(value) if name in live else value for name, value in values)

    form = msgspec.defstruct(
        cls.__name__,
        [
            (field.alias, list[int] | None if field.name in live else hints[field.name], *_default(field))
            for field in fields
        ],
        omit_defaults=True,
        forbid_unknown_fields=True,
    )
    return Notation(
        cls=cls,
        take=take_from_effect if is_effect else itemgetter(*[field.name for field in fields]),
        form=form,
        decode=msgspec.json.Decoder(form, strict=False).decode,  # not strict: "nan" is read as a float
        live=tuple(field.alias for field in fields if field.name in live),
        metrics=next((i for i, field in enumerate(fields) if field.name == "metrics" and not is_effect), None),
        loose=tuple(field.alias for field in fields if field.name not in live and hints[field.name] in _ANYTHING),
    )


def write_all(records: list[tuple[Notation, tuple[Any, ...]]]) -> list[bytes]:
    """The lines of many records, `["Class",{...}]`, in one go."""
    try:
        written = _encode_lines([(notation.cls.__name__, notation.formed(values)) for notation, values in records])
    except (TypeError, UnicodeEncodeError):
        written = b"null"
    # What is rare is slow: msgspec writes null for numbers that are not finite, and refuses what is not plain.
    if b"null" in written:
        return [b'["%s",%s]' % (notation.cls.__name__.encode(), notation.write(values)) for notation, values in records]
    return written.split(b"\n")[:-1]


def notation_named(name: str) -> Notation:
    """How records of the class with a name are written. Nothing is imported: effects of others must be loaded.

    Raises:
      LookupError: if there is no such class.
    """
    if name in _BUILT_IN:
        return notation_of(_BUILT_IN[name])
    for effect in _subclasses(Effect):
        if effect.__name__ == name:
            return notation_of(effect)
    raise LookupError(f"there is no event or effect {name}; one of another package must be imported first")


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
        return {name: _plain(each, loose) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, loose) for each in value]
    if hasattr(value, "item"):  # a 0-d tensor or array; waits for the device
        return _plain(value.item(), loose)
    raise TypeError(f"record: a field must be plain, got {value!r}. Declare it live, or make it a number or a string.")


def _told_apart(value: Any) -> Any:
    """What `_plain` made of loose data, as it was."""
    if isinstance(value, str) and value.startswith("!"):
        return value[1:] if value.startswith("!!") else float(value[1:])
    if isinstance(value, dict):
        return {name: _told_apart(each) for name, each in value.items()}
    return [_told_apart(each) for each in value] if isinstance(value, list) else value


def _shape(value: Any) -> list[int] | None:
    return list(value.shape) if hasattr(value, "shape") else None
