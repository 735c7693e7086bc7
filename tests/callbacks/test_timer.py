from datetime import timedelta

import pytest

from fncb.callback import compose
from fncb.callbacks.timer import TimerState, timer
from fncb.durations import seconds_of
from fncb.effects import Stop
from fncb.events import (
    FitStart,
    InitStart,
    SanityCheckEnd,
    SanityCheckStart,
    Setup,
    Teardown,
    TestEnd,
    TestStart,
    TrainBatchEnd,
    TrainEnd,
    TrainEpochEnd,
    TrainStart,
    ValidationEnd,
    ValidationStart,
)
from fncb.snapshot import load_state_dict, state_dict
from tests.folding import fold


def at(*moments):
    """Events of the classes given, each at its second of the run."""
    return [kind(seconds=seconds) for kind, seconds in moments]


def test_what_has_elapsed_and_what_remains():  # F19
    limit, duration = timer(timedelta(seconds=10)), seconds_of("it", timedelta(seconds=10))

    before = fold(limit, at((FitStart, 1.0))).state
    assert (before.elapsed(1.0), duration - before.elapsed(1.0)) == (0.0, 10.0)

    state = fold(limit, at((FitStart, 1.0), (TrainStart, 2.0), (TrainBatchEnd, 4.0))).state
    assert (state.elapsed(5.0), duration - state.elapsed(5.0)) == (3.0, 7.0)


@pytest.mark.parametrize("duration", ["00:00:00:10", timedelta(seconds=10), {"seconds": 10}])
def test_it_stops_at_the_first_batch_that_ends_when_the_time_is_up(duration):
    events = at((TrainStart, 2.0), (TrainBatchEnd, 7.0), (TrainBatchEnd, 11.75))

    assert fold(timer(duration), events).effects == ()
    assert fold(timer(duration), [*events, *at((TrainBatchEnd, 12.5))]).effects == (
        Stop("training has taken 10.5 s of 10.0 s"),
    )


def test_time_that_is_reached_exactly_is_up():
    assert fold(timer("0:0:0:10"), at((TrainStart, 2.0), (TrainBatchEnd, 12.0))).effects == (
        Stop("training has taken 10.0 s of 10.0 s"),
    )


@pytest.mark.parametrize(
    ("interval", "events", "stops"),
    [
        ("step", [(TrainBatchEnd, 99.0)], 1),
        ("step", [(TrainEpochEnd, 99.0)], 0),
        ("epoch", [(TrainBatchEnd, 99.0)], 0),
        ("epoch", [(TrainEpochEnd, 99.0)], 1),
        ("step", [(ValidationStart, 98.0), (ValidationEnd, 99.0)], 0),  # a validation is finished
        ("step", [(TrainBatchEnd, 98.0), (TrainBatchEnd, 99.0)], 2),  # where the run goes on, it asks again
    ],
)
def test_it_looks_at_its_interval(interval, events, stops):
    run = fold(timer("0:0:0:10", interval=interval), at((TrainStart, 0.0), *events))

    assert len(run.effects) == stops


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_with_no_time_at_all_a_run_stops_before_training(interval):
    assert fold(timer("0:0:0:0", interval=interval), at((FitStart, 0.5))).effects == (
        Stop("training has taken 0.0 s of 0.0 s"),
    )


def test_without_a_duration_it_only_measures():
    run = fold(timer(), at((FitStart, 0.0), (TrainStart, 1.0), (TrainBatchEnd, 1e9), (TrainEnd, 2e9)))

    assert (run.state, run.effects) == (TimerState(spent={"train": 2e9 - 1}), ())
    assert timer().emits == ()
    assert not timer().hears(TrainBatchEnd)  # so that a recording leaves batches out


# saved 7 s into training, loaded, and 2.5 s of set-up until training starts again
RESUMED = [(InitStart, 9.0), (Setup, 9.5), (FitStart, 11.0), (TrainStart, 11.5)]


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_resumed_run_goes_on_counting_where_it_was_saved(interval):
    limit = timer("0:0:0:10", interval=interval)
    saved = fold(limit, at((TrainStart, 2.0), (TrainBatchEnd, 8.5))).state  # the save itself is at 9 s

    state = fold(limit, at(*RESUMED), saved).state
    assert state == TimerState(spent={"train": 7.0}, since={"train": 11.5})

    moment = TrainBatchEnd if interval == "step" else TrainEpochEnd
    assert fold(limit, at((moment, 14.25)), state).effects == ()
    assert fold(limit, at((moment, 14.5)), state).effects == (Stop("training has taken 10.0 s of 10.0 s"),)


