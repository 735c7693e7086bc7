"""Keep how the metrics went."""

from collections.abc import Mapping

import attrs

from fncb.callback import Callback
from fncb.events import TrainEpochEnd


@attrs.frozen
class HistoryState:
    """What `history` keeps.

    Attributes:
      epochs: the 0-based epochs, in order.
      metrics: by name, a value for each of `epochs`; None where an epoch did not have the metric.
    """

    epochs: tuple[int, ...] = ()
    metrics: Mapping[str, tuple[float | None, ...]] = attrs.field(factory=dict)


def history(*, key: str = "history") -> Callback[HistoryState]:
    """Keeps the metrics of each training epoch, as they are when it ends.

    Those are the last batch's, the epoch's means, those of its last validation, the learning rates and what was logged.
    An epoch that ends again, when a run that was stopped in it goes on, takes the place of what was kept of it. The
    history is part of every checkpoint, so that a run that goes on has all of it.

    Args:
      key: names the state, as in `run.state["history"].metrics["val_loss"]`.

    Returns:
      A `Callback` with `HistoryState`.

    Example:
      >>> kept = history()
      >>> state, _ = kept.transition(kept.init(), TrainEpochEnd(epoch=0, metrics={"loss": 0.5}))
      >>> kept.transition(state, TrainEpochEnd(epoch=1, metrics={"loss": 0.25, "val_loss": 0.75}))[0]
      HistoryState(epochs=(0, 1), metrics={'loss': (0.5, 0.25), 'val_loss': (None, 0.75)})

    Known as:
      `History` in Keras.
    """

    def on_train_epoch_end(state: HistoryState, event: TrainEpochEnd) -> HistoryState:
        n = len(state.epochs) - (event.epoch in state.epochs[-1:])  # epochs that stay as they are
        before = {name: values[:n] for name, values in state.metrics.items()}
        names = [*before, *(name for name in event.metrics if name not in before)]
        now = dict(event.metrics)  # waits for the device, once an epoch
        metrics = {name: (*before.get(name, (None,) * n), now.get(name)) for name in names}
        return HistoryState((*state.epochs[:n], event.epoch), metrics)

    return Callback(constructor="history", key=key, init=HistoryState, emits=(), on_train_epoch_end=on_train_epoch_end)
