"""Tell somebody outside when a run ends, stops or fails."""

import json
import logging
from collections.abc import Callable, Iterable
from math import isfinite
from pathlib import Path
from typing import Any

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.effects import Append, Call
from fncb.events import Event
from fncb.fields import hook_called

log: logging.Logger = logging.getLogger("fncb")


def notify(
    to: Callable[[Any], object] | str | Path,
    *,
    on: Iterable[str] = ("stop_requested", "train_end", "exception"),
    metrics: Iterable[str] = (),
    key: str = "notify",
) -> Callback[EmptyState]:
    """Calls a function with the event, or writes a line to a file, when a run ends, stops or fails.

    A function is given the event as it is, live fields included, and may send a message wherever it likes. One that
    raises does not hold up the run: a line in the log says what went wrong. A file gets a line of JSON for each event,
    with `event` (the name of its hook, without `on_`), `epoch`, `step` and `seconds`, those of `reason`, `error`,
    `message`, `signal`, `stage` and `path` that the event has, and `metrics`: those asked for that it carries. A
    number that is not finite is written as text, such as "nan".

    Args:
      to: a function of the event, or the path of a file, which is made if needed, and so is its folder.
      on: names of hooks, with or without `on_`: those above are when a callback asks to stop, when training is over,
        and when something raises, Ctrl-C and SIGTERM included.
      metrics: names of metrics that go into a line; reading one waits for the device.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError: for a hook that does not exist, with the one that was probably meant, or none at all.
      TypeError: for something else than a function or a path, and a single name where several are wanted.

    Example:
      >>> from fncb.events import TrainEnd
      >>> told = notify("runs/notes.jsonl", metrics=["val_loss"])
      >>> end = TrainEnd(epoch=3, step=30, seconds=4.5, metrics={"val_loss": 0.25})
      >>> told.transition(told.init(), end)[1][0].line
      '{"event": "train_end", "epoch": 3, "step": 30, "seconds": 4.5, "metrics": {"val_loss": 0.25}}'

    Known as:
      `RemoteMonitor` in Keras.
    """
    if not callable(to) and not isinstance(to, str | Path):
        raise TypeError(f"notify: to must be a function or the path of a file, got {to!r}.")
    for name, given in (("on", on), ("metrics", metrics)):
        if isinstance(given, str):
            raise TypeError(f"notify: {name} must be several names, got {given!r}. Write [{given!r}].")
    hooks = [*dict.fromkeys(hook_called("notify: on", name) for name in on)]
    wanted = tuple(metrics)
    if not hooks:
        raise ValueError("notify: on must name a hook at least, got none.")

    def call(event: Event) -> None:
        try:
            to(event)  # pyright: ignore[reportCallIssue]
        except Exception as error:  # whatever a network does: what is told of matters more
            log.warning("fncb: %s: %s: %s", key, type(error).__name__, error)

    def telling(hook: str) -> Any:
        def tell(state: EmptyState, event: Event) -> Emit[EmptyState]:
            if callable(to):
                return emit(state, Call(f"{key}: {hook}", call))
            return emit(state, Append(str(to), json.dumps(_payload(hook, event, wanted))))

        return tell

    return Callback(
        constructor="notify",
        key=key,
        emits=(Call,) if callable(to) else (Append,),
        config={"to": _name(to), "on": hooks, "metrics": list(wanted)},
        **{hook: telling(hook) for hook in hooks},
    )


def _name(to: Any) -> str:
    return getattr(to, "__qualname__", type(to).__name__) if callable(to) else str(to)


def _payload(hook: str, event: Event, metrics: tuple[str, ...]) -> dict[str, Any]:
    told: dict[str, Any] = {"event": hook.removeprefix("on_")}
    for name in ("epoch", "step", "seconds", "reason", "error", "message", "signal", "stage", "path"):
        value = getattr(event, name, None)
        if value not in (None, ""):
            told[name] = value
    there = getattr(event, "metrics", {})
    found = {name: there[name] for name in metrics if name in there}  # waits for the device
    if found:
        told["metrics"] = {name: value if isfinite(value) else str(value) for name, value in found.items()}
    return told
