"""A copy of what is trained, to go back to."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fncb import optimizer as opt
from fncb.effects import Effect, Remember, Rollback
from fncb.events import Event
from fncb.handling import Handler
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

    def carries_out(self) -> dict[type[Effect], Handler]:
        """Effects and the functions that carry them out."""
        return {Remember: self.remember, Rollback: self.rollback}

    def remember(self, _: Remember, __: Event) -> None:
        """Keeps a copy, in the memory of the one before where that fits."""
        before, self._kept = self._kept, {}
        with torch.no_grad():
            for path, tensor in self._now().items():
                kept = before.get(path)
                if kept is None or (kept.shape, kept.dtype, kept.device) != (tensor.shape, tensor.dtype, tensor.device):
                    kept = torch.empty_like(tensor)
                self._kept[path] = kept.copy_(tensor)

    def rollback(self, _: Rollback, __: Event) -> None:
        """Puts the copy back; what a window of accumulated batches holds is dropped.

        An optimizer's state of a parameter that had none then begins anew, as it would have done.
        """
        if not self._kept:
            raise ValueError(
                "Rollback: something must have been remembered, got nothing yet. Ask for Remember() first."
            )
        with torch.no_grad():
            for path, tensor in self._now().items():
                if path in self._kept and self._kept[path].shape == tensor.shape:
                    tensor.copy_(self._kept[path])
        self._step.drop_window()
        if self._forget_what_is_new():
            self._step.take_up_parameters()

    def _forget_what_is_new(self) -> bool:
        """Takes away an optimizer's state of parameters that had none; gives whether there was any."""
        names, found = {id(p): name for name, p in self._step.model.named_parameters()}, False
        had = {path.removeprefix("optimizer.") for path in self._kept if path.startswith("optimizer.")}
        for optimizer in self._step.optimizers:
            for p in [p for p in optimizer.state if not any(path.startswith(f"{names[id(p)]}.") for path in had)]:
                del optimizer.state[p]
                found = True
        return found

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
