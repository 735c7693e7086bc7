"""Where two runs part: the first event or effect that is not the same, and what is different about it."""

from math import nan

import pytest

from fncb.differing import Difference, diff
from fncb.effects import Print, Save, Stop
from fncb.events import Saved, StepCompiled, TrainBatchEnd, TrainEnd, ValidationEnd
from fncb.recorder import Recorder
from fncb.recording import Recording
from tests.looking_back import checks


def test_runs_that_are_the_same_do_not_part():
    assert diff(checks(1, 2), checks(1, 2)) == Difference(2, checks(1, 2)[-1], False)
    assert str(diff(checks(1, 2), checks(1, 2))) == "the runs are the same: 2 events and effects"
    assert diff([], []) == Difference(0, None, False)


def test_the_first_metric_that_differs_is_named_with_both_values():
    found = diff(checks(1, 2, 3), checks(1, 2.5, 4))

    assert (found.same, found.last) == (1, checks(1)[0])
    assert (found.ours, found.theirs) == (checks(1, 2)[1], checks(1, 2.5)[1])
    assert found.fields == {"metrics.val_loss": (2.0, 2.5)}


def test_a_metric_that_only_one_run_has_differs():
    ours, theirs = ValidationEnd(metrics={"a": 1.0}), ValidationEnd(metrics={"a": 1.0, "b": nan})

    fields = diff([ours], [theirs]).fields
    assert [*fields] == ["metrics.b"]
    assert fields["metrics.b"][0] is None


def test_not_a_number_is_the_same_as_itself():
    assert not diff(checks(nan), checks(nan)).parts
    assert diff(checks(nan), checks(1)).parts


def test_floats_may_differ_by_a_tolerance_if_that_is_asked_for():
    assert diff(checks(1.0), checks(1.0001)).parts
    assert not diff(checks(1.0), checks(1.0001), rtol=1e-3).parts


def test_another_event_or_effect_is_told_with_both():
    found = diff([*checks(1), Stop("enough"), TrainEnd(epoch=1)], [*checks(1), TrainEnd(epoch=1)])

    assert (found.ours, found.theirs) == (Stop("enough"), TrainEnd(epoch=1))
    assert str(found) == (
        "the runs part after on_validation_end at epoch 0, step 0; 1 events and effects before that are the same\n"
        "  the first then has Stop(reason='enough')\n"
        "  the second then has on_train_end at epoch 1, step 0"
    )


@pytest.mark.parametrize("longer", [0, 1])
def test_a_run_that_is_longer_parts_where_the_other_ends(longer):
    runs = [checks(1), checks(1)]
    runs[longer] = checks(1, 2)
    found = diff(*runs)

    assert found.parts
    assert [found.ours, found.theirs][longer] == checks(1, 2)[1]
    assert [found.ours, found.theirs][1 - longer] is None
    assert "then has nothing more" in str(found)


def test_effects_of_two_callbacks_differ_by_who_asked():
    assert diff([Stop("a", key="one")], [Stop("a", key="other")]).fields == {"key": ("one", "other")}


def test_times_sizes_folders_and_what_was_shown_are_left_out():
    ours = [
        ValidationEnd(seconds=1.0),
        Save("a/1.safetensors", within="a"),
        Saved(path="a/1.safetensors", requested="a/1.safetensors", bytes=10, took=0.5),
        Print("hello"),
        StepCompiled(graphs=1),
    ]
    theirs = [
        ValidationEnd(seconds=2.0),
        Save("b/1.safetensors", within="b"),
        Saved(path="b/1.safetensors", requested="b/1.safetensors", bytes=11, took=0.25),
    ]

    assert not diff(ours, theirs).parts
    assert diff(ours, [theirs[0], Save("b/2.safetensors")]).fields == {"path": ("1.safetensors", "2.safetensors")}


def test_events_of_a_class_that_only_one_recording_holds_are_left_out():
    both = {"recorded": ["ValidationEnd", "TrainBatchEnd"]}, {"recorded": ["ValidationEnd"]}
    ours, theirs = Recording(both[0], (TrainBatchEnd(step=1), *checks(1))), Recording(both[1], tuple(checks(1)))

    assert not diff(ours, theirs).parts


def test_callbacks_and_arguments_that_differ_are_named():
    mine = {"stop": {"patience": 3, "mode": "min", "dirpath": "a"}, "ema": {}}
    others = {"stop": {"patience": 5, "mode": "min", "dirpath": "b"}, "swa": {}}
    ours, theirs = (Recording({"configs": configs}, tuple(checks(1))) for configs in (mine, others))
    found = diff(ours, theirs)

    assert (found.only_ours, found.only_theirs) == (("ema",), ("swa",))
    assert found.configs == {"stop.patience": (3, 5)}
    assert str(found).splitlines()[:3] == [
        "callbacks: ema only in the first",
        "callbacks: swa only in the second",
        "callbacks: stop.patience is 3 against 5",
    ]


def test_recordings_are_read_from_their_files(tmp_path):
    for name, losses in {"a": (1, 2), "b": (1, 3)}.items():
        recorder = Recorder(tmp_path / name, {})
        for event in checks(*losses):
            recorder.event(event)
        recorder.close()

    assert diff(tmp_path / "a", str(tmp_path / "b")).fields == {"metrics.val_loss": (2.0, 3.0)}
