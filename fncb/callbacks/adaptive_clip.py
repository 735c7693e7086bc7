"""Scale gradients down that are large against the weights they move."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.events import BeforeOptimizerStep
from fncb.fields import must_be_number

if TYPE_CHECKING:
    from torch import Tensor


def adaptive_clip(clipping: float = 0.01, *, eps: float = 1e-3, key: str = "adaptive_clip") -> Callback[EmptyState]:
    """Scales each unit's gradient so that its norm is at most `clipping` times that of its weights.

    A unit is what makes one output: of a parameter with two dimensions or more, a slice along the first, such as a row
    of a linear layer or a filter of a convolution; a parameter with one dimension or none is one unit. With its weights
    W and their gradient G, G becomes G * min(1, clipping * max(|W|, eps) / |G|), in Euclidean norms. That is done to
    the gradients of a whole window, before the optimizer steps. The paper leaves the last linear layer out:
    `masked(adaptive_clip(), ("stem.*", "blocks.*"))` clips the layers that match only.

    Args:
      clipping: dimensionless, more than 0.
      eps: least norm that weights count for, in their unit, more than 0: units that are 0 could not move otherwise.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for an argument out of range or of the wrong kind.

    Example:
      >>> import torch
      >>> event = BeforeOptimizerStep(
      ...     params={"w": torch.tensor([[3.0, 4.0], [3.0, 4.0]])}, grads={"w": torch.tensor([[0.0, 10.0], [0.5, 0.0]])}
      ... )
      >>> adaptive_clip(0.25).step.on_before_optimizer_step(EmptyState(), event).replaced["grads"]["w"]
      tensor([[0.0000, 1.2500],
              [0.5000, 0.0000]])

    Reference:
      Brock, De, Smith and Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization", 2021,
      equation 3.

    Known as:
      `adaptive_grad_clip` in optax, `clip_mode="agc"` in timm, the adaptive `GradientClipping` in Composer.
    """
    must_be_number("adaptive_clip", "clipping", clipping, "(0, inf)")
    must_be_number("adaptive_clip", "eps", eps, "(0, inf)")

    def clipped(grad: Tensor, weights: Tensor) -> Tensor:
        limit = clipping * _norm(weights).clamp(min=eps)
        factor = (limit / _norm(grad)).clamp(max=1.0)  # of a gradient of 0 it is 1
        return (grad * factor).to(grad.dtype)

    def on_before_optimizer_step(state: EmptyState, event: BeforeOptimizerStep) -> Emit[EmptyState]:
        return emit(state, grads={name: clipped(grad, event.params[name]) for name, grad in event.grads.items()})

    return Callback(
        constructor="adaptive_clip",
        key=key,
        step=StepHooks(init=lambda _: EmptyState(), on_before_optimizer_step=on_before_optimizer_step),
        emits=(),
        config={"clipping": clipping, "eps": eps},
    )


def _norm(tensor: Tensor) -> Tensor:
    """The norm of each unit, in float32 at least, in a shape that broadcasts against the tensor."""
    import torch

    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return torch.linalg.vector_norm(wide, dim=tuple(range(min(1, wide.dim() - 1), wide.dim())), keepdim=True)
