"""Metrics as lines of JSON: one object a moment."""

from math import isfinite
from pathlib import Path

import msgspec

from fncb.sinks.bulk import Row, append_lines, in_bulk
from fncb.sinks.sink import Sink


def jsonl(path: str | Path) -> Sink:
    """Writes metrics to a file with a JSON object on each line: `epoch`, `step`, `seconds` and the metrics by name.

    What is not finite is the string "NaN", "Infinity" or "-Infinity", since JSON has no such numbers. Rows of single
    batches wait for a while, up to 10 seconds, and are then read from the device in one go. A file that exists is
    continued. Images and histograms are not kept.

    Args:
      path: of the file; its directory is made.

    Example:
      >>> import tempfile
      >>> from fncb.events import Event, Metrics
      >>> where = Path(tempfile.mkdtemp(), "metrics.jsonl")
      >>> sink = jsonl(where)
      >>> sink.log(Metrics({"loss": 0.5, "grad_norm": float("nan")}), Event(epoch=0, step=10, seconds=1.5))
      >>> sink.close()
      >>> print(where.read_text().strip())
      {"epoch":0,"step":10,"seconds":1.5,"loss":0.5,"grad_norm":"NaN"}
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(rows: list[Row]) -> None:
        append_lines(path, "".join(map(_line, rows)))

    return in_bulk(write)


def _line(row: Row) -> str:
    metrics = {name: value if isfinite(value) else _name(value) for name, value in row.metrics.items()}
    return msgspec.json.encode({**row.counters, **metrics}).decode() + "\n"


def _name(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
