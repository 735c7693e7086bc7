"""Freeze parameters before training and train them again epoch by epoch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import Effect, Freeze, Print, SetLR, Unfreeze
from fncb.events import FitStart, MissingMetric, TrainEpochStart
from fncb.fields import must_be_number

Patterns: TypeAlias = str | Sequence[str]
"""A shell pattern of names of parameters, such as `encoder.*`, or several."""


@attrs.frozen
class FinetuningState:
    """What `finetuning` remembers.

    Attributes:
      has_frozen: whether it has frozen what it freezes, so that a run that goes on does not do so again.
    """

    has_frozen: bool = False


def finetuning(
    freeze_before_training: Patterns,
    finetune_function: Callable[[int], str | Effect | Iterable[str | Effect] | None],
    *,
    lr: float | None = None,
    initial_denom_lr: float = 10.0,
    train_bn: bool = True,
    key: str = "finetuning",
) -> Callback[FinetuningState]:
    """Asks for parameters to be frozen before training, and to be trained again when a function says so.

    What is frozen leaves the optimizer before the first step. As each training epoch starts, what the function names is
    trained again, each pattern in a parameter group of its own, with the rate `lr`, or that of the first group as it is
    then, divided by `initial_denom_lr`. What is trained already stays in its group. A run that goes on has the frozen
    parameters and the groups that it was saved with, and freezes nothing again.

    Args:
      freeze_before_training: shell patterns of names of parameters, one or several, each of which must match.
      finetune_function: a pure function from the 0-based epoch to what is trained from then on: a pattern or several,
        or effects: `Freeze`, `Unfreeze`, `SetLR` and `Print`. None is nothing.
      lr: the rate of new groups, more than 0; None makes it of the first group's.
      initial_denom_lr: what that is divided by, more than 0.
      train_bn: whether layers of batch normalisation among what is frozen are trained all the while; if not they are
        never, and track no running statistics.
      key: names the state.

    Returns:
      A `Callback` with `FinetuningState`.

    Raises:
      TypeError, ValueError: for arguments of the wrong kind or out of range, and for what the function gives.

    Example:
      >>> tune = finetuning("encoder.*", lambda epoch: "encoder.*" if epoch == 5 else None)
      >>> tune.transition(tune.init(), FitStart())[1]
      (Freeze(pattern='encoder.*', train_bn=True, leave_optimizer=True),)
      >>> tune.transition(tune.init(), TrainEpochStart(epoch=5, metrics={"lr-SGD": 0.5}))[1]
      (Unfreeze(pattern='encoder.*', lr=0.05, train_bn=True),)

    Reference:
      Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018, section 3.3.

    Known as:
      `BaseFinetuning` in Lightning.
    """
    if not callable(finetune_function):
        raise TypeError(f"finetuning: finetune_function must be a function of the epoch, got {finetune_function!r}.")
    frozen = freezes("finetuning: freeze_before_training", freeze_before_training, train_bn)
    if lr is not None:
        must_be_number("finetuning", "lr", lr, "(0, inf)")
    must_be_number("finetuning", "initial_denom_lr", initial_denom_lr, "(0, inf)")

    def on_train_epoch_start(state: FinetuningState, event: TrainEpochStart) -> FinetuningState | Emit[FinetuningState]:
        def effect(asked: Any) -> Effect:
            if isinstance(asked, str):
                rate = first_rate(event) / initial_denom_lr if lr is None else lr
                return Unfreeze(asked, lr=rate, train_bn=train_bn)
            if not isinstance(asked, Effect):
                raise TypeError(f"finetuning: finetune_function must give patterns or effects, got {asked!r}.")
            return asked

        asked = finetune_function(event.epoch)
        asked = [asked] if isinstance(asked, str | Effect) else asked or ()
        effects = [effect(each) for each in asked]
        return emit(state, *effects) if effects else state

    return Callback(
        constructor="finetuning",
        key=key,
        init=FinetuningState,
        emits=(Freeze, Unfreeze, SetLR, Print),
        config={
            "freeze_before_training": freeze_before_training,
            "finetune_function": finetune_function,
            "lr": lr,
            "initial_denom_lr": initial_denom_lr,
            "train_bn": train_bn,
        },
        on_fit_start=frozen,
        on_train_epoch_start=on_train_epoch_start,
    )


def freezes(who: str, patterns: Patterns, train_bn: bool) -> Callable[[Any, FitStart], Any]:
    """A hook that freezes once in a run, for a state with the field `has_frozen`."""
    named = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not named or not all(isinstance(each, str) and each for each in named):
        raise TypeError(f"{who} must be a pattern such as 'encoder.*', or several, got {patterns!r}.")
    effects = [Freeze(each, train_bn=train_bn, leave_optimizer=True) for each in named]

    def on_fit_start(state: Any, _: FitStart) -> Any:
        return state if state.has_frozen else emit(attrs.evolve(state, has_frozen=True), *effects)

    return on_fit_start


def first_rate(event: TrainEpochStart) -> float:
    """The learning rate of the first parameter group, which is known on the host."""
    for name in event.metrics:
        if name.startswith("lr-"):
            return event.metrics[name]
    raise MissingMetric(f"no learning rate in {type(event).__name__} at step {event.step}. It has {[*event.metrics]}.")
