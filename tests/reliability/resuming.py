"""Tiny runs that are cut and go on, and in what one that went on differs from one that was never cut."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import numpy
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from fncb import events as ev
from fncb import store
from fncb.callback import Callback, emit
from fncb.callbacks import (
    accumulation_schedule,
    activation_stats,
    adaptive_clip,
    backbone_finetuning,
    batch_gradient_verification,
    checkpoint,
    clip_grad_norm,
    clip_grad_value,
    data_monitor,
    early_stop,
    ema,
    every,
    finetuning,
    grad_noise,
    grad_norms,
    history,
    image_sampler,
    knn_online_evaluator,
    lookahead,
    lr_monitor,
    masked,
    mixup,
    model_summary,
    module_data_monitor,
    on_exception_checkpoint,
    print_table_metrics,
    progress_bar,
    prune,
    quantization_aware_training,
    reduce_on_plateau,
    restore_best,
    rollback_on_spike,
    sam,
    schedule,
    skip_large_updates,
    skip_nonfinite,
    spike_detection,
    ssl_online_evaluator,
    stop_file,
    swa,
    threshold_stop,
    timer,
    weight_averaging,
    when,
)
from fncb.data import batches
from fncb.effects import Delete, Save, SetLR, Skip, Stop, StopEpoch, Validate
from fncb.live import recorded_fields
from fncb.loop import fit
from fncb.position import random_state
from fncb.recording import read
from fncb.task import Task
from fncb.testing.comparing import unlike
from fncb.tree import leaves

SET_UP = ("on_init_start", "on_init_end", "setup", "on_configure_sharded_model", "on_load_checkpoint", "on_fit_start")
SET_UP += ("on_train_start",)
ENDS = ("on_train_end", "on_fit_end", "teardown", "on_exception", "on_keyboard_interrupt")
ANSWERS = ("on_saved", "on_save_checkpoint", "on_stop_requested", "on_probed")
IN_STEP = tuple(ev.hook_name(kind) for kind in ev.IN_STEP if kind not in (ev.TrainBatchStart, ev.TrainBatchEnd))
COMPILED = "on_step_compiled"  # is of the process, and not of the run
OF_FIT = tuple(name for name in ev.HOOKS if not name.startswith(("on_test", "on_predict")))
PLACES = tuple(name for name in OF_FIT if name not in (*SET_UP, *ENDS, *ANSWERS, *IN_STEP, COMPILED))
"""Hooks at which a run may be saved to go on in its middle: not in the step itself, not before or after it all."""


# A run.


def tally(key="tally"):
    """A callback that counts every event but those of setting up, of a sanity check, of saving and of the end."""
    heard = [name for name in OF_FIT if name not in (*SET_UP, *ENDS, *ANSWERS, COMPILED, "on_sanity_check_end")]

    def counts(name):
        if name == "on_sanity_check_start":
            return lambda state, event: {**state, "paused": True}
        return lambda state, event: state if state["paused"] else {**state, name: state[name] + 1}

    return Callback(
        key=key,
        init=lambda: {"paused": False, **dict.fromkeys(heard, 0)},
        emits=(),
        **{name: counts(name) for name in heard},
        on_sanity_check_end=lambda state, event: {**state, "paused": False},
    )


def saves_at(folder=None, places=(), set_up=()):
    """A callback that saves at some of the events of `PLACES`, by their number, and at set-up hooks by name."""

    def saves(name):
        def hook(state, event):
            asked = Save(f"{folder}/{state}-{name}.safetensors")
            return emit(state + 1, asked) if state in places else state + 1

        return hook

    def saves_early(name):
        return lambda state, event: emit(state, Save(f"{folder}/0-{name}.safetensors"))

    return Callback(
        key="saves",
        init=int,
        emits=(Save,),
        **{name: saves(name) for name in PLACES},
        **{name: saves_early(name) for name in set_up},
    )


def asks(what):
    """A callback that asks for effects: of each hook, those for an (epoch, batch) or an epoch."""

    def asking(of_hook):
        def hook(state, event):
            effect = of_hook.get((event.epoch, getattr(event, "batch_idx", None)))
            return state if effect is None else emit(state, effect)

        return hook

    return Callback(key="asks", init=int, **{name: asking(of_hook) for name, of_hook in what.items()})


class Noisy(TensorDataset):
    """Adds noise of torch's generator to its samples."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(x.shape), y


