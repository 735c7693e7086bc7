from functools import partial

import pytest
import torch
from torch import nn

from fncb.callback import Callback
from fncb.callbacks import checkpoint, ema
from fncb.callbacks.finetuning import FinetuningState, finetuning
from fncb.control import Control
from fncb.effects import Freeze, Print, SetLR, Unfreeze
from fncb.events import FitStart, MissingMetric, TrainEpochStart
from fncb.loop import fit, make_schedules, make_turns
from fncb.position import Position
from fncb.step import Step
from fncb.task import Task
from tests.folding import fold

train = partial(fit, compile=False, progress=False, num_sanity_val_steps=0)


def start(epoch=0, **rates):
    return TrainEpochStart(epoch=epoch, metrics={f"lr-{name}": rate for name, rate in (rates or {"SGD": 0.5}).items()})


def never(epoch):
    return None


def test_what_is_frozen_leaves_the_optimizer_before_training():
    one = fold(finetuning("encoder.*", never), [FitStart()])
    several = fold(finetuning(["a.*", "b.*"], never, train_bn=False), [FitStart()])

    assert one.effects == (Freeze("encoder.*", train_bn=True, leave_optimizer=True),)
    assert several.effects == tuple(Freeze(each, train_bn=False, leave_optimizer=True) for each in ("a.*", "b.*"))
    assert one.state == FinetuningState(has_frozen=True)


def test_a_run_that_goes_on_freezes_nothing_again():
    assert fold(finetuning("encoder.*", never), [FitStart()], state=FinetuningState(has_frozen=True)).effects == ()


@pytest.mark.parametrize(
    ("arguments", "lr"),
    [
        ({}, 0.05),  # the first group's, .5, by 10
        ({"initial_denom_lr": 4.0}, 0.125),
        ({"lr": 2.0}, 2.0),
        ({"lr": 2.0, "initial_denom_lr": 4.0}, 2.0),  # the denominator is of the group's
    ],
)
def test_a_new_group_has_a_rate_given_or_made_of_the_first_groups(arguments, lr):
    tune = finetuning("encoder.*", lambda _: "encoder.*", **arguments)
    rates = {"Adam/pg1": 0.5, "Adam/pg2": 4.0, "Adam": 8.0}  # the last is none: it was logged before there were two

    assert fold(tune, [start(**rates)]).effects == (Unfreeze("encoder.*", lr=lr, train_bn=True),)


@pytest.mark.parametrize(
    ("given", "effects"),
    [
        (None, ()),
        ((), ()),
        ("a.*", (Unfreeze("a.*", lr=0.05, train_bn=True),)),
        (["a.*", "b.*"], (Unfreeze("a.*", lr=0.05, train_bn=True), Unfreeze("b.*", lr=0.05, train_bn=True))),
        (Unfreeze("a.*", lr=1.0), (Unfreeze("a.*", lr=1.0),)),
        ([SetLR(0.25), "a.*", Print("now")], (SetLR(0.25), Unfreeze("a.*", lr=0.05, train_bn=True), Print("now"))),
    ],
)
def test_the_function_gives_patterns_or_effects(given, effects):
    run = fold(finetuning("a.*", lambda epoch: given if epoch == 3 else None), [start(2), start(3), start(4)])

    assert run.effects == effects
    assert run.state == FinetuningState()


def test_a_rate_is_read_only_where_it_is_needed():
    tune = finetuning("a.*", lambda epoch: "a.*" if epoch else None, lr=0.5)

    assert len(fold(tune, [TrainEpochStart(epoch=1)]).effects) == 1
    with pytest.raises(MissingMetric, match=r"no learning rate in TrainEpochStart at step 0. It has \[\]"):
        fold(finetuning("a.*", lambda _: "a.*"), [TrainEpochStart(epoch=1)])


def test_something_else_than_patterns_and_effects_is_refused():
    with pytest.raises(TypeError, match=r"^finetuning: .* must give patterns or effects, got 5"):
        fold(finetuning("a.*", lambda _: [5]), [start()])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"freeze_before_training": ()}, TypeError, "freeze_before_training must be a pattern such as"),
        ({"freeze_before_training": [3]}, TypeError, "freeze_before_training must be a pattern such as"),
        ({"finetune_function": "a.*"}, TypeError, "finetune_function must be a function of the epoch, got 'a"),
        ({"lr": 0.0}, ValueError, r"lr must be a number in \(0, inf\), got 0.0"),
        ({"lr": float("nan")}, ValueError, r"lr must be a number in \(0, inf\), got nan"),
        ({"initial_denom_lr": None}, TypeError, r"initial_denom_lr must be a number in \(0, inf\), got None"),
        ({"initial_denom_lr": True}, TypeError, r"initial_denom_lr must be a number in \(0, inf\), got True"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^finetuning: {message}"):
        finetuning(**{"freeze_before_training": "a.*", "finetune_function": never, **arguments})


# Runs.


def task(**given):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("encoder", nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)))
    model.add_module("head", nn.Linear(4, 1))
    optimizer = partial(torch.optim.Adam, lr=0.5)
    return Task(model, loss=lambda model, x: model(x).square().mean(), **{"optimizer": optimizer, **given})


