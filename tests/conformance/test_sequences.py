"""The sequences of hooks.md that callbacks see, written out by hand."""

import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from fncb import events as ev
from fncb.callback import Callback, StepHooks, emit
from fncb.callbacks import checkpoint
from fncb.effects import Attach, Save, Stop
from fncb.loop import predict, test, validate
from tests.conformance.runs import (
    STAGES,
    STEP,
    asks,
    batches,
    heard,
    name_of,
    notes,
    raises_in,
    spy,
    stops_at,
    task,
    train,
)

VALIDATION = [
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start[0]",
    "on_validation_batch_end[0]",
    "on_validation_batch_start[1]",
    "on_validation_batch_end[1]",
    "on_validation_epoch_end",
    "on_validation_end",
]


def step(index):
    return [f"on_train_batch_start[{index}]", *STEP, f"on_train_batch_end[{index}]"]


# Section 1.5.


def test_a1_fit_one_epoch_with_sanity_check_and_a_checkpoint(tmp_path):
    callback, seen = heard()

    train(task(), batches(2), batches(2), callbacks=[callback, checkpoint(tmp_path)], max_epochs=1)

    assert seen == [
        "setup(fit)",
        "on_fit_start",
        "on_sanity_check_start",
        "on_validation_start",
        "on_validation_epoch_start",
        "on_validation_batch_start[0]",
        "on_validation_batch_end[0]",
        "on_validation_batch_start[1]",
        "on_validation_batch_end[1]",
        "on_validation_epoch_end",
        "on_validation_end",
        "on_sanity_check_end",
        "on_train_start",
        "on_train_epoch_start",
        "on_train_batch_start[0]",
        "on_before_zero_grad",
        "on_before_backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_train_batch_end[0]",
        "on_train_batch_start[1]",
        "on_before_zero_grad",
        "on_before_backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_train_batch_end[1]",
        "on_validation_start",
        "on_validation_epoch_start",
        "on_validation_batch_start[0]",
        "on_validation_batch_end[0]",
        "on_validation_batch_start[1]",
        "on_validation_batch_end[1]",
        "on_validation_epoch_end",
        "on_validation_end",
        "on_train_epoch_end",
        "on_save_checkpoint",
        "on_train_end",
        "on_fit_end",
        "teardown(fit)",
    ]


def test_a4_validate_two_batches():
    callback, seen = heard()

    validate(task(), batches(2), callbacks=callback)

    assert seen == [
        "setup(validate)",
        "on_validation_start",
        "on_validation_epoch_start",
        "on_validation_batch_start[0]",
        "on_validation_batch_end[0]",
        "on_validation_batch_start[1]",
        "on_validation_batch_end[1]",
        "on_validation_epoch_end",
        "on_validation_end",
        "teardown(validate)",
    ]


def test_a5_test_two_batches():
    callback, seen = heard()

    test(task(), batches(2), callbacks=callback)

    assert seen == [
        "setup(test)",
        "on_test_start",
        "on_test_epoch_start",
        "on_test_batch_start[0]",
        "on_test_batch_end[0]",
        "on_test_batch_start[1]",
        "on_test_batch_end[1]",
        "on_test_epoch_end",
        "on_test_end",
        "teardown(test)",
    ]


def test_a6_predict_two_batches():
    callback, seen = heard()

    predict(task(), batches(2), callbacks=callback)

    assert seen == [
        "setup(predict)",
        "on_predict_start",
        "on_predict_epoch_start",
        "on_predict_batch_start[0]",
        "on_predict_batch_end[0]",
        "on_predict_batch_start[1]",
        "on_predict_batch_end[1]",
        "on_predict_epoch_end",
        "on_predict_end",
        "teardown(predict)",
    ]


