"""State to plain data and back."""

import typing
from collections.abc import Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Any, TypeVar

import attrs
import msgspec

from fncb.callback import Callback

S = TypeVar("S")


def state_dict(state: Any) -> Any:
    """Plain nested data: dicts, lists, strings, numbers, booleans, None, and tensors as they are.

    Records become dicts by field name, mappings dicts by key, tuples and lists lists. All containers are new, so the
    data does not change when the state does; tensors are the same objects.

    Args:
      state: a callback's state, or a composition's mapping from key to state.

    Raises:
      TypeError: if the state holds anything else, naming where.

    Example:
      >>> @attrs.frozen
      ... class WaitState:
      ...     best: float | None = None
      ...     seen: tuple[int, ...] = ()
      >>> state_dict({"wait": WaitState(best=0.5, seen=(1, 2))})
      {'wait': {'best': 0.5, 'seen': [1, 2]}}
    """
    return _plain(state, "")


def load_state_dict(callback: Callback[S], data: Any, strict: bool = True) -> S:
    """A callback's state, made from plain data and checked against what `callback.init` declares.

    A record is restored field by field and each value checked against its annotation, which also turns lists back
    into tuples and integers into floats. A state that is no record has the type of what `init` gives: in a dict, the
    keys are free and only the types of the containers known to `init` are restored. So
    `load_state_dict(c, state_dict(s)) == s` for every state whose types its record, or `init`, tells.

    Args:
      callback: a callback or a composition. Its configuration is not touched.
      data: what `state_dict` gave, maybe through JSON. It is not changed, nor are its containers kept.
      strict: whether what is missing or unexpected is an error. If not, what is missing is as in `init` and what is
        unexpected is dropped; a wrong type is an error all the same.

    Raises:
      ValueError: if the data does not match, naming every missing, unexpected and ill-typed key.

    Example:
      >>> @attrs.frozen
      ... class WaitState:
      ...     best: float | None = None
      ...     stale: int = 0
      >>> wait = Callback(key="wait", init=WaitState)
      >>> load_state_dict(wait, {"best": 1, "stale": 2})
      WaitState(best=1.0, stale=2)
      >>> load_state_dict(wait, {"best": "low", "pace": 3})  # doctest: +NORMALIZE_WHITESPACE
      Traceback (most recent call last):
      ValueError: load_state_dict: the data must match what init declares, got missing wait.stale; unexpected wait.pace;
      ill-typed wait.best (Expected `float | null`, got `str`). With strict=False what is missing is as in init and
      what is unexpected is dropped.
    """
    data, found = _plain(data, ""), _Mismatch(strict)
    state: Any
    if callback.parts is None:
        state = _like(callback.init(), data, callback.key, found)
    else:
        state = _composed(callback, data, found)
    found.must_be_none()
    return state


def _plain(value: Any, path: str) -> Any:
    if value is None or type(value) in (bool, int, float, str) or _is_tensor(value):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"state_dict: keys must be strings, got {key!r}{_at(path)}. Use str(key).")
        return {key: _plain(item, _join(path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, _join(path, index)) for index, item in enumerate(value)]
    if attrs.has(type(value)):
        names = [field.name for field in attrs.fields(type(value)) if field.init]
        return {name: _plain(getattr(value, name), _join(path, name)) for name in names}
    raise TypeError(
        f"state_dict: a state must hold plain data, records and tensors only, got {value!r} of type "
        f"{type(value).__name__}{_at(path)}. Convert it, for example with float() or list()."
    )


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "data_ptr")


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _at(path: str) -> str:
    return f" at {path!r}" if path else ""


@attrs.frozen
class _Mismatch:
    """What does not fit, gathered while loading, so that one error names it all."""

    strict: bool
    missing: list[str] = attrs.field(factory=list)
    unexpected: list[str] = attrs.field(factory=list)
    ill_typed: list[str] = attrs.field(factory=list)

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.ill_typed)

    def must_be_none(self) -> None:
        named = {"missing": self.missing, "unexpected": self.unexpected, "ill-typed": self.ill_typed}
        if self:
            what = "; ".join(f"{kind} {', '.join(paths)}" for kind, paths in named.items() if paths)
            raise ValueError(
                f"load_state_dict: the data must match what init declares, got {what}. With strict=False what is "
                "missing is as in init and what is unexpected is dropped."
            )


