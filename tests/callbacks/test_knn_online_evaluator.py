import importlib
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fncb
from fncb.callback import Callback, compose
from fncb.callbacks import early_stop
from fncb.callbacks.knn_online_evaluator import KnnOnlineEvaluatorState, knn_online_evaluator
from fncb.effects import Examine, Log
from fncb.events import SanityCheckEnd, SanityCheckStart, ValidationEpochEnd
from tests.callbacks.digits import batches, classifier_task, digits, train
from tests.folding import fold

KNOWN = [
    (torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])),
    (torch.tensor([[3.0, 4.0]]), torch.tensor([1])),
]
LOOKS = (Examine("knn_online_evaluator"),)


def accuracy(known, asked, model=None, **arguments):
    """What it logs, as `Examine` has it: in eval mode, without gradients."""
    knn = knn_online_evaluator(known, asked, **arguments)
    with torch.no_grad():
        log = fold(knn, [ValidationEpochEnd()]).effects[0].fn(model or nn.Identity(), ValidationEpochEnd(), {})
    assert type(log) is Log
    assert list(log.metrics) == ["online_knn_val_acc"]
    return log.metrics["online_knn_val_acc"]


def one(feature, label):
    return [(torch.tensor([feature]), torch.tensor([label]))]


@pytest.mark.parametrize(
    ("feature", "arguments", "label"),
    [
        ([2.0, 0.0], {"k": 1}, 0),
        ([1.0, 0.25], {"k": 1}, 0),  # lengths do not count: its inner product with (3, 4) is larger
        ([0.8, 0.6], {"k": 1}, 1),  # .96 with (.6, .8)
        # inner products 1, 0 and .6 with those of labels 0, 1 and 1
        ([1.0, 0.0], {"k": 3, "temperature": 0.07}, 0),  # e^(1 / .07) against 1 + e^(.6 / .07)
        ([1.0, 0.0], {"k": 3, "temperature": 10.0}, 1),  # e^.1 against 1 + e^.06
        ([1.0, 0.0], {"k": 2, "temperature": 10.0}, 0),  # e^.1 against e^.06
        ([1.0, 0.0], {}, 0),  # 200 of 3 are 3
    ],
)
def test_neighbours_vote_by_how_near_they_are(feature, arguments, label):
    assert accuracy(KNOWN, one(feature, label), **arguments) == 1.0
    assert accuracy(KNOWN, one(feature, 1 - label), **arguments) == 0.0


def test_of_equal_votes_the_least_label_wins():
    known = [(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([2, 1]))]

    assert accuracy(known, one([1.0, 0.0], 1), k=2) == 1.0


def by_hand(known, asked, k, temperature):
    """The share that is right, sample by sample, label by label."""
    features, labels = (torch.cat(parts).double() for parts in zip(*known, strict=True))
    right = total = 0
    for wanted, label in ((x, int(y)) for batch in asked for x, y in zip(*batch, strict=True)):
        cosine = [float(wanted.double() @ each / wanted.double().norm() / each.norm()) for each in features]
        near = sorted(range(len(cosine)), key=lambda i: -cosine[i])[:k]
        votes = {}
        for i in near:
            votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + math.exp(cosine[i] / temperature)
        right += max(votes, key=lambda each: votes[each]) == label
        total += 1
    return right / total


@pytest.mark.parametrize("k", [1, 5, 30, 200])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_it_is_what_the_definition_gives(k, temperature):
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(20, 4, generator=generator), torch.randint(5, (20,), generator=generator)) for _ in range(6)]

    expected = by_hand(data[:3], data[3:], k, temperature)
    assert 0 < expected < 1
    assert accuracy(data[:3], data[3:], k=k, temperature=temperature) == expected


def test_neither_batches_nor_chunks_change_it(monkeypatch):
    images, labels = digits()
    data = images.flatten(1), labels

    def parts(start, stop, size):
        return list(zip(*(each[start:stop].split(size) for each in data), strict=True))

    whole = accuracy(parts(0, 300, 300), parts(300, 400, 100), k=20)
    module = importlib.import_module("fncb.callbacks.knn_online_evaluator")
    monkeypatch.setattr(module, "CHUNK", 1000)  # 3 samples at once
    assert accuracy(parts(0, 300, 7), parts(300, 400, 9), k=20) == whole
    monkeypatch.setattr(module, "CHUNK", 1)
    assert accuracy(parts(0, 300, 64), parts(300, 400, 64), k=20) == whole


def test_a_low_temperature_does_not_overflow():
    for feature, label in (([1.0, 0.1], 0), ([0.1, 1.0], 1)):
        assert accuracy(KNOWN, one(feature, label), temperature=1e-4) == 1.0


def test_views_of_the_same_samples_are_known_by_the_last():
    views = [((torch.zeros(2, 2), KNOWN[0][0]), KNOWN[0][1])]

    assert accuracy(views, one([0.0, 1.0], 1), k=1) == 1.0


