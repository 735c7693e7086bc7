"""Runs made up by hypothesis: events in the order in which `fit` makes them."""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from math import inf, nan
from typing import Any

import attrs
import hypothesis.strategies as st

from fncb import events as ev

RATES = (0.5, 0.25, 0.0)
NUMBERS = (0.0, 0.5, -0.5, 1.0, 1.5, -1.5, 1e30, nan, inf, -inf)
METRICS: tuple[str, ...] = ("loss", "val_loss", "lr-SGD")
_IN_BATCH = (ev.BeforeZeroGrad, ev.BeforeBackward, ev.AfterBackward, ev.BeforeOptimizerStep, ev.AfterOptimizerStep)
_ANSWERS = (ev.Saved, ev.SaveCheckpoint, ev.StepCompiled, ev.Probed, ev.StopRequested)
_ENDS = ((ev.TrainEnd, ev.FitEnd, ev.Teardown), (ev.ExceptionRaised, ev.Teardown))


def events(
    metrics: Sequence[str] = METRICS,
    *,
    max_epochs: int = 3,
    max_batches: int = 3,
    values: Sequence[float] = NUMBERS,
    kinds: Collection[type[ev.Event]] | None = None,
) -> st.SearchStrategy[list[ev.Event]]:
    """A hypothesis strategy of valid runs: events in the order in which `fit`, `test` and `predict` make them.

    A run has up to `max_epochs` epochs of up to `max_batches` batches, with a sanity check and validations or without,
    ends well or with an exception, and may be followed by a test and a prediction. Time and the number of steps only
    grow. Now and then a batch is followed by the answer to an effect: `Saved`, `Probed` and the like. There are no live
    fields, and no `val_` metrics at the end of an epoch without a validation.

    Args:
      metrics: names of the metrics that events carry; one of them is missing now and then. Those that begin with `lr-`
        are learning rates, 0.5 or less.
      max_epochs: 1 or more.
      max_batches: of an epoch, 1 or more.
      values: what a metric may be; the first of them is the simplest.
      kinds: classes of event to leave in the run, all others are left out of it; None leaves all in.

    Example:
      >>> from hypothesis import find
      >>> run = find(events(kinds=[ev.ValidationEnd]), lambda run: len(run) > 1)
      >>> [(event.step, event.metrics["val_loss"]) for event in run]  # the first one is of a sanity check
      [(0, 0.0), (1, 0.0)]
    """
    wanted = frozenset(ev.HOOKS.values() if kinds is None else kinds)
    return _kinds(max_epochs, max_batches).flatmap(lambda run: _filled(run, tuple(metrics), tuple(values), wanted))


@st.composite
def _kinds(draw: Any, max_epochs: int, max_batches: int) -> list[Any]:
    """Classes of event in order; a pair is one of them with the number of batches that follow."""
    found: list[Any] = [ev.InitStart, ev.InitEnd, ev.Setup, ev.ConfigureShardedModel, ev.FitStart]
    if draw(st.booleans()):
        found += [ev.SanityCheckStart, *_evaluation("Validation", 1), ev.SanityCheckEnd]
    found += [ev.TrainStart]
    validations = draw(st.lists(st.sampled_from((True, False)), min_size=1, max_size=max_epochs))
    for validates in validations:
        found += [ev.EpochStart, ev.TrainEpochStart]
        for _ in range(draw(st.integers(1, max_batches))):
            found += [ev.TrainBatchStart, *_IN_BATCH, ev.TrainBatchEnd]
            found += draw(st.lists(st.sampled_from(_ANSWERS), max_size=2))
        if validates:
            found += [*_evaluation("Validation", draw(st.integers(0, max_batches))), ev.Saved]
        found += [ev.TrainEpochEnd, ev.EpochEnd]
    found += draw(st.sampled_from(_ENDS))
    for stage in draw(st.sampled_from(((), ("Test",), ("Predict",)))):
        found += [ev.Setup, *_evaluation(stage, 1), ev.Teardown]
    return found


def _evaluation(stage: str, batches: int) -> list[Any]:
    start, epoch_start, batch_start, batch_end, epoch_end, end = (
        getattr(ev, f"{stage}{what}") for what in ("Start", "EpochStart", "BatchStart", "BatchEnd", "EpochEnd", "End")
    )
    return [start, epoch_start, *[batch_start, batch_end] * batches, epoch_end, end]


