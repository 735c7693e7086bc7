"""A copy of what is trained, to go back to."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fncb import optimizer as opt
from fncb.effects import Effect, Remember, Rollback
from fncb.events import Event
from fncb.step import Step
from fncb.tree import leaves


class Rewind:
    """Carries out `Remember` and `Rollback`; saved, so that a resumed run goes back to the same copy.

    Args:
      step: whose parameters, buffers, optimizer states and step states are kept, but for those that last.
    """

    def __init__(self, step: Step):
        self._step = step
        self._kept: dict[str, Tensor] = {}

    def carries_out(self) -> dict[type[Effect], Any]:
        """Effects and the functions that carry them out."""
        return {Remember: self.remember, Rollback: self.rollback}

    def remember(self, _: Remember, __: Event) -> None:
        """Keeps a copy, in the memory of the one before where that fits."""
        with torch.no_grad():
            for path, tensor in self._now().items():
                kept = self._kept.get(path)
                if kept is None or (kept.shape, kept.dtype, kept.device) != (tensor.shape, tensor.dtype, tensor.device):
                    self._kept[path] = tensor.detach().clone()
                else:
                    kept.copy_(tensor)

    def rollback(self, _: Rollback, __: Event) -> None:
        """Puts the copy back; what came into being since, such as the state of a parameter unfrozen later, stays."""
        if not self._kept:
            raise ValueError(
                "Rollback: something must have been remembered, got nothing yet. Ask for Remember() first."
            )
        self._put_back()

    def _put_back(self) -> None:
        with torch.no_grad():
            for path, tensor in self._now().items():
                if path in self._kept and self._kept[path].shape == tensor.shape:
                    tensor.copy_(self._kept[path])

    def _now(self) -> dict[str, Tensor]:
        step = self._step
        params = dict(step.model.named_parameters())
        names = {id(p): name for name, p in params.items()}
        moments = {
            f"optimizer.{names[id(p)]}": state
            for each in step.optimizers
            for p, state in zip(
                (p for group in each.param_groups for p in group["params"]), opt.state_tensors(each), strict=True
            )
        }
        lasting = frozenset() if step.hooks is None else step.hooks.lasting
        states = {key: state for key, state in step.states.items() if key not in lasting}
        tree = {"params": params, "buffers": dict(step.model.named_buffers()), "states": states, **moments}
        return dict(leaves(tree))

    def state_dict(self) -> dict[str, Tensor]:
        """The copy, empty before there is one."""
        return dict(self._kept)

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave, to where what it is a copy of is now."""
        now = self._now()
        self._kept = {path: tensor.to(now[path].device if path in now else "cpu") for path, tensor in saved.items()}
