import pytest

from fncb.callback import EmptyState
from fncb.callbacks.accumulation_schedule import accumulation_schedule
from fncb.effects import SetAccumulation
from fncb.events import TrainEpochStart
from tests.folding import fold


def factors(scheduling, epochs):
    events = [TrainEpochStart(epoch=epoch) for epoch in epochs]
    return [effect.n for effect in fold(accumulation_schedule(scheduling), events).of(SetAccumulation)]


def updates(scheduling, batches, epochs):
    """Optimizer steps that so many batches make in each epoch; the last window of an epoch may be shorter."""
    return [-(-batches // n) for n in factors(scheduling, range(epochs))]


@pytest.mark.parametrize(
    ("scheduling", "steps"),
    [
        ({1: 2, 3: 4}, [10, 5, 5, 3]),
        ({0: 2, 2: 1}, [5, 5, 10, 10]),
    ],
)
def test_the_factor_changes_with_the_epoch(scheduling, steps):  # F23
    assert updates(scheduling, batches=10, epochs=4) == steps


@pytest.mark.parametrize(
    ("scheduling", "n"),
    [
        ({1: 2, 3: 4}, [1, 2, 2, 4, 4]),
        ({3: 4, 1: 2}, [1, 2, 2, 4, 4]),  # in whatever order they are written
        ({0: 8}, [8, 8, 8, 8, 8]),
        ({4: 3}, [1, 1, 1, 1, 3]),
        ({9: 3}, [1, 1, 1, 1, 1]),
    ],
)
def test_the_latest_epoch_of_the_schedule_counts(scheduling, n):
    assert factors(scheduling, range(5)) == n


def test_it_remembers_nothing_and_so_may_begin_anywhere():
    run = fold(accumulation_schedule({0: 2, 4: 3}), [TrainEpochStart(epoch=7)])

    assert (run.state, run.effects) == (EmptyState(), (SetAccumulation(3),))


def test_the_mapping_of_the_caller_stays_the_callers():
    scheduling = {2: 4}

    schedule = accumulation_schedule(scheduling)
    assert scheduling == {2: 4}

    scheduling[0] = 8
    assert schedule.transition(schedule.init(), TrainEpochStart(epoch=0))[1] == (SetAccumulation(1),)
    assert schedule.config == {"scheduling": {2: 4}}


@pytest.mark.parametrize(
    ("scheduling", "error", "message"),
    [
        ({1: 2, -3: 4}, ValueError, "each epoch must be 0 or more, got -3"),
        ({0: 2, "2": 1}, TypeError, "each epoch must be an int, got '2'"),
        ({1: 0, 3: 4}, ValueError, "batches per step must be 1 or more, got 0"),
        ({0: 2, 2: "2"}, TypeError, "batches per step must be an int, got '2'"),
        ({True: 2}, TypeError, "each epoch must be an int, got True"),
        ({0: True}, TypeError, "batches per step must be an int, got True"),
        ({0: 2.0}, TypeError, "batches per step must be an int, got 2.0"),
        ({}, TypeError, "scheduling must be a mapping from epoch to batches, got {}"),
        ([4], TypeError, r"scheduling must be a mapping from epoch to batches, got \[4\]"),
        (None, TypeError, "scheduling must be a mapping from epoch to batches, got None"),
    ],
)
def test_wrong_schedules_are_refused_at_once(scheduling, error, message):  # F23
    with pytest.raises(error, match=f"^accumulation_schedule: {message}"):
        accumulation_schedule(scheduling)