@pytest.mark.parametrize(
    ("stage", "limit"),
    [
        ("validate", {"limit_val_batches": 0}),
        ("test", {"limit_test_batches": 0}),
        ("predict", {"limit_predict_batches": 0}),
        ("validate", {"limit_val_batches": 0.0}),
    ],
)
def test_a7_with_no_batches_a_stage_only_sets_up_and_tears_down(stage, limit):
    callback, seen = heard()

    STAGES[stage](task(), batches(2), callbacks=callback, **limit)

    assert seen == [f"setup({stage})", f"teardown({stage})"]


def test_a8_resume_at_the_end_of_an_epoch(tmp_path):
    callback, seen = heard()
    train(task(), batches(2), callbacks=checkpoint(tmp_path), max_epochs=1)

    train(task(), batches(2), callbacks=[callback, checkpoint(tmp_path)], max_epochs=2, resume="last")

    assert seen == [
        "setup(fit)",
        "on_load_checkpoint",
        "on_fit_start",
        "on_train_start",
        "on_train_epoch_start",
        "on_train_batch_start[0]",
        "on_before_zero_grad",
        "on_before_backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_train_batch_end[0]",
        "on_train_batch_start[1]",
        "on_before_zero_grad",
        "on_before_backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_train_batch_end[1]",
        "on_train_epoch_end",
        "on_save_checkpoint",
        "on_train_end",
        "on_fit_end",
        "teardown(fit)",
    ]


@pytest.mark.parametrize("limits", [{"max_epochs": 0}, {"max_steps": 0}, {"max_epochs": 1, "limit_train_batches": 0}])
def test_a12_fit_that_is_skipped_makes_its_sanity_check(limits):
    callback, seen = heard()

    result = train(task(), batches(2), batches(2), callbacks=callback, **limits)

    assert seen == [
        "setup(fit)",
        "on_fit_start",
        "on_sanity_check_start",
        *VALIDATION,
        "on_sanity_check_end",
        "on_fit_end",
        "teardown(fit)",
    ]
    assert (result.epoch, result.step) == (0, 0)


# The hooks that fncb fires beside these (section 0).

EVALUATION = [
    "on_{}_start",
    "on_epoch_start",
    "on_{}_epoch_start",
    "on_{}_batch_start[0]",
    "on_{}_batch_end[0]",
    "on_{}_epoch_end",
    "on_epoch_end",
    "on_{}_end",
]


def test_the_full_order_of_fit(tmp_path):
    callback, seen = heard(leave_out=())
    stops = asks(Stop("enough"), "on_train_batch_end", lambda event: event.step == 2)

    train(task(), batches(2), batches(1), callbacks=[callback, stops, checkpoint(tmp_path)], max_epochs=2)

    def batch(index):
        return [f"on_train_batch_start[{index}]", *STEP, "on_after_optimizer_step", f"on_train_batch_end[{index}]"]

    validation = [name.format("validation") for name in EVALUATION]
    assert seen == [
        *("on_init_start", "on_init_end", "setup(fit)", "on_configure_sharded_model", "on_fit_start"),
        *("on_sanity_check_start", *validation, "on_sanity_check_end"),
        *("on_train_start", "on_epoch_start", "on_train_epoch_start"),
        *batch(0),
        *batch(1),
        "on_stop_requested",
        *validation,
        *("on_train_epoch_end", "on_save_checkpoint", "on_saved", "on_epoch_end"),
        *("on_train_end", "on_fit_end", "teardown(fit)"),
    ]


@pytest.mark.parametrize(
    ("stage", "passes"),
    [
        ("validate", [name.format("validation") for name in EVALUATION]),
        ("test", [name.format("test") for name in EVALUATION]),
        ("predict", [name.format("predict") for name in EVALUATION if "{}" in name]),
    ],
)
def test_the_full_order_of_a_stage_that_does_not_train(stage, passes):
    callback, seen = heard(leave_out=())

    STAGES[stage](task(), batches(1), callbacks=callback)

    set_up = ["on_init_start", "on_init_end", f"setup({stage})", "on_configure_sharded_model"]
    assert seen == [*set_up, *passes, f"teardown({stage})"]


