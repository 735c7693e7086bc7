"""R17: what was recorded of a run gives, replayed, the states and effects of that run, bit for bit."""

import itertools
import math
import os
import random
import signal
import traceback
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import attrs
import numpy
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import fncb
from docs.tables import built_ins
from fncb import events as ev
from fncb import store
from fncb.callback import Callback, compose, emit
from fncb.callbacks import (
    batch_gradient_verification,
    checkpoint,
    confused_logit,
    data_wait,
    deadline,
    device_stats_monitor,
    early_stop,
    every,
    finetuning,
    garbage_collect,
    latent_dim_interpolator,
    lr_monitor,
    module_data_monitor,
    notify,
    on,
    prediction_writer,
    profile,
    progress_bar,
    quantization_aware_training,
    recompile_monitor,
    reduce_on_plateau,
    restore_best,
    rich_model_summary,
    rich_progress_bar,
    rollback_on_spike,
    schedule,
    skip_nonfinite,
    spike_detection,
    stop_file,
    threshold_stop,
    throughput_monitor,
    timer,
    tqdm_progress_bar,
    when,
)
from fncb.effects import Call, Log, Render, Save, Stop
from fncb.fields import hook_names
from fncb.hindsight import history, replay
from fncb.live import is_live
from fncb.loop import fit, predict, test, validate
from fncb.metrics import UnrecordedMetrics
from fncb.recording import read
from fncb.task import Task
from tests.built_ins import BUILT_INS
from tests.callbacks import digits
from tests.reliability.replaying import Tape, Watched, faults, taped, unlike
from tests.reliability.resuming import (
    CALLBACKS,
    OF_FIT,
    RICH,
    a_case,
    asks,
    callbacks_of,
    cuts,
    loader,
    made,
    quick_folder,
    saves_at,
    tally,
    train,
)
from tests.reliability.test_exceptions import CASE as OF_ELSEWHERE
from tests.reliability.test_exceptions import ELSEWHERE, Injected, breaks_in

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # which torchdata calls

CASE = {
    **RICH,
    "seed": 3,
    "batches": 5,
    "callbacks": [],
    "settings": {"max_epochs": 2, "accumulate_grad_batches": 2, "val_check_interval": 2, "num_sanity_val_steps": 1},
}

EAGER = {"compile": False, "progress": False, **CASE["settings"]}

MORE = {
    # what the rows of resuming.py leave out
    "confused_logit": lambda folder: confused_logit(
        2, logging_batch_interval=2, min_logit_value=-99.0, max_logit_difference=99.0
    ),
    "data_wait": lambda folder: data_wait(),
    "deadline": lambda folder: deadline("2140-01-01T00:00:00Z", margin={"hours": 1}),
    "device_stats_monitor": lambda folder: device_stats_monitor(True, ["cpu_percent", "nowhere"], log_every_n_steps=1),
    "garbage_collect": lambda folder: garbage_collect(every_n_steps=2, generation=0),
    "latent_dim_interpolator": lambda folder: latent_dim_interpolator(
        3, interpolate_epoch_interval=1, steps=2, img_dim=(1, 1, 1)
    ),
    "notify": lambda folder: compose(
        notify(folder / "notes.jsonl", on=[*ev.HOOKS], metrics=["loss", "val_loss"]), checkpoint(folder, key="saves")
    ),
    "on": lambda folder: on(init=int, train_batch_end=counts_loss, train_epoch_end=lambda event: Log({"own": 0.1})),
    "prediction_writer": lambda folder: prediction_writer(
        lambda *_: None, lambda *_: None, write_interval="batch_and_epoch"
    ),
    "profile": lambda folder: profile(folder / "{step}.json", skip_first=1, active=2),
    "recompile_monitor": lambda folder: recompile_monitor(max_recompilations=0, verbose=True),
    "rich_model_summary": lambda folder: rich_model_summary(),
    "rich_progress_bar": lambda folder: rich_progress_bar(refresh_rate=99.0),
    "throughput_monitor": lambda folder: throughput_monitor(window_size=2, log_every_n_steps=1, length=4),
    "tqdm_progress_bar": lambda folder: tqdm_progress_bar(refresh_rate=2),
    # their other hooks, and other ways to end
    "tally by time": lambda folder: when(lambda event: event.seconds > 0.01, tally()),
    "batch_gradient_verification of an example": lambda folder: batch_gradient_verification(
        (torch.ones(3, 3), torch.ones(3, 1)), key="example"
    ),
    "checkpoint in the background": lambda folder: checkpoint(
        folder, every_n_train_steps=1, save_top_k=-1, save="async", verbose=True
    ),
    "checkpoint by time": lambda folder: checkpoint(
        folder, train_time_interval={"milliseconds": 5}, save_last="link", save_weights_only=True
    ),
    "checkpoint at the epoch's end": lambda folder: checkpoint(
        folder, monitor="loss_epoch", save_on_train_epoch_end=True, save_on_exception=True
    ),
    "data_wait by step": lambda folder: data_wait(log_every_n_steps=1),
    "deadline that is over": lambda folder: deadline(0.0),
    "early_stop at once": lambda folder: early_stop("val_loss", stopping_threshold=99.0, verbose=True),
    "early_stop at the epoch's end": lambda folder: early_stop("loss_epoch", patience=0, check_on_train_epoch_end=True),
    "finetuning in its epochs": lambda folder: finetuning("3.*", lambda epoch: "3.*", lr=0.5, train_bn=False),
    "lr_monitor by epoch": lambda folder: lr_monitor(logging_interval="epoch"),
    "module_data_monitor of modules": lambda folder: module_data_monitor(["0"], log_every_n_steps=1),
    "progress_bar by time": lambda folder: progress_bar(refresh_rate=200.0, metrics=("*loss", "lr*")),
    "quantization_aware_training to the end": lambda folder: quantization_aware_training(),
    "reduce_on_plateau at the epoch's end": lambda folder: reduce_on_plateau(
        "loss_epoch", patience=0, threshold=9.0, check_on_train_epoch_end=True
    ),
    "restore_best that is the last": lambda folder: restore_best("val_loss", mode="max"),
    "rollback_on_spike that gives up": lambda folder: rollback_on_spike(
        factor=1.01, window=1, every_n_steps=1, budget=0
    ),
    "schedule by epoch": lambda folder: schedule("lr", lambda epoch: 0.1 / (epoch + 1), interval="epoch"),
    "spike_detection that notes": lambda folder: spike_detection(
        rtol=0.01, warmup=0, exclude_batches_path=folder / "spikes.jsonl"
    ),
    "stop_file that is there": lambda folder: stop_file(Path(__file__), every_n_steps=2),
    "threshold_stop that is reached": lambda folder: threshold_stop("val_loss", 99.0),
    "throughput_monitor every other step": lambda folder: when(
        every(steps=2), throughput_monitor(window_size=2, count_flops=False)
    ),
    "timer that is up in training": lambda folder: timer({"milliseconds": 8}),
    "timer that is up in an epoch": lambda folder: timer({"milliseconds": 8}, interval="epoch"),
}

