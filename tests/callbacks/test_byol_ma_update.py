from copy import deepcopy
from functools import partial
from math import cos, pi

import pytest
import torch
from torch import nn

from fncb.callback import EmptyState
from fncb.callbacks.byol_ma_update import byol_ma_update
from fncb.callbacks.ema import ema
from fncb.callbacks.prune import prune
from fncb.events import AfterOptimizerStep
from fncb.loop import fit
from fncb.step_hooks import NamedParams
from fncb.task import Task
from fncb.tree import leaves


def tau_at(step, max_steps=100, **given):
    """The metric after so many steps, of which the last has the 0-based number step - 1."""
    params = {"online_network.w": torch.tensor(4.0), "target_network.w": torch.tensor(0.0)}
    event = AfterOptimizerStep(step=torch.tensor(step + 1), params=params, grads={})
    out = byol_ma_update(max_steps, **given).step.on_after_optimizer_step(EmptyState(), event)
    return out.replaced["metrics"]["byol_tau"].item()


@pytest.mark.parametrize(
    ("step", "tau"), [(0, 0.996), (25, 0.99658579), (50, 0.998), (75, 0.99941421), (100, 1.0), (150, 1.0)]
)
def test_tau_grows_to_1_and_stays_there(step, tau):
    assert tau_at(step) == pytest.approx(tau, abs=6e-8)


def test_the_target_moves_by_what_tau_leaves():
    params = {
        "online_network.a": torch.tensor([8.0, 4.0]),
        "online_network.predictor": torch.tensor(9.0),
        "target_network.a": torch.tensor([0.0, 2.0]),
        "head": torch.tensor(1.0),
    }
    step = byol_ma_update(2, initial_tau=0.5).step
    first, second = (AfterOptimizerStep(step=torch.tensor(i), params=params, grads={"head": 1}) for i in (1, 2))

    out = step.on_after_optimizer_step(EmptyState(), first)  # tau .5
    assert {name: value.tolist() for name, value in out.replaced["params"].items()} == {
        "online_network.a": [8.0, 4.0],
        "online_network.predictor": 9.0,
        "target_network.a": [4.0, 3.0],
        "head": 1.0,
    }
    out = step.on_after_optimizer_step(EmptyState(), second)  # half way: tau .75
    assert out.replaced["params"]["target_network.a"].tolist() == pytest.approx([2.0, 2.5])


def test_networks_may_have_other_names():
    params = {"student.w": torch.tensor(4.0), "teacher.w": torch.tensor(0.0), "teachers": torch.tensor(1.0)}
    step = byol_ma_update(9, initial_tau=0.25, online="student", target="teacher").step

    assert step.init(params) == EmptyState()
    out = step.on_after_optimizer_step(EmptyState(), AfterOptimizerStep(step=torch.tensor(1), params=params, grads={}))
    assert {name: value.item() for name, value in out.replaced["params"].items()} == {
        "student.w": 4.0,
        "teacher.w": 3.0,
        "teachers": 1.0,
    }


def test_the_turn_of_an_optimizer_without_the_target_changes_nothing():
    event = AfterOptimizerStep(step=torch.tensor(1), params={"head": torch.tensor(1.0)}, grads={})

    assert byol_ma_update(9).step.on_after_optimizer_step(EmptyState(), event) == EmptyState()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_stay(dtype):
    params = {f"{name}_network.w": torch.ones(2, dtype=dtype) for name in ("online", "target")}
    event = AfterOptimizerStep(step=torch.tensor(1), params=params, grads={})

    out = byol_ma_update(9).step.on_after_optimizer_step(EmptyState(), event)
    assert out.replaced["params"]["target_network.w"].dtype == dtype


W = torch.ones(2)


