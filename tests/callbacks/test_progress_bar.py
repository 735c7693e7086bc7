from math import inf, nan

import pytest

from fncb import events as ev
from fncb.callbacks.progress_bar import ProgressBarState, progress_bar
from fncb.effects import Render
from tests.folding import fold


def batches(n, every=1.0, begin=0.0, kind=ev.TrainBatchEnd, **at):
    """The ends of `n` batches, `every` seconds apart."""
    return [kind(batch_idx=i, seconds=begin + every * (i + 1), **at) for i in range(n)]


def shown(run):
    return [(effect.label, effect.completed, effect.total, effect.done) for effect in run.effects]


def test_an_epoch_from_start_to_end():
    events = [
        ev.TrainEpochStart(epoch=3, batches=4),
        *batches(4, epoch=3),
        ev.TrainEpochEnd(epoch=3, seconds=5.0),
    ]
    run = fold(progress_bar(refresh_rate=0.5), events)

    assert shown(run) == [  # at 1 and 3 seconds, and at the end
        ("epoch 3", 1, 4, False),
        ("epoch 3", 3, 4, False),
        ("epoch 3", 4, 4, True),
    ]
    assert run.state == ProgressBarState(batches=4, total=4, shown=5.0)


@pytest.mark.parametrize(
    ("refresh_rate", "every", "at"),
    [
        (1.0, 0.5, [1, 3, 5, 7]),
        (2.0, 0.5, [1, 2, 3, 4, 5, 6, 7, 8]),  # exactly a period is long enough
        (4.0, 0.5, [1, 2, 3, 4, 5, 6, 7, 8]),
        (0.25, 0.5, [1]),
        (10.0, 0.0, [1]),  # no time has passed: events made by hand
    ],
)
def test_at_most_so_many_a_second(refresh_rate, every, at):
    run = fold(progress_bar(refresh_rate=refresh_rate), batches(8, every))

    assert [completed for _, completed, _, _ in shown(run)] == at


def test_a_validation_in_between_does_not_disturb_the_epoch():
    events = [
        ev.TrainEpochStart(batches=4),
        *batches(2),
        ev.ValidationStart(batches=6, seconds=2.0),
        *batches(2, begin=2.0, kind=ev.ValidationBatchEnd, dataloader_idx=0),
        *batches(1, begin=4.0, kind=ev.ValidationBatchEnd, dataloader_idx=1),  # counts on in the next loader
        ev.ValidationEnd(seconds=5.0),
        ev.TrainBatchEnd(batch_idx=2, seconds=6.0),
        ev.ValidationStart(batches=6, seconds=6.0),
        *batches(1, begin=6.0, kind=ev.ValidationBatchEnd),
        ev.TrainEpochEnd(seconds=7.0),
    ]

    assert shown(fold(progress_bar(), events)) == [
        ("epoch 0", 1, 4, False),
        ("epoch 0", 2, 4, False),
        ("validation", 1, 6, False),
        ("validation", 2, 6, False),
        ("validation", 3, 6, False),
        ("epoch 0", 3, 4, False),
        ("validation", 1, 6, False),
        ("epoch 0", 3, 4, True),  # cut short: what was done, not what was planned
    ]


@pytest.mark.parametrize(
    ("start", "batch_end", "end", "label"),
    [
        (ev.TestStart, ev.TestBatchEnd, ev.TestEnd, "test"),
        (ev.PredictStart, ev.PredictBatchEnd, ev.PredictEnd, "prediction"),
    ],
)
def test_tests_and_predictions_have_a_bar(start, batch_end, end, label):
    events = [start(batches=None), *batches(2, kind=batch_end), end(seconds=2.0)]

    assert shown(fold(progress_bar(), events)) == [
        (label, 1, None, False),
        (label, 2, None, False),
        (label, 2, None, True),
    ]


class Waits:
    def tolist(self):
        raise AssertionError("a metric was read that is still on the device")


def test_the_metrics_go_along_unread():
    metrics = ev.Metrics(None, ("loss",), Waits())
    kinds = (ev.TrainBatchEnd, ev.TrainEpochEnd, ev.ValidationBatchEnd)
    run = fold(progress_bar(), [kind(seconds=float(i), metrics=metrics) for i, kind in enumerate(kinds)])

    assert [effect.metrics is metrics for effect in run.effects] == [True, True, True]


def test_a_rate_of_0_turns_it_off():
    off = progress_bar(refresh_rate=0)

    assert not off.hears(ev.TrainBatchEnd)
    assert fold(off, [*batches(3), ev.TrainEpochEnd()]).effects == ()


@pytest.mark.parametrize("rate", [-1, nan, inf])
def test_a_wrong_rate_is_refused(rate):
    with pytest.raises(ValueError, match=f"^progress_bar: refresh_rate must be 0 a second or more, got {rate}"):
        progress_bar(refresh_rate=rate)


def test_it_declares_what_it_asks_for():
    assert progress_bar().emits == (Render,)


def test_a_sanity_check_is_over_before_training_begins():
    events = [
        ev.SanityCheckStart(),
        ev.ValidationStart(batches=2),
        ev.ValidationBatchEnd(batch_idx=0, seconds=1.0),
        ev.ValidationBatchEnd(batch_idx=1, seconds=2.0),
        ev.ValidationEnd(seconds=2.0),
        ev.SanityCheckEnd(seconds=2.0),
    ]

    shown = fold(progress_bar(), events).of(Render)

    assert shown == (
        Render("validation", 1, 2),
        Render("validation", 2, 2),
        Render("sanity check", 2, 2, done=True),
    )
