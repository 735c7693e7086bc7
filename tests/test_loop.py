"""The loop: events in order, limits, schedules, resuming, errors; and that it never waits."""

import copy
import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fncb
from fncb import events as ev
from fncb import store
from fncb.callback import Callback, StepHooks, compose, emit
from fncb.callbacks import checkpoint, clip_grad_norm, early_stop, ema, lr_monitor, skip_nonfinite
from fncb.effects import Delete, Save, SetAccumulation, SetLR, Skip, Stop, StopEpoch, Validate
from fncb.loop import fit, validate
from fncb.recording import read
from fncb.session import Session
from fncb.task import Task
from fncb.tree import leaves


def loss(model, batch):
    return model(batch).square().mean()


def task(model=None, **given):
    torch.manual_seed(0)
    given = {"loss": loss, "optimizer": partial(torch.optim.SGD, lr=0.1), **given}
    return Task(model or nn.Linear(2, 1), **given)


def data(n=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 2, generator=generator) for _ in range(n)]


def heard(*, also=()):
    """A callback that notes every event as hook name and batch index, and the list that it notes them in."""
    seen = []

    def note(state, event):
        index = f"[{event.batch_idx}]" if hasattr(event, "batch_idx") else ""
        seen.append(ev.hook_name(type(event)) + index)
        return state

    hooks = {name: note for name in ev.HOOKS if name not in also}
    return Callback(key="heard", init=int, **hooks), seen


run = partial(fit, compile=False, progress=False, max_epochs=1, num_sanity_val_steps=0)

SET_UP = ["on_init_start", "on_init_end", "setup", "on_configure_sharded_model", "on_fit_start", "on_train_start"]
BATCH = [
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_after_optimizer_step",
    "on_train_batch_end",
]
VALIDATION = [
    "on_validation_start",
    "on_epoch_start",
    "on_validation_epoch_start",
    "on_validation_batch_start[0]",
    "on_validation_batch_end[0]",
    "on_validation_batch_start[1]",
    "on_validation_batch_end[1]",
    "on_validation_epoch_end",
    "on_epoch_end",
    "on_validation_end",
]


def batch(index, leave_out=()):
    return [f"{name}[{index}]" for name in BATCH if name not in leave_out]


def test_events_come_in_the_order_of_lightning():
    callback, seen = heard()

    run(task(), data(), data(), callbacks=callback)

    assert seen == [
        *SET_UP,
        *("on_epoch_start", "on_train_epoch_start"),
        *batch(0),
        *batch(1),
        *VALIDATION,
        *("on_train_epoch_end", "on_epoch_end", "on_train_end", "on_fit_end", "teardown"),
    ]


def test_hooks_around_the_optimizer_come_once_a_window_and_an_epoch_ends_the_last_window():
    callback, seen = heard()

    run(task(), data(3), callbacks=callback, accumulate_grad_batches=2)

    inner = [name for name in seen if "batch" in name or "zero" in name or "step" in name or "backward" in name]
    update = ("on_before_optimizer_step", "on_after_optimizer_step")
    assert inner == [*batch(0, update), *batch(1, ["on_before_zero_grad"]), *batch(2)]


def test_validate_fires_what_lightning_fires():
    callback, seen = heard()

    result = validate(task(), data(), callbacks=callback)

    assert seen == [*SET_UP[:4], *VALIDATION, "teardown"]
    assert set(result.metrics) == {"val_loss"}


