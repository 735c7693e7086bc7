import copy
from functools import partial
from math import nan

import pytest
import torch
from torch import nn

import fncb
from fncb.callback import compose
from fncb.callbacks import skip_nonfinite
from fncb.callbacks.lookahead import lookahead
from fncb.events import AfterOptimizerStep
from fncb.step import Step
from fncb.task import Turn


def heard(state, step, callback, **params):
    event = AfterOptimizerStep(step=torch.tensor(step), params={n: torch.tensor([p]) for n, p in params.items()})
    out = callback.step.on_after_optimizer_step(state, event)
    assert set(out.replaced) == {"params"}
    return out.state, {name: p.item() for name, p in out.replaced["params"].items()}


def test_every_k_steps_slow_weights_move_and_fast_ones_go_back_to_them():
    callback = lookahead(k=2, alpha=0.25)
    state = callback.step.init({"w": torch.tensor([0.0])})
    found = []
    for step, fast in ((1, 8.0), (2, 8.0), (3, 4.0), (4, 10.0)):
        state, params = heard(state, step, callback, w=fast)
        found.append((state["w"].item(), params["w"]))

    # .25 * 8 = 2; 2 + .25 * (10 - 2) = 4
    assert found == [(0.0, 8.0), (2.0, 2.0), (2.0, 4.0), (4.0, 4.0)]


def test_it_starts_with_a_copy_of_the_parameters():
    model = nn.Linear(2, 1)
    state = lookahead().step.init(dict(model.named_parameters()))

    assert all(torch.equal(state[name], p) and not state[name].requires_grad for name, p in model.named_parameters())
    assert state["weight"].data_ptr() != model.weight.data_ptr()


def test_with_alpha_1_parameters_stay_as_they_are():
    callback = lookahead(k=1, alpha=1.0)
    state, params = heard(callback.step.init({"w": torch.tensor([0.1])}), 1, callback, w=0.75)

    assert (state["w"].item(), params) == (0.75, {"w": 0.75})


def test_the_parameters_of_one_optimizer_at_a_time():
    callback = lookahead(k=1, alpha=0.5)
    state = callback.step.init({"a": torch.tensor([0.0]), "b": torch.tensor([0.0])})
    state, params = heard(state, 1, callback, a=4.0)

    assert params == {"a": 2.0}
    assert {name: slow.item() for name, slow in state.items()} == {"a": 2.0, "b": 0.0}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_stay(dtype):
    step = lookahead(k=1, alpha=0.5).step
    state = step.init({"w": torch.zeros(2, dtype=dtype)})
    event = AfterOptimizerStep(step=torch.tensor(1), params={"w": torch.ones(2, dtype=dtype)})
    out = step.on_after_optimizer_step(state, event)

    assert out.state["w"].dtype == out.replaced["params"]["w"].dtype == dtype
    assert out.state["w"].tolist() == [0.5, 0.5]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def loss(model, x):
    return (model(x) - 1).square().mean()


def batches(n=7):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, generator=generator) for _ in range(n)]


ADAM = partial(torch.optim.Adam, lr=0.05)


def by_hand(k, alpha, n=7):
    """Algorithm 1 of the paper, with torch's optimizer as the inner one."""
    model = network()
    optimizer, slow = ADAM(model.parameters()), copy.deepcopy([*model.parameters()])
    for i, x in enumerate(batches(n), 1):
        optimizer.zero_grad()
        loss(model, x).backward()
        optimizer.step()
        if i % k == 0:
            with torch.no_grad():
                for fast, s in zip(model.parameters(), slow, strict=True):
                    s.copy_(s + alpha * (fast - s))
                    fast.copy_(s)
    return model, slow


@pytest.mark.parametrize(("k", "alpha"), [(3, 0.5), (1, 0.25), (7, 0.75), (8, 0.5)])
def test_a_loop_written_by_hand_gives_the_same_numbers(k, alpha):
    model = network()
    task = fncb.Task(model, loss=loss, optimizer=ADAM)
    run = fncb.fit(task, batches(), callbacks=lookahead(k, alpha=alpha), max_epochs=1, compile=False, progress=False)
    expected, slow = by_hand(k, alpha)

    for (name, p), other, s in zip(model.named_parameters(), expected.parameters(), slow, strict=True):
        torch.testing.assert_close(p, other, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(run.step_state["lookahead"][name], s.detach(), rtol=1e-6, atol=1e-7)


def test_a_step_that_is_skipped_is_counted_and_moves_nothing():
    model, data = network(), batches(4)
    data[1][0, 0] = nan
    turn = Turn(None, loss, ADAM(model.parameters()))
    step = Step(model, [turn], compose(skip_nonfinite(), lookahead(2)).step, torch.device("cpu"), compile=False)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(data[0])
    after_one = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(data[1])

    slow = step.states["lookahead"]
    assert all(torch.equal(slow[name], p) for name, p in start.items())
    assert all(torch.equal(p, after_one[name]) for name, p in model.named_parameters())
    step(data[2])
    step(data[3])
    assert all(torch.equal(slow[name], p) for name, p in model.named_parameters())
    assert not torch.equal(slow["0.weight"], start["0.weight"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be 1 step or more, got 0"),
        ({"k": 2.0}, TypeError, "k must be an int, got 2.0"),
        ({"alpha": 0.0}, ValueError, r"alpha must be a number in \(0, 1\], got 0.0"),
        ({"alpha": 1.5}, ValueError, "alpha must be a number"),
        ({"alpha": nan}, ValueError, "alpha must be a number"),
        ({"alpha": True}, TypeError, "alpha must be a number"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^lookahead: {message}"):
        lookahead(**arguments)
