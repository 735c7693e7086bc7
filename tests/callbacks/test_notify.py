import json
import logging
from math import inf, nan
from pathlib import Path

import pytest

from fncb import events as ev
from fncb.callback import EmptyState
from fncb.callbacks.notify import notify
from fncb.effects import Append, Call
from tests.folding import fold


def lines(callback, *events):
    return [json.loads(effect.line) for effect in fold(callback, events).of(Append)]


def test_by_default_it_tells_when_a_run_stops_ends_or_fails():
    events = [
        ev.TrainBatchEnd(step=1),
        ev.StopRequested(epoch=1, step=2, seconds=0.5, reason="enough"),
        ev.TrainEnd(epoch=1, step=2, seconds=0.75),
        ev.ExceptionRaised(epoch=1, step=3, seconds=1.0, error="KeyError", message="'a'\n'b'"),
        ev.ExceptionRaised(error="SystemExit", message="143", signal="SIGTERM"),
    ]

    assert lines(notify("notes.jsonl"), *events) == [
        {"event": "stop_requested", "epoch": 1, "step": 2, "seconds": 0.5, "reason": "enough"},
        {"event": "train_end", "epoch": 1, "step": 2, "seconds": 0.75},
        {"event": "exception", "epoch": 1, "step": 3, "seconds": 1.0, "error": "KeyError", "message": "'a'\n'b'"},
        {**dict.fromkeys(("epoch", "step", "seconds"), 0), "event": "exception", "error": "SystemExit"}
        | {"message": "143", "signal": "SIGTERM"},
    ]


@pytest.mark.parametrize("name", ["validation_end", "on_validation_end"])
def test_the_events_are_of_ones_choosing(name):
    callback = notify("notes.jsonl", on=[name])

    assert lines(callback, ev.ValidationEnd(step=3), ev.TrainEnd()) == [
        {"event": "validation_end", "epoch": 0, "step": 3, "seconds": 0.0}
    ]
    assert callback.config == {"to": "notes.jsonl", "on": ["on_validation_end"], "metrics": []}


@pytest.mark.parametrize(
    ("event", "told"),
    [(ev.Setup(stage="test"), {"stage": "test"}), (ev.Saved(path="a.safetensors"), {"path": "a.safetensors"})],
)
def test_what_else_an_event_has_to_say_is_there(event, told):
    (line,) = lines(notify("a", on=["setup", "saved"]), event)

    assert told.items() <= line.items()


def test_metrics_that_are_asked_for_are_there_if_the_event_has_them():
    callback = notify("a", on=["train_end", "fit_end"], metrics=["val_loss", "acc"])
    end = ev.TrainEnd(metrics={"val_loss": 0.25, "other": 1.0})

    assert [line.get("metrics") for line in lines(callback, end, ev.FitEnd())] == [{"val_loss": 0.25}, None]


def test_a_line_is_json_whatever_the_numbers():
    callback = notify("a", metrics=["a", "b", "c"])
    (effect,) = fold(callback, [ev.TrainEnd(metrics={"a": nan, "b": inf, "c": 1.0})]).effects

    assert json.loads(effect.line, parse_constant=pytest.fail)["metrics"] == {"a": "nan", "b": "inf", "c": 1.0}


def test_a_line_goes_to_the_file(tmp_path):
    path = Path(tmp_path, "notes.jsonl")

    (effect,) = fold(notify(path), [ev.TrainEnd()]).effects
    assert effect.path == str(path)


def test_a_function_is_called_with_the_event():
    seen = []
    event = ev.TrainEnd(step=3)

    run = fold(notify(seen.append, on=["train_end"]), [event])
    (effect,) = run.effects
    effect.fn(event)

    assert (run.state, effect) == (EmptyState(), Call("notify: on_train_end"))
    assert seen == [event]


def test_a_function_that_raises_holds_up_nothing(caplog):
    def breaks(event):
        raise OSError("no network")

    (effect,) = fold(notify(breaks), [ev.TrainEnd()]).effects
    with caplog.at_level(logging.WARNING, "fncb"):
        effect.fn(ev.TrainEnd())

    assert [record.getMessage() for record in caplog.records] == ["fncb: notify: OSError: no network"]


def test_it_declares_what_it_asks_for():
    assert (notify("a").emits, notify(print).emits) == ((Append,), (Call,))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"to": 3}, TypeError, "to must be a function or the path of a file, got 3"),
        ({"on": "train_end"}, TypeError, r"on must be several names, got 'train_end'. Write \['train_end'\]"),
        ({"metrics": "acc"}, TypeError, r"metrics must be several names, got 'acc'. Write \['acc'\]"),
        ({"on": []}, ValueError, "on must name a hook at least, got none"),
        (
            {"on": ["train_emd"]},
            ValueError,
            "on: it must be the name of a hook, got 'train_emd'. Did you mean on_train_end",
        ),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^notify: {message}"):
        notify(**{"to": "a", **arguments})
