"""Stop training once a metric has stopped improving."""

from math import inf, isfinite
from typing import Literal

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.callbacks.pausing import pausing
from fncb.effects import Print, Stop
from fncb.events import MissingMetric, TrainEnd, TrainEpochEnd, ValidationEnd
from fncb.fields import must_be_int, must_be_metric, must_be_number, must_be_one_of

Reason = Literal["non_finite", "stopping_threshold", "divergence_threshold", "patience"]


@attrs.frozen
class EarlyStopState:
    """What `early_stop` remembers from one check to the next.

    Attributes:
      best: best value seen, in the metric's own unit; None before the first finite one.
      stale: checks in a row, up to now, that did not beat `best`.
      reason: why it last asked to stop; None while it has not.
      stopped_epoch: 0-based epoch of the check at which it last asked; None while it has not.
      reason_message: the sentence that it last asked with; None while it has not.
      validated: epoch of the last check when a validation ended; None before the first.
      missed: epoch of a validation without the metric, while its end may still bring it; None otherwise.
      paused: whether nothing is a check now: in a sanity check, a `fast_dev_run` or a run that does not train.
    """

    best: float | None = None
    stale: int = 0
    reason: Reason | None = None
    stopped_epoch: int | None = None
    reason_message: str | None = None
    validated: int | None = None
    missed: int | None = None
    paused: bool = False


