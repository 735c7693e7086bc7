from functools import partial
from math import inf, nan

import pytest
import torch
from torch import nn

from fncb.callback import Callback
from fncb.callbacks import checkpoint
from fncb.callbacks.schedule import schedule
from fncb.effects import HoldSchedules, Set
from fncb.events import TrainBatchStart, TrainEpochStart, TrainStart
from fncb.loop import fit
from fncb.task import Task
from tests.folding import fold

run = partial(fit, compile=False, progress=False, max_epochs=3)


def task(**given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 1))
    given = {"optimizer": partial(torch.optim.SGD, lr=0.5, momentum=0.5), **given}
    return Task(model, loss=lambda model, x: model(x).square().mean(), **given)


def values(callback, events):
    return [effect.value for effect in fold(callback, events).of(Set)]


def test_it_is_set_as_each_epoch_starts():
    events = [TrainEpochStart(epoch=epoch, step=10 * epoch) for epoch in range(3)]

    run = fold(schedule("model.1.p", lambda epoch: epoch / 4), events)
    assert run.effects == tuple(Set("model.1.p", epoch / 4) for epoch in range(3))


def test_by_step_it_is_set_when_the_value_is_another():
    by_step = schedule("model.1.p", lambda step: (step // 2) / 4, interval="step")
    events = [TrainBatchStart(epoch=9, step=step) for step in range(6)]

    assert values(by_step, events) == [0.25, 0.5]  # at steps 2 and 4: what step 0 has was set when training started


@pytest.mark.parametrize(("interval", "value"), [("epoch", 2.0), ("step", 7.0)])
def test_it_is_set_as_training_starts_wherever_that_is(interval, value):
    assert values(schedule("optimizer.momentum", float, interval=interval), [TrainStart(epoch=2, step=7)]) == [value]


def test_of_the_rate_the_schedules_of_the_task_rest():
    assert fold(schedule("lr", lambda epoch: 0.5), [TrainStart()]).effects == (HoldSchedules(), Set("lr", 0.5))
    assert fold(schedule("model.1.p", lambda epoch: 0.5), [TrainStart()]).effects == (Set("model.1.p", 0.5),)


@pytest.mark.parametrize("value", [None, "0.5", True, nan, inf, torch.tensor(0.5)])
def test_a_value_that_is_no_number_is_told(value):
    with pytest.raises(TypeError, match=r"^schedule: value must give a finite number, got .* for epoch 3"):
        fold(schedule("lr", lambda epoch: value), [TrainEpochStart(epoch=3)])


def seen_at(hook, look, **given):
    seen = []
    return Callback(key="spy", init=int, **{hook: lambda s, e: seen.append(look()) or s}, **given), seen


def test_a_setting_of_each_kind_is_set_in_a_run():
    given = task(schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5))
    optimizer = []
    given = Task(
        given.model,
        loss=given.loss,
        optimizer=lambda params: optimizer.append(torch.optim.SGD(params, lr=0.5, momentum=0.5)) or optimizer[0],
        schedule=given.schedule,
    )

    def look():
        (group,) = optimizer[0].param_groups
        return group["lr"], group["momentum"], given.model[1].p

    spy, seen = seen_at("on_train_batch_end", look)
    schedules = [
        schedule("lr", lambda epoch: 0.25 / (1 + epoch)),
        schedule("optimizer.momentum", lambda step: step / 8, interval="step"),
        schedule("model.1.p", lambda epoch: epoch / 4),
    ]

    run(given, [torch.ones(4, 2)] * 2, callbacks=[*schedules, spy], max_epochs=2)

    assert seen == [(0.25, 0.0, 0.0), (0.25, 0.125, 0.0), (0.125, 0.25, 0.25), (0.125, 0.375, 0.25)]


def test_a_run_that_goes_on_has_it_in_the_middle_of_an_epoch(tmp_path):
    given = task()
    spy, seen = seen_at("on_train_batch_end", lambda: given.model[1].p)
    callbacks = [schedule("model.1.p", lambda epoch: (1 + epoch) / 4), checkpoint(tmp_path, every_n_train_steps=1), spy]
    batches = [torch.ones(4, 2)] * 2

    run(given, batches, callbacks=callbacks, max_steps=3)
    given.model[1].p = 0.0  # which no checkpoint holds
    run(given, batches, callbacks=callbacks, resume=tmp_path)

    assert seen == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_two_of_them_have_keys_of_their_own():
    assert schedule("lr", float).key == "schedule(lr)"
    assert schedule("lr", float, key="mine").key == "mine"
    assert schedule("lr", float).emits == (Set, HoldSchedules)
    assert schedule("model.1.p", float).emits == (Set,)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"setting": 3}, TypeError, "setting must be the name of a number, got 3"),
        ({"setting": "weight_decay"}, ValueError, "setting must be lr, .*, got 'weight_decay'"),
        ({"setting": "optimizer"}, ValueError, "setting must be lr, .*, got 'optimizer'"),
        ({"setting": "model."}, ValueError, "setting must be lr, .*, got 'model.'"),
        ({"value": 0.5}, TypeError, "value must be a function, got 0.5"),
        ({"interval": "batch"}, ValueError, "interval must be 'epoch' or 'step', got 'batch'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^schedule: {message}"):
        schedule(**{"setting": "lr", "value": float, **arguments})
