"""What `check` looks at, and what it tells."""

import time

import attrs
import hypothesis.strategies as st
import pytest
import torch
from torch import nn

from docs.tables import REQUIRED, built_ins
from fncb import callbacks as cb
from fncb import events as ev
from fncb.callback import Callback, StepHooks, compose, emit
from fncb.effects import Log, Save
from fncb.recorder import Recorder
from fncb.recording import read
from fncb.testing import LawsBroken, check, in_step
from fncb.testing.laws import LAWS
from fncb.testing.tiny import Tiny, classifier_of_images

ROWS = {
    **{name: REQUIRED.get(name, ()) for name in built_ins() if name != "on"},
    "rich_progress_bar": (),
}
GIVEN = {"cutmix": {"num_classes": 3}, "mixup": {"num_classes": 3}, "label_smoothing": {"num_classes": 3}}


@pytest.mark.parametrize("name", ROWS)
def test_every_built_in_keeps_the_laws(name):
    callback = getattr(cb, name)(*ROWS[name], **GIVEN.get(name, {}))

    assert check(callback, compile=False).broken == ()


def test_built_ins_whose_step_half_wants_another_model_say_so():
    report = check(cb.ssl_online_evaluator(2, 2), compile=False)

    assert report
    assert str(report).startswith(
        "ssl_online_evaluator(online) keeps 15 laws in 25 runs.\n"
        "the step half of ssl_online_evaluator(online) was not looked at: ValueError: ssl_online_evaluator: features"
    )
    assert str(report).endswith("got (8, 3); pass `tiny=` with a model for it")


def test_metrics_that_a_callback_asks_for_are_in_the_runs():
    def on_validation_end(state, event):
        return None if event.metrics["own"] > event.metrics["other"] else state

    with pytest.raises(LawsBroken, match="returns state") as caught:
        check(Callback(key="own", on_validation_end=on_validation_end))

    (shown,) = caught.value.report.broken[0].events
    assert shown.metrics["own"] > shown.metrics["other"]


def test_a_hook_that_forgets_epochs_without_a_validation_does_not_pass():
    def on_train_epoch_end(state, event):
        return max(state, event.metrics.get("val_loss"))

    with pytest.raises(LawsBroken, match="no hook raises: own: on_train_epoch_end raises TypeError"):
        check(Callback(key="own", init=float, on_train_epoch_end=on_train_epoch_end))


def test_a_composition_is_checked_part_by_part():
    wrong = Callback(key="wrong", on_fit_end=lambda state, event: None)

    with pytest.raises(LawsBroken) as caught:
        check([cb.early_stop("val_loss"), wrong])

    assert [broken.where for broken in caught.value.report.broken] == ["wrong: on_fit_end"]
    assert str(caught.value) == (
        "compose breaks 1 law in 25 runs:\n"
        "returns state: wrong: on_fit_end gives None. Return the state, or emit(state, ...), after:\n"
        "  FitEnd(epoch=0, step=1, seconds=0.0)"
    )


def test_live_fields_are_noted_unless_events_have_them():
    reads = Callback(key="reads", init=int, on_train_batch_end=lambda state, event: state + event.batch)

    assert check(reads).notes == ("needs live fields at on_train_batch_end of reads: batch",)
    assert check(reads, [ev.TrainBatchEnd(batch=3)]).notes == ()


def test_events_may_be_given_in_order_and_are_shown_as_few_as_possible():
    late = Callback(key="late", init=int, on_validation_end=lambda state, event: None if state == 1 else state + 1)
    run = [ev.FitStart(), *(ev.ValidationEnd(step=step) for step in range(9))]

    with pytest.raises(LawsBroken) as caught:
        check(late, run)

    assert caught.value.report.broken[0].events == (ev.ValidationEnd(step=0), ev.ValidationEnd(step=1))
    assert check(late, run[:2]).runs == 1


def test_events_may_be_a_strategy():
    late = Callback(key="late", on_validation_end=lambda state, event: None if event.step > 40 else state)
    run = st.lists(st.integers(0, 99).map(lambda step: ev.ValidationEnd(step=step)))

    with pytest.raises(LawsBroken) as caught:
        check(late, run)

    assert caught.value.report.broken[0].events == (ev.ValidationEnd(step=41),)


def test_events_may_be_a_recording(tmp_path):
    path = tmp_path / "events.jsonl"
    recorder = Recorder(path, {})
    recorder.event(ev.ValidationEnd(metrics={"val_loss": 0.5}))
    recorder.close()
    reads = Callback(key="reads", on_validation_end=lambda s, e: emit(s, Log({"own": e.metrics["acc"]})))

    assert check(cb.early_stop("val_loss"), path).notes == ()
    assert check(reads, read(path)).notes == (
        "needs a metric at on_validation_end of reads: no metric 'acc'. It has ['val_loss'].",
    )


