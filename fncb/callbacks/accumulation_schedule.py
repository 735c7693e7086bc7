"""Change how many batches an optimizer step accumulates, epoch by epoch."""

from collections.abc import Mapping

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.effects import SetAccumulation
from fncb.events import TrainEpochStart
from fncb.fields import must_be_int


def accumulation_schedule(scheduling: Mapping[int, int], *, key: str = "accumulation_schedule") -> Callback[EmptyState]:
    """Asks for `SetAccumulation` as each training epoch starts.

    An epoch's factor is that of the largest epoch in `scheduling` that is not after it; before the first one it is 1.
    A run that goes on in the middle of an epoch has the factor that it was saved with. `fit` refuses to take an
    `accumulate_grad_batches` of more than 1 beside it.

    Args:
      scheduling: batches per optimizer step, 1 or more, by 0-based epoch: `{0: 4, 10: 1}` accumulates 4 batches in
        the first ten epochs.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      TypeError: for a schedule that is empty or no mapping, or for epochs or batches that are no integers.
      ValueError: for an epoch below 0, or less than 1 batch.

    Example:
      >>> schedule = accumulation_schedule({2: 4})
      >>> [schedule.transition(schedule.init(), TrainEpochStart(epoch=epoch))[1] for epoch in (1, 2)]
      [(SetAccumulation(n=1),), (SetAccumulation(n=4),)]

    Known as:
      `GradientAccumulationScheduler` in Lightning.
    """
    if not isinstance(scheduling, Mapping) or not scheduling:
        raise TypeError(
            f"accumulation_schedule: scheduling must be a mapping from epoch to batches, got {scheduling!r}. "
            "Write `{0: 4}` to accumulate 4 batches throughout."
        )
    for epoch, batches in scheduling.items():
        must_be_int("accumulation_schedule", "each epoch", epoch, 0)
        must_be_int("accumulation_schedule", "batches per step", batches, 1)
    factors = {0: 1, **scheduling}

    def on_train_epoch_start(state: EmptyState, event: TrainEpochStart) -> Emit[EmptyState]:
        latest = max(epoch for epoch in factors if epoch <= event.epoch)
        return emit(state, SetAccumulation(factors[latest]))

    return Callback(
        constructor="accumulation_schedule",
        key=key,
        emits=(SetAccumulation,),
        config={"scheduling": dict(scheduling)},
        on_train_epoch_start=on_train_epoch_start,
    )
