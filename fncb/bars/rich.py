"""Progress drawn with rich: a live bar for each part that is under way."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Table
from rich.text import Text

from fncb.bars.lines import filled, format_each, show, show_line
from fncb.effects import Render
from fncb.events import Event

THEME: Mapping[str, str] = {
    "description": "bold",
    "progress_bar": "bar.complete",
    "progress_bar_finished": "bar.finished",
    "progress_bar_pulse": "bar.pulse",
    "batch_progress": "progress.download",
    "time": "progress.remaining",
    "processing_speed": "dim",
    "metrics": "none",
    "metrics_text_delimiter": "  ",
    "metrics_format": ".4g",
}
"""Styles of rich, and how metrics are written; the names are Lightning's."""


class RichBar:
    """Draws `Render` with rich; where there is no terminal, prints a line for each part that is over.

    The metrics stand beside the bar, or below it once they do not fit there. Those of a part of something else are not
    shown, nor read.

    Args:
      console: where.
      leave: whether the bar of what is over stays, in place of its line.
      theme: what differs from `THEME`.
      console_kwargs: for a console of its own, in place of `console`.
    """

    def __init__(
        self,
        console: Console,
        *,
        leave: bool = False,
        theme: Mapping[str, str] | None = None,
        console_kwargs: Mapping[str, Any] | None = None,
    ):
        self._console = Console(**console_kwargs) if console_kwargs else console
        self._leave = leave
        self._theme = {**THEME, **(theme or {})}
        self._bars = self._columns()
        self._tasks: dict[str, TaskID] = {}  # what is under way, by label
        self._metrics: list[str] = []
        self._is_below = False
        self._live: Live | None = None

    def _columns(self) -> Progress:
        of = self._theme
        complete, finished, pulse = (of[f"progress_bar{which}"] for which in ("", "_finished", "_pulse"))
        return Progress(
            _Words(lambda task: task.description, of["description"]),
            BarColumn(complete_style=complete, finished_style=finished, pulse_style=pulse),
            _Words(_count, of["batch_progress"]),
            _Words(_time, of["time"], max_refresh=0.5),  # seconds, as it jitters
            _Words(_speed, of["processing_speed"], max_refresh=0.5),
            console=self._console,
            auto_refresh=False,
        )

    def render(self, effect: Render, event: Event) -> None:
        """Moves a bar, or takes it away when its part is over."""
        is_whole, draws = effect.part_of is None, self._console.is_terminal
        if draws and effect.done and is_whole and self._leave:
            self._move(effect)
            drawn = self._drawn()
            self.close()
            self._console.print(drawn)
        elif effect.done and is_whole:
            self.close()
            show_line(self._console, effect, event, self._theme["metrics_format"])
        elif draws:
            if effect.done:
                self._remove(effect.label)
            else:
                self._move(effect)
            self._draw()

    def say(self, text: str, rich: Any = None) -> None:
        """Prints text, or what a terminal shows in its place, above the bars."""
        show(self._console, text, rich)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        for label in [*self._tasks]:
            self._remove(label)

    def _move(self, effect: Render) -> None:
        if effect.part_of is None:  # waits for the device, as often as the bar is drawn
            self._metrics = format_each(effect.metrics or {}, self._theme["metrics_format"])
        at: dict[str, Any] = {"total": effect.total, "completed": effect.completed}
        if effect.label in self._tasks:
            self._bars.update(self._tasks[effect.label], **at)
        else:
            self._tasks[effect.label] = self._bars.add_task(effect.label, **at)

    def _remove(self, label: str) -> None:
        if label in self._tasks:
            self._bars.remove_task(self._tasks.pop(label))

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self._drawn(), refresh=True)

    def _drawn(self) -> RenderableType:
        bars, width = self._bars.make_tasks_table(self._bars.tasks), self._console.width
        between = self._theme["metrics_text_delimiter"]
        beside = Text(between.join(self._metrics), style=self._theme["metrics"])
        self._is_below |= self._console.measure(bars).maximum + 1 + beside.cell_len > width
        if self._is_below:
            below = [f"  {line}" for line in filled(self._metrics, width - 2, between)]
            return Group(bars, Text("\n".join(below), style=self._theme["metrics"]))
        both = Table.grid(padding=(0, 1))
        both.add_row(bars, beside)
        return both


class _Words(ProgressColumn):
    """A column of text, which is made anew after so many seconds at the earliest."""

    def __init__(self, said: Callable[[Task], str], style: str, max_refresh: float | None = None):
        super().__init__()
        self._said, self._style, self.max_refresh = said, style, max_refresh

    def render(self, task: Task) -> Text:
        return Text(self._said(task), style=self._style, no_wrap=True)


def _count(task: Task) -> str:
    total = "?" if task.total is None else str(int(task.total))
    return f"{int(task.completed):{len(total)}d}/{total}"


def _time(task: Task) -> str:
    """What is left, or what a part that is done took."""
    seconds = task.finished_time if task.finished else task.time_remaining
    if seconds is None:
        return "" if task.total is None else "-:--:--"
    return str(timedelta(seconds=int(seconds)))


def _speed(task: Task) -> str:
    speed = task.finished_speed or task.speed
    return "" if speed is None else f"{speed:.1f}/s"
