"""How an event or an effect is written down, and how it is read again.

A record is written as a JSON object of those of its fields that differ from their defaults. Numbers that are not finite
are written as strings. Live fields of events are left out, those of effects are noted by their shapes.
"""

import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache, reduce
from math import isfinite
from operator import attrgetter
from typing import Any, Literal

import attrs
import msgspec

from fncb import effects as ef
from fncb.effects import Effect
from fncb.events import HOOKS, Event, Metrics


@attrs.frozen
class Notation:
    """How one class of event or effect is written and read.

    Attributes:
      cls: the class.
      defaults: the fields that are written, by the name that the constructor knows, and their defaults as written.
      take: gives the values of those fields; of an effect's live field its shape.
      live: those of the fields that are live.
      floats: those of the fields that hold floats.
      blank: the attributes of an event that was given nothing; None for an effect.
    """

    cls: type[Event | Effect]
    defaults: Mapping[str, Any]
    take: Callable[[Any], tuple[Any, ...]]
    live: tuple[str, ...]
    floats: tuple[str, ...]
    blank: Mapping[str, Any] | None

    def write(self, values: tuple[Any, ...]) -> bytes:
        """The JSON of a record from which `values` were taken.

        Example:
          >>> notation = notation_of(ef.SetLR)
          >>> notation.write(notation.take(ef.SetLR(float("inf"))))
          b'{"lr":"inf"}'
        """
        plain = zip(self.defaults.items(), map(_plain, values), strict=True)
        return msgspec.json.encode({name: value for (name, default), value in plain if value != default})

    def read(self, fields: bytes) -> Event | Effect:
        """The record, equal to the one that was written.

        Raises:
          msgspec.DecodeError: for unknown or missing fields and wrong types.

        Example:
          >>> notation_of(ef.SetLR).read(b'{"lr":"inf"}')
          SetLR(lr=inf, group=None)
        """
        given = msgspec.structs.asdict(_decoder(self.cls).decode(fields))
        if b'nan"' in fields or b'inf"' in fields:
            given |= {name: _as_floats(given[name]) for name in self.floats}
        if self.blank is None:
            return self.cls(**{name: value for name, value in given.items() if name not in self.live})
        if type(given.get("metrics")) is dict:
            given["metrics"] = Metrics(given["metrics"])
        event = object.__new__(self.cls)  # the constructor of a frozen record takes several times as long
        vars(event).update(self.blank)
        vars(event).update(given)
        return event


@cache
def notation_of(cls: type) -> Notation:
    """How records of a class are written."""
    if not issubclass(cls, Event | Effect):
        raise TypeError(f"record: every record must be an event or an effect, got one of class {cls.__name__}.")
    hints = typing.get_type_hints(cls)
    fields = [field for field in attrs.fields(cls) if field.init]
    live = [field for field in fields if field.metadata.get("live")]
    written = [field for field in fields if field not in live or issubclass(cls, Effect)]

    def take_from_effect(effect: Effect) -> tuple[Any, ...]:
        values = ((field, getattr(effect, field.name)) for field in written)
        return tuple(_shape(value) if field in live else value for field, value in values)

    return Notation(
        cls=cls,
        defaults={field.alias: _default(field) for field in written},
        take=take_from_effect if issubclass(cls, Effect) else attrgetter(*[field.name for field in written]),
        live=tuple(field.alias for field in written if field in live),
        floats=tuple(field.alias for field in written if float in _atoms(hints[field.name])),
        blank=None if issubclass(cls, Effect) else vars(cls()),
    )


def notation_named(name: str) -> Notation:
    """How records of the class with a name are written. Nothing is imported: effects of others must be loaded.

    Raises:
      LookupError: if there is no such class.
    """
    if name in _BUILT_IN:
        return notation_of(_BUILT_IN[name])
    for effect in _effects_of_others():
        if effect.__name__ == name:
            return notation_of(effect)
    raise LookupError(f"there is no event or effect {name}; one of another package must be imported first")


_BUILT_IN: dict[str, type[Event | Effect]] = {
    **{name: cls for name, cls in vars(ef).items() if isinstance(cls, type) and issubclass(cls, Effect)},
    **{cls.__name__: cls for cls in HOOKS.values()},
}


def _effects_of_others(cls: type[Effect] = Effect) -> Iterator[type[Effect]]:
    for effect in cls.__subclasses__():
        if "__attrs_attrs__" in vars(effect):  # attrs leaves an empty shadow of each class that it gives slots
            yield effect
        yield from _effects_of_others(effect)


@cache
def _decoder(cls: type) -> msgspec.json.Decoder[Any]:
    """Checks names and types, and fills in defaults."""
    notation, hints, fields = notation_of(cls), typing.get_type_hints(cls), []
    for field in attrs.fields(cls):
        if field.alias in notation.live:
            fields.append((field.alias, list[int] | None, None))
        elif field.alias in notation.defaults:
            required = field.default is attrs.NOTHING
            fields.append((field.alias, _on_file(hints[field.name]), *([] if required else [_made_anew(field)])))
    return msgspec.json.Decoder(msgspec.defstruct(cls.__name__, fields, kw_only=True, forbid_unknown_fields=True))


def _made_anew(field: "attrs.Attribute[Any]") -> Any:
    default: Any = field.default
    return msgspec.field(default_factory=default.factory if isinstance(default, attrs.Factory) else lambda: default)


def _default(field: "attrs.Attribute[Any]") -> Any:
    default: Any = field.default
    if default is attrs.NOTHING:
        return attrs.NOTHING
    return _plain(default.factory() if isinstance(default, attrs.Factory) else default)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if isfinite(value) else str(float(value))
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()  # half a surrogate pair is no text
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "item"):  # a 0-d tensor or array; waits for the device
        return _plain(value.item())
    raise TypeError(f"record: a field must be plain, got {value!r}. Declare it live, or make it a number or a string.")


def _shape(value: Any) -> list[int] | None:
    return list(value.shape) if hasattr(value, "shape") else None


def _as_floats(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_floats(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_as_floats, value))
    return float(value) if value in _NON_FINITE else value


_NON_FINITE = ("nan", "inf", "-inf")


def _atoms(hint: Any) -> set[Any]:
    inner = typing.get_args(hint)
    return {atom for each in inner for atom in _atoms(each)} if inner else {hint}


def _on_file(hint: Any) -> Any:
    """A type as it is written: JSON has no non-finite numbers, so these are strings."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is float:
        return float | Literal["nan", "inf", "-inf"]
    if not inner or origin is Literal:
        return hint
    inner = tuple(map(_on_file, inner))
    return reduce(operator.or_, inner) if origin in (typing.Union, types.UnionType) else origin[inner]
