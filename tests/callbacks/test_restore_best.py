from math import inf, nan

import pytest
import torch
from torch import nn

import fncb
from fncb import events as ev
from fncb.callbacks import checkpoint, ema
from fncb.callbacks.restore_best import RestoreBestState, restore_best
from fncb.callbacks.rollback_on_spike import rollback_on_spike
from fncb.effects import Apply, Remember, Rollback
from fncb.step_hooks import NamedParams
from tests.conformance.runs import asks, batches, loss, task, train
from tests.folding import fold

KEEP, RESTORE = Apply("keep_best"), Apply("restore_best")


def checks(*values):
    return [ev.ValidationEnd(epoch=i, step=5 * (i + 1), metrics={"val_loss": v}) for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("given", "values", "kept"),
    [
        ({}, (2.0, 3.0, 1.0), (0, 2)),
        ({"mode": "max"}, (2.0, 3.0, 1.0), (0, 1)),
        ({}, (1.0, 1.0), (0,)),  # a tie is no improvement
        ({"mode": "max"}, (1.0, 1.0), (0,)),
        ({"min_delta": 0.5}, (2.0, 1.5, 1.25), (0, 2)),  # neither is a gain of exactly min_delta
        ({"mode": "max", "min_delta": 0.5}, (1.0, 1.5, 1.75), (0, 2)),
        ({}, (nan, -inf, inf, 1.0, nan), (3,)),
        ({"mode": "max"}, (inf, -1.0), (1,)),
        ({}, (nan, inf), ()),
    ],
)
def test_which_validations_are_the_best(given, values, kept):
    best, state, found = restore_best("val_loss", **given), RestoreBestState(), []
    for event in checks(*values):
        state, effects = best.transition(state, event)
        found += [event.epoch] if effects == (KEEP,) else []

    assert tuple(found) == kept
    if kept:
        assert state == RestoreBestState(best=values[kept[-1]], epoch=kept[-1], step=5 * (kept[-1] + 1))


def test_the_best_is_put_back_when_training_ends_if_there_was_one():
    best = restore_best("val_loss")

    assert fold(best, [*checks(1.0, 2.0), ev.TrainEnd()]).effects == (KEEP, RESTORE)
    assert fold(best, [*checks(nan), ev.TrainEnd()]).effects == ()
    assert fold(best, [ev.TrainEnd()]).effects == ()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ev.SanityCheckStart(), ev.SanityCheckEnd()),
        (ev.Setup(stage="validate"), ev.Teardown(stage="validate")),
        (ev.Setup(fast_dev_run=True), ev.Teardown()),
    ],
)
def test_validation_outside_training_does_not_count(before, after):
    run = fold(restore_best("val_loss"), [before, *checks(1.0), after])

    assert (run.state, run.effects) == (RestoreBestState(), ())
    assert fold(restore_best("val_loss"), [before, *checks(1.0), ev.TrainEnd()]).effects == ()


def test_a_missing_metric_is_an_error():
    with pytest.raises(ev.MissingMetric, match=r"no metric 'acc'. It has \['val_loss'\]"):
        fold(restore_best("acc"), checks(1.0))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"monitor": ""}, TypeError, "monitor must be a metric's name, got ''"),
        ({"mode": "auto"}, ValueError, "mode must be 'min' or 'max', got 'auto'"),
        ({"min_delta": -1.0}, ValueError, r"min_delta must be a number in \[0, inf\), got -1.0"),
        ({"min_delta": nan}, ValueError, "min_delta must be a number"),
        ({"min_delta": True}, TypeError, "min_delta must be a number"),
    ],
)
def test_wrong_arguments_are_refused_at_once(given, error, message):
    with pytest.raises(error, match=f"^restore_best: {message}"):
        restore_best(**{"monitor": "val_loss", **given})


def kept_of(best, params, step_state):
    """What it keeps in a step state, and what that puts back."""
    state, (keep,) = best.transition(best.init(), checks(1.0)[0])
    given, kept = keep.fn(params, step_state)
    assert given == {}
    _, (restore,) = best.transition(state, ev.TrainEnd())
    back, same = restore.fn(params, kept)
    assert same is kept
    return kept, back


def test_it_keeps_what_is_trained_and_all_buffers():
    w, bias, mean = torch.ones(2), torch.zeros(1), torch.full((1,), 5.0)
    trained = NamedParams({"w": w}, {"mean": mean})
    first = restore_best("val_loss").step.init(trained)
    now = NamedParams({"w": w + 1, "frozen": bias}, {"mean": mean + 1, "mask": bias})

    kept, back = kept_of(restore_best("val_loss"), now, {"restore_best": first, "other": {"w": w}})

    assert first.keys() == {"w", "mean"}
    assert kept == {"restore_best": {"w": now["w"], "mean": now.buffers["mean"]}, "other": {"w": w}}
    assert back is kept["restore_best"]


