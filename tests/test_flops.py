"""Operations are counted as on paper, and counting leaves no trace."""

import logging
import random
from functools import partial

import numpy
import pytest
import torch
from torch import nn

from fncb.callback import Callback, emit
from fncb.effects import Probe
from fncb.flops import peak_flops, training_flops
from fncb.loop import fit
from fncb.position import random_state
from fncb.task import Task
from tests.reliability.resuming import unlike


def square(model, x):
    return model(x).square().mean()


def test_a_linear_layer_makes_two_operations_a_weight_and_sample_forward_and_for_each_gradient():
    model, batch = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 7)), torch.ones(2, 3)

    forward = 2 * 2 * (3 * 5 + 5 * 7)
    of_weights, of_inputs = forward, 2 * 2 * 5 * 7  # nobody asks for the gradient of the batch
    assert training_flops(model, square, batch) == forward + of_weights + of_inputs


def test_what_is_frozen_has_no_gradient():
    model, batch = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7)), torch.ones(2, 3)
    model[0].requires_grad_(False)

    assert training_flops(model, square, batch) == 2 * 2 * (3 * 5 + 5 * 7) + 2 * 2 * 5 * 7


def test_a_convolution_counts_by_its_outputs():
    model = nn.Conv2d(2, 3, kernel_size=3, bias=False)

    forward = 2 * 4 * 3 * (6 * 6) * (2 * 3 * 3)  # samples, channels, places, weights of each
    assert training_flops(model, square, torch.ones(4, 2, 8, 8)) == 2 * forward


def test_a_batch_may_be_any_structure_and_a_loss_may_return_more():
    model = nn.Linear(3, 5)

    def loss(model, batch):
        value = square(model, batch["x"][0])
        return value, {"seen": value.detach()}

    assert training_flops(model, loss, {"x": [torch.ones(2, 3)], "name": "a"}) == 120


def test_nothing_is_changed_and_nothing_drawn():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    tensors, state = {name: each.clone() for name, each in model.state_dict().items()}, random_state()

    def loss(model, x):
        return square(model, x) * (1 + random.random() + numpy.random.rand())

    assert training_flops(model, loss, torch.ones(5, 3)) is not None

    assert unlike(tensors, dict(model.state_dict())) == []
    for name, was in state.items():
        now = random_state()[name]
        assert all(map(numpy.array_equal, now, was)) if isinstance(was, tuple) else numpy.array_equal(now, was), name
    assert all(p.grad is None for p in model.parameters())


def test_what_needs_data_is_not_counted_and_said_once(caplog):
    def loss(model, x):
        return square(model, x) if x.sum() > 0 else square(model, -x)

    with caplog.at_level(logging.WARNING, "fncb"):
        assert training_flops(nn.Linear(3, 5), loss, torch.ones(2, 3)) is None

    (record,) = caplog.records
    assert record.getMessage().startswith("fncb: operations are not counted: DataDependentOutput")


def asked(hook="on_train_batch_start"):
    found = []
    callback = Callback(
        key="asks",
        init=int,
        emits=(Probe,),
        on_probed=lambda s, e: found.append((dict(e.metrics), e.at)) or s,
        **{hook: lambda s, e: emit(s, Probe("flops"))},
    )
    return callback, found


def task(**given):
    torch.manual_seed(0)
    given = {"loss": square, "optimizer": partial(torch.optim.SGD, lr=0.1), **given}
    return Task(nn.Linear(3, 5), **given)


run = partial(fit, compile=False, progress=False, max_steps=1, device="cpu")


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_a_run_answers_for_the_batch_under_way(precision):
    callback, found = asked()

    run(task(), [torch.ones(2, 3)], callbacks=callback, precision=precision)

    assert found == [({"flops": 120.0}, "on_train_batch_start")]


def test_losses_of_several_optimizers_are_added_up():
    callback, found = asked()
    several = Task(
        nn.ModuleDict({"a": nn.Linear(3, 5), "b": nn.Linear(3, 1)}),
        loss={name: lambda model, x, name=name: square(model[name], x) for name in "ab"},
        optimizer={name: partial(torch.optim.SGD, lr=0.1) for name in "ab"},
    )

    run(several, [torch.ones(2, 3)], callbacks=callback)

    assert found[0][0] == {"flops": 120.0 + 24.0}


def test_elsewhere_it_cannot_be_asked_for():
    callback, _ = asked("on_train_start")

    with pytest.raises(
        ValueError, match="Probe: flops must be asked for at on_train_batch_start, got it at on_train_start"
    ):
        run(task(), [torch.ones(2, 3)], callbacks=callback)


def test_counting_leaves_a_run_as_it_is():
    def trained(callbacks):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        torch.manual_seed(1)
        given = Task(model, loss=square, optimizer=partial(torch.optim.SGD, lr=0.1))
        for p in model.parameters():
            nn.init.normal_(p)
        run(given, [torch.randn(4, 3) for _ in range(3)], callbacks=callbacks, max_steps=3)
        return {name: each.clone() for name, each in model.state_dict().items()}

    assert unlike(trained([]), trained([asked()[0]])) == []


@pytest.mark.parametrize(
    ("device", "half", "single"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA H100 80GB HBM3", 989e12, 67e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA L4", 121e12, 30.3e12),
        ("NVIDIA L40S", 362e12, 91.6e12),
        ("NVIDIA A10", 125e12, 31.2e12),
        ("NVIDIA A10G", None, None),  # no A10
        ("", None, None),
    ],
)
def test_what_a_device_could_make_is_known_by_its_name(device, half, single):
    assert [peak_flops(device, dtype) for dtype in (torch.float16, torch.bfloat16)] == [half, half]
    assert peak_flops(device, torch.float32) == single
    assert peak_flops(device, torch.float64) is None


def test_float32_is_tf32_where_that_is_allowed():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert peak_flops("NVIDIA A100-SXM4-80GB", torch.float32) == 156e12
    finally:
        torch.set_float32_matmul_precision(before)
