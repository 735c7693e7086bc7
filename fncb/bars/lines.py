"""Progress and metrics in words."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from fncb.effects import Render
from fncb.events import Event


def show(console: Console, text: str, rich: Any = None) -> None:
    """Prints text, or what a terminal shows in its place. Text is not cut into lines: where it goes may be a file."""
    if rich is not None and console.is_terminal:
        console.print(rich, soft_wrap=False)
    else:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def show_line(console: Console, effect: Render, event: Event, how: str = ".4g") -> None:
    """Prints the line of a part that is over; a terminal that is too narrow gets several, the metrics kept whole."""
    of = f"/{effect.total}" if effect.total is not None else ""
    line = f"{effect.label}: {effect.completed}{of} batches, step {event.step}, {event.seconds:.1f} s"
    first, *others = format_each(effect.metrics or {}, how) or [""]
    parts = [f"{line}, {first}" if first else line, *others]
    show(console, "\n  ".join(filled(parts, console.width - 2)) if console.is_terminal else "  ".join(parts))


def show_metrics(console: Console, effect: Render) -> None:
    """Prints the metrics of a part whose bar stays, below it."""
    for line in filled(format_each(effect.metrics or {}), console.width - 2):
        show(console, f"  {line}")


def format_each(metrics: Mapping[str, float], how: str = ".4g") -> list[str]:
    """Metrics as people read them; reads them, which waits for the device.

    Example:
      >>> format_each({"loss": 0.123456, "skipped": 0.0, "lr": 0.00001})
      ['loss 0.1235', 'skipped 0', 'lr 1e-05']
    """
    return [f"{name} {value:{how}}" for name, value in metrics.items()]


def filled(parts: Iterable[str], width: int, between: str = "  ") -> list[str]:
    """Lines of at most `width` characters with the parts side by side; a part is never cut.

    Example:
      >>> filled(["loss 0.25", "accuracy 0.75", "lr 0.1"], width=25)
      ['loss 0.25  accuracy 0.75', 'lr 0.1']
    """
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(between) + len(part) <= width:
            lines[-1] += between + part
        else:
            lines.append(part)
    return lines