@pytest.mark.parametrize(
    ("settings", "epochs", "steps"),
    [
        ({"max_epochs": 3}, 3, 9),
        ({"max_epochs": -1, "max_steps": 4}, 2, 4),  # the second epoch in part
        ({"max_epochs": None, "max_steps": 6}, 2, 6),
        ({"max_epochs": 2, "max_steps": 100}, 2, 6),
        ({"max_epochs": 0}, 0, 0),
        ({"max_steps": 0}, 0, 0),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 2, 4),
        ({"max_epochs": 1, "accumulate_grad_batches": 5}, 1, 1),
    ],
)
def test_limits_count_epochs_and_optimizer_steps(settings, epochs, steps):
    result = run(task(), data(3), **settings)

    assert (result.epoch, result.step) == (epochs, steps)


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({}, [(0, 12), (1, 24)]),
        ({"val_check_interval": 0.42}, [(0, 5), (0, 10), (1, 17), (1, 22)]),  # every 5 batches; no run at the end
        ({"val_check_interval": 6}, [(0, 6), (0, 12), (1, 18), (1, 24)]),
        ({"check_val_every_n_epoch": 2}, [(1, 24)]),
        ({"check_val_every_n_epoch": 2, "val_check_interval": 0.5}, [(1, 18), (1, 24)]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 15}, [(1, 15)]),
    ],
)
def test_validation_comes_when_it_is_due(settings, at):
    seen = []
    spy = Callback(key="spy", init=int, on_validation_end=lambda s, e: seen.append((e.epoch, e.step)) or s)

    run(task(), data(12), data(), callbacks=spy, max_epochs=2, **settings)

    assert seen == at


def test_a_loader_without_length_validates_at_its_end():
    class Stream:
        def __iter__(self):
            return iter(data(3))

    seen = []
    spy = Callback(key="spy", init=int, on_validation_end=lambda s, e: seen.append(e.step) or s)

    run(task(), Stream(), data(), callbacks=spy, max_epochs=2)

    assert seen == [3, 6]


def test_an_empty_validation_loader_is_told_in_the_sanity_check_too():
    with pytest.raises(ValueError, match="fit: val must give at least one batch, got none"):
        run(task(), data(), [], num_sanity_val_steps=2)


def test_limits_of_validation_are_no_matter_without_it():
    assert run(task(), data(), limit_val_batches=0.5).step == 2


def test_metrics_of_an_epoch_hold_the_last_step_the_means_and_the_validation():
    seen = []
    spy = Callback(key="spy", init=int, on_train_epoch_end=lambda s, e: seen.append(dict(e.metrics)) or s)
    batches = [torch.zeros(4, 2), torch.ones(4, 2)]
    quiet = task(nn.Linear(2, 1, bias=False), optimizer=partial(torch.optim.SGD, lr=0.0))

    result = run(quiet, batches, [torch.ones(2, 2)], callbacks=spy)

    value = quiet.model.weight.sum().square().item()
    assert seen == [{"loss": value, "loss_epoch": value / 2, "val_loss": value, "lr-SGD": 0.0}]
    assert result.metrics == seen[0]


def test_the_metrics_of_a_run_are_the_last_of_each_and_those_of_an_epoch_its_own():
    seen = []
    spy = Callback(key="spy", init=int, on_train_epoch_end=lambda s, e: seen.append("val_loss" in e.metrics) or s)

    result = run(task(), data(), data(), callbacks=spy, max_epochs=3, check_val_every_n_epoch=2)

    assert seen == [False, True, False]
    assert "val_loss" in result.metrics


def test_what_a_loss_returns_beside_the_loss_is_named_for_its_stage():
    beside = task(loss=lambda model, batch: (model(batch).mean(), {"acc": batch.mean()}))

    result = run(beside, data(), data())

    assert {"loss", "acc", "loss_epoch", "acc_epoch", "val_loss", "val_acc"} <= set(result.metrics)


def test_validation_restores_the_mode_of_every_module():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 1))
    model[1].eval()
    modes = []
    spy = Callback(
        key="spy", init=int, on_validation_start=lambda s, e: modes.append([m.training for m in model.modules()]) or s
    )

    run(task(model), data(), data(), callbacks=spy)

    assert modes == [[False] * 4]
    assert [module.training for module in model.modules()] == [True, True, False, True]


@pytest.mark.parametrize("make", [lambda x: x, lambda x: (x, "name"), lambda x: {"x": x, "more": [x, None]}])
def test_batches_may_be_tensors_tuples_and_dicts(make):
    def first(model, batch):
        return loss(
            model, batch if isinstance(batch, torch.Tensor) else batch["x"] if isinstance(batch, dict) else batch[0]
        )

    plain, wrapped = task(loss=first), task(loss=first)

    run(plain, data())
    run(wrapped, [make(x) for x in data()])

    assert torch.equal(plain.model.weight, wrapped.model.weight)


