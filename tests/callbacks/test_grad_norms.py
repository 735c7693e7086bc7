from functools import partial
from math import inf, nan

import pytest
import torch
from torch import nn

import fncb
from fncb.callback import EmptyState
from fncb.callbacks import clip_grad_norm
from fncb.callbacks.grad_norms import grad_norms
from fncb.events import BeforeOptimizerStep


def published(callback, grads):
    out = callback.step.on_before_optimizer_step(EmptyState(), BeforeOptimizerStep(grads=grads))
    assert (out.state, set(out.replaced)) == (EmptyState(), {"metrics"})
    return {name: value.item() for name, value in out.replaced["metrics"].items()}


GRADS = {
    "cls": torch.tensor([2.0]),  # the model's own
    "net.0.weight": torch.tensor([[2.0, 4.0]]),
    "net.0.bias": torch.tensor([4.0]),
    "net.0.inner.weight": torch.tensor([0.5]),
    "net.1.weight": torch.tensor([-8.0, 0.0]),
}


@pytest.mark.parametrize(
    ("norm_type", "of_layer"),
    [(2.0, [2.0, 6.0, 0.5, 8.0]), (1, [2.0, 10.0, 0.5, 8.0]), (inf, [2.0, 4.0, 0.5, 8.0])],
)
def test_a_layer_is_a_submodule_with_parameters_of_its_own(norm_type, of_layer):
    names = ["grad_norm/root", "grad_norm/net.0", "grad_norm/net.0.inner", "grad_norm/net.1"]

    assert published(grad_norms(norm_type), GRADS) == dict(zip(names, of_layer, strict=True))


def test_each_parameter_may_have_its_own():
    norms = published(grad_norms(per="parameter"), GRADS)

    assert [*norms] == [f"grad_norm/{name}" for name in GRADS]
    assert norms["grad_norm/net.0.weight"] == pytest.approx(20**0.5)


def test_two_of_them_have_names_of_their_own():
    after = grad_norms(per="parameter", name="clipped", key="after")

    assert published(after, {"w": torch.tensor([3.0])}) == {"clipped/w": 3.0}


@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, 3.0, inf])
def test_all_layers_together_have_the_norm_that_torch_computes(norm_type):
    torch.manual_seed(0)
    grads = {f"{layer}.{name}": torch.randn(3, 2) for layer in "abc" for name in ("weight", "bias")}
    whole = torch.nn.utils.get_total_norm(grads.values(), norm_type).item()
    for per in ("layer", "parameter"):
        norms = torch.tensor([*published(grad_norms(norm_type, per=per), grads).values()])

        assert torch.linalg.vector_norm(norms, norm_type).item() == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_norms_are_float32_and_do_not_overflow(dtype):
    grads = {"a.w": torch.full((4,), 32768.0, dtype=dtype)}
    out = grad_norms().step.on_before_optimizer_step(EmptyState(), BeforeOptimizerStep(grads=grads))
    norm = out.replaced["metrics"]["grad_norm/a"]

    assert (norm.dtype, norm.shape, norm.item()) == (torch.float32, (), 65536.0)


def test_without_gradients_there_are_no_norms():
    assert published(grad_norms(), {}) == {}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"norm_type": 0}, ValueError, r"norm_type must be a number in \(0, inf\], got 0"),
        ({"norm_type": nan}, ValueError, "norm_type must be a number"),
        ({"norm_type": "fro"}, TypeError, "norm_type must be a number"),
        ({"name": ""}, ValueError, "name must be text, got ''"),
        ({"per": "module"}, ValueError, "per must be 'layer' or 'parameter', got 'module'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^grad_norms: {message}"):
        grad_norms(**arguments)


def last_metrics(*callbacks):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    task = fncb.Task(model, loss=lambda m, x: m(x).square().mean() * 100, optimizer=partial(torch.optim.SGD, lr=0.0))
    run = fncb.fit(task, [torch.ones(4, 2)], callbacks=callbacks, max_epochs=1, compile=False, progress=False)
    return run.metrics


def test_its_place_in_the_composition_tells_whether_it_measures_before_or_after_clipping():
    whole = (("grad_norm/0", "grad_norm/2"),)
    for order, clipped in (((grad_norms(), clip_grad_norm(1.0)), False), ((clip_grad_norm(1.0), grad_norms()), True)):
        metrics = last_metrics(*order)
        total = sum(metrics[name] ** 2 for name in whole[0]) ** 0.5

        assert metrics["grad_norm"] > 2.0
        assert total == pytest.approx(1.0 if clipped else metrics["grad_norm"], rel=1e-5)
