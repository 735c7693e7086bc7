"""Follow fast weights with slow ones, and start the fast ones anew from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.events import AfterOptimizerStep
from fncb.fields import must_be_int, must_be_number

if TYPE_CHECKING:
    from torch import Tensor


def lookahead(k: int = 5, *, alpha: float = 0.5, key: str = "lookahead") -> Callback[EmptyState]:
    """Moves slow weights towards the parameters every `k` steps, and puts the parameters back onto them.

    The slow weights begin as the parameters. After each optimizer step whose number, counted from 1, is a multiple of
    `k`, slow = slow + alpha * (params - slow), and params = slow. The optimizer's own state stays as it is. Steps that
    a callback skips are counted, too: if the k-th is one, the slow weights wait for the next k-th.

    The slow weights are what is meant to be used in the end: read them from `run.step_state[key]`, or choose `k` so
    that it divides the number of steps.

    Args:
      k: optimizer steps, 1 or more.
      alpha: in (0, 1], dimensionless; with 1 the parameters stay as the optimizer makes them.
      key: names the state.

    Returns:
      A `Callback` whose step state maps each parameter's name to its slow weights, a tensor of that parameter's shape,
      dtype and device. Costs one extra copy of the parameters.

    Raises:
      ValueError, TypeError: for an argument out of range or of the wrong kind.

    Example:
      >>> import torch
      >>> step = lookahead(k=2).step
      >>> state = step.init({"w": torch.tensor([0.0])})
      >>> moved = AfterOptimizerStep(step=torch.tensor(2), params={"w": torch.tensor([4.0])})
      >>> step.on_after_optimizer_step(state, moved).replaced["params"]
      {'w': tensor([2.])}

    Reference:
      Zhang, Lucas, Hinton and Ba, "Lookahead Optimizer: k steps forward, 1 step back", 2019, algorithm 1.

    Known as:
      `lookahead` in optax, `Lookahead` in TensorFlow Addons and timm.
    """
    must_be_int("lookahead", "k", k, 1, "step")
    must_be_number("lookahead", "alpha", alpha, "(0, 1]")

    def init(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: param.detach().clone() for name, param in params.items()}

    def on_after_optimizer_step(state: dict[str, Tensor], event: AfterOptimizerStep) -> Emit[Any]:
        import torch

        due: Any = event.step % k == 0  # a tensor; the event counts this step too
        params = event.params  # those of one optimizer, where there are several
        caught = {name: torch.lerp(state[name], fast, alpha) for name, fast in params.items()}
        slow = {name: torch.where(due, new, state[name]) for name, new in caught.items()}
        fast = {name: torch.where(due, new, params[name]) for name, new in caught.items()}
        return emit({**state, **slow}, params=fast)

    return Callback(
        constructor="lookahead",
        key=key,
        step=StepHooks(init=init, on_after_optimizer_step=on_after_optimizer_step),
        emits=(),
        config={"k": k, "alpha": alpha},
    )
