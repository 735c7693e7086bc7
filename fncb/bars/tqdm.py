"""Progress drawn with tqdm: a bar for each part that is under way."""

from functools import cache
from typing import Any

from rich.console import Console

from fncb.bars.lines import format_each, show, show_line, show_metrics
from fncb.effects import Render
from fncb.events import Event

_APART = 0.1  # seconds between two draws of a bar
_SHORTEST = 12  # characters of the bar itself, and what stands around it


class TqdmBar:
    """Draws `Render` with tqdm; where there is no terminal, prints a line for each part that is over.

    A bar is drawn ten times a second at most, and when it is full. Metrics that do not fit are left out, but for the
    first. Those of a part of something else are not shown, nor read.

    Args:
      console: where.
      process_position: lines to leave free above the bars.
      leave: whether the bar of what is over stays, with its metrics below, in place of its line.
    """

    def __init__(self, console: Console, *, process_position: int = 0, leave: bool = False):
        self._console, self._position, self._leave = console, process_position, leave
        self._bars: dict[str, Any] = {}  # what is under way, by label
        self._drawn: dict[str, float] = {}  # when, in seconds of the run

    def render(self, effect: Render, event: Event) -> None:
        """Moves a bar, or takes it away when its part is over."""
        is_whole, draws = effect.part_of is None, self._console.is_terminal
        stays = draws and is_whole and self._leave
        if draws and (stays or not effect.done) and self._is_due(effect, event):
            self._draw(effect, event)
        if effect.done and is_whole:
            self.close()
            if stays:
                show_metrics(self._console, effect)
            else:
                show_line(self._console, effect, event)
        elif effect.done:
            self._close(effect.label)

    def say(self, text: str, rich: Any = None) -> None:
        """Prints text, or what a terminal shows in its place, above the bars."""
        if not self._bars:
            show(self._console, text, rich)
            return
        with _tqdm().external_write_mode(self._console.file):
            show(self._console, text, rich)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        for label in [*self._bars][::-1]:  # the lowest first
            self._close(label)

    def _is_due(self, effect: Render, event: Event) -> bool:
        if effect.done or effect.completed == effect.total or effect.label not in self._drawn:
            return True
        return event.seconds - self._drawn[effect.label] >= _APART

    def _draw(self, effect: Render, event: Event) -> None:
        is_whole = effect.part_of is None
        self._drawn[effect.label] = event.seconds
        if effect.label not in self._bars:
            self._bars[effect.label] = _tqdm()(
                desc=effect.label,
                initial=effect.completed,
                total=effect.total,
                position=self._position + (not is_whole),
                leave=is_whole and self._leave,
                file=self._console.file,
                ncols=self._console.width,
                mininterval=0,  # each update is drawn
                miniters=0,
            )
        bar = self._bars[effect.label]
        bar.total, bar.ncols = effect.total, self._console.width
        if effect.done:
            bar.set_postfix_str("", refresh=False)
        elif is_whole:  # waits for the device
            beside = len(bar.format_meter(**{**bar.format_dict, "ncols": 0, "postfix": None}))
            metrics = _that_fit(format_each(effect.metrics or {}), bar.ncols - beside - _SHORTEST)
            bar.set_postfix_str(metrics, refresh=False)
        bar.update(effect.completed - bar.n)

    def _close(self, label: str) -> None:
        if label in self._bars:
            self._bars.pop(label).close()
            del self._drawn[label]


def _that_fit(metrics: list[str], room: int) -> str:
    for n in range(len(metrics), 1, -1):
        said = ", ".join([*metrics[:n], "..."] if n < len(metrics) else metrics)
        if len(said) <= room:
            return said
    return ", ".join([*metrics[:1], "..."] if len(metrics) > 1 else metrics)


@cache
def _tqdm() -> Any:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "tqdm_progress_bar: tqdm must be installed, got none. pip install 'fncb[tqdm]', or use rich_progress_bar."
        ) from None
    return type("Bar", (tqdm,), {"monitor_interval": 0})  # no thread that looks after bars which are never drawn
