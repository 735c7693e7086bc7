"""Records as columns."""

from array import array
from math import inf, nan

import pytest

from fncb import events as ev
from fncb.effects import Log, Render, Save, Stop
from fncb.metrics import Unrecorded
from fncb.page.tables import metrics_of, numbers, table_of


def columns(part):
    return dict(part["fields"])


def test_each_class_has_a_part_and_each_record_its_class():
    table = table_of([ev.TrainStart(), ev.ValidationEnd(), ev.TrainStart()])

    assert table["kinds"] == ["TrainStart", "ValidationEnd"]
    assert [*table["kind"]] == [0, 1, 0]
    assert len(table["parts"]) == 2


def test_a_field_that_is_always_as_by_default_has_no_column():
    (part,) = table_of([ev.TrainBatchEnd(batch_idx=0), ev.TrainBatchEnd(batch_idx=1)])["parts"]

    assert columns(part) == {"batch_idx": {"values": array("i", [0, 1])}}


def test_a_value_that_all_have_is_kept_once():
    saves = [ev.Saved(path=f"{i}", requested="same", bytes=7) for i in range(3)]
    (part,) = table_of(saves)["parts"]

    assert columns(part) == {
        "path": {"values": ["0", "1", "2"]},
        "requested": {"all": "same"},
        "bytes": {"all": 7},
    }


def test_what_is_as_by_default_here_and_there_is_left_out_there():
    (part,) = table_of([Render("a"), Render("a", done=True), Render("b")])["parts"]

    assert columns(part) == {
        "label": {"values": ["a", "a", "b"]},
        "done": {"values": [True], "rows": array("I", [1])},
    }


def test_metrics_that_some_events_have_say_which():
    (part,) = table_of([ev.TrainEnd(metrics={"a": 0.5}), ev.TrainEnd(metrics={"a": 1.5, "b": 2.5})])["parts"]

    assert part["metrics"] == [
        ["a", {"values": array("f", [0.5, 1.5])}],
        ["b", {"values": array("f", [2.5]), "rows": array("I", [1])}],
    ]


def test_a_million_names_take_a_row_each_and_not_a_million():
    events = [ev.TrainEnd(metrics={f"{i}": float(i)}) for i in range(500)]
    (part,) = table_of(events)["parts"]

    assert sum(len(column["values"]) for _, column in part["metrics"]) == 500


def test_what_an_effect_logs_are_metrics_too():
    (part,) = table_of([Log({"seconds": 0.5}, key="timer")])["parts"]

    assert part == {"fields": [], "metrics": [["seconds", {"values": array("f", [0.5])}]]}


def test_live_fields_and_keys_are_no_columns():
    (part,) = table_of([Render("a", metrics={"loss": 0.5}, key="bar")])["parts"]

    assert part == {"fields": [["label", {"all": "a"}]], "metrics": []}


def test_metrics_that_were_not_recorded_are_none():
    assert metrics_of(ev.TrainBatchEnd(metrics=Unrecorded("a batch"))) == {}
    assert metrics_of(Stop("enough")) == {}


@pytest.mark.parametrize(
    ("values", "code"), [([0.5, nan, inf], "f"), ([0.1], "d"), ([1e300], "d"), ([], "f"), ([16777217.0], "d")]
)
def test_numbers_take_four_bytes_only_if_nothing_is_lost(values, code):
    made = numbers(values)

    assert made.typecode == code
    assert [*map(repr, made)] == [*map(repr, values)]


def test_a_column_may_hold_anything():
    paths = ["a", "b" * 3000]
    (part,) = table_of([Save(path) for path in paths])["parts"]

    assert columns(part)["path"]["values"] == ["a", "b" * 2000 + "… (3,000 characters)"]
