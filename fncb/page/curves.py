"""Metrics as curves: where each is measured, what belongs into one plot, and no more points than can be seen."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from toolz import groupby

from fncb import events as ev
from fncb.events import Event
from fncb.page.plain import LONGEST_NAME, cut
from fncb.page.tables import metrics_of, numbers

MOST_POINTS = 2_000
"""How many points of a curve are drawn: the least and the greatest value of each of half as many stretches."""

MOST_CURVES = 100
"""How many curves are drawn; metrics beyond that are only in the events."""

_HOMES = (ev.TrainBatchEnd, ev.ValidationEnd, ev.TestEnd, ev.TrainBatchStart, ev.TrainEpochStart, ev.TrainEpochEnd)
"""Where a metric is looked for, the first that has it wins: the others repeat what they were told."""

_PER_BATCH = (ev.TrainBatchStart, ev.TrainBatchEnd)
_STAGES = ("train", "validate", "val", "test", "predict")


def curves_of(events: Sequence[Event]) -> tuple[list[dict[str, Any]], int]:
    """The curves of a run, those of one plot together, and how many more there would be.

    A curve has the `name` of its metric, the `plot` that it belongs to, `batch` if it has a point for each batch, how
    many values it is made of (`of`), and the points: `at`, the number of the event, and `value`. `odd` counts values
    that are not finite, and `odd_at` is the event of the first.
    """
    series: dict[type[Event], dict[str, tuple[array[int], array[float]]]] = {home: {} for home in _HOMES}
    checking = False
    for i, event in enumerate(events):
        kind = type(event)
        if kind in (ev.SanityCheckStart, ev.SanityCheckEnd):
            checking = kind is ev.SanityCheckStart
        if kind not in series or checking:  # what a sanity check measures is forgotten
            continue
        of_kind = series[kind]
        for name, value in metrics_of(event).items():
            if name not in of_kind:
                of_kind[name] = array("I"), array("d")
            at, values = of_kind[name]
            at.append(i)
            values.append(value)
    homes: dict[str, type[Event]] = {}
    for kind in _HOMES:
        for name in series[kind]:
            homes.setdefault(name, kind)
    names = _in_order(homes)
    curves = [_curve(name, homes[name], *series[homes[name]][name]) for name in names[:MOST_CURVES]]
    return curves, len(names[MOST_CURVES:])


def plot_named(name: str) -> str:
    """The plot that a metric belongs to: losses in one, learning rates in one, others by their name.

    Example:
      >>> [plot_named(name) for name in ("val_loss", "loss_epoch", "lr-AdamW/pg1", "test_acc", "grad_norm/0.weight")]
      ['loss', 'loss', 'learning rate', 'acc', 'grad_norm']
    """
    if name.split("-")[0].split("/")[0] == "lr":
        return "learning rate"
    base = name.removesuffix("_epoch")
    for stage in _STAGES:
        base = base.removeprefix(f"{stage}_").removeprefix(f"{stage}/")
    base = base.split("/")[0] or base
    return "loss" if "loss" in base.split("_") else cut(base, LONGEST_NAME)


def thinned(values: Sequence[float], most: int = MOST_POINTS) -> list[int]:
    """Which values are drawn, in order: all, or the least and the greatest of each stretch, and the first and the last.

    A stretch with a value that is not finite keeps the first such, too, so that the gap is seen.

    Example:
      >>> thinned([0.0, 5.0, 1.0, 2.0, -1.0, 3.0], most=4)
      [0, 1, 4, 5]
    """
    n = len(values)
    if n <= most:
        return list(range(n))
    kept = {0, n - 1}
    stretches = max(most // 2, 1)
    for stretch in range(stretches):
        inside = range(stretch * n // stretches, (stretch + 1) * n // stretches)
        finite = [i for i in inside if isfinite(values[i])]
        if len(finite) < len(inside):
            kept.add(next(i for i in inside if not isfinite(values[i])))
        if finite:
            kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
    return sorted(kept)


def spans_of(events: Sequence[Event]) -> dict[str, Any]:
    """The step at which each epoch begins and ends, by which an event has a place between two epochs."""
    last: dict[int, int] = {}
    for event in events:
        last[event.epoch] = max(event.step, last.get(event.epoch, 0))
    epochs = sorted(last)
    begins = [0, *(last[epoch] for epoch in epochs)][: len(epochs)]
    return {"epochs": array("d", epochs), "begins": array("d", begins), "ends": array("d", [last[e] for e in epochs])}


def _in_order(homes: Mapping[str, type[Event]]) -> list[str]:
    """Names by plot: losses first, learning rates last, and what is measured once an epoch before what is not."""
    plots = groupby(plot_named, homes)

    def rank(plot: str) -> int:
        if plot in ("loss", "learning rate"):
            return 0 if plot == "loss" else 3
        return 2 if all(homes[name] in _PER_BATCH for name in plots[plot]) else 1

    return [
        name for plot in sorted(plots, key=rank) for name in sorted(plots[plot], key=lambda n: homes[n] in _PER_BATCH)
    ]


def _curve(name: str, kind: type[Event], at: Sequence[int], values: Sequence[float]) -> dict[str, Any]:
    kept = thinned(values)
    odd = [i for i, value in enumerate(values) if not isfinite(value)]
    return {
        "name": cut(name, LONGEST_NAME),
        "plot": plot_named(name),
        "batch": kind in _PER_BATCH,
        "of": len(values),
        "at": array("I", [at[i] for i in kept]),
        "value": numbers(values[i] for i in kept),
        "odd": len(odd),
        "odd_at": at[odd[0]] if odd else None,
    }