def test_a_schedule_by_epoch_moves_before_the_last_batch_ends():
    seen = []
    spy = Callback(key="spy", init=int, on_train_batch_start=lambda s, e: seen.append(e.metrics["lr-SGD"]) or s)
    halves = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)

    result = run(task(schedule=halves), data(), callbacks=spy, max_epochs=2)

    assert seen == [0.1, 0.1, 0.05, 0.05]
    assert result.metrics["lr-SGD"] == 0.025


def test_a_schedule_by_step_moves_with_each_optimizer_step():
    seen = []
    spy = Callback(key="spy", init=int, on_train_batch_start=lambda s, e: seen.append(e.metrics["lr-SGD"]) or s)
    halves = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)

    run(task(schedule=halves, schedule_interval="step"), data(4), callbacks=spy, accumulate_grad_batches=2)

    assert seen == [0.1, 0.1, 0.05, 0.05]


def test_a_plateau_schedule_is_given_its_metric_after_validation():
    drops = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5)
    stuck = task(optimizer=partial(torch.optim.SGD, lr=0.0), schedule=drops)
    stuck.optimizer.keywords["lr"] = 1e-30

    result = run(stuck, data(), data(), max_epochs=3)

    assert result.metrics["lr-SGD"] == pytest.approx(1e-30)  # below the plateau's eps it stays


def test_early_stopping_stops_and_says_why():
    stuck = task(optimizer=partial(torch.optim.SGD, lr=0.0))

    result = run(stuck, data(), data(), callbacks=early_stop("val_loss", patience=2), max_epochs=10)

    assert result.epoch == 3
    assert result.stopped is not None
    assert "val_loss" in result.stopped.reason


def test_a_stop_in_the_middle_of_an_epoch_ends_it_after_the_batch():
    callback, seen = heard(also=("on_train_batch_end",))
    stops = Callback(key="stops", init=int, on_train_batch_end=lambda s, e: emit(s, Stop("now")) if e.step == 2 else s)

    result = run(task(), data(5), callbacks=[callback, stops])

    assert (result.step, result.epoch) == (2, 1)
    assert seen[-6:] == [
        "on_stop_requested",
        "on_train_epoch_end",
        "on_epoch_end",
        "on_train_end",
        "on_fit_end",
        "teardown",
    ]


def test_a_skipped_batch_is_not_trained_on_but_still_ends():
    seen = []
    skips = Callback(
        key="skips",
        init=int,
        emits=(Skip,),
        on_train_batch_start=lambda s, e: emit(s, Skip()) if e.batch_idx == 1 else s,
        on_train_batch_end=lambda s, e: seen.append((e.batch_idx, e.step, len(e.metrics))) or s,
    )

    result = run(task(), data(3), callbacks=skips)

    assert seen == [(0, 1, 1), (1, 1, 0), (2, 2, 1)]
    assert result.step == 2


def test_a_callback_may_ask_for_validation_learning_rate_and_accumulation():
    validated = []
    asks = Callback(
        key="asks",
        init=int,
        emits=(Validate, SetLR, SetAccumulation),
        on_train_start=lambda s, e: emit(s, SetLR(0.0), SetAccumulation(2)),
        on_train_batch_end=lambda s, e: emit(s, Validate()) if e.batch_idx == 0 else s,
        on_validation_end=lambda s, e: validated.append(e.step) or s,
    )
    still = task()
    before = still.model.weight.clone()

    result = run(still, data(4), data(), callbacks=asks)

    assert validated == [0, 2]
    assert torch.equal(still.model.weight, before)
    assert (result.step, result.metrics["lr-SGD"]) == (2, 0.0)


def test_accumulation_changes_from_the_next_window_on():
    updates = []
    asks = Callback(
        key="asks",
        init=int,
        on_train_batch_end=lambda s, e: emit(s, SetAccumulation(3)) if e.batch_idx == 0 else s,
        on_before_optimizer_step=lambda s, e: updates.append(e.batch_idx) or s,
    )

    run(task(), data(8), callbacks=asks, accumulate_grad_batches=2)

    assert updates == [1, 4, 7]