ROWS = {**CALLBACKS, **MORE}

STEP_ONLY = {
    *("activation_stats", "adaptive_clip", "byol_ma_update", "clip_grad_norm", "clip_grad_value", "cutmix"),
    *("grad_noise", "grad_norms", "label_smoothing", "lookahead", "mixup", "sam", "skip_large_updates"),
    "skip_nonfinite",
}
"""Built-ins without a host half, so that there is nothing to replay; what they publish, others hear."""


def counts_loss(state, event):
    return state + round(1e6 * sum(event.metrics[name] for name in event.metrics if name.endswith("loss")))


def parts(name, folder=Path("nowhere")):
    return compose(ROWS[name](folder)).parts


def world(name, case=CASE):
    """A task, and batches to train and to validate on, that suit a row."""
    if name == "confused_logit":
        return digits.classifier_task(), digits.batches(0, 160, 32), digits.batches(160, 224, 32)
    n = case["batches"]
    return made(case, case["seed"])[0], loader(case["loader"], n, True, case["seed"]), loader(case["val"], 2, True, 0)


def fitted(name, folder, *more, **settings):
    """`fit` of a row, recorded in a folder."""
    callbacks = [ROWS[name](folder / "kept"), *more]
    accumulate = {"accumulate_grad_batches": 1} if name == "accumulation_schedule" else {}
    given = {**EAGER, **accumulate, "record": folder / "events.jsonl", **settings}
    return fit(*world(name), callbacks=callbacks, **given)


def heard_in(callback, tape):
    """The hooks of a callback that heard something."""
    kinds = {type(each.entry) for lived in tape.lives.values() for each in lived}
    return {name for name in hook_names(callback) if ev.HOOKS[name] in kinds}


def test_every_built_in_with_a_host_half_has_a_row():
    constructors = {name: {part.constructor for part in parts(name)} for name in ROWS}
    has = {each for those in constructors.values() for each in those}

    assert {*built_ins()} - has - STEP_ONLY == set()
    of_step = [part for name in ROWS for part in parts(name) if part.constructor in STEP_ONLY]
    assert [part for part in of_step if hook_names(part)] == []
    drawn = {name: hooks_of(name) for name in STEP_ONLY}
    assert {name: hooks for name, hooks in drawn.items() if hooks} == {}


