"""Effects carried out: what the terminal shows, what is on disk."""

import logging
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from fncb import store
from fncb.bars.lines import show
from fncb.bars.rich import RichBar
from fncb.bars.tqdm import TqdmBar
from fncb.callback import Callback
from fncb.disk import make_directories
from fncb.effects import Append, Call, Delete, Effect, Link, Print, Render
from fncb.events import Event
from fncb.handling import Handler, called

log: logging.Logger = logging.getLogger("fncb")


class Screen:
    """What `Render` and `Print` are shown on: live bars on a terminal, plain lines elsewhere.

    What draws is chosen by the first `Render`; one with a renderer of its own is that one's alone.
    """

    def __init__(self, console: Console | None = None):
        self._console = console or Console(file=sys.stdout)
        self._bar: RichBar | TqdmBar | None = None
        self._renderers: dict[int, Any] = {}  # callbacks' own

    def render(self, effect: Render, event: Event) -> None:
        """Moves a bar; when its part is done, its line is printed, above what bars there are."""
        if effect.renderer is not None:
            self._renderers[id(effect.renderer)] = effect.renderer
            effect.renderer.render(effect, event)
            return
        if self._bar is None:
            self._bar = _chosen(effect.style)(self._console, **effect.options)
        self._bar.render(effect, event)

    def say(self, text: str, rich: Any = None) -> None:
        """Prints text, or what a terminal shows in its place, above the bar if there is one."""
        if self._bar is None:
            show(self._console, text, rich)
        else:
            self._bar.say(text, rich)

    def close(self) -> None:
        """Leaves the terminal as it was, and closes each renderer once."""
        closes = [*self._renderers.values(), *([self._bar] if self._bar else [])]
        self._bar, self._renderers = None, {}
        with ExitStack() as closing:  # all of them, whatever one raises
            for each in closes:
                closing.callback(each.close)


def _chosen(style: str) -> type[RichBar | TqdmBar]:
    if style == "rich":
        return RichBar
    if style == "tqdm":
        return TqdmBar
    raise ValueError(f"Render: style must be 'rich' or 'tqdm', got {style!r}. Another way to draw is a `renderer`.")


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
        called(effect, event)

    return {Delete: delete, Print: say, Render: screen.render, Link: link, Append: append, Call: call}
