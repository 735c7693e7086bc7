"""The facts of facts.md on averaged weights, pruning and fine-tuning, with their numbers."""

import re
from functools import partial

import pytest
import torch
from torch import nn

from fncb import store
from fncb.callback import Callback, emit
from fncb.callbacks import checkpoint, lr_monitor
from fncb.callbacks.backbone_finetuning import backbone_finetuning
from fncb.callbacks.ema import ema
from fncb.callbacks.finetuning import finetuning
from fncb.callbacks.prune import prune
from fncb.callbacks.swa import swa
from fncb.callbacks.weight_averaging import weight_averaging
from fncb.effects import Apply, Log, RefreshBatchNorm, Unfreeze
from fncb.events import AfterOptimizerStep, FitStart, TrainBatchEnd, TrainEpochEnd
from fncb.recording import read
from fncb.step_hooks import NamedParams
from tests.conformance.runs import StepLR, batches, spy, task, train
from tests.folding import fold

quietly = partial(train, num_sanity_val_steps=0)


# Stochastic weight averaging.


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch normalisation"])
def test_f44_epochs_from_the_start_on_are_averaged_and_nothing_else_is_trained(norm, tmp_path):
    layers = [nn.Linear(32, 8), nn.BatchNorm1d(8)] if norm else [nn.Linear(32, 8)]
    given = task(nn.Sequential(*layers, nn.Linear(8, 2)))
    backward, calls = spy("on_after_backward", lambda event: event.epoch, "backward")
    sizes, batches_seen = spy("on_train_epoch_start", lambda event: event.batches, "sizes")
    averaged, record = [], tmp_path / "events.jsonl"

    def look(params, states):
        averaged.append(states["swa"]["n_averaged"].item())
        return params, states

    looks = Callback(key="looks", init=int, on_epoch_end=lambda s, e: emit(s, Apply("look", look)))
    run = quietly(
        given,
        [torch.randn(2, 32) for _ in range(5)],
        callbacks=[swa(0.1, swa_epoch_start=2), backward, sizes, looks],
        max_epochs=5,
        accumulate_grad_batches=2,
        record=record,
    )

    applied = [each.name for each in read(record).entries if isinstance(each, Apply) and each.name != "look"]
    assert applied == ["swa: update"] * 4 + ["swa: copy into the model"]
    assert sum(isinstance(each, RefreshBatchNorm) for each in read(record).entries) == 1
    assert averaged == [0, 1, 2, 3, 4]  # after each epoch
    assert (len(calls), batches_seen, run.epoch, run.step) == (25, [5] * 5, 5, 5 * 3)


def test_f45_the_mean_of_1_2_3_and_4_is_2_and_a_half():
    average = swa(0.1, swa_epoch_start=1)
    state = average.init()
    state, _ = average.transition(state, FitStart(max_epochs=4))
    states = {"swa": average.step.init({"w": torch.tensor(0.0)})}
    for epoch, value in enumerate([1.0, 2.0, 3.0, 4.0]):
        state, (update,) = average.transition(state, TrainEpochEnd(epoch=epoch))
        _, states = update.fn(NamedParams({"w": torch.tensor(value)}, {}), states)

    assert states["swa"]["average"]["w"].item() == 2.5


@pytest.mark.parametrize("start", [0, 1.5, -1])
def test_f45_a_start_that_is_none_is_refused(start):
    with pytest.raises(ValueError, match=f"^swa: swa_epoch_start must be an epoch, .* got {start}"):
        swa(0.1, swa_epoch_start=start)


def test_f45_rates_must_be_floats():
    with pytest.raises(ValueError, match=r"^swa: swa_lrs must be a float more than 0, or several such, got \[0.2, 1\]"):
        swa([0.2, 1])


