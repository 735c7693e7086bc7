"""R10: an exception anywhere keeps nothing of its event; what is rescued goes on as if it had not been."""

import itertools
from itertools import takewhile

import attrs
import pytest
import torch
from torch.utils.data import DataLoader

import fncb
from fncb import events as ev
from fncb import store
from fncb.callback import Callback, StepHooks, compose
from fncb.callbacks import checkpoint
from fncb.data import batches
from fncb.position import AFTER_BATCHES
from fncb.recording import read
from tests.reliability.resuming import (
    OTHERS,
    RICH,
    Noisy,
    callbacks_of,
    data,
    loader,
    made,
    quick_folder,
    told,
    train,
    unlike,
    without_time,
)

CASE = {
    **RICH,
    "seed": 2,
    "batches": 3,
    "val": "list",
    "callbacks": ["tally", "lr_monitor", "early_stop", "ema", "clip_grad_norm", "skip_nonfinite", "timer"],
    "settings": {"max_epochs": 2, "accumulate_grad_batches": 2, "val_check_interval": 2, "num_sanity_val_steps": 1},
}
OF_OTHERS = {
    **CASE,
    "callbacks": ["tally", *(name for name in OTHERS if name != "on_exception_checkpoint")],  # which saves beside it
    "settings": {**CASE["settings"], "num_sanity_val_steps": 0},
}
"""A run with as many other callbacks as can be together, some of which remember a sanity check."""

TORN = "what is saved must be whole"


class Injected(Exception):
    """The fault."""


def breaks_at(nth):
    """A function that raises when it is called for the nth time, from 0, and the list of its calls."""
    calls = []

    def tick(*_):
        calls.append(None)
        if len(calls) == nth + 1:
            raise Injected

    return tick


def breaks_in(callback, hook, nth):
    """A callback whose hook raises at its nth event."""
    tick, inner = breaks_at(nth), getattr(callback, hook)

    def breaks(state, event):
        tick()
        return inner(state, event)

    return attrs.evolve(callback, **{hook: breaks})


def hooks_of(callback):
    return [name for name in ev.HOOKS if getattr(callback, name) is not None]


def callbacks_in(case, folder):
    saves = checkpoint(folder / "kept", every_n_train_steps=1, save_top_k=-1, save_on_exception=True)
    return {**callbacks_of(case, folder), "saves": saves}


def cleared(folder):
    for path in [*folder.glob("kept/*.safetensors"), *folder.glob("*.jsonl")]:
        path.unlink()
    return folder


def rescued_states(callbacks, tree, entries):
    """The states in a rescue, and those that its events give: up to the one that failed, or to the validation."""
    saved = fncb.load_state_dict(compose(*callbacks.values()), tree["callbacks"])
    events = takewhile(lambda entry: not isinstance(entry, ev.ExceptionRaised), entries[: tree["recorded"]["lines"]])
    folded = fncb.replay(compose(*callbacks.values()), [entry for entry in events if isinstance(entry, ev.Event)]).state
    return tuple({key: without_time(each[key]) for key in each if key != "checkpoint"} for each in (saved, folded))


def in_sanity_check(entries):
    kinds = [type(entry) for entry in entries]
    return ev.SanityCheckStart in kinds and ev.SanityCheckEnd not in kinds


def is_after_all(tree):
    """Whether nothing is left to train."""
    at = tree["position"]
    return at["epoch"] + (at["phase"] in AFTER_BATCHES and at["epoch_is_over"]) >= CASE["settings"]["max_epochs"]


def aftermath(case, folder, clean, faulty, whole=None, **settings):
    """What is wrong after a run with a fault, and what kind of place that was; None if the fault never came."""
    callbacks = whole or callbacks_in(case, folder)
    try:
        train(case, cleared(folder), **{"callbacks": callbacks, **faulty}, **settings)
        return None
    except Injected as error:
        refused = any(TORN in note for note in getattr(error, "__notes__", ()))
    entries = read(folder / "events.jsonl").entries if (folder / "events.jsonl").exists() else ()
    before = [*takewhile(lambda entry: not isinstance(entry, ev.ExceptionRaised), entries)]
    early = in_sanity_check(before)  # nothing has been trained: there is nothing to rescue
    rescues = [*folder.glob("kept/rescue-*.safetensors")]
    wrong = [] if len(rescues) == (not refused and not early) else [f"{len(rescues)} rescues, refused {refused}"]
    wrong += unlike(clean["events"][: len(told(before))], told(before), "/before")
    for rescue in rescues:
        wrong += unlike(*rescued_states(callbacks, store.read(rescue), entries), "/rescued")
    newest = sorted(folder.glob("kept/*.safetensors"), key=lambda path: store.read_header(path)["step"])[-1:]
    kind = "torn" if refused else "early" if early else "rescued" if rescues else "lost"
    kind = "over" if kind == "rescued" and is_after_all(store.read(rescues[0])) else kind
    if not wrong and newest:
        again = train(case, folder, callbacks=callbacks, resume=(rescues or newest)[0], **settings)
        wrong = unlike(clean, again)
    return kind, wrong


