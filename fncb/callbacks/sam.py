"""Take gradients where the loss is worst nearby."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fncb.callback import Callback, EmptyState, StepHooks
from fncb.callbacks.norms import total_norm
from fncb.fields import must_be_number
from fncb.step_hooks import Gradient, Params

if TYPE_CHECKING:
    from torch import Tensor


def sam(rho: float = 0.05, *, adaptive: bool = False, eta: float = 0.01, key: str = "sam") -> Callback[EmptyState]:
    """Takes each batch's gradient not at the parameters w, but at w + e, where the loss is about worst.

    With the gradient g at w, e = rho * g / |g|, the norm being the Euclidean one of all gradients together. With
    `adaptive`, e = rho * T * T * g / |T * g| by elements, T being |w| + eta, so that e does not depend on the scale of
    the weights. The parameters are put back before the optimizer moves them by what was found. Loss, metrics and the
    statistics of batch normalisation are those at w. Each batch costs two forward and backward passes, and what a model
    draws from a generator, as dropout does, is drawn for each.

    Args:
      rho: 0 or more: in the parameters' unit, or dimensionless with `adaptive`. The papers take 0.05, and then 0.5.
      adaptive: whether a weight is moved in proportion to its size.
      eta: in the parameters' unit, 0 or more; for `adaptive` only.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for an argument out of range or of the wrong kind.

    Example:
      >>> import torch
      >>> def gradient(params):  # of the loss w ** 2
      ...     return {"w": 2 * params["w"]}
      >>> sam(rho=0.5).step.around_gradient(gradient, {"w": torch.tensor([1.0])})
      {'w': tensor([3.])}

    Reference:
      Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization",
      2021, equations 2 and 3. Kwon, Kim, Park and Choi, "ASAM: Adaptive Sharpness-Aware Minimization for
      Scale-Invariant Learning of Deep Neural Networks", 2021.

    Known as:
      `sam` in optax, `SAM` in Composer.
    """
    must_be_number("sam", "rho", rho, "[0, inf)")
    must_be_number("sam", "eta", eta, "[0, inf)")
    if not isinstance(adaptive, bool):
        raise TypeError(f"sam: adaptive must be True or False, got {adaptive!r}.")

    def around_gradient(gradient: Gradient, params: Params) -> Params:
        import torch

        grads = gradient(params)
        if not grads:
            return grads
        wide = {name: grad.to(torch.promote_types(grad.dtype, torch.float32)) for name, grad in grads.items()}
        sizes: dict[str, Tensor] = {}
        if adaptive:
            sizes = {name: params[name].abs() + eta for name in grads}
            wide = {name: sizes[name] * grad for name, grad in wide.items()}
        norm = total_norm(wide.values())
        steps = {name: grad * (rho / (norm + 1e-12)) for name, grad in wide.items()}  # 0 where there is no slope
        if adaptive:
            steps = {name: sizes[name] * step for name, step in steps.items()}
        return gradient({**params, **{name: (params[name] + s).to(params[name].dtype) for name, s in steps.items()}})

    return Callback(
        constructor="sam",
        key=key,
        step=StepHooks(init=lambda _: EmptyState(), around_gradient=around_gradient),
        emits=(),
        config={"rho": rho, "adaptive": adaptive, "eta": eta},
    )