def test_f46_each_group_comes_from_its_rate_to_its_own():
    def groups(params):
        weight, bias = params
        return torch.optim.SGD([{"params": [weight], "lr": 0.1}, {"params": [bias], "lr": 0.2}])

    rates, seen = spy("on_train_batch_start", lambda event: [*event.metrics.values()])
    average = swa([0.123, 0.321], swa_epoch_start=1, annealing_epochs=1)

    quietly(task(optimizer=groups), batches(1), callbacks=[average, rates], max_epochs=3)

    assert seen[0] == [0.1, 0.2]
    assert seen[1:] == [pytest.approx([0.123, 0.321])] * 2


# Averages with a decay, and whenever a function says so.


def test_f48_of_every_fifth_step_from_the_tenth_on():
    average, state, found = ema(0.5, update_every_n_steps=5, update_starting_at_step=10), None, []
    for step in range(16):
        moved = AfterOptimizerStep(step=torch.tensor(step + 1), params={"w": torch.tensor(float(2**step))})
        state = average.step.init({"w": torch.tensor(0.0)}) if state is None else state
        state = average.step.on_after_optimizer_step(state, moved)
        found.append(state["w"].item())

    assert (found[5], found[9]) == (2**5, 2**9)  # before the start it is a copy of the weight, and not updated
    assert found[10] == (2**9 + 2**10) / 2
    assert found[11] == found[14] == found[10]
    assert found[15] == (found[10] + 2**15) / 2


def f48(step_idx=None, epoch_idx=None):
    return epoch_idx is None and step_idx >= 10 and step_idx % 5 == 0


def test_f48_the_same_as_a_function():
    ends = [TrainBatchEnd(step=step + 1) for step in range(16)]

    run = fold(weight_averaging(f48), ends)
    asked = [step for step, end in enumerate(ends) if fold(weight_averaging(f48), [end]).effects]
    assert (asked, len(run.effects)) == ([10, 15], 2)


# Lightning only adds updates at the ends of epochs from that one on, and updates after all steps before it too
@pytest.mark.parametrize("by_epoch", [False, True])
def test_f48_from_epoch_2_on(by_epoch, tmp_path):
    given, average = task(), ema(0.5, update_starting_at_epoch=2, update_every_n_steps=0 if by_epoch else 1)
    seen = []

    def look(params, states):
        seen.append(all(torch.equal(states["ema"][name], p) for name, p in params.items()))
        return params, states

    looks = Callback(key="l", init=int, on_epoch_end=lambda s, e: emit(s, Apply("look", look)))
    record = tmp_path / "events.jsonl"
    quietly(given, batches(2), callbacks=[average, looks], max_epochs=4, record=record)
    updates = [e.name for e in read(record).entries if isinstance(e, Apply) and e.name == "ema: update"]

    if by_epoch:
        assert updates == ["ema: update"] * 2
        assert seen == [False, False, True, False]  # not kept up before, then a copy, then averaged
    else:
        assert (updates, seen) == ([], [True, True, False, False])


# Pruning.


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp_1 = nn.Linear(32, 32)
        self.mlp_2 = nn.ReLU()
        self.mlp_3 = nn.Linear(32, 2)

    def forward(self, x):
        return self.mlp_3(self.mlp_2(self.mlp_1(x)))


WEIGHTS = ["mlp_1.weight", "mlp_3.weight"]


@pytest.mark.parametrize(("names", "of"), [(WEIGHTS, 1088), ("mlp_3.weight", 64)])
def test_f50_half_of_all_that_is_named(names, of, capsys):
    halve = prune("l1_unstructured", parameters_to_prune=names, verbose=1)

    quietly(task(Mlp()), batches(2), callbacks=halve, max_epochs=1)

    assert capsys.readouterr().out == f"prune: L1Unstructured has pruned {of // 2} of {of} weights (50.00%)\n"


def test_f50_two_take_turns(capsys):
    named = {"parameters_to_prune": WEIGHTS, "verbose": 1}
    even = prune("l1_unstructured", apply_pruning=lambda epoch: epoch % 2 == 0, **named)
    odd = prune("random_unstructured", apply_pruning=lambda epoch: epoch % 2, key="odd", **named)

    quietly(task(Mlp()), batches(2), callbacks=[odd, even], max_epochs=3)

    assert re.findall(r"prune: (\w+) has pruned (\d+) of 1088", capsys.readouterr().out) == [
        ("L1Unstructured", "544"),
        ("RandomUnstructured", "544"),
        ("L1Unstructured", "816"),
    ]


