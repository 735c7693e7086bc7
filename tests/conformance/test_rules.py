"""The rules of hooks.md (1.1 to 1.4) in all their combinations, against a reference written from its words."""

import itertools
import logging
from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

import fncb
from fncb import events as ev
from fncb.callback import Callback, compose, emit
from fncb.callbacks import accumulation_schedule, checkpoint, clip_grad_norm, early_stop
from fncb.effects import Probe, Save, SetLR, Stop
from fncb.loop import predict, test, validate
from tests.conformance.runs import (
    NOT_IN_2X,
    STEP,
    Clock,
    StepLR,
    asks,
    batches,
    heard,
    name_of,
    notes,
    raises_in,
    skips_at,
    spy,
    stops_at,
    stops_epoch_at,
    task,
    train,
    validations,
)

# The reference: what callbacks hear, straight from sections 1.4 and 1.5.


def validation(sizes):
    pairs = [f"on_validation_batch_{moment}[{i}]" for n in sizes for i in range(n) for moment in ("start", "end")]
    ends = ["on_validation_epoch_end", "on_validation_end"]
    return ["on_validation_start", "on_validation_epoch_start", *pairs, *ends]


def limited(n, limit):
    return min(n, limit) if isinstance(limit, int) else int(n * limit)


def reference(
    n,
    sizes,
    *,
    max_epochs=-1,
    max_steps=-1,
    min_epochs=0,
    min_steps=0,
    limit_train_batches=1.0,
    limit_val_batches=1.0,
    val_check_interval=1.0,
    check_val_every_n_epoch=1,
    num_sanity_val_steps=2,
    accumulate_grad_batches=1,
    stop=None,
    leave=None,
):
    """What is heard when n batches train, those of `sizes` validate, and callbacks ask to stop or to leave an epoch.

    Args:
      stop, leave: (epoch, batch) of a `Stop` when it ends and of a `StopEpoch` when it starts, None for none.
    """
    n, sizes = limited(n, limit_train_batches), [limited(size, limit_val_batches) for size in sizes]
    seen, step, epoch, total, asked = ["setup(fit)", "on_fit_start"], 0, 0, 0, False
    if sizes and limit_val_batches != 0 and num_sanity_val_steps != 0:
        sanity = [size if num_sanity_val_steps == -1 else min(num_sanity_val_steps, size) for size in sizes]
        seen += ["on_sanity_check_start", *validation(sanity), "on_sanity_check_end"]
    whole = isinstance(val_check_interval, float)
    every = max(1, int(n * val_check_interval)) if whole else val_check_interval

    def may_stop():
        return asked and epoch >= min_epochs and step >= min_steps

    def done():
        return n == 0 or step == max_steps or epoch == max_epochs or may_stop()

    begun = not done()
    if begun:
        seen.append("on_train_start")
    while not done():
        seen.append("on_train_epoch_start")
        for i in range(n):
            seen.append(f"on_train_batch_start[{i}]")
            if leave == (epoch, i):
                break
            first, updates = i % accumulate_grad_batches == 0, (i + 1) % accumulate_grad_batches == 0 or i == n - 1
            seen += STEP[not first : len(STEP) - (not updates)]
            step, total = step + updates, total + 1
            seen.append(f"on_train_batch_end[{i}]")
            asked = asked or stop == (epoch, i)
            of_epoch = check_val_every_n_epoch is None or (epoch + 1) % check_val_every_n_epoch == 0
            due = (total if check_val_every_n_epoch is None else i + 1) % every == 0
            if sizes and limit_val_batches != 0 and of_epoch and (due or may_stop()):
                seen += validation(sizes)
            if step == max_steps or may_stop():
                break
        seen.append("on_train_epoch_end")
        epoch += 1
    return [*seen, *(["on_train_end"] if begun else []), "on_fit_end", "teardown(fit)"]


@st.composite
def cases(draw, long=False):
    """Batches to train and validate on, and settings that go together; long ones train some epochs in any case."""
    n = draw(st.integers(2 if long else 1, 6))
    sizes = draw(st.lists(st.integers(1, 3), min_size=long, max_size=2))
    limit_train, limit_val = (
        draw(st.one_of(st.just(1.0), st.integers(2 if long else 0, 7), st.sampled_from([0.5, 0.75]))) for _ in "tv"
    )
    limit_train = 1.0 if limited(n, limit_train) == 0 and isinstance(limit_train, float) else limit_train
    limit_val = limit_val if sizes and 0 not in [limited(size, limit_val) for size in sizes] else 1.0
    taken = limited(n, limit_train)
    every = draw(st.sampled_from([1, 1, 2, 3, None]))
    fractions = [] if every is None else [st.sampled_from([0.6, 0.3, 0.42, 1.0, 0.5, 0.0])]
    whole = [st.integers(1, 15 if every is None else taken)] if every is None or taken else []
    max_steps = draw(st.sampled_from([-1, -1, *range(7 if long else 0, 12)]))
    endless = max_steps != -1 and taken > 0
    max_epochs = draw(st.integers(2, 4) if long else st.integers(-1 if endless else 0, 4))
    place = st.one_of(st.none(), st.tuples(st.integers(0, 2), st.integers(0, 5)))
    return (n, sizes), {
        "limit_train_batches": limit_train,
        "limit_val_batches": limit_val,
        "val_check_interval": draw(st.one_of(*whole, *fractions)),
        "check_val_every_n_epoch": every,
        "num_sanity_val_steps": 0 if long else draw(st.sampled_from([0, 0, 1, 2, 5, -1])),
        "accumulate_grad_batches": draw(st.integers(1, 4)),
        "max_epochs": max_epochs,
        "max_steps": max_steps,
        "min_epochs": draw(st.integers(0, 3 if max_epochs == -1 else max_epochs)),
        "min_steps": draw(st.integers(0, 8 if max_steps == -1 else max_steps)),
        "stop": draw(place),
        "leave": None if max_epochs == -1 else draw(place),
    }