def test_seed_repeats_a_run():
    def weights(seed):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        loader = DataLoader(torch.randn(16, 2, generator=torch.Generator().manual_seed(0)), batch_size=4, shuffle=True)
        run(task(model), loader, seed=seed)
        return model[0].weight

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_without_a_hook_that_reads_a_metric_nothing_waits_for_the_device(tmp_path):
    class Waits(torch.overrides.TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            name = getattr(func, "__name__", "")
            self.count += name in ("item", "tolist", "__float__", "__bool__", "__int__", "cpu", "numpy")
            return func(*args, **(kwargs or {}))

    def waits(*callbacks, **settings):
        with Waits() as mode:
            run(task(optimizer=partial(torch.optim.SGD, lr=0.1)), data(40), callbacks=callbacks, **settings)
        return mode.count

    count = Callback(key="count", init=int, on_train_batch_end=lambda s, e: s + 1)
    reads = Callback(key="reads", init=float, on_train_batch_end=lambda s, e: e.metrics["loss"])
    at_the_end = waits()

    assert waits(count, ema(0.9), clip_grad_norm(1.0)) == at_the_end
    assert waits(count, reads) == at_the_end + 40
    assert waits(count, record=tmp_path / "events.jsonl") <= at_the_end + 3


def shuffled():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(5))
    return DataLoader(TensorDataset(x), batch_size=4, shuffle=True)


def everything(directory, **saving):
    return compose(
        early_stop("val_loss", patience=50),
        checkpoint(directory, save_top_k=-1, **saving),
        ema(0.9),
        clip_grad_norm(0.5),
        skip_nonfinite(),
        lr_monitor(),
    )


def full_task():
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
    return task(
        model,
        loss=lambda model, batch: (loss(model, batch[0]), {"size": model(batch[0]).abs().mean()}),
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=20),
        schedule_interval="step",
    )


@pytest.mark.parametrize(
    ("saving", "compile"),
    [
        ({"every_n_train_steps": 1}, False),
        ({"every_n_epochs": 1}, False),
        ({"save_on_train_epoch_end": True}, False),
        ({"every_n_train_steps": 1}, True),
    ],
    ids=["each step", "each validation", "each epoch", "each step, compiled"],
)
def test_a_run_that_goes_on_equals_one_that_was_never_cut(tmp_path, saving, compile):
    def train(given, **settings):
        callbacks = everything(tmp_path / "saved", **saving)
        every = {"max_epochs": 3, "accumulate_grad_batches": 2, "val_check_interval": 2, "compile": compile, **settings}
        return run(given, shuffled(), shuffled(), callbacks=callbacks, **every)

    log = tmp_path / "events.jsonl"
    straight = full_task()
    whole = train(straight, record=log, seed=7)
    happened = without_time(read(log))
    original = log.read_bytes()
    saved = sorted((tmp_path / "saved").glob("*.safetensors"), key=lambda path: int(path.stem.split("=")[-1]))
    assert len(saved) >= 3

    for cut in saved[1:2] if compile else saved[:-1]:
        torch.manual_seed(99)
        resumed = full_task()
        with torch.no_grad():
            resumed.model[0].weight.zero_()
        log.write_bytes(original)
        again = train(resumed, record=log, resume=cut, allow_inexact_resume=True)

        assert (again.step, again.epoch, again.resumed.path) == (whole.step, whole.epoch, cut)
        for path, tensor in straight.model.state_dict().items():
            assert torch.equal(tensor, resumed.model.state_dict()[path]), (cut, path)
        for (path, tensor), (_, other) in zip(leaves(whole.step_state), leaves(again.step_state), strict=True):
            assert torch.equal(tensor, other), (cut, path)
        assert again.metrics == whole.metrics
        assert again.state["early_stop(val_loss)"] == whole.state["early_stop(val_loss)"]
        assert without_time(read(log)) == happened
        for file in set((tmp_path / "saved").glob("*.safetensors")) - set(saved):  # written again, as -v1
            file.unlink()


PLATEAU = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5)
STEPS = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)


