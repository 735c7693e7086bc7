from functools import partial
from math import inf, nan

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fncb
from fncb.callback import EmptyState
from fncb.callbacks.mixup import mixup
from fncb.events import TrainBatchStart


def mixed(callback, batch, seed=0):
    torch.manual_seed(seed)
    out = callback.step.on_train_batch_start(EmptyState(), TrainBatchStart(batch=batch))
    assert (out.state, set(out.replaced)) == (EmptyState(), {"batch", "metrics"})
    return out.replaced["batch"], out.replaced["metrics"]["mixup_lambda"]


def test_inputs_and_labels_are_mixed_by_the_same_coefficient_with_the_same_partner():
    """Each sample is its own number, so that a mixture tells what is in it."""
    n = 8
    x, y = torch.eye(n), torch.arange(n)
    (inputs, labels), weight = mixed(mixup(1.0, num_classes=n), (x, y))

    assert 0 < weight < 1
    torch.testing.assert_close(inputs, labels)
    partner = [row.tolist() for row in (inputs - weight * torch.eye(n)).round(decimals=5)]
    assert sorted(row.index(max(row)) for row in partner) == [*range(n)]  # each is a partner once
    torch.testing.assert_close(labels.sum(1), torch.ones(n))
    assert (x[0].tolist(), y.dtype) == ([1.0] + [0.0] * 7, torch.int64)  # what it was given is left as it was


def test_every_batch_has_a_coefficient_of_its_own():
    batch = (torch.randn(4, 2), torch.rand(4, 3))

    assert len({mixed(mixup(), batch, seed)[1].item() for seed in range(10)}) == 10


def test_a_batch_that_is_not_mixed_has_coefficient_1():
    batch = (torch.randn(4, 2), torch.tensor([0, 1, 2, 2]))
    (inputs, labels), weight = mixed(mixup(num_classes=3, probability=0.0), batch)

    assert weight == 1.0
    assert torch.equal(inputs, batch[0])
    assert torch.equal(labels, F.one_hot(batch[1], 3).float())


def test_labels_that_are_numbers_already_are_mixed_as_they_are():
    y = torch.tensor([1.0, 3.0])
    (_, labels), weight = mixed(mixup(1.0), (torch.zeros(2, 1), y))

    assert labels.shape == (2,)
    assert labels.sum() == pytest.approx(4.0)
    assert labels[0].item() in (pytest.approx(1.0), pytest.approx(weight.item() + 3 * (1 - weight.item())))


def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses():
    """Of cross entropy: as the paper's own code has it."""
    x, y, logits = torch.randn(6, 2), torch.randint(0, 4, (6,)), torch.randn(6, 4)
    (inputs, labels), weight = mixed(mixup(1.0, num_classes=4), (x, y))
    # the partner whose input completes each mixture
    rest = (inputs - weight * x) / (1 - weight)
    partner = torch.cdist(rest, x).argmin(1)
    wanted = weight * F.cross_entropy(logits, y) + (1 - weight) * F.cross_entropy(logits, y[partner])

    assert F.cross_entropy(logits, labels).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_inputs_keep_their_dtype_and_shape(dtype):
    (inputs, labels), weight = mixed(mixup(num_classes=3), (torch.ones(4, 2, 3, dtype=dtype), torch.zeros(4).long()))

    assert (inputs.dtype, inputs.shape) == (dtype, (4, 2, 3))
    assert (labels.dtype, labels.shape) == (torch.float32, (4, 3))
    assert (weight.dtype, weight.shape) == (torch.float32, ())


def test_where_the_batch_has_them_may_be_said():
    batch = {"name": ["a", "b"], "label": torch.tensor([0, 1]), "image": torch.eye(2)}
    new, _ = mixed(mixup(1.0, num_classes=2, inputs="image", labels="label"), batch)

    assert [*new] == [*batch]
    assert new["name"] is batch["name"]
    torch.testing.assert_close(new["image"], new["label"])
    first, _ = mixed(mixup(1.0, num_classes=2, inputs=-1, labels=0), (batch["label"], batch["image"]))
    torch.testing.assert_close(first[0], first[1])


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ((torch.zeros(2, 1, dtype=torch.uint8), torch.zeros(2)), TypeError, "inputs must be floating-point numbers"),
        ((torch.zeros(2, 1),), TypeError, "a batch must have a tensor of labels at 1, got tuple"),
        (torch.zeros(2, 1), TypeError, "a batch must have a tensor of inputs at 0, got Tensor"),
        ((torch.zeros(2, 1), torch.zeros(2).long()), ValueError, "num_classes must be given"),
    ],
)
def test_a_batch_that_cannot_be_mixed_is_refused(batch, error, message):
    with pytest.raises(error, match=f"^mixup: {message}"):
        mixed(mixup(), batch)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"alpha": 0.0}, ValueError, r"alpha must be a number in \[0.01, inf\), got 0.0"),
        ({"alpha": nan}, ValueError, "alpha must be a number"),
        ({"alpha": inf}, ValueError, "alpha must be a number"),
        ({"alpha": "0.2"}, TypeError, "alpha must be a number"),
        ({"probability": 1.5}, ValueError, r"probability must be a number in \[0, 1\], got 1.5"),
        ({"num_classes": 0}, ValueError, "num_classes must be 1 class or more"),
        ({"labels": None}, TypeError, "labels must be an index or a key of the batch, got None"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^mixup: {message}"):
        mixup(**arguments)


def test_a_run_trains_on_mixtures_and_validates_on_what_there_is():
    """Only in training do labels come as probabilities; host hooks see the batch as it was."""
    torch.manual_seed(0)
    seen = {"train": set(), "val": set(), "host": set()}

    def loss(model, batch):
        seen["train" if model.training else "val"].add((batch[1].dtype, batch[1].dim()))
        return F.cross_entropy(model(batch[0]), batch[1])

    noting = fncb.Callback(
        key="n", init=int, on_train_batch_end=lambda s, e: seen["host"].add((e.batch[1].dtype, e.batch[1].dim())) or s
    )
    task = fncb.Task(nn.Linear(2, 3), loss=loss, optimizer=partial(torch.optim.SGD, lr=0.1))
    data = [(torch.randn(4, 2), torch.tensor([0, 1, 2, 0]))] * 3
    settings = {"max_epochs": 1, "compile": False, "progress": False}
    run = fncb.fit(task, data, data, callbacks=[mixup(num_classes=3), noting], **settings)

    assert seen == {"train": {(torch.float32, 2)}, "val": {(torch.int64, 1)}, "host": {(torch.int64, 1)}}
    assert 0 <= run.metrics["mixup_lambda"] <= 1


def test_it_remembers_nothing():
    assert mixup().step.init({}) == EmptyState()
    assert mixup(num_classes=3).config == {
        "alpha": 0.2,
        "num_classes": 3,
        "probability": 1.0,
        "inputs": 0,
        "labels": 1,
    }
