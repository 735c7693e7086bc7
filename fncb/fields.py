"""Checks of a record's fields when it is made, so that a slip is told where it was written."""

import difflib
from collections.abc import Collection, Iterable, Mapping
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


def must_be_one_of(who: str, name: str, value: Any, allowed: Collection[Any]) -> None:
    """Raises `ValueError` unless a value is one of some.

    Example:
      >>> must_be_one_of("early_stop", "mode", "less", ("min", "max"))
      Traceback (most recent call last):
      ValueError: early_stop: mode must be 'min' or 'max', got 'less'.
    """
    if value not in allowed:
        raise ValueError(f"{who}: {name} must be {either(map(repr, allowed))}, got {value!r}.")


def either(words: Iterable[str]) -> str:
    """Words as a choice.

    Example:
      >>> either(["a", "b", "c"])
      'a, b or c'
    """
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def must_be_metric(who: str, monitor: Any) -> None:
    """Raises `TypeError` unless a value can be the name of a metric."""
    if not isinstance(monitor, str) or not monitor:
        raise TypeError(f"{who}: monitor must be a metric's name, got {monitor!r}.")


def must_be_int(who: str, name: str, value: Any, least: int | None = None, unit: str = "") -> None:
    """Raises `TypeError` unless a value is an int, and `ValueError` below `least`; `unit` is what it counts.

    Example:
      >>> must_be_int("early_stop", "patience", -1, 0, "checks")
      Traceback (most recent call last):
      ValueError: early_stop: patience must be 0 checks or more, got -1.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{who}: {name} must be an int, got {value!r}.")
    if least is not None and value < least:
        at_least = f"{least} {unit}" if unit else f"{least}"
        raise ValueError(f"{who}: {name} must be {at_least} or more, got {value}.")


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def must_be_number(who: str, name: str, value: Any, interval: str) -> None:
    """Raises `TypeError` unless a value is a number, and `ValueError` if it is NaN or outside of an interval.

    Example:
      >>> must_be_number("ema", "decay", 1.0, "[0, 1)")
      Traceback (most recent call last):
      ValueError: ema: decay must be a number in [0, 1), got 1.0.
    """
    least, most = map(float, interval[1:-1].split(","))
    edges = (*[least] * (interval[0] == "["), *[most] * (interval[-1] == "]"))
    if not is_number(value) or not (least < value < most or value in edges):
        error = ValueError if is_number(value) else TypeError
        raise error(f"{who}: {name} must be a number in {interval}, got {value!r}.")


def must_be_patterns(who: str, name: str, value: Any) -> tuple[str, ...]:
    """Shell patterns as a tuple, given as text or as several; raises `TypeError` for anything else."""
    patterns = (value,) if isinstance(value, str) else value
    if not isinstance(patterns, list | tuple) or not patterns or not all(isinstance(each, str) for each in patterns):
        raise TypeError(f"{who}: {name} must be a pattern such as '*loss', or several, got {value!r}.")
    return tuple(patterns)


def hook_called(who: str, name: str) -> str:
    """The hook that a name means, with or without its `on_`.

    Raises:
      ValueError: if there is none, with the one that was probably meant.

    Example:
      >>> hook_called("on", "train_end"), hook_called("on", "on_train_end"), hook_called("on", "setup")
      ('on_train_end', 'on_train_end', 'setup')
    """
    for meant in (name, f"on_{name}"):
        if meant in ev.HOOKS:
            return meant
    close = difflib.get_close_matches(f"on_{name.removeprefix('on_')}", ev.HOOKS, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(ev.HOOKS)}."
    raise ValueError(f"{who}: it must be the name of a hook, got {name!r}. {hint}")


def refuse_unknown(cls: type, who: str, fields: Mapping[str, Any]) -> None:
    """Raises `TypeError` for a field that the record has not, with the one that was probably meant."""
    known = [field.name for field in attrs.fields(cls) if field.init]
    for name in fields:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else f" There are {', '.join(known)}."
            raise TypeError(f"{who}: every field must be a hook, got {name}.{hint}")
