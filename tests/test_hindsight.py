"""Replay and history: what callbacks make of events that are over."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fncb.alternatives import whatif
from fncb.callback import Callback, compose
from fncb.effects import Save, Stop
from fncb.events import TrainBatchEnd, ValidationEnd
from fncb.hindsight import Moment, Replay, history, replay
from fncb.recording import read
from tests.looking_back import Files, checks, counter, keep_last, run, stop_above


def test_replay_folds_state_and_effects_in_order():
    both = compose(counter(), stop_above(1.0))

    assert replay(both, checks(0.5, 1.5, 2.5)) == Replay(
        {"count": 3, "stop": both.parts[1].init()}, (Stop("val_loss is 1.5"), Stop("val_loss is 2.5"))
    )


def test_replay_takes_a_list_of_callbacks():
    assert replay([counter("a"), counter("b")], checks(1, 2)).state == {"a": 2, "b": 2}
    assert replay([], checks(1)) == Replay({}, ())


def test_replay_goes_on_from_a_state():
    assert replay(counter(), iter(checks(1, 2)), state=5).state == 7
    assert replay(attrs.evolve(counter(), init=lambda: 9), checks(1), state=0).state == 1


def test_replay_of_what_nobody_hears_returns_the_very_same_state():
    state = {"count": 1}

    assert replay(compose(counter()), [TrainBatchEnd(step=1)] * 3, state).state is state


@given(st.lists(st.floats(0, 2)), st.integers(0, 20))
def test_resuming_anywhere_changes_nothing(losses, cut):
    callback, events = compose(counter(), stop_above(1.0), keep_last(2)), checks(*losses)
    first = replay(callback, events[:cut])
    second = replay(callback, events[cut:], first.state)
    whole = replay(callback, events)

    assert Replay(second.state, first.effects + second.effects) == whole


def test_replay_does_not_answer_saves():
    assert replay(keep_last(1), checks(1, 2)) == Replay(
        Files(), (Save("runs/0.safetensors"), Save("runs/10.safetensors"))
    )


@pytest.mark.parametrize("form", [lambda path: path, str, read], ids=["path", "str", "Recording"])
def test_a_recording_replayed_gives_the_states_and_effects_of_the_run(form, tmp_path):
    callback = compose(keep_last(2), counter(), stop_above(3.0))
    state, effects = run(callback, checks(0.1, 2, 3, float("inf")), tmp_path / "a")
    replayed = replay(callback, form(tmp_path / "a"))

    assert replayed == Replay(state, effects)
    assert replayed.state["keep"].known == ("runs/real-20.safetensors", "runs/real-30.safetensors")
    assert replayed.effects == read(tmp_path / "a").effects


def test_an_error_in_a_hook_names_it():
    with pytest.raises(KeyError) as error:
        replay(stop_above(1.0), [ValidationEnd(epoch=2, step=7)])

    assert error.value.__notes__ == ["stop: on_validation_end failed at epoch 2, step 7."]


def test_history_shows_every_moment_heard_or_not():
    a, b = checks(0.5, 1.5)
    unheard = TrainBatchEnd(step=1)
    moments = list(history(stop_above(1.0), [a, unheard, b]))
    state = stop_above(1.0).init()

    assert moments == [Moment(a, state, ()), Moment(unheard, state, ()), Moment(b, state, (Stop("val_loss is 1.5"),))]


def test_history_of_a_recording_has_its_events_only(tmp_path):
    callback = keep_last(1)
    state, effects = run(callback, checks(1, 2), tmp_path / "a")
    moments = list(history([callback], tmp_path / "a", {"keep": Files()}))

    assert [moment.event for moment in moments] == list(read(tmp_path / "a").events)
    assert moments[-1].state == {"keep": state}
    assert sum((moment.effects for moment in moments), ()) == effects


@pytest.mark.parametrize("look_back", [replay, history, lambda callback, events: whatif(events, {"it": callback})])
def test_events_that_nobody_recorded_are_missed_aloud(look_back, tmp_path):
    run(counter(), checks(1), tmp_path / "a")
    batches = Callback(key="batches", on_train_batch_end=lambda state, event: state)

    message = "batches must be given what on_train_batch_end hears, got a recording without it: this recording holds no"
    with pytest.raises(ValueError, match=f"{message} TrainBatchEnd events, since nobody heard them"):
        look_back(compose(counter(), batches), tmp_path / "a")


def test_a_list_made_by_hand_may_lack_anything():
    assert replay(keep_last(1), []).state == Files()
