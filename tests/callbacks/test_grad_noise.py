from math import inf, nan

import pytest
import torch

from fncb.callback import EmptyState
from fncb.callbacks.grad_noise import grad_noise
from fncb.events import BeforeOptimizerStep


def noise(callback, step, *, n=40000, dtype=torch.float32, start=0.0):
    grads = {"a": torch.full((n,), start, dtype=dtype), "b": torch.full((n,), start, dtype=dtype)}
    event = BeforeOptimizerStep(step=torch.tensor(step), grads=grads)
    torch.manual_seed(step)
    out = callback.step.on_before_optimizer_step(EmptyState(), event)
    assert (out.state, set(out.replaced)) == (EmptyState(), {"grads"})
    assert grads["a"][0] == start  # what it was given is left as it was
    return out.replaced["grads"]


@pytest.mark.parametrize(
    ("eta", "gamma", "step", "variance"),
    [
        (1.0, 0.55, 0, 1.0),
        (0.25, 0.55, 0, 0.25),
        (1.0, 1.0, 3, 0.25),
        (0.3, 0.55, 99, 0.3 / 100**0.55),
        (4.0, 0.0, 1000, 4.0),
    ],
)
def test_the_variance_is_that_of_the_paper(eta, gamma, step, variance):
    found = noise(grad_noise(eta, gamma=gamma), step)["a"]

    assert found.var().item() == pytest.approx(variance, rel=0.05)
    assert abs(found.mean().item()) < 5 * (variance / len(found)) ** 0.5


def test_it_is_added_and_each_element_has_its_own():
    found = noise(grad_noise(1.0), 0, start=8.0)

    assert found["a"].mean().item() == pytest.approx(8.0, abs=0.05)
    assert len({*found["a"].tolist()}) > 39000
    assert torch.corrcoef(torch.stack([found["a"], found["b"]]))[0, 1].abs() < 0.05


def test_it_is_drawn_from_the_default_generator():
    again = noise(grad_noise(), 2)

    assert torch.equal(noise(grad_noise(), 2)["a"], again["a"])


def test_without_eta_there_is_none():
    assert torch.equal(noise(grad_noise(0.0), 5, start=0.5)["a"], torch.full((40000,), 0.5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gradients_keep_their_dtype(dtype):
    assert noise(grad_noise(), 1, dtype=dtype)["a"].dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"eta": -1.0}, ValueError, r"eta must be a number in \[0, inf\), got -1.0"),
        ({"eta": nan}, ValueError, "eta must be a number"),
        ({"gamma": inf}, ValueError, "gamma must be a number"),
        ({"gamma": None}, TypeError, "gamma must be a number"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^grad_noise: {message}"):
        grad_noise(**arguments)


def test_it_remembers_nothing():
    assert grad_noise().step.init({"a": torch.zeros(2)}) == EmptyState()
    assert grad_noise().config == {"eta": 0.3, "gamma": 0.55}
