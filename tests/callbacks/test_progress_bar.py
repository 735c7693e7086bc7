import io
from math import inf, nan

import pytest
from rich.console import Console

from fncb import events as ev
from fncb.callbacks.progress_bar import ProgressBarState, progress_bar
from fncb.callbacks.rich_progress_bar import rich_progress_bar
from fncb.callbacks.tqdm_progress_bar import tqdm_progress_bar
from fncb.effects import Render
from fncb.interpret import Screen
from fncb.session import Session
from fncb.snapshot import load_state_dict, state_dict
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
        ev.TrainEpochEnd(epoch=3, seconds=5.0, metrics={"loss": 0.5, "loss_epoch": 0.25}),
    ]
    run = fold(progress_bar(refresh_rate=0.5), events)

    assert shown(run) == [  # at 1 and 3 seconds, the last batch, and the end
        ("epoch 3", 1, 4, False),
        ("epoch 3", 3, 4, False),
        ("epoch 3", 4, 4, False),
        ("epoch 3", 4, 4, True),
    ]
    assert run.state == ProgressBarState(batches=4, total=4, shown=5.0, means={"loss_epoch": 0.25})


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


@pytest.mark.parametrize(
    ("start", "batch_end"),
    [(ev.TrainEpochStart, ev.TrainBatchEnd), (ev.ValidationStart, ev.ValidationBatchEnd)],
)
def test_the_last_batch_of_a_part_is_always_shown(start, batch_end):
    run = fold(progress_bar(refresh_rate=0.001), [start(batches=4), *batches(4, kind=batch_end)])

    assert [completed for _, completed, _, _ in shown(run)] == [1, 4]


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
    run = fold(progress_bar(), events)

    assert shown(run) == [
        ("epoch 0", 1, 4, False),
        ("epoch 0", 2, 4, False),
        ("validation", 1, 6, False),
        ("validation", 2, 6, False),
        ("validation", 3, 6, False),
        ("validation", 3, 6, True),
        ("epoch 0", 3, 4, False),
        ("validation", 1, 6, False),
        ("epoch 0", 3, 4, True),  # cut short: what was done, not what was planned
    ]
    assert [(effect.label, effect.part_of) for effect in run.effects if effect.part_of] == [
        ("validation", "epoch 0")
    ] * 5


@pytest.mark.parametrize(
    ("start", "batch_end", "end", "label"),
    [
        (ev.ValidationStart, ev.ValidationBatchEnd, ev.ValidationEnd, "validation"),
        (ev.TestStart, ev.TestBatchEnd, ev.TestEnd, "test"),
        (ev.PredictStart, ev.PredictBatchEnd, ev.PredictEnd, "prediction"),
    ],
)
def test_what_is_no_part_of_an_epoch_has_a_bar_of_its_own(start, batch_end, end, label):
    events = [start(batches=None), *batches(2, kind=batch_end), end(seconds=2.0)]
    run = fold(progress_bar(), events)

    assert run.effects == (Render(label, 1), Render(label, 2), Render(label, 2, done=True))


def test_a_sanity_check_is_over_before_training_begins():
    events = [
        ev.SanityCheckStart(),
        ev.ValidationStart(batches=2),
        ev.ValidationBatchEnd(batch_idx=0, seconds=1.0),
        ev.ValidationBatchEnd(batch_idx=1, seconds=2.0),
        ev.ValidationEnd(seconds=2.0, metrics={"val_loss": 0.5}),
        ev.SanityCheckEnd(seconds=2.0),
    ]
    run = fold(progress_bar(), events)

    assert run.effects == (
        Render("sanity check", 1, 2),
        Render("sanity check", 2, 2),
        Render("sanity check", 2, 2, done=True),
    )
    assert dict(run.effects[-1].metrics) == {"val_loss": 0.5}
    assert run.state == ProgressBarState(side_batches=2, side_total=2, shown=2.0)  # it is forgotten


def test_the_last_validation_and_the_last_epoch_are_shown_beside_what_is_new():
    events = [
        ev.TrainEpochStart(batches=2),
        *batches(1, metrics={"loss": 1.0}),
        ev.ValidationStart(batches=1),
        ev.ValidationEnd(seconds=2.0, metrics={"val_loss": 2.0}),
        ev.TrainEpochEnd(seconds=3.0, metrics={"loss": 1.0, "loss_epoch": 4.0, "val_loss": 3.0}),
        ev.TrainEpochStart(epoch=1, batches=2),
        *batches(1, begin=4.0, epoch=1, metrics={"loss": 0.5, "val_loss": 8.0}),
        ev.ValidationStart(batches=1),
        *batches(1, begin=5.0, kind=ev.ValidationBatchEnd),
        ev.ValidationEnd(seconds=7.0, metrics={"val_loss": 0.25}),
    ]
    run = fold(progress_bar(), events)

    assert [dict(effect.metrics) for effect in run.effects] == [
        {"loss": 1.0},
        {"val_loss": 2.0},
        {"loss": 1.0, "loss_epoch": 4.0, "val_loss": 3.0},
        {"loss": 0.5, "val_loss": 8.0, "loss_epoch": 4.0},  # the event's own come first
        {"val_loss": 2.0, "loss_epoch": 4.0},
        {"val_loss": 0.25, "loss_epoch": 4.0},
    ]
    assert (run.state.validated, run.state.means) == ({"val_loss": 0.25}, {"loss_epoch": 4.0})


