"""Rows that wait: for how long, what is read, and what becomes of those that cannot be written."""

import gc
import weakref

import pytest
import torch

from fncb.events import Metrics, TrainBatchEnd, TrainBatchStart, ValidationEnd
from fncb.sinks.bulk import append_lines, in_bulk


def written():
    """A sink, and the list of what it wrote at once: (step, metrics) of each row."""
    seen = []
    return in_bulk(lambda rows: seen.append([(row.step, dict(row.metrics)) for row in rows])), seen


def test_rows_of_batches_wait_on_the_device_until_something_else_is_logged():
    sink, seen = written()
    metrics = [Metrics(None, ("loss",), torch.tensor([value])) for value in (0.5, 0.25)]

    sink.log(metrics[0], TrainBatchStart(step=0, seconds=1.0))
    sink.log(metrics[1], TrainBatchEnd(step=1, seconds=1.0))
    assert (seen, [each.pending is None for each in metrics]) == ([], [False, False])
    sink.log(Metrics({"val_loss": 1.5}), ValidationEnd(step=1, seconds=2.0))

    assert seen == [[(0, {"loss": 0.5}), (1, {"loss": 0.25}), (1, {"val_loss": 1.5})]]


@pytest.mark.parametrize(("batches", "seconds", "written_then"), [(511, 9.5, 0), (512, 0.0, 512), (2, 10.0, 2)])
def test_they_wait_until_there_are_many_or_the_first_has_waited_for_long(batches, seconds, written_then):
    sink, seen = written()

    for step in range(batches):
        last = step == batches - 1
        sink.log(Metrics({"loss": 0.5}), TrainBatchEnd(step=step, seconds=100.0 + last * seconds))

    assert sum(map(len, seen)) == written_then


def test_closing_writes_what_waits_and_nothing_if_nothing_does():
    sink, seen = written()

    sink.close()
    sink.log(Metrics({"loss": 0.5}), TrainBatchEnd(step=1))
    sink.close()
    sink.close()

    assert seen == [[(1, {"loss": 0.5})]]


def test_what_fails_to_be_written_waits_on():
    seen, full = [], [True]

    def write(rows):
        if full:
            raise OSError("no space left")
        seen.extend(row.step for row in rows)

    sink = in_bulk(write)
    sink.log(Metrics({"loss": 0.5}), TrainBatchEnd(step=1))
    with pytest.raises(OSError, match="no space left"):
        sink.log(Metrics({"val_loss": 0.5}), ValidationEnd(step=2))
    full.clear()
    sink.close()

    assert seen == [1, 2]


def test_a_row_that_waits_does_not_hold_the_batch():
    sink, _ = written()
    batch = torch.ones(2)
    there = weakref.ref(batch)

    sink.log(Metrics({"loss": 0.5}), TrainBatchEnd(step=1, batch=batch))
    del batch
    gc.collect()

    assert there() is None


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, "new\n"), ("", "new\n"), ("old\n", "old\nnew\n"), ("old\nto", "old\nto\nnew\n")],  # the last one is torn
)
def test_lines_that_are_added_begin_on_a_line_of_their_own(tmp_path, before, after):
    path = tmp_path / "file"
    if before is not None:
        path.write_text(before)

    append_lines(path, "new\n")

    assert path.read_text() == after