def test_a_save_is_answered():
    @attrs.frozen
    class Kept:
        names: tuple[str, ...] = ()

    def on_saved(state, event):
        return None if event.requested == "mine" else state

    keeps = Callback(key="keeps", init=Kept, on_train_end=lambda s, e: emit(s, Save("mine")), on_saved=on_saved)

    with pytest.raises(LawsBroken, match="keeps: on_saved gives None"):
        check(keeps)


def test_a_hook_may_import_what_it_needs():
    def on_train_end(state, event):
        import sched  # which nobody has imported yet

        return emit(state, Log({"is_there": float(sched is not None)}))

    assert check(Callback(key="imports", on_train_end=on_train_end))


def test_what_is_done_when_a_callback_is_made_does_not_count():
    def made():
        time.time()
        return Callback(key="made")

    assert check(made())


def test_the_step_half_is_tried_on_the_model_that_is_given():
    def widths(state, event):
        if getattr(event.batch, "shape", None) != (2, 5):
            raise ValueError(f"got {event.batch}")
        return state

    callback = Callback(key="own", step=StepHooks(init=lambda params: torch.zeros(()), on_after_backward=widths))
    batches = [torch.ones(2, 5)] * 3
    fits, other = (
        Tiny(lambda n=n: nn.Linear(n, 1), lambda model, x: model(x).square().mean(), [b[:, :n] for b in batches])
        for n in (5, 4)
    )

    assert check(callback, tiny=fits, compile=False).notes == ()
    assert "pass `tiny=`" in check(callback, compile=False).notes[0]
    with pytest.raises(LawsBroken, match=r"no step hook raises: own: .* raises ValueError: got tensor"):
        check(callback, tiny=other, compile=False)


def test_what_a_run_refuses_of_a_step_hook_is_told_in_its_words():
    def hook(state, event):
        return emit(state, metrics={"n": event.loss.item()})

    callback = Callback(key="own", step=StepHooks(init=dict, on_before_optimizer_step=hook))

    with pytest.raises(LawsBroken, match="own: step hook on_before_optimizer_step: metric 'n' must hold tensors only"):
        check(callback, compile=False)


OF_ANOTHER_MODEL = {
    "parameter": {"on_after_backward": lambda s, e: emit(s, metrics={"n": e.grads["encoder.weight"].norm()})},
    "first": {"init": lambda params: params["encoder.weight"]},
    "submodule": {"watch": ("encoder.*",)},
    "batch": {"on_train_batch_start": lambda s, e: emit(s, batch=(e.batch[0].flatten(), e.batch[1]))},
}


@pytest.mark.parametrize("name", OF_ANOTHER_MODEL)
def test_laws_of_a_step_half_that_wants_another_model_are_not_said_to_be_kept(name):
    hooks = {"init": lambda params: {}, "on_train_batch_end": lambda s, e: s, **OF_ANOTHER_MODEL[name]}
    report = check(Callback(key="own", step=StepHooks(**hooks)), compile=False)

    assert report.laws == LAWS
    assert str(report).startswith("own keeps 15 laws in 25 runs.\nthe step half of own was not looked at: ")
    assert str(report).endswith("; pass `tiny=` with a model for it")


def test_a_tiny_model_that_cannot_be_trained_is_not_the_callbacks_fault():
    constant = Tiny(lambda: nn.Linear(3, 1), lambda model, x: x.mean(), [torch.ones(2, 3)] * 3)
    heard = Callback(key="own", step=StepHooks(init=dict, on_train_batch_start=lambda state, event: state))

    (note,) = check(heard, tiny=constant, compile=False).notes
    assert "ValueError: loss: a loss must need gradients" in note
    assert note.endswith("; pass another `tiny=` with a model for it")


def test_only_laws_that_were_looked_at_are_counted():
    def laws_of(callback, compile):
        return {*check(callback, compile=compile).laws} - {*LAWS}

    assert laws_of(cb.ema(0.5), compile=True) - laws_of(cb.ema(0.5), compile=False) == {in_step.GRAPH, in_step.COMPILED}
    assert in_step.COMPILED not in laws_of(cb.grad_noise(0.1), compile=True)


def test_tensors_that_were_kept_while_the_step_was_compiled_hide_nothing():
    kept = []

    def on_after_backward(state, event):
        kept.append(event.loss)
        return state

    remembers = Callback(key="own", step=StepHooks(init=dict, on_after_backward=on_after_backward))
    in_step.trained(remembers, classifier_of_images(), compile=True)

    assert {type(each) for each in kept} - {torch.Tensor}
    with pytest.raises(LawsBroken, match=r"no hidden memory: .* variable kept changed"):
        check(remembers, compile=False)


def test_random_numbers_in_the_step_are_allowed_and_noted():
    noted = check(cb.grad_noise(0.1)).notes

    assert noted == ("grad_noise draws numbers, which are others when compiled: results were not compared",)


def test_the_process_is_left_as_it_was():
    before = torch.get_rng_state()
    check(compose(cb.grad_noise(0.1), cb.ema(0.5)), compile=False)

    assert torch.equal(before, torch.get_rng_state())
