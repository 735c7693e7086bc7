"""What the sinks of vendors have in common: a package that is missing, when a run begins, and that nothing is left."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fncb import sinks
from fncb.events import Metrics, TrainBatchEnd, ValidationEnd
from fncb.sinks.vendor import sink_of_runs

PACKAGES = {
    "tensorboard": ("torch.utils.tensorboard", lambda: sinks.tensorboard("nowhere")),
    "wandb": ("wandb", sinks.wandb),
    "mlflow": ("mlflow", sinks.mlflow),
    "trackio": ("trackio", lambda: sinks.trackio("project")),
}


@pytest.mark.parametrize("extra", PACKAGES)
def test_a_package_that_is_missing_is_missed_when_the_sink_is_made(monkeypatch, extra):
    package, make = PACKAGES[extra]
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ModuleNotFoundError, match=rf"^{extra}: .*pip install 'fncb\[{extra}\]'"):
        make()


def test_every_package_is_an_extra_and_there_to_be_tested_against():
    root = Path(__file__).parent.parent.parent
    project = (root / "pyproject.toml").read_text()
    (dev,) = re.findall(r'^  "fncb\[(.*)\]",$', project, re.MULTILINE)
    texts = [path.read_text() for path in (root / "fncb" / "sinks").glob("*.py")]
    asked_for = {extra for text in texts for extra in re.findall(r'package\("[^"]+", "(\w+)"\)', text)}

    assert asked_for >= {*PACKAGES}
    assert asked_for - {*re.findall(r"^(\w+) = \[", project, re.MULTILINE)} == set()
    assert asked_for - {*dev.split(",")} == set()


def noting(**more):
    """A sink of a vendor whose runs are numbers, and the list of what was done."""
    done, made = [], []

    def begin():
        made.append(len(made))
        done.append(("begin", made[-1]))
        return made[-1]

    sink = sink_of_runs(
        begin,
        lambda run, rows: done.append(("write", run, [row.step for row in rows])),
        lambda run, failed: done.append(("end", run, failed)),
        **{name: lambda run, name, array, at: done.append((name, run, array.tolist(), at.step)) for name in more},
    )
    return sink, done


def test_a_run_begins_once_when_ours_does_or_with_what_is_logged_and_another_after_it():
    sink, done = noting()

    sink.close()
    sink.start()
    sink.log(Metrics({"loss": 0.5}), TrainBatchEnd(step=1))
    sink.close()
    sink.log(Metrics({"loss": 0.5}), ValidationEnd(step=2))
    sink.fail()
    sink.close()

    first = [("begin", 0), ("write", 0, [1]), ("end", 0, False)]
    assert done == [*first, ("begin", 1), ("write", 1, [2]), ("end", 1, True)]


def test_a_run_ends_also_if_the_last_rows_cannot_be_written():
    ended = []

    def write(run, rows):
        raise OSError("gone")

    sink = sink_of_runs(lambda: "run", write, lambda run, failed: ended.append((run, failed)))
    sink.log(Metrics({"loss": 0.5}), TrainBatchEnd(step=1))
    with pytest.raises(OSError, match="gone"):
        sink.close()

    assert ended == [("run", False)]


def test_images_and_histograms_come_after_the_metrics_before_them():
    sink, done = noting(image=True, histogram=True)

    sink.log(Metrics({"loss": 0.5}), TrainBatchEnd(step=1))
    sink.image("image", torch.tensor([[[0.0, 1.0]]]), ValidationEnd(step=2))
    sink.histogram("values", torch.tensor([[1, 2]]), ValidationEnd(step=3))
    sink.histogram("nothing", torch.tensor([torch.inf]), ValidationEnd(step=4))

    assert done == [("begin", 0), ("write", 0, [1]), ("image", 0, [[0, 255]], 2), ("values", 0, [1.0, 2.0], 3)]


SCRIPT = """
import sys, threading
from pathlib import Path
from fncb import sinks
from tests.sinks.logged import log_metrics

folder = Path(sys.argv[1])
for sink in sinks.tensorboard(folder / "tensorboard"), sinks.wandb("p", dir=folder / "wandb"), sinks.trackio("p"):
    sink.start()
    log_metrics(sink)
    sink.close()
print("threads", [each.name for each in threading.enumerate() if not each.daemon])
"""


def test_nothing_is_left_running_when_the_process_ends(tmp_path):
    own = {"TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_ERROR_REPORTING": "false"}

    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        out, _ = process.communicate(timeout=120)

    assert process.returncode == 0, out
    assert "threads ['MainThread']" in out
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # asks whether there is one left, and does nothing to it
