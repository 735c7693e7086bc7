"""The norm of several gradients as one vector."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from math import inf
from operator import add
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def total_norm(tensors: Iterable[Tensor], p: float = 2.0) -> Tensor:
    """The p-norm of all of them together, 0-d, in float32 at least, as half precision overflows; of one at least.

    Example:
      >>> import torch
      >>> total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
      tensor(5.)
    """
    import torch

    norms = [torch.linalg.vector_norm(each.to(torch.promote_types(each.dtype, torch.float32)), p) for each in tensors]
    if len(norms) == 1 or p == inf:
        return reduce(torch.maximum, norms)
    return reduce(add, [norm**p for norm in norms]) ** (1 / p)  # a stack would cost a compiled step two kernels
