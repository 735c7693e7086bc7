"""torch.optim optimizers: an update that can be traced into a larger graph, and what groups are called."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Untraceable(RuntimeError):
    """This optimizer's update cannot be part of a graph; it runs in a region of its own."""


def state_tensors(optimizer: Optimizer) -> list[dict[str, Tensor]]:
    """The optimizer's tensors for each of its parameters, in order; a parameter without state has none."""
    return [
        {name: value for name, value in optimizer.state.get(p, {}).items() if isinstance(value, Tensor)}
        for group in optimizer.param_groups
        for p in group["params"]
    ]


def named_groups(optimizers: list[Optimizer]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Parameter groups as `lr-AdamW`, or `lr-AdamW/pg1` and so on where there are several; a second is `lr-AdamW-1`.

    A group that has a `name` is called by it: `lr-AdamW/head`.
    """
    kinds = [type(optimizer).__name__ for optimizer in optimizers]
    for i, (kind, optimizer) in enumerate(zip(kinds, optimizers, strict=True)):
        earlier = kinds[:i].count(kind)
        name, groups = f"lr-{kind}-{earlier}" if earlier else f"lr-{kind}", optimizer.param_groups
        for j, group in enumerate(groups, 1):
            own = group.get("name") or (f"pg{j}" if len(groups) > 1 else None)
            yield (name if own is None else f"{name}/{own}"), group


def other_rates(optimizers: list[Optimizer]) -> dict[str, float]:
    """Momentum and weight decay of each group that has them, as `lr-SGD-momentum` and `lr-SGD-weight_decay`.

    For Adam and its like, momentum is the first of `betas`.
    """
    found: dict[str, float] = {}
    for name, group in named_groups(optimizers):
        momentum = group["momentum"] if "momentum" in group else group.get("betas", (None,))[0]
        for what, value in (("momentum", momentum), ("weight_decay", group.get("weight_decay"))):
            if value is not None:
                found[f"{name}-{what}"] = float(value)
    return found


def set_capturable(optimizer: Optimizer, device: torch.device) -> None:
    """Has the optimizer keep its step counts on the device, where the graph needs them."""
    if device.type != "cpu":
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True


def keep_schedules_quiet(optimizer: Optimizer) -> None:
    """Has schedules not warn that they come before the optimizer: whose steps in a graph they do not see."""
    vars(optimizer)["_opt_called"] = True  # as torch's own `step` does; that nobody reads it any more does no harm


def settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What a traced update holds as constants: every setting of every group but the learning rate."""
    return [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in optimizer.param_groups]


def traced_update(
    optimizer: Optimizer,
    params: Mapping[int, Tensor],
    grads: Mapping[int, Tensor],
    state: list[dict[str, Tensor]],
    lrs: list[Tensor],
) -> None:
    """Moves `params` and `state` in place as one step of `optimizer` would, at the learning rates `lrs`.

    The optimizer's own code runs, undecorated, on a shallow copy whose groups and state hold the given tensors.

    Args:
      optimizer: whose class and settings are used; it is left as it is.
      params, grads: by the `id` of the optimizer's parameter.
      state: as `state_tensors` gives it.
      lrs: one 0-d tensor a group.

    Raises:
      Untraceable: if it keeps something else than tensors, or has hooks of its own.
    """
    step: Any = type(optimizer).step
    while hasattr(step, "__wrapped__"):
        step = step.__wrapped__
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise Untraceable("it has step hooks of its own")

    shadow = object.__new__(type(optimizer))
    shadow.__dict__.update(optimizer.__dict__)
    shadow.param_groups, shadow.state = [], defaultdict(dict)
    flat = iter(state)
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        stand_ins = []
        for p in group["params"]:
            tensors = next(flat)
            if id(p) not in params:  # frozen
                continue
            stand_in = params[id(p)].detach()
            stand_in.grad = grads.get(id(p))
            plain = {name: value for name, value in optimizer.state.get(p, {}).items() if not isinstance(value, Tensor)}
            shadow.state[stand_in] = {**plain, **tensors}
            stand_ins.append(stand_in)
        shadow.param_groups.append({**group, "params": stand_ins, "lr": lr, **_traceable(group)})

    before = [dict(s) for s in shadow.state.values()]
    step(shadow)
    for was, now in zip(before, shadow.state.values(), strict=True):
        for name, value in now.items():
            old = was.get(name)
            if isinstance(value, Tensor) and isinstance(old, Tensor):
                if value is not old:
                    old.copy_(value)
            elif value is not old and value != old:
                raise Untraceable(f"it keeps {name!r} outside of tensors")


def _traceable(group: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {"capturable": True, "fused": None, "foreach": True}
    return {name: value for name, value in wanted.items() if name in group}