def val_of(sizes):
    return {str(i): batches(size) for i, size in enumerate(sizes)} or None


def asked_for(stop, leave):
    return [*([stops_at(*stop)] if stop else []), *([stops_epoch_at(leave)] if leave else [])]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases())
def test_any_settings_together_fire_what_the_rules_say(case):
    (n, sizes), given = case
    callback, seen = heard()
    expected = reference(n, sizes, **given)

    asking = asked_for(given.pop("stop"), given.pop("leave"))
    train(task(), batches(n), val_of(sizes), callbacks=[callback, *asking], **given)

    assert seen == expected


@pytest.mark.parametrize(
    ("given", "at"),
    [
        ({}, [(0, 12), (1, 12)]),
        ({"val_check_interval": 0.42}, [(0, 5), (0, 10), (1, 5), (1, 10)]),  # every 5; none is added at the end
        ({"val_check_interval": 0.3}, [(e, b) for e in (0, 1) for b in (3, 6, 9, 12)]),  # 3.6 is 3
        ({"val_check_interval": 0.01}, [(e, b) for e in (0, 1) for b in range(1, 13)]),  # at least 1
        ({"val_check_interval": 0.5, "limit_train_batches": 7}, [(0, 3), (0, 6), (1, 3), (1, 6)]),
        ({"val_check_interval": 7}, [(0, 7), (1, 7)]),
        ({"val_check_interval": 7, "check_val_every_n_epoch": None}, [(0, 7), (1, 2), (1, 9)]),
        ({"val_check_interval": 0.5, "check_val_every_n_epoch": 2}, [(1, 6), (1, 12)]),
        ({"check_val_every_n_epoch": 3}, []),
        ({"val_check_interval": 5, "accumulate_grad_batches": 4}, [(0, 5), (0, 10), (1, 5), (1, 10)]),
    ],
)
def test_validation_comes_after_so_many_batches(given, at):
    callback, seen = validations()

    train(task(), batches(12), batches(1), callbacks=callback, max_epochs=2, num_sanity_val_steps=0, **given)

    assert seen == at


def test_a_fraction_of_the_validation_batches_means_nothing_without_validation():
    for fraction in ({"limit_val_batches": 0.5}, {"overfit_batches": 0.5}):
        assert train(task(), batches(4), max_epochs=1, **fraction).epoch == 1


@pytest.mark.parametrize("interval", [1, 100])
def test_an_interval_is_not_looked_at_where_nothing_trains(interval):
    result = train(task(), batches(4), batches(1), max_epochs=1, limit_train_batches=0, val_check_interval=interval)

    assert result.step == 0


# Resuming: a run that was cut and goes on hears what one that was not cut hears.

RESUMED = ["setup(fit)", "on_load_checkpoint", "on_fit_start", "on_train_start"]


def hears_places():
    """A callback and the list of what it heard, each with epoch and step."""
    leave_out = {*NOT_IN_2X, "on_save_checkpoint"} - {"on_after_optimizer_step"}
    return notes(lambda event: (name_of(event), event.epoch, event.step), "hears", leave_out)


SHUFFLED = DataLoader(torch.arange(5 * 32.0).reshape(5, 32) / 100, batch_size=1, shuffle=True)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"accumulate_grad_batches": 2},
        {"accumulate_grad_batches": 3, "val_check_interval": 2},
        {"val_check_interval": 2},
        {"val_check_interval": 0.42, "check_val_every_n_epoch": 2},
        {"val_check_interval": 3, "check_val_every_n_epoch": None},
        {"limit_train_batches": 3, "check_val_every_n_epoch": 2},
        {"limit_val_batches": 0},
        {"callbacks": [stops_at(1, 1)]},
        {"callbacks": [stops_at(1, 1)], "min_epochs": 1, "check_val_every_n_epoch": None, "val_check_interval": 4},
        {"callbacks": [stops_epoch_at((1, 3), (2, 1))]},
        {"callbacks": [skips_at((0, 1), (1, 4))], "val_check_interval": 2},
        {"callbacks": [accumulation_schedule({0: 1, 1: 3})]},
        {"max_steps": 8},
    ],
    ids=str,
)
def test_a_run_cut_by_max_steps_at_any_step_goes_on_as_if_it_had_not_been(tmp_path, given):
    def run(max_steps, **resume):
        model = task(nn.Sequential(nn.Linear(32, 2), nn.Dropout(0.5)), schedule=StepLR)
        callback, seen = hears_places()
        saves = checkpoint(tmp_path / str(max_steps), every_n_train_steps=1, save_top_k=-1)
        asked = {"max_epochs": 2, **given, "max_steps": max_steps}
        asked["callbacks"] = [callback, *given.get("callbacks", []), saves]
        train(model, SHUFFLED, batches(2), **asked, **resume)
        return seen, model.model[0].weight

    torch.manual_seed(5)
    whole, weight = run(given.get("max_steps", -1))
    steps = max(step for _, _, step in whole)
    for cut in range(1, steps):
        torch.manual_seed(5)
        before, _ = run(cut)
        torch.manual_seed(99)
        after, resumed_weight = run(
            given.get("max_steps", -1),
            resume=tmp_path / str(cut) / f"epoch={before[-1][1] - 1}-step={cut}.safetensors",
            allow_inexact_resume=True,
        )

        last = max(i for i, (name, _, _) in enumerate(before) if name.startswith("on_train_batch_end"))
        assert [name for name, _, _ in after[:4]] == RESUMED
        assert before[: last + 1] + after[4:] == whole, cut
        due = validation([2]) if whole[last + 1][0] == "on_validation_start" else []
        ends = ["on_train_epoch_end", "on_train_end", "on_fit_end", "teardown(fit)"]
        assert [name for name, _, _ in before[last + 1 :]] == [*due, *ends]
        assert torch.equal(weight, resumed_weight), cut


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases(long=True), st.sampled_from(["train_batch", "validation", "train_epoch"]), st.integers(0, 50))
def test_a_run_goes_on_from_any_event_with_any_settings(tmp_path_factory, case, ended, nth):
    (n, sizes), given = case
    path = tmp_path_factory.mktemp("saved") / "cut.safetensors"
    times = sum(name.startswith(f"on_{ended}_end") for name in reference(n, sizes, **given))
    assume(times)
    asking = asked_for(given.pop("stop"), given.pop("leave"))
    callback, whole = hears_places()
    stops, stopped = spy("on_stop_requested", lambda event: event.step, "hears_stop")
    at = []

    def save(state, event):
        if state == nth % times:
            at.append((len(whole), event.step))
            return emit(state + 1, Save(str(path)))
        return state + 1

    saves = Callback(key="saves", init=int, emits=(Save,), **{f"on_{ended}_end": save})
    train(task(), batches(n), val_of(sizes), callbacks=[callback, *asking, stops, saves], **given)
    [(place, step)] = at
    over = whole[place][0] == "on_train_end" or step == given["max_steps"] or (stopped and stopped[0] <= step)
    assume(not over)

    callback, after = hears_places()
    train(task(), batches(n), val_of(sizes), callbacks=[callback, *asking], resume=path, **given)

    assert [name for name, _, _ in after[:4]] == RESUMED
    assert after[4:] == whole[place:]