def data(n, batch=2, kind=TensorDataset):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n * batch, 3, generator=generator)
    return kind(x, x.sum(1, keepdim=True))


def loader(kind, n, shuffle, seed):
    """So many batches of two samples, from a loader of one kind."""
    return {
        "batches": lambda: batches(data(n), 2, shuffle=shuffle, seed=seed),
        "batches of noisy samples": lambda: batches(data(n, kind=Noisy), 2, shuffle=shuffle, seed=seed),
        "stateful": lambda: StatefulDataLoader(data(n), batch_size=2, shuffle=shuffle),
        "list": lambda: list(DataLoader(data(n), batch_size=2)),
        "shuffled": lambda: DataLoader(data(n), batch_size=2, shuffle=True),
    }[kind]()


SCHEDULES = {
    "by step": ("step", partial(lr_scheduler.StepLR, step_size=2, gamma=0.5)),
    "by epoch": ("epoch", partial(lr_scheduler.ExponentialLR, gamma=0.5)),
    "cosine by step": ("step", partial(lr_scheduler.CosineAnnealingLR, T_max=5)),
    "plateau by epoch": ("epoch", partial(lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5)),
    "plateau by validation": ("step", partial(lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5)),
}

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
}


def features(model, batch):
    """What online evaluators are given: a number for each sample, and whether the first of its labels is positive."""
    return model(batch[0]), (batch[1][:, 0] > 0).long()


def known(n):
    return list(DataLoader(data(n), batch_size=2))


def in_epoch_0_and_every_other_step(step_idx=None, epoch_idx=None):
    return epoch_idx == 0 if step_idx is None else step_idx % 2 == 1


CALLBACKS = {
    # stopping, saving, restoring
    "early_stop": lambda folder: early_stop("val_loss", patience=2),
    "threshold_stop": lambda folder: threshold_stop("val_loss", -1.0),
    "stop_file": lambda folder: stop_file(folder / "STOP", every_n_steps=2),
    "timer": lambda folder: timer(),
    "checkpoint": lambda folder: checkpoint(folder, monitor="val_loss", save_top_k=2, save_last=True),
    "checkpoint by step": lambda folder: checkpoint(folder, every_n_train_steps=2),
    "on_exception_checkpoint": lambda folder: on_exception_checkpoint(folder / "cut"),
    "restore_best": lambda folder: restore_best("val_loss"),
    "rollback_on_spike": lambda folder: rollback_on_spike(factor=1.05, window=1, every_n_steps=2, budget=9),
    "spike_detection": lambda folder: spike_detection(rtol=99.0),
    # averages
    "ema": lambda folder: ema(0.5),
    "ema by epoch": lambda folder: ema(0.5, update_every_n_steps=0, key="by epoch"),
    "ema late": lambda folder: ema(
        0.5, update_every_n_steps=2, update_starting_at_step=2, update_starting_at_epoch=1, key="late"
    ),
    "ema masked": lambda folder: masked(ema(0.5, key="some"), "0.*"),
    "ema at even steps": lambda folder: when(every(steps=2), ema(0.25, key="even")),
    "weight_averaging": lambda folder: weight_averaging(in_epoch_0_and_every_other_step),
    "swa": lambda folder: swa(0.05, swa_epoch_start=2, annealing_epochs=2),
    # gradients and updates
    "clip_grad_norm": lambda folder: clip_grad_norm(0.5),
    "clip_grad_value": lambda folder: clip_grad_value(0.05),
    "adaptive_clip": lambda folder: adaptive_clip(0.05),
    "grad_noise": lambda folder: grad_noise(0.01),
    "lookahead": lambda folder: lookahead(3),
    "sam": lambda folder: sam(0.1),
    "skip_nonfinite": lambda folder: skip_nonfinite(),
    "skip_large_updates": lambda folder: skip_large_updates(factor=1.5, warmup=1, decay=0.5),
    "mixup": lambda folder: mixup(0.4),
    # what is trained and how
    "accumulation_schedule": lambda folder: accumulation_schedule({0: 2, 1: 1}),
    "reduce_on_plateau": lambda folder: reduce_on_plateau("val_loss", factor=0.5, patience=0),
    "schedule": lambda folder: schedule("model.2.p", lambda step: 0.05 * (step % 5), interval="step"),
    "finetuning": lambda folder: finetuning("0.*", lambda epoch: "0.*" if epoch == 1 else None),
    "backbone_finetuning": lambda folder: backbone_finetuning(1, backbone="3"),
    "prune": lambda folder: prune(
        "random_unstructured",
        amount=0.3,
        resample_parameters=True,
        use_lottery_ticket_hypothesis=lambda epoch: epoch % 2 == 0,
    ),
    "prune after validation": lambda folder: prune(
        "l1_unstructured", amount=0.2, prune_on_train_epoch_end=False, key="prune after validation"
    ),
    "quantization_aware_training": lambda folder: quantization_aware_training(
        collect_quantization=4, quantize_on_fit_end=False
    ),
    # looking
    "lr_monitor": lambda folder: lr_monitor(logging_interval="step"),
    "lr_monitor with momentum": lambda folder: lr_monitor(log_momentum=True, key="with momentum"),
    "progress_bar": lambda folder: progress_bar(refresh_rate=1e9),  # at each event: not by the clock
    "print_table_metrics": lambda folder: print_table_metrics(),
    "history": lambda folder: history(),
    "model_summary": lambda folder: model_summary(),
    "grad_norms": lambda folder: grad_norms(),
    "activation_stats": lambda folder: activation_stats("0", "3"),
    "data_monitor": lambda folder: data_monitor(log_every_n_steps=2),
    "module_data_monitor": lambda folder: module_data_monitor(log_every_n_steps=2),
    "batch_gradient_verification": lambda folder: batch_gradient_verification(),
    "image_sampler": lambda folder: image_sampler(3, img_dim=(1, 1, 1)),
    "ssl_online_evaluator": lambda folder: ssl_online_evaluator(
        1, 2, features=features, drop_p=0.5, hidden_dim=3, lr=0.01
    ),
    "knn_online_evaluator": lambda folder: knn_online_evaluator(known(3), known(2), k=3, features=features),
    "tally": lambda folder: tally(),
}

