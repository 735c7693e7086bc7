import json
from math import inf, nan

import pytest
import torch

import fncb
from fncb.callbacks import checkpoint
from fncb.callbacks.spike_detection import SpikeDetectionState, spike_detection
from fncb.effects import Append, Print, Stop
from fncb.events import Setup, TrainBatchEnd, TrainEnd
from tests.conformance.runs import batches, loss, task, train
from tests.folding import fold


def losses(*values, epoch=0, first=0):
    return [
        TrainBatchEnd(epoch=epoch, step=i + 1, batch_idx=i, metrics={"loss": value})
        for i, value in enumerate(values, first)
    ]


def spikes(callback, events):
    """The indices of the batches at which it asks to stop."""
    state, found = callback.init(), []
    for event in events:
        state, effects = callback.transition(state, event)
        found += [event.batch_idx] if any(isinstance(effect, Stop) for effect in effects) else []
    return found


@pytest.mark.parametrize(
    ("given", "values", "found"),
    [
        ({}, (1.0, 3.0), [1]),  # off by exactly rtol times the mean
        ({}, (1.0, 2.75), []),
        ({}, (1.0, 1.0, 3.0, 3.0), [2, 3]),  # a spike is not compared with
        ({"rtol": 0.5}, (1.0, 0.25), []),  # far off, and better
        ({"rtol": 0.25}, (8.0, 4.0, 4.0), []),  # a tie with the one before is not worse, though it is off the mean
        ({"rtol": 0.25}, (8.0, 4.0, 4.5), [2]),  # worse than the one before, off the mean of 6 by 1.5
        ({"rtol": 0.5}, (8.0, 4.0, 4.5), []),
        ({"mode": "max", "rtol": 0.5}, (1.0, 0.5), [1]),
        ({"mode": "max", "rtol": 0.5}, (1.0, 1.5), []),
        ({"atol": 2.5}, (1.0, 3.0), []),  # both must hold
        ({"atol": 2.5}, (1.0, 3.5), [1]),  # exactly atol
        ({"atol": 2.0, "rtol": None}, (10.0, 12.0), [1]),
        ({"atol": None, "rtol": None}, (1.0, 1.5), [1]),
        ({"window": 2, "rtol": 1.0}, (8.0, 1.0, 1.0, 2.0), [3]),  # the mean of 1 and 1
        ({"window": 3, "rtol": 1.0}, (8.0, 1.0, 1.0, 2.0), []),
        ({"warmup": 2}, (1.0, 9.0), []),
        ({"warmup": 0}, (1.0, 9.0), [1]),
        ({"warmup": 0}, (nan,), [0]),
        ({}, (nan, 1.0, inf, -inf), [2, 3]),
        ({"finite_only": False}, (1.0, nan, 1.0), []),
        ({"finite_only": False}, (1.0, inf), [1]),  # worse, and as far off as can be
        ({"finite_only": False}, (1.0, -inf), []),
        ({}, (-1.0, 1.0), [1]),  # of a negative mean, its size counts
        ({}, (-1.0, 0.5), []),
    ],
)
def test_what_is_a_spike(given, values, found):
    assert spikes(spike_detection(**given), losses(*values)) == found


def test_what_is_not_finite_enters_no_mean():
    run = fold(spike_detection(finite_only=False, warmup=9, window=3), losses(4.0, 1.0, nan, 2.0, inf, 3.0))

    assert run.state == SpikeDetectionState(recent=(1.0, 2.0, 3.0))


def test_warmup_counts_in_each_epoch_and_what_is_remembered_goes_on():
    stop = spike_detection()
    events = losses(1.0, 1.0) + losses(9.0, 9.0, 27.0, epoch=1)

    assert spikes(stop, events) == [2]
    assert fold(stop, events).state.recent == (1.0, 1.0, 9.0, 9.0)


def test_it_says_where_it_was_and_what_to_leave_out():
    stop = spike_detection(exclude_batches_path="a/spikes.jsonl", warmup=0)

    assert fold(stop, losses(1.0, 3.5, epoch=2, first=6)).effects == (
        Stop("loss is 3.5 at batch 7 of epoch 2: a spike from 1"),
        Append("a/spikes.jsonl", '{"epoch": 2, "batches": [6, 7]}'),
    )
    assert fold(stop, losses(nan)).effects == (
        Stop("loss is nan at batch 0 of epoch 0"),
        Append("a/spikes.jsonl", '{"epoch": 0, "batches": [0]}'),  # there is none before it
    )


def test_a_resumed_run_goes_on_with_the_mean():
    stop = spike_detection(window=2, rtol=1.0)
    state = fold(stop, losses(8.0, 1.0, 1.0)).state
    again = fncb.load_state_dict(stop, json.loads(json.dumps(fncb.state_dict(state))))

    assert again == state == SpikeDetectionState(recent=(1.0, 1.0))
    assert len(fold(stop, losses(2.0, first=3), state=again).of(Stop)) == 1


def test_a_trial_stops_at_nothing():
    assert fold(spike_detection(), [Setup(fast_dev_run=True), *losses(1.0, nan), TrainEnd()]).effects == ()


def test_batches_without_the_metric_are_passed_over_and_a_run_of_them_is_told():
    skipped = [TrainBatchEnd(batch_idx=5, metrics={"lr-SGD": 0.5}), TrainEnd()]

    assert fold(spike_detection(), skipped).effects == (
        Print("spike_detection: nothing was compared: no batch had a finite 'loss'"),
    )
    assert fold(spike_detection(), [*losses(1.0), *skipped]).effects == ()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"monitor": ""}, TypeError, "monitor must be a metric's name, got ''"),
        ({"mode": "auto"}, ValueError, "mode must be 'min' or 'max', got 'auto'"),
        ({"window": 0}, ValueError, "window must be 1 value or more, got 0"),
        ({"warmup": -1}, ValueError, "warmup must be 0 batches or more, got -1"),
        ({"warmup": 0.5}, TypeError, "warmup must be an int, got 0.5"),
        ({"atol": -1.0}, ValueError, r"atol must be a number in \[0, inf\), got -1.0"),
        ({"rtol": nan}, ValueError, "rtol must be a number in"),
        ({"exclude_batches_path": ""}, TypeError, "exclude_batches_path must be a path, got ''"),
        ({"exclude_batches_path": 3}, TypeError, "exclude_batches_path must be a path, got 3"),
    ],
)
def test_wrong_arguments_are_refused_at_once(given, error, message):
    with pytest.raises(error, match=f"^spike_detection: {message}"):
        spike_detection(**given)


def test_a_run_that_spikes_stops_and_leaves_a_line(tmp_path):
    def spiking(model, x):
        return loss(model, x) * torch.where(x[0, 0] == torch.tensor(0.03), 1e4, 1.0)

    path = tmp_path / "in" / "spikes.jsonl"
    for seen in (1, 2):
        callbacks = [spike_detection(exclude_batches_path=path), checkpoint(tmp_path)]

        run = train(task(loss=spiking), batches(6), callbacks=callbacks, max_epochs=2)

        assert run.step == 4
        assert run.stopped.reason.startswith("loss is ")
        assert [json.loads(line) for line in path.read_text().splitlines()] == [{"epoch": 0, "batches": [2, 3]}] * seen
