"""What is in a batch, where it is, and how many a loader has."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def tensors(batch: Any) -> list[Tensor]:
    """The tensors of a batch in a fixed order: dict values, list and tuple items, at any depth."""
    if isinstance(batch, Tensor):
        return [batch]
    if not isinstance(batch, list | tuple):  # the usual kinds first: this runs for every batch
        if not isinstance(batch, Mapping):
            return []
        batch = batch.values()
    found = []
    for part in batch:
        if isinstance(part, Tensor):
            found.append(part)
        else:
            found += tensors(part)
    return found


def refill(batch: Any, new: list[Tensor]) -> Any:
    """The same batch with its tensors replaced in the order of `tensors`; takes them off the front of `new`."""
    if isinstance(batch, Tensor):
        return new.pop(0)
    if isinstance(batch, dict):
        return {key: refill(part, new) for key, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*[refill(part, new) for part in batch])
    if isinstance(batch, list | tuple):
        return type(batch)([refill(part, new) for part in batch])
    return batch


def signature(batch: Any) -> Any:
    """What a compiled step depends on: the structure of a batch, and the shape, stride and dtype of its tensors.

    Example:
      >>> import torch
      >>> signature((torch.zeros(2, 3), "name")) == signature((torch.ones(2, 3), "other"))
      True
    """
    kind = type(batch)
    if kind is tuple or kind is list:  # the usual case first: this runs for every batch
        return tuple([signature(part) for part in batch])
    if isinstance(batch, Tensor):
        return batch.shape, batch.stride(), batch.dtype
    if isinstance(batch, Mapping):
        return tuple([(key, signature(part)) for key, part in batch.items()])
    return tuple([signature(part) for part in batch]) if isinstance(batch, list | tuple) else kind


def batch_size(batch: Any) -> int:
    """How many samples a batch holds: the length of its first tensor that has one, else 1."""
    return next((tensor.shape[0] for tensor in tensors(batch) if tensor.dim()), 1)


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch on a device; the same object when it is there already."""
    parts = tensors(batch)
    for part in parts:
        if part.device != device:
            return refill(batch, [part.to(device, non_blocking=True) for part in parts])
    return batch


def count(loader: Any) -> int | None:
    """How many batches a loader has, None when it does not know."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):  # no __len__, or one that says so, as of a loader over a stream
        return None


def at_least_one(who: str, loader: Iterable[Any]) -> Iterator[Any]:
    """Iterates over a loader; raises if it is not iterable or gives no batch at all."""
    try:
        batches = iter(loader)
    except TypeError:
        raise TypeError(f"{who} must be an iterable of batches, got {loader!r}.") from None
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        hint = " A generator gives its batches once: pass a list or a loader." if batches is loader else ""
        raise ValueError(f"{who} must give at least one batch, got none.{hint}")
