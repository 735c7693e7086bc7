"""Effects on the training under way: learning rates, accumulation, what is trained, the parameters themselves."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fncb import events as ev
from fncb.compiling import PLAIN
from fncb.effects import (
    Apply,
    Effect,
    Freeze,
    HoldSchedules,
    ScaleLR,
    Set,
    SetAccumulation,
    SetLR,
    Skip,
    StopEpoch,
    Transform,
    Unfreeze,
    Validate,
)
from fncb.fields import is_number
from fncb.groups import add_group, functions_of, take_out
from fncb.handling import Handler, called, must_be_asked_at
from fncb.position import AFTER_BATCHES, Position
from fncb.step import Step
from fncb.step_hooks import NamedParams
from fncb.tree import copy_into, leaves


class Control:
    """Carries out what changes the training; saved, so that a resumed run trains the same parameters.

    Args:
      step: whose model, optimizers and step states are changed.
      schedules: by the optimizer's name, "" where there is one.
      at: where the accumulation is kept.
    """

    step: Step
    schedules: Mapping[str, LRScheduler]
    at: Position
    named: dict[str, torch.nn.Parameter]

    def __init__(self, step: Step, schedules: Mapping[str, LRScheduler], at: Position):
        self.step, self.schedules, self.at = step, schedules, at
        self.named = dict(step.model.named_parameters())
        self._functions = {name: [[*each] for each in functions_of(schedule)] for name, schedule in schedules.items()}

    def carries_out(self, validates: bool = True) -> dict[type[Effect], Handler]:
        """Effects and the functions that carry them out; `validates` tells whether there is anything to validate on."""
        done: dict[type[Effect], Handler] = {
            SetLR: self.set_lr,
            ScaleLR: self.scale_lr,
            HoldSchedules: self.hold_schedules,
            Set: self.set_number,
            SetAccumulation: self.set_accumulation,
            Freeze: self.freeze,
            Unfreeze: self.unfreeze,
            Apply: self.apply,
            Transform: self.transform,
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
                if effect.optimizer in (None, turn.name) and effect.group in (
                    None,
                    i,
                    i - len(turn.optimizer.param_groups),
                ):
                    group["lr"], found = effect.lr, True
        if not found:
            raise ValueError(f"SetLR: group must be the index of a parameter group, got {effect.group}.")

    def scale_lr(self, effect: ScaleLR, _: ev.Event) -> None:
        """Multiplies all learning rates."""
        for group in self._groups():
            was = float(group["lr"])
            scaled = max(was * effect.factor, effect.min_lr)
            change = scaled - was if effect.factor > 1 else was - scaled
            if was >= effect.min_lr and change > effect.eps:  # as `ReduceLROnPlateau` compares, to the last bit
                group["lr"] = scaled

    def hold_schedules(self, _: HoldSchedules, __: ev.Event) -> None:
        """Has the task's schedules rest."""
        self.at.holds_schedules = True

    def set_number(self, effect: Set, event: ev.Event) -> None:
        """Sets a number by its name."""
        what, _, rest = effect.setting.partition(".")
        if effect.setting == "lr":
            self.set_lr(SetLR(effect.value), event)
        elif effect.setting == "accumulate_grad_batches":
            self.set_accumulation(SetAccumulation(round(effect.value)), event)
        elif what == "optimizer" and rest:
            for group in self._groups():
                _set_in(effect, group, rest)
            self.step.check_settings()
        elif what == "model" and rest:
            path, _, name = rest.rpartition(".")
            modules = dict(self.step.model.named_modules())
            if path not in modules:
                raise ValueError(
                    f"Set: {effect.setting!r} must name a submodule, got {path!r}. There are {[*modules]}."
                )
            _set_in(effect, vars(modules[path]), name)
        elif what == "step_state" and rest:
            held = dict(leaves(self.step.states))
            scalars = [path for path, tensor in held.items() if tensor.dim() == 0]
            if rest not in scalars:
                raise ValueError(f"Set: {effect.setting!r} must name a 0-d tensor, got none. There are {scalars}.")
            held[rest].fill_(effect.value)
        else:
            raise ValueError(
                "Set: setting must be lr, accumulate_grad_batches, optimizer.<name>, model.<path> or "
                f"step_state.<key>.<path>, got {effect.setting!r}."
            )

    def _groups(self) -> list[dict[str, Any]]:
        return [group for each in self.step.optimizers for group in each.param_groups]

    def set_accumulation(self, effect: SetAccumulation, _: ev.Event) -> None:
        """Sets how many batches make up an optimizer step, from the next window on."""
        if effect.n < 1:
            raise ValueError(f"SetAccumulation: n must be 1 batch or more, got {effect.n}.")
        self.at.accumulate = effect.n

    def freeze(self, effect: Freeze, _: ev.Event) -> None:
        """Stops training some parameters."""
        names = self._matching("Freeze", effect.pattern)
        names = [name for name in names if not (effect.train_bn and name in self._of_norms())]
        for name in names:
            self.named[name].requires_grad_(False)
        if not any(p.requires_grad for p in self.named.values()):
            raise ValueError(f"Freeze: something must be left to train, got {effect.pattern!r}, which matches all.")
        if effect.train_bn is False:
            self._track_statistics(names, False)
        if effect.leave_optimizer:
            for i, optimizer in enumerate(self.step.optimizers):
                self._take_out(i, names)
                for name in names:
                    optimizer.state.pop(self.named[name], None)
        self.step.take_up_parameters()

    def unfreeze(self, effect: Unfreeze, _: ev.Event) -> None:
        """Trains some parameters again, in a parameter group of their own where they have none or another rate."""
        by_optimizer: dict[int, list[str]] = {}
        names = self._matching("Unfreeze", effect.pattern)
        if effect.train_bn is False:
            names = [name for name in names if name not in self._of_norms()]
        self._track_statistics(names, True)
        for name in names:
            was_frozen = not self.named[name].requires_grad
            self.named[name].requires_grad_(True)
            owner = next((i for i, each in enumerate(self.step.optimizers) if self._in(each, name)), None)
            if owner is None or (was_frozen and effect.lr is not None):
                by_optimizer.setdefault(self._owner(name) if owner is None else owner, []).append(name)
        for i, names in by_optimizer.items():
            optimizer = self.step.optimizers[i]
            lr = optimizer.param_groups[0]["lr"] if effect.lr is None else effect.lr
            self._take_out(i, names)
            self._add_group(i, names, lr)
        self.step.take_up_parameters()

    def skip(self, effect: Skip, event: ev.Event) -> None:
        """Has the batch that starts left out."""
        must_be_asked_at("Skip", event, ev.TrainBatchStart)
        self.at.ask(effect)

    def stop_epoch(self, effect: StopEpoch, event: ev.Event) -> None:
        """Has the rest of the epoch left out."""
        if self.at.phase in ("", *AFTER_BATCHES):
            raise ValueError(f"StopEpoch: an epoch must be under way, got it at {ev.hook_name(type(event))}.")
        if type(event) is ev.TrainBatchStart:
            self.at.epoch_is_over = False  # so that what is left out is noticed
        self.at.ask(effect)

    def apply(self, effect: Apply, _: ev.Event) -> None:
        """Replaces parameters and step states by what a function makes of them."""
        params, buffers = {name: p.detach() for name, p in self.named.items()}, dict(self.step.model.named_buffers())
        who = f"Apply {effect.name!r}"
        with torch.no_grad():
            out = called(effect, NamedParams(params, buffers), self.step.states)
            if not isinstance(out, tuple) or len(out) != 2:
                raise TypeError(f"{who}: fn must return (params, step_state), got {type(out).__name__}.")
            there = params | buffers
            named = {name: there[name] for name in out[0] if name in there}
            changed = {"weights": out[0], "step_state": out[1]}
            copy_into(who, {"weights": named, "step_state": self.step.states}, changed)

    def transform(self, effect: Transform, event: ev.Event) -> None:
        """Changes the model in place, and has the step compiled anew."""
        before, parts = {name: id(p) for name, p in self.step.params.items()}, self._parts()
        called(effect, self.step.model)
        now = self._parts()
        alike = now.keys() == parts.keys() and all(now[path] is parts[path] for path in now)
        if alike or type(event) is ev.FitEnd:
            return  # a plain attribute at most, which graphs look at; or nothing is trained any more
        self.named = dict(self.step.model.named_parameters())
        lost = [name for name, p in before.items() if name not in self.named or id(self.named[name]) != p]
        if lost:
            raise ValueError(
                f"Transform {effect.name!r}: fn must leave what is trained, got others in place of {lost}."
            )
        self.step.take_up_parameters()

    def _matching(self, who: str, pattern: str) -> list[str]:
        found = [name for name in self.named if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"{who}: pattern must match a parameter, got {pattern!r}. There are {list(self.named)}.")
        return found

    def _parts(self) -> dict[str, Any]:
        """What a graph of the model is made of: modules, parameters, buffers, attributes that are not plain."""
        model = self.step.model
        found: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, module in model.named_modules():
            found[f"{name}."] = module
            attributes = {each: value for each, value in vars(module).items() if not isinstance(value, PLAIN)}
            found |= {f"{name}.{each}.": value for each, value in attributes.items()}
        return found

    def _of_norms(self) -> set[str]:
        """The names of the parameters of batch normalisation."""
        norms = {name: module for name, module in self.step.model.named_modules() if isinstance(module, _BatchNorm)}
        return {f"{name}.{each}" for name, module in norms.items() for each, _ in module.named_parameters()}

    def _track_statistics(self, names: list[str], tracks: bool) -> None:
        """Whether layers of batch normalisation, some of whose parameters are named, track running statistics."""
        for name in names:
            module = self.step.model.get_submodule(name.rpartition(".")[0])
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.track_running_stats = tracks

    def _take_out(self, i: int, names: list[str]) -> None:
        """Takes parameters out of an optimizer's groups."""
        take_out(self.step.optimizers[i], self._schedule(i), [self.named[name] for name in names])

    def _schedule(self, i: int) -> LRScheduler | None:
        return self.schedules.get(self.step.turns[i].name or "")

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
        add_group(self.step.optimizers[i], self._schedule(i), {name: self.named[name] for name in names}, lr)

    def state_dict(self) -> dict[str, Any]:
        """Which parameters are frozen, which are in which group of which optimizer, and what tracks no statistics.

        Of schedules that were given a function for each group, it has which of them each group has now.
        """
        names = {id(p): name for name, p in self.named.items()}
        groups = [[[names[id(p)] for p in group["params"]] for group in o.param_groups] for o in self.step.optimizers]
        norms = [name for name, each in self.step.model.named_modules() if isinstance(each, _BatchNorm)]
        untracked = [name for name in norms if not self.step.model.get_submodule(name).track_running_stats]
        frozen = [name for name, p in self.named.items() if not p.requires_grad]
        return {"frozen": frozen, "groups": groups, "untracked": untracked, "functions": self._places_of_functions()}

    def _places_of_functions(self) -> dict[str, list[list[int]]]:
        """For each schedule, and each part of it with functions: those of its groups, as places in what it had."""
        return {
            name: [
                [[id(each) for each in given].index(id(fn)) for fn in now]
                for given, now in zip(of, functions_of(self.schedules[name]), strict=True)
            ]
            for name, of in self._functions.items()
        }

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
        for name, of in saved["functions"].items():
            parts = functions_of(self.schedules.get(name))
            for given, now, places in zip(self._functions.get(name, ()), parts, of, strict=False):
                now[:] = [given[place if place < len(given) else 0] for place in places]
        for name, each in self.step.model.named_modules():
            if isinstance(each, _BatchNorm) and each.running_mean is not None:
                each.track_running_stats = name not in saved["untracked"]
        self.step.take_up_parameters()


def _set_in(effect: Set, holder: dict[str, Any], path: str) -> None:
    """Sets a number among the values of `holder`, or, as in `betas.0`, in a tuple or list there."""
    name, _, index = path.partition(".")
    kinds = [key for key, value in holder.items() if is_number(value) or isinstance(value, list | tuple)]
    there = [key for key in kinds if key not in ("params", "param_names")]
    old: Any = holder.get(name)
    place = int(index) if index.isdigit() and isinstance(old, list | tuple) and int(index) < len(old) else None
    single: Any = old if place is None else old[place]
    if (index and place is None) or not is_number(single):
        raise ValueError(f"Set: {effect.setting!r} must name a number, got {single!r}. There are {sorted(there)}.")
    whole = isinstance(single, int) and float(effect.value).is_integer()
    value = int(effect.value) if whole else float(effect.value)  # torch's defaults are ints such as `weight_decay=0`
    holder[name] = value if place is None else type(old)([*old[:place], value, *old[place + 1 :]])
