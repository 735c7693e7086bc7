"""End a training with the weights of its best validation."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Literal

import attrs

from fncb.callback import Callback, Emit, StepHooks, emit
from fncb.callbacks.pausing import pausing
from fncb.effects import Apply
from fncb.events import TrainEnd, ValidationEnd
from fncb.fields import must_be_metric, must_be_number, must_be_one_of
from fncb.tree import leaves

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen
class RestoreBestState:
    """What `restore_best` remembers.

    Attributes:
      best: the best value, in the metric's own unit; None before the first finite one.
      epoch: of the validation that it is of; None before.
      step: likewise.
      paused: whether nothing is a check now: in a sanity check, a `fast_dev_run` or a run that does not train.
    """

    best: float | None = None
    epoch: int | None = None
    step: int | None = None
    paused: bool = False


def restore_best(
    monitor: str,
    *,
    mode: Literal["min", "max"] = "min",
    min_delta: float = 0.0,
    averaged: str | None = None,
    key: str = "restore_best",
) -> Callback[RestoreBestState]:
    """Asks for `Apply` to keep the best weights at validations, and to put them back when training ends.

    A validation in training is the best when its value is finite and better than the best so far by more than
    `min_delta`: a tie is no improvement. What is kept are the parameters that are trained and all buffers, in a copy in
    memory; frozen parameters do not change. The copy is part of a checkpoint, so a run that goes on knows the best of
    the whole of it, and `fncb.load(path, averaged="restore_best")` takes it out. A training without any finite value is
    left as it ends.

    Where a callback validates an average of the weights, as `ema` does, name it with `averaged`, and give it before
    this one: both change the model when training ends, in the order given.

    Args:
      monitor: the metric's name.
      mode: whether less ("min") or more ("max") is better.
      min_delta: in the metric's unit, 0 or more.
      averaged: the key of a callback whose averages are kept in place of the weights; None keeps the weights.
      key: names the state.

    Returns:
      A `Callback` with `RestoreBestState`, whose step state maps the names of parameters and buffers to tensors of
      their shape, dtype and device. Costs one extra copy of them, and nothing in the step.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.
      MissingMetric: when a validation ends without the metric.
      KeyError: when one is the best, if there is no callback `averaged` with a step half.

    Example:
      >>> best = restore_best("val_loss")
      >>> state, effects = best.transition(best.init(), ValidationEnd(epoch=1, step=8, metrics={"val_loss": 0.5}))
      >>> state, effects
      (RestoreBestState(best=0.5, epoch=1, step=8, paused=False), (Apply(name='keep_best'),))
      >>> best.transition(state, TrainEnd())[1]
      (Apply(name='restore_best'),)

    Known as:
      `EarlyStopping(restore_best_weights=True)` in Keras.
    """
    must_be_metric("restore_best", monitor)
    must_be_one_of("restore_best", "mode", mode, ("min", "max"))
    must_be_number("restore_best", "min_delta", min_delta, "[0, inf)")
    sign = 1.0 if mode == "min" else -1.0  # sign * value: less is better

    def keep(params: Any, step_state: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        now = {**params.buffers, **params}
        if averaged is not None:
            kept = dict(leaves(step_state[averaged]))
            now = {name: kept.get(name, kept.get(f"average.{name}", own)) for name, own in now.items()}
        return {}, {**step_state, key: {name: now[name] for name in step_state[key]}}

    def put_back(_: Any, step_state: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        return step_state[key], step_state

    def on_validation_end(state: RestoreBestState, event: ValidationEnd) -> RestoreBestState | Emit[RestoreBestState]:
        if state.paused:
            return state
        value = event.metrics[monitor]  # waits for the device, once a validation
        if not isfinite(value) or sign * value >= (inf if state.best is None else sign * state.best - min_delta):
            return state
        return emit(attrs.evolve(state, best=value, epoch=event.epoch, step=event.step), Apply("keep_best", keep))

    def on_train_end(state: RestoreBestState, event: TrainEnd) -> RestoreBestState | Emit[RestoreBestState]:
        if state.best is None or state.paused:
            return state
        return emit(state, Apply("restore_best", put_back))

    return Callback(
        constructor="restore_best",
        key=key,
        init=RestoreBestState,
        step=StepHooks(init=lambda params: {**getattr(params, "buffers", {}), **params}, lasts=True),
        emits=(Apply,),
        config={"monitor": monitor, "mode": mode, "min_delta": min_delta, "averaged": averaged},
        on_validation_end=on_validation_end,
        on_train_end=on_train_end,
        **pausing(),
    )
