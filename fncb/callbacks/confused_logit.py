"""Show inputs whose two best logits are close, and what would sway them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.callbacks.batch_parts import as_the_model, first_input
from fncb.callbacks.image_grid import image_grid
from fncb.effects import Examine, LogImage
from fncb.events import TrainBatchEnd
from fncb.fields import must_be_callable, must_be_int, must_be_number

if TYPE_CHECKING:
    from torch import Tensor


def confused_logit(
    top_k: int,
    *,
    min_logit_value: float = 5.0,
    logging_batch_interval: int = 20,
    max_logit_difference: float = 0.1,
    logits: Callable[[Any, Any], Any] | None = None,
    key: str = "confused_logit",
) -> Callback[EmptyState]:
    """Shows inputs that the model confidently takes for two classes at once, and the gradients of both logits.

    A sample of the batch is confused if its best logit is more than `min_logit_value` and its second best is closer to
    that than `max_logit_difference`. The logits are those of the model after the batch's update, in eval mode. Each of
    the first `top_k` confused ones, in the batch's order, goes to the sinks as an image `confused_logit/0`,
    `confused_logit/1`, .... Its panels, from left to right, x being the sample:

      x | d logit_1 / dx | d logit_2 / dx | x + 2 d logit_1 / dx | x + 2 d logit_2 / dx

    The gradients are of the sample's own two best logits, with respect to the input alone. Both are drawn to one
    scale, 0 as mid-grey; each other panel from its least value, black, to its largest, white. Inputs of 1 or 3
    channels are drawn in these; of others, the mean over the channels is.

    Args:
      top_k: images at a time, 1 or more.
      min_logit_value: in the logits' unit.
      logging_batch_interval: batches, 1 or more: looks at the 20th batch of an epoch, the 40th, ....
      max_logit_difference: in the logits' unit, more than 0.
      logits: `logits(model, x)` gives the logits (batch, classes) for inputs; None calls the model. The inputs are
        the batch's first part, (batch, channels, height, width).
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; when a batch is looked at, for inputs that
        are no images or logits of fewer than two classes.

    Example:
      >>> confused = confused_logit(3)
      >>> [len(confused.transition(confused.init(), TrainBatchEnd(batch_idx=i))[1]) for i in (0, 18, 19, 20, 39)]
      [0, 0, 1, 0, 1]

    Known as:
      `ConfusedLogitCallback` in Lightning Bolts, which looks whether any logit of the batch exceeds the minimum.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    who = "confused_logit"
    for name in ("top_k", "logging_batch_interval"):
        must_be_int(who, name, config[name], 1)
    must_be_number(who, "min_logit_value", min_logit_value, "(-inf, inf)")
    must_be_number(who, "max_logit_difference", max_logit_difference, "(0, inf)")
    if logits is not None:
        must_be_callable(who, "logits", logits)

    def look(model: Any, event: TrainBatchEnd, _: Any) -> tuple[LogImage, ...]:
        import torch

        def logits_of(x: Tensor) -> Tensor:
            found = model(x) if logits is None else logits(model, x)
            if found.dim() != 2 or found.shape[1] < 2:
                shape = tuple(found.shape)
                raise ValueError(f"{who}: logits must be (batch, 2 or more classes), got shape {shape}.")
            return found

        inputs = as_the_model(model, first_input(event.batch))
        if getattr(inputs, "ndim", None) != 4:
            shape = tuple(getattr(inputs, "shape", ()))
            raise ValueError(f"{who}: inputs must be (batch, channels, height, width), got shape {shape}.")
        (best, second), classes = (part.unbind(1) for part in logits_of(inputs).topk(2, dim=1))
        confused = (best > min_logit_value) & (best - second < max_logit_difference)
        rows = confused.nonzero().flatten()[:top_k]  # waits for the device, once a look
        if not len(rows):
            return ()
        with torch.enable_grad():
            x = inputs[rows].detach().requires_grad_()
            found = logits_of(x)
            gradients = [
                torch.autograd.grad(found.gather(1, of[rows, None]).sum(), x, retain_graph=True)[0] for of in classes
            ]
        samples = zip(x.detach(), *gradients, strict=True)
        return tuple(LogImage(f"confused_logit/{i}", _panels(*each)) for i, each in enumerate(samples))

    def on_train_batch_end(state: EmptyState, event: TrainBatchEnd) -> EmptyState | Emit[EmptyState]:
        due = (event.batch_idx + 1) % logging_batch_interval == 0
        return emit(state, Examine(who, look)) if due else state

    return Callback(
        constructor="confused_logit",
        key=key,
        emits=(Examine, LogImage),
        config=config,
        on_train_batch_end=on_train_batch_end,
    )


def _panels(*sample: Tensor) -> Tensor:
    """One image of a sample and the gradients of two logits, (channels, height, width) each."""
    import torch

    drawable = len(sample[0]) in (1, 3)
    x, first, second = (part.float() if drawable else part.float().mean(0, keepdim=True) for part in sample)
    steepest = torch.stack([first, second]).abs().amax().clamp(min=1e-12)
    gradients = torch.stack([first, second]) / (2 * steepest) + 0.5
    others = torch.stack([x, x + 2 * first, x + 2 * second])
    low, high = others.amin((1, 2, 3), keepdim=True), others.amax((1, 2, 3), keepdim=True)
    x, toward_first, toward_second = (others - low) / (high - low).clamp(min=1e-12)
    return image_grid(torch.stack([x, *gradients, toward_first, toward_second]), nrow=5, pad_value=1.0)