def test_set_up_is_not_counted_where_the_first_event_is_that_the_fit_starts():
    saved = fold(timer(), at((TrainStart, 2.0))).state

    assert fold(timer(), at((FitStart, 9.0), (TrainStart, 11.5)), saved).state == TimerState(
        {"train": 7.0}, {"train": 11.5}
    )


def test_nothing_is_lost_where_the_first_event_is_that_training_starts():
    saved = fold(timer(), at((TrainStart, 2.0))).state

    assert fold(timer(), at((TrainStart, 9.0)), saved).state.elapsed(10.0) == 8.0


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_resumed_run_whose_time_is_up_stops_at_once(interval):
    saved = fold(timer(), at((TrainStart, 2.0))).state
    resumed = at((InitStart, 9.0), (FitStart, 30.0))

    assert fold(timer("0:0:0:7", interval=interval), resumed, saved).effects == (
        Stop("training has taken 7.0 s of 7.0 s"),
    )
    assert fold(timer("0:0:0:8", interval=interval), resumed, saved).effects == ()


def test_a_saved_state_comes_back_whole():
    state = TimerState(spent={"train": 7.5, "validate": 1.25}, since={"train": 11.5})

    assert load_state_dict(timer(), state_dict(state)) == state


def test_every_stage_has_a_time_of_its_own_and_training_includes_its_validations():
    training = at((TrainStart, 1.0), (ValidationStart, 4.0), (ValidationEnd, 4.5), (ValidationStart, 8.0))
    run = fold(timer(), training + at((ValidationEnd, 9.0), (TrainEnd, 10.0), (TestStart, 20.0), (TestEnd, 22.0)))

    assert run.state == TimerState(spent={"validate": 1.5, "train": 9.0, "test": 2.0})


def test_a_stage_under_way_has_elapsed_up_to_now():
    state = fold(timer(), at((TrainStart, 1.0), (ValidationStart, 4.0), (ValidationEnd, 4.5), (TestStart, 6.0))).state

    assert [state.elapsed(8.0, stage) for stage in ("train", "validate", "test")] == [7.0, 0.5, 2.0]


def test_the_validation_of_a_sanity_check_does_not_count():
    check = at((SanityCheckStart, 0.0), (ValidationStart, 0.25), (ValidationEnd, 0.75), (SanityCheckEnd, 1.0))
    state = fold(timer(), check).state
    assert state == TimerState(spent={"sanity_check": 1.0})

    run = fold(timer(), at((ValidationStart, 2.0), (ValidationEnd, 2.5)), state)
    assert run.state == TimerState(spent={"sanity_check": 1.0, "validate": 0.5})


def test_an_exception_ends_what_is_under_way():
    state = fold(timer(), at((TrainStart, 1.0), (ValidationStart, 2.0), (Teardown, 4.0))).state

    assert state == TimerState(spent={"train": 3.0, "validate": 2.0})


def test_what_never_began_does_not_end():
    state = TimerState()

    for event in at((InitStart, 1.0), (ValidationEnd, 2.0), (TrainEnd, 3.0), (Teardown, 4.0)):
        assert timer().transition(state, event)[0] is state


def test_a_batch_before_the_time_is_up_changes_nothing():
    limit = timer("0:0:0:10")
    state = fold(limit, at((TrainStart, 1.0))).state

    assert limit.transition(state, TrainBatchEnd(seconds=2.0))[0] is state


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"duration": "60 minutes"}, ValueError, "duration must be 'DD:HH:MM:SS', got '60 minutes'"),
        ({"duration": timedelta(seconds=-1)}, ValueError, "duration must be 0 s or more, got "),
        ({"duration": 60}, TypeError, "duration must be 'DD:HH:MM:SS', a timedelta or a mapping .*, got 60"),
        ({"interval": "batch"}, ValueError, "interval must be 'step' or 'epoch', got 'batch'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^timer: {message}"):
        timer(**arguments)


def test_two_timers_need_a_key():
    with pytest.raises(ValueError, match=r"'timer'.*key="):
        compose(timer("0:0:0:1"), timer("0:0:0:2"))

    compose(timer("0:0:0:1"), timer("0:0:0:2", interval="epoch", key="patient"))


def test_its_arguments_are_its_config():
    assert timer("0:1:0:0", key="mine").config == {"duration": "0:1:0:0", "interval": "step"}
