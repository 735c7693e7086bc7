"""Scale gradients down so that their total norm is bounded."""

from math import inf, isnan

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.callbacks.norms import total_norm
from fncb.events import BeforeOptimizerStep


def clip_grad_norm(max_norm: float, *, norm_type: float = 2.0, key: str | None = None) -> Callback[EmptyState]:
    """Scales all gradients by one factor so that their total norm is at most `max_norm`.

    The total norm is that of all gradients together, as if they were one vector. The factor is
    min(1, max_norm / (norm + 1e-6)), as in `torch.nn.utils.clip_grad_norm_`. Publishes the metric `grad_norm`, the
    norm before clipping, on each batch that updates.

    Args:
      max_norm: in the gradients' unit, more than 0; infinity measures and does not clip.
      norm_type: p of the p-norm, more than 0; infinity takes the largest absolute value.
      key: names the callback; `clip_grad_norm` by default.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError: for an argument out of range.

    Example:
      >>> import torch
      >>> out = clip_grad_norm(1.0).step.on_before_optimizer_step(
      ...     EmptyState(), BeforeOptimizerStep(grads={"w": torch.tensor([3.0, 4.0])})
      ... )
      >>> out.replaced
      {'grads': {'w': tensor([0.6000, 0.8000])}, 'metrics': {'grad_norm': tensor(5.)}}

    Reference:
      Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013, algorithm 1.

    Known as:
      `gradient_clip_val` in Lightning, `clip_grad_norm_` in torch, `clip_by_global_norm` in optax.
    """
    for name, value in (("max_norm", max_norm), ("norm_type", norm_type)):
        if isnan(value) or not 0 < value <= inf:
            raise ValueError(f"clip_grad_norm: {name} must be more than 0, got {value!r}.")

    def on_before_optimizer_step(state: EmptyState, event: BeforeOptimizerStep) -> Emit[EmptyState]:
        import torch

        grads = event.grads
        if not grads:
            return emit(state, metrics={"grad_norm": torch.zeros(())})
        norm = total_norm(grads.values(), norm_type)
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # in float32 at least: it underflows half precision
        clipped = {name: (grad.to(norm.dtype) * factor).to(grad.dtype) for name, grad in grads.items()}
        return emit(state, grads=clipped, metrics={"grad_norm": norm.float()})

    return Callback(
        constructor="clip_grad_norm",
        key=key or "clip_grad_norm",
        step=StepHooks(init=lambda _: EmptyState(), on_before_optimizer_step=on_before_optimizer_step),
        emits=(),
        config={"max_norm": max_norm, "norm_type": norm_type},
    )
