import random
from functools import partial
from math import inf, nan

import attrs
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fncb import events as ev
from fncb.callback import Callback
from fncb.callbacks.reduce_on_plateau import ReduceOnPlateauState, reduce_on_plateau
from fncb.effects import ScaleLR
from fncb.loop import fit
from fncb.task import Task
from tests.folding import fold

REDUCES = ScaleLR(0.5, 0.0, 1e-8)


def checks(*values, moment=ev.ValidationEnd, of="val_loss"):
    return [moment(epoch=i, step=i, metrics={of: value}) for i, value in enumerate(values)]


def plateau(**given):
    return reduce_on_plateau("val_loss", **{"factor": 0.5, "patience": 1, "threshold": 0.0, **given})


def reduced_at(callback, events):
    state, found = callback.init(), []
    for event in events:
        state, effects = callback.transition(state, event)
        found += [event.epoch for _ in effects]
    return found


def test_more_stale_checks_than_patience_reduce_the_rates():
    run = fold(plateau(), checks(1.0, 1.0, 1.0))

    assert run.effects == (REDUCES,)
    assert run.state == ReduceOnPlateauState(best=1.0)


@pytest.mark.parametrize(
    ("values", "given", "epochs"),
    [
        ((1, 1, 1, 1, 1), {}, [2, 4]),
        ((1, 1, 0.5, 1, 1), {}, [4]),  # an improvement restarts the wait
        ((1, 2, 3), {"patience": 0}, [1, 2]),
        ((1, 2, 1), {"mode": "max"}, []),
        ((1, 0, 0), {"mode": "max"}, [2]),
        ((1, 1, 1, 1, 1, 1), {"cooldown": 2}, [2]),  # two checks of cooldown, and two more are needed
        ((1, 1, 1, 1, 1, 1, 1), {"cooldown": 2}, [2, 6]),
        ((1, 1, 1, 0.5, 1, 1), {"cooldown": 1}, [2, 5]),  # what improves in a cooldown is the best all the same
        ((1, nan, nan), {}, [2]),
        ((nan, nan), {}, [1]),
        ((inf, inf, 1.0), {}, [1]),  # infinity is no better than nothing
    ],
)
@pytest.mark.parametrize("at_epoch_end", [False, True])
def test_when_the_rates_are_reduced(values, given, epochs, at_epoch_end):
    moment = ev.TrainEpochEnd if at_epoch_end else ev.ValidationEnd

    callback = plateau(check_on_train_epoch_end=at_epoch_end, **given)
    assert reduced_at(callback, checks(*values, moment=moment)) == epochs


@pytest.mark.parametrize(
    ("mode", "threshold_mode", "value", "better"),
    [
        ("min", "rel", 1.5, False),  # 2 * (1 - 0.25): at the threshold is not past it
        ("min", "rel", 1.4375, True),
        ("min", "abs", 1.75, False),
        ("min", "abs", 1.6875, True),
        ("max", "rel", 2.5, False),
        ("max", "rel", 2.5625, True),
        ("max", "abs", 2.25, False),
        ("max", "abs", 2.3125, True),
    ],
)
def test_what_counts_as_better(mode, threshold_mode, value, better):
    callback = plateau(mode=mode, threshold_mode=threshold_mode, threshold=0.25)

    state = fold(callback, checks(2.0, value)).state
    assert state == (ReduceOnPlateauState(best=value) if better else ReduceOnPlateauState(best=2.0, stale=1))


