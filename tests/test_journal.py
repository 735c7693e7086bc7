"""What a session records of its run: which events, whose callbacks, of which steps the metrics."""

import platform
import re
import threading

import attrs
import pytest
import torch

from fncb import events as ev
from fncb import store
from fncb.callback import Callback, emit
from fncb.callbacks import checkpoint, early_stop, on
from fncb.effects import Log, Print, Save
from fncb.loop import fit
from fncb.metrics import Unrecorded
from fncb.recording import read
from fncb.session import Session
from fncb.task import Task


def train(path, *callbacks, steps=6, **settings):
    torch.manual_seed(0)
    task = Task(
        torch.nn.Linear(2, 1),
        loss=lambda model, batch: torch.square(model(batch)).mean(),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.125),
    )
    data = [torch.ones(4, 2)] * 3
    settings = {"compile": False, "progress": False, "max_steps": steps, **settings}
    return fit(task, data, callbacks=callbacks, record=path, **settings)


def batches(path):
    return [event for event in read(path).events if isinstance(event, ev.TrainBatchEnd)]


def timeless(events):
    return [attrs.evolve(event, seconds=0.0) for event in events]


def hears_batches():
    return Callback(key="hears", init=int, on_train_batch_end=lambda state, event: state + 1)


def test_batches_that_nobody_hears_are_recorded_as_those_that_are_heard(tmp_path):
    train(tmp_path / "unheard")
    train(tmp_path / "heard", hears_batches())

    assert timeless(batches(tmp_path / "unheard")) == timeless(batches(tmp_path / "heard"))
    assert len(batches(tmp_path / "unheard")) == 6


def test_what_was_logged_is_in_batches_that_nobody_hears(tmp_path):
    def logs(state, event):
        return emit(state, Log({"mine": 1.0 + event.epoch}))

    for name, others in {"unheard": (), "heard": (hears_batches(),)}.items():
        train(tmp_path / name, Callback(key="logs", on_train_epoch_start=logs), *others)

    assert [batch.metrics["mine"] for batch in batches(tmp_path / "unheard")] == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    assert timeless(batches(tmp_path / "unheard")) == timeless(batches(tmp_path / "heard"))


def test_no_event_is_made_of_a_batch_that_nobody_hears(tmp_path, monkeypatch):
    made, init = [], ev.TrainBatchEnd.__init__
    monkeypatch.setattr(ev.TrainBatchEnd, "__init__", lambda self, **fields: made.append(1) or init(self, **fields))
    train(tmp_path / "a")

    assert made == []
    assert len(batches(tmp_path / "a")) == 6


@pytest.mark.parametrize("others", [(), (hears_batches(),)], ids=["unheard", "heard"])
def test_metrics_can_be_recorded_every_n_steps(others, tmp_path):
    run = train(tmp_path / "a", *others, record_metrics_every_n_steps=3)
    left_out = [isinstance(batch.metrics, Unrecorded) for batch in batches(tmp_path / "a")]

    assert left_out == [True, True, False, True, True, False]
    assert run.metrics["loss"] > 0


@pytest.mark.parametrize("every", [0, -1])
def test_metrics_are_recorded_every_1_or_more_steps(every):
    with pytest.raises(ValueError, match=rf"record: record_metrics_every_n_steps must be 1 steps or more, got {every}"):
        Session(record="a", record_metrics_every_n_steps=every)


def test_a_save_that_is_answered_tells_for_how_long_it_was_written(tmp_path):
    for save in ("sync", "async"):
        train(tmp_path / save, checkpoint(tmp_path / f"kept {save}", save=save))
        took = [event.took for event in read(tmp_path / save).events if isinstance(event, ev.Saved)]
        assert took
        assert all(0 < seconds < 10 for seconds in took)


def test_a_save_in_the_background_is_answered_with_the_counters_of_the_last_batch(tmp_path, monkeypatch):
    asked, goes_on, written = Save(str(tmp_path / "kept"), background=True), threading.Event(), threading.Event()
    write, square, calls = store.write_packed, torch.square, iter(range(9))

    def writes(*args, **how):
        goes_on.wait()
        try:
            return write(*args, **how)
        finally:
            written.set()

    def squared(x):
        if next(calls) == 2:  # the third batch waits until it is on disk, so that its end answers
            goes_on.set()
            written.wait()
        return square(x)

    monkeypatch.setattr(store, "write_packed", writes)
    monkeypatch.setattr(torch, "square", squared)
    saves = Callback(key="saves", on_train_epoch_start=lambda state, event: emit(state, asked))
    train(tmp_path / "a", saves, steps=3)
    (saved,) = [event for event in read(tmp_path / "a").events if isinstance(event, ev.Saved)]

    assert saved.step in (2, 3)


def test_the_header_has_the_expression_that_makes_each_callback(tmp_path):
    train(tmp_path / "a", early_stop("loss_epoch", patience=2), on(train_end=lambda event: None), hears_batches())

    assert read(tmp_path / "a").header["callbacks"] == {
        "early_stop(loss_epoch)": "early_stop('loss_epoch', patience=2)",
        "on": None,
        "hears": None,
    }


def test_the_header_has_the_versions_that_the_run_was_made_with(tmp_path):
    train(tmp_path / "a")
    header = read(tmp_path / "a").header

    assert (header["fncb"], header["torch"], header["format"]) == (store.version(), torch.__version__, 2)
    assert header["python"] == platform.python_version()


def test_effects_are_recorded_with_who_asked(tmp_path):
    says = [Callback(key=key, on_train_end=lambda state, event: emit(state, Print("hello"))) for key in ("a", "b")]
    train(tmp_path / "a", *says)

    assert [effect.key for effect in read(tmp_path / "a").effects] == ["a", "b"]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_run_that_goes_on_appends_to_its_compressed_recording(suffix, tmp_path):
    path = tmp_path / f"events.jsonl.{suffix}"
    kept = checkpoint(tmp_path / "kept", every_n_train_steps=2)
    train(path, kept, steps=4)
    run = train(path, kept, resume=tmp_path / "kept")

    assert run.recording == path
    assert [batch.step for batch in batches(path)] == [1, 2, 3, 4, 5, 6]
    assert len(read(path).resumed) == 1
    assert not re.findall(r"-v\d", "".join(each.name for each in tmp_path.iterdir()))