def test_a_run_that_goes_on_may_leave_its_first_epoch_before_a_step_of_its_own(tmp_path):
    for resume in ({}, {"resume": tmp_path / "epoch=0-step=1.safetensors"}):
        callbacks = [stops_epoch_at((0, 1)), checkpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)]
        result = train(task(schedule=StepLR), batches(3), callbacks=callbacks, max_epochs=2, **resume)

        assert (result.epoch, result.step) == (2, 4)  # and torch has nothing to warn of


def test_a_stop_that_waits_for_min_steps_still_waits_in_a_run_that_goes_on(tmp_path):
    def run(**given):
        callback, seen = validations()
        saves = checkpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
        callbacks = [callback, stops_at(0, 0), saves]
        settings = {"min_steps": 5, "max_epochs": 4, "num_sanity_val_steps": 0, "limit_val_batches": 1}
        return train(task(), batches(3), batches(1), callbacks=callbacks, **settings, **given).step, seen

    whole = run()
    again = run(resume=tmp_path / "epoch=0-step=2.safetensors")

    assert whole == (5, [(0, 3), (1, 2)])
    assert again == whole


# Time between validations.


@pytest.mark.parametrize(
    ("every", "given", "at"),
    [
        ("00:00:00:25", {}, [(0, 3), (1, 2)]),  # 30 s each, of 4 batches an epoch; its own 7 s do not count
        ({"seconds": 10}, {}, [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (1, 3), (1, 4)]),
        ("00:00:00:25", {"check_val_every_n_epoch": 2}, [(1, 1), (1, 4)]),  # 50 s are over, but not in epoch 0
        ("00:00:00:25", {"check_val_every_n_epoch": None}, [(0, 3), (1, 2)]),
        ("00:00:00:25", {"limit_train_batches": 2}, [(1, 1)]),
        ("00:00:00:25", {"callbacks": [stops_at(0, 0)]}, [(0, 1)]),  # a stop validates at once
        ("00:00:02:00", {}, []),
        ("00:00:00:25", {"num_sanity_val_steps": 1}, [(0, 3), (1, 2)]),  # counted from the start of training
    ],
)
def test_validation_by_time_counts_from_the_end_of_the_last_one(monkeypatch, every, given, at):
    clock = Clock()
    monkeypatch.setattr("fncb.session.time", clock)
    callback, seen = validations()
    passes = clock.passes(on_train_batch_start=10, on_validation_batch_start=7)
    given = {"max_epochs": 2, "num_sanity_val_steps": 0, **given}
    given["callbacks"] = [callback, passes, *given.get("callbacks", [])]

    train(task(), batches(4), batches(1), val_check_interval=every, **given)

    assert seen == at


def test_a_run_that_goes_on_counts_the_time_since_the_last_validation(monkeypatch, tmp_path):
    clock = Clock()
    monkeypatch.setattr("fncb.session.time", clock)
    given = {"val_check_interval": "00:00:00:25", "num_sanity_val_steps": 0}
    saves = checkpoint(tmp_path, every_n_train_steps=1)
    train(
        task(),
        batches(4),
        batches(1),
        callbacks=[clock.passes(on_fit_start=1, on_train_batch_start=10), saves],
        max_steps=2,
        **given,
    )
    clock.now = 1e6
    callback, seen = validations()

    callbacks = [clock.passes(on_fit_start=1, on_train_batch_start=10), saves, callback]
    train(task(), batches(4), batches(1), callbacks=callbacks, resume="last", max_epochs=1, **given)

    assert seen == [(0, 3)]


# Limits.