@pytest.mark.parametrize("seed", range(16))
def test_it_is_torchs_to_the_last_bit(seed):
    rng = random.Random(seed)
    given = {
        "factor": rng.choice([0.1, 0.3, 0.9]),
        "patience": rng.randint(0, 3),
        "mode": rng.choice(["min", "max"]),
        "threshold": rng.choice([0.0, 1e-4, 0.1]),
        "threshold_mode": rng.choice(["rel", "abs"]),
        "cooldown": rng.randint(0, 3),
        "min_lr": rng.choice([0.0, 1e-3, 0.2]),
        "eps": rng.choice([0.0, 1e-8, 0.03]),
    }
    values = [rng.choice([rng.uniform(-1, 1), 0.5, nan, 1e-3 * rng.random()]) for _ in range(30)]
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.3)
    torchs, expected = ReduceLROnPlateau(optimizer, **given), []
    for value in values:
        torchs.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    found, at = [], iter(values)

    # each validation of a run gives the next value
    task = Task(
        nn.Linear(1, 1),
        loss=lambda model, x: model(x).sum(),
        optimizer=partial(torch.optim.SGD, lr=0.3),
        validate=lambda model, x: torch.tensor(next(at), dtype=torch.float64),
    )
    spy = Callback(key="spy", init=int, on_train_epoch_end=lambda s, e: found.append(e.metrics["lr-SGD"]) or s)
    batch, callbacks = [torch.zeros(1, 1)], [reduce_on_plateau("val_loss", **given), spy]
    settings = {"max_epochs": len(values), "num_sanity_val_steps": 0, "compile": False, "progress": False}
    fit(task, batch, batch, callbacks=callbacks, precision="64", **settings)

    assert found == expected


def test_sanity_checks_trials_and_other_stages_are_no_checks():
    stale = checks(1.0, 1.0, 1.0)
    for first, last in (
        (ev.SanityCheckStart(), ev.SanityCheckEnd()),
        (ev.Setup(stage="validate"), ev.Teardown(stage="validate")),
        (ev.Setup(stage="fit", fast_dev_run=True), ev.Teardown(stage="fit")),
    ):
        run = fold(plateau(), [first, *stale, last])
        assert (run.state, run.effects) == (ReduceOnPlateauState(), ())

    run = fold(plateau(), [ev.Setup(stage="fit"), *stale])
    assert run.effects == (REDUCES,)


def test_a_metric_that_is_not_there_is_an_error_or_passed_over():
    other = checks(1.0, of="acc")

    with pytest.raises(
        ev.MissingMetric, match=r"^reduce_on_plateau: no metric 'val_loss' in ValidationEnd at step 0\."
    ):
        fold(plateau(), other)
    assert fold(plateau(strict=False), other).state == ReduceOnPlateauState()


def test_it_goes_on_from_its_state():
    first, second = checks(1.0, 1.0), checks(1.0)

    state = fold(plateau(cooldown=3), first).state
    assert fold(plateau(cooldown=3), second, state).state == ReduceOnPlateauState(best=1.0, cooldown=3)
    assert attrs.asdict(state) == {"best": 1.0, "stale": 1, "cooldown": 0, "paused": False}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"monitor": ""}, TypeError, "monitor must be a metric's name, got ''"),
        ({"factor": 1.0}, ValueError, r"factor must be a number in \(0, 1\), got 1.0"),
        ({"factor": 0}, ValueError, r"factor must be a number in \(0, 1\), got 0"),
        ({"factor": nan}, ValueError, r"factor must be a number in \(0, 1\), got nan"),
        ({"patience": -1}, ValueError, "patience must be 0 checks or more, got -1"),
        ({"patience": 1.0}, TypeError, "patience must be an int, got 1.0"),
        ({"cooldown": -1}, ValueError, "cooldown must be 0 checks or more, got -1"),
        ({"threshold": -1.0}, ValueError, r"threshold must be a number in \[0, inf\), got -1.0"),
        ({"min_lr": [0.1]}, TypeError, r"min_lr must be a number in .*, got \[0.1\]"),
        ({"eps": nan}, ValueError, r"eps must be a number in \[0, inf\), got nan"),
        ({"mode": "less"}, ValueError, "mode must be 'min' or 'max', got 'less'"),
        ({"threshold_mode": "relative"}, ValueError, "threshold_mode must be 'rel' or 'abs', got 'relative'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^reduce_on_plateau: {message}"):
        reduce_on_plateau(**{"monitor": "val_loss", **arguments})