APART = [
    ("checkpoint", "checkpoint by step"),  # they write to one folder
    ("finetuning", "backbone_finetuning", "swa"),  # which wants the parameter groups that it has found
]
"""Of each of these, a run has one at most."""

MUCH = [
    *("early_stop", "checkpoint", "timer", "ema", "clip_grad_norm", "skip_nonfinite", "lr_monitor"),
    *("progress_bar", "tally"),
]
LEFT_OUT = {"checkpoint by step", "accumulation_schedule", "backbone_finetuning", "swa"}
OTHERS = [name for name in CALLBACKS if name not in {*MUCH, *LEFT_OUT}]
"""Callbacks for a run with much in it, and as many of the others as can be together."""

REMEMBER_SANITY = ("progress_bar", "quantization_aware_training")
"""A run that goes on makes no sanity check, which these remember."""


def drawn_names(rng, most):
    """Names of callbacks that can be together."""
    names = rng.sample(sorted(CALLBACKS), rng.randint(1, most))
    for those in APART:
        found = [name for name in names if name in those]
        names = [name for name in names if name not in found[1:]]
    return names


RICH = {
    "loader": "batches of noisy samples",
    "shuffle": True,
    "val": "shuffled",
    "dropout": 0.3,
    "draws": True,
    "optimizer": "adamw",
    "schedule": "by step",
}
"""What a run has that has much in it: settings and callbacks are to be added."""


