"""Publish the norms of the gradients, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.callbacks.norms import total_norm
from fncb.events import BeforeOptimizerStep
from fncb.fields import must_be_number, must_be_one_of

if TYPE_CHECKING:
    from torch import Tensor


def grad_norms(
    norm_type: float = 2.0,
    *,
    per: Literal["layer", "parameter"] = "layer",
    name: str = "grad_norm",
    key: str = "grad_norms",
) -> Callback[EmptyState]:
    """Publishes the norm of the gradient of each layer, or of each parameter.

    A layer is a submodule that has parameters of its own, not those of submodules in it; its norm is that of their
    gradients as one vector. The metrics are `grad_norm/<layer>` or `grad_norm/<parameter>`, on each batch that updates,
    of the gradients of the whole window: before clipping if this comes before `clip_grad_norm` in the composition, and
    after it otherwise. To have both, give one of them another `name` and `key`. What has no gradient has no metric. The
    norm of all gradients is `clip_grad_norm`'s metric.

    Args:
      norm_type: p of the p-norm, more than 0; infinity takes the largest absolute value.
      per: "layer" or "parameter". The model's own parameters are the layer `root`.
      name: what the metrics' names begin with.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for an argument out of range or of the wrong kind.

    Example:
      >>> import torch
      >>> grads = {"head.weight": torch.tensor([[3.0]]), "head.bias": torch.tensor([4.0]), "scale": torch.tensor(2.0)}
      >>> out = grad_norms().step.on_before_optimizer_step(EmptyState(), BeforeOptimizerStep(grads=grads))
      >>> out.replaced["metrics"]
      {'grad_norm/head': tensor(5.), 'grad_norm/root': tensor(2.)}

    Known as:
      `track_grad_norm` and `grad_norm` in Lightning.
    """
    must_be_number("grad_norms", "norm_type", norm_type, "(0, inf]")
    if not isinstance(name, str) or not name:
        raise ValueError(f"grad_norms: name must be text, got {name!r}.")
    must_be_one_of("grad_norms", "per", per, ("layer", "parameter"))

    def on_before_optimizer_step(state: EmptyState, event: BeforeOptimizerStep) -> Emit[EmptyState]:
        layers: dict[str, list[Tensor]] = {}
        for parameter, grad in event.grads.items():
            layer = parameter if per == "parameter" else parameter.rpartition(".")[0] or "root"
            layers.setdefault(layer, []).append(grad)
        norms = {f"{name}/{layer}": total_norm(grads, norm_type).float() for layer, grads in layers.items()}
        return emit(state, metrics=norms)

    return Callback(
        constructor="grad_norms",
        key=key,
        step=StepHooks(init=lambda _: EmptyState(), on_before_optimizer_step=on_before_optimizer_step),
        emits=(),
        config={"norm_type": norm_type, "per": per, "name": name},
    )
