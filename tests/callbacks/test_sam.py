from functools import partial
from math import inf, nan

import pytest
import torch
from torch import nn

import fncb
from fncb.callback import EmptyState
from fncb.callbacks import clip_grad_norm, skip_nonfinite
from fncb.callbacks.sam import sam


def looked_at(callback, params, grads=None):
    """The parameters at which gradients were taken, beyond the first, and what came out."""
    at = []

    def gradient(there):
        at.append(there)
        return grads or {name: 2 * p for name, p in there.items()}  # of the sum of squares

    out = callback.step.around_gradient(gradient, params)
    assert at[0] is params
    return at[1], out


def test_it_climbs_by_rho_along_the_gradient_of_all_parameters_together():
    params = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    there, out = looked_at(sam(rho=5.0), params)

    assert {name: p.item() for name, p in there.items()} == {"a": 6.0, "b": 8.0}  # by 5 times (.6, .8)
    assert {name: g.item() for name, g in out.items()} == {"a": 12.0, "b": 16.0}
    assert params["a"].item() == 3.0


def test_adaptive_it_climbs_in_proportion_to_the_size_of_each_weight():
    """T = (3, 1), T * g = (6, 8): 10 long. e = 10 * T * T * g / 10 = (18, 8)."""
    params, grads = {"a": torch.tensor([3.0, -1.0])}, {"a": torch.tensor([2.0, 8.0])}
    there, _ = looked_at(sam(rho=10.0, adaptive=True, eta=0.0), params, grads)

    torch.testing.assert_close(there["a"], torch.tensor([21.0, 7.0]))


def test_eta_moves_weights_of_0_too():
    params, grads = {"a": torch.tensor([0.0])}, {"a": torch.tensor([2.0])}

    assert looked_at(sam(1.0, adaptive=True, eta=0.5), params, grads)[0]["a"].item() == 0.5
    assert looked_at(sam(1.0, adaptive=True, eta=0.0), params, grads)[0]["a"].item() == 0.0


def test_where_there_is_no_slope_nothing_moves():
    there, out = looked_at(sam(1.0), {"a": torch.zeros(3)})

    assert (there["a"].tolist(), out["a"].tolist()) == ([0.0] * 3, [0.0] * 3)


def test_a_parameter_without_a_gradient_stays():
    params = {"a": torch.tensor([1.0]), "unused": torch.tensor([7.0])}
    there, out = looked_at(sam(2.0), params, {"a": torch.tensor([0.5])})

    assert {name: p.item() for name, p in there.items()} == {"a": 3.0, "unused": 7.0}
    assert [*out] == ["a"]


def test_without_any_gradient_it_looks_once():
    assert sam().step.around_gradient(lambda params: {}, {"a": torch.ones(1)}) == {}


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_parameters_keep_their_dtype_and_the_norm_does_not_overflow(dtype, adaptive):
    params, grads = {"a": torch.ones(4, dtype=dtype)}, {"a": torch.full((4,), 32768.0, dtype=dtype)}
    there, _ = looked_at(sam(2.0, adaptive=adaptive, eta=0.0), params, grads)

    assert there["a"].dtype == dtype
    assert there["a"].tolist() == [2.0] * 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rho": -0.1}, ValueError, r"rho must be a number in \[0, inf\), got -0.1"),
        ({"rho": nan}, ValueError, "rho must be a number"),
        ({"eta": inf}, ValueError, "eta must be a number"),
        ({"rho": None}, TypeError, "rho must be a number"),
        ({"adaptive": 1}, TypeError, "adaptive must be True or False, got 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^sam: {message}"):
        sam(**arguments)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.layers(x)


def loss(model, x):
    return model(x).square().mean()


def batches(n=4, nan_at=()):
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(6, 3, generator=generator) for _ in range(n)]
    for i in nan_at:
        made[i][0, 0] = nan
    return made


MOMENTUM = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def train(*callbacks, data=None, **settings):
    model = Net()
    task = fncb.Task(model, loss=loss, optimizer=MOMENTUM)
    settings = {"max_epochs": 1, "compile": False, "progress": False, **settings}
    return model, fncb.fit(task, batches() if data is None else data, callbacks=callbacks, **settings)


def perturbed(model, rho, adaptive, eta):
    """Moves the parameters to where the loss is worst; gives what puts them back."""
    with_grad = [p for p in model.parameters() if p.grad is not None]
    old = [p.detach().clone() for p in with_grad]
    t = [p.detach().abs() + eta if adaptive else torch.ones_like(p) for p in with_grad]
    norm = torch.cat([(size * p.grad).flatten() for size, p in zip(t, with_grad, strict=True)]).norm()
    with torch.no_grad():
        for p, size in zip(with_grad, t, strict=True):
            p.add_(rho * size * size * p.grad / norm)

    def put_back():
        with torch.no_grad():
            for p, was in zip(with_grad, old, strict=True):
                p.copy_(was)

    return put_back


def by_hand(rho=0.05, adaptive=False, eta=0.01, max_norm=None):
    """Two passes and an optimizer of torch; the statistics of batch normalisation are those of the first pass."""
    model, losses = Net(), []
    optimizer = MOMENTUM(model.parameters())
    for x in batches():
        optimizer.zero_grad()
        value = loss(model, x)
        losses.append(value.item())
        value.backward()
        put_back = perturbed(model, rho, adaptive, eta)
        buffers = [buffer.clone() for buffer in model.buffers()]
        optimizer.zero_grad()
        loss(model, x).backward()
        for buffer, was in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(was)
        put_back()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
    return model, losses


@pytest.mark.parametrize(
    "arguments", [{}, {"rho": 1.0}, {"rho": 0.0}, {"rho": 0.5, "adaptive": True}, {"adaptive": True, "eta": 0.5}]
)
def test_a_loop_written_by_hand_gives_the_same_numbers(arguments):
    model, run = train(sam(**arguments))
    expected, losses = by_hand(**arguments)

    for (name, value), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert run.metrics["loss"] == pytest.approx(losses[-1], rel=1e-5)


def test_what_comes_after_it_sees_its_gradients():
    """Clipping, and nothing else would tell rho 0 and 1 apart where gradients are that small."""
    model, _ = train(sam(1.0), clip_grad_norm(0.01))
    expected, _ = by_hand(1.0, max_norm=0.01)

    for p, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, other, rtol=1e-5, atol=1e-6)


def test_without_rho_it_is_as_if_it_were_not_there():
    one, _ = train(sam(0.0))
    other, _ = train()

    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_batch_that_is_not_finite_is_skipped_with_it():
    model, run = train(sam(), skip_nonfinite(), data=batches(nan_at=(1,)))
    other, _ = train(sam(), data=[batches()[i] for i in (0, 2, 3)])

    assert run.metrics["skipped"] == 1.0
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_it_remembers_nothing_and_is_not_in_the_list_of_hooks():
    assert sam().step.init({"a": torch.zeros(1)}) == EmptyState()
    assert sam(0.1).config == {"rho": 0.1, "adaptive": False, "eta": 0.01}
