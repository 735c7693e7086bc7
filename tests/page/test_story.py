"""What a page tells of runs."""

from math import inf, nan

import pytest

from fncb import events as ev
from fncb.callback import Callback, compose, emit
from fncb.callbacks import checkpoint, early_stop
from fncb.effects import Delete, Print, Save, SetLR, Stop
from fncb.page.story import story_of
from fncb.recording import Recording

STOP = "early_stop('val_loss', patience=2)"
HEADER = {"fncb": "0.1.0", "keys": ["early_stop(val_loss)"], "callbacks": {"early_stop(val_loss)": STOP}, "format": 2}


def check(i, loss):
    return ev.ValidationEnd(epoch=i, step=10 * i + 10, seconds=float(i), metrics={"val_loss": loss})


def run_of(*entries, header=HEADER, **more):
    return Recording(header, entries, **more)


def told(recording, **how):
    (run,) = story_of({"it": recording}, **how)["runs"]
    return run


WORSE = Stop("val_loss has not improved on 1 in 2 checks", key="early_stop(val_loss)")
RUN = run_of(check(0, 1.0), check(1, 2.0), check(2, 3.0), WORSE, ev.FitEnd(epoch=3, step=30))


def test_callbacks_are_made_again_from_what_the_recording_says():
    run = told(RUN)

    (callback,) = run["callbacks"]
    assert (callback["key"], callback["text"], callback["why"]) == ("early_stop(val_loss)", STOP, "")
    assert callback["recorded"] == callback["states"]["asked"] == 1
    assert callback["states"]["differs"] is None


def test_a_recording_whose_effects_are_others_than_its_callbacks_would_ask_for_shows():
    header = {**HEADER, "callbacks": {"early_stop(val_loss)": "early_stop('val_loss', patience=1)"}}
    run = told(attrs_of(RUN, header=header))

    (callback,) = run["callbacks"]
    assert callback["states"]["differs"]["at"] == 1
    assert callback["states"]["differs"]["recorded"] == "nothing"


def attrs_of(recording, **changed):
    return Recording(**{"header": recording.header, "entries": recording.entries, **changed})


def test_given_callbacks_are_folded_in_place_of_those_of_the_header():
    count = Callback(key="count", init=int, on_validation_end=lambda state, event: state + 1)
    run = told(RUN, callbacks=[count])

    assert [(each["key"], each["why"]) for each in run["callbacks"]] == [
        ("count", ""),
        ("early_stop(val_loss)", "it is not among `callbacks=`"),
    ]
    assert run["callbacks"][0]["states"]["patches"] == [1, 2, 3]


def test_effects_belong_to_the_event_before_them_and_to_who_asked():
    run = told(run_of(ev.TrainStart(), SetLR(0.5, key="warm_up"), Print("a"), check(0, 1.0), Stop("b", key="mine")))

    effects = run["effects"]
    assert [*effects["at"]] == [0, 0, 1]
    assert [effects["keys"][i] for i in effects["key"]] == ["warm_up", None, "mine"]
    assert [effects["kinds"][i] for i in effects["kind"]] == ["SetLR", "Print", "Stop"]


def test_a_save_is_told_with_the_event_that_answered_it():
    saved = ev.Saved(path="a-v1", requested="a", bytes=7)
    run = told(run_of(check(0, 1.0), Save("a", key="c"), Save("b", key="c"), saved, check(1, 1.0), Save("a", key="c")))

    assert run["effects"]["answer"] == {0: 1}


def test_what_was_saved_again_under_the_same_name_is_answered_in_order():
    saved = ev.Saved(path="a", requested="a")
    run = told(run_of(check(0, 1.0), Save("a"), saved, check(1, 1.0), Save("a"), saved))

    assert run["effects"]["answer"] == {0: 1, 1: 3}


def test_where_a_run_went_on_is_the_event_that_comes_next():
    run = told(run_of(check(0, 1.0), Print("a"), check(1, 1.0), resumed=(2,)))

    assert run["resumed"] == [1]


def test_a_run_that_ends_where_it_went_on_is_shown():
    assert told(run_of(check(0, 1.0), resumed=(1,)))["resumed"] == [0]