class Pending:
    """A vector on a device: how often it was waited for."""

    def __init__(self, *values):
        self.values, self.waits = values, 0

    def tolist(self):
        self.waits += 1
        return list(self.values)


def test_the_metrics_of_a_batch_go_along_unread():
    pending = Pending(0.5)
    metrics = ev.Metrics(None, ("loss",), pending)
    kinds = (ev.TrainBatchEnd, ev.ValidationBatchEnd, ev.TestBatchEnd, ev.TestEnd)
    known = ProgressBarState(validated={"val_loss": 2.0})
    run = fold(progress_bar(), [kind(seconds=float(i), metrics=metrics) for i, kind in enumerate(kinds)], known)

    assert [list(effect.metrics) for effect in run.effects] == [["loss", "val_loss"]] * 4
    assert pending.waits == 0


def test_a_validation_and_an_epoch_are_waited_for_once():
    validated, means = Pending(0.5, 0.25), Pending(0.5, 0.25)
    events = [
        ev.ValidationEnd(metrics=ev.Metrics(None, ("val_loss", "val_acc"), validated)),
        ev.TrainEpochEnd(metrics=ev.Metrics(None, ("loss_epoch", "acc_epoch"), means)),
    ]
    run = fold(progress_bar(), events)

    assert [dict(effect.metrics)[name] for effect, name in zip(run.effects, ("val_loss", "loss_epoch"), strict=True)]
    assert (validated.waits, means.waits) == (1, 1)


def test_what_is_shown_survives_a_file_and_another_stage_begins_anew():
    state = ProgressBarState(2, 4, 1, 3, 0.5, "epoch", {"val_loss": nan}, {"loss_epoch": 0.5})
    bar = progress_bar()

    assert str(load_state_dict(bar, state_dict(state))) == str(state)
    assert bar.transition(state, ev.Setup(stage="fit"))[0] is state
    assert bar.transition(state, ev.Setup(stage="test"))[0] == ProgressBarState()


def test_a_rate_of_0_turns_it_off():
    off = progress_bar(refresh_rate=0)

    assert not any(off.hears(kind) for kind in ev.HOOKS.values())
    assert off.emits == (Render,)  # so that no other is added


@pytest.mark.parametrize("rate", [-1, nan, inf])
def test_a_wrong_rate_is_refused(rate):
    with pytest.raises(ValueError, match=f"^progress_bar: refresh_rate must be 0 a second or more, got {rate}"):
        progress_bar(refresh_rate=rate)


@pytest.mark.parametrize("rate", [True, "fast", None])
def test_a_rate_that_is_no_number_is_refused(rate):
    with pytest.raises(
        TypeError, match=f"^progress_bar: refresh_rate must be a number of draws a second, got {rate!r}"
    ):
        progress_bar(refresh_rate=rate)


class Notes:
    """A renderer that notes what it is given."""

    def __init__(self):
        self.seen = []

    def render(self, effect, event):
        self.seen.append((effect.label, effect.completed, effect.done, type(event)))

    def close(self):
        self.seen.append("closed")


def test_a_renderer_is_given_every_render_with_its_event_and_closed_once():
    notes, file = Notes(), io.StringIO()

    with Session(progress_bar(notes), screen=Screen(Console(file=file))) as session:
        session(ev.TrainEpochStart(batches=1))
        session(ev.TrainBatchEnd(seconds=1.0))
        session(ev.TrainEpochEnd(seconds=2.0))
        session.close()

    assert notes.seen == [
        ("epoch 0", 1, False, ev.TrainBatchEnd),
        ("epoch 0", 1, True, ev.TrainEpochEnd),
        "closed",
    ]
    assert file.getvalue() == ""


@pytest.mark.parametrize("renderer", [print, object(), "rich"])
def test_what_cannot_render_is_refused(renderer):
    with pytest.raises(TypeError, match=r"^progress_bar: renderer must have the methods render\(effect, event\) and"):
        progress_bar(renderer)


@pytest.mark.parametrize("make", [progress_bar, rich_progress_bar, tqdm_progress_bar])
def test_only_the_metrics_that_are_asked_for_are_shown(make):
    bar = make(metrics=("*loss", "acc"))
    started = [ev.TrainEpochStart(batches=1)]
    end = ev.TrainBatchEnd(batch_idx=0, metrics={"loss": 0.5, "acc": 0.25, "grad_norm/0": 1.0})

    (shown,) = fold(bar, [*started, end]).effects
    assert dict(shown.metrics) == {"loss": 0.5, "acc": 0.25}
    with pytest.raises(KeyError):
        shown.metrics["grad_norm/0"]
    with pytest.raises(TypeError, match=f"^{make.__name__}: metrics must be a pattern such as"):
        make(metrics=3)


def test_metrics_that_are_chosen_are_not_read_before_they_are_shown():
    vector = Unread()
    (shown,) = fold(
        progress_bar(metrics="*loss"),
        [ev.TrainEpochStart(batches=1), ev.TrainBatchEnd(metrics=ev.Metrics(None, ("loss", "acc"), vector))],
    ).effects

    assert list(shown.metrics) == ["loss"]
    assert not vector.read
    assert shown.metrics["loss"] == 0.5
    assert vector.read


class Unread:
    """A vector on a device that notes whether it was read."""

    read = False

    def tolist(self):
        self.read = True
        return [0.5, 0.25]
