"""Reduce the learning rates when a metric has stopped improving."""

from math import inf
from typing import Literal

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.callbacks.pausing import pausing
from fncb.effects import ScaleLR
from fncb.events import MissingMetric, TrainEpochEnd, ValidationEnd
from fncb.fields import must_be_int, must_be_metric, must_be_number, must_be_one_of


@attrs.frozen
class ReduceOnPlateauState:
    """What `reduce_on_plateau` remembers from one check to the next.

    Attributes:
      best: best value seen, in the metric's own unit; None before the first that is better than nothing.
      stale: checks in a row, up to now, that were no better; those of a cooldown do not count.
      cooldown: checks for which nothing counts as stale.
      paused: whether nothing is a check now: in a sanity check, a `fast_dev_run` or a run that does not train.
    """

    best: float | None = None
    stale: int = 0
    cooldown: int = 0
    paused: bool = False


def reduce_on_plateau(
    monitor: str,
    *,
    factor: float = 0.1,
    patience: int = 10,
    mode: Literal["min", "max"] = "min",
    threshold: float = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
    strict: bool = True,
    check_on_train_epoch_end: bool = False,
    key: str | None = None,
) -> Callback[ReduceOnPlateauState]:
    """Asks for `ScaleLR` when a metric has not improved for more than `patience` checks.

    A value is better than the best so far if it is less than best * (1 - threshold), or in mode "abs" less than best -
    threshold; for `mode="max"`, if it is more than best * (1 + threshold), or best + threshold. Otherwise, and NaN
    always, it is stale. More than `patience` stale checks in a row reduce the rates, and begin a cooldown of so many
    checks in which none is stale. These are the rules of torch's `ReduceLROnPlateau`, to the last bit. The sanity
    check, validation outside training and what a `fast_dev_run` measures are not checks.

    A schedule of the task goes on beside it: one that computes its rates from the last ones is scaled along, one that
    computes them anew undoes it.

    Args:
      monitor: the metric's name.
      factor: what each rate is multiplied by, more than 0 and less than 1.
      patience: checks, 0 or more; with 0 the first stale check reduces.
      mode: whether less ("min") or more ("max") is better.
      threshold: by how much a value must be better, 0 or more.
      threshold_mode: whether that is a share of the best ("rel") or in the metric's unit ("abs").
      cooldown: checks, 0 or more.
      min_lr: no rate gets below it, 0 or more.
      eps: a rate that would change by so much or less stays, 0 or more.
      strict: whether a check without the metric is an error; otherwise it is passed over.
      check_on_train_epoch_end: whether to check at the end of each training epoch and not after each validation.
      key: names the state; `reduce_on_plateau(<monitor>)` by default.

    Returns:
      A `Callback` with `ReduceOnPlateauState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.
      MissingMetric: from a check, if `strict` and the metric is not there.

    Example:
      >>> plateau = reduce_on_plateau("val_loss", factor=0.5, patience=0)
      >>> state, _ = plateau.transition(plateau.init(), ValidationEnd(metrics={"val_loss": 1.0}))
      >>> plateau.transition(state, ValidationEnd(metrics={"val_loss": 1.0}))[1]
      (ScaleLR(factor=0.5, min_lr=0.0, eps=1e-08),)

    Torch's list of `min_lr`, one for each group, is left out.

    Known as:
      `ReduceLROnPlateau` in torch and Keras, `optax.contrib.reduce_on_plateau` in optax.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    must_be_metric("reduce_on_plateau", monitor)
    must_be_number("reduce_on_plateau", "factor", factor, "(0, 1)")
    must_be_int("reduce_on_plateau", "patience", patience, 0, "checks")
    must_be_int("reduce_on_plateau", "cooldown", cooldown, 0, "checks")
    for name in ("threshold", "min_lr", "eps"):
        must_be_number("reduce_on_plateau", name, config[name], "[0, inf)")
    must_be_one_of("reduce_on_plateau", "mode", mode, ("min", "max"))
    must_be_one_of("reduce_on_plateau", "threshold_mode", threshold_mode, ("rel", "abs"))

    def is_better(value: float, best: float) -> bool:
        if mode == "min":
            return value < (best * (1.0 - threshold) if threshold_mode == "rel" else best - threshold)
        return value > (best * (threshold + 1.0) if threshold_mode == "rel" else best + threshold)

    def check(
        state: ReduceOnPlateauState, event: ValidationEnd | TrainEpochEnd
    ) -> ReduceOnPlateauState | Emit[ReduceOnPlateauState]:
        if state.paused or (monitor not in event.metrics and not strict):
            return state
        if monitor not in event.metrics:
            where, there = f"{type(event).__name__} at step {event.step}", list(event.metrics)
            raise MissingMetric(
                f"reduce_on_plateau: no metric {monitor!r} in {where}. It has {there}. Pass `strict=False` to pass "
                "over such checks."
            )
        value, worst = event.metrics[monitor], inf if mode == "min" else -inf  # waits for the device, once a check
        better = is_better(value, worst if state.best is None else state.best)
        stale = 0 if better or state.cooldown else state.stale + 1
        state = ReduceOnPlateauState(value if better else state.best, stale, max(0, state.cooldown - 1))
        if stale <= patience:
            return state
        return emit(attrs.evolve(state, stale=0, cooldown=cooldown), ScaleLR(factor, min_lr, eps))

    return Callback(
        constructor="reduce_on_plateau",
        key=key or f"reduce_on_plateau({monitor})",
        init=ReduceOnPlateauState,
        emits=(ScaleLR,),
        config=config,
        on_validation_end=None if check_on_train_epoch_end else check,
        on_train_epoch_end=check if check_on_train_epoch_end else None,
        **pausing(),
    )