def a_case(rng, **given):
    """The settings of a run, drawn; what is given is not."""
    n = rng.randint(2, 5)
    names = drawn_names(rng, 8)
    places = [(epoch, batch) for epoch in range(3) for batch in range(n)]
    effects = {
        "on_train_batch_start": [Skip(), StopEpoch(), SetLR(0.02), Validate()],
        "on_train_batch_end": [StopEpoch(), SetLR(0.03), Validate()],
    }
    asked = {hook: {rng.choice(places): rng.choice(those)} for hook, those in effects.items() if rng.random() < 0.3}
    kind = rng.choice(["batches", "batches of noisy samples", "stateful", "list", "shuffled"])
    return {
        "seed": rng.randrange(1000),
        "batches": n,
        "loader": kind,
        "shuffle": rng.random() < 0.7,
        "val": rng.choice(["list", "shuffled", "stateful"]),
        "dropout": rng.choice([0.0, 0.3, 0.5]),
        "draws": rng.random() < 0.3,
        "optimizer": rng.choice(sorted(OPTIMIZERS)),
        "schedule": rng.choice([None, *sorted(SCHEDULES)]),
        "callbacks": names,
        "asks": asked,
        "settings": {
            "max_epochs": rng.randint(1, 3),
            "max_steps": rng.choice([-1, -1, -1, rng.randint(1, 2 * n)]),
            "accumulate_grad_batches": 1 if "accumulation_schedule" in names else rng.randint(1, 3),
            "val_check_interval": rng.choice([1.0, 1.0, 0.5, rng.randint(1, n)]),
            "num_sanity_val_steps": 0 if {*REMEMBER_SANITY} & {*names} else rng.choice([0, 1]),
        },
        **given,
    }


def made(case, seed):
    """A task of a case, its parameters drawn with a seed, and by name what belongs to it and has a state."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(case["dropout"]), nn.Linear(4, 1))
    owned = {"model": model, "optimizer": OPTIMIZERS[case["optimizer"]](model.parameters())}

    def loss(model, batch):
        x, y = batch
        value = nn.functional.mse_loss(model(x), y)
        if case["draws"] and model.training:
            value = value * (1 + 0.1 * random.random() + 0.1 * numpy.random.rand())
        return value, {"size": value.detach().sqrt()}

    def schedule(optimizer):
        owned["schedule"] = SCHEDULES[case["schedule"]][1](optimizer)
        return owned["schedule"]

    given = {"optimizer": owned["optimizer"], "loss": loss, "validate": loss}
    if case["schedule"] is not None:
        given |= {"schedule": schedule, "schedule_interval": SCHEDULES[case["schedule"]][0]}
    return Task(model, **given), owned


def callbacks_of(case, folder):
    """The callbacks of a case by name; those that keep files do so in `folder`/kept."""
    found = {name: CALLBACKS[name](Path(folder, "kept")) for name in case["callbacks"]}
    return {**found, "asks": asks(case["asks"])} if case.get("asks") else found


def train(case, folder, *more, made_of=None, resume=None, callbacks=None, loaders=None, **settings):
    """Trains in a folder, from the beginning with the case's seed or from a checkpoint with others; what it came to."""
    seed = case["seed"] if resume is None else case["seed"] + 1
    torch.manual_seed(seed + 7), random.seed(seed), numpy.random.seed(seed)
    task, owned = made(case, seed) if made_of is None else made_of
    n = case["batches"]
    if loaders is None:
        loaders = loader(case["loader"], n, case["shuffle"], case["seed"]), loader(case["val"], 2, True, 0)
    log = Path(folder, "events.jsonl")
    run = fit(
        task,
        *loaders,
        callbacks=[*(callbacks_of(case, folder) if callbacks is None else callbacks).values(), *more],
        **{"compile": False, "progress": False, "record": log, **case["settings"], **settings},
        seed=case["seed"] if resume is None else None,
        resume=resume,
        allow_inexact_resume=case["loader"] == "shuffled",
    )
    return outcome(run, owned, log)


def outcome(run, owned, log):
    """All that a run came to, without time."""
    return {
        "random": random_state(),
        "place": (run.epoch, run.step),
        "compiled": run.compiled,
        "metrics": dict(run.metrics),
        "states": {key: without_time(state) for key, state in run.state.items() if key != "saves"},
        "step_states": {key: dict(leaves(state)) for key, state in run.step_state.items()},
        **{name: thing.state_dict() for name, thing in owned.items()},
        "stopped": run.stopped,
        "events": told(read(log).entries),
    }


def without_time(state):
    """A callback's state without what depends on the clock, or tells that there was an exception."""
    changes = {"ProgressBarState": {"shown": None}, "CheckpointState": {"rescue_path": None}}
    if type(state).__name__ == "TimerState":
        return sorted({*state.spent, *state.since} - {"sanity_check"})
    return attrs.evolve(state, **changes[type(state).__name__]) if type(state).__name__ in changes else state


