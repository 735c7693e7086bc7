"""Small callbacks, events and recordings that several tests of looking back begin with."""

from functools import partial
from pathlib import PurePath

import attrs
import torch

from fncb.callback import Callback, emit
from fncb.effects import Delete, Save, Stop
from fncb.events import HOOKS, Saved, ValidationEnd
from fncb.loop import fit
from fncb.recorder import Recorder
from fncb.task import Task


def counter(key: str = "count") -> Callback:
    return Callback(key=key, init=int, on_validation_end=lambda state, event: state + 1)


def stop_above(limit: float) -> Callback:
    def on_validation_end(state, event):
        loss = event.metrics["val_loss"]
        return emit(state, Stop(f"val_loss is {loss}")) if loss > limit else state

    return Callback(key="stop", on_validation_end=on_validation_end)


@attrs.frozen
class Files:
    known: tuple[str, ...] = ()
    heard: tuple[str, ...] = ()


def keep_last(n: int, name: str = "{step}.safetensors") -> Callback:
    def on_validation_end(state, event):
        return emit(state, Save("runs/" + name.format(step=event.step)))

    def on_saved(state, event):
        known = (*state.known, event.path)
        gone = known[:-n]
        return emit(Files(known[-n:], (*state.heard, event.requested)), *map(Delete, gone))

    return Callback(key="keep", init=Files, on_validation_end=on_validation_end, on_saved=on_saved)


def checks(*losses: float) -> list[ValidationEnd]:
    return [ValidationEnd(epoch=i, step=10 * i, seconds=i / 2, metrics={"val_loss": x}) for i, x in enumerate(losses)]


def run(callback: Callback, events, path):
    """A run in small: a recording with the answers that the callback's saves got."""
    recorded = [kind.__name__ for kind in HOOKS.values() if callback.hears(kind)]
    recorder, state = Recorder(path, {"recorded": recorded}), callback.init()
    effects = []
    queue = list(events)
    while queue:
        event = queue.pop(0)
        if not callback.hears(type(event)):
            continue
        state, asked = callback.transition(state, event)
        recorder.event(event)
        for effect in asked:
            recorder.effect(effect)
            if isinstance(effect, Save):
                real = str(PurePath(effect.path).with_name("real-" + PurePath(effect.path).name))
                queue.insert(0, Saved(step=event.step, path=real, requested=effect.path))
        effects += asked
    recorder.close()
    return state, tuple(effects)


def trained(losses, **settings):
    """A real run of two steps an epoch, whose validations give these losses."""
    given = iter(losses)
    task = Task(
        torch.nn.Linear(2, 1),
        loss=lambda model, batch: model(batch).square().mean(),
        optimizer=partial(torch.optim.SGD, lr=0.125),
        validate=lambda model, batch: torch.tensor(next(given)),
    )
    data = [torch.ones(4, 2)] * 2
    usual = {"max_epochs": 9, "compile": False, "progress": False, "num_sanity_val_steps": 0}
    return fit(task, data, data[:1], **{**usual, **settings})
