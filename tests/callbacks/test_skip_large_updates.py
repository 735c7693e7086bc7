from functools import partial
from math import inf, nan

import pytest
import torch
from torch import nn

import fncb
from fncb.callbacks import ema
from fncb.callbacks.skip_large_updates import skip_large_updates
from fncb.events import BeforeOptimizerStep


def judged(callback, *norms):
    """Whether each update was skipped, and the last state as plain numbers."""
    state, skips = callback.step.init({"w": torch.zeros(1)}), []
    for norm in norms:
        before = {name: value.clone() for name, value in state.items()}
        event = BeforeOptimizerStep(grads={"w": torch.tensor([norm * 0.6]), "v": torch.tensor(norm * 0.8)})
        out = callback.step.on_before_optimizer_step(state, event)
        assert all(torch.equal(before[name], state[name]) for name in state)  # what it was given is left as it was
        state = out.state
        skips.append(out.replaced["skip"].item())
        assert out.replaced["metrics"]["skipped_updates"].item() == sum(skips)
        assert set(out.replaced) == {"skip", "metrics"}
    return skips, {name: value.item() for name, value in state.items()}


@pytest.mark.parametrize(
    ("norms", "skips"),
    [
        ((1.0, 4.0, 4.5, 2.0), [False, False, True, False]),  # a tie is not over the limit
        ((nan, inf, -1.0), [True, True, False]),
        ((0.0,), [False]),
    ],
)
def test_a_fixed_limit(norms, skips):
    assert judged(skip_large_updates(4.0), *norms)[0] == skips


def test_infinity_is_over_every_limit():
    assert judged(skip_large_updates(inf), 1e18, inf, nan)[0] == [False, True, True]
    assert judged(skip_large_updates(factor=2.0, warmup=3), inf, 1.0, nan, 1.0)[0] == [True, False, True, False]


def test_a_relative_limit_counts_once_the_mean_holds_enough():
    """With no memory the mean is the norm before: 1, 2, 4, then 8 is a tie and 9 is too much."""
    callback = skip_large_updates(factor=2.0, warmup=3, decay=0.0)

    assert judged(callback, 1.0, 64.0, 4.0, 8.0)[0] == [False] * 4
    assert judged(callback, 1.0, 64.0, 4.0, 9.0)[0] == [False] * 3 + [True]
    assert judged(skip_large_updates(factor=2.0, warmup=1), 1.0, 3.0)[0] == [False, True]


def test_the_mean_is_exponential_and_not_biased_to_0():
    """After 8 and 4, with decay .5: (.25 * 8 + .5 * 4) / .75 = 16 / 3."""
    callback = skip_large_updates(factor=3.0, warmup=2, decay=0.5)

    assert judged(callback, 8.0, 4.0, 15.75)[0] == [False, False, False]
    assert judged(callback, 8.0, 4.0, 16.25)[0] == [False, False, True]
    assert judged(callback, 8.0, 4.0)[1] == {"skipped": 0, "seen": 2, "sum": 4.0}


def test_norms_of_skipped_updates_stay_out_of_the_mean():
    callback = skip_large_updates(factor=2.0, warmup=1, decay=0.5)
    skips, state = judged(callback, 8.0, 1024.0, nan, 1024.0, 8.0)

    assert skips == [False, True, True, True, False]
    assert state == {"skipped": 3, "seen": 2, "sum": 6.0}


def test_of_two_limits_the_lower_one_counts():
    callback = skip_large_updates(10.0, factor=4.0, warmup=1, decay=0.0)

    assert judged(callback, 1.0, 4.5)[0] == [False, True]
    assert judged(callback, 5.0, 10.5)[0] == [False, True]
    assert judged(callback, 11.0)[0] == [True]  # the fixed one needs no warm-up


def test_what_it_keeps_are_three_numbers_where_the_parameters_are():
    state = skip_large_updates(1.0).step.init({"w": torch.zeros(2, device="meta")})

    assert {name: (value.shape, value.dtype, value.device.type) for name, value in state.items()} == {
        "skipped": ((), torch.int64, "meta"),
        "seen": ((), torch.int64, "meta"),
        "sum": ((), torch.float32, "meta"),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gradients_of_any_dtype_are_measured_in_float32_at_least(dtype):
    guard = skip_large_updates(65537.0, factor=2.0).step
    event = BeforeOptimizerStep(grads={"a": torch.full((4,), 32768.0, dtype=dtype)})  # norm 65536
    out = guard.on_before_optimizer_step(guard.init({}), event)

    assert not out.replaced["skip"]
    assert out.state["sum"].dtype == torch.float32


def test_without_gradients_nothing_happens():
    guard = skip_large_updates(1.0).step
    state = guard.init({})

    assert guard.on_before_optimizer_step(state, BeforeOptimizerStep(grads={})) is state


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "a limit must be given, got none. Pass max_norm=10.0 or factor=5.0"),
        ({"max_norm": 0.0}, ValueError, r"max_norm must be a number in \(0, inf\], got 0.0"),
        ({"max_norm": nan}, ValueError, "max_norm must be a number"),
        ({"factor": 1.0}, ValueError, r"factor must be a number in \(1, inf\], got 1.0"),
        ({"factor": "2"}, TypeError, "factor must be a number"),
        ({"factor": 2.0, "warmup": 0}, ValueError, "warmup must be 1 norm or more, got 0"),
        ({"factor": 2.0, "warmup": True}, TypeError, "warmup must be an int, got True"),
        ({"factor": 2.0, "decay": 1.0}, ValueError, r"decay must be a number in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^skip_large_updates: {message}"):
        skip_large_updates(**arguments)


def test_in_a_run_a_skipped_update_leaves_all_but_its_count_as_it_was():
    """The third batch is a thousand times as large: what comes of the run is as if it had not been there."""

    def train(batches):
        model = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            model.weight.fill_(0.5)
        task = fncb.Task(model, loss=lambda m, x: m(x).mean(), optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.5))
        guard = skip_large_updates(factor=4.0, warmup=2)
        return model, fncb.fit(task, batches, callbacks=[guard, ema(0.5)], max_epochs=1, compile=False, progress=False)

    one = torch.ones(3, 2)
    model, run = train([one, one, one * 1000, one])
    other, reference = train([one, one, one])

    assert torch.equal(model.weight, other.weight)
    assert torch.equal(run.step_state["ema"]["weight"], reference.step_state["ema"]["weight"])
    assert run.metrics["skipped_updates"] == 1.0
    assert run.step_state["skip_large_updates"]["seen"] == 3


def test_the_norm_is_that_of_the_window():
    """Two batches that cancel are no large update, however large each is."""
    task = fncb.Task(
        nn.Linear(1, 1, bias=False), loss=lambda m, x: m(x).mean(), optimizer=partial(torch.optim.SGD, lr=0.1)
    )
    large = torch.full((2, 1), 64.0)
    run = fncb.fit(
        task,
        [large, -large],
        callbacks=skip_large_updates(1.0),
        accumulate_grad_batches=2,
        max_epochs=1,
        compile=False,
        progress=False,
    )

    assert run.metrics["skipped_updates"] == 0.0
