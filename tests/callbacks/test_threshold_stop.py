from math import inf, nan

import pytest
import torch

from fncb.callbacks.threshold_stop import ThresholdStopState, threshold_stop
from fncb.effects import Print, Stop
from fncb.events import SanityCheckEnd, SanityCheckStart, Setup, Teardown, TrainEnd, TrainEpochEnd, ValidationEnd
from tests.conformance.runs import batches, loss, task, train
from tests.folding import fold


@pytest.mark.parametrize(
    ("mode", "value", "stops"),
    [
        ("min", 0.5, True),  # as good is good enough
        ("min", 0.25, True),
        ("min", 0.75, False),
        ("max", 0.5, True),
        ("max", 0.75, True),
        ("max", 0.25, False),
        ("min", -inf, False),  # not finite is never good enough
        ("max", inf, False),
        ("min", nan, False),
    ],
)
@pytest.mark.parametrize("moment", [ValidationEnd, TrainEpochEnd])
def test_what_is_good_enough(mode, value, stops, moment):
    run = fold(threshold_stop("x", 0.5, mode=mode), [moment(epoch=3, metrics={"x": value})])

    assert run.effects == ((Stop(f"x is {value:g}: as good as 0.5"),) if stops else ())
    assert run.state == ThresholdStopState(None if value in (inf, -inf) or value != value else value, looked=3)


def test_there_is_one_look_at_what_a_validation_measured():
    good = {"x": 0.25}
    end = TrainEpochEnd(epoch=1, metrics=good)

    assert len(fold(threshold_stop("x", 0.5), [ValidationEnd(epoch=1, metrics=good), end]).effects) == 1
    assert len(fold(threshold_stop("x", 0.5), [ValidationEnd(epoch=0, metrics={"x": 1.0}), end]).effects) == 1
    assert len(fold(threshold_stop("x", 0.5), [ValidationEnd(epoch=1, metrics={"y": 1.0}), end]).effects) == 1


def test_a_run_that_goes_on_may_be_asked_again():
    events = [ValidationEnd(epoch=i, metrics={"x": value}) for i, value in enumerate((0.5, 1.0, 0.5))]

    assert len(fold(threshold_stop("x", 0.5), events).effects) == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SanityCheckStart(), SanityCheckEnd()),
        (Setup(stage="validate"), Teardown(stage="validate")),
        (Setup(fast_dev_run=True), Teardown()),
    ],
)
def test_validation_outside_training_does_not_count(before, after):
    run = fold(threshold_stop("x", 0.5), [before, ValidationEnd(metrics={"x": 0.25}), after])

    assert (run.state, run.effects) == (ThresholdStopState(), ())


def test_a_training_without_any_look_is_told():
    told = (Print("threshold_stop: no validation or epoch ended with 'x'"),)

    assert fold(threshold_stop("x", 0.5), [TrainEpochEnd(metrics={"y": 1.0}), TrainEnd()]).effects == told
    assert fold(threshold_stop("x", 0.5), [TrainEpochEnd(metrics={"x": 1.0}), TrainEnd()]).effects == ()
    assert fold(threshold_stop("x", 0.5), [Setup(fast_dev_run=True), TrainEnd()]).effects == ()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"monitor": None}, TypeError, "monitor must be a metric's name, got None"),
        ({"threshold": nan}, ValueError, r"threshold must be a number in \(-inf, inf\), got nan"),
        ({"threshold": "1"}, TypeError, "threshold must be a number"),
        ({"mode": "auto"}, ValueError, "mode must be 'min' or 'max', got 'auto'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(given, error, message):
    with pytest.raises(error, match=f"^threshold_stop: {message}"):
        threshold_stop(**{"monitor": "x", "threshold": 0.5, **given})


def test_its_key_names_the_metric():
    assert threshold_stop("x", 1).key == "threshold_stop(x)"
    assert threshold_stop("x", 1).config == {"monitor": "x", "threshold": 1, "mode": "min"}


@pytest.mark.parametrize(("monitor", "val"), [("val_acc", True), ("acc", False)])
def test_a_run_ends_with_the_epoch_that_was_good_enough(monitor, val):
    accuracies = iter([0.25, 0.5, 0.75, 1.0])

    def measured(model, batch):
        return loss(model, batch), {"acc": torch.tensor(next(accuracies))}

    given = {"loss": loss, "validate": measured} if val else {"loss": measured}
    stop = threshold_stop(monitor, 0.75, mode="max")

    run = train(
        task(**given), batches(1), batches(1) if val else None, callbacks=stop, max_epochs=4, num_sanity_val_steps=0
    )

    assert (run.epoch, run.stopped) == (3, Stop(f"{monitor} is 0.75: as good as 0.75"))