SET_UP_EVENTS = tuple(ev.HOOKS[name] for name in SET_UP)


def told(entries, leave_out=("/cuts/", "/rescue-")):
    """Events and effects as plain data, but for set-up, sanity check, exceptions, and files of some names.

    What is asked for at set-up is left out too: a run that goes on asks again for what no checkpoint has.
    """
    found, sane, of_set_up = [], True, False
    for entry in entries:
        sane = sane and not isinstance(entry, ev.SanityCheckStart)
        of_set_up = isinstance(entry, SET_UP_EVENTS) if isinstance(entry, ev.Event) else of_set_up
        path = getattr(entry, "path", "")
        exceptions = (ev.ExceptionRaised, ev.KeyboardInterrupted)
        left_out = of_set_up or isinstance(entry, exceptions) or any(each in path for each in leave_out)
        if sane and not left_out and getattr(entry, "label", None) != "sanity check":
            found.append((type(entry).__name__, plain(entry)))
        sane = sane or isinstance(entry, ev.SanityCheckEnd)
    return found


def plain(entry):
    """The fields of an event or effect, but for live ones, time and sizes of files."""
    fields = {
        field.name: getattr(entry, field.name)
        for field in recorded_fields(type(entry))
        if field.name not in ("seconds", "bytes", "took", "within", "waited", "time")
    }
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items()}


# Comparing.


# Cutting.


def files_at(entries: Iterable[Any]) -> set[str]:
    """The files that were there after events and effects."""
    there = set()
    for entry in entries:
        if isinstance(entry, ev.Saved):
            there.add(entry.path)
        elif isinstance(entry, Delete):
            there.discard(entry.path)
    return there


def put_back(folder, entries, tree):
    """Makes the names in `folder`/kept those that were there when a checkpoint was written."""
    for path in Path(folder, "kept").glob("*.safetensors"):
        path.unlink()
    written = {saving["path"] for saving in tree["saving"]}
    for name in files_at(entries[: tree["recorded"]["lines"]]) | written:
        if Path(name).parent == Path(folder, "kept"):
            Path(name).touch()


def cut_and_resumed(case, folder, path, straight_entries, original, *more, **settings):
    """What a run comes to that goes on from a checkpoint of one that was never cut."""
    put_back(folder, straight_entries, store.read(path))
    Path(folder, "events.jsonl").write_bytes(original)
    return train(case, folder, *more, resume=path, **settings)


def may_go_on(tree, entries):
    """Whether a checkpoint was asked for before any stop, which a run that goes on does not know of."""
    stop = next((i for i, entry in enumerate(entries) if isinstance(entry, Stop)), len(entries))
    return tree["recorded"]["lines"] <= stop


def straight(case, folder, *more, **settings):
    """What a run that is never cut comes to, and what one that goes on needs to know of it."""
    whole = train(case, folder, *more, **settings)
    log = Path(folder, "events.jsonl")
    return {"whole": whole, "entries": read(log).entries, "log": log.read_bytes()}


def differences(case, folder, of, path, *more, **settings):
    """In what a run that goes on from a checkpoint differs from the straight one."""
    put_back(folder, of["entries"], store.read(path))
    Path(folder, "events.jsonl").write_bytes(of["log"])
    return unlike(of["whole"], train(case, folder, *more, resume=path, **settings))


def cuts(folder):
    """The checkpoints of `saves_at` in the order in which they were asked for."""
    return sorted(Path(folder, "cuts").glob("*.safetensors"), key=lambda path: int(path.name.split("-")[0]))


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory if there is such a thing: what is durable is for other tests."""
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


def resumed_elsewhere(case, folder, of, paths):
    """`differences` for each path, from a process of its own."""
    torch.save((case, of, paths), Path(folder, "given"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.reliability.resuming", str(folder)],
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(folder):
    torch.set_num_threads(1)
    case, of, paths = torch.load(Path(folder, "given"), weights_only=False)
    found = [[path.name, differences(case, folder, of, path, saves_at())] for path in paths]
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
