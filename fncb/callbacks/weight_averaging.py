"""Keep an average of the weights that is updated whenever a function says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import attrs

from fncb.callback import Callback, Emit, StepHooks, emit
from fncb.effects import Apply, View
from fncb.events import PredictStart, TestStart, TrainBatchEnd, TrainEnd, TrainEpochEnd, ValidationStart

if TYPE_CHECKING:
    from torch import Tensor


class ShouldUpdate(Protocol):
    """A function that says when an average is updated."""

    def __call__(self, *, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Given one of the two."""
        ...


AvgFn: TypeAlias = "Callable[[Tensor, Tensor, Tensor], Tensor]"
"""The new average, from the one so far, the weight as it is now, and how many are averaged already, a 0-d int64."""


@attrs.frozen
class WeightAveragingState:
    """What `weight_averaging` remembers.

    Attributes:
      latest_update_step: optimizer steps made when it was last updated after one; 0 before the first such update.
      latest_update_epoch: 0-based epoch at whose end it was last updated; None before the first such update.
    """

    latest_update_step: int = 0
    latest_update_epoch: int | None = None


def weight_averaging(
    should_update: ShouldUpdate | None = None,
    *,
    device: Any = None,
    use_buffers: bool = True,
    avg_fn: AvgFn | None = None,
    key: str = "weight_averaging",
) -> Callback[WeightAveragingState]:
    """Asks for an average of the weights to be updated when `should_update` says so, and validates with it.

    The first update copies the weights; after that, average = average + (weight - average) / (n + 1), with n weights
    averaged so far, so that all count alike. Once there was an update, each validation is made on a view of the model
    with the averages, and when training ends they are copied into the model. The weights that are being trained are
    never touched before that. A parameter that is frozen is not averaged; one that is trained again is, from then on.

    Each update is some operations a parameter after the step, not part of it: to average at every step, `ema` is the
    faster way.

    Args:
      should_update: a pure function. It is asked `should_update(step_idx=i)` after each optimizer step, i its 0-based
        number (steps that were skipped count too), and `should_update(epoch_idx=i)` as each training epoch ends. Each
        step and each epoch is averaged once at most. None is every step and no epoch.
      device: where the average is kept, for example "cpu" to spare the accelerator's memory, for whose copy each update
        then waits; None is where the weights are.
      use_buffers: whether buffers are averaged too, and copied where they are not of floating point; otherwise the
        model's own are used.
      avg_fn: `avg_fn(average, weight, n)` gives another average, of each tensor; what it gives for the first update,
        with n = 0, does not count.
      key: names the state.

    Returns:
      A `Callback` with `WeightAveragingState`, whose step state has `average`, a tensor for each name, and
      `n_averaged`, a 0-d int64 tensor. It costs the memory of one copy of the weights, and nothing inside the step.

    Raises:
      TypeError: if a function is none.
      ValueError: for a device that is none.

    Example:
      >>> late = weight_averaging(lambda step_idx=None, epoch_idx=None: epoch_idx is not None and epoch_idx >= 2)
      >>> late.transition(late.init(), TrainEpochEnd(epoch=1, step=20))
      (WeightAveragingState(latest_update_step=0, latest_update_epoch=None), ())
      >>> late.transition(late.init(), TrainEpochEnd(epoch=2, step=30))
      (WeightAveragingState(latest_update_step=0, latest_update_epoch=2), (Apply(name='weight_averaging: update'),))

    Reference:
      Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.

    Known as:
      `WeightAveraging` in Lightning, `AveragedModel` in torch.

    Lightning's further arguments are those of `AveragedModel`, of which only `avg_fn` is left: a function of all
    tensors at once is an `Apply` of one's own.
    """
    wanted = _every_step if should_update is None else should_update
    average = running_mean if avg_fn is None else avg_fn
    for name, function in (("should_update", wanted), ("avg_fn", average)):
        if not callable(function):
            raise TypeError(f"weight_averaging: {name} must be a function or None, got {function!r}.")
    device = device_of("weight_averaging", device)
    update, view = updates(key, average), View(key, lambda params, states: averages(key, params, states))

    def on_train_batch_end(state: WeightAveragingState, event: TrainBatchEnd) -> Any:
        if event.step <= state.latest_update_step or not wanted(step_idx=event.step - 1):
            return state
        return emit(attrs.evolve(state, latest_update_step=event.step), update)

    def on_train_epoch_end(state: WeightAveragingState, event: TrainEpochEnd) -> Any:
        latest = -1 if state.latest_update_epoch is None else state.latest_update_epoch
        if event.epoch <= latest or not wanted(epoch_idx=event.epoch):
            return state
        return emit(attrs.evolve(state, latest_update_epoch=event.epoch), update)

    def asks_for(effect: View | Apply) -> Callable[[WeightAveragingState, Any], Any]:
        def once_updated(
            state: WeightAveragingState, event: ValidationStart | TestStart | PredictStart | TrainEnd
        ) -> WeightAveragingState | Emit[WeightAveragingState]:
            return state if state == WeightAveragingState() else emit(state, effect)

        return once_updated

    return Callback(
        constructor="weight_averaging",
        key=key,
        init=WeightAveragingState,
        step=keeps_average(device, use_buffers),
        emits=(Apply, View),
        config={
            "should_update": should_update,
            "device": None if device is None else str(device),
            "use_buffers": use_buffers,
            "avg_fn": avg_fn,
        },
        on_train_batch_end=on_train_batch_end,
        on_train_epoch_end=on_train_epoch_end,
        on_validation_start=asks_for(view),
        on_test_start=asks_for(view),
        on_predict_start=asks_for(view),
        on_train_end=asks_for(copies_into_model(key)),
    )


