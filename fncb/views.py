"""A model to look at: in eval mode, or over other weights, and nothing of the model is changed."""

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fncb.tree import leaves


def view_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model with other tensors in the place of some of its parameters and buffers, to be called and then dropped.

    Modules are copied, which costs no more than walking through them; parameters and buffers are not, neither those of
    the model, which the view shares, nor those that are given. A weight that is tied stays tied. What a module keeps
    beside parameters and buffers is copied as `copy.deepcopy` does it.

    Args:
      model: left as it is.
      tensors: by the names that `named_parameters` and `named_buffers` give; others stay the model's own.

    Example:
      >>> import torch
      >>> model = nn.Linear(1, 1, bias=False)
      >>> view_of(model, {"weight": torch.tensor([[3.0]])})(torch.ones(1)).item()
      3.0
    """
    own = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    beside = [each for module in model.modules() for _, each in leaves(vars(module)) if isinstance(each, Tensor)]
    memo: dict[int, Any] = {id(each): each.detach() for each in beside if each.grad_fn is not None}  # which has no copy
    for name, tensor in own:
        memo[id(tensor)] = tensors[name] if name in tensors else memo.get(id(tensor), tensor)
    return copy.deepcopy(model, memo)


@contextmanager
def eval_mode(model: nn.Module) -> Generator[None]:
    """Puts every submodule into eval mode, and afterwards back into the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