def aftermaths(case, folder, clean, faulty_at, **settings):
    """What is wrong after a fault at the nth moment, for each n that there is, by kind of place."""
    found = []
    for nth in itertools.count():
        outcome = aftermath(case, folder, clean, faulty_at(nth), **settings)
        if outcome is None:
            return found
        found.append((nth, *outcome))


def clean_run(case, folder, **settings):
    return train(case, cleared(folder), callbacks=callbacks_in(case, folder), **settings)


def hook_of(case, folder, key, hook):
    """A fault in a hook, of a callback, at its nth event."""

    def faulty_at(nth):
        callbacks = callbacks_in(case, folder)
        return {"callbacks": {**callbacks, key: breaks_in(callbacks[key], hook, nth)}}

    return faulty_at


def counted(found):
    return {kind: sum(each == kind for _, _, each, _ in found) for _, _, kind, _ in found}


def wrong_in(found, *kinds):
    return [each for each in found if each[-1] and each[-2] in kinds]


TELL = ("on_exception", "on_keyboard_interrupt", "on_load_checkpoint", "on_saved", "on_save_checkpoint")
"""Hooks that hear what comes of other events, not the events of fit."""


@pytest.mark.parametrize(
    ("key", "case"),
    [*((key, CASE) for key in ("tally", "lr_monitor", "early_stop", "timer", "saves")), ("tally", OF_OTHERS)],
    ids=["tally", "lr_monitor", "early_stop", "timer", "saves", "tally beside the others"],
)
def test_an_exception_in_any_hook_keeps_nothing_of_its_event(key, case, record_property, capfd):
    found = []
    with quick_folder() as folder:
        clean = clean_run(case, folder)
        for hook in hooks_of(callbacks_in(case, folder)[key]):
            if hook not in TELL:
                each = aftermaths(case, folder, clean, hook_of(case, folder, key, hook))
                found += [(hook, *outcome) for outcome in each]

    assert wrong_in(found, "rescued", "early", "torn", "lost") == []
    assert len(found) > 4
    among = f"{key} hears" if case is CASE else f"{key} hears among {len(case['callbacks'])} callbacks"
    record_property("count", f"R10: exceptions at {len(found)} events that {among}: nothing kept, {counted(found)}")


def test_an_exception_after_the_last_batch_is_gone_on_from_too(capfd):
    found = []
    with quick_folder() as folder:
        clean = clean_run(CASE, folder)
        for hook in ("on_train_epoch_end", "on_epoch_end"):
            each = aftermaths(CASE, folder, clean, hook_of(CASE, folder, "tally", hook))
            found += [(hook, *outcome) for outcome in each]
        found += [
            ("end", *each) for each in aftermaths(CASE, folder, clean, hook_of(CASE, folder, "timer", "on_train_end"))
        ]

    assert counted(found)["over"] >= 3
    assert wrong_in(found, "over") == []


def test_an_exception_in_on_saved_does_not_lose_the_file_that_was_saved(capfd):
    with quick_folder() as folder:
        clean = clean_run(CASE, folder)
        found = aftermaths(CASE, folder, clean, hook_of(CASE, folder, "saves", "on_saved"))

    assert len(found) == 4
    assert [each for each in found if each[-1]] == []


class Breaking(Noisy):
    """Samples, of which the one that is asked for as the nth cannot be read."""

    tick = staticmethod(lambda: None)

    def __getitem__(self, index):
        self.tick()
        return super().__getitem__(index)


def broken_samples(n, nth):
    found = data(n, kind=Breaking)
    found.tick = breaks_at(nth)
    return found


def in_loss(nth, name):
    """A fault in a function of the task, once it has drawn."""
    task, owned = made(CASE, CASE["seed"])
    tick, inner = breaks_at(nth), getattr(task, name)
    return {"made_of": (attrs.evolve(task, **{name: lambda *given: (inner(*given), tick())[0]}), owned)}


def in_optimizer(nth, register):
    """A fault in the optimizer's step, before or after it moved the parameters."""
    task, owned = made(CASE, CASE["seed"])
    getattr(owned["optimizer"], register)(breaks_at(nth))
    return {"made_of": (task, owned)}


def in_loader(nth, stage):
    given = [batches(data(3, kind=Noisy), 2, shuffle=True, seed=CASE["seed"]), list(DataLoader(data(2), batch_size=2))]
    if stage == "train":
        given[0] = batches(broken_samples(3, nth), 2, shuffle=True, seed=CASE["seed"])
    else:
        x = Breaking(*data(2).tensors)
        x.tick = breaks_at(nth)
        x.__class__ = type("Quiet", (Breaking,), {"__getitem__": lambda self, i: (self.tick(), plain[i])[1]})
        plain = data(2)
        given[1] = DataLoader(x, batch_size=2, generator=torch.Generator())
    return {"loaders": given}


