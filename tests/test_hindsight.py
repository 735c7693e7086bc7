"""Replay, history and whatif: what callbacks make of events that are over."""

from pathlib import PurePath

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fncb.callback import Callback, compose, emit
from fncb.effects import Delete, Log, Save, Stop
from fncb.events import HOOKS, LoadCheckpoint, Saved, StopRequested, TrainBatchEnd, TrainEnd, ValidationEnd
from fncb.hindsight import Moment, Outcome, Replay, WhatIf, history, replay, whatif
from fncb.recording import Recorder, read


def counter(key: str = "count") -> Callback:
    return Callback(key=key, init=int, on_validation_end=lambda state, event: state + 1)


def stop_above(limit: float) -> Callback:
    def on_validation_end(state, event):
        loss = event.metrics["val_loss"]
        return emit(state, Stop(f"val_loss is {loss}")) if loss > limit else state

    return Callback(key="stop", on_validation_end=on_validation_end)


@attrs.frozen
class Files:
    known: tuple[str, ...] = ()
    heard: tuple[str, ...] = ()


def keep_last(n: int, name: str = "{step}.safetensors") -> Callback:
    def on_validation_end(state, event):
        return emit(state, Save("runs/" + name.format(step=event.step)))

    def on_saved(state, event):
        known = (*state.known, event.path)
        gone = known[:-n]
        return emit(Files(known[-n:], (*state.heard, event.requested)), *map(Delete, gone))

    return Callback(key="keep", init=Files, on_validation_end=on_validation_end, on_saved=on_saved)


def checks(*losses: float) -> list[ValidationEnd]:
    return [ValidationEnd(epoch=i, step=10 * i, seconds=i / 2, metrics={"val_loss": x}) for i, x in enumerate(losses)]


def run(callback: Callback, events, path):
    """A run in small: a recording with the answers that the callback's saves got."""
    recorded = [kind.__name__ for kind in HOOKS.values() if callback.hears(kind)]
    recorder, state = Recorder(path, {"recorded": recorded}), callback.init()
    effects = []
    queue = list(events)
    while queue:
        event = queue.pop(0)
        if not callback.hears(type(event)):
            continue
        state, asked = callback.transition(state, event)
        recorder.event(event)
        for effect in asked:
            recorder.effect(effect)
            if isinstance(effect, Save):
                real = str(PurePath(effect.path).with_name("real-" + PurePath(effect.path).name))
                queue.insert(0, Saved(step=event.step, path=real, requested=effect.path))
        effects += asked
    recorder.close()
    return state, tuple(effects)


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


def test_whatif_tells_when_each_would_have_stopped():
    found = whatif(checks(0.5, 1.5, 2.5), {"low": stop_above(1.0), "high": [stop_above(2.0)], "never": stop_above(9.0)})

    assert found == WhatIf(
        {
            "low": Outcome(epoch=1, step=10, seconds=0.5, reason="val_loss is 1.5"),
            "high": Outcome(epoch=2, step=20, seconds=1.0, reason="val_loss is 2.5"),
            "never": Outcome(),
        }
    )
    assert found["low"].step == 10


def test_whatif_feeds_nothing_after_the_stop():
    found = whatif(checks(0.5, 1.5, 0.5), {"it": compose(keep_last(9), stop_above(1.0))})

    assert found["it"].saved == ("runs/0.safetensors", "runs/10.safetensors")


def test_whatif_answers_the_saves_of_the_alternative_only(tmp_path):
    run(keep_last(9, "recorded-{step}"), checks(1, 2, 3), tmp_path / "a")
    found = whatif(tmp_path / "a", {"two": keep_last(2), "one": keep_last(1)})

    files = ("runs/0.safetensors", "runs/10.safetensors", "runs/20.safetensors")
    assert found["two"] == Outcome(saved=files, kept=files[1:])
    assert found["one"] == Outcome(saved=files, kept=files[2:])


def test_whatif_gives_a_taken_name_a_suffix_as_the_disk_does():
    kept = whatif(checks(1, 2, 3), {"it": keep_last(2, "best.safetensors")})["it"].kept

    assert kept == ("runs/best-v1.safetensors", "runs/best-v2.safetensors")


def test_whatif_can_be_asked_of_a_run_in_which_nobody_saved(tmp_path):
    run(counter(), checks(1), tmp_path / "a")

    assert whatif(tmp_path / "a", {"it": keep_last(1)})["it"].saved == ("runs/0.safetensors",)


def test_whatif_leaves_out_that_the_recorded_run_stopped_and_tells_its_own_stop():
    def on_stop_requested(state, event):
        return emit(state, Save(f"at the stop: {event.reason}, step {event.step}"))

    last = Callback(key="last", on_stop_requested=on_stop_requested)
    events = [*checks(0.5), StopRequested(reason="another"), *checks(0.5, 1.5)]

    assert whatif(events, {"it": [stop_above(1.0), last], "not": last}) == WhatIf(
        {
            "it": Outcome(
                epoch=1,
                step=10,
                seconds=0.5,
                reason="val_loss is 1.5",
                saved=("at the stop: val_loss is 1.5, step 10",),
                kept=("at the stop: val_loss is 1.5, step 10",),
            ),
            "not": Outcome(),
        }
    )


def test_whatif_carries_out_all_effects_of_the_event_that_stops():
    def on_train_end(state, event):
        return emit(state, Stop("first"), Stop("second"), Log({"a": 1.0}), Save("a"))

    found = whatif([TrainEnd(epoch=1)] * 2, {"it": Callback(key="all", on_train_end=on_train_end)})["it"]

    assert found == Outcome(epoch=1, step=0, seconds=0.0, reason="first", saved=("a",), kept=("a",))


def test_whatif_prints_as_a_table():
    alternatives = {"early": compose(stop_above(1.0), keep_last(1)), "late": stop_above(9.0)}

    assert str(whatif(checks(0.5, 1.5), alternatives)) == (
        "       stops at          seconds  saves  keeps  reason\n"
        "early  epoch 1, step 10  0.5      2      1      val_loss is 1.5\n"
        "late   never                      0      0"
    )


def test_whatif_takes_an_iterator_once_for_all():
    assert whatif(iter(checks(1.5)), {name: stop_above(1.0) for name in "ab"})["b"].reason == "val_loss is 1.5"


def test_events_that_are_facts_are_fed():
    loaded = Callback(key="a", on_load_checkpoint=lambda state, event: emit(state, Stop(event.path)))

    assert whatif([LoadCheckpoint(path="x")], {"it": loaded})["it"].reason == "x"
