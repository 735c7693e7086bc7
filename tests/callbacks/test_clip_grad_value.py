from math import inf, nan

import pytest
import torch

from fncb.callback import EmptyState
from fncb.callbacks.clip_grad_value import clip_grad_value
from fncb.events import BeforeOptimizerStep


def clipped(callback, grads):
    out = callback.step.on_before_optimizer_step(EmptyState(), BeforeOptimizerStep(grads=grads))
    assert (out.state, set(out.replaced)) == (EmptyState(), {"grads"})
    return out.replaced["grads"]


def test_each_element_is_bounded_by_itself():
    grads = {"a": torch.tensor([[2.0, -0.25]]), "b": torch.tensor([-8.0, 0.5, 0.0])}
    after = clipped(clip_grad_value(0.5), grads)

    assert {name: grad.tolist() for name, grad in after.items()} == {"a": [[0.5, -0.25]], "b": [-0.5, 0.5, 0.0]}
    assert grads["a"].tolist() == [[2.0, -0.25]]  # what it was given is left as it was


def test_infinity_is_bounded_and_nan_stays():
    after = clipped(clip_grad_value(1.0), {"a": torch.tensor([inf, -inf, nan])})["a"]

    assert after[:2].tolist() == [1.0, -1.0]
    assert after[2].isnan()


@pytest.mark.parametrize("clip_value", [0.5, 3, inf])
def test_the_numbers_are_torchs(clip_value):
    torch.manual_seed(0)
    grads = {"a": torch.randn(3, 4) * 3, "b": torch.randn(())}
    params = {name: torch.nn.Parameter(torch.zeros_like(grad)) for name, grad in grads.items()}
    for name, param in params.items():
        param.grad = grads[name].clone()
    torch.nn.utils.clip_grad_value_(params.values(), clip_value)
    after = clipped(clip_grad_value(clip_value), grads)

    assert all(torch.equal(after[name], param.grad) for name, param in params.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gradients_keep_their_dtype(dtype):
    assert clipped(clip_grad_value(0.5), {"a": torch.ones(2, dtype=dtype)})["a"].dtype == dtype


@pytest.mark.parametrize(
    ("clip_value", "error"),
    [(0.0, ValueError), (-1, ValueError), (nan, ValueError), ("1", TypeError), (True, TypeError)],
)
def test_a_wrong_value_is_refused_at_once(clip_value, error):
    with pytest.raises(error, match=r"^clip_grad_value: clip_value must be a number in \(0, inf\], got"):
        clip_grad_value(clip_value)


def test_it_has_a_key_and_remembers_nothing():
    assert (clip_grad_value(1.0).key, clip_grad_value(1.0, key="mine").key) == ("clip_grad_value", "mine")
    assert clip_grad_value(1.0).step.init({"a": torch.zeros(2)}) == EmptyState()
    assert clip_grad_value(1.0).config == {"clip_value": 1.0}
