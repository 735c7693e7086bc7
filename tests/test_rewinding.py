"""A copy of what is trained: put back whole, kept in one place, and there after a resume."""

import copy
from functools import partial

import attrs
import pytest
import torch
from torch import nn

from fncb import events as ev
from fncb.callback import Callback, compose, emit
from fncb.callbacks import checkpoint, ema, skip_nonfinite
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


def test_moments_that_there_were_none_of_begin_anew():
    step, fresh = step_of(task(), ema(0.5)), step_of(task(), ema(0.5))
    rewind = Rewind(step)
    rewind.remember(Remember(), NOW)  # before the optimizer has made its state
    step(data()[0] * float("nan"))

    rewind.rollback(Rollback(), NOW)
    assert [*step.optimizers[0].state.values()] == []
    assert step.started == [False]  # or a graph went on with the moments that it was traced with
    for batch in data():
        step(batch)
        fresh(batch)

    assert unlike(held(fresh), held(step)) == []


def test_moments_of_what_had_left_the_optimizer_are_not_put_back_where_they_were_not_remembered():
    step = step_of(task())
    rewind, first = Rewind(step), step.model[0].weight
    step(data()[0])
    rewind.remember(Remember(), NOW)
    del step.optimizers[0].state[first]
    rewind.remember(Remember(), NOW)
    step(data()[1])
    assert first in step.optimizers[0].state

    rewind.rollback(Rollback(), NOW)

    assert first not in step.optimizers[0].state
    assert not any("0.weight" in path for path in rewind.state_dict() if path.startswith("optimizer."))
    assert len(step.optimizers[0].state) == 5


def train_by_hand(expected, optimizer, windows):
    for window in windows:
        optimizer.zero_grad()
        for batch in window:
            (expected.loss(expected.model, batch) / 2).backward()  # a batch counts for half an update
        optimizer.step()


@pytest.mark.parametrize("last_is_skipped", [False, True])
def test_a_window_that_has_gone_bad_is_dropped(last_is_skipped):
    """What its first batch gave is gone: the other one ends it alone or, if it is left out, there is no update."""
    sgd = partial(torch.optim.SGD, lr=0.125, momentum=0.5)
    given, expected = task(optimizer=sgd), task(optimizer=sgd)
    batches = data(6)
    windows = [batches[:2], [] if last_is_skipped else batches[3:4], batches[4:]]
    train_by_hand(expected, sgd(expected.model.parameters()), filter(None, windows))

    batches[2] = batches[2] * (2.0 if last_is_skipped else float("nan"))
    batches[3] = batches[3] * float("nan") if last_is_skipped else batches[3]
    callbacks = [asks_at(Remember(), 1), asks_at(Rollback(), 2, key="back"), *[skip_nonfinite()] * last_is_skipped]
    run(given, batches, callbacks=callbacks, max_epochs=1, accumulate_grad_batches=2)

    for one, other in zip(given.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def asks_at(effect, batch, key="asks"):
    return Callback(
        key=key,
        init=int,
        emits=(type(effect),),
        on_train_batch_end=lambda s, e: emit(s, effect) if e.batch_idx == batch else s,
    )


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
