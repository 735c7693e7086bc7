"""Parameter groups that come and go while an optimizer is in use, and what schedules keep for each of them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_RATES = ("base_lrs", "min_lrs", "max_lrs", "_last_lr")
_OTHERS = ("lr_lambdas", "base_momentums", "max_momentums")
"""Where torch's schedules keep one value for each group, in its order."""


def take_out(optimizer: Optimizer, schedule: LRScheduler | None, params: Iterable[nn.Parameter]) -> None:
    """Takes parameters out of their groups, and groups that are empty then out of the optimizer and its schedule.

    The last group stays, as an optimizer must have one.
    """
    mine, groups = {id(p) for p in params}, optimizer.param_groups
    for group in groups:
        left = [i for i, p in enumerate(group["params"]) if id(p) not in mine]
        group.update({each: [group[each][i] for i in left] for each in ("params", "param_names") if each in group})
    kept = [i for i, group in enumerate(groups) if group["params"]] or [0]
    for each in _parts(schedule):
        for name in (*_RATES, *_OTHERS):
            values = getattr(each, name, None)
            if isinstance(values, list) and len(values) == len(groups):
                values[:] = [values[i] for i in kept]
    groups[:] = [groups[i] for i in kept]


def add_group(
    optimizer: Optimizer, schedule: LRScheduler | None, params: Mapping[str, nn.Parameter], lr: float
) -> None:
    """Adds a group whose rate is `lr` now, and goes from there as the schedule takes that of the first group.

    The parameters are given by name. Its other settings are the optimizer's defaults.
    """
    first = optimizer.param_groups[0]
    ratio = lr / float(first["lr"]) if first["lr"] else None

    def rate(of_first: float) -> float:
        return lr if ratio is None else float(of_first) * ratio

    beside = {name: value for name, value in first.items() if name not in (*optimizer.defaults, "params", "name")}
    scheduled = {name: rate(value) if name.endswith("_lr") else value for name, value in beside.items()}
    names = {"param_names": [*params]} if "param_names" in first else {}  # torch wants them of all groups or of none
    optimizer.add_param_group({"initial_lr": lr, **scheduled, **names, "params": [*params.values()], "lr": lr})
    for each in _parts(schedule):
        for name in (*_RATES, *_OTHERS):
            values = getattr(each, name, None)
            if isinstance(values, list) and len(values) == len(optimizer.param_groups) - 1:
                values.append(rate(values[0]) if name in _RATES else values[0])


def functions_of(schedule: LRScheduler | None) -> list[list[Any]]:
    """The functions that a schedule, and those that it is made of, have for each group: no `state_dict` has them."""
    return [each.lr_lambdas for each in _parts(schedule) if isinstance(getattr(each, "lr_lambdas", None), list)]


def _parts(schedule: Any) -> Iterator[Any]:
    """A schedule, and those that it is made of."""
    if schedule is not None:
        yield schedule
        for each in getattr(schedule, "_schedulers", ()):
            yield from _parts(each)