def test_features_can_be_any_function_of_model_and_batch():
    def features(model, batch):
        return model(batch["x"]), batch["y"]

    known = [{"x": x, "y": y} for x, y in KNOWN]
    swapped = nn.Linear(2, 2, bias=False).double()  # it is given float64
    with torch.no_grad():
        swapped.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))

    asked = [{"x": torch.tensor([[1.0, 0.0]]), "y": torch.tensor([0])}]
    assert accuracy(known, asked, swapped, k=1, features=features) == 1.0


@pytest.mark.parametrize(
    ("known", "asked", "arguments", "message"),
    [
        ([], KNOWN, {}, "knn_online_evaluator: train must give at least one batch, got none"),
        (KNOWN, [], {}, "knn_online_evaluator: val must give at least one batch, got none"),
        ([torch.zeros(2, 2)], KNOWN, {}, r"a batch must be \(inputs, labels\), got Tensor. Pass features="),
        (
            KNOWN,
            KNOWN,
            {"features": lambda m, b: b[0]},
            r"features must return \(features, labels\), two tensors, got T",
        ),
        (
            KNOWN,
            KNOWN,
            {"features": lambda m, b: (b[0][0], b[1])},
            r"must have the shape \(batch, features\), got \(2,",
        ),
        (KNOWN, KNOWN, {"features": lambda m, b: (b[0], b[0])}, r"labels must have the shape \(2,\), got \(2, 2\)"),
    ],
)
def test_what_cannot_be_classified_is_told(known, asked, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        accuracy(known, asked, **arguments)


def test_it_looks_at_each_validation_but_in_a_sanity_check():
    knn = knn_online_evaluator(KNOWN, KNOWN)
    sane = [SanityCheckStart(), ValidationEpochEnd(), SanityCheckEnd()]

    assert fold(knn, sane[:2]).state == KnnOnlineEvaluatorState(paused=True)
    assert (fold(knn, sane).state, fold(knn, sane).effects) == (KnnOnlineEvaluatorState(), ())
    assert fold(knn, [*sane, ValidationEpochEnd(), ValidationEpochEnd()]).effects == LOOKS * 2


def test_a_run_has_it_among_the_metrics_of_its_validations_and_others_can_go_by_it():
    made, seen = [], []

    def known():
        made.append(1)
        return batches(0, 512)

    watch = Callback(
        key="watch", init=int, on_validation_end=lambda s, e: seen.append(e.metrics.get("online_knn_val_acc")) or s
    )
    stop = early_stop("online_knn_val_acc", mode="max", stopping_threshold=0.5)
    knn = knn_online_evaluator(known, batches(512, 1024), k=10)

    run = train(classifier_task(), batches(0, 512), batches(512, 1024), callbacks=compose(knn, watch, stop))

    assert seen == [None, run.metrics["online_knn_val_acc"]]  # the sanity check, and the first validation
    assert (len(made), run.epoch) == (1, 1)
    assert run.metrics["online_knn_val_acc"] > 0.7  # of 10 classes, after 8 updates
    assert run.stopped.reason.startswith("online_knn_val_acc is 0.8")


def test_going_through_a_shuffled_loader_leaves_the_run_as_it_was():
    def loader(start, stop):
        return DataLoader(TensorDataset(*(each[start:stop] for each in digits())), batch_size=64, shuffle=True)

    task, without = classifier_task(), classifier_task()
    knn = knn_online_evaluator(loader(0, 512), loader(512, 1024))
    train(task, loader(0, 512), batches(512, 640), callbacks=knn, max_epochs=3, seed=0)
    train(without, loader(0, 512), batches(512, 640), max_epochs=3, seed=0)

    assert all(map(torch.equal, task.model.parameters(), without.model.parameters()))


def test_it_is_measured_in_a_validation_outside_of_training_too():
    task = fncb.Task(nn.Flatten(), loss=lambda model, batch: model(batch[0]).mean())
    knn = knn_online_evaluator(batches(0, 1000), batches(1000, 1797))

    # the pixels themselves tell digits apart
    assert fncb.validate(task, batches(1000, 1797), callbacks=knn, progress=False).metrics["online_knn_val_acc"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be 1 neighbour or more, got 0"),
        ({"k": 1.0}, "k must be an int, got 1.0"),
        ({"num_classes": 0}, "num_classes must be 1 or more, got 0"),
        ({"temperature": 0}, r"temperature must be a number in \(0, inf\), got 0"),
        ({"temperature": math.nan}, r"temperature must be a number in \(0, inf\), got nan"),
        ({"train": iter(KNOWN)}, "train must be batches that can be gone through again, got <list_iterator"),
        ({"val": 3}, "val must be batches that can be gone through again, got 3"),
        ({"features": 1}, "features must be a function, got 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"^knn_online_evaluator: {message}"):
        knn_online_evaluator(**{"train": KNOWN, "val": KNOWN, **arguments})
