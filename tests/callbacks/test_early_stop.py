from math import inf, nan

import pytest

from fncb.callback import compose
from fncb.callbacks.early_stop import EarlyStopState, early_stop
from fncb.effects import Print, Stop
from fncb.events import MissingMetric, SanityCheckEnd, SanityCheckStart, Setup, Teardown, TrainEpochEnd, ValidationEnd
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

    assert run.state == EarlyStopState(best=0.75, stale=1)
    assert run.effects == ()


def test_it_says_why_and_when_it_stops():
    run = fold(early_stop("val_loss", patience=2), checks(0.5, 0.5, 0.75))

    assert run.state == EarlyStopState(best=0.5, stale=2, reason="patience", stopped_epoch=2)
    assert run.effects == (Stop("val_loss has not improved on 0.5 in 2 checks"),)


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


@pytest.mark.parametrize(
    ("values", "patience", "epoch"),
    [
        ((6, 5, 5, 5, 5, 5), 3, 4),
        ((6, 5, 4, 4, 3, 3), 1, 3),
        ((6, 5, 6, 5, 5, 5), 3, 4),  # back to the best is no improvement
        ((1, 1), 0, 1),  # patience 0 stops at the first stale check, not at the first check
        ((1, 1), 1, 1),  # and so does 1
    ],
)
@pytest.mark.parametrize("at_epoch_end", [False, True])
def test_patience_counts_checks(values, patience, epoch, at_epoch_end):  # F1
    moment = TrainEpochEnd if at_epoch_end else ValidationEnd
    stop = early_stop("val_loss", patience=patience, check_on_train_epoch_end=at_epoch_end)

    assert last_epoch(stop, checks(*values, moment=moment)) == epoch


@pytest.mark.parametrize(
    ("arguments", "values", "epoch"),
    [
        ({}, (8, 4, 2, 3, 4, 5, 8, 10), 5),
        ({"stopping_threshold": 2.9}, (9, 8, 7, 6, 5, 6, 4, 3, 2, 1), 8),
        ({"divergence_threshold": 15.9}, (9, 4, 2, 16, 32, 64), 3),
        ({"stopping_threshold": 3}, (9, 3, 2, 1), 2),  # at the threshold is not past it
        ({"divergence_threshold": 9}, (9, 10, 11, 12), 1),
        ({"mode": "max", "stopping_threshold": 3}, (1, 2, 3, 4), 3),
        ({"mode": "max", "divergence_threshold": 1}, (2, 1, 0, 5), 2),
    ],
)
def test_thresholds_stop_at_once(arguments, values, epoch):  # F2
    assert last_epoch(early_stop("val_loss", **arguments), checks(*values)) == epoch


@pytest.mark.parametrize("at_epoch_end", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_the_first_of_two_to_stop_decides(at_epoch_end, swapped):  # F4
    both = [early_stop(name, patience=3, check_on_train_epoch_end=at_epoch_end) for name in ("abc", "cba")]
    moment = TrainEpochEnd if at_epoch_end else ValidationEnd
    losses = (8, 4, 2, 3, 4, 5, 8, 10)
    events = [moment(epoch=i, metrics={"abc": loss, "cba": 0}) for i, loss in enumerate(losses)]

    assert last_epoch(compose(both[::-1] if swapped else both), events) == 3


@pytest.mark.parametrize(
    ("arguments", "values", "state"),
    [
        ({"patience": 2}, (10, 10, 10), EarlyStopState(10, 2, "patience", 2)),
        ({"stopping_threshold": 0.6}, (5, 3, 1, 0.5), EarlyStopState(1, 0, "stopping_threshold", 3)),
        ({"divergence_threshold": 8.0}, (1, 2, 5, 10), EarlyStopState(1, 2, "divergence_threshold", 3)),
        ({}, (1, 0.5, nan), EarlyStopState(0.5, 0, "non_finite", 2)),
        ({}, (1, -inf), EarlyStopState(1, 0, "non_finite", 1)),
        ({}, (5, 4, 3), EarlyStopState(3, 0, None, None)),
        # the first that holds is the reason: finite, then stopping, then divergence
        ({"divergence_threshold": 1}, (nan,), EarlyStopState(None, 0, "non_finite", 0)),
        ({"stopping_threshold": 9, "divergence_threshold": 1}, (5,), EarlyStopState(None, 0, "stopping_threshold", 0)),
        ({"patience": 1, "divergence_threshold": 4}, (1, 5), EarlyStopState(1, 0, "divergence_threshold", 1)),
    ],
)
def test_why_it_stopped(arguments, values, state):  # F5
    assert fold(early_stop("val_loss", **arguments), checks(*values)).state == state


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
def test_the_reason_is_a_sentence(arguments, values, text):
    assert fold(early_stop("val_loss", **arguments), checks(*values)).effects == (Stop(text),)


def test_without_check_finite_a_value_that_is_not_finite_is_stale():
    run = fold(early_stop("val_loss", check_finite=False, patience=9), checks(nan, 1.0, -inf, nan))

    assert run.state == EarlyStopState(best=1.0, stale=2)


def test_a_run_that_goes_on_is_judged_again():
    stop = early_stop("val_loss", patience=1)

    assert len(fold(stop, checks(1.0, 2.0, 2.0)).effects) == 2
    assert fold(stop, checks(1.0, 2.0, 0.5)).state == EarlyStopState(0.5, 0, "patience", 1)


def test_a_missing_metric_is_an_error_that_names_what_is_there():
    stop = early_stop("acc")

    with pytest.raises(
        MissingMetric, match=r"^early_stop: no metric 'acc' in ValidationEnd at step 10. It has \['loss'\]."
    ):
        stop.transition(stop.init(), ValidationEnd(step=10, metrics={"loss": 1.0}))


def test_a_missing_metric_is_passed_over_unless_strict():
    events = checks(1.0, 2.0)
    events.insert(1, ValidationEnd(step=15, metrics={"acc": 0.5}))

    assert fold(early_stop("val_loss", strict=False), events) == fold(early_stop("val_loss"), checks(1.0, 2.0))
    assert fold(early_stop("val_loss", strict=False, verbose=True), events[1:2]).effects == (
        Print("early_stop: no metric 'val_loss' in ValidationEnd at step 15. It has ['acc']."),
    )


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
    assert fold(stop, before + checks(nan, 0.5) + after + checks(1.0)).state == EarlyStopState(best=1.0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"patience": -1}, ValueError, "patience must be 0 checks or more, got -1"),
        ({"patience": 1.5}, ValueError, "patience must be 0 checks or more, got 1.5"),
        ({"mode": "auto"}, ValueError, "mode must be 'min' or 'max', got 'auto'"),
        ({"min_delta": -0.1}, ValueError, "min_delta must be 0 or more, got -0.1"),
        ({"min_delta": nan}, ValueError, "min_delta must be 0 or more, got nan"),
        ({"stopping_threshold": nan}, ValueError, "stopping_threshold must be a finite number or None, got nan"),
        ({"divergence_threshold": "1"}, ValueError, "divergence_threshold must be a finite number or None, got '1'"),
        ({"monitor": None}, TypeError, "monitor must be a metric's name, got None"),
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
        "check_on_train_epoch_end": False,
        "verbose": False,
    }
