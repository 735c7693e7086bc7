"""Average the weights of the last epochs, at a learning rate that stays high."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi
from typing import Any, Literal

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.callbacks.weight_averaging import (
    AvgFn,
    copies_into_model,
    device_of,
    keeps_average,
    running_mean,
    updates,
)
from fncb.effects import Apply, HoldSchedules, RefreshBatchNorm, SetLR
from fncb.events import FitStart, TrainEnd, TrainEpochEnd, TrainEpochStart, TrainStart
from fncb.fields import must_be_int, must_be_one_of


@attrs.frozen
class SwaState:
    """What `swa` remembers.

    Attributes:
      start: 0-based epoch that is the first to be averaged; None until a fit begins.
      initial_lrs: the learning rate of each parameter group as that epoch began; empty before.
      n_averaged: epochs averaged so far.
    """

    start: int | None = None
    initial_lrs: tuple[float, ...] = ()
    n_averaged: int = 0


def swa(
    swa_lrs: float | Sequence[float],
    *,
    swa_epoch_start: int | float = 0.8,
    annealing_epochs: int = 10,
    annealing_strategy: Literal["cos", "linear"] = "cos",
    avg_fn: AvgFn | None = None,
    device: Any = None,
    key: str = "swa",
) -> Callback[SwaState]:
    """Asks for the mean of the weights at the end of each of the last epochs, and for rates that keep them moving.

    From the first of these epochs on, the task's schedules rest, and epoch k of them, counted from 0, trains with the
    rate (1 - a) * lr + a * swa_lr, where lr is the rate as they began and a is (1 - cos(pi t)) / 2, or t where
    annealing is linear, with t = min(1, k / annealing_epochs). As each ends, average = average + (weight - average) /
    (n + 1), with n epochs averaged so far. When training ends, the averages are copied into the model and the running
    statistics of batch normalisation, which are none of the averaged weights, are measured anew in one pass over the
    training batches. Validation before that is of the weights being trained. It does nothing between epochs, and a run
    that ends before the first of these epochs ends is as without it.

    Args:
      swa_lrs: the learning rate to come to, more than 0, for all parameter groups or one for each that there is when
        training starts.
      swa_epoch_start: the first epoch to average: its number, counted from 1, or as a fraction of `max_epochs` in
        [0.0, 1.0].
      annealing_epochs: 0 or more; with 0 the rate is `swa_lrs` at once.
      annealing_strategy: how the rates come to `swa_lrs`.
      avg_fn: `avg_fn(average, weight, n)` gives another average; what it gives for the first epoch, with n = 0, does
        not count.
      device: where the average is kept; None is where the weights are.
      key: names the state.

    Returns:
      A `Callback` with `SwaState`, whose step state has `average`, a tensor for each name, and `n_averaged`. It costs
      the memory of one copy of the parameters, and nothing inside the step.

    Raises:
      TypeError, ValueError: for arguments out of range or of the wrong kind; when training starts, for a fraction of no
        limit of epochs, for several optimizers, or for another number of rates than there are parameter groups.

    Example:
      >>> average = swa(0.25, swa_epoch_start=2, annealing_epochs=2, annealing_strategy="linear")
      >>> state, _ = average.transition(average.init(), FitStart(max_epochs=5))
      >>> state, effects = average.transition(state, TrainEpochStart(epoch=1, metrics={"lr-SGD": 0.5}))
      >>> effects
      (HoldSchedules(), SetLR(lr=0.5, group=0, optimizer=None))
      >>> average.transition(state, TrainEpochStart(epoch=2, metrics={"lr-SGD": 0.5}))[1]
      (SetLR(lr=0.375, group=0, optimizer=None),)

    Reference:
      Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, "Averaging Weights Leads to Wider Optima and Better
      Generalization", 2018, algorithm 1.

    Known as:
      `StochasticWeightAveraging` in Lightning, `SWA` in Composer, `AveragedModel` with `SWALR` in torch.

    Lightning averages as epochs start and trains no epoch after the last; here the weights that the last one ends with
    count, and there is no epoch beyond `max_epochs`.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    rates = [swa_lrs] if isinstance(swa_lrs, float) else swa_lrs
    if not isinstance(rates, list | tuple) or not rates or not all(isinstance(lr, float) and lr > 0 for lr in rates):
        raise ValueError(f"swa: swa_lrs must be a float more than 0, or several such, got {swa_lrs!r}.")
    _check_start(swa_epoch_start)
    must_be_int("swa", "annealing_epochs", annealing_epochs, 0, "epochs")
    must_be_one_of("swa", "annealing_strategy", annealing_strategy, ("cos", "linear"))
    if avg_fn is not None and not callable(avg_fn):
        raise TypeError(f"swa: avg_fn must be a function or None, got {avg_fn!r}.")
    device = device_of("swa", device)
    update, copy = updates(key, avg_fn or running_mean), copies_into_model(key)

    def on_fit_start(state: SwaState, event: FitStart) -> SwaState:
        if state.initial_lrs:
            return state  # of a run that goes on where averaging has begun
        if isinstance(swa_epoch_start, int):
            return attrs.evolve(state, start=swa_epoch_start - 1)
        if event.max_epochs < 0:
            raise ValueError(
                f"swa: a fraction, swa_epoch_start={swa_epoch_start}, must be of some max_epochs, got no limit. Pass "
                "max_epochs to fit, or the number of an epoch here."
            )
        return attrs.evolve(state, start=max(int(swa_epoch_start * event.max_epochs) - 1, 0))

    def on_train_start(state: SwaState, event: TrainStart) -> SwaState:
        if not state.initial_lrs:
            _for_each(rates, _lrs(event))
        return state

    def on_train_epoch_start(state: SwaState, event: TrainEpochStart) -> SwaState | Emit[SwaState]:
        k = -1 if state.start is None else event.epoch - state.start
        if k < 0:
            return state
        begins = () if state.initial_lrs else (HoldSchedules(),)
        state = state if state.initial_lrs else attrs.evolve(state, initial_lrs=tuple(_lrs(event)))
        t = min(1.0, k / annealing_epochs) if annealing_epochs else 1.0
        a = (1 - cos(pi * t)) / 2 if annealing_strategy == "cos" else t
        both = zip(state.initial_lrs, _for_each(rates, state.initial_lrs), strict=True)
        return emit(state, *begins, *(SetLR((1 - a) * lr + a * to, group=i) for i, (lr, to) in enumerate(both)))

    def on_train_epoch_end(state: SwaState, event: TrainEpochEnd) -> SwaState | Emit[SwaState]:
        if state.start is None or event.epoch < state.start:
            return state
        return emit(attrs.evolve(state, n_averaged=state.n_averaged + 1), update)

    def on_train_end(state: SwaState, event: TrainEnd) -> SwaState | Emit[SwaState]:
        return emit(state, copy, RefreshBatchNorm()) if state.n_averaged else state

    return Callback(
        constructor="swa",
        key=key,
        init=SwaState,
        step=keeps_average(device, use_buffers=False),
        emits=(Apply, HoldSchedules, RefreshBatchNorm, SetLR),
        config={**config, "device": None if device is None else str(device)},
        on_fit_start=on_fit_start,
        on_train_start=on_train_start,
        on_train_epoch_start=on_train_epoch_start,
        on_train_epoch_end=on_train_epoch_end,
        on_train_end=on_train_end,
    )