def hooks_of(name):
    """The hooks that a built-in has for any of the arguments that the laws are tested with."""
    found = set()

    @settings(max_examples=60, derandomize=True, database=None, deadline=None)
    @given(BUILT_INS[name])
    def look(callback):
        for part in compose(callback).parts:
            found.update(hook_names(part))

    look()
    return found


def test_every_hook_of_a_built_in_is_in_a_row():
    there = {}
    for name in ROWS:
        for part in parts(name):
            there.setdefault(part.constructor, set()).update(hook_names(part))

    assert {name: left for name in BUILT_INS if (left := hooks_of(name) - there.get(name, set()))} == {}


@cache
def played(name):
    """A row's runs: by stage in what they differ from their replays, and by constructor the hooks that were heard."""
    found, heard = {}, {}
    with quick_folder() as folder, taped() as tape:
        (folder / "kept").mkdir()
        callbacks = [ROWS[name](folder / "kept")]
        run = fitted(name, folder)
        found["fit"] = faults(tape, callbacks, run.recording, run.state)
        for function in (validate, test, predict):
            stage = function.__name__
            if any(callbacks[0].hears(kind) for hook, kind in ev.HOOKS.items() if f"on_{stage[:5]}" in hook):
                task, _, val = world(name)
                given = {"callbacks": ROWS[name](folder / "kept"), "progress": False}
                run = function(task, {"one": val, "two": [*val]}, record=folder / f"{stage}.jsonl", **given)
                found[stage] = faults(tape, callbacks, run.recording, run.state)
        for part in compose(callbacks).parts:
            heard.setdefault(part.constructor, set()).update(heard_in(part, tape))
    return {stage: each for stage, each in found.items() if each}, heard


@pytest.mark.parametrize("name", ROWS)
def test_a_run_replays_exactly(name, capfd):
    assert played(name)[0] == {}


UNUSUAL = {"on_exception", "on_keyboard_interrupt", "on_load_checkpoint", "on_step_compiled"}
"""Hooks that nothing is heard by in a run that is whole and eager and was not resumed."""


def test_every_hook_of_a_built_in_hears_something(capfd):
    heard = {name: set().union(*[played(row)[1].get(name, set()) for row in ROWS]) for name in BUILT_INS}
    heard["on_exception_checkpoint"].add("on_saved")  # of the tests of crashes

    assert {name: left for name in BUILT_INS if (left := hooks_of(name) - heard[name] - UNUSUAL)} == {}


# Runs that were resumed.


def cuts_in(folder):
    """A callback that saves in the first epoch, in validations of the second, and at that one's end."""
    at = {
        "on_train_batch_end": {(0, 2): Save(f"{folder}/mid.safetensors")},
        "on_validation_batch_end": {(1, 0): Save(f"{folder}/validating.safetensors")},
        "on_train_epoch_end": {(1, None): Save(f"{folder}/end.safetensors")},
    }
    return attrs.evolve(asks(at), key="cuts")


def newest(folder, name, since=()):
    """The newest checkpoint of a name that was not there before; None if there is none."""
    new = [path for path in folder.glob(f"{name}*.safetensors") if path not in since]
    return max(new, key=lambda path: path.stat().st_mtime_ns, default=None)


def killed(tape, log, path, rng):
    """Leaves of a recording what a process that was killed some time after a checkpoint may have left."""
    whole = log.read_bytes()
    log.write_bytes(whole[: rng.randint(tape.sizes[path], len(whole))])


ENDS_EARLY = {
    *("deadline that is over", "early_stop at once", "rollback_on_spike that gives up", "spike_detection that notes"),
    *("stop_file that is there", "threshold_stop that is reached", "timer that is up in training"),
    "timer that is up in an epoch",
}
"""Rows that stop before they are saved, or may do so."""


@pytest.mark.parametrize("name", ROWS)
def test_a_run_that_was_resumed_three_times_replays_exactly(name, capfd):
    rng, found = random.Random(name), {}
    with quick_folder() as folder, taped() as tape:
        (folder / "kept").mkdir()
        callbacks = [ROWS[name](folder / "kept"), cuts_in(folder / "cuts")]
        run, before = fitted(name, folder, callbacks[1]), set()
        for place in ("mid", "validating", "end"):
            path = newest(folder / "cuts", place, before)
            if path is None:
                continue
            if place == "end":
                killed(tape, run.recording, path, rng)
            before = {*folder.glob("cuts/*")}
            run = fitted(name, folder, callbacks[1], resume=path)
            found[place] = faults(tape, callbacks, folder / "events.jsonl", run.state)

    assert {place: each for place, each in found.items() if each} == {}
    assert name in ENDS_EARLY or [*found] == ["mid", "validating", "end"]


