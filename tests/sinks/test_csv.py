"""The CSV sink: rows in order, columns as they appear, nothing lost."""

import torch

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


def test_rows_of_batches_wait_on_the_device_until_something_else_is_logged(tmp_path):
    metrics = Metrics(None, ("loss",), torch.tensor([0.5]))
    sink = csv(tmp_path / "metrics.csv")

    sink.log(metrics, TrainBatchEnd(step=1, seconds=1.0))
    assert metrics.pending is not None
    sink.log(Metrics({"val_loss": 1.5}), ValidationEnd(step=1, seconds=2.0))

    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "epoch,step,seconds,loss,val_loss",
        "0,1,1.0,0.5,",
        "0,1,2.0,,1.5",
    ]


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
