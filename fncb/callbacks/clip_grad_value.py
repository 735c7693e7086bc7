"""Bound each element of the gradients."""

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.events import BeforeOptimizerStep
from fncb.fields import must_be_number


def clip_grad_value(clip_value: float, *, key: str = "clip_grad_value") -> Callback[EmptyState]:
    """Clips each element of the gradients to [-clip_value, clip_value].

    Of the gradients of a whole window, before the optimizer steps, as `torch.nn.utils.clip_grad_value_` does it: what
    is infinite becomes finite, and NaN stays.

    Args:
      clip_value: in the gradients' unit, more than 0; infinity does nothing.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for an argument out of range or of the wrong kind.

    Example:
      >>> import torch
      >>> out = clip_grad_value(0.5).step.on_before_optimizer_step(
      ...     EmptyState(), BeforeOptimizerStep(grads={"w": torch.tensor([3.0, -0.25])})
      ... )
      >>> out.replaced
      {'grads': {'w': tensor([ 0.5000, -0.2500])}}

    Known as:
      `gradient_clip_algorithm="value"` in Lightning, `clipvalue` in Keras, `clip` in optax.
    """
    must_be_number("clip_grad_value", "clip_value", clip_value, "(0, inf]")

    def on_before_optimizer_step(state: EmptyState, event: BeforeOptimizerStep) -> Emit[EmptyState]:
        return emit(state, grads={name: grad.clamp(-clip_value, clip_value) for name, grad in event.grads.items()})

    return Callback(
        constructor="clip_grad_value",
        key=key,
        step=StepHooks(init=lambda _: EmptyState(), on_before_optimizer_step=on_before_optimizer_step),
        emits=(),
        config={"clip_value": clip_value},
    )