@st.composite
def _filled(
    draw: Any, kinds: list[Any], metrics: tuple[str, ...], values: tuple[float, ...], wanted: frozenset[Any]
) -> list[ev.Event]:
    delays = draw(st.lists(st.sampled_from((0.0, 0.125, 0.5, 4.0)), min_size=len(kinds), max_size=len(kinds)))
    number, rate = st.sampled_from(values), st.sampled_from(RATES)
    lacks = draw(st.none() | st.none() | st.tuples(st.sampled_from(metrics), st.integers(0, len(kinds)))) or ("", -1)
    unvalidated = _ends_without_validation(kinds)
    measured = [
        {
            name: draw(rate if name.startswith("lr-") else number)
            for name in metrics
            if lacks != (name, place) and not (place in unvalidated and name.startswith("val_"))
        }
        if kind in wanted and "metrics" in _fields(kind)
        else {}
        for place, kind in enumerate(kinds)
    ]
    return [event for event in _made(kinds, delays, measured, draw(st.booleans())) if type(event) in wanted]


def _ends_without_validation(kinds: list[Any]) -> set[int]:
    """The places of `TrainEpochEnd` in epochs that were not validated."""
    found, validated = set(), False
    for place, kind in enumerate(kinds):
        validated = kind is ev.ValidationEnd or (validated and kind is not ev.EpochStart)
        if kind is ev.TrainEpochEnd and not validated:
            found.add(place)
    return found


def whole_run(metrics: Mapping[str, float]) -> list[ev.Event]:
    """One run that is always the same and has every hook's event, with the same metrics in each."""
    kinds = [ev.InitStart, ev.InitEnd, ev.Setup, ev.LoadCheckpoint, ev.ConfigureShardedModel, ev.FitStart]
    kinds += [ev.SanityCheckStart, *_evaluation("Validation", 1), ev.SanityCheckEnd, ev.TrainStart]
    for _ in range(2):
        batch = [ev.TrainBatchStart, *_IN_BATCH, ev.TrainBatchEnd, *_ANSWERS]
        kinds += [ev.EpochStart, ev.TrainEpochStart, *batch, *batch, *_evaluation("Validation", 1)]
        kinds += [ev.TrainEpochEnd, ev.EpochEnd]
    kinds += [ev.KeyboardInterrupted, ev.ExceptionRaised, ev.TrainEnd, ev.FitEnd, ev.Teardown]
    kinds += [*_evaluation("Test", 1), *_evaluation("Predict", 1)]
    return _made(kinds, [1.0] * len(kinds), [metrics] * len(kinds), True)


def _made(kinds: list[Any], delays: list[float], measured: Sequence[Any], epoch_is_over: bool) -> list[ev.Event]:
    epoch = step = batch = 0
    seconds, found, stage = 0.0, [], "fit"
    for place, kind in enumerate(kinds):
        seconds += delays[place]
        epoch += kind is ev.EpochStart and ev.EpochEnd in kinds[:place]
        step += kind is ev.AfterOptimizerStep
        if kind in _BEGIN:
            batch, stage = 0, _BEGIN[kind]
        name = f"runs/a/epoch={epoch}-step={step}.safetensors"
        known: dict[str, Any] = {
            "epoch": epoch,
            "step": step,
            "seconds": seconds,
            "batch_idx": batch,
            "metrics": measured[place],
            "path": name,
            "requested": name,
            "epoch_is_over": epoch_is_over,
            "stage": stage,
            "samples": 4,
            "time": 1e9 + seconds,
            "batches": 3,
            "error": "KeyError",
            "reason": "enough",
            "graphs": 1,
            "max_epochs": kinds.count(ev.TrainEpochStart),
            "what": "device",
            "key": "somebody",
            "at": "on_train_batch_end",
            "waited": delays[place],
        }
        names = _fields(kind)
        found.append(kind(**{name: value for name, value in known.items() if name in names}))
        batch += kind.__name__.endswith("BatchEnd")
    return found


_BEGIN = {ev.TrainEpochStart: "fit", ev.ValidationStart: "fit", ev.TestStart: "test", ev.PredictStart: "predict"}


@cache
def _fields(kind: type) -> set[str]:
    return {field.alias or field.name for field in attrs.fields(kind)}
