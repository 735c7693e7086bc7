from datetime import datetime, timedelta, timezone
from math import inf, nan

import pytest

from fncb import events as ev
from fncb.callbacks import checkpoint
from fncb.callbacks.deadline import DeadlineState, deadline
from fncb.effects import Stop
from tests.conformance.runs import Clock, batches, heard, task, train
from tests.folding import fold

NEW_YEAR = 1893456000.0  # 2030-01-01T00:00:00 in UTC
PAST = Stop("it is 0.5 s past 2030-01-01T00:00:00+00:00")


@pytest.mark.parametrize(
    "at",
    [
        "2030-01-01T00:00:00Z",
        "2030-01-01T02:00:00+02:00",
        "2030-01-01 00:00:00+00:00",
        datetime(2030, 1, 1, tzinfo=timezone.utc),
        datetime(2029, 12, 31, 20, tzinfo=timezone(timedelta(hours=-4))),
        NEW_YEAR,
        int(NEW_YEAR),
    ],
)
def test_a_time_can_be_written_in_many_ways(at):
    events = [ev.Setup(time=NEW_YEAR - 60, seconds=0.5), ev.TrainBatchEnd(seconds=60.0), ev.TrainBatchEnd(seconds=61.0)]

    assert fold(deadline(at), events[:2]).effects == ()
    assert fold(deadline(at), events).effects == (PAST,)
    assert deadline(at).config == {"at": "2030-01-01T00:00:00+00:00", "margin": None}


@pytest.mark.parametrize("at", ["2030-01-01T00:00:00", datetime(2030, 1, 1)])
def test_without_a_time_zone_it_is_in_that_of_the_machine(at):
    here = datetime(2030, 1, 1).astimezone(timezone.utc)

    assert deadline(at).config["at"] == here.isoformat()


@pytest.mark.parametrize(
    ("margin", "seconds", "told"),
    [
        (None, 59.75, None),
        (None, 60.0, "it is 0.0 s to"),  # once it is reached
        ({"seconds": 20}, 39.75, None),
        ({"seconds": 20}, 40.0, "it is 20.0 s to"),
        ("00:00:00:20", 50.0, "it is 10.0 s to"),
        (timedelta(seconds=20), 61.0, "it is 1.0 s past"),
    ],
)
def test_a_margin_is_left(margin, seconds, told):
    events = [ev.Setup(time=NEW_YEAR - 60), ev.TrainBatchEnd(seconds=seconds)]
    asks = (Stop(f"{told} 2030-01-01T00:00:00+00:00"),) if told else ()

    assert fold(deadline(NEW_YEAR, margin=margin), events).effects == asks


def test_a_resumed_run_takes_the_time_anew():
    stop = deadline(NEW_YEAR)
    state = fold(stop, [ev.Setup(time=NEW_YEAR - 1000), ev.TrainBatchEnd(seconds=30.0)]).state
    assert state == DeadlineState(began=NEW_YEAR - 1000)

    in_time = fold(stop, [ev.Setup(time=NEW_YEAR - 10, seconds=30.0), ev.FitStart(seconds=39.5)], state)
    late = fold(stop, [ev.Setup(time=NEW_YEAR, seconds=30.0), ev.FitStart(seconds=30.5)], state)

    assert (in_time.effects, in_time.state) == ((), DeadlineState(began=NEW_YEAR - 40))
    assert late.effects == (PAST,)


def test_where_nothing_tells_the_time_it_is_never_up():
    assert fold(deadline(0.0), [ev.TrainBatchEnd(seconds=1e9)]).effects == ()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"at": "tomorrow"}, ValueError, "at must be a time as .*, got 'tomorrow'"),
        ({"at": nan}, ValueError, "at must be a time as .*, got nan"),
        ({"at": inf}, ValueError, "at must be a time as .*, got inf"),
        ({"at": NEW_YEAR * 1000}, ValueError, "at must be a time as .*, or seconds since 1970"),  # milliseconds
        ({"at": None}, TypeError, "at must be a datetime, text or seconds since 1970, got None"),
        ({"at": True}, TypeError, "at must be a datetime, text or seconds since 1970, got True"),
        ({"margin": "5 minutes"}, ValueError, "margin must be 'DD:HH:MM:SS', got '5 minutes'"),
        ({"margin": 300}, TypeError, "margin must be 'DD:HH:MM:SS', a timedelta or a mapping"),
    ],
)
def test_wrong_arguments_are_refused_at_once(given, error, message):
    with pytest.raises(error, match=f"^deadline: {message}"):
        deadline(**{"at": NEW_YEAR, **given})


class Wall(Clock):
    """What a machine's clock says too."""

    def time(self):
        return NEW_YEAR - 100 + self.now


def test_a_run_stops_at_the_batch_that_ends_too_late_and_one_that_begins_too_late_trains_nothing(tmp_path, monkeypatch):
    clock = Wall()
    clock.now = 0.0
    monkeypatch.setattr("fncb.session.time", clock)
    monkeypatch.setattr("fncb.staging.time", clock)
    callbacks = [clock.passes(on_train_batch_start=30.0), deadline(NEW_YEAR), checkpoint(tmp_path)]

    run = train(task(), batches(9), callbacks=callbacks, max_epochs=1)
    assert (run.step, run.stopped) == (4, Stop("it is 20.0 s past 2030-01-01T00:00:00+00:00"))

    hears, seen = heard()
    again = train(task(), batches(9), callbacks=[*callbacks, hears], max_epochs=1, resume="last")
    assert again.step == 4
    assert "on_train_batch_start[4]" not in seen