@pytest.mark.parametrize(
    ("limit", "of", "taken"),
    [(0, 5, 0), (1, 5, 1), (4, 5, 4), (9, 5, 5), (0.0, 5, 0), (0.2, 5, 1), (0.5, 5, 2), (0.99, 5, 4), (1.0, 5, 5)],
)
@pytest.mark.parametrize("stage", ["train", "val", "validate", "test", "predict"])
def test_a_limit_is_a_number_or_a_fraction_of_batches(stage, limit, of, taken):
    hook = {"train": "on_train_batch_end", "val": "on_validation_batch_end", "validate": "on_validation_batch_end"}
    callback, seen = spy(hook.get(stage, f"on_{stage}_batch_end"), lambda event: event.batch_idx)

    if stage == "train":
        train(task(), batches(of), callbacks=callback, max_epochs=1, limit_train_batches=limit)
    elif stage == "val":
        given = {"max_epochs": 1, "limit_val_batches": limit, "num_sanity_val_steps": 0}
        train(task(), batches(1), batches(of), callbacks=callback, **given)
    else:
        function = {"validate": validate, "test": test, "predict": predict}[stage]
        name = "limit_val_batches" if stage == "validate" else f"limit_{stage}_batches"
        function(task(), batches(of), callbacks=callback, progress=False, **{name: limit})

    assert seen == list(range(taken))


@pytest.mark.parametrize("wrong", [-1, -0.5, 1.5, True, "all"])
@pytest.mark.parametrize(
    "name", ["limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"]
)
def test_a_limit_that_is_neither_is_refused(name, wrong):
    stage = {"limit_test_batches": test, "limit_predict_batches": predict}.get(name, train)

    with pytest.raises((TypeError, ValueError), match=f"^[a-z]+: {name} must be "):
        stage(task(), batches(2), callbacks=(), **{name: wrong})


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (partial(train, val=batches(5)), "limit_train_batches"),
        (lambda task, val, **given: train(task, batches(20), val, **given), "limit_val_batches"),
        (validate, "limit_val_batches"),
        (test, "limit_test_batches"),
        (predict, "limit_predict_batches"),
    ],
)
def test_a_fraction_that_leaves_no_batch_is_refused(function, name):
    with pytest.raises(ValueError, match=r"must leave at least one batch, got 0.1 of 5"):
        function(task(), batches(5), **{name: 0.1})


@pytest.mark.parametrize(
    ("limits", "epochs", "steps"),
    [
        ({"max_epochs": 2, "max_steps": 100}, 2, 8),
        ({"max_epochs": 100, "max_steps": 6}, 2, 6),
        ({"max_epochs": 2, "max_steps": 8}, 2, 8),  # both at once
        ({"max_epochs": 2, "max_steps": 4}, 1, 4),
        ({"max_epochs": -1, "max_steps": 5}, 2, 5),
        ({"max_epochs": 0, "max_steps": 5}, 0, 0),
        ({"max_epochs": 5, "max_steps": 0}, 0, 0),
    ],
)
def test_the_first_limit_that_is_reached_ends_the_run(limits, epochs, steps):
    result = train(task(), batches(4), **limits)

    assert (result.epoch, result.step) == (epochs, steps)


# Sanity check.


@pytest.mark.parametrize(
    ("steps", "sizes", "limit", "tried"),
    [
        (2, [4], 1.0, [(0, 0), (0, 1)]),
        (2, [1], 1.0, [(0, 0)]),
        (9, [3], 1.0, [(0, 0), (0, 1), (0, 2)]),
        (-1, [3], 1.0, [(0, 0), (0, 1), (0, 2)]),
        (0, [3], 1.0, []),
        (2, [3, 1], 1.0, [(0, 0), (0, 1), (1, 0)]),
        (-1, [2, 1], 1.0, [(0, 0), (0, 1), (1, 0)]),
        (3, [5], 2, [(0, 0), (0, 1)]),
        (-1, [5, 1], 2, [(0, 0), (0, 1), (1, 0)]),
        (2, [4, 2], 0.5, [(0, 0), (0, 1), (1, 0)]),
        (2, [4], 0, []),
    ],
)
def test_the_sanity_check_tries_so_many_batches_of_each_loader(steps, sizes, limit, tried):
    callback, seen = spy("on_validation_batch_end", lambda event: (event.dataloader_idx, event.batch_idx))
    checks, checked = spy("on_sanity_check_end", lambda event: event.step, "checks")
    given = {"max_epochs": 0, "num_sanity_val_steps": steps, "limit_val_batches": limit}

    train(task(), batches(2), val_of(sizes), callbacks=[callback, checks], **given)

    assert (seen, checked) == (tried, [0] if tried else [])


# Trials and overfitting.


@pytest.mark.parametrize(("n", "batches_of_each"), [(True, 1), (1, 1), (3, 3)])
def test_a_fast_dev_run_tries_everything_once_and_leaves_nothing_behind(tmp_path, n, batches_of_each):
    callback, seen = heard()
    sink = fncb.sinks.csv(tmp_path / "metrics.csv")
    given = {"max_epochs": 7, "val_check_interval": 2, "check_val_every_n_epoch": 3, "num_sanity_val_steps": 2}
    given |= {"min_epochs": 5, "min_steps": 50, "max_steps": 2, "sinks": [sink], "record": tmp_path / "events.jsonl"}
    resting = [early_stop("val_loss", stopping_threshold=1e9), checkpoint(tmp_path / "saved", save_last=True)]

    result = train(task(), batches(5), batches(5), callbacks=[callback, *resting], fast_dev_run=n, **given)

    steps = [f"on_train_batch_{moment}[{i}]" for i in range(batches_of_each) for moment in ("start", "end")]
    assert [name for name in seen if name not in STEP] == [
        *("setup(fit)", "on_fit_start", "on_train_start", "on_train_epoch_start", *steps),
        *validation([batches_of_each]),
        *("on_train_epoch_end", "on_train_end", "on_fit_end", "teardown(fit)"),
    ]
    assert (result.epoch, result.step, result.stopped, result.recording) == (1, batches_of_each, None, None)
    assert list(tmp_path.iterdir()) == []