@pytest.mark.parametrize(
    ("params", "frozen", "message"),
    [
        ({"online_network.w": W}, (), r"all parameters of 'target_network' must be trainable, .* got \[\]. Leave"),
        ({"online_network.w": W}, ("target_network.w",), r"all parameters of 'target_network' must be trainable"),
        (
            {"online_network.w": W, "target_network.w": W},
            ("target_network.b",),
            r"must be trainable, as only those are in the step, got \['target_network.w'\]",
        ),
        (
            {"target_network.w": W},
            (),
            r"must have one like it in 'online_network' .* got none for \['target_network.w'\]",
        ),
        ({"online_network.w": torch.ones(3), "target_network.w": W}, (), "must have one like it in 'online_network'"),
    ],
)
def test_a_target_that_cannot_follow_is_told_when_training_begins(params, frozen, message):
    with pytest.raises(ValueError, match=f"^byol_ma_update: .*{message}"):
        byol_ma_update(9).step.init(NamedParams(params, {}, frozen))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_steps": 0}, ValueError, "max_steps must be 1 step or more, got 0"),
        ({"max_steps": 1.5}, TypeError, "max_steps must be an int, got 1.5"),
        ({"initial_tau": 1.5}, ValueError, r"initial_tau must be a number in \[0, 1\], got 1.5"),
        ({"initial_tau": float("nan")}, ValueError, r"initial_tau must be a number in \[0, 1\], got nan"),
        ({"online": None}, TypeError, "online must be the name of a submodule, got None"),
        ({"target": ""}, TypeError, "target must be the name of a submodule, got ''"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^byol_ma_update: {message}"):
        byol_ma_update(**{"max_steps": 9, **arguments})


# Runs.


class Byol(nn.Module):
    def __init__(self):
        super().__init__()
        self.online_network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.target_network = deepcopy(self.online_network)
        self.predictor = nn.Linear(2, 2)


def loss(model, x):
    with torch.no_grad():
        target = model.target_network(x + 0.1)
    return (model.predictor(model.online_network(x)) - target).square().mean()


def task(loss=loss, **given):
    torch.manual_seed(0)
    optimizer = partial(torch.optim.AdamW, lr=0.05, weight_decay=0.1)
    return Task(Byol(), loss=loss, **{"optimizer": optimizer, **given})


def data(n=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 3, generator=generator) for _ in range(n)]


def train(task, *callbacks, compile=False, **settings):
    return fit(task, data(), callbacks=callbacks, compile=compile, progress=False, max_epochs=2, **settings)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_target_follows_as_by_hand_and_the_optimizer_leaves_it(accumulate):
    trained, by_hand = task(), task().model
    optimizer = torch.optim.AdamW([*by_hand.online_network.parameters(), *by_hand.predictor.parameters()], 0.05)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    steps, total = 0, 8 // accumulate

    run = train(trained, byol_ma_update(total, initial_tau=0.75), accumulate_grad_batches=accumulate)

    for i, x in enumerate([*data(), *data()]):
        (loss(by_hand, x) / accumulate).backward()
        if (i + 1) % accumulate:
            continue
        optimizer.step()
        optimizer.zero_grad()
        tau = 1 - (1 - 0.75) * (cos(pi * steps / total) + 1) / 2
        pairs = zip(by_hand.target_network.parameters(), by_hand.online_network.parameters(), strict=True)
        for target, online in pairs:
            target.data = tau * target + (1 - tau) * online.data
        steps += 1
    torch.testing.assert_close(trained.model.state_dict(), by_hand.state_dict())
    assert run.metrics["byol_tau"] == pytest.approx(tau)


def test_a_target_that_is_given_gradients_is_told_in_the_first_step():
    def forgets(model, x):
        return (model.online_network(x) - model.target_network(x + 0.1)).square().mean()

    with pytest.raises(ValueError, match=r"'target_network' must be in one optimizer .* get no gradients, got other"):
        train(task(forgets), byol_ma_update(8))


def test_the_hooks_of_this_family_compiled_give_what_they_give_eagerly():
    def run(compile):
        trained = task()
        callbacks = [
            prune(
                "l1_unstructured",
                parameters_to_prune="predictor.*",
                use_lottery_ticket_hypothesis=lambda epoch: epoch == 0,
            ),
            byol_ma_update(8),
            ema(0.5, update_every_n_steps=2, update_starting_at_step=1, update_starting_at_epoch=1),
            ema(0.75, key="every step"),
        ]
        found = train(trained, *callbacks, compile=compile)
        return found.compiled, {**trained.model.state_dict(), **dict(leaves(found.step_state))}, dict(found.metrics)

    compiled, eager = run(True), run(False)

    assert (compiled[0], eager[0]) == ("one graph", "eager")
    torch.testing.assert_close(compiled[1], eager[1], rtol=1e-4, atol=1e-5)
    assert compiled[2] == pytest.approx(eager[2], rel=1e-4, abs=1e-6)
    assert not torch.equal(eager[1]["ema.online_network.0.weight"], eager[1]["every step.online_network.0.weight"])
