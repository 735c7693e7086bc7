"""Log the learning rates in use."""

from typing import Literal

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.effects import Log
from fncb.events import TrainBatchStart, TrainEpochStart


def lr_monitor(
    *, logging_interval: Literal["step", "epoch"] | None = None, key: str = "lr_monitor"
) -> Callback[EmptyState]:
    """Asks for a `Log` of the learning rates, every epoch or every batch.

    The loop gives the rates as metrics whose names start with `lr-`: `lr-AdamW`, or `lr-AdamW/pg1`, `lr-AdamW/pg2`
    where there are several parameter groups. Those of a batch are the ones that its update is made with. They are
    known on the host, so reading them never waits for the device.

    Args:
      logging_interval: "epoch" logs as each training epoch starts, "step" as each training batch starts; None is
        "epoch".
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError: for an unknown interval.

    Example:
      >>> monitor = lr_monitor()
      >>> start = TrainEpochStart(epoch=1, step=100, metrics={"lr-SGD": 0.25, "loss_epoch": 1.5})
      >>> monitor.transition(monitor.init(), start)
      (EmptyState(), (Log(metrics={'lr-SGD': 0.25}),))

    Lightning's `log_momentum`, `log_weight_decay` and `log_key_prefix` are left out: the events carry rates only.
    """
    if logging_interval not in (None, "step", "epoch"):
        raise ValueError(f"lr_monitor: logging_interval must be 'step', 'epoch' or None, got {logging_interval!r}.")

    def log(state: EmptyState, event: TrainEpochStart | TrainBatchStart) -> EmptyState | Emit[EmptyState]:
        rates = {name: event.metrics[name] for name in event.metrics if name.startswith("lr-")}
        return emit(state, Log(rates)) if rates else state

    return Callback(
        key=key,
        emits=(Log,),
        config={"logging_interval": logging_interval},
        on_train_epoch_start=None if logging_interval == "step" else log,
        on_train_batch_start=log if logging_interval == "step" else None,
    )
