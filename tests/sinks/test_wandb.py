"""The Weights & Biases sink, by what is in the file that `wandb sync` would send."""

import json
import struct
from math import inf, isnan

import numpy
import pytest
from PIL import Image

from fncb.events import Metrics, ValidationEnd
from fncb.sinks import wandb
from tests.sinks.logged import COLOUR_BYTES, GREY_BYTES, log_metrics, show

_BLOCK, _HEADER = 32768, 7


@pytest.fixture(autouse=True)
def _no_reports(monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_SILENT", "true")


def records(folder):
    """The records of the one run in a folder: its file is a log of records cut at blocks, as LevelDB has it."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # the process beside ours, which may still be writing
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, at, whole = path.read_bytes(), _HEADER, b""
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        whole, at = whole + data[at + _HEADER : at + _HEADER + size], at + _HEADER + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def history(folder):
    rows = []
    for logged in of(folder, "history"):
        row = {}
        for item in logged.item:
            *path, last = item.nested_key or (item.key,)
            place = row
            for name in path:
                place = place.setdefault(name, {})
            place[last] = json.loads(item.value_json)
        rows.append({name: value for name, value in row.items() if not name.startswith("_")})
    return rows


def of(folder, kind):
    return [getattr(each, kind) for each in records(folder) if each.WhichOneof("record_type") == kind]


def test_metrics_images_and_histograms_are_rows_with_their_counters(tmp_path):
    sink = wandb("project", dir=tmp_path, name="name", settings={"x_disable_stats": True})

    sink.start()
    log_metrics(sink)
    show(sink)
    sink.close()

    first, second, third, grey, colours, weights = history(tmp_path)
    assert first == {"loss": 0.5, "norm/a.*": 2.0, "epoch": 0, "step": 1, "seconds": 0.25}
    assert second == {"loss": 0.25, "epoch": 1, "step": 2, "seconds": 0.5}
    assert isnan(float(third.pop("val_loss")))
    assert float(third.pop("val_acc")) == inf
    assert third == {"epoch": 1, "step": 2, "seconds": 0.75}
    assert (grey["step"], pixels(tmp_path, grey["images/grey"])) == (2, GREY_BYTES)
    assert (colours["step"], pixels(tmp_path, colours["images/colours"])) == (3, COLOUR_BYTES)
    assert (weights["step"], sum(weights["weights"]["values"])) == (3, 3)
    (run,), (end,) = of(tmp_path, "run"), of(tmp_path, "exit")
    assert (run.project, run.display_name, end.exit_code) == ("project", "name", 0)
    axis = [each.step_metric for each in of(tmp_path, "metric") if each.glob_name == "*"]
    assert axis == ["step"]


def pixels(folder, image):
    (path,) = folder.glob(f"wandb/offline-run-*/files/{image['path']}")
    return numpy.asarray(Image.open(path)).tolist()


def test_a_run_has_the_id_that_it_is_given_and_says_that_it_failed(tmp_path):
    sink = wandb("project", dir=tmp_path, id="of-mine")

    sink.log(Metrics({"val_loss": 0.5}), ValidationEnd(step=1, seconds=1.0))
    sink.fail()

    (run,), (end,) = of(tmp_path, "run"), of(tmp_path, "exit")
    assert (run.run_id, end.exit_code) == ("of-mine", 1)


def test_each_of_our_runs_is_one_of_its_own(tmp_path):
    sink = wandb("project", dir=tmp_path)

    for _ in range(2):
        sink.start()
        sink.close()

    assert len([*tmp_path.glob("wandb/offline-run-*/run-*.wandb")]) == 2


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match=r"^wandb: mode must be 'offline' or 'online', got 'disabled'"):
        wandb(mode="disabled")