def test_without_a_fast_dev_run_the_same_callbacks_stop_and_save(tmp_path):
    works = [early_stop("val_loss", stopping_threshold=1e9), checkpoint(tmp_path / "saved", save_last=True)]

    result = train(task(), batches(5), batches(5), callbacks=works, max_epochs=3)

    assert result.epoch == 1
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) == 2


@pytest.mark.parametrize(("overfit", "taken"), [(2, 2), (0.5, 4), (1, 1), (99, 8)])
def test_overfitting_trains_and_validates_on_the_same_batches_in_order(caplog, overfit, taken):
    data = torch.arange(8.0).reshape(8, 1).repeat(1, 32) / 10
    shuffled = DataLoader(data, batch_size=1, shuffle=True)
    trained = spy("on_train_batch_start", lambda event: round(float(event.batch[0, 0]) * 10), "trained")
    validated = spy("on_validation_batch_start", lambda event: round(float(event.batch[0, 0]) * 10), "validated")
    given = {"max_epochs": 2, "num_sanity_val_steps": 0, "overfit_batches": overfit}

    with caplog.at_level(logging.WARNING, "fncb"):
        train(task(), shuffled, shuffled, callbacks=[trained[0], validated[0]], **given)

    assert trained[1] == validated[1] == list(range(taken)) * 2
    assert "RandomSampler" in caplog.text


# Loaders made anew.


@pytest.mark.parametrize("sanity", [0, 1])
@pytest.mark.parametrize(
    ("check_val", "reload", "train_epochs", "val_epochs"),
    [
        (2, 1, [*range(10)], [1, 3, 5, 7, 9]),
        (3, 2, [0, 2, 4, 6, 8], [2, 5, 8]),
        (5, 2, [0, 2, 4, 6, 8], [4, 9]),
        (2, 2, [0, 2, 4, 6, 8], [1, 3, 5, 7, 9]),
        (1, 4, [0, 4, 8], [0, 4, 8]),
    ],
)
def test_functions_are_called_again_when_so_many_epochs_have_passed(
    sanity, check_val, reload, train_epochs, val_epochs
):
    calls, at = {"train": [], "val": []}, {"epoch": 0, "sanity": False}

    def makes(name):
        def make():
            if not at["sanity"]:
                calls[name].append(at["epoch"])
            return batches(1)

        return make

    def puts(**values):
        return lambda s, e: at.update(values) or s

    places = Callback(
        key="places",
        init=int,
        on_sanity_check_start=puts(sanity=True),
        on_sanity_check_end=puts(sanity=False),
        on_train_epoch_end=lambda s, e: at.update(epoch=e.epoch + 1) or s,
    )
    given = {"check_val_every_n_epoch": check_val, "reload_dataloaders_every_n_epochs": reload}

    train(task(), makes("train"), makes("val"), callbacks=places, max_epochs=10, num_sanity_val_steps=sanity, **given)

    assert calls == {"train": train_epochs, "val": val_epochs}


def test_functions_are_called_once_if_nothing_else_is_said():
    calls = []

    train(task(), lambda: calls.append("train") or batches(1), lambda: calls.append("val") or batches(1), max_epochs=4)

    assert sorted(calls) == ["train", "val"]


# Learning rates.


def hears_lr(schedule, *, loss=None, **given):
    """A task, a callback and the list of what it heard, each with the learning rate at that moment."""
    model = nn.Linear(32, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    given |= {} if loss is None else {"loss": loss}
    made = task(model, optimizer=optimizer, schedule=schedule, **given)
    return made, *notes(lambda event: (name_of(event), optimizer.param_groups[0]["lr"]), "lr")


def lr_at(seen, *names):
    return [(name, lr) for name, lr in seen if name in names]


halves = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)


def test_a_schedule_by_epoch_steps_before_the_last_batch_ends_and_before_validation():
    given, callback, seen = hears_lr(halves)

    train(given, batches(2), batches(1), callbacks=callback, max_epochs=2, num_sanity_val_steps=0, val_check_interval=1)

    assert lr_at(
        seen, "on_train_batch_end[0]", "on_train_batch_end[1]", "on_validation_start", "on_train_epoch_end"
    ) == [
        *[("on_train_batch_end[0]", 0.5), ("on_validation_start", 0.5)],
        *[("on_train_batch_end[1]", 0.25), ("on_validation_start", 0.25), ("on_train_epoch_end", 0.25)],
        *[("on_train_batch_end[0]", 0.25), ("on_validation_start", 0.25)],
        *[("on_train_batch_end[1]", 0.125), ("on_validation_start", 0.125), ("on_train_epoch_end", 0.125)],
    ]


def test_a_schedule_by_step_steps_after_the_update_and_before_the_batch_ends():
    given, callback, seen = hears_lr(halves, schedule_interval="step")

    train(given, batches(3), callbacks=callback, max_epochs=1, accumulate_grad_batches=2)

    assert [(name, lr) for name, lr in seen if "batch" in name] == [
        *[("on_train_batch_start[0]", 0.5), ("on_train_batch_end[0]", 0.5)],
        *[("on_train_batch_start[1]", 0.5), ("on_train_batch_end[1]", 0.25)],
        *[("on_train_batch_start[2]", 0.25), ("on_train_batch_end[2]", 0.125)],
    ]


