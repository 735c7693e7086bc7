"""How long each epoch took, printed in every run of fncb where this package is installed."""

import attrs

import fncb
from fncb.events import TrainEpochEnd, TrainEpochStart


@attrs.frozen
class EpochTimeState:
    """What `epoch_time` remembers.

    Attributes:
      began: seconds into the run at which the epoch under way began.
    """

    began: float = 0.0


def epoch_time() -> fncb.Callback[EpochTimeState]:
    """Asks for `Print` of the seconds that each training epoch took, its validation included.

    Example:
      >>> epoch = [TrainEpochStart(epoch=3, seconds=10.0), TrainEpochEnd(epoch=3, seconds=11.25)]
      >>> fncb.replay(epoch_time(), epoch).effects
      (Print(text='epoch 3 took 1.2 s'),)
    """

    def on_train_epoch_start(state: EpochTimeState, event: TrainEpochStart):
        return EpochTimeState(began=event.seconds)

    def on_train_epoch_end(state: EpochTimeState, event: TrainEpochEnd):
        return fncb.emit(state, fncb.Print(f"epoch {event.epoch} took {event.seconds - state.began:.1f} s"))

    return fncb.Callback(
        key="epoch_time",
        init=EpochTimeState,
        emits=(fncb.Print,),
        on_train_epoch_start=on_train_epoch_start,
        on_train_epoch_end=on_train_epoch_end,
    )
