import pytest

from fncb.callbacks.data_wait import DataWaitState, data_wait
from fncb.effects import Log
from fncb.events import TrainBatchEnd, TrainBatchStart, TrainEpochEnd, TrainEpochStart, TrainStart, ValidationEnd
from tests.folding import fold


def batch(step, waited, seconds):
    return [TrainBatchStart(step=step - 1, waited=waited), TrainBatchEnd(step=step, seconds=seconds)]


def log(seconds, share):
    return Log({"data_wait_seconds": seconds, "data_wait_share": share})


def test_an_epoch_tells_what_was_waited_and_its_share():
    events = [
        TrainEpochStart(seconds=1.0),
        *batch(1, 0.5, 2.0),
        *batch(2, 0.25, 4.0),
        TrainEpochEnd(step=2, seconds=9.0),
    ]

    # three seconds of training: what comes after the last batch is none
    assert fold(data_wait(), events).effects == (log(0.75, 0.25),)


def test_each_epoch_begins_anew():
    first = [TrainEpochStart(seconds=1.0), *batch(1, 0.5, 2.0), TrainEpochEnd(step=1, seconds=2.0)]
    second = [TrainEpochStart(seconds=8.0), *batch(2, 0.25, 9.0), TrainEpochEnd(step=2, seconds=9.0)]

    assert fold(data_wait(), [*first, *second]).effects == (log(0.5, 0.5), log(0.25, 0.25))


def test_validation_does_not_count():
    events = [TrainEpochStart(seconds=1.0), *batch(1, 0.5, 2.0), ValidationEnd(seconds=10.0), *batch(2, 0.5, 11.0)]

    assert fold(data_wait(), [*events, TrainEpochEnd(seconds=11.0)]).effects == (log(1.0, 0.5),)


def test_an_epoch_without_batches_tells_nothing():
    run = fold(data_wait(), [TrainEpochStart(seconds=1.0), TrainEpochEnd(step=3, seconds=2.0)])

    assert (run.state, run.effects) == (DataWaitState(since=1.0, logged=3), ())


def test_with_steps_it_tells_after_so_many_across_epochs():
    events = [
        *[TrainEpochStart(seconds=1.0), *batch(1, 0.5, 2.0), TrainEpochEnd(seconds=3.0)],
        *[TrainEpochStart(seconds=5.0), *batch(2, 0.25, 6.0), *batch(3, 0.0, 7.0)],
    ]

    run = fold(data_wait(log_every_n_steps=2), events)

    assert run.effects == (log(0.75, 0.375),)
    assert run.state == DataWaitState(waited=0.0, trained=1.0, since=7.0, logged=2)


def test_a_step_is_told_once():
    events = [TrainEpochStart(seconds=1.0), *batch(0, 0.5, 2.0), *batch(1, 0.5, 3.0), *batch(1, 0.5, 4.0)]

    assert fold(data_wait(log_every_n_steps=1), events).effects == (log(1.0, 0.5),)


def test_the_share_is_at_most_all_of_it():
    events = [TrainEpochStart(seconds=1.0), *batch(1, 8.0, 2.0)]

    assert fold(data_wait(log_every_n_steps=1), events).effects == (log(8.0, 1.0),)


def test_a_run_that_goes_on_in_an_epoch_does_not_count_the_time_between():
    state = fold(data_wait(), [TrainEpochStart(seconds=1.0), *batch(1, 0.5, 2.0)]).state

    run = fold(data_wait(), [TrainStart(seconds=50.0), *batch(2, 0.5, 51.0), TrainEpochEnd(seconds=51.0)], state)
    assert run.effects == (log(1.0, 0.5),)


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_number_of_steps_that_is_none_is_refused(n, error):
    with pytest.raises(error, match=f"^data_wait: log_every_n_steps must be (1 step or more|an int), got {n}"):
        data_wait(log_every_n_steps=n)
