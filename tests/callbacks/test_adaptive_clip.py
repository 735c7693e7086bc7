from math import inf, nan

import pytest
import torch

from fncb.callback import EmptyState
from fncb.callbacks.adaptive_clip import adaptive_clip
from fncb.events import BeforeOptimizerStep


def clipped(callback, params, grads):
    event = BeforeOptimizerStep(params={"w": params}, grads={"w": grads})
    out = callback.step.on_before_optimizer_step(EmptyState(), event)
    assert (out.state, set(out.replaced)) == (EmptyState(), {"grads"})
    return out.replaced["grads"]["w"]


def by_units(weights, grads, clipping, eps):
    """Equation 3, unit by unit."""
    new = grads.clone()
    units = range(len(weights)) if weights.dim() > 1 else [...]
    for i in units:
        w, g = weights[i].norm().item(), grads[i].norm().item()
        if g / max(w, eps) > clipping:
            new[i] = clipping * max(w, eps) / g * grads[i]
    return new


@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (4, 3, 2, 2), (4, 1, 3)])
@pytest.mark.parametrize("clipping", [0.01, 0.5, 100.0])
def test_it_is_equation_3_for_each_unit(shape, clipping):
    torch.manual_seed(0)
    weights, grads = torch.randn(shape), torch.randn(shape)
    if len(shape) > 1:
        weights[0], grads[1], grads[2] = 0.0, 0.0, grads[2] * 1e-3

    after = clipped(adaptive_clip(clipping, eps=0.25), weights, grads)
    torch.testing.assert_close(after, by_units(weights, grads, clipping, 0.25))


def test_a_row_of_a_linear_layer_is_a_unit():
    weights, grads = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, 5.0], [3.0, 4.0]])

    # the first has norm 5 and gradient 5: half of it; the second counts for 1, and its gradient of 5 gets a tenth
    assert clipped(adaptive_clip(0.5, eps=1.0), weights, grads).tolist() == [
        [0.0, 2.5],
        pytest.approx([0.3, 0.4]),
    ]


def test_a_bias_is_one_unit():
    after = clipped(adaptive_clip(0.5), torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0]))

    torch.testing.assert_close(after, torch.tensor([1.5, 2.0]))


def test_small_gradients_and_those_of_0_stay_as_they_are():
    grads = torch.tensor([[0.25, 0.5], [0.0, 0.0]])

    assert torch.equal(clipped(adaptive_clip(0.5), torch.ones(2, 2) * 4, grads), grads)


def test_what_is_not_finite_does_not_become_finite_unseen():
    after = clipped(adaptive_clip(0.5), torch.ones(2, 2), torch.tensor([[nan, 1.0], [0.25, 0.0]]))

    assert after.isnan().tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gradients_keep_their_dtype_and_norms_do_not_overflow(dtype):
    grads = torch.full((2, 4), 32768.0, dtype=dtype)  # the norm is 65536: more than float16 holds
    after = clipped(adaptive_clip(0.25), torch.ones(2, 4, dtype=dtype), grads)

    assert torch.equal(after, torch.full((2, 4), 0.25, dtype=dtype))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"clipping": 0.0}, ValueError, r"clipping must be a number in \(0, inf\), got 0.0"),
        ({"clipping": inf}, ValueError, "clipping must be a number"),
        ({"eps": nan}, ValueError, "eps must be a number"),
        ({"eps": "1"}, TypeError, "eps must be a number"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^adaptive_clip: {message}"):
        adaptive_clip(**arguments)


def test_it_remembers_nothing():
    assert adaptive_clip().step.init({"w": torch.zeros(2)}) == EmptyState()
    assert adaptive_clip().config == {"clipping": 0.01, "eps": 1e-3}
