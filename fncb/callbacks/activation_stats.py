"""Publish statistics of what submodules return."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.events import AfterBackward

if TYPE_CHECKING:
    from torch import Tensor


def activation_stats(*patterns: str, key: str = "activation_stats") -> Callback[EmptyState]:
    """Publishes mean, standard deviation and fraction of zeros of what submodules return.

    On each training batch, over all elements of what a submodule returned: `activation_mean/<name>`,
    `activation_std/<name>` (of the elements at hand, so divided by their number) and `activation_zeros/<name>`, the
    fraction that is exactly 0: of a ReLU, what is not active. Of several tensors that one returns the first counts, of
    several calls the last. A submodule that was not called has no metrics.

    Args:
      *patterns: shell patterns of the names of submodules, such as `*.relu`.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      TypeError: unless patterns are given; ValueError when training begins, for one that matches no submodule.

    Example:
      >>> import torch
      >>> event = AfterBackward(activations={"relu": torch.tensor([[0.0, 2.0], [0.0, 2.0]])})
      >>> activation_stats("relu").step.on_after_backward(EmptyState(), event).replaced["metrics"]
      {'activation_mean/relu': tensor(1.), 'activation_std/relu': tensor(1.), 'activation_zeros/relu': tensor(0.5000)}

    Known as:
      `ActivationStats` in fastai.
    """
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise TypeError(
            f"activation_stats: patterns must be names of submodules, got {patterns!r}. Write "
            "activation_stats('*.relu')."
        )

    def on_after_backward(state: EmptyState, event: AfterBackward) -> Emit[EmptyState]:
        metrics: dict[str, Tensor] = {}
        for name, value in event.activations.items():
            wide = value.float()  # a sum overflows half precision
            metrics[f"activation_mean/{name}"] = wide.mean()
            metrics[f"activation_std/{name}"] = wide.std(correction=0)
            metrics[f"activation_zeros/{name}"] = (wide == 0).float().mean()
        return emit(state, metrics=metrics)

    return Callback(
        constructor="activation_stats",
        key=key,
        step=StepHooks(init=lambda _: EmptyState(), watch=patterns, on_after_backward=on_after_backward),
        emits=(),
        config={"patterns": list(patterns)},
    )