TOGETHER = [
    *("data_wait", "deadline", "device_stats_monitor", "garbage_collect", "notify", "on", "throughput_monitor"),
    *("checkpoint in the background", "checkpoint by time", "lr_monitor by epoch", "schedule by epoch"),
    *("spike_detection that notes", "timer that is up in training", "tqdm_progress_bar"),
]
"""Rows of this file that can be together with those of resuming.py."""


def together(names, folder):
    """The callbacks of rows, but for those with a key that is taken, and all bars but the first."""
    found, bars = {}, 0
    for part in itertools.chain(*[parts(name, folder) for name in names]):
        is_bar = Render in (part.emits or ())
        if part.key not in found and not (is_bar and bars):
            found[part.key] = part
            bars += is_bar
    return found


def drawn(rng):
    """A case with callbacks of both tables, and the places at which it is saved."""
    case = a_case(rng)
    names = [*case["callbacks"], *rng.sample(TOGETHER, rng.randrange(5))]
    rng.shuffle(names)
    settings = {**case["settings"], "num_sanity_val_steps": rng.choice([0, 1])}
    return {**case, "callbacks": names, "settings": settings}, {n for n in range(300) if rng.random() < 0.15}


def of_a_random_run(rng, resumes):
    """In what a drawn run differs from its replay, and then what goes on in its recording so many times."""
    case, places = drawn(rng)
    found, last = [], {}
    with quick_folder() as folder, taped() as tape:
        callbacks = {**together(case["callbacks"], folder / "kept"), "asks": asks(case["asks"])}
        callbacks["saves"] = saves_at(folder / "cuts", places)
        log, path = folder / "events.jsonl", None
        for _ in range(1 + resumes):
            train(case, folder, callbacks=callbacks, resume=path)
            found.append(faults(tape, callbacks.values(), log))
            lived = tape.lives[log]
            new = [cut for cut in cuts(folder) if cut not in last]
            last |= {cut: lived[store.read(cut)["recorded"]["lines"] - 1] for cut in new}
            there = [cut for cut, before in last.items() if any(each is before for each in lived)]
            if not there:
                break
            path = rng.choice(there)
            if rng.random() < 0.5:
                killed(tape, log, path, rng)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_random_run_that_was_resumed_at_random_replays_exactly(seed, record_property, capfd):
    found = {f"{seed} {i}": of_a_random_run(random.Random(f"{seed} {i}"), 3) for i in range(10)}

    assert {name: wrong for name, wrong in found.items() if any(wrong)} == {}
    runs = sum(map(len, found.values()))
    assert runs > 2 * len(found)
    record_property(
        "count", f"R17: {len(found)} random recordings with {runs} runs, part {seed + 1} of 4: replay equal"
    )


# Runs that were interrupted, and runs that crashed.


def after_so_many(n, hook, then):
    """A callback that has a function called at the nth event of a hook, from 0; a replay calls nothing."""

    def counts(state, event):
        return emit(state + 1, Call("then", then)) if state == n else state + 1

    return Callback(key="then", init=int, emits=(Call,), **{hook: counts})


def silent(callback, hook):
    """The same, but that it has a function called that does nothing, as it may hear the same event once more."""

    def counts(state, event):
        new, effects = callback.transition(state, event)
        return emit(new, *[attrs.evolve(each, fn=lambda event: None) for each in effects])

    return attrs.evolve(callback, **{hook: counts})


def rescued(tape, case, folder, callbacks, healthy, resumes=2, **faulty):
    """In what a run that is cut off differs from its replay, and then those that go on from what was rescued.

    `callbacks` are those of the run that is cut off, `healthy` those that go on, and that replay.
    """
    log = folder / "events.jsonl"
    with pytest.raises((Injected, KeyboardInterrupt, SystemExit)):
        train(case, folder, callbacks=callbacks, **faulty)
    found = [faults(tape, healthy.values(), log)]
    rescues = sorted(folder.glob("kept/rescue-*.safetensors"))
    for _ in range(resumes if rescues else 0):
        rescue = rescues[0].read_bytes()  # a run that goes on from it deletes it
        train(case, folder, callbacks=healthy, resume=rescues[0])
        found.append(faults(tape, healthy.values(), log))
        rescues[0].write_bytes(rescue)
    return found


def many_in(case, folder, **more):
    saves = checkpoint(folder / "kept", monitor="val_loss", save_last=True, save_on_signal=True, save_on_exception=True)
    told = notify(folder / "notes.jsonl", on=[*ev.HOOKS], metrics=["loss", "val_loss"])
    return {**callbacks_of(case, folder), "saves": saves, "notify": told, **more}


CUT_OFF = {
    **CASE,
    "callbacks": ["tally", "lr_monitor", "early_stop", "ema", "skip_nonfinite", "timer", "progress_bar"],
    "batches": 4,
}

