from math import inf, nan

import pytest

from fncb.callback import compose
from fncb.callbacks.early_stop import EarlyStopState, early_stop
from fncb.effects import Print, Stop
from fncb.events import (
    MissingMetric,
    SanityCheckEnd,
    SanityCheckStart,
    Setup,
    Teardown,
    TrainEnd,
    TrainEpochEnd,
    ValidationEnd,
)
from tests.folding import fold


def checks(*values, of="val_loss", moment=ValidationEnd):
    return [moment(epoch=i, step=10 * (i + 1), metrics={of: value}) for i, value in enumerate(values)]


def last_epoch(callback, events):
    """The epoch whose check asks to stop, or the last one."""
    state = callback.init()
    for event in events:
        state, effects = callback.transition(state, event)
        if effects:
            break
    return event.epoch


def test_an_improvement_restarts_the_wait():
    run = fold(early_stop("val_loss", patience=2), checks(1.0, 1.5, 0.75, 1.5))

    assert run.state == EarlyStopState(best=0.75, stale=1, validated=3)
    assert run.effects == ()


def test_it_says_why_and_when_it_stops():
    run = fold(early_stop("val_loss", patience=2), checks(0.5, 0.5, 0.75))

    told = "val_loss has not improved on 0.5 in 2 checks"
    assert run.state == EarlyStopState(0.5, 2, "patience", stopped_epoch=2, reason_message=told, validated=2)
    assert run.effects == (Stop(told),)


@pytest.mark.parametrize(
    ("mode", "min_delta", "values", "stale"),
    [
        ("min", 0.0, (1.0, 1.0), 1),  # a tie is not an improvement
        ("max", 0.0, (1.0, 1.0), 1),
        ("min", 0.5, (2.0, 1.5), 1),  # neither is a gain of exactly min_delta
        ("max", 0.5, (1.0, 1.5), 1),
        ("min", 0.5, (2.0, 1.25), 0),
        ("max", 0.5, (1.0, 1.75), 0),
        ("min", 0.5, (2.0, 1.75, 1.5), 2),  # gains do not add up: each is measured from the best
        ("min", 0.0, (-1.0, -2.0), 0),  # less is better below 0 too
        ("max", 0.0, (-2.0, -1.0), 0),
    ],
)
def test_what_counts_as_an_improvement(mode, min_delta, values, stale):
    run = fold(early_stop("val_loss", mode=mode, min_delta=min_delta, patience=9), checks(*values))

    assert run.state.stale == stale


@pytest.mark.parametrize("patience", [0, 1])
def test_patience_0_stops_at_the_first_stale_check_as_1_does(patience):
    assert last_epoch(early_stop("val_loss", patience=patience), checks(2, 1, 1, 1)) == 2


@pytest.mark.parametrize(
    ("arguments", "values", "epoch"),
    [
        ({"stopping_threshold": 3}, (9, 3, 2, 1), 2),  # at the threshold is not past it
        ({"divergence_threshold": 9}, (9, 10, 11, 12), 1),
        ({"mode": "max", "stopping_threshold": 3}, (1, 2, 3, 4), 3),
        ({"mode": "max", "divergence_threshold": 1}, (2, 1, 0, 5), 2),
    ],
)
def test_thresholds_stop_at_once(arguments, values, epoch):
    assert last_epoch(early_stop("val_loss", **arguments), checks(*values)) == epoch


@pytest.mark.parametrize(
    ("arguments", "values", "reason"),
    [
        ({}, (1, -inf), "non_finite"),
        # the first that holds is the reason: finite, then stopping, then divergence, then patience
        ({"divergence_threshold": 1}, (nan,), "non_finite"),
        ({"stopping_threshold": 9, "divergence_threshold": 1}, (5,), "stopping_threshold"),
        ({"patience": 1, "divergence_threshold": 4}, (1, 5), "divergence_threshold"),
        ({"patience": 1, "divergence_threshold": 4}, (1, 3), "patience"),
        ({"patience": 1, "divergence_threshold": 4}, (1, 0.5), None),
    ],
)
def test_why_it_stopped(arguments, values, reason):
    assert fold(early_stop("val_loss", **arguments), checks(*values)).state.reason == reason


def test_stopping_at_epoch_0_is_not_the_same_as_not_stopping():
    assert fold(early_stop("val_loss"), checks(nan)).state.stopped_epoch == 0
    assert fold(early_stop("val_loss"), checks(1.0)).state.stopped_epoch is None