@pytest.mark.parametrize("within", [None, "average"])
def test_it_keeps_averages_in_place_of_the_weights_if_asked_to(within):
    w, mean = torch.ones(2), torch.zeros(1)
    params = NamedParams({"w": w, "v": w + 1}, {"mean": mean})
    average = {"w": w + 3}
    states = {"restore_best": restore_best("x").step.init(params), "ema": {within: average} if within else average}

    kept, _ = kept_of(restore_best("val_loss", averaged="ema"), params, states)

    assert kept["restore_best"] == {"w": average["w"], "v": params["v"], "mean": mean}
    with pytest.raises(KeyError, match="emma"):
        kept_of(restore_best("val_loss", averaged="emma"), params, states)


# In a run.


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 2), nn.BatchNorm1d(2))


def scored(*losses, of=None, **given):
    """A task whose validations have these losses, and what the model was at each."""
    values, of, seen = iter(losses), model() if of is None else of, []

    def validate(model, batch):
        seen.append({name: each.clone() for name, each in of.state_dict().items()})
        return torch.tensor(next(values))

    return task(of, validate=validate, **given), of, seen


def two_rows(n=4):
    return [torch.cat([each, each * 2 + 1]) for each in batches(n)]


def fitted(given, *callbacks, **settings):
    usual = {"max_epochs": 4, "num_sanity_val_steps": 0}
    return train(given, two_rows(), batches(1), callbacks=callbacks, **{**usual, **settings})


def test_a_run_ends_with_the_parameters_and_buffers_of_its_best_validation():
    given, of, seen = scored(3.0, 1.0, 2.0, 1.0)
    of[0].bias.requires_grad_(False)

    run = fitted(given, restore_best("val_loss"))

    assert run.state["restore_best"] == RestoreBestState(best=1.0, epoch=1, step=8)
    torch.testing.assert_close(of.state_dict(), seen[1], rtol=0, atol=0)
    assert not torch.equal(seen[1]["1.running_mean"], seen[3]["1.running_mean"])
    assert run.step_state["restore_best"].keys() == {*seen[0]} - {"0.bias"}  # which does not change


def test_a_run_without_a_best_validation_is_left_as_it_ends():
    given, of, seen = scored(nan, nan, nan, nan)
    fitted(given, restore_best("val_loss"))

    torch.testing.assert_close(of.state_dict(), seen[3], rtol=0, atol=0)


def test_the_best_of_a_whole_run_is_put_back_after_it_was_resumed(tmp_path):
    given, _, seen = scored(1.0, 2.0)
    fitted(given, restore_best("val_loss"), checkpoint(tmp_path), max_epochs=2)

    more, again, _ = scored(4.0, 3.0)
    run = fitted(more, restore_best("val_loss"), checkpoint(tmp_path), resume="last")

    assert run.state["restore_best"] == RestoreBestState(best=1.0, epoch=0, step=4)
    torch.testing.assert_close(again.state_dict(), seen[0], rtol=0, atol=0)
    torch.testing.assert_close(fncb.load(tmp_path, averaged="restore_best"), seen[0], rtol=0, atol=0)


def test_the_best_average_is_put_back(tmp_path):
    averages = []

    def validate(model, batch):
        averages.append({name: each.clone() for name, each in model.state_dict().items()})
        return torch.tensor([3.0, 1.0, 2.0, 2.0][len(averages) - 1])

    of = model()
    fitted(task(of, validate=validate), ema(0.5), restore_best("val_loss", averaged="ema"))

    torch.testing.assert_close(of.state_dict(), averages[1], rtol=0, atol=0)


def test_going_back_to_earlier_weights_leaves_the_best_ones_alone():
    given, of, seen = scored(3.0, 1.0, 2.0, 2.0)
    remembers = asks(Remember(), "on_train_batch_end", lambda event: event.step == 3, "remembers")
    back = asks(Rollback(), "on_train_batch_end", lambda event: event.step == 11, "back")

    fitted(given, restore_best("val_loss"), remembers, back)

    torch.testing.assert_close(of.state_dict(), seen[1], rtol=0, atol=0)


def test_a_compiled_run_ends_as_an_eager_one():
    def spikes(model, x):  # at the third batch of each epoch
        return loss(model, x) * torch.where(x[0, 0] == torch.tensor(0.02), 9.0, 1.0)

    found = {}
    for compiled in (True, False):
        given, of, _ = scored(3.0, 1.0, 2.0, 2.0, of=nn.Linear(32, 2), loss=spikes)
        callbacks = [rollback_on_spike(window=1, factor=4.0), restore_best("val_loss")]
        settings = {"max_epochs": 4, "num_sanity_val_steps": 0, "progress": False}
        run = fncb.fit(given, two_rows(), batches(1), callbacks=callbacks, compile=compiled, **settings)
        found[run.compiled] = of.state_dict(), run.state["rollback_on_spike"].spikes

    torch.testing.assert_close(found["one graph"], found["eager"], rtol=1e-5, atol=1e-6)
    assert found["eager"][1] > 0
