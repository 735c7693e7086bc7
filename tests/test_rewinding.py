"""A copy of what is trained: put back whole, kept in one place, and there after a resume."""

import copy
from functools import partial

import attrs
import pytest
import torch
from torch import nn

from fncb import events as ev
from fncb.callback import Callback, compose, emit
from fncb.callbacks import checkpoint, ema
from fncb.effects import Remember, Rollback, Unfreeze
from fncb.loop import fit
from fncb.rewinding import Rewind
from fncb.step import Step
from fncb.task import Task, make_turns
from tests.reliability.resuming import unlike

run = partial(fit, compile=False, progress=False, device="cpu")
NOW = ev.Event()


def task(**given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    given = {"optimizer": partial(torch.optim.Adam, lr=0.125), **given}
    return Task(model, loss=lambda m, x: m(x).square().mean(), **given)


def data(n=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, generator=generator) for _ in range(n)]


def step_of(given, *callbacks):
    return Step(given.model, make_turns(given), compose(*callbacks).step, torch.device("cpu"), compile=False)


def held(step):
    """Copies of all that is trained: weights, buffers, the optimizer's state, step states."""
    (optimizer,) = step.optimizers
    return copy.deepcopy([step.model.state_dict(), [*optimizer.state.values()], step.states])


def test_all_that_is_trained_goes_back():
    step = step_of(task(), ema(0.5))
    rewind = Rewind(step)
    step(data()[0])
    rewind.remember(Remember(), NOW)
    before = held(step)

    for batch in data():
        step(batch)
    assert all(map(unlike, before, held(step)))  # each of the three has moved
    rewind.rollback(Rollback(), NOW)

    assert unlike(before, held(step)) == []


def test_one_can_go_back_more_than_once():
    step = step_of(task())
    rewind = Rewind(step)
    step(data()[0])
    rewind.remember(Remember(), NOW)
    before = held(step)

    for _ in range(2):
        step(data()[1])
        rewind.rollback(Rollback(), NOW)
        assert unlike(before, held(step)) == []


def test_the_last_that_was_remembered_counts_and_takes_no_more_room():
    step = step_of(task())
    rewind = Rewind(step)
    step(data()[0])
    rewind.remember(Remember(), NOW)
    places = {path: tensor.data_ptr() for path, tensor in rewind.state_dict().items()}
    step(data()[1])
    rewind.remember(Remember(), NOW)
    before = held(step)

    step(data()[2])
    rewind.rollback(Rollback(), NOW)

    assert unlike(before, held(step)) == []
    assert {path: tensor.data_ptr() for path, tensor in rewind.state_dict().items()} == places


def test_the_copy_is_nobody_elses():
    step = step_of(task())
    rewind = Rewind(step)
    rewind.remember(Remember(), NOW)
    kept = {path: tensor.clone() for path, tensor in rewind.state_dict().items()}

    step(data()[0])
    assert unlike(kept, rewind.state_dict()) == []


def test_there_must_be_something_to_go_back_to():
    with pytest.raises(ValueError, match=r"^Rollback: something must have been remembered, got nothing yet"):
        Rewind(step_of(task())).rollback(Rollback(), NOW)


def asks(effect, epoch, hook="on_train_epoch_start", key="asks"):
    return Callback(
        key=key, init=int, emits=(type(effect),), **{hook: lambda s, e: emit(s, effect) if e.epoch == epoch else s}
    )


def test_counters_schedules_and_data_go_on():
    given = task(schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5))
    both = [asks(Remember(), 1), asks(Rollback(), 2, key="back")]

    result = run(given, data(), callbacks=both, max_epochs=3)

    assert (result.step, result.epoch, result.metrics["lr-Adam"]) == (9, 3, 0.125 / 8)


def test_a_run_that_goes_back_trains_as_one_that_was_never_there():
    seen = []

    def spy(given):
        return Callback(
            key="spy",
            init=int,
            on_train_epoch_end=lambda s, e: (
                seen.append({n: p.clone() for n, p in given.model.state_dict().items()}) or s
            ),
        )

    given = task()
    run(given, data(), callbacks=[asks(Remember(), 1), asks(Rollback(), 2, key="back"), spy(given)], max_epochs=3)

    assert unlike(seen[1], seen[2]) == []
    assert unlike(seen[0], seen[1])


def test_what_came_into_being_since_stays():
    given = task()
    given.model[0].requires_grad_(False)
    later = [asks(Remember(), 0), attrs.evolve(asks(Unfreeze("0.*"), 1), key="u"), asks(Rollback(), 2, key="back")]

    run(given, data(), callbacks=later, max_epochs=3)  # the moments of what was unfrozen have no copy


def test_a_run_that_is_resumed_goes_back_to_the_same(tmp_path):
    def train(given, **settings):
        both = [asks(Remember(), 1), asks(Rollback(), 3, key="back")]
        saves = checkpoint(tmp_path, every_n_epochs=1, save_top_k=-1)
        return run(given, data(), callbacks=[*both, ema(0.5), saves], max_epochs=4, **settings)

    straight, resumed = task(), task()
    whole = train(straight)
    again = train(resumed, resume=tmp_path / "epoch=1-step=6.safetensors")

    assert unlike(dict(straight.model.state_dict()), dict(resumed.model.state_dict())) == []
    assert unlike(whole.step_state["ema"], again.step_state["ema"]) == []


def test_nothing_remembered_is_saved_as_nothing():
    rewind = Rewind(step_of(task()))

    assert rewind.state_dict() == {}
    rewind.load_state_dict({})
    with pytest.raises(ValueError, match="must have been remembered"):
        rewind.rollback(Rollback(), NOW)