def _check_start(start: Any) -> None:
    counts = isinstance(start, int) and not isinstance(start, bool) and start >= 1
    if not counts and not (isinstance(start, float) and 0 <= start <= 1):
        raise ValueError(
            f"swa: swa_epoch_start must be an epoch, 1 or later, or a fraction in [0.0, 1.0], got {start!r}."
        )


def _lrs(event: TrainStart | TrainEpochStart) -> list[float]:
    """The learning rate of each parameter group, in order: they are known on the host."""
    named = {name: event.metrics[name] for name in event.metrics if name.startswith("lr-")}
    # beside them may be what others logged, such as `lr-SGD-momentum`, and names of groups that are no longer there
    named = {name: lr for name, lr in named.items() if not name.endswith(("-momentum", "-weight_decay"))}
    optimizers = {name.partition("/")[0] for name in named}
    if len(optimizers) != 1:
        raise ValueError(f"swa: there must be one optimizer, got rates of {sorted(optimizers)}.")
    return [lr for name, lr in named.items() if "/" in name] or [*named.values()]


def _for_each(rates: Sequence[float], groups: Sequence[float]) -> Sequence[float]:
    """A rate for each parameter group."""
    if len(rates) not in (1, len(groups)):
        raise ValueError(f"swa: swa_lrs must be one rate or one for each of {len(groups)} groups, got {[*rates]}.")
    return rates if len(rates) == len(groups) else [rates[0]] * len(groups)