def _composed(callback: Callback[Any], data: Any, found: _Mismatch) -> dict[str, Any]:
    parts = {part.key: part for part in callback.parts or ()}
    if not isinstance(data, dict):
        found.ill_typed.append(f"the whole (expected a mapping from key to state, got {type(data).__name__})")
        return {}
    if found.strict:
        found.missing.extend(key for key in parts if key not in data)
        found.unexpected.extend(key for key in data if key not in parts)
    return {
        key: _like(part.init(), data[key], key, found) if key in data else part.init() for key, part in parts.items()
    }


def _like(example: Any, data: Any, path: str, found: _Mismatch) -> Any:
    """A state that is no record: of the type of its first value."""
    if attrs.has(type(example)):
        return _record(type(example), example, data, path, found)
    if isinstance(example, Mapping):
        loaded = _value(dict, example, data, path, found)
        return {key: _inner(example.get(key), item, f"{path}.{key}", found) for key, item in (loaded or {}).items()}
    if type(example) is tuple:
        return _inner(example, _value(list, example, data, path, found), path, found)
    return data if example is None or _is_tensor(example) else _value(type(example), example, data, path, found)


def _inner(example: Any, data: Any, path: str, found: _Mismatch) -> Any:
    """A value inside a dict or tuple, whose scalars nobody declared: only known containers are restored."""
    if type(example) is tuple and isinstance(data, list):
        examples = (*example, *[None] * len(data))
        return tuple(_inner(examples[i], item, f"{path}.{i}", found) for i, item in enumerate(data))
    if attrs.has(type(example)) or (isinstance(example, Mapping) and isinstance(data, dict)):
        return _like(example, data, path, found)
    return data


def _record(cls: type, example: Any, data: Any, path: str, found: _Mismatch) -> Any:
    """A record, field by field; `example`, a record of its class or None, has what is missing if not strict."""
    if not isinstance(data, dict):
        found.ill_typed.append(f"{path} (expected the fields of {cls.__name__}, got {type(data).__name__})")
        return None
    before = len(found)
    kinds, values = _annotations(cls), {}
    fields = {field.name: field for field in attrs.fields(cls) if field.init}
    for name, field in fields.items():
        at, default = f"{path}.{name}", getattr(example, name, field.default)
        if name in data:
            values[field.alias or name] = _value(kinds.get(name, Any), default, data[name], at, found)
        elif found.strict or default is attrs.NOTHING:
            found.missing.append(at)
        elif example is not None:
            values[field.alias or name] = default
    if found.strict:
        found.unexpected.extend(f"{path}.{name}" for name in data if name not in fields)
    if len(found) > before:
        return None
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:  # from the record's own validators
        found.ill_typed.append(f"{path} ({error})")
        return None


def _value(kind: Any, example: Any, data: Any, path: str, found: _Mismatch) -> Any:
    """A value of an annotated type. Records are walked here, so that each of their keys is named."""
    origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
    if not _holds_record(kind):
        try:
            return msgspec.convert(data, kind)
        except (msgspec.ValidationError, TypeError) as error:
            found.ill_typed.append(f"{path} ({str(error).replace(' - at `$', ' at `')})")
            return None
    if attrs.has(origin):
        return _record(origin, example if isinstance(example, origin) else None, data, path, found)
    if origin in (typing.Union, UnionType):
        return _one_of(args, example, data, path, found)
    if isinstance(data, dict) and issubclass(origin, Mapping):
        return {key: _value(args[-1], None, item, f"{path}.{key}", found) for key, item in data.items()}
    if isinstance(data, list) and issubclass(origin, Sequence):
        inside = args if origin is tuple and Ellipsis not in args else args[:1] * len(data)
        if len(inside) == len(data):
            values = [_value(each, None, data[i], f"{path}.{i}", found) for i, each in enumerate(inside)]
            return tuple(values) if origin is tuple else values
    found.ill_typed.append(f"{path} (expected {kind}, got {data!r})")
    return None


def _one_of(kinds: tuple[Any, ...], example: Any, data: Any, path: str, found: _Mismatch) -> Any:
    """The first member of a union that fits exactly; else whatever is wrong with the one that holds a record."""
    for kind in kinds:
        trial = _Mismatch(strict=True)
        value = _value(kind, example, data, path, trial)
        if not trial:
            return value
    return _value(next(kind for kind in kinds if _holds_record(kind)), example, data, path, found)


def _holds_record(kind: Any) -> bool:
    return attrs.has(typing.get_origin(kind) or kind) or any(map(_holds_record, typing.get_args(kind)))


@cache
def _annotations(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise TypeError(
            f"load_state_dict: the annotations of {cls.__name__} must be known at run time, got {error}. Import what "
            "they name at the top of the module, outside `if TYPE_CHECKING`, and define the record there too."
        ) from None
