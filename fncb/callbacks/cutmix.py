"""Paste a box of one training image into another, and mix their labels by its area."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.callbacks.labels import Place, check_labels, part, probabilities, random_pairs, with_parts
from fncb.events import TrainBatchStart
from fncb.fields import must_be_number

if TYPE_CHECKING:
    from torch import Tensor


def cutmix(
    alpha: float = 1.0,
    *,
    num_classes: int | None = None,
    probability: float = 1.0,
    inputs: Place = 0,
    labels: Place = 1,
    key: str = "cutmix",
) -> Callback[EmptyState]:
    """Trains on images into which a box of another one is pasted, with labels mixed by its area.

    For each batch a coefficient is drawn from Beta(alpha, alpha), and for each image a partner: a permutation of the
    batch. A box of sqrt(1 - coefficient) times the height and width, its centre drawn uniformly from the image, is
    taken from the partner: the pixels whose own centres lie in it. The coefficient is then corrected to the fraction
    of pixels that stay, since a box may reach over the border, and labels become coefficient * label +
    (1 - coefficient) * partner's label. Labels that are numbers of classes become probabilities first, as with `mixup`,
    and what is said there of losses, of hooks on the host and of `when` holds here too.

    Publishes the metric `cutmix_lambda`, the corrected coefficient.

    Args:
      alpha: 0.01 or more, dimensionless; with 1, all areas of the box are as probable.
      num_classes: how many classes there are; None where labels are floating-point numbers already.
      probability: in [0, 1], that a batch is changed at all.
      inputs, labels: where a batch has them: indices of a tuple or list, or keys of a mapping. The last two dimensions
        of the inputs are height and width.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; with the first batch, if it has no such
        parts.

    Example:
      >>> import torch
      >>> _ = torch.manual_seed(0)
      >>> images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
      >>> event = TrainBatchStart(batch=(images, torch.tensor([0, 1])))
      >>> out = cutmix(num_classes=2).step.on_train_batch_start(EmptyState(), event)
      >>> x, y = out.replaced["batch"]
      >>> torch.equal(x.mean(dim=(1, 2, 3)), y[:, 1])
      True

    Reference:
      Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019,
      equations 1 and 2.

    Known as:
      `CutMix` in torchvision, Keras, fastai and Composer.
    """
    must_be_number("cutmix", "alpha", alpha, "[0.01, inf)")
    must_be_number("cutmix", "probability", probability, "[0, 1]")
    check_labels("cutmix", num_classes, inputs=inputs, labels=labels)

    def on_train_batch_start(state: EmptyState, event: TrainBatchStart) -> Emit[EmptyState]:
        import torch

        x = part("cutmix", event.batch, "inputs", inputs)
        y = probabilities("cutmix", part("cutmix", event.batch, "labels", labels), num_classes)
        if x.dim() < 3:
            raise TypeError(f"cutmix: inputs must have a height and a width, got shape {tuple(x.shape)}. Use mixup.")
        coefficient, partner = random_pairs(x, alpha, probability)
        size = (1 - coefficient).sqrt()
        box = _inside(x, -2, size).unsqueeze(1) & _inside(x, -1, size)
        coefficient = 1 - box.float().mean()
        mixed = {
            inputs: torch.where(box, x[partner], x),
            labels: coefficient * y + (1 - coefficient) * y[partner],
        }
        return emit(state, batch=with_parts(event.batch, mixed), metrics={"cutmix_lambda": coefficient})

    return Callback(
        constructor="cutmix",
        key=key,
        step=StepHooks(init=lambda _: EmptyState(), on_train_batch_start=on_train_batch_start),
        emits=(),
        config={
            "alpha": alpha,
            "num_classes": num_classes,
            "probability": probability,
            "inputs": inputs,
            "labels": labels,
        },
    )


def _inside(images: Tensor, dim: int, size: Tensor) -> Tensor:
    """Which rows or columns lie in an interval of a relative size whose centre is drawn uniformly."""
    import torch

    n = images.shape[dim]
    centres = torch.arange(n, device=images.device) + 0.5
    return (centres - n * torch.rand((), device=images.device)).abs() < n * size / 2