@pytest.mark.parametrize(
    "hook",
    [
        "on_train_start",
        "on_epoch_start",
        "on_train_epoch_start",
        "on_train_batch_end",
        "on_validation_end",
        "on_train_epoch_end",
        "on_epoch_end",
    ],
)
@pytest.mark.parametrize(
    ("schedule", "interval"), [(PLATEAU, "epoch"), (PLATEAU, "step"), (STEPS, "epoch")], ids=lambda v: str(v)[:12]
)
@pytest.mark.parametrize("together", [(), (Validate(),), (StopEpoch(),), (SetLR(0.01), SetAccumulation(3))], ids=str)
def test_a_save_at_any_hook_goes_on_exactly(tmp_path, hook, schedule, interval, together):
    path, log = tmp_path / "a.safetensors", tmp_path / "events.jsonl"
    outside = hook in ("on_train_start", "on_train_epoch_end", "on_epoch_end")
    if outside and StopEpoch() in together:
        together = ()

    def ask(state, event):
        if event.epoch != (0 if hook == "on_train_start" else 1) or getattr(event, "batch_idx", 2) != 2:
            return state
        # the first epoch to end is that of the validation
        return emit(state + 1, Save(str(path)), *together) if state == (hook == "on_epoch_end") else state + 1

    def train(given, **settings):
        saves = Callback(key="saves", init=int, **{hook: ask})
        every = {"max_epochs": 3, "accumulate_grad_batches": 2, "val_check_interval": 3, "record": log, **settings}
        return run(given, shuffled(), shuffled(), callbacks=[saves, ema(0.9)], **every)

    def given():
        model = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.3), nn.Linear(4, 1))
        optimizer = partial(torch.optim.AdamW, lr=0.01)
        both = {"schedule": schedule, "schedule_interval": interval}
        return task(model, loss=lambda model, batch: loss(model, batch[0]), optimizer=optimizer, **both)

    straight, resumed = given(), given()
    whole = train(straight, seed=7)
    happened = without_time(read(log))
    again = train(resumed, resume=path, allow_inexact_resume=True)

    assert (again.step, again.epoch, again.metrics) == (whole.step, whole.epoch, whole.metrics)
    assert hook == "on_train_start" or again.state == whole.state  # which is heard again
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert without_time(read(log)) == happened


def test_making_loaders_anew_for_a_run_that_goes_on_draws_nothing_from_it(tmp_path):
    def draws_and_makes():
        torch.randn(3)
        return shuffled()

    def train(**given):
        model = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.3), nn.Linear(4, 1))
        drops = task(model, loss=lambda model, batch: loss(model, batch[0]))
        callbacks = checkpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
        return run(drops, draws_and_makes, draws_and_makes, callbacks=callbacks, max_epochs=2, **given).metrics

    whole = train(seed=3)

    for step in (2, 5, 7):
        path = tmp_path / f"epoch={(step - 1) // 5}-step={step}.safetensors"
        assert train(resume=path, allow_inexact_resume=True) == whole


def test_a_run_that_was_cut_goes_on_in_the_epoch_that_it_was_cut_in(tmp_path):
    run(task(), data(4), callbacks=checkpoint(tmp_path), max_steps=1)
    seen = []
    spy = Callback(key="spy", init=int, **dict.fromkeys(ev.HOOKS, lambda s, e: seen.append(e.epoch) or s))

    result = run(task(), data(4), callbacks=[spy, checkpoint(tmp_path)], max_epochs=1, resume="last")

    assert (result.epoch, result.step) == (1, 4)
    assert set(seen[:-4]) == {0}
    assert seen[-4:] == [0, 1, 1, 1]  # on_epoch_end, then on_train_end, on_fit_end and teardown


SET_UP_AGAIN = (
    ev.InitStart,
    ev.InitEnd,
    ev.Setup,
    ev.ConfigureShardedModel,
    ev.LoadCheckpoint,
    ev.FitStart,
    ev.TrainStart,
)


def without_time(recording):
    """The events of a recording, but for those of setting up, which a run that goes on has twice, and for time."""
    return [
        (type(event).__name__, event.epoch, event.step, getattr(event, "metrics", None))
        for event in recording.events
        if not isinstance(event, SET_UP_AGAIN)
    ]


