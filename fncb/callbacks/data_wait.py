"""Log how long training waits for its batches."""

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import Log
from fncb.events import Event, TrainBatchEnd, TrainBatchStart
from fncb.fields import must_be_int


@attrs.frozen
class DataWaitState:
    """What `data_wait` remembers of the stretch under way.

    Attributes:
      waited: seconds that were waited for batches.
      trained: seconds that training took, these included.
      since: the run's `seconds` up to which that is counted.
      logged: the step at which it was last logged.
    """

    waited: float = 0.0
    trained: float = 0.0
    since: float = 0.0
    logged: int = 0


def data_wait(*, log_every_n_steps: int | None = None, key: str = "data_wait") -> Callback[DataWaitState]:
    """Logs how long training waited for its loader, and what share of its time that was.

    As `data_wait_seconds` and `data_wait_share`, at the end of each epoch or after so many steps, for the time since
    the last. A share well above 0 asks for more workers, or for batches that are cheaper to make. Validation does not
    count as training, nor does the time between a run's end and its resume. Nothing here waits for the device: while
    it is busy with earlier batches, what the loader takes may cost nothing.

    A loader is asked for a batch before the one before is trained on, so over a few steps what was waited may be of the
    time before; the share is at most 1.

    Args:
      log_every_n_steps: 1 or more; None logs once an epoch.
      key: names the state.

    Returns:
      A `Callback` with `DataWaitState`.

    Raises:
      ValueError, TypeError: for a number of steps that is none.

    Example:
      >>> from fncb.events import TrainEpochEnd, TrainEpochStart
      >>> wait, state = data_wait(), DataWaitState()
      >>> for event in (TrainEpochStart(seconds=1.0), TrainBatchStart(waited=0.5), TrainBatchEnd(seconds=3.0)):
      ...     state, _ = wait.transition(state, event)
      >>> wait.transition(state, TrainEpochEnd(seconds=3.5))[1]
      (Log(metrics={'data_wait_seconds': 0.5, 'data_wait_share': 0.25}),)

    Known as:
      nothing elsewhere.
    """
    if log_every_n_steps is not None:
        must_be_int("data_wait", "log_every_n_steps", log_every_n_steps, 1, "step")

    def tell(state: DataWaitState, event: Event) -> DataWaitState | Emit[DataWaitState]:
        anew = DataWaitState(since=state.since, logged=event.step)
        if state.trained <= 0:
            return anew
        share = min(1.0, state.waited / state.trained)
        return emit(anew, Log({"data_wait_seconds": state.waited, "data_wait_share": share}))

    def count_from_here(state: DataWaitState, event: Event) -> DataWaitState:
        return attrs.evolve(state, since=event.seconds)

    def on_train_batch_start(state: DataWaitState, event: TrainBatchStart) -> DataWaitState:
        return attrs.evolve(state, waited=state.waited + event.waited)

    def on_train_batch_end(state: DataWaitState, event: TrainBatchEnd) -> DataWaitState | Emit[DataWaitState]:
        state = attrs.evolve(state, trained=state.trained + event.seconds - state.since, since=event.seconds)
        if log_every_n_steps is None or event.step % log_every_n_steps or event.step == state.logged:
            return state
        return tell(state, event)

    return Callback(
        constructor="data_wait",
        key=key,
        init=DataWaitState,
        emits=(Log,),
        config={"log_every_n_steps": log_every_n_steps},
        on_train_start=count_from_here,
        on_train_epoch_start=count_from_here,
        on_train_batch_start=on_train_batch_start,
        on_train_batch_end=on_train_batch_end,
        on_validation_end=count_from_here,
        on_train_epoch_end=tell if log_every_n_steps is None else None,
    )
