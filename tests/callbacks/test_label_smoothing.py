from functools import partial
from math import nan

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fncb
from fncb.callback import EmptyState, compose
from fncb.callbacks.cutmix import cutmix
from fncb.callbacks.label_smoothing import label_smoothing
from fncb.callbacks.mixup import mixup
from fncb.events import TrainBatchStart


def smoothed(callback, labels, x=None):
    batch = (torch.zeros(len(labels), 1) if x is None else x, labels)
    out = callback.step.on_train_batch_start(EmptyState(), TrainBatchStart(batch=batch))
    assert (out.state, set(out.replaced)) == (EmptyState(), {"batch"})
    assert out.replaced["batch"][0] is batch[0]
    return out.replaced["batch"][1]


def test_every_class_gets_its_share():
    assert smoothed(label_smoothing(0.5, num_classes=4), torch.tensor([1, 3])).tolist() == [
        [0.125, 0.625, 0.125, 0.125],
        [0.125, 0.125, 0.125, 0.625],
    ]


def test_probabilities_are_smoothed_as_they_are():
    soft = smoothed(label_smoothing(0.5), torch.tensor([[0.25, 0.75]]))

    assert soft.tolist() == [[0.375, 0.625]]


def test_without_smoothing_it_only_makes_probabilities():
    assert smoothed(label_smoothing(0.0, num_classes=2), torch.tensor([1])).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(6,), (6, 3, 2)])
def test_the_loss_is_that_of_torch_with_its_own_smoothing(smoothing, shape):
    torch.manual_seed(0)
    labels, logits = torch.randint(0, 4, shape), torch.randn(6, 4, *shape[1:])
    soft = smoothed(label_smoothing(smoothing, num_classes=4), labels)

    torch.testing.assert_close(
        F.cross_entropy(logits, soft), F.cross_entropy(logits, labels, label_smoothing=smoothing)
    )


def test_a_label_that_is_no_class_counts_for_nothing():
    labels, logits = torch.tensor([0, -100, 2]), torch.randn(3, 3)
    soft = smoothed(label_smoothing(0.3, num_classes=3), labels)

    assert soft[1].tolist() == [0.0] * 3
    torch.testing.assert_close(
        F.cross_entropy(logits, soft, reduction="sum"),
        F.cross_entropy(logits, labels, reduction="sum", label_smoothing=0.3),
    )


def test_it_composes_with_what_mixes():
    """Mixing comes first or last: it is linear, and so the same comes out."""
    labels = torch.arange(4)
    for mixing in (mixup, cutmix):
        found = []
        for callbacks in (
            (label_smoothing(0.25, num_classes=4), mixing(1.0)),
            (mixing(1.0, num_classes=4), label_smoothing(0.25)),
        ):
            torch.manual_seed(0)
            hooks = compose(*callbacks).step
            states = {callback.key: EmptyState() for callback in callbacks}
            event = TrainBatchStart(batch=(torch.rand(4, 1, 6, 6, generator=torch.Generator()), labels))
            found.append(hooks.on_train_batch_start(states, event).replaced["batch"][1])

        torch.testing.assert_close(*found)
        torch.testing.assert_close(found[0].sum(1), torch.ones(4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_probabilities_keep_their_dtype(dtype):
    assert smoothed(label_smoothing(0.5), torch.ones(2, 2, dtype=dtype) / 2).dtype == dtype


@pytest.mark.parametrize("precision", ["32", "64", "bf16-mixed"])
def test_a_run_of_any_precision_takes_them(precision):
    torch.manual_seed(0)
    task = fncb.Task(
        nn.Linear(2, 3),
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        optimizer=partial(torch.optim.SGD, lr=0.1),
    )
    data = [(torch.ones(4, 2), torch.tensor([0, 1, 2, 2]))]
    settings = {"max_epochs": 1, "compile": False, "progress": False, "precision": precision}
    run = fncb.fit(task, data, callbacks=label_smoothing(0.5, num_classes=3), **settings)

    torch.manual_seed(0)
    wanted = F.cross_entropy(nn.Linear(2, 3)(data[0][0]), data[0][1], label_smoothing=0.5).item()
    assert run.metrics["loss"] == pytest.approx(wanted, rel=1e-2 if precision.startswith("bf16") else 1e-6)


def test_where_the_batch_has_them_may_be_said():
    batch = {"image": torch.zeros(1), "label": torch.tensor([0])}
    hook = label_smoothing(0.5, num_classes=2, labels="label").step.on_train_batch_start
    new = hook(EmptyState(), TrainBatchStart(batch=batch)).replaced["batch"]

    assert ([*new], new["label"].tolist()) == (["image", "label"], [[0.75, 0.25]])


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([0]), ValueError, "num_classes must be given"),
        (torch.tensor([0.5]), ValueError, r"labels must be numbers of classes or their probabilities, got .*\(1,\)"),
    ],
)
def test_labels_that_cannot_be_smoothed_are_refused(labels, error, message):
    with pytest.raises(error, match=f"^label_smoothing: {message}"):
        smoothed(label_smoothing(), labels)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"smoothing": 1.0}, ValueError, r"smoothing must be a number in \[0, 1\), got 1.0"),
        ({"smoothing": nan}, ValueError, "smoothing must be a number"),
        ({"smoothing": True}, TypeError, "smoothing must be a number"),
        ({"num_classes": -1}, ValueError, "num_classes must be 1 class or more"),
        ({"labels": 1.0}, TypeError, "labels must be an index or a key of the batch"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^label_smoothing: {message}"):
        label_smoothing(**arguments)


def test_it_remembers_nothing():
    assert label_smoothing().step.init({}) == EmptyState()
    assert label_smoothing().config == {"smoothing": 0.1, "num_classes": None, "labels": 1}