def data(n=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, generator=generator) for _ in range(n)]


def moved(trained, callbacks, **settings):
    """The parameters that moved in each epoch, and the rates of groups as each began to train."""
    seen, rates, was = [], [], {}

    def began(state, event):
        was.update({name: p.detach().clone() for name, p in trained.model.named_parameters()})
        return state

    def rate(state, event):
        if event.batch_idx == 0:
            rates.append([*event.metrics.values()])
        return state

    def ended(state, event):
        seen.append({name for name, p in trained.model.named_parameters() if not torch.equal(p, was[name])})
        return state

    hooks = {"on_train_epoch_start": began, "on_train_batch_start": rate, "on_train_epoch_end": ended}
    train(trained, data(), callbacks=[*callbacks, Callback(key="sees", init=int, **hooks)], **settings)
    return seen, rates


HEAD, NORM = {"head.weight", "head.bias"}, {"encoder.1.weight", "encoder.1.bias"}
ENCODER = {"encoder.0.weight", "encoder.0.bias", "encoder.2.weight", "encoder.2.bias"}


def test_frozen_parameters_stay_until_they_are_named():
    tune = finetuning("encoder.*", lambda epoch: "encoder.*" if epoch == 2 else None)

    seen, rates = moved(task(), [tune], max_epochs=3)

    assert seen == [HEAD | NORM, HEAD | NORM, HEAD | NORM | ENCODER]
    assert rates == [[0.5], [0.5], [0.5, 0.05]]


def test_batch_normalisation_may_never_be_trained_and_then_tracks_nothing():
    trained = task()
    norm = trained.model.encoder[1]
    tune = finetuning("encoder.*", lambda epoch: "encoder.*" if epoch == 1 else None, train_bn=False)

    seen, _ = moved(trained, [tune], max_epochs=2)

    assert seen == [HEAD, HEAD | ENCODER]
    assert (norm.num_batches_tracked, norm.running_mean.tolist()) == (0, [0, 0, 0, 0])


def test_what_is_trained_already_stays_in_its_group():
    given = task()
    turns = make_turns(given)
    step = Step(given.model, turns, None, torch.device("cpu"), compile=False)
    control = Control(step, make_schedules(given, turns), Position())
    for event, *effects in (
        (FitStart(), Freeze("encoder.*", train_bn=True, leave_optimizer=True)),
        (start(), Unfreeze("encoder.2.*", lr=0.25)),
        (start(), Unfreeze("*", lr=0.125)),
    ):
        for effect in effects:
            control.carries_out()[type(effect)](effect, event)

    assert control.state_dict()["groups"] == [
        [
            ["encoder.1.weight", "encoder.1.bias", "head.weight", "head.bias"],
            ["encoder.2.weight", "encoder.2.bias"],
            ["encoder.0.weight", "encoder.0.bias"],
        ]
    ]


def test_averages_take_up_what_is_trained_again():
    trained = task()
    tune = finetuning("encoder.*", lambda epoch: "encoder.0.*" if epoch == 1 else None)

    run = train(trained, data(), data(1), callbacks=[tune, ema(0.5)], max_epochs=2)

    buffers = {name for name, _ in trained.model.named_buffers()}
    assert run.step_state["ema"].keys() == HEAD | NORM | {"encoder.0.weight", "encoder.0.bias"} | buffers


def test_a_run_that_goes_on_trains_the_same_parameters_in_the_same_groups(tmp_path):
    def run(folder, **settings):
        trained = task(schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5))
        tune = finetuning("encoder.*", lambda epoch: {1: "encoder.2.*", 2: "encoder.0.*"}.get(epoch))
        found = train(trained, data(), callbacks=[tune, checkpoint(folder, save_top_k=-1)], **settings)
        return trained.model.state_dict(), found.metrics, found.state["finetuning"]

    whole = run(tmp_path, max_epochs=4)
    assert [name for name in whole[1] if name.startswith("lr-")] == [f"lr-Adam/pg{i}" for i in (1, 2, 3)]
    for epoch in range(3):  # before, between and after the changes
        path = next(tmp_path.glob(f"epoch={epoch}-*.safetensors"))
        gone_on = run(tmp_path / str(epoch), max_epochs=4, resume=path)
        assert gone_on[1:] == whole[1:]
        assert all(torch.equal(whole[0][name], gone_on[0][name]) for name in whole[0])


def test_weights_alone_are_tuned_from_the_beginning(tmp_path):
    tune = finetuning("encoder.*", lambda epoch: "encoder.*" if epoch == 1 else None)
    train(task(), data(), callbacks=[tune, checkpoint(tmp_path)], max_epochs=2)

    seen, _ = moved(task(), [tune], max_epochs=2, resume=tmp_path, weights_only=True)
    assert seen == [HEAD | NORM, HEAD | NORM | ENCODER]
