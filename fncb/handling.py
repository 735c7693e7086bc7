"""What carries effects out, and what it asks of an effect first."""

from collections.abc import Callable, Iterable
from typing import Any

from fncb.effects import Effect
from fncb.events import Event, hook_name
from fncb.fields import either

Handler = Callable[[Any, Event], Event | Iterable[Effect] | None]
"""Carries out an effect of an event; may answer with an event, or with effects that are carried out next."""


def must_be_asked_at(who: str, event: Event, *kinds: type[Event], what: str = "it") -> None:
    """Raises `ValueError` unless an effect was asked for at an event of some classes.

    Example:
      >>> from fncb.events import TrainStart, ValidationEnd
      >>> must_be_asked_at("Skip", ValidationEnd(), TrainStart)
      Traceback (most recent call last):
      ValueError: Skip: it must be asked for at on_train_start, got it at on_validation_end.
    """
    if type(event) not in kinds:
        at = either(map(hook_name, kinds))
        raise ValueError(f"{who}: {what} must be asked for at {at}, got it at {hook_name(type(event))}.")


def called(effect: Any, *given: Any) -> Any:
    """What an effect's function gives; raises `ValueError` for an effect without one."""
    if effect.fn is None:
        raise ValueError(f"{type(effect).__name__} {effect.name!r}: fn must be a function, got None.")
    return effect.fn(*given)
