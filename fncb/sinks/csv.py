"""Metrics as a table: one CSV file, a row a moment, a column a metric."""

import csv as _csv
import os
from pathlib import Path
from typing import Any

from fncb.events import Event, Metrics, TrainBatchEnd
from fncb.sinks.sink import Sink

_KEEP = 512  # rows whose metrics may wait on the device before they are read and written


def csv(path: str | Path) -> Sink:
    """Writes metrics to a CSV file with the columns `epoch`, `step`, `seconds` and the metrics in order of appearance.

    Rows of single batches wait until something else is logged, or there are 512 of them, and are then read from the
    device in one go. A file that exists is continued; when a metric appears that has no column yet, the file is
    written anew with one more column.

    Args:
      path: of the file; its directory is made.

    Example:
      >>> import tempfile, os
      >>> where = os.path.join(tempfile.mkdtemp(), "metrics.csv")
      >>> sink = csv(where)
      >>> sink.log(Metrics({"loss": 0.5}), Event(epoch=0, step=10, seconds=1.5))
      >>> sink.close()
      >>> print(open(where).read().strip())
      epoch,step,seconds,loss
      0,10,1.5,0.5
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    waiting: list[tuple[Metrics, Event]] = []
    written: list[dict[str, Any]] = []
    columns = ["epoch", "step", "seconds"]
    if path.exists() and path.stat().st_size:
        with path.open(newline="") as file:
            reader = _csv.DictReader(file)
            written.extend(reader)
            columns = list(reader.fieldnames or columns)

    def log(metrics: Metrics, event: Event) -> None:
        waiting.append((metrics, event))
        if len(waiting) >= _KEEP or not isinstance(event, TrainBatchEnd):
            write()

    def write() -> None:
        rows = [
            {"epoch": event.epoch, "step": event.step, "seconds": event.seconds, **metrics}
            for metrics, event in waiting
        ]
        waiting.clear()
        fresh = not path.exists() or not path.stat().st_size
        new = list(dict.fromkeys(name for row in rows for name in row if name not in columns))
        columns.extend(new)
        written.extend(rows)
        if new or fresh:
            part = path.with_name(f"{path.name}.part")
            with part.open("w", newline="") as file:
                writer = _csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(written)
            os.replace(part, path)
        elif rows:
            with path.open("a", newline="") as file:
                _csv.DictWriter(file, columns).writerows(rows)

    return Sink(log=log, close=write)
