from pathlib import Path

import pytest

from fncb.callbacks.stop_file import stop_file
from fncb.effects import Probe, Stop
from fncb.events import Probed, TrainBatchEnd
from tests.conformance.runs import batches, spy, task, train
from tests.folding import fold


def test_it_asks_every_so_many_steps():
    asks = stop_file("d/STOP", every_n_steps=3)

    assert (
        fold(asks, [TrainBatchEnd(step=step) for step in range(1, 7)]).effects
        == (Probe("file", "d/STOP", key="stop_file"),) * 2
    )


@pytest.mark.parametrize(
    ("answer", "stops"),
    [
        (Probed(what="file", key="stop_file"), True),
        (Probed(what="file", key="another"), False),
        (Probed(what="device", key="stop_file"), False),
    ],
)
def test_an_answer_to_its_own_question_stops(answer, stops):
    assert fold(stop_file(Path("d") / "STOP"), [answer]).effects == ((Stop("there is a file d/STOP"),) if stops else ())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"path": ""}, TypeError, "path must be that of a file, got ''"),
        ({"path": None}, TypeError, "path must be that of a file, got None"),
        ({"every_n_steps": 0}, ValueError, "every_n_steps must be 1 step or more, got 0"),
        ({"every_n_steps": True}, TypeError, "every_n_steps must be an int, got True"),
    ],
)
def test_wrong_arguments_are_refused_at_once(given, error, message):
    with pytest.raises(error, match=f"^stop_file: {message}"):
        stop_file(**{"path": "STOP", **given})


def test_a_home_folder_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")

    assert stop_file("~/STOP").config == {"path": "/home/me/STOP", "every_n_steps": 10}


def test_a_run_stops_once_the_file_is_there(tmp_path):
    path = tmp_path / "STOP"
    touches, _ = spy("on_train_batch_end", lambda event: path.touch() if event.step == 3 else None)
    both = [touches, stop_file(path, every_n_steps=2), stop_file(tmp_path / "no", every_n_steps=1, key="other")]

    run = train(task(), batches(9), callbacks=both, max_epochs=1)

    assert (run.step, run.stopped) == (4, Stop(f"there is a file {path}"))
    assert path.exists()
    assert train(task(), batches(9), callbacks=both[1], max_epochs=1).step == 2
