"""Number formats: what a model, its losses and their gradients are computed in."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import attrs
import torch
from torch import nn

from fncb.batch import refill, tensors
from fncb.fields import must_be_one_of
from fncb.task import Task

Precision = Literal["32", "bf16-mixed", "16-mixed", "64"]
PrecisionGiven: TypeAlias = Precision | Literal["32-true", "64-true", 32, 64]
"""A precision as it may be written, Lightning's other names of two of them included."""

_ALSO = {32: "32", 64: "64", "32-true": "32", "64-true": "64"}
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def checked(who: str, precision: Any) -> Precision:
    """The precision that is meant; Lightning's `32`, `64`, "32-true" and "64-true" are understood."""
    precision = _ALSO.get(precision, precision)
    must_be_one_of(who, "precision", precision, ("32", *_AUTOCAST, "64"))
    return precision


def needs_scale(precision: Precision) -> bool:
    """Whether small gradients would underflow unless the loss is scaled up."""
    return precision == "16-mixed"


def with_precision(task: Task, precision: Precision, device: torch.device) -> Task:
    """The task with its functions computing in a precision; for "64" its model is converted, in place.

    Mixed precision is torch's autocast: parameters and optimizer stay in float32, products run in half precision.
    """
    if precision == "32":
        return task
    if precision == "64":
        task.model.double()

    def wrap(fn: Any) -> Any:
        if isinstance(fn, Mapping):
            return {name: wrap(each) for name, each in fn.items()}
        if fn is None:
            return None
        return _in_double(fn) if precision == "64" else _under_autocast(fn, device.type, _AUTOCAST[precision])

    functions = {name: getattr(task, name) for name in ("loss", "validate", "test")} | {"predict": task.predicts}
    return attrs.evolve(task, **{name: wrap(fn) for name, fn in functions.items()})


def _in_double(fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def in_double(model: nn.Module, batch: Any) -> Any:
        wide = [part.double() if part.is_floating_point() else part for part in tensors(batch)]
        return fn(model, refill(batch, wide))

    return in_double


def _under_autocast(fn: Callable[[Any, Any], Any], device: str, dtype: torch.dtype) -> Callable[[Any, Any], Any]:
    def under_autocast(model: nn.Module, batch: Any) -> Any:
        with torch.autocast(device, dtype=dtype):
            return fn(model, batch)

    return under_autocast
