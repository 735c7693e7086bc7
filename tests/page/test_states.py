"""States folded again for a page, and compared with what was recorded."""

from math import nan

import attrs
import pytest

from fncb import events as ev
from fncb.callback import Callback, emit
from fncb.effects import Log, Print, Stop
from fncb.page.states import changes_of, sentence, told
from fncb.recording import Recording

CHECKS = tuple(ev.ValidationEnd(epoch=i, step=10 * i, metrics={"val_loss": x}) for i, x in enumerate((4.0, 2.0, 3.0)))
RUN = Recording({}, (ev.TrainStart(), *CHECKS, ev.TrainEnd()))
ALL = range(5)


@attrs.frozen
class Best:
    best: float | None = None
    checks: int = 0


def watch(raises_at=None):
    """Keeps the best, prints each that is none, and raises if it is told to."""

    def on_validation_end(state, event):
        if event.step == raises_at:
            raise KeyError("val_acc")
        loss = event.metrics["val_loss"]
        if state.best is None or loss < state.best:
            return Best(loss, state.checks + 1)
        return emit(attrs.evolve(state, checks=state.checks + 1), Print("worse"))

    return Callback(key="watch", init=Best, on_validation_end=on_validation_end)


def test_a_state_is_its_first_value_and_what_changed_it():
    found = told(watch(), RUN, {3: [Print("worse")]}, ALL)

    assert found == {
        "known": True,
        "init": {"d": ["best", None, "checks", 0]},
        "at": found["at"],
        "patches": [
            [1, ["best", 4.0, "checks", 1], []],
            [1, ["best", 2.0, "checks", 2], []],
            [1, ["checks", 3], []],
        ],
        "asked": 1,
        "failed": None,
        "compared": True,
        "differs": None,
    }
    assert [*found["at"]] == [1, 2, 3]


def test_a_change_at_an_event_that_is_not_shown_is_told_at_the_next():
    found = told(watch(), RUN, None, [0, 2, 4])

    assert [*found["at"]] == [1, 2]  # the second and the third of those that are shown
    assert found["patches"] == [[1, ["best", 2.0, "checks", 2], []], [1, ["checks", 3], []]]


def test_what_comes_back_to_what_it_was_between_two_shown_events_is_no_change():
    flip = Callback(key="flip", init=bool, on_validation_end=lambda state, event: not state)

    assert [*told(flip, RUN, None, [0, 2, 4])["at"]] == [2]
    assert changes_of(flip, RUN) == [1, 2, 3]


@pytest.mark.parametrize(
    ("recorded", "at", "there", "here"),
    [
        ({}, 3, "nothing", "Print(text='worse')"),
        ({2: [Stop("enough")], 3: [Print("worse")]}, 2, "Stop(reason='enough')", "nothing"),
        ({3: [Print("better")]}, 3, "Print(text='better')", "Print(text='worse')"),
        ({3: [Print("worse"), Print("worse")]}, 3, "Print(text='worse'), Print(text='worse')", "Print(text='worse')"),
    ],
)
def test_the_first_effect_that_differs_is_told(recorded, at, there, here):
    found = told(watch(), RUN, recorded, ALL)

    assert found["differs"] == {"at": at, "recorded": there, "folded": here}


def test_without_keys_in_the_recording_nothing_is_compared():
    found = told(watch(), RUN, None, ALL)

    assert (found["compared"], found["differs"]) == (False, None)


def test_effects_that_the_end_of_the_file_cut_off_are_no_difference():
    run = Recording({}, RUN.entries[:4], torn=9)

    assert told(watch(), run, {}, range(4))["differs"] is None


def test_numbers_that_are_not_numbers_are_alike():
    def on_train_end(state, event):
        return emit(state, Log({"a": float("nan"), "b": 1.0}))

    log = Callback(key="log", on_train_end=on_train_end)

    assert told(log, RUN, {4: [Log({"a": nan, "b": 1.0})]}, ALL)["differs"] is None
    assert told(log, RUN, {4: [Log({"a": nan, "b": 2.0})]}, ALL)["differs"] is not None


def test_a_hook_that_raises_ends_the_folding_of_its_callback_there():
    found = told(watch(raises_at=10), RUN, {}, ALL)

    assert [*found["at"]] == [1]
    assert found["failed"] == {
        "at": 2,
        "why": "KeyError: 'val_acc' watch: on_validation_end failed at epoch 1, step 10.",
    }
    assert found["differs"] is None  # it was never asked about the third
    assert changes_of(watch(raises_at=10), RUN) == [1]


def test_a_live_field_is_told_by_its_sentence():
    look = Callback(key="look", on_train_batch_end=lambda state, event: event.batch)
    found = told(look, Recording({}, (ev.TrainBatchEnd(step=3),)), {}, range(1))

    assert found["failed"]["at"] == 0
    assert found["failed"]["why"].startswith("LiveFieldError: TrainBatchEnd at step 3: `batch` is a live field")


def test_a_recording_that_left_out_what_a_callback_hears_tells_nothing_of_it():
    found = told(watch(), Recording({"recorded": ["TrainStart"]}, RUN.entries), {}, ALL)

    assert not found["known"]
    assert "it holds no ValidationEnd" in found["failed"]["why"] or "holds no ValidationEnd" in found["failed"]["why"]
    assert changes_of(watch(), Recording({"recorded": ["TrainStart"]}, RUN.entries)) == []


def test_a_first_state_that_cannot_be_made_is_told():
    def init():
        raise RuntimeError("no")

    assert told(Callback(key="a", init=init), RUN, {}, ALL)["failed"] == {"at": 0, "why": "RuntimeError: no"}


def test_none_is_a_state_like_others():
    found = told(Callback(key="a", init=lambda: None, on_train_end=lambda state, event: None), RUN, {}, ALL)

    assert (found["known"], found["init"]) == (True, None)


def test_a_sentence_has_what_was_noted():
    error = ValueError("a" * 1000)

    assert sentence(error) == f"ValueError: {'a' * 588}… (1,012 characters)"
