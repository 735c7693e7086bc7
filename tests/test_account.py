"""What a recording tells of its run as a whole."""

import pytest

from fncb import events as ev
from fncb.account import Ending, account_of
from fncb.effects import Delete, Save, Skip, Stop, StopEpoch
from fncb.events import TrainBatchEnd, ValidationEnd
from fncb.metrics import Unrecorded
from fncb.recording import Recording
from tests.looking_back import checks


def of(*entries, resumed=()):
    return account_of(Recording({}, entries, resumed=resumed))


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "empty at epoch 0, step 0: there are no events"),
        ([ev.FitStart(max_epochs=3), ev.FitEnd(epoch=3, step=9)], "finished at epoch 3, step 9: max_epochs=3"),
        (
            [ev.FitStart(max_epochs=3, max_steps=9), ev.FitEnd()],
            "finished at epoch 0, step 0: max_epochs=3 and max_steps=9",
        ),
        (
            [ev.TrainBatchEnd(epoch=1, step=7)],
            "cut off at epoch 1, step 7: the recording has no end: the run was killed, or it goes on",
        ),
        (
            [
                ValidationEnd(epoch=2, step=8),
                Stop("stale", key="early_stop"),
                Stop("b"),
                ev.StopRequested(),
                ev.FitEnd(),
            ],
            "stopped by early_stop at epoch 2, step 8: stale",
        ),
        ([ev.StopRequested(step=4, reason="max_time"), ev.FitEnd(step=5)], "stopped at epoch 0, step 4: max_time"),
        (
            [ev.ExceptionRaised(step=4, error="ValueError", message="no"), ev.Teardown(step=4)],
            "raised at epoch 0, step 4: ValueError: no",
        ),
        (
            [ev.ExceptionRaised(step=4, error="KeyboardInterrupt", signal="SIGINT")],
            "signal at epoch 0, step 4: SIGINT came",
        ),
    ],
)
def test_the_end_of_a_run_is_told_in_a_sentence(entries, sentence):
    assert str(of(*entries).ending) == sentence


def test_how_it_ended_before_a_resume_does_not_count():
    entries = (*checks(1), Stop("stale"), ev.FitEnd(step=1), ev.InitStart(epoch=1, step=1), ev.FitEnd(epoch=3, step=9))
    account = of(*entries, resumed=(3,))

    assert account.ending == Ending("finished", "all was done", None, 3, 9, 0.0)
    assert account.resumed == ((1, 1),)


def test_epochs_steps_seconds_and_metrics_are_those_of_the_last_events():
    batches = [TrainBatchEnd(epoch=i, step=i + 1, seconds=i / 2, metrics={"loss": 1 / (i + 1)}) for i in range(3)]
    account = of(*batches, *checks(0.5), TrainBatchEnd(epoch=3, step=4, seconds=9.0, metrics=Unrecorded("this")))

    assert (account.epochs, account.steps, account.seconds) == (4, 4, 9.0)
    assert account.metrics == {"loss": 1 / 3, "val_loss": 0.5}
    assert account.counts == {"TrainBatchEnd": 4, "ValidationEnd": 1}


def test_checkpoints_have_the_metrics_that_were_known_when_they_were_asked_for():
    entries = [
        *checks(0.5),
        Save("a", key="keep"),
        ev.SaveCheckpoint(path="a"),
        ev.Saved(path="a-v1", requested="a", bytes=10, took=0.25),
        *checks(0.25),
        Save("b", key="keep"),
        ev.Saved(path="b", requested="b"),
        Delete("a-v1", key="keep"),
    ]
    first, second = of(*entries).files

    assert (first.path, first.key, first.hook, first.bytes, first.took) == (
        "a-v1",
        "keep",
        "on_validation_end",
        10,
        0.25,
    )
    assert (first.metrics, first.kept) == ({"val_loss": 0.5}, False)
    assert (second.path, second.metrics, second.kept) == ("b", {"val_loss": 0.25}, True)


def test_what_was_left_out_is_told():
    entries = [
        ev.TrainBatchStart(),
        Skip(key="filter"),
        ev.TrainBatchStart(step=1),
        Skip(key="filter"),
        StopEpoch(key="budget"),
        TrainBatchEnd(step=2, metrics={"skipped": 1.0}),
        TrainBatchEnd(step=3, metrics={"skipped": 3.0, "skipped_updates": 0.0}),
        Save("b", key="keep"),
        ev.Saved(step=3, path="b", requested="b"),
        Save("a", key="keep"),
    ]

    assert of(*entries).skipped == (
        "filter had 2 batches left out",
        "budget had the rest of 1 epoch left out",
        "3 updates of the weights left out inside the step (metric 'skipped')",
        "keep asked for a at epoch 0, step 3, and it was not written: parameters were not finite, or the run ended "
        "first",
    )