def test_f52_a_lottery_ticket_goes_back_to_exactly_how_it_began():
    given = task(Mlp(), optimizer=partial(torch.optim.SGD, lr=1e-3))
    given.model.mlp_1.requires_grad_(False)  # or it soon lets nothing through
    first = torch.arange(1.0, 65).view(2, 32)
    with torch.no_grad():
        given.model.mlp_3.weight.copy_(first)
    sees, seen = spy("on_epoch_end", lambda event: given.model.mlp_3.weight.detach().clone())
    tickets = prune(
        "l1_unstructured",
        parameters_to_prune="mlp_3.weight",
        amount=0.2,
        use_lottery_ticket_hypothesis=lambda epoch: epoch % 2,
    )

    quietly(given, batches(2), callbacks=[tickets, sees], max_epochs=5)

    back = [torch.equal(weight[weight != 0], first[weight != 0]) for weight in seen]
    assert back == [False, True, False, True, False]
    assert [int((weight == 0).sum()) for weight in seen] == [13, 23, 31, 38, 43]  # a fifth of those left, rounded


def test_f52_a_checkpoint_has_the_names_of_the_model_and_half_of_a_half_is_left(tmp_path):
    given = task(Mlp())
    callbacks = [prune("l1_unstructured", parameters_to_prune=WEIGHTS), checkpoint(tmp_path)]

    quietly(given, batches(2), callbacks=callbacks, max_epochs=2)

    (path,) = tmp_path.glob("*.safetensors")
    saved = store.read(path)["model"]
    # Lightning reparametrizes the model while it trains; here its names are never others
    assert saved.keys() == given.model.state_dict().keys() == dict(Mlp().named_parameters()).keys()
    assert sum(int((saved[name] == 0).sum()) for name in WEIGHTS) == 1088 * 3 // 4


# Fine-tuning.


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32)) for _ in range(3)]
        self.encoder = nn.Sequential(*blocks)
        self.decoder = nn.Linear(32, 2)

    def forward(self, x):
        return self.decoder(self.encoder(x))


def groups_of(path):
    """The names of the parameters in each group of the one optimizer, as a checkpoint has them."""
    (groups,) = store.read(path)["control"]["groups"]
    return groups


@pytest.mark.parametrize(("lr", "expected"), [(None, 0.001), (100.0, 100.0)])
def test_f53_the_rate_of_a_new_group(lr, expected):
    rates, seen = spy("on_train_batch_start", lambda event: [*event.metrics.values()])
    tune = finetuning("encoder.*", lambda epoch: "encoder.2.*" if epoch == 1 else None, lr=lr)
    pairs = [torch.randn(2, 32)]

    quietly(task(Blocks(), optimizer=partial(torch.optim.SGD, lr=0.01)), pairs, callbacks=[tune, rates], max_epochs=2)

    assert seen == [[0.01], [0.01, expected]]


@pytest.mark.parametrize(("train_bn", "frozen", "added"), [(True, 3, 3), (False, 9, 3)])
def test_f53_an_encoder_of_nine_parameters_three_of_which_are_no_batch_normalisation(train_bn, frozen, added, tmp_path):
    trainable, counts = [], task(Blocks())
    sees = Callback(
        key="s",
        init=int,
        on_train_start=lambda s, e: trainable.append(sum(not p.requires_grad for p in counts.model.parameters())) or s,
    )
    tune = finetuning("encoder.*", lambda epoch: "*" if epoch == 1 else None, train_bn=train_bn)

    quietly(counts, [torch.randn(2, 32)], callbacks=[tune, sees, checkpoint(tmp_path)], max_epochs=2)

    (path,) = tmp_path.glob("*.safetensors")
    assert trainable == [frozen]
    assert [len(group) for group in groups_of(path)] == [2 if frozen == 9 else 8, added]


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(*[nn.Linear(32, 32, bias=i > 0) for i in range(6)])

    def forward(self, x):
        return self.layer(x)


