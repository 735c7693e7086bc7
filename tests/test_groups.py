"""Groups that come and go: what a schedule keeps for each goes with them, and a new one follows from its own rate."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as lrs

from fncb.groups import add_group, take_out


def sequential(optimizer):
    parts = [lrs.LinearLR(optimizer, start_factor=0.5, total_iters=2), lrs.ExponentialLR(optimizer, gamma=0.5)]
    return lrs.SequentialLR(optimizer, parts, milestones=[2])


def chained(optimizer):
    return lrs.ChainedScheduler([lrs.StepLR(optimizer, 2), lrs.LambdaLR(optimizer, BY_GROUP)], optimizer=optimizer)


def nested(optimizer):
    return lrs.ChainedScheduler([sequential(optimizer), lrs.StepLR(optimizer, 2)], optimizer=optimizer)


BY_GROUP = [lambda epoch: 0.5**epoch, lambda epoch: 1 / (epoch + 1)]
SCHEDULES = {
    "StepLR": partial(lrs.StepLR, step_size=1, gamma=0.5),
    "LambdaLR": partial(lrs.LambdaLR, lr_lambda=BY_GROUP),
    "MultiplicativeLR": partial(lrs.MultiplicativeLR, lr_lambda=[lambda epoch: 0.5, lambda epoch: 0.25]),
    "MultiStepLR": partial(lrs.MultiStepLR, milestones=[2, 4], gamma=0.5),
    "CosineAnnealingLR": partial(lrs.CosineAnnealingLR, T_max=5),
    "CosineAnnealingWarmRestarts": partial(lrs.CosineAnnealingWarmRestarts, T_0=3),
    "PolynomialLR": partial(lrs.PolynomialLR, total_iters=6),
    "OneCycleLR": partial(lrs.OneCycleLR, max_lr=[0.5, 0.25], max_momentum=[0.75, 0.5], total_steps=8),
    "CyclicLR": partial(
        lrs.CyclicLR,
        base_lr=[0.125, 0.0625],
        max_lr=[0.5, 0.75],
        step_size_up=3,
        base_momentum=[0.5, 0.25],
        max_momentum=[0.75, 0.5],
    ),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
    "ChainedScheduler of SequentialLR": nested,
    "ReduceLROnPlateau": partial(lrs.ReduceLROnPlateau, factor=0.5, patience=0, min_lr=[0.125, 0.03125]),
    "none": lambda optimizer: None,
}


def made(kind):
    """An optimizer with two groups, of one parameter each, and a schedule."""
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.5, 0.25)]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.5)
    return optimizer, SCHEDULES[kind](optimizer)


def advance(optimizer, schedule):
    """A step of the optimizer, and one of the schedule."""
    optimizer.step()
    if schedule is not None:
        schedule.step(*[1.0] * isinstance(schedule, lrs.ReduceLROnPlateau))


def settings(group):
    return {name: value for name, value in group.items() if name != "params"}


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("leaves", [0, 1])
def test_a_group_that_stays_goes_on_as_if_the_other_were_there(kind, leaves):
    (optimizer, schedule), (whole, of_whole) = made(kind), made(kind)
    for each in ((optimizer, schedule), (whole, of_whole)):
        advance(*each)

    take_out(optimizer, schedule, optimizer.param_groups[leaves]["params"])

    for _ in range(5):
        (group,) = optimizer.param_groups
        assert settings(group) == settings(whole.param_groups[1 - leaves])
        assert schedule is None or schedule.get_last_lr() == [group["lr"]]
        advance(optimizer, schedule)
        advance(whole, of_whole)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_new_group_follows_the_first_one_from_its_own_rate(kind, after):
    optimizer, schedule = made(kind)
    for _ in range(after):
        advance(optimizer, schedule)
    new = nn.Parameter(torch.ones(1))

    add_group(optimizer, schedule, {"new": new}, optimizer.param_groups[0]["lr"] / 4)

    first, _, last = optimizer.param_groups
    assert last["params"] == [new]
    for _ in range(5):
        assert last["lr"] == first["lr"] / 4
        assert schedule is None or schedule.get_last_lr()[2] == last["lr"]
        advance(optimizer, schedule)
        assert last["momentum"] == first["momentum"]


def test_a_group_that_is_new_where_the_first_has_no_rate_yet_has_its_own():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    schedule = lrs.LambdaLR(optimizer, lambda epoch: epoch / 4)  # warms up from nothing

    add_group(optimizer, schedule, {"new": nn.Parameter(torch.ones(1))}, 0.25)

    seen = [optimizer.param_groups[1]["lr"]]
    for _ in range(3):
        advance(optimizer, schedule)
        seen.append(optimizer.param_groups[1]["lr"])
    assert seen == [0.25, 0.0625, 0.125, 0.1875]


@pytest.mark.parametrize("kind", ["StepLR", "LambdaLR"])
def test_the_last_group_stays_without_parameters(kind):
    optimizer, schedule = made(kind)

    take_out(optimizer, schedule, [p for group in optimizer.param_groups for p in group["params"]])
    advance(optimizer, schedule)

    assert [(group["params"], group["lr"]) for group in optimizer.param_groups] == [([], 0.25)]


def test_a_group_with_parameters_left_stays_with_them():
    one, two = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = torch.optim.SGD([one, two], lr=0.5)
    schedule = lrs.StepLR(optimizer, 1)

    take_out(optimizer, schedule, [one])

    assert [group["params"] for group in optimizer.param_groups] == [[two]]
    assert schedule.base_lrs == [0.5]


def test_what_is_new_has_the_defaults():
    first = {"params": [nn.Parameter(torch.ones(1))], "lr": 0.5, "momentum": 0.25, "nesterov": True}
    optimizer = torch.optim.SGD([first], lr=1.0, momentum=0.75)

    add_group(optimizer, None, {"new": nn.Parameter(torch.ones(1))}, 0.125)

    new = optimizer.param_groups[1]
    assert (new["lr"], new["initial_lr"], new["momentum"], new["nesterov"]) == (0.125, 0.125, 0.75, False)
    assert "param_names" not in new


def test_names_go_with_their_parameters():
    named = {name: nn.Parameter(torch.ones(1)) for name in "abc"}
    optimizer = torch.optim.SGD([*named.items()], lr=0.5)

    take_out(optimizer, None, [named["b"]])
    add_group(optimizer, None, {"b": named["b"]}, 0.25)

    assert [group["param_names"] for group in optimizer.param_groups] == [["a", "c"], ["b"]]