def early_stop(
    monitor: str,
    *,
    min_delta: float = 0.0,
    patience: int = 3,
    mode: Literal["min", "max"] = "min",
    check_finite: bool = True,
    stopping_threshold: float | None = None,
    divergence_threshold: float | None = None,
    strict: bool = True,
    check_on_train_epoch_end: bool | None = None,
    verbose: bool = False,
    key: str | None = None,
) -> Callback[EarlyStopState]:
    """Asks for `Stop` when a metric is hopeless, good enough, or improves no more.

    Each check takes the first that holds: not finite, stop; strictly better than `stopping_threshold`, stop; strictly
    worse than `divergence_threshold`, stop; better than the best so far by more than `min_delta`, go on; otherwise it
    is stale, and `patience` stale checks in a row stop. A tie is no improvement, and neither is a value that is not
    finite. Where the run goes on regardless (`min_epochs`), each further check is judged and may ask again. The
    sanity check, validation outside training and what a `fast_dev_run` measures are not checks.

    A check is made whenever a validation ends that has the metric. In an epoch without one, it is made when the epoch
    ends, if the metric is there then. So an epoch without a validation has no check of a metric of validations. A run
    that ends without any check prints a line that says so.

    Args:
      monitor: the metric's name.
      min_delta: in the metric's unit, 0 or more.
      patience: checks, 0 or more; with 0, as with 1, the first stale check stops.
      mode: whether less ("min") or more ("max") is better.
      check_finite: whether NaN or infinity stops at once; otherwise such a check is stale.
      stopping_threshold: in the metric's unit; None for none.
      divergence_threshold: in the metric's unit; None for none.
      strict: whether it is an error if the metric is not there when it should be: at the moment that
        `check_on_train_epoch_end` chooses or, with None, neither at a validation nor at the end of its epoch. Otherwise
        that is passed over.
      check_on_train_epoch_end: True makes each check when a training epoch ends, False when a validation ends; None, as
        above.
      verbose: whether to print improvements, and checks without the metric.
      key: names the state; `early_stop(<monitor>)` by default.

    Returns:
      A `Callback` with `EarlyStopState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.
      MissingMetric: from a check, if `strict` and the metric is not there.

    Example:
      >>> stop = early_stop("val_loss", patience=1)
      >>> state, _ = stop.transition(stop.init(), ValidationEnd(epoch=0, metrics={"val_loss": 0.5}))
      >>> stop.transition(state, ValidationEnd(epoch=1, metrics={"val_loss": 0.75}))[1]
      (Stop(reason='val_loss has not improved on 0.5 in 1 check'),)

    Reference:
      Prechelt, "Early Stopping - But When?", 1998: criterion UP_s, counted from the best.

    Lightning's `log_rank_zero_only` is left out: what a hook prints is printed once.

    Known as:
      `EarlyStopping` in Lightning and Keras.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    must_be_metric("early_stop", monitor)
    must_be_int("early_stop", "patience", patience, 0, "checks")
    must_be_number("early_stop", "min_delta", min_delta, "[0, inf)")
    must_be_one_of("early_stop", "mode", mode, ("min", "max"))
    for name in ("stopping_threshold", "divergence_threshold"):
        if config[name] is not None:
            must_be_number("early_stop", name, config[name], "(-inf, inf)")
    must_be_one_of("early_stop", "check_on_train_epoch_end", check_on_train_epoch_end, (True, False, None))
    either = check_on_train_epoch_end is None
    sign = 1.0 if mode == "min" else -1.0  # sign * value: less is better

    def check(state: EarlyStopState, event: ValidationEnd | TrainEpochEnd) -> EarlyStopState | Emit[EarlyStopState]:
        def stop(reason: Reason, text: str, **changes: int) -> Emit[EarlyStopState]:
            asks = Stop(f"{monitor} {text}")
            told = {"reason": reason, "stopped_epoch": event.epoch, "reason_message": asks.reason}
            return emit(attrs.evolve(state, **told, **changes), asks)

        value = event.metrics[monitor]  # waits for the device, once a check
        if check_finite and not isfinite(value):
            return stop("non_finite", f"is not finite: {value}")
        if stopping_threshold is not None and sign * value < sign * stopping_threshold:
            return stop("stopping_threshold", f"is {value:g}: better than {stopping_threshold:g}")
        if divergence_threshold is not None and sign * value > sign * divergence_threshold:
            return stop("divergence_threshold", f"is {value:g}: worse than {divergence_threshold:g}")

        if isfinite(value) and sign * value < (inf if state.best is None else sign * state.best - min_delta):
            better = attrs.evolve(state, best=value, stale=0)
            return emit(better, Print(f"early_stop: {monitor} improved to {value:g}")) if verbose else better

        stale = state.stale + 1
        if stale < patience:
            return attrs.evolve(state, stale=stale)
        past = "has not been finite" if state.best is None else f"has not improved on {state.best:g}"
        return stop("patience", f"{past} in {stale} check{'s' if stale > 1 else ''}", stale=stale)

    def miss(state: EarlyStopState, event: ValidationEnd | TrainEpochEnd) -> EarlyStopState | Emit[EarlyStopState]:
        where, there = f"{type(event).__name__} at step {event.step}", list(event.metrics)
        missing = f"early_stop: no metric {monitor!r} in {where}. It has {there}."
        if strict:
            raise MissingMetric(f"{missing} Pass `strict=False` to pass over such checks.")
        return emit(state, Print(missing)) if verbose else state

    def on_validation_end(state: EarlyStopState, event: ValidationEnd) -> EarlyStopState | Emit[EarlyStopState]:
        if state.paused:
            return state
        if monitor in event.metrics:
            return check(attrs.evolve(state, validated=event.epoch), event)
        if either and state.missed in (None, event.epoch):
            return attrs.evolve(state, missed=event.epoch)
        return miss(state, event)  # with None, of a loop that does not tell when its epochs end

    def on_train_epoch_end(state: EarlyStopState, event: TrainEpochEnd) -> EarlyStopState | Emit[EarlyStopState]:
        if state.paused or (either and event.epoch == state.validated):
            return state
        if monitor in event.metrics:
            return check(attrs.evolve(state, missed=None), event)
        if either and state.missed is None:
            return state  # there was no validation
        return miss(attrs.evolve(state, missed=None), event)

    def on_train_end(state: EarlyStopState, event: TrainEnd) -> EarlyStopState | Emit[EarlyStopState]:
        checked = state.best is not None or state.stale > 0 or state.reason is not None
        if state.paused or checked:
            return state
        return emit(state, Print(f"early_stop: nothing was checked: no check was due at an event with {monitor!r}"))

    return Callback(
        constructor="early_stop",
        key=key or f"early_stop({monitor})",
        init=EarlyStopState,
        emits=(Stop, Print),
        config=config,
        on_validation_end=None if check_on_train_epoch_end else on_validation_end,
        on_train_epoch_end=on_train_epoch_end if either or check_on_train_epoch_end else None,
        on_train_end=on_train_end,
        **pausing(),
    )
