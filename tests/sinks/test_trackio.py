"""The Trackio sink, by what Trackio reads of it."""

import os
from math import inf, isnan

import numpy
import pytest
from PIL import Image

from fncb.events import Metrics, ValidationEnd
from fncb.sinks import trackio
from tests.sinks.logged import COLOUR_BYTES, GREY_BYTES, log_metrics, show


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory):
    """Trackio reads where its files go when it is first imported, and for all tests of a process."""
    os.environ.setdefault("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))


def logs(project):
    """What Trackio has of each run of a project, without the time."""
    from trackio.sqlite_storage import SQLiteStorage

    records = SQLiteStorage.get_run_records(project)
    found = [SQLiteStorage.get_logs(project, run_id=record["id"]) for record in records]
    return [[{name: value for name, value in row.items() if name != "timestamp"} for row in rows] for rows in found]


def test_metrics_images_and_histograms_are_rows_at_their_steps():
    from trackio.utils import MEDIA_DIR

    sink = trackio("all", auto_log_cpu=False, auto_log_gpu=False)

    sink.start()
    log_metrics(sink)
    show(sink)
    sink.close()

    ((first, second, third, grey, colours, weights),) = logs("all")
    assert first == {"loss": 0.5, "norm/a.*": 2.0, "epoch": 0, "seconds": 0.25, "step": 1}
    assert second == {"loss": 0.25, "epoch": 1, "seconds": 0.5, "step": 2}
    assert isnan(third.pop("val_loss"))
    assert third == {"val_acc": inf, "epoch": 1, "seconds": 0.75, "step": 2}
    assert (grey["step"], pixels(MEDIA_DIR, grey["images/grey"])) == (
        2,
        [[[value] * 3 for value in row] for row in GREY_BYTES],
    )
    assert (colours["step"], pixels(MEDIA_DIR, colours["images/colours"])) == (3, COLOUR_BYTES)
    assert (weights["step"], sum(weights["weights"]["values"])) == (3, 3)


def pixels(folder, image):
    return numpy.asarray(Image.open(folder / image["file_path"]).convert("RGB")).tolist()


@pytest.mark.parametrize(("resume", "steps"), [("never", [[1], [2]]), ("allow", [[1, 2]])])
def test_a_run_of_a_name_goes_on_if_that_is_asked_for(resume, steps):
    for step in (1, 2):
        sink = trackio(resume, name="name", resume=resume, auto_log_cpu=False, auto_log_gpu=False)
        sink.log(Metrics({"val_loss": 0.5}), ValidationEnd(step=step, seconds=1.0))
        sink.close()

    assert [[row["step"] for row in rows] for rows in logs(resume)] == steps


def test_a_run_that_is_over_is_forgotten():
    from trackio import context_vars

    sink = trackio("over", auto_log_cpu=False, auto_log_gpu=False)
    sink.start()
    begun = context_vars.current_run.get()
    sink.close()

    assert begun is not None
    assert context_vars.current_run.get() is None