@pytest.mark.parametrize(
    ("arguments", "values", "text"),
    [
        ({"patience": 1}, (0.5, 0.5), "val_loss has not improved on 0.5 in 1 check"),
        ({}, (nan,), "val_loss is not finite: nan"),
        ({"stopping_threshold": 1}, (0.5,), "val_loss is 0.5: better than 1"),
        ({"divergence_threshold": 1}, (1.5,), "val_loss is 1.5: worse than 1"),
        ({"check_finite": False, "patience": 2}, (nan, nan), "val_loss has not been finite in 2 checks"),
    ],
)
def test_the_reason_is_a_sentence_that_is_remembered(arguments, values, text):
    run = fold(early_stop("val_loss", **arguments), checks(*values))

    assert (run.effects, run.state.reason_message) == ((Stop(text),), text)


def test_without_check_finite_a_value_that_is_not_finite_is_stale():
    run = fold(early_stop("val_loss", check_finite=False, patience=9), checks(nan, 1.0, -inf, nan))

    assert run.state == EarlyStopState(best=1.0, stale=2, validated=3)


def test_a_run_that_goes_on_is_judged_again():
    stop = early_stop("val_loss", patience=1)

    assert len(fold(stop, checks(1.0, 2.0, 2.0)).effects) == 2
    better = fold(stop, checks(1.0, 2.0, 0.5)).state
    assert (better.best, better.stale, better.reason, better.stopped_epoch) == (0.5, 0, "patience", 1)


# When.


@pytest.mark.parametrize(
    ("moment", "heard"),
    [(None, {ValidationEnd, TrainEpochEnd}), (True, {TrainEpochEnd}), (False, {ValidationEnd})],
)
def test_which_events_it_checks_at(moment, heard):
    stop = early_stop("val_loss", check_on_train_epoch_end=moment)

    assert {kind for kind in (ValidationEnd, TrainEpochEnd) if stop.hears(kind)} == heard


def an_epoch(epoch, *validations, end=None):
    """The events of an epoch whose validations, and its end, have the `loss` given; None is without it."""
    measured = [{"x": 0} if loss is None else {"x": 0, "loss": loss} for loss in (*validations, end)]
    return [ValidationEnd(epoch=epoch, metrics=each) for each in measured[:-1]] + [
        TrainEpochEnd(epoch=epoch, metrics=measured[-1])
    ]


@pytest.mark.parametrize(
    ("epochs", "best", "stale"),
    [
        ([((1.0,), 1.0), ((2.0,), 2.0)], 1.0, 1),  # the epoch's end has what its validation measured: one check
        ([((1.0, 2.0, 3.0), 3.0)], 1.0, 2),  # each validation in the middle of an epoch is one
        ([((1.0,), 1.0), ((), None), ((2.0,), 2.0)], 1.0, 1),  # an epoch without a validation has none
        ([((None,), 1.0), ((None, None), 2.0)], 1.0, 1),  # a metric of the training comes when the epoch ends
        ([((), 1.0), ((), 2.0), ((), 3.0)], 1.0, 2),  # also without any validation
        ([((None, 1.0), None)], 1.0, 0),  # one of its validations had it
        ([((), None)] * 3, None, 0),
    ],
)
def test_there_is_a_check_where_the_metric_is(epochs, best, stale):
    events = [event for epoch, (at, end) in enumerate(epochs) for event in an_epoch(epoch, *at, end=end)]
    run = fold(early_stop("loss"), events)

    assert (run.state.best, run.state.stale, run.effects) == (best, stale, ())


def test_an_epoch_that_was_cut_short_and_goes_on_has_one_check_of_its_validation():
    cut = [*an_epoch(0, 1.0, end=1.0), TrainEpochEnd(epoch=0, metrics={"loss": 1.0})]

    assert fold(early_stop("loss"), cut).state == EarlyStopState(best=1.0, validated=0)


@pytest.mark.parametrize(
    ("moment", "events", "at"),
    [
        (False, [ValidationEnd(step=10, metrics={"loss": 1.0})], "ValidationEnd at step 10"),
        (True, [TrainEpochEnd(step=10, metrics={"loss": 1.0})], "TrainEpochEnd at step 10"),
        (
            None,
            [ValidationEnd(step=9, metrics={"loss": 1.0}), TrainEpochEnd(step=10, metrics={"loss": 1.0})],
            "TrainEpochEnd at step 10",
        ),
        (  # a loop that does not tell when an epoch ends
            None,
            [ValidationEnd(epoch=epoch, step=5 * (epoch + 1), metrics={"loss": 1.0}) for epoch in range(2)],
            "ValidationEnd at step 10",
        ),
    ],
)
def test_a_missing_metric_is_an_error_that_names_what_is_there(moment, events, at):
    stop = early_stop("acc", check_on_train_epoch_end=moment)
    state = fold(stop, events[:-1]).state

    with pytest.raises(MissingMetric, match=rf"^early_stop: no metric 'acc' in {at}. It has \['loss'\]. Pass `strict"):
        stop.transition(state, events[-1])