# Resuming (section 1.3).


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_loads_its_checkpoint_between_setup_and_its_own_events(tmp_path, stage):
    callback, seen = heard()
    train(task(), batches(2), callbacks=checkpoint(tmp_path), max_epochs=1)
    limits = {"max_epochs": 2} if stage == "fit" else {}

    STAGES[stage](task(), batches(2), callbacks=callback, resume=tmp_path, **limits)

    first = {"fit": "on_fit_start", "validate": "on_validation_start"}.get(stage, f"on_{stage}_start")
    assert seen[:3] == [f"setup({stage})", "on_load_checkpoint", first]


def test_the_first_thing_of_a_run_that_goes_on_is_that_it_is_being_set_up(tmp_path):
    callback, seen = heard(leave_out=())
    train(task(), batches(2), callbacks=checkpoint(tmp_path), max_epochs=1)

    train(task(), batches(2), callbacks=[callback, checkpoint(tmp_path)], max_epochs=2, resume="last")

    # but that what was being saved is acknowledged: that belongs to the moment of the checkpoint
    assert seen[:2] == ["on_saved", "on_init_start"]


@pytest.mark.parametrize("saving", [{}, {"every_n_train_steps": 1}], ids=["epoch", "step"])
def test_resume_in_the_middle_of_an_epoch_has_no_start_of_it_and_no_sanity_check(tmp_path, saving):
    callback, seen = heard()
    saved, at = spy("on_save_checkpoint", lambda event: (event.epoch, event.step))
    train(task(), batches(4), callbacks=checkpoint(tmp_path, **saving), max_steps=1)

    result = train(
        task(), batches(4), batches(2), callbacks=[callback, checkpoint(tmp_path), saved], max_steps=3, resume="last"
    )

    assert seen == [
        "setup(fit)",
        "on_load_checkpoint",
        "on_fit_start",
        "on_train_start",
        *step(1),
        *step(2),
        "on_train_epoch_end",
        "on_save_checkpoint",
        "on_train_end",
        "on_fit_end",
        "teardown(fit)",
    ]
    assert at == [(0, 3)]
    assert (result.epoch, result.step) == (1, 3)


def test_a_resumed_run_that_is_over_already_trains_no_more_and_ends_as_it_would_have(tmp_path):
    # Lightning leaves `on_train_end` out, and with it what callbacks do there: the checkpoint is from before it
    callback, seen = heard()
    saves = checkpoint(tmp_path, save_on_train_epoch_end=True)
    train(task(), batches(2), batches(2), callbacks=saves, max_epochs=1)

    train(task(), batches(2), batches(2), callbacks=callback, max_epochs=1, resume=tmp_path)

    begins = ["setup(fit)", "on_load_checkpoint", "on_fit_start", "on_train_start"]
    assert seen == [*begins, "on_train_end", "on_fit_end", "teardown(fit)"]


def test_what_is_attached_to_a_checkpoint_is_given_back(tmp_path):
    def keeper(seen):
        return Callback(
            key="keeper",
            init=int,
            emits=(Attach,),
            on_save_checkpoint=lambda s, e: emit(s, Attach({"batches": [1, 2], "at": e.step})),
            on_load_checkpoint=lambda s, e: seen.append(dict(e.attached)) or s,
        )

    seen = []
    train(task(), batches(2), callbacks=[keeper(seen), checkpoint(tmp_path)], max_epochs=1)
    train(task(), batches(2), callbacks=[keeper(seen), checkpoint(tmp_path)], max_epochs=2, resume="last")

    assert seen == [{"keeper": {"batches": [1, 2], "at": 2}}]


# Where each hook stands (section 1.2).


