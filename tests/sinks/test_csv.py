"""The CSV sink: rows in order, columns as they appear, nothing lost."""

from math import inf, nan

import pytest

from fncb.events import Metrics, TrainBatchEnd, ValidationEnd
from fncb.sinks import csv


def test_a_metric_that_appears_later_gets_a_column_and_earlier_rows_stay(tmp_path):
    sink = csv(tmp_path / "logs" / "metrics.csv")

    sink.log(Metrics({"val_loss": 0.5}), ValidationEnd(epoch=0, step=2, seconds=1.0))
    sink.log(Metrics({"val_loss": 0.25, "val_acc": 1.0}), ValidationEnd(epoch=1, step=4, seconds=2.0))
    sink.log(Metrics({"val_acc": 0.5}), ValidationEnd(epoch=2, step=6, seconds=3.0))
    sink.close()

    assert (tmp_path / "logs" / "metrics.csv").read_text().splitlines() == [
        "epoch,step,seconds,val_loss,val_acc",
        "0,2,1.0,0.5,",
        "1,4,2.0,0.25,1.0",
        "2,6,3.0,,0.5",
    ]
    assert [file.name for file in (tmp_path / "logs").iterdir()] == ["metrics.csv"]


def test_a_file_that_exists_is_continued(tmp_path):
    for step in (1, 2):
        sink = csv(tmp_path / "metrics.csv")
        sink.log(Metrics({"loss": 0.5}), TrainBatchEnd(step=step, seconds=float(step)))
        sink.close()

    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "epoch,step,seconds,loss",
        "0,1,1.0,0.5",
        "0,2,2.0,0.5",
    ]


def test_rows_go_on_after_a_torn_one(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,seconds,loss\n0,1,1.0,0.5\n0,2,2.")

    sink = csv(path)
    sink.log(Metrics({"loss": 0.25}), TrainBatchEnd(step=3, seconds=3.0))
    sink.close()

    assert path.read_text().splitlines() == ["epoch,step,seconds,loss", "0,1,1.0,0.5", "0,2,2.", "0,3,3.0,0.25"]


def test_a_row_that_could_not_be_written_is_written_later_with_its_columns(tmp_path):
    path = tmp_path / "metrics.csv"
    sink = csv(path)
    sink.log(Metrics({"loss": 0.5}), ValidationEnd(step=1, seconds=1.0))
    (tmp_path / "metrics.csv.part").mkdir()  # in the way of the file with one more column

    with pytest.raises(IsADirectoryError):
        sink.log(Metrics({"acc": 1.0}), ValidationEnd(step=2, seconds=2.0))
    (tmp_path / "metrics.csv.part").rmdir()
    sink.close()

    assert path.read_text().splitlines() == ["epoch,step,seconds,loss,acc", "0,1,1.0,0.5,", "0,2,2.0,,1.0"]


def test_what_is_not_finite_is_written_by_its_name(tmp_path):
    sink = csv(tmp_path / "metrics.csv")
    sink.log(Metrics({"a": nan, "b": -inf}), ValidationEnd(step=1, seconds=1.0))

    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,step,seconds,a,b", "0,1,1.0,nan,-inf"]
