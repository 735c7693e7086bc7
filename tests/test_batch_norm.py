"""Running statistics measured anew: torch's own numbers, and everything else as it was."""

import os
import signal
from contextlib import nullcontext
from functools import partial

import attrs
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchmetrics import SumMetric

from fncb.batch_norm import refresh
from fncb.callback import Callback, emit
from fncb.callbacks import checkpoint
from fncb.data import batches
from fncb.effects import Freeze, RefreshBatchNorm
from fncb.loop import fit
from fncb.position import random_state
from fncb.task import Task
from tests.reliability.resuming import unlike


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1), nn.BatchNorm1d(1))


def data(n=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, generator=generator) + i for i in range(n)]


def statistics(net):
    return {name: each.clone() for name, each in net.named_buffers()}


def test_the_numbers_are_those_of_update_bn():
    ours, torchs = model(), model()

    torch.manual_seed(2)
    refresh(ours, ours, data())
    torch.manual_seed(2)
    update_bn(data(), torchs)

    assert unlike(statistics(ours), statistics(torchs)) == []
    assert ours[1].num_batches_tracked == 4


def test_modes_and_momenta_are_put_back():
    net = model()
    net[1].momentum = 0.25
    net.train()
    net[4].eval()

    refresh(net, net, data())

    assert [module.training for module in net] == [True, True, True, True, False]
    assert (net[1].momentum, net[4].momentum) == (0.25, 0.1)


def test_they_are_put_back_when_a_batch_fails():
    net = model().eval()

    with pytest.raises(RuntimeError):
        refresh(net, net, [torch.ones(5, 7)])
    assert not net.training
    assert net[1].momentum == 0.1


def test_statistics_are_what_they_were_when_a_batch_fails():
    net = model()
    net(data()[0])
    before = statistics(net)

    with pytest.raises(RuntimeError):
        refresh(net, net, [*data(2), torch.ones(5, 7)])

    assert unlike(before, statistics(net)) == []


def test_without_such_layers_no_batch_is_taken():
    def taken():
        raise AssertionError("a batch was taken")
        yield

    refresh(nn.Linear(1, 1), pytest.fail, taken())
    untracked = nn.BatchNorm1d(1, track_running_stats=False)
    refresh(untracked, pytest.fail, taken())


def refreshes(hook="on_train_epoch_end"):
    return Callback(
        key="refreshes", init=int, emits=(RefreshBatchNorm,), **{hook: lambda s, e: emit(s, RefreshBatchNorm())}
    )


def task(net, lr=0.0):
    return Task(net, loss=lambda m, x: m(x).square().mean(), optimizer=partial(torch.optim.SGD, lr=lr))


run = partial(fit, compile=False, progress=False, max_epochs=1, device="cpu")


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_end"])
def test_a_run_measures_them_over_its_training_batches(hook):
    net, expected = model(), model()
    net[2].p = expected[2].p = 0.0

    run(task(net), [*data(3), None], callbacks=refreshes(hook))  # a batch that is None has nothing to measure
    update_bn(data(3), expected)

    torch.testing.assert_close(statistics(net), statistics(expected))


LOADERS = {
    "list": lambda: data(),
    "batches": lambda: batches(torch.cat(data()), 5, shuffle=True, seed=3),
    "shuffled": lambda: DataLoader(TensorDataset(torch.cat(data())), batch_size=5, shuffle=True, collate_fn=stacked),
    "stateful": lambda: StatefulDataLoader(TensorDataset(torch.cat(data())), 5, shuffle=True, collate_fn=stacked),
    "its own state": lambda: Rounds(),
}


def stacked(samples):
    return torch.stack([x for (x,) in samples])


class Rounds:
    """Gives other batches in each round, and keeps the number of rounds."""

    def __init__(self):
        self.rounds = 0

    def __iter__(self):
        self.rounds += 1
        yield from (batch + self.rounds for batch in data())

    def state_dict(self):
        return {"rounds": self.rounds}

    def load_state_dict(self, state):
        self.rounds = state["rounds"]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # which torchdata calls