@pytest.mark.parametrize(
    ("n", "accumulate", "zeroed", "updated"),
    [
        (4, 1, [0, 1, 2, 3], [0, 1, 2, 3]),
        (4, 2, [0, 2], [1, 3]),
        (5, 2, [0, 2, 4], [1, 3, 4]),  # the end of the epoch ends the window
        (5, 3, [0, 3], [2, 4]),
        (3, 9, [0], [2]),
    ],
)
def test_gradients_are_dropped_as_a_window_begins_and_used_as_it_or_the_epoch_ends(n, accumulate, zeroed, updated):
    callback, seen = notes(lambda e: (ev.hook_name(type(e)), e.batch_idx) if hasattr(e, "batch_idx") else None)

    train(task(), batches(n), callbacks=callback, max_epochs=1, accumulate_grad_batches=accumulate)

    def at(hook):
        return [index for name, index in seen if name == hook]

    assert at("on_before_zero_grad") == zeroed
    assert at("on_before_optimizer_step") == at("on_after_optimizer_step") == updated
    assert at("on_before_backward") == at("on_after_backward") == at("on_train_batch_end") == list(range(n))


def test_the_loss_before_backward_is_divided_by_the_batches_that_accumulate():
    published = StepHooks(
        init=lambda params: {}, on_before_backward=lambda s, e: emit(s, metrics={"divided": e.loss.detach().clone()})
    )
    ends, seen = spy("on_train_batch_end", lambda e: (e.metrics["divided"], e.metrics["loss"]))
    given = task(loss=lambda model, batch: model(batch).sum() * 0 + 3.0)

    train(
        given,
        batches(2),
        callbacks=[Callback(key="publishes", step=published), ends],
        max_epochs=1,
        accumulate_grad_batches=2,
    )

    assert seen == [(1.5, 3.0)] * 2


def test_the_end_of_a_batch_has_the_loss_divided_and_what_came_beside_it():
    ends, seen = spy("on_train_batch_end", lambda e: dict(e.outputs))
    given = task(loss=lambda model, batch: (model(batch).sum() * 0 + 3.0, {"extra": torch.tensor(0.5)}))

    train(given, batches(2), callbacks=ends, max_epochs=1, accumulate_grad_batches=2)

    assert seen == [{"loss": 1.5, "extra": 0.5}] * 2


def test_none_instead_of_a_batch_only_ends():
    callback, seen = heard()
    ends, outputs = spy("on_train_batch_end", lambda e: (e.batch is None, e.outputs is None))

    result = train(task(), [batches(1)[0], None, batches(1)[0]], callbacks=[callback, ends], max_epochs=1)

    assert seen[2:-4] == ["on_train_start", "on_train_epoch_start", *step(0), "on_train_batch_end[1]", *step(2)]
    assert outputs == [(False, False), (True, True), (False, False)]
    assert result.step == 2


def test_a_loader_of_nothing_but_none_still_validates():
    callback, seen = heard()

    train(task(), [None, None], batches(2), callbacks=callback, max_epochs=1, num_sanity_val_steps=0)

    assert seen == [
        *("setup(fit)", "on_fit_start", "on_train_start", "on_train_epoch_start"),
        *("on_train_batch_end[0]", "on_train_batch_end[1]", *VALIDATION, "on_train_epoch_end"),
        *("on_train_end", "on_fit_end", "teardown(fit)"),
    ]


def loader(n):
    return DataLoader(torch.zeros(n, 32), batch_size=1)


@pytest.mark.parametrize(
    "several",
    [{"a": batches(2), "b": batches(1)}, [loader(2), loader(1)], lambda: {"a": batches(2), "b": batches(1)}],
    ids=["a mapping", "a list of loaders", "a function"],
)
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_batches_of_several_loaders_are_told_apart(stage, several):
    name = "validation" if stage == "validate" else stage
    starts, started = spy(f"on_{name}_batch_start", lambda e: (e.dataloader_idx, e.batch_idx), "starts")
    ends, ended = spy(f"on_{name}_batch_end", lambda e: (e.dataloader_idx, e.batch_idx), "ends")

    STAGES[stage](task(), several, callbacks=[starts, ends])

    assert started == ended == [(0, 0), (0, 1), (1, 0)]


