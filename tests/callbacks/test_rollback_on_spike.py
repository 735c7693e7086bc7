from functools import partial
from math import inf, nan

import pytest
import torch

from fncb import events as ev
from fncb.callbacks import checkpoint
from fncb.callbacks.rollback_on_spike import RollbackOnSpikeState, rollback_on_spike
from fncb.effects import Print, Remember, Rollback, Stop
from tests.conformance.runs import batches, task, train
from tests.folding import fold


def losses(*values, first=1):
    """Batches that make a step each."""
    return [ev.TrainBatchEnd(step=first + i, metrics={"loss": value}) for i, value in enumerate(values)]


def asked(callback, events):
    """What is asked for at each step, in letters: r(emember), b(ack), s(top)."""
    state, found = callback.init(), {}
    letters = {Remember: "r", Rollback: "b", Stop: "s", Print: ""}
    for event in events:
        state, effects = callback.transition(state, event)
        told = "".join(letters[type(effect)] for effect in effects)
        found |= {event.step: told} if told else {}
    return found


@pytest.mark.parametrize(
    ("given", "values", "spikes"),
    [
        ({"window": 2}, (1.0, 1.0, 2.0, 2.5), []),  # exactly `factor` times the mean of 1 and 1, then of 1 and 2
        ({"window": 2}, (1.0, 1.0, 2.5), [3]),
        ({"window": 2}, (1.0, 2.5, 1.0), []),  # there are not enough to compare with
        ({"window": 2}, (1.0, 1.0, 9.0, 2.5), [3, 4]),  # a spike is not compared with
        ({"window": 2, "factor": 4.0}, (1.0, 1.0, 3.5, 5.5), []),
        ({"window": 1}, (-2.0, 0.0), []),  # of a negative mean, so much above it
        ({"window": 1}, (-2.0, 0.5), [2]),
        ({"window": 9}, (1.0, nan, inf, -inf), [2, 3, 4]),  # what is not finite is one at once
        ({"window": 1}, (1.0, 0.25), []),
    ],
)
def test_what_is_a_spike(given, values, spikes):
    found = asked(rollback_on_spike(budget=9, **given), losses(*values))

    assert [step for step, letters in found.items() if "b" in letters] == spikes


def test_good_weights_are_remembered_now_and_then():
    guard = rollback_on_spike(window=1, every_n_steps=3, budget=9)

    assert asked(guard, losses(*[1.0] * 8)) == {1: "r", 4: "r", 7: "r"}
    assert asked(guard, losses(1.0, 1.0, 1.0, 9.0, 1.0, 1.0)) == {1: "r", 4: "b", 5: "r"}


def test_a_spike_goes_back_and_says_so_until_the_budget_is_used_up():
    guard = rollback_on_spike(window=1, budget=1)
    run = fold(guard, losses(1.0, nan, 1.5, 4.0))

    assert run.effects == (
        Remember(),
        Rollback(),
        Print("rollback_on_spike: loss is nan at step 2: back to the weights of step 1"),
        Rollback(),
        Print("rollback_on_spike: loss is 4 at step 4: back to the weights of step 1"),
        Stop("loss is 4 at step 4: spike 2, of 1 that may be"),
    )
    assert run.state == RollbackOnSpikeState(recent=(1.5,), step=4, remembered=1, spikes=2)
    assert asked(rollback_on_spike(budget=0), losses(1.0, nan)) == {1: "r", 2: "bs"}


def test_a_spike_before_anything_was_remembered_stops():
    assert fold(rollback_on_spike(), losses(inf)).effects == (
        Stop("loss is inf at step 1, before there was anything to go back to"),
    )


def test_it_looks_at_the_batch_that_makes_a_step():
    shared = [ev.TrainBatchEnd(step=step, metrics={"loss": value}) for step, value in ((0, nan), (1, 1.0), (1, nan))]

    assert fold(rollback_on_spike(), shared).state == RollbackOnSpikeState(recent=(1.0,), step=1, remembered=1)


def test_it_looks_now_and_then_if_asked_to():
    guard = rollback_on_spike(window=1, look_every_n_steps=2)

    assert asked(guard, losses(nan, 1.0, nan, 9.0)) == {2: "r", 4: "b"}


