"""Why a run went as it did, from its recording alone."""

import attrs
import pytest

from fncb.callback import Callback
from fncb.callbacks import checkpoint, early_stop, skip_nonfinite
from fncb.effects import Save, Stop
from fncb.events import Saved, TrainBatchEnd
from fncb.explaining import explain
from fncb.recorder import Recorder
from fncb.recording import Recording
from tests.looking_back import checks, counter, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose validation losses are 3, 1, 2, 2, and that stops then."""
    folder = tmp_path_factory.mktemp("run")
    callbacks = [
        early_stop("val_loss", patience=2),
        checkpoint(folder / "kept", monitor="val_loss", save_top_k=1),
        skip_nonfinite(),
        counter("by hand"),
    ]
    return trained([3.0, 1.0, 2.0, 2.0], callbacks=callbacks, record=folder / "events.jsonl"), callbacks


def test_it_tells_why_the_run_ended_and_who_asked(run):
    ending = explain(run[0].recording).account.ending

    assert (ending.how, ending.key, ending.epoch) == ("stopped", "early_stop(val_loss)", 3)
    assert ending.why == run[0].stopped.reason


def test_it_tells_which_checkpoint_is_best_and_why(run):
    (best,) = explain(run[0].recording).best

    assert (best.key, best.monitor, best.mode, best.value) == ("checkpoint(val_loss)", "val_loss", "min", 1.0)
    assert (best.file.path, best.file.epoch) == (run[0].state["checkpoint(val_loss)"].best_model_path, 1)
    assert best.why.endswith("val_loss 1 at epoch 1, step 4, the least of 4 checks")


def test_it_tells_which_event_changed_which_state(run):
    changes = {each.key: each for each in explain(run[0].recording).changes}

    stop = changes["early_stop(val_loss)"]
    assert stop.hooks == {"on_validation_end": 4}
    assert (stop.last.epoch, stop.fields["stale"], stop.fields["reason"]) == (3, (1, 2), (None, "patience"))
    assert changes["checkpoint(val_loss)"].hooks["on_saved"] == 2
    assert changes["by hand"].unknown.endswith("or is no built-in: pass it as `callbacks=`")
    assert str(changes["skip_nonfinite"]) == "skip_nonfinite: nothing changed it"


def test_with_the_callbacks_given_all_states_are_known(run):
    changes = {each.key: each for each in explain(run[0].recording, run[1]).changes}

    assert (changes["by hand"].hooks, changes["by hand"].fields) == ({"on_validation_end": 4}, {"state": (3, 4)})


def test_it_prints_as_a_text(run):
    first, second, *rest = str(explain(run[0].recording)).splitlines()

    assert first.startswith("stopped by early_stop(val_loss) at epoch 3, step 8: val_loss has not improved on 1 in 2")
    assert second.startswith("best checkpoint of checkpoint(val_loss): ")
    assert [line.split(":")[0] for line in rest] == [
        "state of early_stop(val_loss)",
        "state of checkpoint(val_loss)",
        "state of skip_nonfinite",
        "state of by hand",
    ]


def test_a_better_value_of_which_nothing_was_kept_is_told(tmp_path):
    recorder = Recorder(tmp_path / "a", {"configs": {"keep": {"dirpath": "x", "monitor": "val_loss", "mode": "min"}}})
    first, second = checks(0.5, 0.25)
    for event in (first, Saved(path="x/a", requested="x/a"), second):
        recorder.event(event)
        if event is first:
            recorder.effect(Save("x/a", key="keep"))
    recorder.close()
    (best,) = explain(tmp_path / "a").best

    assert best.why == (
        "x/a, val_loss 0.5 at epoch 0, step 0; 0.25 at epoch 1, step 10 was better, and nothing was kept of it"
    )


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"dirpath": "x"}, "none was written"),
        ({"dirpath": "x", "monitor": "val_loss", "mode": "min"}, "none was written"),
    ],
)
def test_a_callback_that_wrote_nothing_says_so(config, why):
    assert explain(Recording({"configs": {"keep": config}}, tuple(checks(1)))).best[0].why == why


def test_a_state_that_needs_what_is_not_recorded_says_what_and_where():
    reads = Callback(key="reads", on_train_batch_end=lambda state, event: event.batch)
    (changes,) = explain(Recording({}, (TrainBatchEnd(step=3),)), [reads]).changes

    assert changes.unknown.startswith("TrainBatchEnd at step 3: `batch` is a live field")


def test_a_callback_that_is_unknown_here_leaves_the_rest_explained():
    header = {"callbacks": {"newer": "of_a_newer_fncb(1)"}, "keys": ["newer"]}
    (changes,) = explain(Recording(header, tuple(checks(1)))).changes

    assert "every name must be a built-in callback, got 'of_a_newer_fncb'" in changes.unknown


def test_an_effect_has_the_key_of_the_callback_that_asked():
    stop = attrs.evolve(early_stop("val_loss", patience=1), key="mine")
    _, effects = stop.transition(stop.transition(stop.init(), checks(1)[0])[0], checks(1, 2)[1])

    assert [effect.key for effect in effects] == ["mine"]
    assert effects == (Stop("val_loss has not improved on 1 in 1 check"),)
