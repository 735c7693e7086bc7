"""The sink of JSON lines: every number kept, nothing lost."""

import json
from math import inf, isnan, nan

from fncb.events import Metrics, TrainBatchEnd, ValidationEnd
from fncb.sinks import jsonl


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_moment_is_a_line_of_its_own(tmp_path):
    path = tmp_path / "logs" / "metrics.jsonl"
    sink = jsonl(path)

    sink.log(Metrics({"loss": 0.1}), TrainBatchEnd(epoch=0, step=1, seconds=0.5))
    sink.log(Metrics({"val_loss": 0.25, "größe/a b": 1e300}), ValidationEnd(epoch=1, step=2, seconds=1.5))
    sink.close()

    assert lines(path) == [
        {"epoch": 0, "step": 1, "seconds": 0.5, "loss": 0.1},
        {"epoch": 1, "step": 2, "seconds": 1.5, "val_loss": 0.25, "größe/a b": 1e300},
    ]


def test_what_is_not_finite_is_a_string_that_float_reads(tmp_path):
    sink = jsonl(tmp_path / "metrics.jsonl")

    sink.log(Metrics({"a": nan, "b": inf, "c": -inf}), ValidationEnd(step=2, seconds=1.5))
    (line,) = lines(tmp_path / "metrics.jsonl")

    assert (line["a"], line["b"], line["c"]) == ("NaN", "Infinity", "-Infinity")
    assert isnan(float(line["a"]))
    assert (float(line["b"]), float(line["c"])) == (inf, -inf)


def test_a_file_that_exists_is_continued_after_a_torn_line_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":1}\n{"st')
    for step in (2, 3):
        sink = jsonl(path)
        sink.log(Metrics({"loss": 0.5}), TrainBatchEnd(step=step, seconds=1.0))
        sink.close()

    whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["step"] for line in whole] == [1, 2, 3]
    assert path.read_text().splitlines()[1] == '{"st'
