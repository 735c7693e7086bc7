"""What other callbacks would have done: when they had stopped, what they had kept, and how far that can be known."""

import attrs
import pytest

from fncb.alternatives import Best, Deviation, Outcome, WhatIf, grid, whatif
from fncb.callback import Callback, StepHooks, compose, emit
from fncb.callbacks import checkpoint, clip_grad_norm, early_stop, reduce_on_plateau
from fncb.effects import Log, Save, SetLR, Stop
from fncb.events import (
    LoadCheckpoint,
    SanityCheckEnd,
    SanityCheckStart,
    StopRequested,
    TrainBatchEnd,
    TrainEnd,
    TrainEpochEnd,
    ValidationEnd,
)
from fncb.metrics import UnrecordedMetrics
from fncb.recorder import Recorder
from fncb.recording import read
from tests.looking_back import checks, counter, keep_last, run, stop_above


def recorded(path, entries, **header):
    recorder = Recorder(path, header)
    for entry in entries:
        (recorder.effect if hasattr(entry, "key") else recorder.event)(entry)
    recorder.close()
    return path


def test_whatif_tells_when_each_would_have_stopped():
    found = whatif(checks(0.5, 1.5, 2.5), {"low": stop_above(1.0), "high": [stop_above(2.0)], "never": stop_above(9.0)})

    assert found == WhatIf(
        {
            "low": Outcome(1, 10, 0.5, "val_loss is 1.5", epochs_saved=1, seconds_saved=0.5),
            "high": Outcome(2, 20, 1.0, "val_loss is 2.5"),
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
                *(1, 10, 0.5, "val_loss is 1.5"),
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
        "       stops at          saves epochs  and seconds  writes  keeps  reason\n"
        "early  epoch 1, step 10  0             0.0          2       1      val_loss is 1.5\n"
        "late   never                                        0       0"
    )


def test_whatif_takes_an_iterator_once_for_all():
    assert whatif(iter(checks(1.5)), {name: stop_above(1.0) for name in "ab"})["b"].reason == "val_loss is 1.5"


def test_events_that_are_facts_are_fed():
    loaded = Callback(key="a", on_load_checkpoint=lambda state, event: emit(state, Stop(event.path)))

    assert whatif([LoadCheckpoint(path="x")], {"it": loaded})["it"].reason == "x"


# What it is worth.


def test_it_tells_the_epochs_and_seconds_saved_and_the_best_value_lost():
    found = whatif(checks(0.9, 0.5, 0.6, 0.7, 0.4, 0.8), grid(early_stop, "val_loss", patience=[1, 2, 3, 4]))

    assert {name: (out.epochs_saved, out.seconds_saved) for name, out in found.outcomes.items()} == {
        "patience=1": (3, 1.5),
        "patience=2": (2, 1.0),
        "patience=3": (0, 0.0),
        "patience=4": (0, 0.0),
    }
    assert found["patience=2"].best == {"val_loss": Best("min", 0.5, 1, 10, 0.4, pytest.approx(0.1))}
    assert found["patience=3"].best == {"val_loss": Best("min", 0.4, 4, 40, 0.4, 0.0)}


def test_the_best_of_a_metric_that_should_grow_is_the_largest():
    events = [ValidationEnd(epoch=i, step=i, metrics={"acc": x}) for i, x in enumerate((0.5, 0.75, 0.25, 1.0))]
    best = whatif(events, {"it": early_stop("acc", mode="max", patience=1)})["it"].best["acc"]

    assert (best.value, best.of_run, best.lost) == (0.75, 1.0, 0.25)


def test_values_of_a_sanity_check_are_no_values_of_the_run():
    sanity_check = [SanityCheckStart(), ValidationEnd(metrics={"val_loss": 0.0}), SanityCheckEnd()]
    events = [*sanity_check, *checks(1.0, 2.0)]
    best = whatif(events, {"it": early_stop("val_loss", patience=9)})["it"].best["val_loss"]

    assert (best.value, best.of_run) == (1.0, 1.0)


def test_an_epoch_that_was_only_validated_within_is_counted_as_one():
    events = [TrainEpochEnd(epoch=i, step=9 * i, metrics={"val_loss": x}) for i, x in enumerate((1, 2, 3, 4))]

    assert whatif(events, {"it": early_stop("val_loss", patience=1)})["it"].epochs_saved == 2


def test_what_an_alternative_logs_joins_its_metrics():
    double = Callback(key="double", on_validation_end=lambda s, e: emit(s, Log({"double": 2 * e.metrics["val_loss"]})))
    stops = early_stop("double", patience=1, check_on_train_epoch_end=False, strict=False)
    found = whatif(checks(3, 2, 1, 2, 3), {"it": [double, stops]})["it"]

    assert found.reason == "double has not improved on 2 in 1 check"


# How far it holds.


def test_what_only_stops_and_saves_is_exact():
    found = whatif(
        checks(0.5, 1.5), {"it": [early_stop("val_loss", patience=1), checkpoint("runs", monitor="val_loss")]}
    )

    assert (found["it"].deviates, found["it"].holds) == (None, "exact")


def test_another_learning_rate_makes_the_rest_an_extrapolation():
    plateau = reduce_on_plateau("val_loss", patience=0)
    found = whatif(checks(0.5, 0.6, 0.7, 0.4), {"it": plateau})

    assert found["it"].deviates == Deviation(1, 10, "ScaleLR(factor=0.1, min_lr=0.0, eps=1e-08) at on_validation_end")
    assert "it: exact up to epoch 1, step 10: there it would have done ScaleLR" in str(found)


def changes_rate_at(*steps, key="rates", lr=0.5):
    def on_validation_end(state, event):
        return emit(state, SetLR(lr)) if event.step in steps else state

    return Callback(key=key, on_validation_end=on_validation_end)


@pytest.mark.parametrize(
    ("alternative", "deviates"),
    [
        (changes_rate_at(10), None),
        (changes_rate_at(20), Deviation(1, 10, "something else than SetLR(lr=0.5, group=None, optimizer=None)")),
        (changes_rate_at(10, 20), Deviation(2, 20, "SetLR(lr=0.5, group=None, optimizer=None)")),
        (changes_rate_at(10, lr=0.1), Deviation(1, 10, "SetLR(lr=0.1, group=None, optimizer=None)")),
        (changes_rate_at(key="another"), None),
        (changes_rate_at(10, key="another"), Deviation(1, 10, "SetLR(lr=0.5, group=None, optimizer=None)")),
    ],
    ids=["the same", "later", "again", "other", "none, beside it", "beside it"],
)
def test_it_is_exact_while_the_training_is_changed_as_it_was_by_what_is_replaced(alternative, deviates, tmp_path):
    first, second, third = checks(0.5, 0.6, 0.7)
    path = recorded(tmp_path / "a", [first, second, SetLR(0.5, key="rates"), third])
    found = whatif(path, {"it": alternative})["it"].deviates

    assert (found and attrs.evolve(found, because=found.because.removesuffix(" at on_validation_end"))) == deviates


def test_in_a_recording_without_keys_what_is_the_same_counts_as_recorded(tmp_path):
    first, second = checks(0.5, 0.6)
    path = recorded(tmp_path / "a", [first, second, SetLR(0.5), SetLR(0.25)])

    assert whatif(path, {"it": changes_rate_at(10)})["it"].deviates is None
    assert whatif(path, {"it": changes_rate_at(10, lr=0.125)})["it"].deviates is not None


def test_other_step_hooks_are_an_extrapolation_from_the_beginning(tmp_path):
    path = recorded(tmp_path / "a", checks(0.5), configs={"clip_grad_norm": clip_grad_norm(1.0).config})
    hand_made = Callback(key="mine", step=StepHooks(init=lambda params: {}))
    found = whatif(path, {"same": clip_grad_norm(1.0), "other": clip_grad_norm(2.0), "new": hand_made})

    assert found["same"].deviates is None
    assert found["other"].deviates == Deviation(None, None, "other step hooks (clip_grad_norm)")
    assert found["new"].holds == "an extrapolation from the beginning: it would have had other step hooks (mine)"


def test_it_is_open_what_comes_after_a_stop_that_the_alternative_would_not_make(tmp_path):
    stop = early_stop("val_loss", patience=1)
    path = recorded(tmp_path / "a", [*checks(0.5, 0.6), Stop("stale", key=stop.key), TrainEnd(epoch=2, step=10)])
    found = whatif(path, {"longer": early_stop("val_loss", patience=2), "same": stop, "besides": counter()})

    assert {name: out.is_open for name, out in found.outcomes.items()} == {
        "longer": True,
        "same": False,
        "besides": False,
    }
    assert found["longer"].holds == "exact as far as the run went; it would have gone on, and nobody knows how"


def test_a_run_that_went_on_after_the_stop_leaves_nothing_open(tmp_path):
    stop = early_stop("val_loss", patience=1)
    path = recorded(tmp_path / "a", [*checks(0.5, 0.6), Stop("stale", key=stop.key), *checks(1, 1, 0.4)[2:]])

    assert not whatif(path, {"longer": early_stop("val_loss", patience=2)})["longer"].is_open


def test_metrics_that_were_not_recorded_are_asked_for_aloud(tmp_path):
    recorder = Recorder(tmp_path / "a", {}, metrics_every_n_steps=2)
    recorder.event(TrainBatchEnd(step=7, metrics={"loss": 1.0}))
    recorder.close()
    reads = Callback(key="reads", init=float, on_train_batch_end=lambda state, event: event.metrics["loss"])

    with pytest.raises(UnrecordedMetrics, match="TrainBatchEnd at step 7: metrics must be recorded") as error:
        whatif(tmp_path / "a", {"it": reads})
    assert error.value.__notes__ == ["reads: on_train_batch_end failed at epoch 0, step 7."]


def test_only_what_is_needed_is_read_and_the_answer_is_the_same(tmp_path):
    many = [TrainBatchEnd(epoch=i // 4, step=i, metrics={"loss": 1.0}) for i in range(20)]
    path = recorded(tmp_path / "a", [*many, *checks(0.5, 0.6, 0.7), Stop("stale", key="early_stop(val_loss)")])
    alternatives = grid(early_stop, "val_loss", patience=range(1, 4), min_delta=(0.0, 0.2))

    assert whatif(path, alternatives) == whatif(read(path), alternatives)
    assert len(whatif(path, alternatives).outcomes) == 6
