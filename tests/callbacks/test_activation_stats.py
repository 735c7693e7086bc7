from functools import partial

import pytest
import torch
from torch import nn

import fncb
from fncb.callback import EmptyState
from fncb.callbacks.activation_stats import activation_stats
from fncb.events import AfterBackward


def published(**activations):
    out = activation_stats("*").step.on_after_backward(EmptyState(), AfterBackward(activations=activations))
    assert (out.state, set(out.replaced)) == (EmptyState(), {"metrics"})
    return out.replaced["metrics"]


def test_they_are_taken_over_all_elements():
    metrics = published(relu=torch.tensor([[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]), out=torch.tensor([-1.0, 3.0, 0.0, 2.0]))

    assert {name: value.item() for name, value in metrics.items()} == {
        "activation_mean/relu": 2.0,
        "activation_std/relu": 2.0,  # of the elements at hand
        "activation_zeros/relu": 0.5,
        "activation_mean/out": 1.0,
        "activation_std/out": pytest.approx(2.5**0.5),
        "activation_zeros/out": 0.25,
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_they_are_float32(dtype):
    metrics = published(a=torch.full((4,), 49152, dtype=dtype))

    assert [(m.dtype, m.item()) for m in metrics.values()] == [(torch.float32, x) for x in (49152.0, 0.0, 0.0)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))


def train(*callbacks):
    task = fncb.Task(
        network(), loss=lambda model, x: model(x).square().mean(), optimizer=partial(torch.optim.SGD, lr=0.1)
    )
    x = torch.linspace(-1, 1, 12).reshape(6, 2)
    return x, fncb.fit(task, [x], callbacks=callbacks, max_epochs=1, compile=False, progress=False)


def test_they_are_those_of_what_the_submodules_returned_in_training():
    x, run = train(activation_stats("1", "[4-9]"))
    model = network()
    hidden, out = torch.relu(model[0](x)), model(x)

    for name, value in (("1", hidden), ("4", out)):
        assert run.metrics[f"activation_mean/{name}"] == pytest.approx(value.mean().item())
        assert run.metrics[f"activation_std/{name}"] == pytest.approx(value.std(correction=0).item())
        assert run.metrics[f"activation_zeros/{name}"] == pytest.approx((value == 0).float().mean().item())
    assert len([name for name in run.metrics if name.startswith("activation")]) == 6


def test_a_pattern_that_matches_nothing_is_told_when_training_begins():
    with pytest.raises(ValueError, match=r"pattern must match a submodule, got '\*.relu'. There are \['0', '1', "):
        train(activation_stats("*.relu"))


@pytest.mark.parametrize("patterns", [(), (1,), (["relu"],), ("",)])
def test_wrong_patterns_are_refused_at_once(patterns):
    with pytest.raises(TypeError, match=r"^activation_stats: patterns must be names of submodules, got"):
        activation_stats(*patterns)


def test_it_remembers_nothing():
    assert activation_stats("a").step.init({}) == EmptyState()
    assert activation_stats("a", "b").config == {"patterns": ["a", "b"]}
    assert activation_stats("a", "b").step.watch == ("a", "b")
