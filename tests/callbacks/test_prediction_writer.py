from functools import partial

import pytest
import torch
from torch import nn

from fncb import events as ev
from fncb.callbacks.prediction_writer import PredictionWriterState, prediction_writer
from fncb.effects import Call, KeepPredictions
from fncb.loop import predict
from fncb.task import Task
from tests.folding import fold

TASK = Task(nn.Identity(), loss=lambda model, x: model(x).mean())
run = partial(predict, TASK, progress=False)


def nothing(*_):
    """Writes nothing."""


def sizes(*of_batches, loader=0):
    return [ev.PredictBatchStart(batch_idx=i, dataloader_idx=loader, samples=n) for i, n in enumerate(of_batches)]


def test_indices_go_on_from_batch_to_batch():
    state = fold(prediction_writer(nothing), [ev.PredictStart(), *sizes(4, 4, 2)]).state

    assert state == PredictionWriterState(first=8, samples=2)


def test_each_loader_and_each_prediction_begins_at_0():
    callback = prediction_writer(nothing)
    of_loaders = [ev.PredictStart(), *sizes(4, 4), *sizes(3, 3, loader=1)]

    state = fold(callback, of_loaders).state
    assert state == PredictionWriterState(first=3, samples=3)
    assert fold(callback, [ev.PredictStart()], state).state == PredictionWriterState()


def test_sizes_are_kept_only_for_the_end():
    of_loaders = [ev.PredictStart(), *sizes(4, 2), *sizes(3, loader=1)]

    assert fold(prediction_writer(nothing), of_loaders).state.sizes == ()
    writer = prediction_writer(write_on_epoch_end=nothing, write_interval="epoch")
    assert fold(writer, of_loaders).state.sizes == ((4, 2), (3,))


@pytest.mark.parametrize(
    ("interval", "effects"),
    [
        ("batch", (Call("write_on_batch_end"),)),
        ("epoch", (KeepPredictions(), Call("write_on_epoch_end"))),
        ("batch_and_epoch", (KeepPredictions(), Call("write_on_batch_end"), Call("write_on_epoch_end"))),
    ],
)
def test_what_is_called_depends_on_the_interval(interval, effects):
    callback = prediction_writer(nothing, nothing, write_interval=interval)
    events = [ev.PredictStart(), *sizes(4), ev.PredictBatchEnd(), ev.PredictEpochEnd()]

    found = fold(callback, events)
    assert found.effects == effects
    assert {type(effect) for effect in found.effects} == set(callback.emits)


def batches(*of_batches):
    return [torch.full((n,), float(i)) for i, n in enumerate(of_batches)]


def test_a_writer_is_given_each_prediction_with_its_batch():
    seen = []

    def write(prediction, indices, batch, batch_idx, dataloader_idx):
        seen.append((prediction.tolist(), indices, batch is given[batch_idx], batch_idx, dataloader_idx))

    given = batches(2, 1)
    result = run(given, callbacks=prediction_writer(write), return_predictions=False)

    assert seen == [([0.0, 0.0], [0, 1], True, 0, 0), ([1.0], [2], True, 1, 0)]
    assert result.predictions is None


def test_a_writer_at_the_end_is_given_all_that_nobody_else_wants():
    seen = []
    writer = prediction_writer(write_on_epoch_end=lambda *given: seen.append(given), write_interval="epoch")

    result = run(batches(2, 1), callbacks=writer, return_predictions=False)

    ((predictions, indices),) = seen
    assert [each.tolist() for each in predictions] == [[0.0, 0.0], [1.0]]
    assert indices == [[0, 1], [2]]
    assert result.predictions is None


def test_of_several_loaders_it_is_given_lists_of_each():
    seen = []
    writer = prediction_writer(write_on_epoch_end=lambda *given: seen.append(given), write_interval="epoch")

    run({"a": batches(2, 1), "b": batches(1)}, callbacks=writer)

    ((predictions, indices),) = seen
    assert [[each.tolist() for each in of_loader] for of_loader in predictions] == [[[0.0, 0.0], [1.0]], [[0.0]]]
    assert indices == [[[0, 1], [2]], [[0]]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "write_on_batch_end must be given for write_interval='batch', got None"),
        ({"write_on_batch_end": nothing, "write_interval": "epoch"}, ValueError, "write_on_epoch_end must be given"),
        (
            {"write_on_batch_end": nothing, "write_interval": "batch_and_epoch"},
            ValueError,
            "write_on_epoch_end must be",
        ),
        (
            {"write_on_epoch_end": nothing, "write_interval": "batch_and_epoch"},
            ValueError,
            "write_on_batch_end must be",
        ),
        (
            {"write_on_batch_end": nothing, "write_interval": "step"},
            ValueError,
            "write_interval must be .*, got 'step'",
        ),
        ({"write_on_batch_end": 3}, TypeError, "write_on_batch_end must be a function, got 3"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^prediction_writer: {message}"):
        prediction_writer(**arguments)