def test_several_validation_loaders_of_fit_are_one_validation():
    callback, seen = notes(
        lambda e: (name_of(e), e.dataloader_idx) if isinstance(e, ev.ValidationBatchEnd) else name_of(e)
    )

    train(task(), batches(1), {"a": batches(1), "b": batches(2)}, callbacks=callback, max_epochs=1)

    idx_0, idx_1 = "on_validation_batch_end[0]", "on_validation_batch_end[1]"
    assert [each for each in seen if isinstance(each, tuple)] == [
        (idx_0, 0),
        (idx_0, 1),
        (idx_1, 1),
    ] * 2  # the sanity check and the epoch's
    assert seen.count("on_validation_start") == seen.count("on_validation_end") == 2


def test_the_model_is_in_eval_mode_for_every_hook_of_validation_and_for_no_other():
    given = task(nn.Sequential(nn.Linear(32, 4), nn.Dropout(0.5), nn.Linear(4, 2)))
    callback, seen = notes(lambda e: (name_of(e), {module.training for module in given.model.modules()}))

    train(given, batches(2), batches(2), callbacks=callback, max_epochs=1)

    of_validation, on = [], False
    for name, modes in seen:
        on = on or name == "on_validation_start"
        of_validation.append((name, modes, on))
        on = on and name != "on_validation_end"
    assert [(name, modes) for name, modes, on in of_validation if modes != {not on}] == []


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_a_stage_that_does_not_train_hears_eval_mode_and_leaves_the_modes_as_they_were(stage):
    given = task()
    callback, seen = notes(lambda e: (name_of(e), given.model.training))

    STAGES[stage](given, batches(2), callbacks=callback)

    assert {trains for name, trains in seen if "setup" not in name and "_init_" not in name} >= {False}
    passes = [trains for name, trains in seen if name.startswith(("on_validation", "on_test", "on_predict"))]
    assert set(passes) == {False}
    assert (seen[-1], given.model.training) == ((f"teardown({stage})", True), True)


@pytest.mark.parametrize(
    ("settings", "epoch"),
    [
        ({"max_epochs": 1}, 1),
        ({"max_epochs": 3}, 3),
        ({"max_epochs": 3, "max_steps": 4}, 2),  # the second in part
    ],
)
def test_when_training_ends_the_epoch_is_the_number_of_those_completed(settings, epoch):
    ends, at_train_end = spy("on_train_end", lambda e: e.epoch)
    epochs, at_epoch_end = spy("on_train_epoch_end", lambda e: e.epoch, "epochs")

    result = train(task(), batches(3), callbacks=[ends, epochs], **settings)

    assert at_train_end == [epoch] == [result.epoch]
    assert at_epoch_end == list(range(epoch))  # not counted up yet


def test_the_sanity_check_leaves_no_metric_and_no_trace_in_randomness():
    def draws(model, batch):
        return model(batch + torch.rand(1)).square().mean()

    def losses(**settings):
        ends, seen = spy("on_train_batch_end", lambda e: e.metrics["loss"])
        starts, metrics = spy("on_train_start", lambda e: dict(e.metrics), "starts")
        torch.manual_seed(3)
        train(task(loss=draws), batches(2), batches(2), callbacks=[ends, starts], max_epochs=1, **settings)
        return seen, metrics

    with_check, without = losses(num_sanity_val_steps=2), losses(num_sanity_val_steps=0)

    assert with_check == without
    assert with_check[1] == [{"lr-SGD": 0.1}]


def test_loaders_are_made_when_they_are_needed_first():
    seen = []

    def made(name):
        return lambda: seen.append(name) or batches(2)

    callback = Callback(key="notes", init=int, **{hook: lambda s, e: seen.append(name_of(e)) or s for hook in ev.HOOKS})
    train(task(), made("train"), made("val"), callbacks=callback, max_epochs=1)

    assert seen.count("train") == seen.count("val") == 1
    at_train, at_val = seen.index("train"), seen.index("val")
    assert (seen[at_val - 1], seen[at_val + 1]) == ("on_sanity_check_start", "on_validation_start")
    assert (seen[at_train - 1], seen[at_train + 1]) == ("on_sanity_check_end", "on_train_start")