def test_a_recording_of_a_resumed_run_reads_as_one_run(tmp_path):
    log = tmp_path / "events.jsonl"
    saving = {"every_n_train_steps": 2}
    first = run(full_task(), shuffled(), callbacks=everything(tmp_path, **saving), record=log, max_epochs=2)
    checkpoints = sorted(tmp_path.glob("*.safetensors"), key=lambda path: int(path.stem.split("=")[-1]))

    second = run(
        full_task(),
        shuffled(),
        callbacks=everything(tmp_path, **saving),
        record=log,
        max_epochs=3,
        resume=checkpoints[1],
        allow_inexact_resume=True,
    )

    assert second.recording == first.recording == log
    recording = read(log)
    steps = [event.step for event in recording.events if isinstance(event, ev.TrainBatchEnd)]
    assert steps == list(range(1, 16))
    assert fncb.replay(everything(tmp_path, **saving), recording).state == second.state


def test_a_run_goes_on_in_its_own_recording_and_leaves_that_of_another_alone(tmp_path):
    log = tmp_path / "events.jsonl"
    run(task(), data(), record=log)
    other = log.read_bytes()
    own = run(task(), data(), callbacks=checkpoint(tmp_path), record=log)

    again = run(task(), data(), callbacks=checkpoint(tmp_path), record=log, resume="last", max_epochs=2)
    elsewhere = run(
        task(), data(), callbacks=checkpoint(tmp_path), record=tmp_path / "b.jsonl", resume="last", max_epochs=3
    )

    assert own.recording == again.recording == tmp_path / "events-v1.jsonl"
    assert elsewhere.recording == tmp_path / "b.jsonl"
    assert log.read_bytes() == other
    assert [event.step for event in read(again.recording).events if isinstance(event, ev.TrainBatchEnd)] == [1, 2, 3, 4]


def test_a_run_that_was_killed_right_after_a_save_goes_on_in_its_recording(tmp_path):
    killed = Session(checkpoint(tmp_path), record=tmp_path / "events.jsonl")
    killed(ev.TrainEpochEnd(epoch=0, step=2))  # saved; closed only at the end of this test

    with Session(checkpoint(tmp_path), record=tmp_path / "events.jsonl") as again:
        again.load(store.read(tmp_path / "epoch=0-step=2.safetensors"))

    assert [type(event) for event in read(tmp_path / "events.jsonl").events] == [
        ev.TrainEpochEnd,
        ev.SaveCheckpoint,
        ev.Saved,
    ]
    killed.close()


def test_live_and_replayed_runs_agree_in_states_and_effects(tmp_path):
    callbacks = compose(
        early_stop("val_loss", patience=1),
        checkpoint(tmp_path / "checkpoints", monitor="val_loss", save_top_k=2, save_last=True),
        lr_monitor(logging_interval="step"),
        skip_nonfinite(),
    )

    live = run(full_task(), shuffled(), shuffled(), callbacks=callbacks, record=tmp_path / "events.jsonl", max_epochs=6)
    recording = read(tmp_path / "events.jsonl")
    replayed = fncb.replay(callbacks, recording)

    assert replayed.state == live.state
    recorded_effects = [entry for entry in recording.entries if entry not in recording.events]
    assert list(replayed.effects) == recorded_effects
    assert any(isinstance(effect, Save) for effect in replayed.effects)
    assert any(isinstance(effect, Delete) for effect in replayed.effects)


def test_resume_last_finds_the_newest_checkpoint_and_starts_anew_without_one(tmp_path, caplog):
    callbacks = checkpoint(tmp_path / "runs", save_top_k=-1)

    with caplog.at_level(logging.WARNING, "fncb"):
        first = run(task(), data(), callbacks=callbacks, resume="last", max_epochs=2)
    second = run(task(), data(), callbacks=callbacks, resume="last", max_epochs=3)

    assert first.resumed is None
    assert "no checkpoint yet" in caplog.text
    assert second.resumed.path.name == "epoch=1-step=4.safetensors"
    assert second.step == 6


def test_resume_last_passes_over_a_damaged_checkpoint(tmp_path, caplog):
    callbacks = checkpoint(tmp_path, save_top_k=-1)
    run(task(), data(), callbacks=callbacks, max_epochs=2)
    newest = tmp_path / "epoch=1-step=4.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])

    with caplog.at_level(logging.WARNING, "fncb"):
        again = run(task(), data(), callbacks=callbacks, resume="last", max_epochs=2)

    assert again.resumed.path.name == "epoch=0-step=2.safetensors"
    assert "epoch=1-step=4.safetensors is passed over" in caplog.text


