"""Tiny runs, and what callbacks hear of them, in the words of the specification (hooks.md, section 1.5)."""

import itertools
from functools import partial

import torch
from torch import nn

from fncb import events as ev
from fncb.callback import Callback, emit
from fncb.effects import Skip, Stop, StopEpoch
from fncb.loop import fit, predict, test, validate
from fncb.task import Task
from tests.test_hooks import LIGHTNING

NOT_IN_2X = frozenset(ev.HOOKS) - {*LIGHTNING, "on_keyboard_interrupt"}
"""Hooks that fncb fires and the sequences of section 1.5 do not have (section 0)."""

STEP = ["on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"]


def train(task, train, val=None, **settings):
    """`fit`, eager and silent."""
    return fit(task, train, val, compile=False, progress=False, **settings)


STAGES = {
    "fit": partial(train, max_epochs=1),
    "validate": partial(validate, progress=False),
    "test": partial(test, progress=False),
    "predict": partial(predict, progress=False),
}
"""The four functions by the stage that they run."""


def loss(model, batch):
    return model(batch).square().mean()


def task(model=None, **given):
    """The model behind the numbers of facts.md: Linear(32, 2), SGD with lr 0.1."""
    torch.manual_seed(0)
    return Task(model or nn.Linear(32, 2), **{"loss": loss, "optimizer": partial(torch.optim.SGD, lr=0.1), **given})


StepLR = partial(torch.optim.lr_scheduler.StepLR, step_size=1)


def batches(n=64):
    """So many batches of one sample, the k-th filled with k / 100."""
    return [torch.full((1, 32), k / 100) for k in range(n)]


def name_of(event):
    """An event as the specification writes it, with its batch or its stage."""
    name = ev.hook_name(type(event))
    if name.endswith(("batch_start", "batch_end")):
        return f"{name}[{event.batch_idx}]"
    return f"{name}({event.stage})" if name in ("setup", "teardown") else name


def notes(note, key="notes", leave_out=()):
    """A callback with every hook: what `note` makes of each event, unless None, is in the list beside it."""
    seen = []

    def hook(state, event):
        noted = note(event)
        if noted is not None:
            seen.append(noted)
        return state

    return Callback(key=key, init=int, emits=(), **{name: hook for name in ev.HOOKS if name not in leave_out}), seen


def heard(leave_out=NOT_IN_2X):
    """A callback that hears everything but what is left out, and the list of what it heard."""
    return notes(name_of, "heard", leave_out)


def spy(hook, note, key="spy"):
    """A callback with one hook: what `note` makes of its event is in the list beside it."""
    seen = []
    return Callback(key=key, init=int, emits=(), **{hook: lambda s, e: seen.append(note(e)) or s}), seen


def asks(effect, hook, when, key="asks"):
    """A callback that asks for an effect at the events of one hook for which `when` holds."""
    return Callback(key=key, init=int, emits=(type(effect),), **{hook: lambda s, e: emit(s, effect) if when(e) else s})


def stops_at(epoch, batch_idx):
    return asks(Stop("enough"), "on_train_batch_end", lambda e: (e.epoch, e.batch_idx) == (epoch, batch_idx), "stops")


def skips_at(*places):
    return asks(Skip(), "on_train_batch_start", lambda e: (e.epoch, e.batch_idx) in places, "skips")


def stops_epoch_at(*places, hook="on_train_batch_start"):
    return asks(StopEpoch(), hook, lambda e: (e.epoch, e.batch_idx) in places, "stops_epoch")


def raises_in(hook, error, key="raises"):
    """A callback that raises in one hook."""

    def breaks(state, event):
        raise error

    return Callback(key=key, init=int, **{hook: breaks})


def validations():
    """A callback, and the list of (epoch, batches done in it) at which validation ended, sanity checks left out."""
    seen, at = [], {"batches": 0, "sane": True}

    def set_to(**values):
        return lambda s, e: at.update(values) or s

    return (
        Callback(
            key="validations",
            init=int,
            on_sanity_check_start=set_to(sane=False),
            on_sanity_check_end=set_to(sane=True),
            on_train_epoch_start=set_to(batches=0),
            on_train_batch_end=lambda s, e: at.update(batches=e.batch_idx + 1) or s,
            on_validation_end=lambda s, e: (seen.append((e.epoch, at["batches"])) if at["sane"] else None) or s,
        ),
        seen,
    )


class Clock:
    """Stands in for the module `time` of `fncb.session`: it is as late as `now` says."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def passes(self, **seconds):
        """A callback at whose hooks so many seconds pass, as a number or from an iterator."""

        def passing(each):
            step = itertools.repeat(each) if isinstance(each, int | float) else each
            return lambda s, e: setattr(self, "now", self.now + next(step)) or s

        return Callback(key="passes", init=int, **{hook: passing(each) for hook, each in seconds.items()})
