"""A task that cannot be is told at once, in one sentence."""

from functools import partial

import pytest
import torch
from torch import nn

from fncb.task import Task, loss_and_metrics, make_schedules, make_turns

sgd = partial(torch.optim.SGD, lr=0.1)


def loss(model, batch):
    return model(batch).square().mean()


def model():
    return nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(1, 2)})


def task(**given):
    both = {"a": sgd, "b": sgd}
    return Task(**{"model": model(), "loss": {"a": loss, "b": loss}, "optimizer": both, **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": {"a": loss}}, r"loss and optimizer must have the same names, got \['a'\] and \['a', 'b'\]"),
        ({"loss": loss}, r"must have the same names, got \[\] and \['a', 'b'\]"),
        ({"optimizer": sgd}, r"must have the same names, got \['a', 'b'\] and \[\]"),
        ({"loss": {}, "optimizer": {}}, "loss must name at least one function, got none"),
        ({"loss": {}, "optimizer": None}, "loss must name at least one function, got none"),
        ({"loss": {"a": loss, "b": 3}}, "loss must be a function, got 3"),
        ({"optimizer": {"a": sgd, "b": 0.1}}, "optimizer must be a function, got 0.1"),
        ({"optimizer": {"a": sgd, "b": int}}, "optimizer must make an Optimizer, got <class 'int'>"),
        ({"every": {"c": 2}}, r"every must use names of the optimizers, got \['c'\]"),
        ({"every": {"a": 0}}, r"every\['a'\] must be 1 round or more, got 0"),
        ({"every": {"a": 1.5}}, r"every\['a'\] must be an int, got 1.5"),
        ({"every": {"a": True}}, r"every\['a'\] must be an int, got True"),
        ({"every": {"a": 2, "b": 2}}, r"every must leave an optimizer for each round, got \{'a': 2, 'b': 2\}"),
        ({"every": 2}, "every must map names of the optimizers"),
        ({"loss": loss, "optimizer": sgd, "every": {"a": 2}}, "every must use names of the optimizers"),
        ({"schedule": {"c": sgd}}, r"schedule must use names of the optimizers, got \['c'\]"),
        ({"schedule": {"a": 3}}, "schedule must be a function, got 3"),
        ({"schedule": sgd}, "schedule must map names of the optimizers, got a function for several of them"),
        ({"validate": {"a": loss}}, "validate must be a function"),
    ],
)
def test_several_optimizers_that_cannot_be_are_told_at_construction(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        task(**given)


def test_parameters_of_two_optimizers_are_told():
    with pytest.raises(ValueError, match=r"each parameter must belong to one optimizer, got some in 'x' and in 'y'"):
        make_turns(task(loss={"x": loss, "y": loss}, optimizer={"x": sgd, "y": sgd}))  # no submodules of these names


def test_a_submodule_in_two_optimizers_is_told():
    shared = nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"each parameter must belong to one optimizer, got some in 'a' and in 'b'"):
        make_turns(task(model=nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared)})))


def test_an_optimizer_of_a_stranger_is_told():
    with pytest.raises(ValueError, match="must hold parameters of the model, got 2 others"):
        make_turns(task(optimizer={"a": sgd, "b": torch.optim.SGD(nn.Linear(2, 1).parameters())}))


def test_turns_come_in_the_order_of_the_losses_and_move_the_submodule_of_their_name():
    one = task(optimizer={"b": sgd, "a": sgd}, every={"b": 3})

    a, b = make_turns(one)

    assert (a.name, a.every, b.name, b.every) == ("a", 1, "b", 3)
    assert a.optimizer.param_groups[0]["params"] == list(one.model["a"].parameters())
    assert b.optimizer.param_groups[0]["params"] == list(one.model["b"].parameters())


def test_the_name_of_an_optimizer_may_be_a_path():
    inner = nn.ModuleDict({"inner": model()})

    a, b = make_turns(
        task(model=inner, loss={"inner.a": loss, "inner.b": loss}, optimizer={"inner.a": sgd, "inner.b": sgd})
    )

    assert a.optimizer.param_groups[0]["params"] == list(inner["inner"]["a"].parameters())
    assert b.optimizer.param_groups[0]["params"] == list(inner["inner"]["b"].parameters())


def test_a_function_makes_its_optimizer_over_trainable_parameters_only():
    one = task()
    one.model["a"].bias.requires_grad_(False)

    a, _ = make_turns(one)

    assert a.optimizer.param_groups[0]["params"] == [one.model["a"].weight]


def test_a_single_optimizer_has_no_name():
    (turn,) = make_turns(task(loss=loss, optimizer=sgd))

    assert (turn.name, turn.every, len(turn.optimizer.param_groups[0]["params"])) == (None, 1, 4)


def test_schedules_are_made_for_the_optimizers_that_have_one():
    one = task(schedule={"b": partial(torch.optim.lr_scheduler.StepLR, step_size=1)})

    turns = make_turns(one)
    schedules = make_schedules(one, turns)

    assert list(schedules) == ["b"]
    assert schedules["b"].optimizer is turns[1].optimizer
    assert make_schedules(task(), turns) == {}


@pytest.mark.parametrize("out", [torch.ones(()), torch.ones(1), (torch.ones(1, 1), {"m": torch.ones(1)})])
def test_scalars_of_any_shape_are_taken_as_such(out):
    value, metrics, measured = loss_and_metrics("loss", out)

    assert value.shape == ()
    assert [metric.shape for metric in metrics.values()] in ([], [()])
    assert measured == {}