def test_resuming_with_other_callbacks_says_which(tmp_path, caplog):
    run(task(), data(), data(), callbacks=[checkpoint(tmp_path), ema(0.9)])

    with caplog.at_level(logging.WARNING, "fncb"):
        result = run(
            task(),
            data(),
            data(),
            callbacks=[checkpoint(tmp_path), early_stop("val_loss")],
            resume="last",
            max_epochs=2,
        )

    assert "callbacks added: early_stop(val_loss); callbacks removed: ema" in caplog.text
    assert (result.resumed.added, result.resumed.removed) == (("early_stop(val_loss)",), ("ema",))
    assert result.epoch == 2


def test_exceptions_become_events_then_teardown_then_go_on():
    callback, seen = heard()

    def breaks(model, batch):
        raise ZeroDivisionError("in the loss")

    with pytest.raises(ZeroDivisionError, match="in the loss"):
        run(task(loss=breaks), data(), callbacks=callback)

    assert seen[-2:] == ["on_exception", "teardown"]


def test_ctrl_c_is_heard_first_as_itself():
    callback, seen = heard()

    def breaks(model, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(task(loss=breaks), data(), callbacks=callback)

    assert seen[-3:] == ["on_keyboard_interrupt", "on_exception", "teardown"]


def test_on_exception_sees_the_state_from_before():
    def breaks(state, event):
        if event.step == 2:
            raise ValueError("at two")
        return state

    seen = []
    counts = Callback(
        key="counts",
        init=int,
        on_train_batch_end=lambda s, e: s + 1,
        on_exception=lambda s, e: seen.append((s, e.error, e.message)) or s,
    )

    with pytest.raises(ValueError, match="at two") as caught:
        run(task(), data(3), callbacks=[counts, Callback(key="breaks", init=int, on_train_batch_end=breaks)])

    assert seen == [(1, "ValueError", "at two")]
    assert "breaks: on_train_batch_end failed at epoch 0, step 2." in caught.value.__notes__


def test_an_exception_while_another_is_told_does_not_hide_it():
    def breaks_again(state, event):
        raise RuntimeError("again")

    def breaks(model, batch):
        raise ZeroDivisionError("first")

    with pytest.raises(ZeroDivisionError, match="first") as caught:
        run(task(loss=breaks), data(), callbacks=Callback(key="b", init=int, on_exception=breaks_again))

    assert any("on_exception raised RuntimeError('again')" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_epochs": -2}, "max_epochs must be -1 or more, got -2"),
        ({"max_epochs": 1.5}, "max_epochs must be an int, got 1.5"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches must be 1 or more, got 0"),
        ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch must be 1 or more"),
        ({"val_check_interval": 1.5}, r"a fraction of an epoch in \[0, 1\], got 1.5"),
        ({"val_check_interval": 0}, "must be 1 batch or more, got 0"),
        ({"val_check_interval": "often"}, "must be 'DD:HH:MM:SS', got 'often'"),
        ({"val_check_interval": 3}, "must be at most the 2 batches of an epoch, got 3"),
        (
            {"val_check_interval": 0.5, "check_val_every_n_epoch": None},
            "must be an int or a duration when check_val_every_n_epoch is None",
        ),
        ({"train": []}, "fit: train must give at least one batch, got none"),
        ({"train": 3}, "fit: train must be an iterable of batches, got 3"),
        ({"val": []}, "fit: val must give at least one batch"),
        ({"train": iter(data()), "max_epochs": 2}, "A generator gives its batches once"),
        ({"callbacks": "early_stop"}, "everything must be a Callback, got 'early_stop'"),
        ({"callbacks": early_stop("val_acc")}, "val_acc.*'val_loss'"),
        ({"resume": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"resume": "last"}, r"needs a checkpoint\(...\) callback"),
        ({"task": Task(nn.Linear(2, 1), loss=loss)}, "the task must have an optimizer, got None"),
        (
            {"task": Task(nn.Identity(), loss=loss, optimizer=torch.optim.Adam)},
            "parameters that require gradients, got none",
        ),
        ({"task": task(optimizer=lambda params: 3)}, "must make a torch.optim.Optimizer, got 3"),
        ({"task": task(optimizer=torch.optim.LBFGS)}, "got LBFGS"),
        ({"task": task(optimizer=torch.optim.SGD(nn.Linear(2, 1).parameters()))}, "must hold parameters of the model"),
        ({"task": task(schedule=lambda optimizer: 3)}, "schedule must make .*LRScheduler, got 3"),
    ],
)
def test_bad_input_is_told_in_one_sentence(change, message):
    given = {"task": task(), "train": data(), "val": data(), **change}

    with pytest.raises((TypeError, ValueError, KeyError, OSError), match=message):
        run(given.pop("task"), given.pop("train"), given.pop("val"), **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": 3}, "model must be a torch.nn.Module, got 3"),
        ({"loss": 3}, "loss must be a function, got 3"),
        ({"optimizer": 0.1}, "optimizer must be a function, got 0.1"),
        ({"optimizer": int}, "optimizer must make an Optimizer"),
        ({"schedule_interval": "batch"}, "schedule_interval must be 'epoch' or 'step', got 'batch'"),
    ],
)
def test_a_wrong_task_is_told_at_construction(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Task(**{"model": nn.Linear(1, 1), "loss": loss, **given})


def test_metrics_reach_a_file_without_any_callback(tmp_path):
    run(task(), data(), data(), sinks=[fncb.sinks.csv(tmp_path / "metrics.csv")], log_every_n_steps=1, max_epochs=2)

    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header.split(",")[:5] == ["epoch", "step", "seconds", "loss", "val_loss"]
    assert [tuple(row.split(",")[:2]) for row in rows] == [
        *[("0", "1"), ("0", "2"), ("0", "2"), ("0", "2")],  # two batches, a validation, an epoch
        *[("1", "3"), ("1", "4"), ("1", "4"), ("1", "4")],
    ]


def test_progress_is_shown_by_default_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    result = fit(task(), data(), max_epochs=1, compile=False)
    silent = fit(task(), data(), max_epochs=1, compile=False, progress=False)

    assert "progress_bar" in result.state
    assert "progress_bar" not in silent.state
    assert "epoch 0" in capsys.readouterr().out


def test_progress_is_shown_by_composition(capsys):
    run(task(), data(), data(), progress=True)

    assert "epoch 0: 2/2 batches, step 2" in capsys.readouterr().out


def test_no_progress_is_shown_where_there_is_no_terminal(capsys):
    fit(task(), data(), max_epochs=1, compile=False)

    assert capsys.readouterr().out == ""


def test_a_step_state_is_returned_by_key():
    result = run(task(), data(), callbacks=ema(0.0))

    assert result.step_state["ema"].keys() == {"weight", "bias"}
    assert result.compiled == "eager"


def test_a_step_hook_that_needs_no_gradient_runs_where_it_should():
    sees = Callback(
        key="sees",
        step=StepHooks(
            init=lambda params: {
                "steps": torch.zeros((), dtype=torch.int64),
                "epochs": torch.zeros((), dtype=torch.int64),
            },
            on_train_batch_end=lambda s, e: {"steps": e.step.clone(), "epochs": e.epoch.clone()},
        ),
    )

    result = run(task(), data(3), callbacks=sees, max_epochs=2)

    assert {name: value.item() for name, value in result.step_state["sees"].items()} == {"steps": 6, "epochs": 1}


def test_the_compiled_loop_gives_the_numbers_of_the_eager_one():
    x, y = torch.randn(40, 2), torch.randint(0, 3, (40,))
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    cross = {"loss": lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])}
    model, results = nn.Linear(2, 3), {}

    for compile in (True, False):
        results[compile] = run(
            task(copy.deepcopy(model), **cross),
            loader,
            loader,
            callbacks=[clip_grad_norm(1.0)],
            compile=compile,
            max_epochs=3,
        )

    assert results[True].compiled == "one graph"
    assert results[True].recompilations <= 1
    assert results[True].metrics == pytest.approx(results[False].metrics, rel=1e-5)
