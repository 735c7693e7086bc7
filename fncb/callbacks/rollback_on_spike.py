"""Go back to good weights when the loss spikes."""

from math import inf, isfinite

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import Print, Remember, Rollback, Stop
from fncb.events import TrainBatchEnd, TrainEnd
from fncb.fields import must_be_int, must_be_metric, must_be_number


@attrs.frozen
class RollbackOnSpikeState:
    """What `rollback_on_spike` remembers.

    Attributes:
      recent: the last good values, at most `window`, oldest first.
      step: optimizer steps at the last look; 0 before the first.
      remembered: optimizer steps when the weights were remembered; None before the first time.
      spikes: how many there were.
    """

    recent: tuple[float, ...] = ()
    step: int = 0
    remembered: int | None = None
    spikes: int = 0


def rollback_on_spike(
    monitor: str = "loss",
    *,
    factor: float = 2.0,
    window: int = 20,
    every_n_steps: int = 100,
    look_every_n_steps: int = 1,
    budget: int = 3,
    key: str = "rollback_on_spike",
) -> Callback[RollbackOnSpikeState]:
    """Asks for `Rollback` when a training metric spikes, and for `Remember` now and then while it is good.

    A look is taken at the batch that makes an optimizer step. The value is a spike if it is not finite or, once there
    are `window` good ones, if it is more than m + (factor - 1) * |m|, where m is the mean of the last `window` good
    ones: `factor` times the mean of a loss that is positive. Otherwise it is good.

    At a good one, parameters, buffers, optimizers and step states are remembered in memory, if they have not been for
    `every_n_steps` steps; the first one always is. A spike puts back what was remembered. Learning rates, counters and
    data go on, so that the batches which led to it are not seen again. After more than `budget` spikes it asks for
    `Stop` too, and likewise at a spike before anything was remembered. A resumed run goes on with all of this.

    A loss is that of the weights before the step of its batch. So if it was the very step at which they were
    remembered that did the damage, going back does not help, and the budget ends the run.

    Args:
      monitor: the metric's name, where less is better. Batches without it are passed over.
      factor: more than 1, dimensionless.
      window: good values, 1 or more.
      every_n_steps: optimizer steps, 1 or more.
      look_every_n_steps: optimizer steps, 1 or more. Each look waits for the device.
      budget: spikes, 0 or more.
      key: names the state.

    Returns:
      A `Callback` with `RollbackOnSpikeState`. Costs one copy of all that is trained.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> guard = rollback_on_spike(window=1)
      >>> state, effects = guard.transition(guard.init(), TrainBatchEnd(step=1, metrics={"loss": 0.5}))
      >>> effects
      (Remember(),)
      >>> guard.transition(state, TrainBatchEnd(step=2, metrics={"loss": 1.5}))[1][0]
      Rollback()

    Reference:
      Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, section 5.1: training goes on from a
      checkpoint from before the spike, and leaves out the batches around it.

    Known as:
      nothing elsewhere.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    must_be_metric("rollback_on_spike", monitor)
    must_be_number("rollback_on_spike", "factor", factor, "(1, inf)")
    for name, least in {"window": 1, "every_n_steps": 1, "look_every_n_steps": 1, "budget": 0}.items():
        must_be_int("rollback_on_spike", name, config[name], least)

    def bar(recent: tuple[float, ...]) -> float:
        if len(recent) < window:
            return inf
        mean = sum(recent[-window:]) / window
        return mean + (factor - 1) * abs(mean)

    def on_train_batch_end(
        state: RollbackOnSpikeState, event: TrainBatchEnd
    ) -> RollbackOnSpikeState | Emit[RollbackOnSpikeState]:
        # batches that accumulate share a step, and the first of them made it
        if event.step <= state.step or event.step % look_every_n_steps or monitor not in event.metrics:
            return state
        value, most = event.metrics[monitor], bar(state.recent)  # waits for the device
        state = attrs.evolve(state, step=event.step)
        if isfinite(value) and value <= most:
            state = attrs.evolve(state, recent=(*state.recent, value)[-window:])
            if state.remembered is not None and event.step - state.remembered < every_n_steps:
                return state
            return emit(attrs.evolve(state, remembered=event.step), Remember())
        spiked = f"{monitor} is {value:g} at step {event.step}"
        if state.remembered is None:
            return emit(state, Stop(f"{spiked}, before there was anything to go back to"))
        state = attrs.evolve(state, spikes=state.spikes + 1)
        told = Print(f"rollback_on_spike: {spiked}: back to the weights of step {state.remembered}")
        enough = [Stop(f"{spiked}: spike {state.spikes}, of {budget} that may be")] if state.spikes > budget else []
        return emit(state, Rollback(), told, *enough)

    def on_train_end(state: RollbackOnSpikeState, event: TrainEnd) -> RollbackOnSpikeState | Emit[RollbackOnSpikeState]:
        if state.step > 0:
            return state
        return emit(state, Print(f"rollback_on_spike: nothing was looked at: no batch had {monitor!r}"))

    return Callback(
        constructor="rollback_on_spike",
        key=key,
        init=RollbackOnSpikeState,
        emits=(Remember, Rollback, Print, Stop),
        config=config,
        on_train_batch_end=on_train_batch_end,
        on_train_end=on_train_end,
    )
