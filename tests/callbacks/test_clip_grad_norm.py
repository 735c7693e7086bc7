from math import inf, nan

import pytest
import torch

from fncb.callback import EmptyState
from fncb.callbacks.clip_grad_norm import clip_grad_norm
from fncb.events import BeforeOptimizerStep


def clipped(callback, grads):
    out = callback.step.on_before_optimizer_step(EmptyState(), BeforeOptimizerStep(grads=grads))
    assert out.state == EmptyState()
    return out.replaced["grads"], out.replaced["metrics"]["grad_norm"]


def by_torch(grads, max_norm, norm_type=2.0):
    params = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads.values()]
    for param, grad in zip(params, grads.values(), strict=True):
        param.grad = grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(params, max_norm, norm_type)
    return dict(zip(grads, (param.grad for param in params), strict=True)), norm


def test_the_norm_is_that_of_all_gradients_together():
    grads = {"a": torch.tensor([[2.0]]), "b": torch.tensor([4.0, 4.0])}
    after, norm = clipped(clip_grad_norm(3.0), grads)

    assert norm.item() == 6.0  # sqrt(4 + 16 + 16)
    torch.testing.assert_close(after, {"a": torch.tensor([[1.0]]), "b": torch.tensor([2.0, 2.0])})
    assert grads["a"].item() == 2.0  # what it was given is left as it was


def test_small_gradients_stay_as_they_are():
    grads = {"a": torch.tensor([0.25, 0.5])}
    after, norm = clipped(clip_grad_norm(1.0), grads)

    assert torch.equal(after["a"], grads["a"])
    assert norm.item() == pytest.approx(0.3125**0.5)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3, inf])
@pytest.mark.parametrize("max_norm", [0.5, 1e9, inf])
@pytest.mark.parametrize("size", [1.0, 1e-8, 1e30])  # 1e30: the norm overflows to infinity, the gradients go to 0
def test_the_numbers_are_torchs(norm_type, max_norm, size):
    torch.manual_seed(0)
    grads = {
        "a": torch.randn(3, 4) * size,
        "b": torch.randn(5) * size,
        "c": torch.zeros(2),
        "d": torch.randn(()) * size,
    }
    after, norm = clipped(clip_grad_norm(max_norm, norm_type=norm_type), grads)
    expected, expected_norm = by_torch(grads, max_norm, norm_type)

    torch.testing.assert_close(norm, expected_norm, equal_nan=True)
    torch.testing.assert_close(after, expected, equal_nan=True)


def test_gradients_of_0_stay_0():
    after, norm = clipped(clip_grad_norm(1.0), {"a": torch.zeros(3)})

    assert (after["a"].tolist(), norm.item()) == ([0.0, 0.0, 0.0], 0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gradients_keep_their_dtype_and_the_metric_is_float32(dtype):
    grads = {"a": torch.full((3,), 49152.0, dtype=dtype), "b": torch.tensor(49152.0, dtype=dtype)}
    after, norm = clipped(clip_grad_norm(1.0), grads)

    assert (norm.dtype, norm.shape, norm.item()) == (torch.float32, (), 98304.0)  # more than float16 can hold
    torch.testing.assert_close(after, {"a": torch.full((3,), 0.5, dtype=dtype), "b": torch.tensor(0.5, dtype=dtype)})


def test_a_model_without_gradients_has_a_norm_of_0():
    after, norm = clipped_nothing()

    assert (after, norm) == (None, 0.0)


def clipped_nothing():
    out = clip_grad_norm(1.0).step.on_before_optimizer_step(EmptyState(), BeforeOptimizerStep(grads={}))
    return out.replaced.get("grads"), out.replaced["metrics"]["grad_norm"].item()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_norm": 0.0}, "max_norm must be more than 0, got 0.0"),
        ({"max_norm": -1}, "max_norm must be more than 0, got -1"),
        ({"max_norm": nan}, "max_norm must be more than 0, got nan"),
        ({"max_norm": 1.0, "norm_type": 0}, "norm_type must be more than 0, got 0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=f"^clip_grad_norm: {message}"):
        clip_grad_norm(**arguments)


def test_it_has_a_key_and_remembers_nothing():
    assert clip_grad_norm(1.0).key == "clip_grad_norm"
    assert clip_grad_norm(1.0, key="mine").key == "mine"
    assert clip_grad_norm(1.0).step.init({"a": torch.zeros(2)}) == EmptyState()