ELSEWHERE = {
    "the loss": lambda nth: in_loss(nth, "loss"),
    "the validation function": lambda nth: in_loss(nth, "validate"),
    "the training loader": lambda nth: in_loader(nth, "train"),
    "the validation loader": lambda nth: in_loader(nth, "val"),
    "the optimizer, before it steps": lambda nth: in_optimizer(nth, "register_step_pre_hook"),
    "the optimizer, after it stepped": lambda nth: in_optimizer(nth, "register_step_post_hook"),
}


@pytest.mark.parametrize("case", [CASE, OF_OTHERS], ids=["much of it", "the other callbacks"])
@pytest.mark.parametrize("where", ELSEWHERE)
def test_an_exception_elsewhere_keeps_nothing_of_its_event(where, case, record_property, capfd):
    with quick_folder() as folder:
        clean = clean_run(case, folder)
        found = [(where, *each) for each in aftermaths(case, folder, clean, ELSEWHERE[where])]

    assert wrong_in(found, "rescued", "early", "torn", "over", "lost") == []
    assert len(found) > 2
    among = where if case is CASE else f"{where} among {len(case['callbacks'])} callbacks"
    record_property("count", f"R10: exceptions at {len(found)} moments of {among}: {counted(found)}")


def counts_in_step(hook=None, nth=0):
    """A callback that counts at each of its step hooks; one of them may raise."""
    tick = breaks_at(nth)

    def counts(name):
        def count(state, event):
            if name == hook:
                tick()
            return {**state, name: state[name] + 1}

        return count

    names = [name for name in attrs.fields_dict(StepHooks) if name.startswith("on_")]
    init = {name: torch.zeros((), dtype=torch.int64) for name in names}
    return Callback(key="in_step", step=StepHooks(init=lambda _: init, **{name: counts(name) for name in names}))


@pytest.mark.parametrize("hook", [name for name in attrs.fields_dict(StepHooks) if name.startswith("on_")])
def test_an_exception_in_a_step_hook_keeps_nothing_of_its_batch(hook, record_property, capfd):
    def with_counts(folder, *fault):
        found = callbacks_in(CASE, folder)
        return {**{key: found[key] for key in found if key != "saves"}, "in": counts_in_step(*fault), **found}

    with quick_folder() as folder:
        clean = train(CASE, folder, callbacks=with_counts(folder))
        found = []
        for nth in itertools.count():
            outcome = aftermath(
                CASE, folder, clean, {"callbacks": with_counts(folder, hook, nth)}, whole=with_counts(folder)
            )
            if outcome is None:
                break
            found.append((hook, nth, *outcome))

    assert wrong_in(found, "rescued", "early", "torn", "over", "lost") == []
    assert len(found) > 2
    record_property("count", f"R10: exceptions in the step hook {hook}, {len(found)} times: {counted(found)}")


@pytest.mark.parametrize(
    ("schedule", "method"),
    [("by step", "step"), ("by epoch", "step"), ("plateau by validation", "step"), ("by step", "get_lr")],
)
def test_an_exception_in_a_schedule_keeps_nothing_of_its_event(schedule, method, record_property, capfd):
    case = {**CASE, "schedule": schedule}

    def faulty_at(nth):
        task, owned = made(case, case["seed"])
        tick, make = breaks_at(nth), task.schedule

        def breaks(self, *given):
            tick()
            return getattr(super(type(self), self), method)(*given)

        def making(optimizer):
            scheduled = make(optimizer)
            own = type(scheduled)  # a class of its name, as that is what is resumed with
            scheduled.__class__ = type(own.__name__, (own,), {method: breaks})
            return scheduled

        return {"made_of": (attrs.evolve(task, schedule=making), owned)}

    with quick_folder() as folder:
        clean = clean_run(case, folder)
        found = [(schedule, *each) for each in aftermaths(case, folder, clean, faulty_at)]

    assert wrong_in(found, "rescued", "early", "torn", "over", "lost") == []
    assert len(found) > 1
    record_property("count", f"R10: exceptions in {method} of a schedule {schedule}: {counted(found)}")


def test_a_rescue_of_a_validation_is_the_newest_whatever_is_heard(tmp_path):
    """Its header has the step that was made, though nobody heard of the batches since the last checkpoint."""
    task, _ = made(CASE, 0)
    tick = breaks_at(1)  # the second validation
    breaks = attrs.evolve(task, validate=lambda model, batch: (tick(), task.validate(model, batch))[1])
    saves = checkpoint(tmp_path, monitor="val_loss", filename="a-long-name-{epoch}-{step}", save_on_exception=True)
    run = {"callbacks": [saves], "max_epochs": 3, "compile": False, "progress": False, "num_sanity_val_steps": 0}

    with pytest.raises(Injected):
        fncb.fit(breaks, loader("list", 3, False, 0), loader("list", 1, False, 0), **run)
    found = fncb.fit(task, loader("list", 3, False, 0), loader("list", 1, False, 0), resume="last", **run).resumed

    assert (found.path.name, found.step) == ("rescue-epoch=1-step=6.safetensors", 6)
