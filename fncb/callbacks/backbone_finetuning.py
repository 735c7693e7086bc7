"""Train a backbone from some epoch on, at a rate that grows to that of the rest."""

from collections.abc import Callable
from typing import Any

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.callbacks.finetuning import first_rate, freezes
from fncb.effects import Freeze, Print, SetLR, Unfreeze
from fncb.events import TrainEpochStart
from fncb.fields import must_be_int, must_be_number


@attrs.frozen
class BackboneFinetuningState:
    """What `backbone_finetuning` remembers.

    Attributes:
      has_frozen: whether it has frozen the backbone, so that a run that goes on does not do so again.
      previous_backbone_lr: the rate that it last set for the backbone; None while that is frozen.
    """

    has_frozen: bool = False
    previous_backbone_lr: float | None = None


def twice(_: int) -> float:
    """The rate doubles each epoch."""
    return 2.0


def backbone_finetuning(
    unfreeze_backbone_at_epoch: int = 10,
    *,
    backbone: str = "backbone",
    lambda_func: Callable[[int], float] = twice,
    backbone_initial_ratio_lr: float = 0.1,
    backbone_initial_lr: float | None = None,
    should_align: bool = True,
    train_bn: bool = True,
    verbose: bool = False,
    rounding: int = 12,
    key: str = "backbone_finetuning",
) -> Callback[BackboneFinetuningState]:
    """Asks for the backbone to be frozen before training, and to be trained from an epoch on.

    As that epoch starts, the backbone comes to a parameter group of its own, the last one, with the rate
    `backbone_initial_lr`, or `backbone_initial_ratio_lr` times that of the first group. As each later epoch e starts,
    its rate is `lambda_func(e + 1)` times what it was set to before, but with `should_align` no more than that of the
    first group. A task's schedules move the first group's rate; the backbone's is overruled as each epoch starts. A run
    that goes on has the backbone as it was saved, and freezes nothing again.

    Args:
      unfreeze_backbone_at_epoch: 0-based epoch, 0 or more.
      backbone: the name of the submodule whose parameters these are.
      lambda_func: a pure function from the epoch to a factor; by default it is 2.
      backbone_initial_ratio_lr: a factor, more than 0.
      backbone_initial_lr: a rate, more than 0; None takes the ratio.
      should_align: whether the rest's rate bounds the backbone's.
      train_bn: whether layers of batch normalisation in the backbone are trained all the while, in the group that they
        are in; if not they are never, and track no running statistics.
      verbose: whether to print both rates whenever the backbone's is set.
      rounding: decimal places of what is printed.
      key: names the state.

    Returns:
      A `Callback` with `BackboneFinetuningState`.

    Raises:
      TypeError, ValueError: for arguments of the wrong kind or out of range; when training starts, if there is no such
        submodule with parameters.

    Example:
      >>> tune = backbone_finetuning(1, backbone_initial_ratio_lr=0.25)
      >>> starts = [TrainEpochStart(epoch=epoch, metrics={"lr-SGD": 0.5}) for epoch in range(4)]
      >>> state, effects = tune.transition(tune.init(), starts[1])
      >>> effects
      (Unfreeze(pattern='backbone.*', lr=0.125, train_bn=True),)
      >>> state, effects = tune.transition(state, starts[2])
      >>> effects
      (SetLR(lr=0.25, group=-1, optimizer=None),)

    Known as:
      `BackboneFinetuning` in Lightning.

    Lightning's `initial_denom_lr` is left out: it has no effect there, as the backbone's first rate is always given.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    at = unfreeze_backbone_at_epoch
    must_be_int("backbone_finetuning", "unfreeze_backbone_at_epoch", at, 0)
    if not isinstance(backbone, str) or not backbone:
        raise TypeError(f"backbone_finetuning: backbone must be the name of a submodule, got {backbone!r}.")
    if not callable(lambda_func):
        raise TypeError(f"backbone_finetuning: lambda_func must be a function of the epoch, got {lambda_func!r}.")
    must_be_number("backbone_finetuning", "backbone_initial_ratio_lr", backbone_initial_ratio_lr, "(0, inf)")
    if backbone_initial_lr is not None:
        must_be_number("backbone_finetuning", "backbone_initial_lr", backbone_initial_lr, "(0, inf)")
    pattern = f"{backbone}.*"

    def on_train_epoch_start(
        state: BackboneFinetuningState, event: TrainEpochStart
    ) -> BackboneFinetuningState | Emit[BackboneFinetuningState]:
        if event.epoch < at:
            return state
        of_rest, before = first_rate(event), state.previous_backbone_lr
        asked: Any
        if before is None:
            lr = of_rest * backbone_initial_ratio_lr if backbone_initial_lr is None else backbone_initial_lr
            asked = Unfreeze(pattern, lr=lr, train_bn=train_bn)
        else:
            lr = lambda_func(event.epoch + 1) * before
            lr = min(lr, of_rest) if should_align else lr
            asked = SetLR(lr, group=-1)
        rates = f"learning rate {round(of_rest, rounding)}, of {backbone} {round(lr, rounding)}"
        told = (Print(f"backbone_finetuning: {rates}"),) if verbose else ()
        return emit(attrs.evolve(state, previous_backbone_lr=lr), asked, *told)

    return Callback(
        constructor="backbone_finetuning",
        key=key,
        init=BackboneFinetuningState,
        emits=(Freeze, Unfreeze, SetLR, Print) if verbose else (Freeze, Unfreeze, SetLR),
        config=config,
        on_fit_start=freezes("backbone_finetuning: backbone", pattern, train_bn),
        on_train_epoch_start=on_train_epoch_start,
    )