def test_a_sampler_is_told_its_epoch_before_the_epoch_starts():
    seen = []

    class Sampler(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch):
            seen.append(("set_epoch", epoch))

    starts = Callback(
        key="s", init=int, on_train_epoch_start=lambda s, e: seen.append(("on_train_epoch_start", e.epoch)) or s
    )
    data = torch.zeros(2, 32)

    train(task(), DataLoader(data, sampler=Sampler(data)), callbacks=starts, max_epochs=2)

    assert seen == [("set_epoch", 0), ("on_train_epoch_start", 0), ("set_epoch", 1), ("on_train_epoch_start", 1)]


def test_predictions_reach_the_end_of_their_batch():
    ends, seen = spy("on_predict_batch_end", lambda e: (e.batch_idx, e.outputs.shape))

    result = predict(task(), batches(2), callbacks=ends, return_predictions=False)

    assert seen == [(0, (1, 2)), (1, (1, 2))]
    assert result.predictions is None


# Exceptions, Ctrl-C and SIGTERM (section 0).

ELSEWHERE = ("test", "predict", "exception", "keyboard", "teardown", "step_compiled", "probed")
OF_FIT = [hook for hook in ev.HOOKS if not any(word in hook for word in ELSEWHERE)]
OF_OTHERS = [
    *[("validate", hook) for hook in ev.HOOKS if "validation" in hook],
    *[("test", hook) for hook in ev.HOOKS if "test" in hook],
    *[("predict", hook) for hook in ev.HOOKS if "predict" in hook],
    *[(stage, hook) for stage in ("validate", "test", "predict") for hook in ("on_init_start", "setup")],
]


@pytest.mark.parametrize("hook", OF_FIT)
def test_an_exception_in_any_hook_of_fit_is_heard_once_then_teardown_then_it_goes_on(tmp_path, hook):
    callback, seen = heard(leave_out=())
    error = ZeroDivisionError("in a hook")
    hears, exceptions = spy("on_exception", lambda e: (e.exception, e.error, e.message), "hears")
    everything = [callback, stops_at(1, 1), raises_in(hook, error), checkpoint(tmp_path / "b"), hears]
    train(task(), batches(2), callbacks=checkpoint(tmp_path / "a"), max_epochs=1)
    resume = {"resume": tmp_path / "a"} if hook == "on_load_checkpoint" else {}

    with pytest.raises(ZeroDivisionError) as caught:
        train(task(), batches(2), batches(2), callbacks=everything, max_epochs=3, **resume)

    assert caught.value is error
    assert exceptions == [(error, "ZeroDivisionError", "in a hook")]
    assert seen[-2:] == ["on_exception", "teardown(fit)"]
    assert seen.count("on_exception") == 1
    assert "on_fit_end" not in seen[:-3]


@pytest.mark.parametrize(("stage", "hook"), OF_OTHERS)
def test_an_exception_in_any_other_stage_is_heard_once_then_teardown_then_it_goes_on(stage, hook):
    callback, seen = heard(leave_out=())
    error = ZeroDivisionError("in a hook")

    with pytest.raises(ZeroDivisionError) as caught:
        STAGES[stage](task(), batches(2), callbacks=[callback, raises_in(hook, error)])

    assert caught.value is error
    assert seen[-2:] == ["on_exception", f"teardown({stage})"]
    assert seen.count("on_exception") == 1


@pytest.mark.parametrize("stage", STAGES)
def test_an_exception_in_teardown_is_heard_too(stage):
    callback, seen = heard()
    error = ZeroDivisionError("in a hook")

    with pytest.raises(ZeroDivisionError) as caught:
        STAGES[stage](task(), batches(2), callbacks=[callback, raises_in("teardown", error)])

    assert caught.value is error
    assert (seen.count("on_exception"), seen.count(f"teardown({stage})") >= 1) == (1, True)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", [ValueError("in the model"), SystemExit(3), KeyboardInterrupt()])