@pytest.mark.parametrize("moment", [None, True, False])
def test_a_missing_metric_is_passed_over_unless_strict(moment):
    def run(*epochs, **given):
        events = [event for epoch, at in enumerate(epochs) for event in an_epoch(epoch, at, end=at)]
        return fold(early_stop("loss", strict=False, check_on_train_epoch_end=moment, **given), events)

    patchy, whole = run(1.0, None, 2.0), run(1.0, 2.0)
    missed = "ValidationEnd" if moment is False else "TrainEpochEnd"

    assert (patchy.state.best, patchy.state.stale, patchy.effects) == (whole.state.best, whole.state.stale, ())
    assert patchy.state.missed is None
    assert run(None, verbose=True).effects == (
        Print(f"early_stop: no metric 'loss' in {missed} at step 0. It has ['x']."),
    )


@pytest.mark.parametrize("moment", [None, True, False])
def test_a_run_without_any_check_says_so(moment):
    stop = early_stop("acc", strict=False, check_on_train_epoch_end=moment)
    told = (Print("early_stop: nothing was checked: no check was due at an event with 'acc'"),)

    assert fold(stop, [*an_epoch(0, 1.0, end=1.0), TrainEnd()]).effects == told
    assert fold(stop, [Setup(fast_dev_run=True), TrainEnd()]).effects == ()
    for value in (1.0, nan):  # the first is good, the second not
        events = checks(value, of="acc") + checks(value, of="acc", moment=TrainEpochEnd)
        assert told[0] not in fold(stop, [*events, TrainEnd()]).effects


def test_verbose_prints_improvements():
    assert fold(early_stop("val_loss", verbose=True), checks(1.0, 1.0, 0.5)).effects == (
        Print("early_stop: val_loss improved to 1"),
        Print("early_stop: val_loss improved to 0.5"),
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([SanityCheckStart()], [SanityCheckEnd()]),
        ([Setup(stage="validate")], [Setup(stage="fit")]),
        ([Setup(stage="validate")], [Teardown(stage="validate")]),
    ],
)
def test_validation_outside_training_is_no_check(before, after):
    stop = early_stop("val_loss")

    assert fold(stop, before + checks(nan, 0.5) + after).state == EarlyStopState()
    assert fold(stop, before + checks(nan, 0.5) + after + checks(1.0)).state == EarlyStopState(best=1.0, validated=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"patience": -1}, ValueError, "patience must be 0 checks or more, got -1"),
        ({"patience": 1.5}, TypeError, "patience must be an int, got 1.5"),
        ({"mode": "auto"}, ValueError, "mode must be 'min' or 'max', got 'auto'"),
        ({"min_delta": -0.1}, ValueError, r"min_delta must be a number in \[0, inf\), got -0.1"),
        ({"min_delta": nan}, ValueError, r"min_delta must be a number in \[0, inf\), got nan"),
        ({"stopping_threshold": nan}, ValueError, "stopping_threshold must be a number in .*, got nan"),
        ({"divergence_threshold": "1"}, TypeError, "divergence_threshold must be a number in .*, got '1'"),
        ({"monitor": None}, TypeError, "monitor must be a metric's name, got None"),
        (
            {"check_on_train_epoch_end": "yes"},
            ValueError,
            "check_on_train_epoch_end must be True, False or None, got 'yes'",
        ),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^early_stop: {message}"):
        early_stop(**{"monitor": "val_loss", **arguments})


def test_two_on_one_metric_need_a_key():
    with pytest.raises(ValueError, match=r"early_stop\(val_loss\).*key="):
        compose(early_stop("val_loss"), early_stop("val_loss", mode="max"))

    compose(early_stop("val_loss"), early_stop("val_loss", patience=9, key="patient"))


def test_its_arguments_are_its_config():
    assert early_stop("val_loss", key="mine").config == {
        "monitor": "val_loss",
        "min_delta": 0.0,
        "patience": 3,
        "mode": "min",
        "check_finite": True,
        "stopping_threshold": None,
        "divergence_threshold": None,
        "strict": True,
        "check_on_train_epoch_end": None,
        "verbose": False,
    }
