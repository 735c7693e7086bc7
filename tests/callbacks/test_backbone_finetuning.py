from functools import partial

import pytest
import torch
from torch import nn

from fncb.callback import Callback
from fncb.callbacks import checkpoint
from fncb.callbacks.backbone_finetuning import BackboneFinetuningState, backbone_finetuning
from fncb.effects import Freeze, Print, SetLR, Unfreeze
from fncb.events import FitStart, TrainEpochStart
from fncb.loop import fit
from fncb.task import Task
from tests.folding import fold

train = partial(fit, compile=False, progress=False, num_sanity_val_steps=0)


def starts(*rates):
    """The start of each epoch, with the rate of the first group in it."""
    return [TrainEpochStart(epoch=epoch, metrics={"lr-SGD": rate}) for epoch, rate in enumerate(rates)]


def rates_of(callback, *rates):
    return [effect.lr for effect in fold(callback, starts(*rates)).effects]


def test_it_freezes_the_backbone_and_trains_it_from_its_epoch_on():
    run = fold(backbone_finetuning(2), [FitStart(), *starts(0.5, 0.5, 0.5, 0.5)])

    assert run.effects == (
        Freeze("backbone.*", train_bn=True, leave_optimizer=True),
        Unfreeze("backbone.*", lr=0.05, train_bn=True),
        SetLR(0.1, group=-1),
    )
    assert run.state == BackboneFinetuningState(has_frozen=True, previous_backbone_lr=0.1)


def test_a_run_that_goes_on_freezes_nothing_again():
    frozen = BackboneFinetuningState(has_frozen=True)

    assert fold(backbone_finetuning(2), [FitStart()], state=frozen).effects == ()


@pytest.mark.parametrize(
    ("arguments", "rates", "found"),
    [
        ({"backbone_initial_ratio_lr": 0.25}, [1.0] * 5, [0.25, 0.5, 1.0, 1.0, 1.0]),  # bounded by the rest's
        ({"backbone_initial_ratio_lr": 0.25, "should_align": False}, [1.0] * 5, [0.25, 0.5, 1.0, 2.0, 4.0]),
        ({"backbone_initial_lr": 0.125}, [1.0] * 4, [0.125, 0.25, 0.5, 1.0]),
        ({"backbone_initial_lr": 4.0}, [1.0] * 2, [4.0, 1.0]),  # the first is as it is given
        ({"backbone_initial_ratio_lr": 0.5}, [1.0, 0.5, 0.25, 0.25], [0.5, 0.5, 0.25, 0.25]),  # a schedule goes down
        ({"backbone_initial_lr": 1.0, "lambda_func": lambda epoch: 1 / epoch}, [8.0] * 4, [1.0, 0.5, 1 / 6, 1 / 24]),
    ],
)
def test_the_rates_that_it_sets(arguments, rates, found):
    assert rates_of(backbone_finetuning(0, **arguments), *rates) == found


def test_it_catches_up_in_a_run_that_it_was_not_in_before():
    late = [TrainEpochStart(epoch=7, metrics={"lr-SGD": 0.5})]

    assert fold(backbone_finetuning(5), late).effects == (Unfreeze("backbone.*", lr=0.05, train_bn=True),)


def test_both_rates_are_printed_where_that_is_wanted():
    speaks = backbone_finetuning(0, backbone="body.net", backbone_initial_ratio_lr=1 / 3, verbose=True, rounding=3)
    told = fold(speaks, starts(0.5, 0.25)).of(Print)

    assert told == (
        Print("backbone_finetuning: learning rate 0.5, of body.net 0.167"),
        Print("backbone_finetuning: learning rate 0.25, of body.net 0.25"),
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"unfreeze_backbone_at_epoch": -1}, ValueError, "unfreeze_backbone_at_epoch must be 0 or more, got -1"),
        ({"unfreeze_backbone_at_epoch": True}, TypeError, "unfreeze_backbone_at_epoch must be an int, got True"),
        ({"backbone": ""}, TypeError, "backbone must be the name of a submodule, got ''"),
        ({"lambda_func": 2.0}, TypeError, "lambda_func must be a function of the epoch, got 2.0"),
        (
            {"backbone_initial_ratio_lr": 0},
            ValueError,
            r"backbone_initial_ratio_lr must be a number in \(0, inf\), got 0",
        ),
        ({"backbone_initial_lr": -1.0}, ValueError, r"backbone_initial_lr must be a number in \(0, inf\), got -1.0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^backbone_finetuning: {message}"):
        backbone_finetuning(**arguments)


# Runs.


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


def task():
    torch.manual_seed(0)
    return Task(
        Net(),
        loss=lambda model, x: model(x).square().mean(),
        optimizer=partial(torch.optim.Adam, lr=0.5),
        schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    )


def data(n=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, generator=generator) for _ in range(n)]


def test_a_model_without_the_backbone_is_told_when_training_starts():
    with pytest.raises(ValueError, match=r"Freeze: pattern must match a parameter, got 'body.\*'. There are \['back"):
        train(task(), data(), callbacks=backbone_finetuning(1, backbone="body"), max_epochs=1)


def test_a_run_that_goes_on_has_the_rates_and_weights_of_one_that_was_never_cut(tmp_path):
    def run(folder, **settings):
        trained, rates = task(), []
        sees = Callback(key="s", init=int, on_train_epoch_end=lambda s, e: rates.append(rates_in(e.metrics)) or s)
        callbacks = [backbone_finetuning(1, backbone_initial_lr=1 / 64), sees, checkpoint(folder, save_top_k=-1)]
        found = train(trained, data(), callbacks=callbacks, **settings)
        return trained.model.state_dict(), found.state["backbone_finetuning"], rates

    def rates_in(metrics):
        return [metrics[name] for name in metrics if name.startswith("lr-")]

    whole = run(tmp_path, max_epochs=5)
    # the schedule halves both as each epoch's last batch is done; the backbone's doubles what was set before
    assert whole[2] == [[1 / 4], [1 / 8, 1 / 128], [1 / 16, 1 / 64], [1 / 32, 1 / 32], [1 / 64, 1 / 64]]
    for epoch in (0, 1, 2):
        path = next(tmp_path.glob(f"epoch={epoch}-*.safetensors"))
        weights, state, rates = run(tmp_path / str(epoch), max_epochs=5, resume=path)
        assert (state, rates) == (whole[1], whole[2][epoch:] if len(rates) > 4 - epoch else whole[2][epoch + 1 :])
        assert all(torch.equal(whole[0][name], weights[name]) for name in weights)
