"""What callbacks that call the model themselves take from a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fncb.tree import map_leaves

if TYPE_CHECKING:
    from torch import Tensor, nn


def first_input(batch: Any) -> Any:
    """What a model is given of a batch where nothing else is said: its first part, or all of one that has no parts.

    Example:
      >>> first_input(("images", "labels")), first_input({"image": 1, "label": 2}), first_input(3)
      ('images', 1, 3)
    """
    if isinstance(batch, Mapping):
        return next(iter(batch.values()))
    return batch[0] if isinstance(batch, list | tuple) else batch


def as_the_model(model: nn.Module, batch: Any) -> Any:
    """A batch with its tensors where the model is, those of floating point in the format that the model computes in.

    So a model that `precision="64"` converted is given float64, as its loss is.
    """
    of_model = next((p for p in model.parameters() if p.is_floating_point()), None)
    if of_model is None:
        return batch

    def moved(part: Any) -> Any:
        if not hasattr(part, "is_floating_point"):
            return part
        return part.to(of_model.device, of_model.dtype if part.is_floating_point() else None)

    return map_leaves(moved, batch)


def features_and_labels(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """The model's output for a batch of inputs and labels, (batch, features), and the labels.

    Where the inputs are several views of the same samples, it is that for the last one.
    """
    if not isinstance(batch, list | tuple) or len(batch) < 2:
        raise TypeError(f"a batch must be (inputs, labels), got {type(batch).__name__}. Pass features=.")
    inputs, labels = batch[0], batch[1]
    view = inputs[-1] if isinstance(inputs, list | tuple) else inputs
    return model(view).flatten(1), labels


def checked_features(who: str, given: Any, width: int | None = None) -> tuple[Tensor, Tensor]:
    """What a function `features(model, batch)` returned, detached; `width` is how many features there must be.

    Raises:
      TypeError: unless it is two tensors.
      ValueError: for shapes that do not fit.
    """
    if not isinstance(given, tuple) or len(given) != 2 or not all(hasattr(part, "dim") for part in given):
        raise TypeError(f"{who}: features must return (features, labels), two tensors, got {type(given).__name__}.")
    found, labels = given
    if found.dim() != 2 or (width is not None and found.shape[1] != width):
        wanted = "features" if width is None else width
        raise ValueError(f"{who}: features must have the shape (batch, {wanted}), got {tuple(found.shape)}.")
    if labels.shape != found.shape[:1]:
        raise ValueError(f"{who}: labels must have the shape {tuple(found.shape[:1])}, got {tuple(labels.shape)}.")
    return found.detach(), labels.detach().to(found.device).long()