@pytest.mark.parametrize(
    ("leaves", "lrs"),
    [
        ([], [0.25, 0.125]),
        ([stops_epoch_at((0, 1))], [0.25, 0.125]),  # leaving an epoch ends it
        ([stops_epoch_at((0, 0), hook="on_train_batch_end")], [0.25, 0.125]),
        ([skips_at((0, 2))], [0.25, 0.125]),
        ([stops_at(0, 1)], [0.5]),  # stopping does not
        ([stops_at(1, 1)], [0.25, 0.25]),
        ([stops_at(0, 2)], [0.25]),
    ],
)
def test_a_schedule_by_epoch_steps_once_for_each_epoch_that_came_to_its_end(leaves, lrs):
    given, callback, seen = hears_lr(halves)

    train(given, batches(3), callbacks=[*leaves, callback], max_epochs=2)

    assert [lr for _, lr in lr_at(seen, "on_train_epoch_end")] == lrs


def constant(model, batch):
    return model(batch).sum() * 0 + 1.0


drops = partial(ReduceLROnPlateau, patience=0, factor=0.5)


def test_a_plateau_by_step_is_told_after_each_validation():
    given, callback, seen = hears_lr(drops, loss=constant, schedule_interval="step")

    train(given, batches(4), batches(1), callbacks=callback, max_epochs=1, val_check_interval=1, num_sanity_val_steps=1)

    assert lr_at(
        seen, "on_validation_end", *(f"on_train_batch_start[{i}]" for i in range(4)), "on_train_epoch_end"
    ) == [
        *[("on_validation_end", 0.5), ("on_train_batch_start[0]", 0.5)],  # the sanity check tells nothing
        *[("on_validation_end", 0.5), ("on_train_batch_start[1]", 0.5)],  # the first is the best
        *[("on_validation_end", 0.5), ("on_train_batch_start[2]", 0.25)],
        *[("on_validation_end", 0.25), ("on_train_batch_start[3]", 0.125)],
        *[("on_validation_end", 0.125), ("on_train_epoch_end", 0.0625)],
    ]


@pytest.mark.parametrize("monitor", ["val_loss", "loss_epoch"])
def test_a_plateau_by_epoch_is_told_after_the_hooks_of_its_end(monitor):
    given, callback, seen = hears_lr(drops, loss=constant, schedule_monitor=monitor)

    train(given, batches(2), batches(1), callbacks=callback, max_epochs=3, num_sanity_val_steps=0)

    assert lr_at(seen, "on_validation_end", "on_train_epoch_end", "on_train_end") == [
        *[("on_validation_end", 0.5), ("on_train_epoch_end", 0.5)],
        *[("on_validation_end", 0.5), ("on_train_epoch_end", 0.5)],
        *[("on_validation_end", 0.25), ("on_train_epoch_end", 0.25)],
        ("on_train_end", 0.125),
    ]


def test_a_checkpoint_of_a_validation_has_the_schedule_that_stepped_before_it(tmp_path):
    saves = asks(Save(str(tmp_path / "a.safetensors")), "on_validation_end", lambda event: event.step == 2)
    given = {"num_sanity_val_steps": 0, "callbacks": saves}
    train(hears_lr(halves)[0], batches(2), batches(1), max_epochs=1, **given)
    resumed, callback, seen = hears_lr(halves)

    train(resumed, batches(2), batches(1), callbacks=callback, max_epochs=2, resume=tmp_path / "a.safetensors")

    assert lr_at(seen, "on_train_start", "on_train_epoch_start") == [
        ("on_train_start", 0.25),
        ("on_train_epoch_start", 0.25),
    ]


# Stopping, skipping, leaving an epoch.


@pytest.mark.parametrize(
    ("given", "at"),
    [
        ({}, [(0, 2)]),  # not due, and yet
        ({"val_check_interval": 2}, [(0, 2)]),  # due anyhow: once
        ({"val_check_interval": 0.25}, [(0, 1), (0, 2)]),
        ({"check_val_every_n_epoch": 2}, []),  # not in this epoch
        ({"check_val_every_n_epoch": None, "val_check_interval": 9}, [(0, 2)]),
        ({"limit_val_batches": 0}, []),
        ({"min_steps": 3}, [(0, 3)]),  # as soon as it may stop
        ({"min_epochs": 1}, [(0, 4)]),
        ({"min_steps": 4}, [(0, 4)]),
        ({"min_steps": 6}, [(0, 4), (1, 2)]),
        ({"min_steps": 5, "min_epochs": 2}, [(0, 4), (1, 4)]),
    ],
)
def test_a_stop_validates_at_once_and_leaves(given, at):
    callback, seen = validations()
    given = {"max_epochs": 9, "num_sanity_val_steps": 0, **given}

    result = train(task(), batches(4), batches(1), callbacks=[callback, stops_at(0, 1)], **given)

    assert seen == at
    steps = max(given.get("min_steps", 2), 4 * given.get("min_epochs", 0))
    assert result.step == steps


def test_a_stop_at_the_end_of_validation_validates_no_second_time():
    callback, seen = validations()
    stops = asks(Stop("enough"), "on_validation_end", lambda event: True)

    result = train(
        task(), batches(4), batches(1), callbacks=[callback, stops], val_check_interval=2, num_sanity_val_steps=0
    )

    assert (seen, result.step) == ([(0, 2)], 2)


@pytest.mark.parametrize(
    "hook", ["on_train_epoch_end", "on_train_start", "on_fit_start", "on_sanity_check_end", "setup"]
)
def test_a_stop_outside_of_an_epoch_trains_no_more(hook):
    callback, seen = heard()
    stops = asks(Stop("enough"), hook, lambda event: True)

    result = train(task(), batches(2), batches(1), callbacks=[callback, stops], max_epochs=3)

    assert result.step == (2 if hook == "on_train_epoch_end" else 0)
    assert ("on_train_start" in seen) == hook.startswith("on_train")
    assert seen[-2:] == ["on_fit_end", "teardown(fit)"]


