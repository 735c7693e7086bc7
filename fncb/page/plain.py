"""Values as a page can hold them: plain, of bounded size, and what changed from one to the next.

None, booleans, text, lists and numbers are as in JSON. `{"n": "nan"}` is a number that is not finite, `{"d": [key,
value, key, value, ...]}` a mapping or record, and `{"t": text}` stands for what is not plain, or too much.
"""

from collections.abc import Mapping
from functools import cache
from math import isfinite
from operator import is_
from typing import Any

import attrs

from fncb.printable import printable

LONGEST_NAME = 200  # characters
LONGEST_TEXT = 2_000
MOST_ITEMS = 500  # of a list or mapping that is shown item by item
_DEEPEST = 24
_EXACT = 2**53  # beyond it a browser's numbers skip integers

_SCALARS = frozenset((bool, int, float, str))

SAME: Any = object()
"""What `patch` gives for values that are shown alike."""


def cut(text: str, longest: int = LONGEST_TEXT) -> str:
    """Text of bounded length, in which nothing is invisible; what was longer says how long.

    Example:
      >>> cut("val_loss"), cut("a" * 1000, 3)
      ('val_loss', 'aaa… (1,000 characters)')
    """
    visible = "\n".join(map(printable, text[:longest].split("\n")))
    return visible if len(text) <= longest else f"{visible}… ({len(text):,} characters)"


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it, in the notation of this module.

    Example:
      >>> plain({"best": 0.5, "seen": (1, float("inf"))})
      {'d': ['best', 0.5, 'seen', [1, {'n': 'inf'}]]}
      >>> plain(1j)
      {'t': '1j'}
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value) if isfinite(value) else {"n": str(float(value))}
    if isinstance(value, int):
        return int(value) if abs(value) <= _EXACT else {"t": _digits(value)}
    if isinstance(value, str):
        return cut(value)
    items = items_of(value)
    if items is None:
        return {"t": _opaque(value)}
    if depth >= _DEEPEST or len(items) > MOST_ITEMS:
        return {"t": _summary(items)}
    if isinstance(items, Mapping):
        return {"d": [x for key, each in items.items() for x in (cut(str(key), LONGEST_NAME), plain(each, depth + 1))]}
    return [plain(each, depth + 1) for each in items]


def patch(old: Any, new: Any) -> Any:
    """What makes `plain(new)` of `plain(old)`; `SAME` if nothing has to be done.

    What is no list replaces the old value. Lists are: `[0, value]` replaces it too; `[1, [key, patch, ...], [key,
    ...]]` patches and removes keys; `[2, n, [value, ...]]` drops the first n items and appends others; `[3, [index,
    patch, ...]]` patches items. Parts that are the very same object cost nothing.

    Example:
      >>> patch({"best": 0.5, "seen": (1, 2)}, {"best": 0.25, "seen": (1, 2, 3)})
      [1, ['best', 0.25, 'seen', [2, 0, [3]]], []]
    """
    if old is new:
        return SAME
    kind = type(new)
    if kind is type(old):
        if kind in _SCALARS:
            return SAME if _alike(old, new) else plain(new)
        names = _fields_of(kind)
        if names is not None:
            return _patched_record(names, old, new)
    before, after = items_of(old), items_of(new)
    if before is None or after is None or max(len(before), len(after)) > MOST_ITEMS:
        return _replaced(plain(old), plain(new))
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return _patched_mapping(before, after)
    if isinstance(before, Mapping) or isinstance(after, Mapping):
        return _replaced(plain(old), plain(new))
    return _patched_list(list(before), list(after))


def _alike(old: Any, new: Any) -> bool:
    """Whether two scalars of one class are shown alike: nan is, and -0.0 is not 0.0."""
    if old == new:
        return old != 0 or repr(old) == repr(new)
    return old != old and new != new


def _patched_record(names: tuple[str, ...], old: Any, new: Any) -> Any:
    changes: list[Any] = []
    for name in names:
        before, after = getattr(old, name), getattr(new, name)
        if before is not after and (change := patch(before, after)) is not SAME:
            changes += (name, change)
    return [1, changes, []] if changes else SAME


def _patched_mapping(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Any:
    names = {key: cut(str(key), LONGEST_NAME) for key in (*before, *after)}
    if len({*names.values()}) < len(names):  # keys that are shown alike can't be told apart
        return _replaced(plain(before), plain(after))
    changes: list[Any] = []
    for key, value in after.items():
        change = patch(before[key], value) if key in before else _put(plain(value))
        if change is not SAME:
            changes += (names[key], change)
    gone = [names[key] for key in before if key not in after]
    return [1, changes, gone] if changes or gone else SAME


def _patched_list(before: list[Any], after: list[Any]) -> Any:
    for dropped in range(1 + min(len(before), 1)):
        kept = before[dropped:]
        if len(kept) <= len(after) and all(map(is_, kept, after)):  # as `(*before[1:], value)` leaves them
            appended = after[len(kept) :]
            return [2, dropped, [plain(each) for each in appended]] if dropped or appended else SAME
    if len(before) != len(after):
        return _put([plain(each) for each in after])
    changes = [(i, patch(old, new)) for i, (old, new) in enumerate(zip(before, after, strict=True))]
    changes = [x for i, change in changes if change is not SAME for x in (i, change)]
    return [3, changes] if changes else SAME


def _replaced(before: Any, after: Any) -> Any:
    return SAME if repr(before) == repr(after) else _put(after)  # 1, 1.0 and True are equal, and shown otherwise


def _put(value: Any) -> Any:
    return [0, value] if isinstance(value, list) else value


def items_of(value: Any) -> Mapping[Any, Any] | list[Any] | tuple[Any, ...] | None:
    """The fields of a record, or a mapping or list as it is; None for a single value."""
    if isinstance(value, Mapping | list | tuple):
        return value
    names = _fields_of(type(value))
    return None if names is None else {name: getattr(value, name) for name in names}


@cache
def _fields_of(cls: type) -> tuple[str, ...] | None:
    """The fields of a record's class; None for another class."""
    return tuple(field.name for field in attrs.fields(cls) if field.init) if attrs.has(cls) else None


def _opaque(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype} of shape {list(value.shape)}" if list(value.shape) else f"{dtype} {value.item()}"
    try:
        return cut(repr(value))
    except Exception:  # of a value that can't even be shown, which says nothing against the others
        return f"a {type(value).__name__}"


def _summary(items: Mapping[Any, Any] | list[Any] | tuple[Any, ...]) -> str:
    of = "values" if isinstance(items, list | tuple) else "keys"
    scalars = [each for each in items if isinstance(each, str | float | int)] if of == "values" else []
    ends = f": {_word(scalars[0])}, …, {_word(scalars[-1])}" if len(scalars) == len(items) else ""
    return f"{len(items):,} {of}{ends}"


def _word(value: str | float) -> str:
    return _digits(value) if isinstance(value, int) else cut(repr(value), 40)


def _digits(value: int) -> str:
    return str(value) if value.bit_length() < 1000 else f"an integer of {value.bit_length():,} bits"
