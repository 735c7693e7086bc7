"""Runs that are made up: valid ones, and as small as they are asked for."""

import pytest
from hypothesis import find, given, settings

from fncb import events as ev
from fncb.callbacks import early_stop
from fncb.effects import Stop
from fncb.hindsight import replay
from fncb.testing import events, simulate
from fncb.testing.runs import whole_run


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(events(max_epochs=2, max_batches=2))
def test_time_and_steps_only_grow_and_events_come_in_order(run):
    kinds = [type(event) for event in run]
    ends = [event for event in run if type(event) is ev.TrainBatchEnd]

    assert [event.seconds for event in run] == sorted(event.seconds for event in run)
    assert [event.step for event in ends] == [*range(1, len(ends) + 1)]
    assert {event.batch_idx for event in ends} <= {0, 1}
    assert kinds.count(ev.TrainEpochEnd) == 1 + max(event.epoch for event in ends) <= 2
    assert kinds.index(ev.FitStart) < kinds.index(ev.TrainStart) < kinds.index(ev.TrainBatchStart)
    assert kinds.count(ev.TrainBatchStart) == len(ends)


def test_every_hook_is_heard_in_some_run():
    heard = set()

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(events())
    def hears(run):
        heard.update(map(type, run))

    hears()
    assert {*ev.HOOKS.values()} - heard == {ev.LoadCheckpoint, ev.KeyboardInterrupted}
    assert {type(event) for event in whole_run({})} == {*ev.HOOKS.values()}


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(events())
def test_only_an_epoch_with_a_validation_has_metrics_of_one(run):
    for epoch in range(1 + max(event.epoch for event in run)):
        of_epoch = [event for event in run if event.epoch == epoch]
        first = next(i for i, event in enumerate(of_epoch) if type(event) is ev.TrainEpochStart)
        last = next(i for i, event in enumerate(of_epoch) if type(event) is ev.TrainEpochEnd)
        validated = ev.ValidationEnd in map(type, of_epoch[first:last])

        assert validated or "val_loss" not in of_epoch[last].metrics


def test_some_epochs_have_a_validation_and_some_have_none():
    ends = [ev.TrainEpochEnd]
    for has in (True, False):
        run = find(events(["val_loss", "acc"], kinds=ends), lambda run, has=has: ("val_loss" in run[0].metrics) is has)
        assert "acc" in run[0].metrics


def test_only_the_kinds_that_are_asked_for_are_in_a_run():
    run = find(events(["acc"], kinds=[ev.ValidationEnd], values=[0.5]), lambda run: len(run) > 1)

    assert {type(event) for event in run} == {ev.ValidationEnd}
    assert {*run[0].metrics.items()} == {("acc", 0.5)}


def test_curves_become_the_events_of_a_run():
    run = simulate({"loss": [4.0, 2.0, 1.0], "val_loss": [0.5]}, val_every=2, seconds_per_step=0.5)
    kinds = [type(event).__name__ for event in run]

    assert kinds[:3] == ["Setup", "FitStart", "TrainStart"]
    assert kinds[-3:] == ["TrainEnd", "FitEnd", "Teardown"]
    assert [event for event in run if type(event) in (ev.TrainBatchEnd, ev.ValidationEnd, ev.TrainEpochEnd)] == [
        ev.TrainBatchEnd(step=1, seconds=0.5, metrics={"loss": 4.0}),
        ev.TrainBatchEnd(step=2, seconds=1.0, batch_idx=1, metrics={"loss": 2.0}),
        ev.ValidationEnd(step=2, seconds=1.0, metrics={"val_loss": 0.5}, epoch_is_over=True),
        ev.TrainEpochEnd(step=2, seconds=1.0, metrics={"loss_epoch": 3.0, "val_loss": 0.5}),
        ev.TrainBatchEnd(epoch=1, step=3, seconds=1.5, metrics={"loss": 1.0}),
        ev.TrainEpochEnd(epoch=1, step=3, seconds=1.5, metrics={"loss_epoch": 1.0}),
    ]


def test_a_validation_may_be_in_the_middle_of_an_epoch():
    run = simulate({"val_loss": [1.0, 2.0]}, val_every=2, epoch_length=4)
    ends = [event for event in run if type(event) is ev.ValidationEnd]

    assert [(event.epoch, event.step, event.epoch_is_over) for event in ends] == [(0, 2, False), (0, 4, True)]
    assert replay(early_stop("val_loss", patience=1, check_on_train_epoch_end=False), run).effects == (
        Stop("val_loss has not improved on 1 in 1 check"),
    )


@pytest.mark.parametrize(
    ("curves", "given_settings", "message"),
    [
        ({"val_loss": [1.0]}, {"val_every": 0}, "simulate: val_every must be 1 step or more, got 0"),
        ({"val_loss": [1.0]}, {"epoch_length": 0}, "simulate: epoch_length must be 1 step or more, got 0"),
        ({"loss": [1.0], "val_loss": [1.0]}, {"val_every": 2}, "there must be 2 steps for each value"),
    ],
)
def test_curves_that_do_not_fit_are_refused(curves, given_settings, message):
    with pytest.raises(ValueError, match=message):
        simulate(curves, **given_settings)
