"""Keep an exponential moving average of the weights, updated inside the step."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.callbacks.weight_averaging import device_of, is_averaged
from fncb.effects import Apply, View
from fncb.events import AfterOptimizerStep, PredictStart, TestStart, TrainEnd, TrainEpochEnd, ValidationStart
from fncb.fields import must_be_int, must_be_number

if TYPE_CHECKING:
    from torch import Tensor


def ema(
    decay: float = 0.999,
    *,
    device: Any = None,
    use_buffers: bool = True,
    update_every_n_steps: int = 1,
    update_starting_at_step: int | None = None,
    update_starting_at_epoch: int | None = None,
    key: str = "ema",
) -> Callback[EmptyState]:
    """Keeps an exponential moving average of the weights, and validates with it.

    After step t, average_t = decay * average_{t-1} + (1 - decay) * weight_t, with average_0 = weight_0. With
    `update_every_n_steps`, that happens after those steps only whose 0-based number is a multiple of it. As long as the
    start is put off, the average is a copy of the weights, so that it does not remember the untrained ones.

    Once there was an update, each validation is made on a view of the model with the averages, and when training ends
    they are copied into the model. The weights that are being trained are never touched before that: read the averages
    from `run.step_state[key]`. A parameter that is frozen has no average; one that is trained again begins as a copy.
    With several optimizers, a buffer is averaged with the parameter whose name is most like its own.

    Args:
      decay: in [0, 1), dimensionless; 0.999 remembers about 1000 updates. In bfloat16, where 1 - decay is less than
        a parameter's precision, the average hardly moves: keep the parameters in float32.
      device: where the average is kept: as it is updated in the step, that of the parameters, and None is just that.
      use_buffers: whether buffers are averaged too, and copied where they are not of floating point. Of a model whose
        buffers are constants, such as large masks, that is work for nothing.
      update_every_n_steps: optimizer steps, 1 or more; or 0, for an update as each training epoch ends and at no step,
        of which the first is a copy.
      update_starting_at_step: 0-based optimizer step, 0 or more; None for the first.
      update_starting_at_epoch: 0-based epoch, 0 or more, before which there is no update; None for the first.
      key: names the state.

    Returns:
      A `Callback` whose step state maps the name of each parameter, and of each buffer, to a tensor of its shape, dtype
      and device. Costs one extra copy of them.

    Raises:
      ValueError, TypeError: for an argument out of range or of the wrong kind; when training begins, for another device
        than the parameters'.

    Example:
      >>> import torch
      >>> average = ema(decay=0.75).step
      >>> state = average.init({"w": torch.tensor([4.0])})
      >>> after = AfterOptimizerStep(step=torch.tensor(1), params={"w": torch.tensor([0.0])})
      >>> average.on_after_optimizer_step(state, after)
      {'w': tensor([3.])}

    Reference:
      Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.
      Tarvainen and Valpola, "Mean teachers are better role models", 2017, equation 2.

    Known as:
      `EMAWeightAveraging` in Lightning, `use_ema` and `SwapEMAWeights` in Keras, `EMA` in Composer.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    every, start, first_epoch = update_every_n_steps, update_starting_at_step or 0, update_starting_at_epoch or 0
    must_be_number("ema", "decay", decay, "[0, 1)")
    must_be_int("ema", "update_every_n_steps", every, 0, "steps")
    must_be_int("ema", "update_starting_at_step", start, 0)
    must_be_int("ema", "update_starting_at_epoch", first_epoch, 0)
    if every == 0 and update_starting_at_step is not None:
        raise ValueError(
            f"ema: update_starting_at_step must be None where no step updates, got {start}. "
            "Put the start off with update_starting_at_epoch, or let update_every_n_steps be 1 or more."
        )
    device = device_of("ema", device)
    first = -(-start // every) * every if every else 0  # the first 0-based step that updates

    def moved(average: Tensor, weight: Tensor) -> Tensor:
        return decay * average + (1 - decay) * weight if is_averaged(average) else weight

    def init(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        there = {param.device for param in params.values()}
        if device is not None and any(device.type != d.type or device.index not in (None, d.index) for d in there):
            raise ValueError(
                f"ema: device must be that of the parameters, {[*map(str, there)]}, got {str(device)!r}. The average "
                "is updated in their step; weight_averaging(device=...) keeps one elsewhere."
            )
        tensors = {**params, **(getattr(params, "buffers", {}) if use_buffers else {})}
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def on_after_optimizer_step(state: dict[str, Tensor], event: AfterOptimizerStep) -> dict[str, Tensor]:
        import torch

        now = _moved_in(event, state)
        new = {name: moved(average, now[name]) for name, average in state.items() if name in now}
        step: Any = event.step  # a 0-d tensor, as the epoch is, and it counts this step too
        if every > 1:
            due = (step - 1) % every == 0
            new = {name: torch.where(due, each, state[name]) for name, each in new.items()}
        if first > 0:
            new = {name: torch.where(step <= first, now[name], each) for name, each in new.items()}
        if first_epoch > 0:
            early: Any = event.epoch < first_epoch
            new = {name: torch.where(early, now[name], each) for name, each in new.items()}
        return {**state, **new}

    def on_train_epoch_end(state: EmptyState, event: TrainEpochEnd) -> EmptyState | Emit[EmptyState]:
        def fn(params: Any, step_state: Any) -> Any:
            now = {**params, **params.buffers}
            new = {name: moved(each, now[name]) for name, each in step_state[key].items()}
            if event.epoch == first_epoch:
                new = {name: now[name] for name in new}
            return {}, {**step_state, key: new}

        return state if event.epoch < first_epoch else emit(state, Apply(f"{key}: update", fn))

    def views(state: EmptyState, event: ValidationStart | TestStart | PredictStart) -> EmptyState | Emit[EmptyState]:
        updated = event.step > first and event.epoch >= first_epoch if every else event.epoch > first_epoch
        return emit(state, View(key, lambda _, states: states.get(key, {}))) if updated else state

    def on_train_end(state: EmptyState, event: TrainEnd) -> EmptyState | Emit[EmptyState]:
        if event.epoch <= first_epoch or (every and event.step <= first):  # `epoch` counts those that are over
            return state
        return emit(state, Apply(f"{key}: copy into the model", lambda _, states: (states[key], states)))

    return Callback(
        constructor="ema",
        key=key,
        step=StepHooks(init=init, on_after_optimizer_step=on_after_optimizer_step if every else None),
        emits=(Apply, View),
        config={**config, "device": None if device is None else str(device)},
        on_train_epoch_end=None if every else on_train_epoch_end,
        on_validation_start=views,
        on_test_start=views,
        on_predict_start=views,
        on_train_end=on_train_end,
    )


def _moved_in(event: AfterOptimizerStep, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What the turn of an optimizer moved: its parameters, and the buffers next to them."""
    params = event.params
    rest = [name for name in state if name not in params]  # buffers, or parameters of another optimizer
    if not rest:
        return params
    buffers = event.buffers
    others = [name for name in state if name not in buffers]

    def shared(one: str, other: str) -> int:
        pairs = zip(one.split("."), other.split("."), strict=False)
        return len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])

    def is_mine(buffer: str) -> bool:
        return event.optimizer is None or max(others, key=lambda name: shared(name, buffer)) in params

    return {**params, **{name: buffers[name] for name in rest if name in buffers and is_mine(name)}}