def _every_step(step_idx: int | None = None, **_: Any) -> bool:
    return step_idx is not None


def device_of(who: str, device: Any) -> Any:
    """A `torch.device`, or None; raises `ValueError` for what is neither that nor its name."""
    import torch

    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{who}: device must be a device such as 'cpu' or None, got {device!r}.") from error


def is_averaged(tensor: Tensor) -> bool:
    """Whether a weight has an average: a count or a mask has none."""
    return tensor.is_floating_point() or tensor.is_complex()


def running_mean(average: Tensor, weight: Tensor, n_averaged: Tensor) -> Tensor:
    """The mean of all weights so far."""
    return average + (weight - average) / (n_averaged + 1)


def keeps_average(device: Any, use_buffers: bool) -> StepHooks[dict[str, Any]]:
    """A step half without hooks, which costs nothing in the step: `{"average": {name: tensor}, "n_averaged": n}`."""

    def init(params: Any) -> dict[str, Any]:
        import torch

        tensors = {**params, **(getattr(params, "buffers", {}) if use_buffers else {})}
        copies = {name: tensor.detach().to(device, copy=True) for name, tensor in tensors.items()}
        kept_on = next((copy.device for copy in copies.values()), device)
        return {"average": copies, "n_averaged": torch.zeros((), dtype=torch.int64, device=kept_on)}

    return StepHooks(init=init)


def updates(key: str, average: AvgFn) -> Apply:
    """Has the averages of `keeps_average` take in the weights as they are; the first time, copies them."""

    def fn(params: Any, step_state: Any) -> tuple[dict[str, Tensor], Any]:
        import torch

        kept, now = step_state[key], {**params, **params.buffers}
        n = kept["n_averaged"]

        def new(so_far: Tensor, weight: Tensor) -> Tensor:
            weight = weight.to(so_far.device)
            return torch.where(n == 0, weight, average(so_far, weight, n)) if is_averaged(so_far) else weight

        averaged = {name: new(so_far, now[name]) for name, so_far in kept["average"].items()}
        return {}, {**step_state, key: {"average": averaged, "n_averaged": n + 1}}

    return Apply(f"{key}: update", fn)


def averages(key: str, params: Any, step_state: Any) -> dict[str, Tensor]:
    """The averages, where the weights are; none in a run that does not keep them."""
    there = {**params, **params.buffers}
    kept = step_state.get(key, {}).get("average", {})
    return {name: average.to(there[name].device) for name, average in kept.items()}


def copies_into_model(key: str) -> Apply:
    """Has the averages take the place of the weights."""
    return Apply(f"{key}: copy into the model", lambda params, states: (averages(key, params, states), states))