def test_an_exception_of_the_task_is_heard_too(stage, error):
    def breaks(model, batch):
        raise error

    callback, seen = heard(leave_out=())

    with pytest.raises(type(error)):
        STAGES[stage](task(loss=breaks, predict=breaks), batches(2), callbacks=callback)

    told = ["on_keyboard_interrupt"] if isinstance(error, KeyboardInterrupt) else []
    assert seen[-2 - len(told) :] == [*told, "on_exception", f"teardown({stage})"]
    assert (seen.count("on_keyboard_interrupt"), seen.count("on_exception")) == (len(told), 1)


@pytest.mark.parametrize("hook", ["setup", "on_sanity_check_start", "on_train_batch_start", "on_validation_end"])
def test_ctrl_c_in_a_hook_is_heard_as_itself_as_an_exception_then_teardown_then_it_goes_on(hook):
    callback, seen = heard()
    error = KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt) as caught:
        train(task(), batches(2), batches(2), callbacks=[callback, raises_in(hook, error)], max_epochs=1)

    assert caught.value is error
    assert seen[-3:] == ["on_keyboard_interrupt", "on_exception", "teardown(fit)"]


def pressed(number, hook, times=1):
    """A callback that sends this process a signal when the second batch starts."""

    def press(state, event):
        for _ in range(times if getattr(event, "batch_idx", 1) == 1 else 0):
            os.kill(os.getpid(), number)
        return state

    return Callback(key="pressed", init=int, **{hook: press})


def test_the_step_under_way_ends_when_ctrl_c_is_pressed():
    callback, seen = heard()

    with pytest.raises(KeyboardInterrupt):
        train(task(), batches(4), callbacks=[callback, pressed(signal.SIGINT, "on_train_batch_start")], max_epochs=1)

    assert seen[-9:] == [*step(1), "on_keyboard_interrupt", "on_exception", "teardown(fit)"]


def test_a_second_ctrl_c_is_not_held_up():
    callback, seen = heard()

    with pytest.raises(KeyboardInterrupt):
        train(task(), batches(4), callbacks=[callback, pressed(signal.SIGINT, "on_train_batch_start", 2)], max_epochs=1)

    assert seen[-4:] == ["on_train_batch_start[1]", "on_keyboard_interrupt", "on_exception", "teardown(fit)"]


def test_sigterm_ends_the_step_saves_what_was_asked_for_and_exits_with_143(tmp_path):
    callback, seen = heard()
    saves = asks(Save(str(tmp_path / "last.safetensors")), "on_exception", lambda event: True)
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        train(
            task(),
            batches(4),
            callbacks=[callback, saves, pressed(signal.SIGTERM, "on_train_batch_start")],
            max_epochs=1,
        )

    assert caught.value.code == 143
    assert seen[-9:] == [*step(1), "on_exception", "on_save_checkpoint", "teardown(fit)"]
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["last.safetensors"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_sigterm_ends_the_other_stages_after_a_batch(stage):
    callback, seen = heard()
    name = "validation" if stage == "validate" else stage
    stopped = pressed(signal.SIGTERM, f"on_{name}_batch_start")

    with pytest.raises(SystemExit):
        STAGES[stage](task(), batches(4), callbacks=[callback, stopped])

    assert seen[-3:] == [f"on_{name}_batch_end[1]", "on_exception", f"teardown({stage})"]


def test_a_checkpoint_from_the_end_of_training_ends_it_no_second_time(tmp_path):
    path = tmp_path / "end.safetensors"
    saves = Callback(key="saves", init=int, on_train_end=lambda s, e: emit(s, Save(str(path))))
    train(task(), batches(2), callbacks=saves, max_epochs=1)
    callback, seen = heard()

    train(task(), batches(2), callbacks=callback, max_epochs=1, resume=path)

    assert seen == ["setup(fit)", "on_load_checkpoint", "on_fit_start", "on_fit_end", "teardown(fit)"]
