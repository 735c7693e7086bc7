"""A run at a glance, as HTML for notebooks: a small curve, how it ended, its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite
from typing import Any

from fncb import events as ev
from fncb.effects import Delete
from fncb.metrics import Unrecorded

_WIDTH, _HEIGHT = 240, 56  # pixels
_MOST = 8  # names and files that are listed


DRAWN = ("ValidationEnd", "TrainEpochEnd", "SanityCheckStart", "SanityCheckEnd", "Saved", "Delete")
"""The classes of which a card is made."""


def curve_of(entries: Iterable[Any], monitor: str | None = None) -> tuple[str, list[tuple[float, float]]]:
    """A metric's name, and its finite values over steps.

    It is `monitor` if that is there, else the loss of validations, of epochs, or the first metric that there is. What a
    sanity check measured is left out.

    Example:
      >>> curve_of([ev.ValidationEnd(step=i, metrics={"val_loss": 1 / i}) for i in (1, 2)])
      ('val_loss', [(1, 1.0), (2, 0.5)])
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for event in ev.outside_sanity_checks(entries):
        if not isinstance(event, ev.ValidationEnd | ev.TrainEpochEnd):
            continue
        if not isinstance(event.metrics, Unrecorded):
            for name, value in event.metrics.items():
                if isfinite(value) and not (curves.get(name) and curves[name][-1][0] == event.step):
                    curves.setdefault(name, []).append((event.step, value))
    chosen = next((name for name in (monitor, "val_loss", "loss_epoch") if name in curves), next(iter(curves), ""))
    return (chosen, curves[chosen]) if chosen else ("", [])


def kept_files(entries: Iterable[Any]) -> list[str]:
    """Checkpoints that were written and not deleted, the newest first.

    Example:
      >>> kept_files([ev.Saved(path="a"), ev.Saved(path="b"), Delete("a")])
      ['b']
    """
    kept: dict[str, None] = {}
    for entry in entries:
        if isinstance(entry, ev.Saved):
            kept[entry.path] = None
        elif isinstance(entry, Delete):
            kept.pop(entry.path, None)
    return [*reversed(kept)]


def card(
    headline: str,
    curve: tuple[str, Sequence[tuple[float, float]]] = ("", ()),
    metrics: Mapping[str, float] | None = None,
    files: Sequence[str] = (),
    facts: Sequence[str] = (),
) -> str:
    """The HTML: it takes the page's font and colours, and no name in it becomes markup.

    Args:
      headline: a sentence.
      curve: a name and its points, to be drawn.
      metrics: last values by name.
      files: paths of checkpoints that are kept.
      facts: short notes for a line below the headline.

    Example:
      >>> card("all epochs done", files=["runs/<b>.safetensors"])  # doctest: +ELLIPSIS
      '<div ...>all epochs done</div>...<code>runs/&lt;b&gt;.safetensors</code>...'
    """
    parts = [f'<div style="font-weight:600">{escape(headline)}</div>']
    if facts:
        parts.append(f'<div style="opacity:.75">{escape(" · ".join(facts))}</div>')
    if len(curve[1]) > 1:
        parts.append(_drawn(*curve))
    if metrics:
        rows = "".join(
            f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:right">{value:.6g}</td></tr>'
            for name, value in list(metrics.items())[:_MOST]
        )
        more = len(metrics) - _MOST
        rows += f'<tr><td colspan="2" style="text-align:left">and {more} more</td></tr>' if more > 0 else ""
        parts.append(f'<table style="margin:.4em 0">{rows}</table>')
    if files:
        listed = "".join(f"<li><code>{escape(path)}</code></li>" for path in files[:_MOST])
        more = f"<li>and {len(files) - _MOST} more</li>" if len(files) > _MOST else ""
        parts.append(f'<div>checkpoints</div><ul style="margin:.2em 0">{listed}{more}</ul>')
    return f'<div style="max-width:48em">{"".join(parts)}</div>'


def _drawn(name: str, points: Sequence[tuple[float, float]]) -> str:
    xs, ys = zip(*points, strict=True)
    across, up = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0
    places = " ".join(
        f"{2 + (x - min(xs)) / across * (_WIDTH - 4):.1f},{_HEIGHT - 2 - (y - min(ys)) / up * (_HEIGHT - 4):.1f}"
        for x, y in points
    )
    said = escape(f"{name}: {ys[0]:.4g} to {ys[-1]:.4g}, between {min(ys):.4g} and {max(ys):.4g}")
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{said}" style="display:block;margin:.4em 0">'
        f'<polyline points="{places}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
        f'<div style="opacity:.75">{said}</div>'
    )
