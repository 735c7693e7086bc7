"""Profiles: of what comes between start and stop, in a file that is never in the way of another."""

import gzip
import json

import pytest
import torch

from fncb import events as ev
from fncb.effects import StartProfiler, StopProfiler
from fncb.profiling import Profiler

NOW = ev.Event()


def names_in(path):
    written = path.read_bytes()
    trace = json.loads(gzip.decompress(written) if path.suffix == ".gz" else written)
    return {each.get("name") for each in trace["traceEvents"]}


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_trace_shows_what_came_between(tmp_path, name):
    profiler, path = Profiler(), tmp_path / "made" / name

    torch.ones(2).cos()
    profiler.start(StartProfiler(str(path)), NOW)
    torch.ones(2).sin()
    profiler.stop(StopProfiler(), NOW)
    torch.ones(2).tan()

    found = names_in(path)
    assert "aten::sin" in found
    assert not found & {"aten::cos", "aten::tan"}


@pytest.mark.parametrize(
    ("name", "next_name"), [("a.json", "a-v1.json"), ("a.json.gz", "a-v1.json.gz"), ("e=0.5.json", "e=0.5-v1.json")]
)
def test_a_name_that_is_taken_gets_a_suffix(tmp_path, name, next_name):
    (tmp_path / name).write_text("taken")
    profiler = Profiler()

    profiler.start(StartProfiler(str(tmp_path / name)), NOW)
    profiler.stop(StopProfiler(), NOW)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, next_name])
    assert (tmp_path / name).read_text() == "taken"


def test_another_start_ends_the_one_under_way(tmp_path):
    profiler = Profiler()

    profiler.start(StartProfiler(str(tmp_path / "a.json")), NOW)
    torch.ones(2).sin()
    profiler.start(StartProfiler(str(tmp_path / "b.json")), NOW)
    torch.ones(2).cos()
    profiler.close()

    assert "aten::cos" not in names_in(tmp_path / "a.json")
    assert "aten::sin" not in names_in(tmp_path / "b.json")


def test_without_a_profile_there_is_nothing_to_stop(tmp_path):
    profiler = Profiler()

    profiler.stop(StopProfiler(), NOW)
    profiler.close()
    assert list(tmp_path.iterdir()) == []


def test_shapes_are_in_it_if_they_are_asked_for(tmp_path):
    profiler, path = Profiler(), tmp_path / "a.json"

    profiler.start(StartProfiler(str(path), record_shapes=True), NOW)
    torch.ones(2, 3).sin()
    profiler.close()

    (sine,) = [each for each in json.loads(path.read_text())["traceEvents"] if each.get("name") == "aten::sin"]
    assert sine["args"]["Input Dims"] == [[2, 3]]
