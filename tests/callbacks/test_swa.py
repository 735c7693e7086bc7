from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import SWALR

from fncb.callback import Callback
from fncb.callbacks import checkpoint
from fncb.callbacks.swa import SwaState, swa
from fncb.effects import Apply, HoldSchedules, RefreshBatchNorm, SetLR
from fncb.events import FitStart, TrainBatchEnd, TrainEnd, TrainEpochEnd, TrainEpochStart, TrainStart
from fncb.loop import fit
from fncb.step_hooks import NamedParams
from fncb.task import Task
from tests.folding import fold

UPDATE, COPY = Apply("swa: update"), Apply("swa: copy into the model")
train = partial(fit, compile=False, progress=False)


def epochs(n, max_epochs=None, **rates):
    """The events of a run of so many epochs, with learning rates by name."""
    metrics = {f"lr-{name}": rate for name, rate in (rates or {"SGD": 0.5}).items()}
    found = [FitStart(max_epochs=n if max_epochs is None else max_epochs), TrainStart(metrics=metrics)]
    for epoch in range(n):
        found += [TrainEpochStart(epoch=epoch, metrics=metrics), TrainEpochEnd(epoch=epoch)]
    return [*found, TrainEnd(epoch=n)]


def rates_of(callback, events):
    """What the rate of the first group is set to, in order."""
    return [effect.lr for effect in fold(callback, events).of(SetLR) if effect.group == 0]


@pytest.mark.parametrize(
    ("start", "n", "first"),
    [
        (1, 5, 0),
        (2, 5, 1),
        (5, 5, 4),
        (6, 5, None),  # the run is too short
        (0.8, 10, 7),
        (0.8, 5, 3),
        (0.0, 5, 0),
        (1.0, 5, 4),
        (0.5, 1, 0),
    ],
)
def test_which_epoch_is_the_first(start, n, first):
    run = fold(swa(0.25, swa_epoch_start=start), epochs(n))

    assert len(run.of(Apply)) == (0 if first is None else n - first + 1)  # with the copy at the end
    assert run.state.n_averaged == (0 if first is None else n - first)
    assert len(run.of(HoldSchedules)) == (0 if first is None else 1)


def test_each_epoch_is_averaged_when_it_ends_and_the_last_counts():
    run = fold(swa(0.25, swa_epoch_start=2, annealing_epochs=0), epochs(3))

    assert run.effects == (
        *(HoldSchedules(), SetLR(0.25, group=0), UPDATE),
        *(SetLR(0.25, group=0), UPDATE),
        *(COPY, RefreshBatchNorm()),
    )
    assert run.state == SwaState(start=1, initial_lrs=(0.5,), n_averaged=2)


@pytest.mark.parametrize(
    ("strategy", "epochs_of_it", "found"),
    [
        ("linear", 4, [0.5, 0.4375, 0.375, 0.3125, 0.25, 0.25]),
        ("linear", 1, [0.5, 0.25, 0.25, 0.25, 0.25, 0.25]),
        ("cos", 2, [0.5, 0.375, 0.25, 0.25, 0.25, 0.25]),
        ("cos", 0, [0.25] * 6),
    ],
)
def test_rates_come_from_where_they_are_to_where_they_should_be(strategy, epochs_of_it, found):
    average = swa(0.25, swa_epoch_start=1, annealing_epochs=epochs_of_it, annealing_strategy=strategy)

    assert rates_of(average, epochs(6)) == pytest.approx(found, abs=1e-15)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("annealing_epochs", [0, 1, 5, 10])
