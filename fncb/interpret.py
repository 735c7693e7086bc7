"""Effects carried out: what the terminal shows, what is on disk."""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fncb import store
from fncb.callback import Callback
from fncb.disk import make_directories
from fncb.effects import Append, Call, Delete, Effect, Link, Print, Render
from fncb.events import Event

log = logging.getLogger("fncb")

Handler = Callable[[Any, Event], Event | Iterable[Effect] | None]
"""Carries out an effect of an event; may answer with an event, or with effects that are carried out next."""


class Screen:
    """What `Render` and `Print` are shown on: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console | None = None):
        self._console = console or Console(file=sys.stdout, soft_wrap=True)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}  # what is under way, by label

    def render(self, effect: Render, event: Event) -> None:
        """Moves a bar; when its part is done, its line is printed, above what bars there are."""
        if self._console.is_terminal:
            self._draw(effect)
        if effect.done:
            self.say(_line(effect, event))

    def _draw(self, effect: Render) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                TextColumn("{task.fields[metrics]}"),
                console=self._console,
                auto_refresh=False,
                transient=True,
            )
            self._bar.start()
        if effect.done:  # with it go the bars of its parts, such as a validation
            for task in self._tasks.values():
                self._bar.remove_task(task)
            self._tasks.clear()
        else:
            shown = format_metrics(effect.metrics or {})  # waits for the device, as often as the bar is drawn
            if effect.label not in self._tasks:
                self._tasks[effect.label] = self._bar.add_task(effect.label, total=effect.total, metrics=shown)
            task = self._tasks[effect.label]
            self._bar.update(task, completed=effect.completed, total=effect.total, metrics=shown)
        self._bar.refresh()

    def say(self, text: str, rich: Any = None) -> None:
        """Prints text, or what a terminal shows in its place, above the bar if there is one."""
        self._console.print(
            rich if rich is not None and self._console.is_terminal else text, markup=False, highlight=False
        )

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _line(effect: Render, event: Event) -> str:
    of = f"/{effect.total}" if effect.total is not None else ""
    metrics = format_metrics(effect.metrics or {})
    line = f"{effect.label}: {effect.completed}{of} batches, step {event.step}, {event.seconds:.1f} s"
    return f"{line}, {metrics}" if metrics else line


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Metrics as people read them.

    Example:
      >>> format_metrics({"loss": 0.123456, "skipped": 0.0, "lr": 0.00001})
      'loss 0.1235  skipped 0  lr 1e-05'
    """
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def refuse_what_nobody_does(
    callbacks: Callback[Any], carried_out: Iterable[type[Effect]], runs_step_hooks: bool
) -> None:
    """Raises if a callback may ask for an effect that nobody carries out, or has step hooks that nobody would run."""
    known = [*carried_out]
    for part in callbacks.parts or ():
        for effect in part.emits or ():
            if effect not in known:
                names = sorted(kind.__name__ for kind in known)
                raise ValueError(
                    f"{part.key}: every effect must be one that this run carries out, got {effect.__name__}. "
                    f"It has {names}. Leave the callback out, or pass carries_out={{{effect.__name__}: ...}}."
                )
        if part.step is not None and not runs_step_hooks:
            raise ValueError(
                f"{part.key}: step hooks must run inside a training step, got a Session around another loop. "
                "Train with fncb.fit, or leave the callback out."
            )


def handlers(screen: Screen) -> dict[type[Effect], Handler]:
    """The effects that need nothing of the run itself."""

    def delete(effect: Delete, _: Event) -> None:
        store.delete(effect.path, within=effect.within)

    def say(effect: Print, _: Event) -> None:
        screen.say(effect.text, effect.rich)

    def link(effect: Link, _: Event) -> None:
        try:
            store.point(effect.path, effect.to, within=effect.within)
        except OSError as error:  # a convenience: what it would lead to is there all the same
            log.warning("fncb: no link: %s", error)

    def append(effect: Append, _: Event) -> None:
        if "\n" in effect.line:
            raise ValueError(f"Append: line must be one line, got {effect.line!r}.")
        path = Path(effect.path)
        make_directories(path.parent)
        with path.open("a", encoding="utf-8") as file:
            file.write(effect.line + "\n")

    def call(effect: Call, event: Event) -> None:
        if effect.fn is None:
            raise ValueError(f"Call {effect.name!r}: fn must be a function, got None.")
        effect.fn(event)

    return {Delete: delete, Print: say, Render: screen.render, Link: link, Append: append, Call: call}
