"""Metrics as a table: one CSV file, a row a moment, a column a metric."""

import csv as _csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fncb.events import Event, Metrics, TrainBatchEnd
from fncb.sinks.sink import Sink

_KEEP = 512  # rows whose metrics may wait on the device before they are read and written


def csv(path: str | Path) -> Sink:
    """Writes metrics to a CSV file with the columns `epoch`, `step`, `seconds` and the metrics in order of appearance.

    Rows of single batches wait until something else is logged, or there are 512 of them, and are then read from the
    device in one go. A file that exists is continued; when a metric appears that has no column yet, the file is
    written anew with one more column, under another name first, so that no row is ever lost.

    Args:
      path: of the file; its directory is made.

    Example:
      >>> import tempfile
      >>> where = Path(tempfile.mkdtemp(), "metrics.csv")
      >>> sink = csv(where)
      >>> sink.log(Metrics({"loss": 0.5}), Event(epoch=0, step=10, seconds=1.5))
      >>> sink.close()
      >>> print(where.read_text().strip())
      epoch,step,seconds,loss
      0,10,1.5,0.5
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting: list[tuple[Metrics, Event]] = []
    columns, _ = _read(path)
    columns = columns or ["epoch", "step", "seconds"]

    def log(metrics: Metrics, event: Event) -> None:
        waiting.append((metrics, event))
        if len(waiting) >= _KEEP or not isinstance(event, TrainBatchEnd):
            write()

    def write() -> None:
        rows: list[dict[str, Any]] = [
            {"epoch": event.epoch, "step": event.step, "seconds": event.seconds, **metrics}
            for metrics, event in waiting
        ]
        waiting.clear()
        new = list(dict.fromkeys(name for row in rows for name in row if name not in columns))
        if new or not path.exists():
            _, before = _read(path)
            columns.extend(new)
            part = path.with_name(f"{path.name}.part")
            _write(part, "w", columns, [dict(zip(columns, columns, strict=True)), *before, *rows])
            os.replace(part, path)
        else:
            _write(path, "a", columns, rows)

    return Sink(log=log, close=write)


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    if not path.exists():
        return [], []
    with path.open(newline="") as file:
        reader = _csv.DictReader(file)
        rows = list(reader)
        return list(reader.fieldnames or ()), rows


def _write(path: Path, how: str, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    with path.open(how, newline="") as file:
        _csv.DictWriter(file, columns, lineterminator="\n").writerows(rows)
