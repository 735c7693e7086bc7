"""Metrics as a table: one CSV file, a row a moment, a column a metric."""

import csv as _csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fncb.sinks.bulk import Row, append_lines, in_bulk
from fncb.sinks.sink import Sink


def csv(path: str | Path) -> Sink:
    """Writes metrics to a CSV file with the columns `epoch`, `step`, `seconds` and the metrics in order of appearance.

    Rows of single batches wait for a while, up to 10 seconds, and are then read from the device in one go. A file that
    exists is continued; when a metric appears that has no column yet, the file is written anew with one more column,
    under another name first, so that no row is ever lost.

    Args:
      path: of the file; its directory is made.

    Example:
      >>> import tempfile
      >>> from fncb.events import Event, Metrics
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

    columns, _ = _read(path)

    def write(rows: list[Row]) -> None:
        nonlocal columns
        new = [{**row.counters, **row.metrics} for row in rows]
        wanted = [*dict.fromkeys([*columns, *(name for each in new for name in each)])]
        if wanted == columns and path.exists():
            append_lines(path, _table(columns, new))
        else:
            part = path.with_name(f"{path.name}.part")
            header = dict(zip(wanted, wanted, strict=True))
            part.write_text(_table(wanted, [header, *_read(path)[1], *new]), encoding="utf-8", newline="")
            os.replace(part, path)
            columns = wanted

    return in_bulk(write)


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = _csv.DictReader(file)
        rows = list(reader)
        return list(reader.fieldnames or ()), rows


def _table(columns: list[str], rows: Iterable[dict[str, Any]]) -> str:
    file = io.StringIO()
    _csv.DictWriter(file, columns, lineterminator="\n").writerows(rows)
    return file.getvalue()
