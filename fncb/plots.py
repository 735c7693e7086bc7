"""Figures of results, drawn by plotly."""

from collections.abc import Sequence
from math import inf, isfinite, log10
from typing import Any

from fncb.callback import note

_BLUE, _RED = "#1f5fa8", "#d1495b"


def of_rates(
    lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], logarithmic: bool, marked: float | None
) -> Any:
    """Losses over learning rates, as a `plotly.graph_objects.Figure`.

    Args:
      lrs: one a step.
      losses, smoothed: as many.
      logarithmic: whether the axis of the rates is.
      marked: the rate to point out; None for none.
    """
    go = _plotly()
    figure = go.Figure()
    figure.add_scatter(x=lrs, y=losses, mode="markers", name="loss", marker={"size": 4, "color": "#9aa5b1"})
    figure.add_scatter(x=lrs, y=smoothed, mode="lines", name="smoothed", line={"color": _BLUE})
    least = min(range(len(lrs)), key=lambda i: smoothed[i] if isfinite(smoothed[i]) else inf)
    low, high = min(filter(isfinite, (*losses, *smoothed))), max(smoothed[: least + 1])
    room = high - low or 1.0
    if marked is not None:
        _upright(figure, marked, low, high, f"suggestion {marked:.3g}")
    figure.update_xaxes(title="learning rate", type="log" if logarithmic else "linear", exponentformat="power")
    figure.update_yaxes(title="loss", range=[low - room / 20, high + room])  # not all of how far it rises
    return _styled(figure)


def of_sizes(sizes: Sequence[int], speeds: Sequence[float | None], chosen: int) -> Any:
    """Samples per second over batch sizes, as a `plotly.graph_objects.Figure`.

    Args:
      sizes: one a trial, in any order.
      speeds: as many; None where a size did not fit.
      chosen: the size to point out.
    """
    go = _plotly()
    figure = go.Figure()
    fitted = sorted((size, speed) for size, speed in zip(sizes, speeds, strict=True) if speed is not None)
    others = sorted(size for size, speed in zip(sizes, speeds, strict=True) if speed is None)
    x, y = [size for size, _ in fitted], [speed for _, speed in fitted]
    figure.add_scatter(x=x, y=y, mode="lines+markers", name="fits", line={"color": _BLUE})
    if others:
        crosses = {"symbol": "x", "size": 10, "color": _RED}
        figure.add_scatter(x=others, y=[0.0] * len(others), mode="markers", name="does not fit", marker=crosses)
    _upright(figure, chosen, 0.0, max(y), f"batch size {chosen}")
    figure.update_xaxes(title="batch size", type="log", dtick=log10(2.0), tickformat="d")
    figure.update_yaxes(title="samples per second", rangemode="tozero")
    return _styled(figure)


def _upright(figure: Any, x: float, low: float, high: float, name: str) -> None:
    # a trace, as the text of plotly's `add_vline` goes astray on a logarithmic axis
    figure.add_scatter(x=[x, x], y=[low, high], mode="lines", name=name, line={"dash": "dot", "color": _RED})


def _styled(figure: Any) -> Any:
    figure.update_layout(template="simple_white", legend={"orientation": "h", "y": 1.08}, margin={"t": 40})
    return figure


def _plotly() -> Any:
    try:
        import plotly.graph_objects as go
    except ModuleNotFoundError as error:
        note(error, "plot: figures are drawn by plotly. Run pip install 'fncb[plotly]'.")
        raise
    return go
