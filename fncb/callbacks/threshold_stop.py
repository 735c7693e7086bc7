"""Stop training once a metric is good enough."""

from math import isfinite
from typing import Literal

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.callbacks.pausing import pausing
from fncb.effects import Print, Stop
from fncb.events import TrainEnd, TrainEpochEnd, ValidationEnd
from fncb.fields import must_be_metric, must_be_number, must_be_one_of


@attrs.frozen
class ThresholdStopState:
    """What `threshold_stop` remembers.

    Attributes:
      value: the metric at the last look, in its own unit; None before the first, and if it was not finite.
      looked: epoch of the last look; None before the first.
      paused: whether nothing counts now: in a sanity check, a `fast_dev_run` or a run that does not train.
    """

    value: float | None = None
    looked: int | None = None
    paused: bool = False


def threshold_stop(
    monitor: str, threshold: float, *, mode: Literal["min", "max"] = "min", key: str | None = None
) -> Callback[ThresholdStopState]:
    """Asks for `Stop` as soon as a metric is as good as a threshold, or better.

    A look is taken whenever a validation ends that has the metric and, in an epoch without one, when the epoch ends, if
    the metric is there then. A value that is not finite is never good enough. Where the run goes on regardless
    (`min_epochs`), each further look may ask again. A training that ends without any look prints a line that says so.

    Args:
      monitor: the metric's name, such as `val_acc` or `loss_epoch`.
      threshold: in the metric's unit.
      mode: "min" stops at values of `threshold` or less, "max" at values of `threshold` or more.
      key: names the state; `threshold_stop(<monitor>)` by default.

    Returns:
      A `Callback` with `ThresholdStopState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> stop = threshold_stop("val_acc", 0.75, mode="max")
      >>> stop.transition(stop.init(), ValidationEnd(metrics={"val_acc": 0.75}))[1]
      (Stop(reason='val_acc is 0.75: as good as 0.75'),)

    Known as:
      `EarlyStopping(stopping_threshold=...)` in Lightning, which stops only beyond the threshold.
    """
    must_be_metric("threshold_stop", monitor)
    must_be_number("threshold_stop", "threshold", threshold, "(-inf, inf)")
    must_be_one_of("threshold_stop", "mode", mode, ("min", "max"))
    sign = 1.0 if mode == "min" else -1.0  # sign * value: less is better

    def look(
        state: ThresholdStopState, event: ValidationEnd | TrainEpochEnd
    ) -> ThresholdStopState | Emit[ThresholdStopState]:
        if state.paused or monitor not in event.metrics:
            return state
        value = event.metrics[monitor]  # waits for the device, once a look
        state = attrs.evolve(state, value=value if isfinite(value) else None, looked=event.epoch)
        if not isfinite(value) or sign * value > sign * threshold:
            return state
        return emit(state, Stop(f"{monitor} is {value:g}: as good as {threshold:g}"))

    def on_train_epoch_end(
        state: ThresholdStopState, event: TrainEpochEnd
    ) -> ThresholdStopState | Emit[ThresholdStopState]:
        return state if event.epoch == state.looked else look(state, event)

    def on_train_end(state: ThresholdStopState, event: TrainEnd) -> ThresholdStopState | Emit[ThresholdStopState]:
        if state.paused or state.looked is not None:
            return state
        return emit(state, Print(f"threshold_stop: no validation or epoch ended with {monitor!r}"))

    return Callback(
        constructor="threshold_stop",
        key=key or f"threshold_stop({monitor})",
        init=ThresholdStopState,
        emits=(Stop, Print),
        config={"monitor": monitor, "threshold": threshold, "mode": mode},
        on_validation_end=look,
        on_train_epoch_end=on_train_epoch_end,
        on_train_end=on_train_end,
        **pausing(),
    )