def test_f54_a_group_for_each_layer_that_is_trained_again_also_in_a_run_that_goes_on(tmp_path):
    def run(folder, **settings):
        tune = finetuning("layer.[1-5].*", lambda epoch: f"layer.{epoch + 1}.*")
        quietly(task(Layers()), batches(2), callbacks=[tune, checkpoint(folder)], **settings)
        (path,) = folder.glob("*.safetensors")
        return path

    of_layer = [[f"layer.{i}.weight", f"layer.{i}.bias"] for i in range(1, 6)]
    half = run(tmp_path / "half", max_epochs=3)

    assert groups_of(run(tmp_path / "whole", max_epochs=5)) == [["layer.0.weight"], *of_layer]
    assert groups_of(half) == [["layer.0.weight"], *of_layer[:3]]
    assert groups_of(run(tmp_path / "again", max_epochs=5, resume=half)) == [["layer.0.weight"], *of_layer]


class Three(nn.Module):
    """Three parts, each with an optimizer of its own."""

    def __init__(self):
        super().__init__()
        self.sgd, self.adam, self.adamw = (nn.Sequential(*[nn.Linear(32, 32) for _ in range(n)]) for n in (2, 3, 1))


def test_f56_rates_while_groups_are_added(tmp_path):
    def of(name):
        return lambda model, batch: model.get_submodule(name)(batch).square().mean()

    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    halve = partial(StepLR, gamma=0.5)
    given = task(
        Three(),
        loss={name: of(name) for name in kinds},
        optimizer={name: partial(kind, lr=0.1) for name, kind in kinds.items()},
        schedule={"sgd": halve, "adam": halve},
    )
    added = {1: "sgd.1.*", 2: "adam.1.*", 3: "adam.2.*"}
    tune = finetuning([*added.values()], lambda epoch: Unfreeze(added[epoch], lr=0.1) if epoch in added else None)
    record = tmp_path / "events.jsonl"

    # by step, as the rates of an epoch's start are those from before a group is added
    monitor = lr_monitor(logging_interval="step")
    quietly(given, batches(1), callbacks=[tune, monitor], max_epochs=5, record=record)

    logged = {}
    for entry in read(record).entries:
        for name, rate in entry.metrics.items() if isinstance(entry, Log) else ():
            logged.setdefault(name, []).append(rate)
    # Lightning renames what it has logged before when a second group comes; here that keeps its name
    assert logged["lr-SGD"] + logged["lr-SGD/pg1"] == [0.1, 0.05, 0.025, 0.0125, 0.00625]
    assert logged["lr-SGD/pg2"] == [0.1, 0.05, 0.025, 0.0125]
    assert logged["lr-Adam"] + logged["lr-Adam/pg1"] == [0.1, 0.05, 0.025, 0.0125, 0.00625]
    assert logged["lr-Adam/pg2"] == [0.1, 0.05, 0.025]
    assert logged["lr-Adam/pg3"] == [0.1, 0.05]
    assert logged["lr-AdamW"] == [0.1] * 5


def test_a_backbone_is_trained_from_its_epoch_on_and_its_rate_comes_to_the_others():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(32, 32), nn.Linear(32, 2)

        def forward(self, x):
            return self.head(self.backbone(x))

    rates, seen = spy("on_train_batch_start", lambda event: [*event.metrics.values()])
    tune = backbone_finetuning(1, backbone_initial_ratio_lr=0.25)

    quietly(task(Net(), optimizer=partial(torch.optim.SGD, lr=0.5)), batches(1), callbacks=[tune, rates], max_epochs=5)

    assert seen == [[0.5], [0.5, 0.125], [0.5, 0.25], [0.5, 0.5], [0.5, 0.5]]
