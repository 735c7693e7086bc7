from math import inf, nan

import pytest
import torch

from fncb.callbacks.skip_nonfinite import skip_nonfinite
from fncb.events import AfterBackward


def heard(state, loss, *grads):
    grads = {str(i): torch.tensor(grad) for i, grad in enumerate(grads)}
    return skip_nonfinite().step.on_after_backward(state, AfterBackward(loss=torch.tensor(loss), grads=grads))


def first():
    return skip_nonfinite().step.init({"w": torch.zeros(3)})


@pytest.mark.parametrize(
    ("loss", "grads", "bad"),
    [
        (1.0, ([0.0, 1.0], [2.0]), False),
        (nan, ([0.0, 1.0], [2.0]), True),
        (inf, ([0.0, 1.0], [2.0]), True),
        (1.0, ([0.0, nan], [2.0]), True),
        (1.0, ([0.0, 1.0], [-inf]), True),
        (1.0, ([inf, -inf], [2.0]), True),  # their sum is NaN, not 0
        (1e30, ([1e30, -1e30], [2.0]), False),  # large is not infinite, though its square is
        (1.0, ([3e38, 3e38, 3e38], [2.0]), False),  # neither is their sum
        (-0.0, ([1e-45],), False),
        (1.0, (), False),
        (nan, (), True),
        (1.0, (3.0, nan), True),  # parameters without dimensions
        (1.0, ([],), False),  # and without elements
    ],
)
def test_which_batches_are_skipped(loss, grads, bad):
    out = heard(first(), loss, *grads)

    assert out.replaced["skip"].item() is bad
    assert out.state["skipped"].item() == int(bad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gradients_of_any_dtype_are_looked_at(dtype):
    for value, bad in ((1.0, False), (nan, True)):
        event = AfterBackward(
            loss=torch.tensor(1.0), grads={"a": torch.ones(2), "b": torch.tensor([value], dtype=dtype)}
        )
        assert skip_nonfinite().step.on_after_backward(first(), event).replaced["skip"].item() is bad


def test_it_counts_what_it_skipped():
    state, counts = first(), []
    for loss in (1.0, nan, nan, 2.0, inf):
        out = heard(state, loss, [1.0])
        state = out.state
        counts.append(out.replaced["metrics"]["skipped"].item())

    assert counts == [0, 1, 2, 2, 3]
    assert (state["skipped"].dtype, state["skipped"].shape) == (torch.int64, ())


def test_the_state_before_is_left_as_it_was():
    state = first()
    heard(state, nan)

    assert state["skipped"].item() == 0


def test_it_replaces_nothing_but_asks():
    assert set(heard(first(), 1.0, [1.0]).replaced) == {"skip", "metrics"}
    assert heard(first(), 1.0, [1.0]).replaced["skip"].dtype == torch.bool


def test_its_state_is_where_the_parameters_are():
    assert skip_nonfinite().step.init({"w": torch.zeros(3, device="meta")})["skipped"].device.type == "meta"
    assert skip_nonfinite().step.init({})["skipped"].item() == 0