def test_other_patience_is_tried_beside_that_of_the_run():
    run = told(RUN)

    names = ["patience=1", "patience=2 (as it ran)", "patience=3", "patience=5", "patience=10"]
    assert [row["name"] for row in run["whatif"]] == names
    assert run["whatif"][0] == {
        "name": "patience=1",
        "at": [1, 20],
        "reason": "val_loss has not improved on 1 in 1 check",
        "epochs_saved": 1,
        "seconds_saved": run["whatif"][0]["seconds_saved"],
        "best": [["val_loss", 1.0, 0.0]],
        "saved": 0,
        "kept": 0,
        "holds": "",
    }
    assert run["whatif"][2]["at"] is None
    assert "nobody knows how" in run["whatif"][2]["holds"]


def test_other_patience_comes_with_what_else_saves_or_stops():
    callbacks = compose(early_stop("val_loss", patience=2), checkpoint("runs/a", monitor="val_loss"))
    run = told(RUN, callbacks=callbacks)

    assert [row["saved"] for row in run["whatif"]] == [1, 1, 1, 1, 1]


def test_alternatives_that_are_given_are_asked_and_none_if_none_are():
    (row,) = told(RUN, alternatives={"at once": early_stop("val_loss", stopping_threshold=5.0)})["whatif"]

    assert row["at"] == [0, 10]
    assert told(RUN, alternatives={})["whatif"] == []


def test_an_alternative_that_can_not_be_asked_is_told_and_the_others_go_on():
    alternatives = {"acc": early_stop("val_acc"), "loss": early_stop("val_loss", patience=1)}
    acc, loss = told(RUN, alternatives=alternatives)["whatif"]

    assert acc["error"].startswith("MissingMetric: ")
    assert loss["at"] == [1, 20]


def test_without_early_stop_there_are_no_alternatives():
    assert told(run_of(check(0, 1.0), header={}))["whatif"] == []


def test_facts_of_a_run():
    setup = ev.Setup(time=1_700_000_000.0)
    facts = told(run_of(setup, *RUN.entries, torn=5))["facts"]

    assert facts["how"] == "stopped"
    assert facts["why"] == WORSE.reason
    assert facts["by"] == "early_stop(val_loss)"
    assert facts["at"] == [2, 30]
    assert (facts["steps"], facts["events"], facts["effects"], facts["torn"]) == (30, 5, 1, 5)
    assert facts["began"] == 1_700_000_000.0
    assert facts["versions"] == [["fncb", "0.1.0"], ["format", "2"]]


@pytest.mark.parametrize("time", [nan, inf, -1e300])
def test_a_clock_that_is_no_clock_tells_no_date(time):
    assert told(run_of(ev.Setup(time=time)))["facts"]["began"] is None


def test_a_recording_of_nothing_has_a_story():
    run = told(run_of())

    assert run["facts"]["how"] == "empty"
    assert run["curves"] == []
    assert len(run["events"]["kind"]) == 0


def test_of_many_events_some_are_shown_and_all_are_numbered():
    batches = [ev.TrainBatchEnd(step=i + 1) for i in range(50)]
    count = Callback(key="count", init=int, on_validation_end=lambda state, event: state + 1)

    def on_train_batch_end(state, event):
        return emit(state, Print("ten")) if event.step == 10 else state

    says = Callback(key="says", on_train_batch_end=on_train_batch_end)
    entries = [*batches[:10], Print("ten", key="says"), *batches[10:], check(0, 1.0)]
    run = told(run_of(*entries), callbacks=[count, says], most=10)

    shown = [*run["numbers"]]
    assert len(shown) == 10
    assert {0, 9, 50} <= {*shown}
    assert [run["events"]["kinds"][k] for k in run["events"]["kind"]][-1] == "ValidationEnd"
    assert [*run["events"]["step"]][:2] == [1.0, shown[1] + 1.0]
    (at,) = run["effects"]["at"]
    assert shown[at] == 9
    assert [*run["callbacks"][0]["states"]["at"]] == [9]
    assert [*run["curves"][0]["at"]] == [9]


def test_effects_at_events_that_are_not_shown_are_counted():
    entries = [each for i in range(20) for each in (ev.TrainBatchEnd(step=i), Delete(f"{i}", key="a"))]
    effects = told(run_of(*entries), most=5)["effects"]

    assert len(effects["at"]) == 5
    assert effects["left_out"] == 15


def test_long_names_are_cut():
    run = told(run_of(ev.ValidationEnd(metrics={"a" * 100_000: 1.0}), Stop("b" * 100_000, key="c" * 100_000)))

    assert len(run["curves"][0]["name"]) < 250
    assert len(run["facts"]["why"]) < 700
    assert len(run["effects"]["keys"][0]) < 250
