"""Effects on the training under way: learning rates, accumulation, what is trained, the parameters themselves."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fncb import events as ev
from fncb.effects import Apply, Freeze, SetAccumulation, SetLR, Skip, StopEpoch, Unfreeze, Validate
from fncb.interpret import Handler
from fncb.position import AFTER_BATCHES, Position
from fncb.step import Step
from fncb.tree import copy_into


class Control:
    """Carries out what changes the training; saved, so that a resumed run trains the same parameters.

    Args:
      step: whose model, optimizers and step states are changed.
      schedules: by the optimizer's name, "" where there is one.
      at: where the accumulation is kept.
    """

    def __init__(self, step: Step, schedules: Mapping[str, LRScheduler], at: Position):
        self.step, self.schedules, self.at = step, schedules, at
        self.named = dict(step.model.named_parameters())

    def carries_out(self, validates: bool = True) -> dict[Any, Handler]:
        """Effects and the functions that carry them out; `validates` tells whether there is anything to validate on."""
        done: dict[Any, Handler] = {
            SetLR: self.set_lr,
            SetAccumulation: self.set_accumulation,
            Freeze: self.freeze,
            Unfreeze: self.unfreeze,
            Apply: self.apply,
            Skip: self.skip,
            StopEpoch: self.stop_epoch,
        }
        return done | {Validate: lambda effect, _: self.at.ask(effect)} if validates else done

    def set_lr(self, effect: SetLR, _: ev.Event) -> None:
        """Sets the learning rate of one group or all, of one optimizer or all."""
        names = [turn.name for turn in self.step.turns]
        if effect.optimizer is not None and effect.optimizer not in names:
            raise ValueError(f"SetLR: optimizer must be one of {names}, got {effect.optimizer!r}.")
        found = False
        for turn in self.step.turns:
            for i, group in enumerate(turn.optimizer.param_groups):
                if effect.optimizer in (None, turn.name) and effect.group in (None, i):
                    group["lr"], found = effect.lr, True
        if not found:
            raise ValueError(f"SetLR: group must be the index of a parameter group, got {effect.group}.")

    def set_accumulation(self, effect: SetAccumulation, _: ev.Event) -> None:
        """Sets how many batches make up an optimizer step, from the next window on."""
        if effect.n < 1:
            raise ValueError(f"SetAccumulation: n must be 1 batch or more, got {effect.n}.")
        self.at.accumulate = effect.n

    def freeze(self, effect: Freeze, _: ev.Event) -> None:
        """Stops training some parameters."""
        for name in self._matching("Freeze", effect.pattern):
            self.named[name].requires_grad_(False)
        if not any(p.requires_grad for p in self.named.values()):
            raise ValueError(f"Freeze: something must be left to train, got {effect.pattern!r}, which matches all.")
        self.step.take_up_parameters()

    def unfreeze(self, effect: Unfreeze, _: ev.Event) -> None:
        """Trains some parameters again, in a parameter group of their own where they have none or another rate."""
        by_optimizer: dict[int, list[str]] = {}
        for name in self._matching("Unfreeze", effect.pattern):
            self.named[name].requires_grad_(True)
            owner = next((i for i, each in enumerate(self.step.optimizers) if self._in(each, name)), None)
            if owner is None or effect.lr is not None:
                by_optimizer.setdefault(self._owner(name) if owner is None else owner, []).append(name)
        for i, names in by_optimizer.items():
            optimizer, mine = self.step.optimizers[i], {id(self.named[name]) for name in names}
            lr = optimizer.param_groups[0]["lr"] if effect.lr is None else effect.lr
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in mine]
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
            self._add_group(i, names, lr)
        self.step.take_up_parameters()

    def skip(self, effect: Skip, event: ev.Event) -> None:
        """Has the batch that starts left out."""
        if type(event) is not ev.TrainBatchStart:
            raise ValueError(f"Skip: it must be asked for at on_train_batch_start, got it at {type(event).__name__}.")
        self.at.ask(effect)

    def stop_epoch(self, effect: StopEpoch, event: ev.Event) -> None:
        """Has the rest of the epoch left out."""
        if self.at.phase in ("", *AFTER_BATCHES):
            raise ValueError(f"StopEpoch: an epoch must be under way, got it at {type(event).__name__}.")
        if type(event) is ev.TrainBatchStart:
            self.at.epoch_is_over = False  # so that what is left out is noticed
        self.at.ask(effect)

    def apply(self, effect: Apply, _: ev.Event) -> None:
        """Replaces parameters and step states by what a function makes of them."""
        if effect.fn is None:
            raise ValueError(f"Apply {effect.name!r}: fn must be a function, got None.")
        params = {name: p.detach() for name, p in self.named.items()}
        out = effect.fn(dict(params), self.step.states)
        if not isinstance(out, tuple) or len(out) != 2:
            raise TypeError(f"Apply {effect.name!r}: fn must return (params, step_state), got {type(out).__name__}.")
        with torch.no_grad():
            copy_into(f"Apply {effect.name!r}", params, out[0])
            copy_into(f"Apply {effect.name!r}", self.step.states, out[1])

    def _matching(self, who: str, pattern: str) -> list[str]:
        found = [name for name in self.named if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"{who}: pattern must match a parameter, got {pattern!r}. There are {list(self.named)}.")
        return found

    def _in(self, optimizer: Optimizer, name: str) -> bool:
        return any(p is self.named[name] for group in optimizer.param_groups for p in group["params"])

    def _owner(self, name: str) -> int:
        """The optimizer that a parameter outside of all of them belongs to: that of the submodule it is in."""
        turns = self.step.turns
        found = [i for i, turn in enumerate(turns) if len(turns) == 1 or name.startswith(f"{turn.name}.")]
        if not found:
            raise ValueError(f"Unfreeze: {name!r} must be in a submodule named as an optimizer, or in an optimizer.")
        return found[0]

    def _add_group(self, i: int, names: list[str], lr: float) -> None:
        turn = self.step.turns[i]
        turn.optimizer.add_param_group({"params": [self.named[name] for name in names], "lr": lr, "initial_lr": lr})
        schedule: Any = self.schedules.get(turn.name or "")
        for name, value in (("base_lrs", lr), ("lr_lambdas", None), ("min_lrs", None)):  # what a schedule has per group
            of_groups = getattr(schedule, name, None)
            if isinstance(of_groups, list) and of_groups:
                of_groups.append(of_groups[-1] if value is None else value)

    def state_dict(self) -> dict[str, Any]:
        """Which parameters are frozen, and which are in which group of which optimizer."""
        names = {id(p): name for name, p in self.named.items()}
        groups = [[[names[id(p)] for p in group["params"]] for group in o.param_groups] for o in self.step.optimizers]
        return {"frozen": [name for name, p in self.named.items() if not p.requires_grad], "groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; before the optimizers' states, which are by group."""
        if self.state_dict() == saved:
            return
        for name, p in self.named.items():
            p.requires_grad_(name not in saved["frozen"])
        for i, groups in enumerate(saved["groups"]):
            optimizer = self.step.optimizers[i]
            first = len(optimizer.param_groups)
            for group, names in zip(optimizer.param_groups, groups, strict=False):
                group["params"] = [self.named[name] for name in names]
            for names in groups[first:]:
                self._add_group(i, names, optimizer.param_groups[0]["lr"])
            del optimizer.param_groups[len(groups) :]
        self.step.take_up_parameters()