@pytest.mark.parametrize(
    ("skipped", "given", "at"),
    [
        ([(0, 1)], {"val_check_interval": 2}, [(0, 2), (0, 4)]),  # due after the batch that was skipped
        ([(0, 3)], {}, [(0, 4)]),
        ([(0, 0), (0, 1), (0, 2), (0, 3)], {}, [(0, 4)]),
        ([(0, 1)], {"check_val_every_n_epoch": None, "val_check_interval": 3}, [(0, 3)]),
    ],
)
def test_a_skipped_batch_ends_and_validation_stays_due(skipped, given, at):
    validated, seen = validations()
    callback, names = heard()

    result = train(
        task(),
        batches(4),
        batches(1),
        callbacks=[callback, validated, skips_at(*skipped)],
        max_epochs=1,
        num_sanity_val_steps=0,
        **given,
    )

    assert seen == at
    assert result.step == 4 - len(skipped)
    starts = [name for name in names if name.startswith("on_train_batch_start")]
    ends = [name for name in names if name.startswith("on_train_batch_end")]
    assert (len(starts), len(ends)) == (4, 4)
    assert sum(name == "on_before_backward" for name in names) == 4 - len(skipped)


def test_leaving_an_epoch_at_a_batch_has_no_end_of_the_batch_and_no_validation():
    callback, seen = heard()

    train(task(), batches(3), batches(1), callbacks=[callback, stops_epoch_at((0, 1))], max_epochs=1)

    begin = seen.index("on_train_epoch_start")
    assert seen[begin + 1 :] == [
        *("on_train_batch_start[0]", *STEP, "on_train_batch_end[0]", "on_train_batch_start[1]"),
        *("on_train_epoch_end", "on_train_end", "on_fit_end", "teardown(fit)"),
    ]


def test_leaving_an_epoch_begins_the_next():
    validated, seen = validations()
    leaves = stops_epoch_at((0, 0), (1, 1), hook="on_train_batch_end")

    result = train(task(), batches(2), batches(1), callbacks=[validated, leaves], max_epochs=3, num_sanity_val_steps=0)

    assert (result.epoch, result.step) == (3, 1 + 2 + 2)
    assert seen == [(1, 2), (2, 2)]  # in epoch 0 none was due


# Accumulation.


@pytest.mark.parametrize("interval", [1, 2, 0.5])
def test_gradients_outlast_a_validation_inside_their_window(interval):
    given = {"max_epochs": 2, "accumulate_grad_batches": 3}
    plain, validated = task(), task()

    train(plain, batches(7), **given)
    train(validated, batches(7), batches(2), val_check_interval=interval, **given)

    assert torch.equal(plain.model.weight, validated.model.weight)


def test_a_window_is_as_one_batch_of_the_mean_of_its_losses():
    several, one = task(), task(loss=lambda model, batch: sum(model(x).square().mean() for x in batch) / 3)

    train(several, batches(3), max_epochs=4, accumulate_grad_batches=3)
    train(one, [batches(3)], max_epochs=4)

    torch.testing.assert_close(several.model.weight, one.model.weight)


# Order of callbacks.


