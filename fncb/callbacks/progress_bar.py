"""Show how far a run has come."""

from math import isfinite
from typing import Any

import attrs

from fncb import events as ev
from fncb.callback import Callback, Emit, emit
from fncb.effects import Render


@attrs.frozen
class ProgressBarState:
    """What `progress_bar` remembers.

    Attributes:
      batches: training batches done in this epoch.
      total: training batches in this epoch; None when unknown.
      side_batches: batches done of the validation, test or prediction under way.
      side_total: batches that it has; None when unknown.
      shown: seconds since the run began, at the last `Render`; None before the first.
    """

    batches: int = 0
    total: int | None = None
    side_batches: int = 0
    side_total: int | None = None
    shown: float | None = None


def progress_bar(*, refresh_rate: float = 10.0, key: str = "progress_bar") -> Callback[ProgressBarState]:
    """Asks for `Render` a few times a second, and when a sanity check, an epoch, a test or a prediction is over.

    The bar of an epoch is labelled with its 0-based number, `epoch 3`, the others `validation`, `test` and
    `prediction`. The first batch is shown at once, later ones when 1 / `refresh_rate` seconds of the run have passed
    since the last `Render`. The metrics go along unread, so only a bar that is drawn waits for the device.

    Args:
      refresh_rate: at most so many a second, 0 or more; 0 turns the bar off.
      key: names the state.

    Returns:
      A `Callback` with `ProgressBarState`.

    Raises:
      ValueError: if `refresh_rate` is negative or not finite.

    Example:
      >>> bar = progress_bar()
      >>> state, _ = bar.transition(bar.init(), ev.TrainEpochStart(epoch=3, batches=8))
      >>> bar.transition(state, ev.TrainBatchEnd(epoch=3, batch_idx=0, seconds=0.5))[1]
      (Render(label='epoch 3', completed=1, total=8, done=False),)

    Lightning's `leave`, `process_position` and `theme` are left out: how a bar looks is for whoever draws it.
    """
    if not isfinite(refresh_rate) or refresh_rate < 0:
        raise ValueError(f"progress_bar: refresh_rate must be 0 a second or more, got {refresh_rate!r}.")

    def show(state: ProgressBarState, event: Any, label: str, completed: int, total: int | None) -> Any:
        if state.shown is not None and event.seconds - state.shown < 1 / refresh_rate:
            return state
        drawn = Render(label, completed, total, metrics=event.metrics)
        return emit(attrs.evolve(state, shown=event.seconds), drawn)

    def on_train_epoch_start(state: ProgressBarState, event: ev.TrainEpochStart) -> ProgressBarState:
        return attrs.evolve(state, batches=0, total=event.batches)

    def on_train_batch_end(state: ProgressBarState, event: ev.TrainBatchEnd) -> Any:
        done = event.batch_idx + 1
        state = ProgressBarState(done, state.total, state.side_batches, state.side_total, state.shown)
        return show(state, event, f"epoch {event.epoch}", done, state.total)

    def on_train_epoch_end(state: ProgressBarState, event: ev.TrainEpochEnd) -> Emit[ProgressBarState]:
        label = f"epoch {event.epoch}"
        drawn = Render(label, state.batches, state.total, done=True, metrics=event.metrics)
        return emit(attrs.evolve(state, shown=event.seconds), drawn)

    def side_start(state: ProgressBarState, event: Any) -> ProgressBarState:
        return attrs.evolve(state, side_batches=0, side_total=event.batches)

    def side_batch_end(label: str) -> Any:
        def hook(state: ProgressBarState, event: Any) -> Any:
            state = attrs.evolve(state, side_batches=state.side_batches + 1)  # batch_idx restarts in each loader
            return show(state, event, label, state.side_batches, state.side_total)

        return hook

    def side_end(label: str) -> Any:
        def hook(state: ProgressBarState, event: Any) -> Emit[ProgressBarState]:
            metrics = getattr(event, "metrics", None)
            drawn = Render(label, state.side_batches, state.side_total, done=True, metrics=metrics)
            return emit(attrs.evolve(state, shown=event.seconds), drawn)

        return hook

    hooks = {
        "on_sanity_check_end": side_end("sanity check"),
        "on_train_epoch_start": on_train_epoch_start,
        "on_train_batch_end": on_train_batch_end,
        "on_train_epoch_end": on_train_epoch_end,
        "on_validation_start": side_start,
        "on_validation_batch_end": side_batch_end("validation"),
        "on_test_start": side_start,
        "on_test_batch_end": side_batch_end("test"),
        "on_test_end": side_end("test"),
        "on_predict_start": side_start,
        "on_predict_batch_end": side_batch_end("prediction"),
        "on_predict_end": side_end("prediction"),
    }
    return Callback(
        key=key,
        init=ProgressBarState,
        emits=(Render,),
        config={"refresh_rate": refresh_rate},
        **(hooks if refresh_rate else {}),
    )