IN_FIT = [name for name in OF_FIT if name not in ("on_load_checkpoint", "on_step_compiled", "on_stop_requested")]
"""Hooks that a run that is cut off, and was not resumed, may hear."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_replays_exactly_and_so_does_what_goes_on_from_it(number, record_property, capfd):
    found, several = {}, 0
    for hook, nth in [(hook, 0 if number == signal.SIGINT else 1) for hook in IN_FIT]:
        with quick_folder() as folder, taped() as tape:
            sends = after_so_many(nth, hook, lambda event: os.kill(os.getpid(), number))
            callbacks, healthy = (many_in(CUT_OFF, folder, then=each) for each in (sends, silent(sends, hook)))
            with suppress(pytest.fail.Exception):  # of an event that there was not
                found[f"{hook} {nth}"] = rescued(tape, CUT_OFF, folder, callbacks, healthy)
                several += len(found[f"{hook} {nth}"]) == 3

    assert {at: wrong for at, wrong in found.items() if any(wrong)} == {}
    assert several > 15
    told = f"{len(found)} runs that {number.name} ended, {several} of them gone on from twice: replay equal"
    record_property("count", f"R17: {told}")


@pytest.mark.parametrize("key", ["tally", "saves", "timer"])
def test_a_run_in_which_a_hook_raised_replays_exactly_and_so_does_what_goes_on_from_it(key, record_property, capfd):
    found = {}
    with quick_folder() as folder:
        hooks = [name for name in hook_names(many_in(CUT_OFF, folder)[key]) if name in IN_FIT]
    for hook, nth in itertools.product(hooks, (0, 2)):
        with quick_folder() as folder, taped() as tape:
            healthy = many_in(CUT_OFF, folder)
            breaks = {**healthy, key: breaks_in(healthy[key], hook, nth)}
            with suppress(pytest.fail.Exception):
                found[f"{hook} {nth}"] = rescued(tape, CUT_OFF, folder, breaks, healthy, resumes=1)

    assert {at: wrong for at, wrong in found.items() if any(wrong)} == {}
    assert {at.split()[0] for at in found} >= {*hooks} - {"on_keyboard_interrupt", "on_exception"}
    record_property("count", f"R17: {len(found)} runs that a hook of {key} broke: replay equal, gone on from too")


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_run_that_crashed_elsewhere_replays_exactly_and_so_does_what_goes_on_from_it(where, capfd):
    found = []
    for nth in (0, 1, 3):
        with quick_folder() as folder, taped() as tape, suppress(pytest.fail.Exception):
            callbacks = many_in(OF_ELSEWHERE, folder)
            found.append(rescued(tape, OF_ELSEWHERE, folder, callbacks, callbacks, **ELSEWHERE[where](nth)))

    assert [wrong for wrong in found if any(wrong)] == []
    assert len(found) > 1


def test_an_effect_that_could_not_be_carried_out_is_recorded_as_it_was_asked_for(capfd):
    def raises(event):
        raise Injected

    found = {}
    for hook in ("setup", "on_train_batch_end", "on_validation_batch_end", "on_saved", "on_train_end"):
        with quick_folder() as folder, taped() as tape:
            faulty = after_so_many(1 if "batch" in hook else 0, hook, raises)
            callbacks, healthy = (many_in(CUT_OFF, folder, then=each) for each in (faulty, silent(faulty, hook)))
            found[hook] = rescued(tape, CUT_OFF, folder, callbacks, healthy)

    assert {hook: wrong for hook, wrong in found.items() if any(wrong)} == {}


# What ends otherwise.


def differing(callbacks, **settings):
    """In what a small run differs from its replay; and what was recorded."""
    with quick_folder() as folder, taped() as tape:
        found, log = callbacks(folder), folder / "events.jsonl"
        train(CUT_OFF, folder, callbacks={each.key: each for each in found}, **settings)
        return faults(tape, found, log), read(log)


@pytest.mark.parametrize(
    "given",
    [
        {"max_epochs": 3, "min_epochs": 2},
        {"max_epochs": 3, "min_steps": 4},
        {"max_epochs": -1, "max_steps": 3},
        {"max_time": {"milliseconds": 20}, "max_epochs": 50},
        {"overfit_batches": 2},
        {"limit_val_batches": 0},
        {"limit_train_batches": 0},
        {"max_epochs": 0},
        {"val_check_interval": {"milliseconds": 2}},
        {"check_val_every_n_epoch": None, "val_check_interval": 3},
        {"num_sanity_val_steps": -1},
        {"accumulate_grad_batches": 3},
        {"precision": "bf16-mixed"},
        {"detect_anomaly": True},
    ],
    ids=str,
)
def test_a_run_that_ends_in_its_own_way_replays_exactly(given, capfd):
    waits = any(name.startswith("min_") for name in given)
    stops = asks({"on_train_batch_end": {(0, 1): Stop("enough")}} if waits else {})

    assert differing(lambda folder: [*many_in(CUT_OFF, folder).values(), stops], **given)[0] == []


def test_a_trial_records_nothing(tmp_path, capfd):
    with taped() as tape:
        run = fitted("tally", tmp_path, fast_dev_run=True)

    assert (run.recording, tape.lives) == (None, {})
    assert not (tmp_path / "events.jsonl").exists()


def nan_at(n, name="loss"):
    """A task whose loss, or what it validates by, is NaN from its nth call on, but not for ever."""
    task, owned = made(CUT_OFF, 3)
    inner, calls = getattr(task, name), itertools.count()

    def spoiled(model, batch):
        value, more = inner(model, batch)
        return value * (float("nan") if n <= next(calls) < n + 3 else 1.0), more

    return attrs.evolve(task, **{name: spoiled}), owned


GUARDS = {
    "none": [],
    "skip_nonfinite": [skip_nonfinite()],
    "rollback_on_spike": [rollback_on_spike(window=1, every_n_steps=1, budget=9)],
    "spike_detection": [spike_detection()],
    "early_stop": [early_stop("val_loss", check_finite=True, key="finite")],
}


@pytest.mark.parametrize("name", ["loss", "validate"])
@pytest.mark.parametrize("guard", GUARDS)
def test_a_run_with_what_is_not_finite_replays_exactly(name, guard, capfd):
    def callbacks(folder):
        looks = [reduce_on_plateau("val_loss"), restore_best("val_loss"), checkpoint(folder, monitor="val_loss")]
        tells = [notify(folder / "notes", on=[*ev.HOOKS], metrics=["loss", "val_loss"]), progress_bar(), keeps_all()]
        return [*looks, *tells, *GUARDS[guard]]

    found, recording = differing(callbacks, made_of=nan_at(4, name), max_epochs=3, min_epochs=2)

    assert found == []
    measured = [value for each in recording.events for value in getattr(each, "metrics", {}).values()]
    assert any(map(math.isnan, measured))


def keeps_all():
    """A callback that keeps all metrics that it ever hears of."""

    def keeps(state, event):
        return [*state, [event.step, dict(event.metrics)]] if hasattr(event, "metrics") else state

    return Callback(key="all", init=list, emits=(), **dict.fromkeys(ev.HOOKS, keeps))


# What a recording leaves out, and what it does not hold.


@pytest.mark.parametrize("name", ROWS)
def test_metrics_that_were_left_out_are_missed_and_nothing_is_made_up(name, capfd):
    with quick_folder() as folder, taped() as tape:
        (folder / "kept").mkdir()
        run = fitted(name, folder, record_metrics_every_n_steps=2)
        replayed = replay_or_what_is_missed([ROWS[name](folder / "kept")], run.recording)

    if isinstance(replayed, UnrecordedMetrics):
        assert any(note.startswith(f"{part.key}: on_") for part in parts(name) for note in replayed.__notes__)
    else:
        asked = [each.entry for each in tape.lives[run.recording] if not isinstance(each.entry, ev.Event)]
        assert unlike((run.state, asked), (replayed.state, [*replayed.effects]), "replayed") == []


def test_who_did_not_run_replays_as_who_did_or_misses_what_was_left_out(tmp_path, capfd):
    counts = on(init=int, train_batch_end=counts_loss, train_epoch_end=counts_loss, key="counts")
    live = fitted("model_summary", tmp_path, counts, seed=0)
    later, thinned = (fitted("model_summary", tmp_path, seed=0, record_metrics_every_n_steps=n) for n in (1, 2))

    assert replay(counts, later.recording).state == replay(counts, live.recording).state == live.state["counts"]
    with pytest.raises(UnrecordedMetrics, match="TrainBatchEnd at step"):
        replay(counts, thinned.recording)


def replay_or_what_is_missed(callbacks, recording):
    try:
        return replay(callbacks, recording)
    except UnrecordedMetrics as error:
        return error


READ_LIVE_FIELDS: dict[str, str] = {}
"""Built-ins whose hooks read a live field, and which: none does. Functions in effects do, which only a run calls."""


def has_live_fields(kind):
    return any(map(is_live, attrs.fields(kind)))


def live_field_read_by(name):
    """What a built-in is told that reads a live field in a hook, with any arguments at any event; None if none does."""
    told = []

    @settings(max_examples=30, derandomize=True, database=None, deadline=None)
    @given(BUILT_INS[name])
    def look(callback):
        for kind in filter(callback.hears, filter(has_live_fields, ev.HOOKS.values())):
            with suppress(ev.MissingMetric):
                try:
                    callback.transition(callback.init(), kind(step=2))
                except ev.LiveFieldError as error:
                    told.append(str(error))

    look()
    return told[0] if told else None


def test_no_built_in_reads_a_live_field_in_a_hook(capfd):
    """Or it could not be replayed. Rows were replayed above; here are other arguments, and hooks one by one."""
    found = {name: told for name in BUILT_INS if (told := live_field_read_by(name))}

    assert found.keys() == READ_LIVE_FIELDS.keys()


READS = {
    "on_train_batch_start": ("batch", "params"),
    "on_train_batch_end": ("batch", "outputs", "params", "model"),
    "on_validation_batch_end": ("batch", "outputs"),
    "on_predict_batch_end": ("batch", "outputs"),
    "on_predict_epoch_end": ("predictions",),
    "on_exception": ("exception",),
    "on_before_optimizer_step": ("loss", "grads"),
    "on_after_optimizer_step": ("buffers",),
}


@pytest.mark.parametrize(("hook", "field"), [(hook, field) for hook, fields in READS.items() for field in fields])
def test_who_reads_a_live_field_in_a_replay_is_told_which_where_and_in_what(hook, field):
    def reads(state, event):
        return state, getattr(event, field)

    kind = ev.HOOKS[hook]
    reads, events = Callback(key="reads", init=int, **{hook: reads}), [kind(epoch=2, step=7)]

    for fold in (replay, lambda *given: [*history(*given)]):
        with pytest.raises(ev.LiveFieldError) as caught:
            fold([tally(), reads], events)
        told = "".join(traceback.format_exception(caught.value))
        assert f"{kind.__name__} at step 7: `{field}` is a live field, got none." in told
        assert f"reads: {hook} failed at epoch 2, step 7." in told


@pytest.mark.parametrize("looks", [lambda event: hasattr(event, "batch"), lambda event: getattr(event, "batch", None)])
def test_a_live_field_cannot_be_passed_over_in_a_replay(looks):
    """Or a replay would go another way than the run, without a word."""
    reads = on(init=int, train_batch_end=lambda state, event: state if looks(event) is None else state + 1, key="reads")

    assert reads.transition(0, ev.TrainBatchEnd(batch=[1]))[0] == 1
    with pytest.raises(ev.LiveFieldError, match="`batch` is a live field, got none"):
        replay(reads, [ev.TrainBatchEnd()])


def test_a_recording_tells_who_reads_a_live_field_too(tmp_path, capfd):
    looks = on(train_batch_end=lambda event: Log({"first": float(event.batch[0].sum())}), key="looks")
    guarded = when(lambda event: event.batch is not None, on(train_batch_end=lambda event: None, key="guarded"))
    recordings = [fitted("tally", tmp_path, each).recording for each in (looks, guarded)]

    for recording, key in zip(recordings, ("looks", "guarded"), strict=True):
        with pytest.raises(ev.LiveFieldError, match="`batch` is a live field") as caught:
            replay([tally(), looks if key == "looks" else guarded], recording)
        assert any(note.startswith(f"{key}: on_") for note in caught.value.__notes__)
    assert replay(tally(), recordings[0]).effects == ()


# Resumes that change something.


def test_a_checkpoint_that_another_run_went_past_is_not_gone_on_from_in_its_recording(capfd):
    with quick_folder() as folder, taped() as tape:
        saves = cuts_in(folder)
        fitted("timer", folder, saves)
        old = newest(folder, "end")
        run = fitted("timer", folder, saves, resume=newest(folder, "mid"))
        assert faults(tape, [timer(), saves], run.recording, run.state) == []

        with pytest.raises(ValueError, match="It is another run's or lost its tail: record to another file"):
            fitted("timer", folder, saves, resume=old)
        assert faults(tape, [timer(), saves], run.recording, run.state) == []
        again = fitted("timer", folder, saves, resume=newest(folder, "end", {old}))
        assert faults(tape, [timer(), saves], run.recording, again.state) == []


def test_a_resumed_run_that_records_elsewhere_replays_exactly_from_the_state_that_was_saved(capfd):
    with quick_folder() as folder:
        saves = cuts_in(folder)
        fitted("timer", folder, saves)
        found = []
        for place in ("mid", "validating", "end"):
            state = fncb.load_state_dict(compose(timer(), saves), store.read(newest(folder, place))["callbacks"])
            run = fitted("timer", folder, saves, resume=newest(folder, place), record=folder / f"{place}.jsonl")
            found.append(unlike(run.state, replay([timer(), saves], run.recording, state).state, place))

    assert found == [[], [], []]


def test_a_callback_that_was_added_when_a_run_was_resumed_replays_exactly_from_there(capfd):
    added = on(init=int, train_batch_end=counts_loss, validation_end=counts_loss, key="added")
    with quick_folder() as folder:
        saves = cuts_in(folder)
        fitted("timer", folder, saves)
        run = fitted("timer", folder, saves, added, resume=newest(folder, "mid"))
        recording = read(run.recording)
        since = replay(added, recording.entries[recording.resumed[-1] :])

    assert since.state == run.state["added"] != replay(added, recording).state
    assert unlike(run.state["timer"], replay(timer(), recording).state, "timer") == []


@pytest.mark.parametrize("function", [validate, test, predict], ids=lambda function: function.__name__)
def test_what_looks_at_a_checkpoint_leaves_the_recording_of_its_run_whole(function, capfd):
    callbacks = [timer(), tally(), throughput_monitor(count_flops=False)]
    with quick_folder() as folder:
        saves = cuts_in(folder)
        fitted("timer", folder, saves, *callbacks[1:])
        before = (folder / "events.jsonl").read_bytes()
        path, (task, _, val) = newest(folder, "mid"), world("timer")
        given = {"callbacks": [*callbacks, saves], "resume": path, "record": folder / "events.jsonl"}
        run = function(task, val, progress=False, **given)
        state = fncb.load_state_dict(compose(*callbacks, saves), store.read(path)["callbacks"])

        assert (folder / "events.jsonl").read_bytes() == before
        assert run.recording == folder / "events-v1.jsonl"
        assert unlike(run.state, replay([*callbacks, saves], run.recording, state).state, "state") == []


# Loops of one's own, several optimizers, and compiled steps.


def test_a_session_of_ones_own_replays_exactly(tmp_path):
    def callbacks():
        saves = checkpoint(tmp_path / "kept", monitor="val_loss", save_last=True)
        told = notify(tmp_path / "notes", on=["saved", "train_end"], metrics=["loss"])
        return [early_stop("val_loss", patience=3), saves, timer(), keeps_all(), told]

    tape, model = Tape(), {"model": nn.Linear(1, 1)}
    with Watched(tape, callbacks(), objects=model, record=tmp_path / "events.jsonl") as session:
        session(ev.TrainStart())
        for i, loss in enumerate([1.5, 1, math.nan, -0.0, 0.0, math.inf, 5e-324, 2**53 + 1, numpy.float32(0.1)]):
            session(ev.TrainBatchEnd(step=i + 1, metrics={"loss": loss, "size": torch.tensor(0.1 * i)}))
            session(ev.ValidationEnd(epoch=i, step=i + 1, metrics={"val_loss": loss}))
        session(ev.TrainEnd(step=9, metrics={"loss": 1e300}))

    assert faults(tape, callbacks(), session.recording, session.state) == []


def test_a_run_of_two_optimizers_replays_exactly(tmp_path, capfd):
    callbacks = [tally(), lr_monitor(log_momentum=True), keeps_all(), cuts_in(tmp_path), progress_bar()]
    adam = partial(torch.optim.Adam, lr=0.01)

    def of(seed):
        torch.manual_seed(seed)
        model = nn.ModuleDict({"first": nn.Linear(3, 3), "second": nn.Linear(3, 1)})
        losses = {
            "first": lambda model, batch: model["first"](batch[0]).square().mean(),
            "second": lambda model, batch: (model["second"](model["first"](batch[0])) - batch[1]).square().mean(),
        }
        return Task(model, loss=losses, optimizer=dict.fromkeys(losses, adam))

    with taped() as tape:
        settings = {**EAGER, "callbacks": callbacks, "record": tmp_path / "events.jsonl"}
        loaders = world("tally")[1:]
        run = fit(of(0), *loaders, **settings)
        found = [faults(tape, callbacks, run.recording, run.state)]
        run = fit(of(1), *loaders, **settings, resume=newest(tmp_path, "mid"))
        found.append(faults(tape, callbacks, run.recording, run.state))

    turns = {each.optimizer for each in read(run.recording).events if type(each) is ev.AfterBackward}
    assert (turns, found) == ({"first", "second"}, [[], []])


def test_a_compiled_run_replays_exactly(tmp_path, capfd):
    names = ["recompile_monitor", "throughput_monitor", "ema", "lr_monitor", "tally"]
    callbacks = [*together(names, tmp_path / "kept").values(), cuts_in(tmp_path / "cuts")]
    case = {**CASE, "loader": "batches", "draws": False, "optimizer": "sgd"}
    settings = {**EAGER, "accumulate_grad_batches": 1, "compile": True}
    settings |= {"callbacks": callbacks, "record": tmp_path / "events.jsonl"}
    with taped() as tape:
        run = fit(*world("tally", case), **settings)
        found = [faults(tape, callbacks, run.recording, run.state)]
        run = fit(*world("tally", case), **settings, resume=newest(tmp_path / "cuts", "mid"))
        found.append(faults(tape, callbacks, run.recording, run.state))

    assert (run.compiled, found) == ("one graph", [[], []])
    assert "step_graphs" in run.metrics