def test_batches_without_the_metric_are_passed_over_and_a_run_of_them_is_told():
    skipped = [ev.TrainBatchEnd(step=1, metrics={"lr-SGD": 0.5}), ev.TrainEnd(step=1)]

    assert fold(rollback_on_spike(), skipped).effects == (
        Print("rollback_on_spike: nothing was looked at: no batch had 'loss'"),
    )
    assert fold(rollback_on_spike(), [*losses(1.0), *skipped]).of(Print) == ()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"monitor": None}, TypeError, "monitor must be a metric's name, got None"),
        ({"factor": 1}, ValueError, r"factor must be a number in \(1, inf\), got 1"),
        ({"factor": nan}, ValueError, "factor must be a number in"),
        ({"window": 0}, ValueError, "window must be 1 or more, got 0"),
        ({"every_n_steps": 0}, ValueError, "every_n_steps must be 1 or more, got 0"),
        ({"look_every_n_steps": 1.5}, TypeError, "look_every_n_steps must be an int, got 1.5"),
        ({"budget": -1}, ValueError, "budget must be 0 or more, got -1"),
        ({"budget": True}, TypeError, "budget must be an int, got True"),
    ],
)
def test_wrong_arguments_are_refused_at_once(given, error, message):
    with pytest.raises(error, match=f"^rollback_on_spike: {message}"):
        rollback_on_spike(**given)


def test_its_arguments_are_its_config():
    assert rollback_on_spike("loss", budget=1).config == {
        "monitor": "loss",
        "factor": 2.0,
        "window": 20,
        "every_n_steps": 100,
        "look_every_n_steps": 1,
        "budget": 1,
    }


# In a run.

GOOD, BAD = batches(9)[4:], torch.full((1, 32), nan)
momentum = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


def weights_after(train_on, *callbacks, **settings):
    given = task(optimizer=momentum)
    run = train(given, train_on, callbacks=callbacks, **{"max_epochs": 1, **settings})
    return {name: each.clone() for name, each in given.model.state_dict().items()}, run


def test_a_bad_batch_is_as_if_it_had_not_been(capsys):
    a, b, c, d, _ = GOOD
    guard = rollback_on_spike(every_n_steps=1)

    weights, run = weights_after([a, b, BAD, c, d], guard)

    torch.testing.assert_close(weights, weights_after([a, b, c, d])[0], rtol=0, atol=0)
    assert run.state["rollback_on_spike"].spikes == 1
    assert run.step == 5  # counters go on
    assert "back to the weights of step 2" in capsys.readouterr().out


def test_buffers_go_back_too(capsys):
    def normalised(train_on, *callbacks):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(32, 2), torch.nn.BatchNorm1d(2))
        train(task(model), [torch.cat([x, 2 * x + 1]) for x in train_on], callbacks=callbacks, max_epochs=1)
        return model.state_dict()

    a, b, c, d, _ = GOOD
    found = normalised([a, b, BAD, c, d], rollback_on_spike(every_n_steps=1))

    torch.testing.assert_close(found, normalised([a, b, c, d]), rtol=0, atol=0)


def test_going_back_takes_what_was_trained_since_along(capsys):
    a, b, c, d, _ = GOOD
    guard = rollback_on_spike(every_n_steps=100)

    weights, _ = weights_after([a, b, c, BAD, d], guard)

    torch.testing.assert_close(weights, weights_after([a, d])[0], rtol=0, atol=0)


def test_a_bad_batch_of_a_window_is_noticed_by_the_loss_after_it(capsys):
    a, b, c, d, e = GOOD
    guard = rollback_on_spike(every_n_steps=100)

    weights, run = weights_after([a, b, BAD, c, d, e, a, b], guard, accumulate_grad_batches=2)

    torch.testing.assert_close(weights, weights_after([a, b, a, b], accumulate_grad_batches=2)[0], rtol=0, atol=0)
    assert run.state["rollback_on_spike"].spikes == 1


def test_a_run_whose_every_loss_is_bad_is_stopped(capsys):
    a, *_ = GOOD

    _, run = weights_after([a, *[BAD] * 9], rollback_on_spike(budget=2))

    assert (run.step, run.stopped) == (4, Stop("loss is nan at step 4: spike 3, of 2 that may be"))


def test_a_run_that_was_resumed_goes_back_to_what_was_remembered_before(tmp_path, capsys):
    a, b, c, d, _ = GOOD
    order = [a, b, c, BAD, d]
    whole, _ = weights_after(order, rollback_on_spike())

    saves = checkpoint(tmp_path, every_n_train_steps=3)
    weights_after(order, rollback_on_spike(), saves, max_steps=3)
    weights, run = weights_after(order, rollback_on_spike(), saves, resume="last")

    torch.testing.assert_close(weights, whole, rtol=0, atol=0)
    assert run.state["rollback_on_spike"] == RollbackOnSpikeState(
        recent=run.state["rollback_on_spike"].recent, step=5, remembered=1, spikes=1
    )
    assert len(run.state["rollback_on_spike"].recent) == 4
