"""What every stage begins and ends with: its set-up, its tear-down, and what goes wrong between them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fncb import events as ev
from fncb.callback import note
from fncb.evaluation import Fire
from fncb.session import Session
from fncb.signals import Signals

T = TypeVar("T")


def set_up(stage: str, fire: Fire, session: Session, path: Path | None, signals: Signals, **setup: Any) -> None:
    """The events of a stage before its own."""
    fire(ev.InitStart, stage=stage)
    fire(ev.InitEnd, stage=stage)
    fire(ev.Setup, stage=stage, **setup)
    fire(ev.ConfigureShardedModel, stage=stage)
    if path is not None:
        fire(ev.LoadCheckpoint, path=str(path), attached=session.attached)
    signals.act()


def guarded(stage: str, fire: Fire, body: Callable[[], T]) -> T:
    """Runs a stage: exceptions become events first and then go on, and `teardown` always fires."""
    torn_down = False
    try:
        result = body()
        torn_down = True
        fire(ev.Teardown, stage=stage)
        return result
    except BaseException as error:
        told: list[tuple[type[ev.Event], dict[str, Any]]] = [
            (ev.ExceptionRaised, {"exception": error, "error": type(error).__name__, "message": str(error)})
        ]
        if isinstance(error, KeyboardInterrupt):
            told.insert(0, (ev.KeyboardInterrupted, {}))
        if not torn_down:
            told.append((ev.Teardown, {"stage": stage}))
        for kind, fields in told:
            try:
                fire(kind, **fields)
            except Exception as another:
                note(error, f"While that was handled, {ev.hook_name(kind)} raised {another!r}.")
        raise
