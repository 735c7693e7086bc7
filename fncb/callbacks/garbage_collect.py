"""Collect Python's garbage at steps of one's choosing, and not whenever Python likes."""

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import CollectGarbage
from fncb.events import Event, TrainBatchEnd, TrainStart
from fncb.fields import must_be_int


@attrs.frozen
class GarbageCollectState:
    """What `garbage_collect` remembers.

    Attributes:
      collected: the step at which it last asked.
    """

    collected: int = 0


def garbage_collect(
    *, every_n_steps: int = 1000, generation: int = 1, key: str = "garbage_collect"
) -> Callback[GarbageCollectState]:
    """Asks for `CollectGarbage` as training starts and every so many steps, and for nothing in between.

    Python collects its garbage when so many objects were made, which takes milliseconds at any time; of several
    processes that train together, each waits for the one that is at it. From its first `CollectGarbage` on, a run
    collects only when asked to, at the same steps in all processes, until it ends. It collects as training starts
    (everything, which is where what setting up left behind goes), after each n-th step, and as validation starts.

    Args:
      every_n_steps: optimizer steps, 1 or more.
      generation: 0, 1 or 2: how old what is looked at may be, 2 being everything: the older, the longer it takes.
      key: names the state.

    Returns:
      A `Callback` with `GarbageCollectState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> collect = garbage_collect(every_n_steps=2)
      >>> state, effects = collect.init(), []
      >>> for step in (1, 2, 3, 4):
      ...     state, asked = collect.transition(state, TrainBatchEnd(step=step))
      ...     print(step, asked)
      1 ()
      2 (CollectGarbage(generation=1),)
      3 ()
      4 (CollectGarbage(generation=1),)

    Known as:
      `GarbageCollection` in torchtitan, `GarbageCollector` in TorchTNT, `ScheduledGarbageCollector` in LLM Foundry.
    """
    must_be_int("garbage_collect", "every_n_steps", every_n_steps, 1, "step")
    must_be_int("garbage_collect", "generation", generation, 0)
    if generation > 2:
        raise ValueError(f"garbage_collect: generation must be 0, 1 or 2, got {generation!r}.")

    def on_train_start(state: GarbageCollectState, event: TrainStart) -> Emit[GarbageCollectState]:
        return emit(state, CollectGarbage(2))

    def collect(state: GarbageCollectState, event: Event) -> Emit[GarbageCollectState]:
        return emit(state, CollectGarbage(generation))

    def on_train_batch_end(
        state: GarbageCollectState, event: TrainBatchEnd
    ) -> GarbageCollectState | Emit[GarbageCollectState]:
        if event.step % every_n_steps or event.step == state.collected:
            return state
        return collect(attrs.evolve(state, collected=event.step), event)

    return Callback(
        constructor="garbage_collect",
        key=key,
        init=GarbageCollectState,
        emits=(CollectGarbage,),
        config={"every_n_steps": every_n_steps, "generation": generation},
        on_train_start=on_train_start,
        on_train_batch_end=on_train_batch_end,
        on_validation_start=collect,
    )
