"""Set a number of the training to a function of the epoch or the step."""

from collections.abc import Callable
from math import isfinite
from typing import Any, Literal

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.effects import HoldSchedules, Set
from fncb.events import Event, TrainBatchStart, TrainStart
from fncb.fields import is_number, must_be_callable, must_be_one_of


def schedule(
    setting: str,
    value: Callable[[int], float],
    *,
    interval: Literal["epoch", "step"] = "epoch",
    key: str | None = None,
) -> Callback[EmptyState]:
    """Asks for `Set`: a number of the training becomes a function of the epoch or the step.

    It is set as training starts, also in a run that goes on, and then as each epoch starts, or before each batch whose
    step has another value than the step before.

    What a change costs in the compiled step depends on what is set:

    - `lr`: nothing. The task's own schedules rest from then on, for good.
    - `accumulate_grad_batches`: at most a graph for batches that accumulate, and one for those that update.
    - `step_state.<key>.<path>`, a 0-d tensor that a callback keeps in the step: nothing.
    - `optimizer.<name>`, a setting of every parameter group, such as `optimizer.weight_decay` or `optimizer.betas.0`:
      from the first change on the optimizer runs outside of the graph, for good.
    - `model.<path>`, an attribute of a submodule, such as `model.dropout.p`: the step is compiled anew at each
      change, which takes seconds, so change it rarely.

    Args:
      setting: as above.
      value: a pure function of the 0-based epoch, or of the number of steps made, that gives a finite number. Where
        the setting is an int, a whole number stays one.
      interval: what it is a function of.
      key: names the callback; `schedule(<setting>)` by default.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      TypeError: for a setting that is no text and a value that is no function, or, from a run, gives no number.
      ValueError: for an unknown setting or interval.

    Example:
      >>> from fncb.events import TrainEpochStart
      >>> later = schedule("model.dropout.p", lambda epoch: 0.5 if epoch < 10 else 0.25)
      >>> [later.transition(later.init(), TrainEpochStart(epoch=epoch))[1] for epoch in (9, 10)]
      [(Set(setting='model.dropout.p', value=0.5),), (Set(setting='model.dropout.p', value=0.25),)]

    Known as:
      `LearningRateScheduler` in Keras, `optax.inject_hyperparams` in optax, `ParamScheduler` in fastai.
    """
    if not isinstance(setting, str):
        raise TypeError(f"schedule: setting must be the name of a number, got {setting!r}.")
    kind, _, rest = setting.partition(".")
    if setting not in ("lr", "accumulate_grad_batches") and not (kind in ("optimizer", "model", "step_state") and rest):
        raise ValueError(
            "schedule: setting must be lr, accumulate_grad_batches, optimizer.<name>, model.<path> or "
            f"step_state.<key>.<path>, got {setting!r}."
        )
    must_be_callable("schedule", "value", value)
    must_be_one_of("schedule", "interval", interval, ("epoch", "step"))

    def at(n: int) -> Set:
        found: Any = value(n)
        if not is_number(found) or not isfinite(found):
            raise TypeError(f"schedule: value must give a finite number, got {found!r} for {interval} {n}.")
        return Set(setting, found)

    def set_now(state: EmptyState, event: Event) -> Emit[EmptyState]:
        return emit(state, at(getattr(event, interval)))

    def on_train_start(state: EmptyState, event: TrainStart) -> Emit[EmptyState]:
        held = (HoldSchedules(),) if setting == "lr" else ()
        return emit(state, *held, at(getattr(event, interval)))

    def on_train_batch_start(state: EmptyState, event: TrainBatchStart) -> EmptyState | Emit[EmptyState]:
        now = at(event.step)
        return state if event.step == 0 or now == at(event.step - 1) else emit(state, now)

    return Callback(
        constructor="schedule",
        key=key or f"schedule({setting})",
        emits=(Set, HoldSchedules) if setting == "lr" else (Set,),
        config={
            "setting": setting,
            "value": getattr(value, "__qualname__", type(value).__name__),
            "interval": interval,
        },
        on_train_start=on_train_start,
        on_train_epoch_start=set_now if interval == "epoch" else None,
        on_train_batch_start=on_train_batch_start if interval == "step" else None,
    )
