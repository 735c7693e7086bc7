"""Events and effects as lines that can be read."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from fncb.cli.plain import fields_of, plain
from fncb.effects import Effect
from fncb.events import Event, counters, hook_name
from fncb.metrics import Unrecorded

HEADS = f"{'epoch':>5} {'step':>8} {'seconds':>10}  {'hook':<26} "


def line_of(entry: Event | Effect) -> str:
    """An event: counters, the hook that hears it, metrics, fields that are not as by default. An effect: who asked.

    Example:
      >>> from fncb.effects import Stop
      >>> from fncb.events import ValidationEnd
      >>> line_of(ValidationEnd(epoch=1, step=20, seconds=1.5, metrics={"val_loss": 0.25}))
      '    1       20       1.50  on_validation_end          val_loss 0.25'
      >>> line_of(Stop("enough", key="early_stop(val_loss)"))
      "                           -> Stop(reason='enough') by early_stop(val_loss)"
    """
    if isinstance(entry, Effect):
        return " " * 27 + f"-> {entry!r}" + (f" by {entry.key}" if entry.key else "")
    at = f"{entry.epoch:>5} {entry.step:>8} {entry.seconds:>10.2f}  {hook_name(type(entry)):<26} "
    return (at + ", ".join(filter(None, _told(entry)))).rstrip()


def data_of(entry: Event | Effect, event: Event | None) -> dict[str, Any]:
    """An entry as plain data; an effect with the event at which it was asked for."""
    if isinstance(entry, Event) or event is None:
        return plain(entry)
    return {**plain(entry), "at": type(event).__name__, **plain(counters(event))}


def number(value: Any) -> str:
    """A value in few characters.

    Example:
      >>> number(0.123456789), number(12), number("text"), number({"a": 0.5})
      ('0.123457', '12', "'text'", 'a 0.5')
    """
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number(each)}" for name, each in value.items())
    return repr(value)


def _told(event: Event) -> Iterator[str]:
    defaults, at = {field.name: field.default for field in attrs.fields(type(event))}, counters(event)
    for name, value in fields_of(event).items():
        if name == "metrics":
            yield "metrics not recorded" if isinstance(value, Unrecorded) else number(value)
        elif name not in at and value != defaults[name] and value != {}:
            yield f"{name} {number(value)}"