@pytest.mark.parametrize("kind", LOADERS)
def test_it_leaves_batches_and_draws_of_the_run_as_they_were(kind):
    def seen(callbacks):
        torch.manual_seed(5)
        found = []
        spy = Callback(key="spy", init=int, on_train_batch_start=lambda s, e: found.append(e.batch.clone()) or s)
        run(task(model()), LOADERS[kind](), callbacks=[spy, *callbacks], max_epochs=3)
        return found, random_state()["torch"]

    assert unlike(seen([]), seen([refreshes()])) == []


class Endless:
    """Batches without an end, of which more than a few are asked for only by who never stops."""

    def __init__(self):
        self.given = 0

    def __iter__(self):
        while self.given < 50:
            self.given += 1
            yield data()[self.given % 4]
        pytest.fail("it does not end")


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_end"])
def test_of_an_endless_loader_it_takes_as_many_batches_as_the_epoch_had(hook):
    net = model()

    run(task(net), Endless(), callbacks=refreshes(hook), max_steps=3)

    assert net[1].num_batches_tracked == 3


def test_metrics_that_the_loss_updates_itself_are_those_of_training():
    def trained(callbacks):
        metric, batches, seen = SumMetric(), data(3), []

        def loss(model, x):
            metric.update(1.0)
            return model(x).square().mean(), {"batches": metric}

        spy = Callback(key="spy", init=int, on_train_end=lambda s, e: seen.append(dict(e.metrics)) or s)
        given = Task(model(), loss=loss, optimizer=partial(torch.optim.SGD, lr=0.0))
        return run(given, batches, callbacks=[*callbacks, spy], max_epochs=2).metrics, seen

    expected = trained([])

    assert trained([refreshes()]) == expected
    assert trained([refreshes("on_train_end")]) == expected
    assert expected[0]["batches_epoch"] == 3.0


def once(callback, hook):
    """A callback that hears only the first of those events."""
    inner = getattr(callback, hook)
    return attrs.evolve(callback, **{hook: lambda s, e: attrs.evolve(inner(s, e), state=1) if s == 0 else s})


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("kind", ["list", "batches", "stateful"])
@pytest.mark.parametrize("max_steps", [-1, 7])
@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_end"])
def test_a_signal_is_acted_on_in_it_and_the_run_goes_on_with_it(hook, max_steps, kind, tmp_path):
    """A signal comes in the nth call of the loss: in the first refresh, or when it is over, or in the last."""

    def trained(folder, nth=None, **settings):
        calls = []

        def loss(model, x):
            calls.append(model.training and torch.is_grad_enabled())
            if len(calls) == nth:
                os.kill(os.getpid(), signal.SIGTERM)
            return model(x).square().mean()

        torch.manual_seed(5)
        given = Task(model(), loss=loss, optimizer=partial(torch.optim.SGD, lr=0.125, momentum=0.5))
        saves = checkpoint(folder, save_on_signal=True, every_n_epochs=100)
        callbacks = [once(refreshes(hook), hook), saves]
        settings = {"max_epochs": 2, "max_steps": max_steps, **settings}
        with pytest.raises(SystemExit) if nth else nullcontext():
            run(given, LOADERS[kind](), callbacks=callbacks, **settings)
        assert nth in (None, len(calls))  # no batch more
        return calls, given.model.state_dict()

    calls, whole = trained(tmp_path / "whole")
    assert calls.count(False) == (4 if max_steps < 0 or hook == "on_train_epoch_end" else 3)

    for nth in range(4, len(calls) + 1):
        folder = tmp_path / str(nth)
        trained(folder, nth)
        _, resumed = trained(folder, resume="last")
        assert unlike(dict(whole), dict(resumed)) == [], nth


def test_what_is_frozen_without_statistics_stays():
    net = model()
    before = statistics(net)["1.running_mean"]
    freezes = Callback(
        key="freezes", init=int, emits=(Freeze,), on_train_start=lambda s, e: emit(s, Freeze("1.*", train_bn=False))
    )

    run(task(net), data(), callbacks=[freezes, refreshes()])

    assert torch.equal(net[1].running_mean, before)
    assert net[4].num_batches_tracked == 4


def test_elsewhere_it_is_refused():
    with pytest.raises(ValueError, match=r"^RefreshBatchNorm: it must be asked .* got it at on_train_batch_end"):
        run(task(model()), data(), callbacks=refreshes("on_train_batch_end"))
