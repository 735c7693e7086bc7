"""Have a target network follow an online network slowly, as BYOL does."""

from __future__ import annotations

from collections.abc import Mapping
from math import pi
from typing import TYPE_CHECKING, Any

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.events import AfterOptimizerStep
from fncb.fields import must_be_int, must_be_number

if TYPE_CHECKING:
    from torch import Tensor


def byol_ma_update(
    max_steps: int,
    *,
    initial_tau: float = 0.996,
    online: str = "online_network",
    target: str = "target_network",
    key: str = "byol_ma_update",
) -> Callback[EmptyState]:
    """Moves a target network's parameters towards an online network's, inside the step.

    After optimizer step t, counted from 0, target = tau * target + (1 - tau) * online for each parameter of the target
    and the one of the same name in the online network, where
    tau = 1 - (1 - initial_tau) * (cos(pi * t / max_steps) + 1) / 2: from `initial_tau` up to 1, which it stays after
    `max_steps`. Publishes tau as the metric `byol_tau`, on each batch that updates.

    The target must be among the trainable parameters, as only those are in the step, and no gradient may come to it:
    make its outputs under `torch.no_grad()`. An optimizer leaves what has no gradient as it is. Buffers, such as
    running statistics of batch normalisation, are the target's own. The online network may have parameters that the
    target has not.

    Args:
      max_steps: optimizer steps of the whole training, 1 or more.
      initial_tau: in [0, 1], dimensionless.
      online, target: names of submodules.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing: tau follows from the step.

    Raises:
      ValueError, TypeError: for an argument out of range or of the wrong kind; when training begins, for a target with
        no trainable parameters or with others than the online network; in the first step, for one that is given
        gradients.

    Example:
      >>> import torch
      >>> follow = byol_ma_update(100, initial_tau=0.75).step
      >>> params = {"online_network.w": torch.tensor([4.0]), "target_network.w": torch.tensor([0.0])}
      >>> after = AfterOptimizerStep(step=torch.tensor(1), params=params, grads={})
      >>> out = follow.on_after_optimizer_step(EmptyState(), after)
      >>> out.replaced["params"]["target_network.w"], out.replaced["metrics"]
      (tensor([1.]), {'byol_tau': tensor(0.7500)})

    Reference:
      Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", 2020, section 3.2.

    Known as:
      `BYOLMAWeightUpdate` in Lightning Bolts.
    """
    must_be_int("byol_ma_update", "max_steps", max_steps, 1, "step")
    must_be_number("byol_ma_update", "initial_tau", initial_tau, "[0, 1]")
    for what, name in (("online", online), ("target", target)):
        if not isinstance(name, str) or not name:
            raise TypeError(f"byol_ma_update: {what} must be the name of a submodule, got {name!r}.")

    def counterparts(params: Mapping[str, Any]) -> dict[str, str]:
        """The names of the target's parameters, and those of what they follow."""
        mine = [name for name in params if name.startswith(f"{target}.")]
        return {name: f"{online}{name.removeprefix(target)}" for name in mine}

    def init(params: Mapping[str, Tensor]) -> EmptyState:
        pairs = counterparts(params)
        if not pairs or counterparts(dict.fromkeys(getattr(params, "frozen", ()))):
            raise ValueError(
                f"byol_ma_update: all parameters of {target!r} must be trainable, as only those are in the step, got "
                f"{[*pairs]}. Leave requires_grad on and make its outputs under torch.no_grad()."
            )
        lost = [name for name, of in pairs.items() if of not in params or params[of].shape != params[name].shape]
        if lost:
            raise ValueError(
                f"byol_ma_update: each parameter of {target!r} must have one like it in {online!r} that is trained, "
                f"got none for {lost}."
            )
        return EmptyState()

    def on_after_optimizer_step(state: EmptyState, event: AfterOptimizerStep) -> EmptyState | Emit[EmptyState]:
        import torch

        params, pairs = event.params, counterparts(event.params)
        if not pairs:
            return state  # the turn of another optimizer
        torn = [name for name, of in pairs.items() if of not in params or name in event.grads]
        if torn:
            raise ValueError(
                f"byol_ma_update: {target!r} must be in one optimizer with {online!r} and get no gradients, got "
                f"otherwise for {torn}. Make the outputs of {target!r} under torch.no_grad()."
            )
        done: Any = event.step - 1  # 0-based: the event counts this step too
        share = (1 - initial_tau) * (torch.cos(pi * (done / max_steps).clamp(max=1.0)) + 1) / 2  # of the online network
        moved = {name: (1 - share) * params[name] + share * params[of] for name, of in pairs.items()}
        return emit(state, params={**params, **moved}, metrics={"byol_tau": 1 - share})

    return Callback(
        constructor="byol_ma_update",
        key=key,
        step=StepHooks(init=init, on_after_optimizer_step=on_after_optimizer_step),
        emits=(),
        config={"max_steps": max_steps, "initial_tau": initial_tau, "online": online, "target": target},
    )
