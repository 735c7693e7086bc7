"""What `mixup`, `cutmix` and `label_smoothing` share: where a batch has its labels, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from fncb.fields import must_be_int

if TYPE_CHECKING:
    from torch import Tensor

Place: TypeAlias = "int | str"
"""Where a batch has a part: an index of a tuple or list, or a key of a mapping."""


def check_labels(who: str, num_classes: int | None, **places: Place) -> None:
    """Raises `TypeError` or `ValueError` for what is no number of classes, or no index or key of a batch."""
    if num_classes is not None:
        must_be_int(who, "num_classes", num_classes, 1, "class")
    for name, place in places.items():
        if isinstance(place, bool) or not isinstance(place, int | str):
            raise TypeError(f"{who}: {name} must be an index or a key of the batch, got {place!r}.")


def part(who: str, batch: Any, name: str, place: Place) -> Tensor:
    """The tensor that a batch has at a place; `name` is what it is, for the error."""
    found: Any = None
    if isinstance(batch, Mapping | list | tuple):
        with suppress(LookupError, TypeError):
            found = batch[place]  # pyright: ignore[reportCallIssue, reportArgumentType] - whichever it is
    if not hasattr(found, "dtype"):
        there = f"one with {list(batch)}" if isinstance(batch, Mapping) else f"{type(batch).__name__}"
        raise TypeError(f"{who}: a batch must have a tensor of {name} at {place!r}, got {there}. Pass `{name}=`.")
    return found


def with_parts(batch: Any, parts: Mapping[Place, Tensor]) -> Any:
    """The batch, of the same structure, with other tensors at some places."""
    if isinstance(batch, Mapping):
        return {**batch, **parts}
    new = list(batch)
    for place, value in parts.items():
        new[place] = value  # pyright: ignore[reportArgumentType, reportCallIssue] - an index, as there is such a part
    if isinstance(batch, list):
        return new
    return type(batch)(*new) if hasattr(batch, "_fields") else tuple(new)


def probabilities(who: str, labels: Tensor, num_classes: int | None) -> Tensor:
    """Integer labels, (batch, ...), as probabilities, (batch, classes, ...); those that are numbers already stay.

    A label that is no class, such as -100, becomes zeros, so that it adds nothing to a cross entropy.
    """
    import torch

    if labels.is_floating_point():
        if num_classes is not None and (labels.dim() < 2 or labels.shape[1] != num_classes):
            raise ValueError(
                f"{who}: labels must be numbers of {num_classes} classes or their probabilities, got shape "
                f"{tuple(labels.shape)}."
            )
        return labels
    if num_classes is None:
        raise ValueError(f"{who}: num_classes must be given for labels that are numbers of classes, got None.")
    classes = torch.arange(num_classes, device=labels.device).reshape(-1, *[1] * (labels.dim() - 1))
    return (labels.unsqueeze(1) == classes).to(torch.get_default_dtype())


def random_pairs(inputs: Tensor, alpha: float, probability: float) -> tuple[Tensor, Tensor]:
    """Pairs up the samples of a batch.

    Returns:
      A coefficient, 0-d: drawn from Beta(alpha, alpha) with a probability, else 1. And each sample's partner: a random
      permutation of the samples' numbers.
    """
    import torch

    both = torch.full((), float(alpha), device=inputs.device)
    drawn = torch.distributions.Beta(both, both, validate_args=False).sample()  # checks would wait for the device
    coefficient = torch.where(torch.rand((), device=inputs.device) < probability, drawn, 1.0)
    return coefficient, torch.rand(inputs.shape[0], device=inputs.device).argsort()