def test_rates_are_those_of_torch(strategy, annealing_epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = SWALR(optimizer, 0.05, anneal_epochs=annealing_epochs, anneal_strategy=strategy)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    average = swa(0.05, swa_epoch_start=3, annealing_epochs=annealing_epochs, annealing_strategy=strategy)

    assert rates_of(average, epochs(14)) == pytest.approx(expected, rel=1e-12)


def test_each_group_has_a_rate_of_its_own_or_all_have_one():
    groups = {"SGD/pg1": 0.5, "SGD/pg2": 1.0}

    several = fold(swa([0.25, 0.125], swa_epoch_start=1, annealing_epochs=0), epochs(1, **groups))
    assert several.of(SetLR) == (SetLR(0.25, group=0), SetLR(0.125, group=1))
    one = fold(swa(0.25, swa_epoch_start=1, annealing_epochs=0), epochs(1, **groups))
    assert one.of(SetLR) == (SetLR(0.25, group=0), SetLR(0.25, group=1))


def test_what_others_logged_is_no_group():
    logged = {"SGD/head": 0.5, "SGD/pg2": 1.0, "SGD": 0.25, "SGD-momentum": 0.9, "SGD/head-weight_decay": 0.1}

    run = fold(swa(0.25, swa_epoch_start=1), epochs(1, **logged))
    assert run.state.initial_lrs == (0.5, 1.0)


def test_it_hears_nothing_of_batches_and_is_not_in_the_step():
    average = swa(0.25)

    assert not average.hears(TrainBatchEnd)
    assert average.step.on_after_optimizer_step is None


def test_parameters_are_averaged_and_buffers_are_the_models():
    state = swa(0.25).step.init(NamedParams({"w": torch.ones(2)}, {"b": torch.ones(3)}))

    assert state["average"].keys() == {"w"}


def test_a_run_that_goes_on_keeps_its_start_and_the_rates_that_it_had():
    average = swa(0.25, swa_epoch_start=0.5, annealing_epochs=2, annealing_strategy="linear")
    begun = fold(average, epochs(4)[:-3]).state  # epochs 0 to 2, of which 1 and 2 are averaged
    longer = [FitStart(max_epochs=100), TrainStart(metrics={"lr-SGD": 0.375}), TrainEpochStart(epoch=3)]

    run = fold(average, longer, state=begun)
    assert begun == SwaState(start=1, initial_lrs=(0.5,), n_averaged=2)
    assert (run.state, run.effects) == (begun, (SetLR(0.25, group=0),))
    # before it has begun, a fraction is of the run as it is now
    assert fold(average, longer[:1], state=SwaState(start=1)).state == SwaState(start=49)


def test_a_fraction_of_no_limit_is_refused_when_the_fit_begins():
    with pytest.raises(ValueError, match=r"^swa: a fraction, .*, must be of some max_epochs, got no limit"):
        fold(swa(0.25), [FitStart(max_epochs=-1)])
    assert fold(swa(0.25, swa_epoch_start=3), [FitStart(max_epochs=-1)]).state == SwaState(start=2)


@pytest.mark.parametrize(
    ("rates", "groups", "message"),
    [
        ([0.25, 0.5], {"SGD": 0.5}, r"swa_lrs must be one rate or one for each of 1 groups, got \[0.25, 0.5\]"),
        (0.25, {"SGD": 0.5, "Adam": 0.5}, r"there must be one optimizer, got rates of \['lr-Adam', 'lr-SGD'\]"),
    ],
)
def test_what_does_not_fit_the_optimizer_is_refused_when_training_starts(rates, groups, message):
    with pytest.raises(ValueError, match=f"^swa: {message}"):
        fold(swa(rates), epochs(5, **groups)[:2])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"swa_lrs": 0.0}, ValueError, "swa_lrs must be a float more than 0, or several such, got 0.0"),
        ({"swa_lrs": float("nan")}, ValueError, "swa_lrs must be a float more than 0, or several such, got nan"),
        ({"swa_lrs": []}, ValueError, r"swa_lrs must be a float more than 0, or several such, got \[\]"),
        ({"swa_epoch_start": True}, ValueError, "swa_epoch_start must be an epoch, 1 or later, or a fraction"),
        ({"annealing_epochs": -1}, ValueError, "annealing_epochs must be 0 epochs or more, got -1"),
        ({"annealing_epochs": 2.0}, TypeError, "annealing_epochs must be an int, got 2.0"),
        ({"annealing_strategy": "exp"}, ValueError, "annealing_strategy must be 'cos' or 'linear', got 'exp'"),
        ({"avg_fn": 1}, TypeError, "avg_fn must be a function or None, got 1"),
        ({"device": "nowhere"}, ValueError, "device must be a device such as 'cpu' or None, got 'nowhere'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^swa: {message}"):
        swa(**{"swa_lrs": 0.25, **arguments})


# Runs.


def task(**given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    return Task(
        model,
        loss=lambda model, x: model(x).square().mean(),
        **{"optimizer": partial(torch.optim.SGD, lr=0.5), **given},
    )


def data(n=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, generator=generator) + i for i in range(n)]


def test_training_ends_with_the_mean_and_statistics_measured_for_it():
    trained, ends = task(), []

    def keep(state, event):
        ends.append({name: p.detach().clone() for name, p in trained.model.named_parameters()})
        return state

    keeps = Callback(key="keeps", init=int, on_train_epoch_end=keep)
    run = train(trained, data(), callbacks=[keeps, swa(0.125, swa_epoch_start=2)], max_epochs=4)

    for name, p in trained.model.named_parameters():
        torch.testing.assert_close(p.detach(), torch.stack([end[name] for end in ends[1:]]).mean(0))
    again = task().model
    again.load_state_dict(trained.model.state_dict())
    torch.optim.swa_utils.update_bn(data(), again)
    torch.testing.assert_close(trained.model.state_dict(), again.state_dict())
    assert run.state["swa"].n_averaged == run.step_state["swa"]["n_averaged"] == 3


def test_schedules_rest_while_it_averages():
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    seen = []
    rate = Callback(key="rate", init=int, on_train_batch_start=lambda s, e: seen.append(e.metrics["lr-SGD"]) or s)
    average = swa(0.5, swa_epoch_start=3, annealing_epochs=2, annealing_strategy="linear")

    train(task(schedule=schedule), data(1), callbacks=[average, rate], max_epochs=6)

    assert seen == [0.5, 0.25, 0.125, 0.3125, 0.5, 0.5]


def test_a_run_that_goes_on_ends_as_one_that_was_never_cut(tmp_path):
    def run(folder, **settings):
        trained = task(schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5))
        callbacks = [swa(0.125, swa_epoch_start=2, annealing_epochs=3), checkpoint(folder, save_top_k=-1)]
        found = train(trained, data(), callbacks=callbacks, **settings)
        return {**trained.model.state_dict(), **found.step_state["swa"]["average"]}, found.metrics, found.state["swa"]

    whole = run(tmp_path, max_epochs=5)
    for epoch in (0, 1, 3):  # before, as and after averaging begins
        path = next(tmp_path.glob(f"epoch={epoch}-*.safetensors"))
        gone_on = run(tmp_path / str(epoch), max_epochs=5, resume=path)
        assert gone_on[1:] == whole[1:]
        assert all(torch.equal(whole[0][name], gone_on[0][name]) for name in whole[0])