def test_callbacks_hear_every_event_in_the_order_given(tmp_path):
    seen = []

    def named(key):
        return Callback(
            key=key,
            init=int,
            **{hook: lambda s, e: seen.append((ev.hook_name(type(e)), key)) or s for hook in ev.HOOKS},
        )

    stops, saves = early_stop("val_loss", stopping_threshold=1e9), checkpoint(tmp_path)
    probes = asks(Probe("file", str(tmp_path)), "on_validation_start", lambda event: True)
    callbacks = [named("c"), saves, compose(named("a"), stops), [named("b")], probes]
    train(task(), batches(2), batches(2), callbacks=callbacks, max_epochs=2)
    validate(task(), batches(1), callbacks=callbacks)
    test(task(), batches(1), callbacks=callbacks)
    predict(task(), batches(1), callbacks=callbacks)
    train(task(), batches(2), callbacks=callbacks, max_epochs=2, resume=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(task(), batches(2), callbacks=[*callbacks, raises_in("on_fit_start", KeyboardInterrupt())])

    assert [key for _, key in seen] == ["c", "a", "b"] * (len(seen) // 3)
    assert all(len({hook for hook, _ in seen[i : i + 3]}) == 1 for i in range(0, len(seen), 3))
    assert {hook for hook, _ in seen} == ev.HOOKS.keys() - {"on_step_compiled"}  # an eager step is not


def test_what_is_asked_for_is_done_after_all_hooks_of_the_event():
    seen, model = [], nn.Linear(32, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    sets = asks(SetLR(0.25), "on_train_epoch_start", lambda event: True)
    hears = Callback(
        key="hears",
        init=int,
        on_train_epoch_start=lambda s, e: seen.append(optimizer.param_groups[0]["lr"]) or s,
        on_train_batch_start=lambda s, e: seen.append(optimizer.param_groups[0]["lr"]) or s,
    )

    train(task(model, optimizer=optimizer), batches(1), callbacks=[sets, hears], max_epochs=1)

    assert seen == [0.5, 0.25]


def test_what_is_asked_for_is_done_in_the_order_of_the_callbacks():
    first, last = (asks(SetLR(lr), "on_train_epoch_start", lambda event: True, key=str(lr)) for lr in (0.25, 0.125))

    result = train(task(), batches(1), callbacks=[first, last], max_epochs=1)

    assert result.metrics["lr-SGD"] == 0.125


# Modes.


@pytest.mark.parametrize("modes", [*itertools.product([True, False], repeat=4)][::3])
@pytest.mark.parametrize("broken", [False, True])
def test_the_mode_of_every_submodule_is_as_it_was_after_validation(modes, broken):
    model = nn.Sequential(nn.Linear(32, 4), nn.Sequential(nn.Dropout(0.5)), nn.Linear(4, 2))
    parts = [model, model[0], model[1], model[1][0]]
    for part, mode in zip(parts, modes, strict=True):
        part.training = mode
    seen = []
    hears = Callback(
        key="hears",
        init=int,
        on_validation_start=lambda s, e: seen.append([part.training for part in parts]) or s,
        on_validation_end=lambda s, e: seen.append([part.training for part in parts]) or s,
        on_train_epoch_end=lambda s, e: seen.append([part.training for part in parts]) or s,
    )
    breaks = [raises_in("on_validation_batch_end", ValueError("broken"))] if broken else []

    try:
        train(task(model), batches(1), batches(1), callbacks=[hears, *breaks], max_epochs=1, num_sanity_val_steps=0)
    except ValueError:
        assert seen == [[False] * 4]
    else:
        assert seen == [[False] * 4, [False] * 4, [*modes]]

    assert [part.training for part in parts] == [*modes]


# What cannot be.


class Stream:
    """Batches without a length."""

    def __iter__(self):
        return iter(batches(5))


@pytest.mark.parametrize(
    ("interval", "at"),
    [
        (1.0, [(0, 5), (1, 5)]),
        (2, [(0, 2), (0, 4), (1, 2), (1, 4)]),
        (99, []),
        ("00:00:00:00", [(epoch, batch) for epoch in (0, 1) for batch in range(1, 6)]),
    ],
)
def test_a_loader_without_length_validates_at_its_end_by_batches_or_by_time(interval, at):
    callback, seen = validations()
    given = {"max_epochs": 2, "num_sanity_val_steps": 0}

    train(task(), Stream(), batches(1), callbacks=callback, val_check_interval=interval, **given)

    assert seen == at


REFUSED = [
    ({"val_check_interval": 5}, r"val_check_interval must be at most the 4 batches of an epoch, got 5"),
    ({"val_check_interval": 3, "limit_train_batches": 2}, r"must be at most the 2 batches of an epoch, got 3"),
    (
        {"val_check_interval": 0.5, "check_val_every_n_epoch": None},
        r"must be an int or a duration when check_val_every",
    ),
    (
        {"val_check_interval": 1.0, "check_val_every_n_epoch": None},
        r"must be an int or a duration when check_val_every",
    ),
    ({"val_check_interval": 0}, r"val_check_interval must be 1 batch or more, got 0"),
    ({"val_check_interval": -0.5}, r"val_check_interval as a float is a fraction of an epoch in \[0, 1\], got -0.5"),
    (
        {"val_check_interval": 0.5, "train": Stream()},
        r"must be 1.0, an int or a duration when the loader has no length",
    ),
    (
        {"limit_train_batches": 0.5, "train": Stream()},
        r"a limit must be an int where the loader has no length, got 0.5",
    ),
    ({"check_val_every_n_epoch": 0}, r"check_val_every_n_epoch must be 1 or more, got 0"),
    ({"num_sanity_val_steps": -2}, r"num_sanity_val_steps must be -1 or more, got -2"),
    ({"num_sanity_val_steps": 1.5}, r"num_sanity_val_steps must be an int, got 1.5"),
    ({"accumulate_grad_batches": 0}, r"accumulate_grad_batches must be 1 or more, got 0"),
    (
        {"accumulate_grad_batches": 2, "callbacks": accumulation_schedule({0: 2})},
        r"accumulate_grad_batches and the call",
    ),
    (
        {"gradient_clip_val": 1.0, "callbacks": clip_grad_norm(1.0)},
        r"gradient_clip_val and the callback clip_grad_norm",
    ),
    ({"overfit_batches": 2, "limit_train_batches": 2}, r"overfit_batches sets limit_train_batches itself, got both"),
    ({"overfit_batches": 2, "limit_val_batches": 2}, r"overfit_batches sets limit_val_batches itself, got both"),
    ({"overfit_batches": 2, "fast_dev_run": True}, r"fast_dev_run and overfit_batches both set how many batches"),
    ({"overfit_batches": 1.5}, r"overfit_batches must be 0 batches or more, or a fraction in \[0.0, 1.0\], got 1.5"),
    ({"fast_dev_run": -1}, r"fast_dev_run must be True, False or a number of batches, got -1"),
    ({"reload_dataloaders_every_n_epochs": 1}, r"train must be a function that makes a loader when reload_dataloaders"),
    ({"reload_dataloaders_every_n_epochs": -1}, r"reload_dataloaders_every_n_epochs must be 0 or more, got -1"),
    ({"min_epochs": 3, "max_epochs": 2}, r"min_epochs must be at most max_epochs, got 3 and 2"),
    ({"min_steps": 3, "max_steps": 2}, r"min_steps must be at most max_steps, got 3 and 2"),
    ({"max_time": 60}, r"must be 'DD:HH:MM:SS', a timedelta or a mapping of its arguments, got 60"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_makes_no_sense_is_refused_in_a_sentence_before_anything_is_heard(given, message):
    callback, seen = heard(leave_out=())
    given = {"train": batches(4), "max_epochs": 2, **given}
    given["callbacks"] = [callback, given.get("callbacks", ())]

    with pytest.raises((TypeError, ValueError), match=message) as caught:
        train(task(), given.pop("train"), batches(2), **given)

    assert seen == []
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(("fit: ", "timer: "))
    assert str(caught.value).endswith(".")


def test_an_interval_beyond_the_epoch_is_fine_where_nothing_validates():
    for with_it in ({"limit_val_batches": 0}, {"check_val_every_n_epoch": None}):
        assert train(task(), batches(2), batches(2), val_check_interval=9, max_epochs=1, **with_it).step == 2
    assert train(task(), batches(2), val_check_interval=9, max_epochs=1).step == 2
