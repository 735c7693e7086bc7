from functools import partial
from pathlib import Path

import pytest

from fncb import events as ev
from fncb import store
from fncb.callbacks.checkpoint import CheckpointState, checkpoint
from fncb.callbacks.on_exception_checkpoint import on_exception_checkpoint
from fncb.effects import Delete, Save
from tests.conformance.runs import batches, raises_in, task, train
from tests.folding import fold

CUT = ev.ExceptionRaised(epoch=1, step=7, error="ValueError", message="no")
FILE = "d/on_exception.safetensors"


@pytest.mark.parametrize(
    ("raised", "saves"),
    [
        (CUT, True),
        (ev.ExceptionRaised(error="Terminated", signal="SIGTERM"), True),
        (ev.ExceptionRaised(error="KeyboardInterrupt", signal="SIGINT"), True),
        (ev.ExceptionRaised(error="KeyboardInterrupt"), False),  # a second Ctrl-C comes in the middle of something
    ],
)
def test_any_exception_saves(raised, saves):
    run = fold(on_exception_checkpoint("d"), [raised])

    assert run.effects == ((Save(FILE, within="d"),) if saves else ())
    assert run.state == CheckpointState(rescue_path=FILE if saves else None)


@pytest.mark.parametrize("before", [ev.Setup(stage="test"), ev.Setup(fast_dev_run=True), ev.SanityCheckStart()])
def test_where_nothing_is_trained_nothing_is_saved_or_deleted(before):
    assert fold(on_exception_checkpoint("d"), [before, CUT, ev.FitEnd()]).effects == ()


def test_it_saves_at_nothing_else():
    events = [
        ev.TrainBatchEnd(step=1),
        ev.ValidationEnd(step=1, epoch_is_over=True),
        ev.TrainEpochEnd(step=1),
        ev.TrainEnd(epoch=1, step=1),
        ev.Teardown(),
    ]

    assert fold(on_exception_checkpoint("d"), events) == fold(on_exception_checkpoint("d"), [])


def test_an_end_after_an_exception_deletes_nothing():
    assert fold(on_exception_checkpoint("d"), [CUT, ev.Teardown()]).files == (FILE,)


def test_a_second_exception_leaves_the_newer_file():
    saves = on_exception_checkpoint("d")
    first = fold(saves, [CUT])
    second = fold(saves, [CUT], first.state, files=first.files)

    assert second.files == ("d/on_exception-v1.safetensors",)
    assert second.state.rescue_path == "d/on_exception-v1.safetensors"


def test_a_fit_that_ends_well_deletes_the_file_that_it_went_on_from_and_the_one_of_that_name():
    saves = on_exception_checkpoint("d")

    def ends(state):
        state, effects = saves.transition(state, ev.FitEnd())
        assert state == CheckpointState()
        return effects

    assert ends(CheckpointState()) == (Delete(FILE, within="d"),)  # what a run before may have left
    assert ends(CheckpointState(rescue_path=FILE)) == (Delete(FILE, within="d"),)
    assert ends(CheckpointState(rescue_path="d/a.safetensors")) == (
        Delete("d/a.safetensors", within="d"),
        Delete(FILE, within="d"),
    )
    assert ends(CheckpointState(rescue_path="e/a.safetensors")) == (Delete(FILE, within="d"),)


def test_a_name_may_have_fields():
    saves = on_exception_checkpoint("d", filename="cut-{step}")
    cut = fold(saves, [CUT])

    assert cut.files == ("d/cut-step=7.safetensors",)
    assert fold(saves, [ev.FitEnd()], cut.state, files=cut.files).files == ()
    assert fold(saves, [ev.FitEnd()]).effects == ()  # of no other is the name known


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"dirpath": ""}, ValueError, "dirpath must not be empty, got ''"),
        ({"filename": ""}, ValueError, "filename must not be empty, got ''"),
        ({"dirpath": None}, TypeError, "dirpath must be a path, got None"),
        ({"filename": 3}, TypeError, "filename must be text, got 3"),
        ({"filename": "../a"}, ValueError, "filename must name a file inside its folder, got '../a'"),
        ({"filename": "{loss}"}, ValueError, "filename must have no fields but {epoch} and {step}, got '{loss}'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(given, error, message):
    with pytest.raises(error, match=f"^on_exception_checkpoint: {message}"):
        on_exception_checkpoint(**{"dirpath": "d", **given})


def test_its_arguments_are_its_config(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")

    assert on_exception_checkpoint(Path("~") / "a").config == {"dirpath": "/home/me/a", "filename": "on_exception"}
    assert on_exception_checkpoint("d").emits == (Save, Delete, *checkpoint("d").emits[2:])


def test_a_run_goes_on_from_it_and_then_it_is_gone(tmp_path):
    saves, file = on_exception_checkpoint(tmp_path), tmp_path / "on_exception.safetensors"
    fails = partial(train, task(), batches(3), max_epochs=2)
    with pytest.raises(RuntimeError, match="no"):
        fails(callbacks=[saves, raises_in("on_train_epoch_end", RuntimeError("no"))])

    assert store.read_header(file)["step"] == 3
    run = train(task(), batches(3), callbacks=saves, max_epochs=2, resume="last")
    assert (run.resumed.path, run.resumed.step, run.step) == (file, 3, 6)
    assert not file.exists()


def test_a_run_that_is_not_told_to_go_on_from_it_begins_anew(tmp_path):
    saves, file = on_exception_checkpoint(tmp_path), tmp_path / "on_exception.safetensors"
    with pytest.raises(RuntimeError, match="no"):
        train(task(), batches(3), callbacks=[saves, raises_in("on_train_end", RuntimeError("no"))], max_epochs=1)

    assert file.exists()
    assert train(task(), batches(3), callbacks=saves, max_epochs=1).resumed is None
    assert not file.exists()
