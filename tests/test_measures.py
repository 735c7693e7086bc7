"""Metrics that keep a state: updated by the step, computed over an epoch, put aside, saved and reset."""

import logging
from functools import partial

import pytest
import torch
import torchmetrics
from torch import nn
from torchmetrics.classification import BinaryAUROC, BinaryConfusionMatrix, BinaryPrecision

import fncb
from fncb.callback import Callback
from fncb.callbacks import checkpoint
from fncb.measures import Measures, keeps_state
from fncb.task import Task

fit = partial(fncb.fit, compile=False, progress=False, max_epochs=1, num_sanity_val_steps=0)
validate = partial(fncb.validate, progress=False)


def batch(scores, target):
    return torch.ones(len(scores), 1), torch.tensor(scores), torch.tensor(target)


# Precisions 1, 0 and 1/2 of 4, 3 and 2 samples; together 2 of 6 positives are true ones, without the last 1 of 4.
BATCHES = [
    batch([0.75, 0.0, 0.0, 0.0], [1, 0, 0, 1]),
    batch([0.625, 1.0, 0.875], [0, 0, 0]),
    batch([0.75, 1.0], [1, 0]),
]
PRECISION = {1: 1.0, 2: 0.25, 3: pytest.approx(1 / 3)}
OTHERS = [batch([1.0, 1.0, 0.0], [1, 1, 0])]  # precision 1


def giving(metric, name="acc"):
    """A loss that gives a metric and what it is to be updated with."""

    def loss(model, batch):
        x, scores, target = batch
        return model(x).mean(), {name: (metric, scores, target)}

    return loss


def updating(metric):
    """A loss that updates a metric itself."""

    def loss(model, batch):
        x, scores, target = batch
        metric.update(scores, target)
        return model(x).mean(), {"acc": metric}

    return loss


def task(loss, **given):
    torch.manual_seed(0)
    return Task(nn.Linear(1, 1), loss=loss, optimizer=partial(torch.optim.SGD, lr=0.25), **given)


def epochs(result_of, name="acc_epoch"):
    """The values of a metric at the end of each epoch of a run with a callback."""
    seen = []
    result_of(Callback(key="sees", init=int, on_train_epoch_end=lambda s, e: seen.append(e.metrics[name]) or s))
    return seen


def test_a_metric_is_told_from_what_has_no_state():
    assert keeps_state(BinaryPrecision())
    assert not any(map(keeps_state, [torch.zeros(()), BinaryPrecision, (BinaryPrecision(),), nn.Linear(1, 1), None]))


def test_a_value_over_an_epoch_is_that_of_all_batches_and_not_the_mean_of_theirs():
    result = fit(task(giving(BinaryPrecision())), BATCHES[:2], BATCHES[:2])

    assert (result.metrics["acc_epoch"], result.metrics["val_acc"]) == (0.25, 0.25)  # means: 0.5, by size 4 / 7
    assert set(result.metrics) == {"loss", "loss_epoch", "acc_epoch", "val_loss", "val_acc", "lr-SGD"}


@pytest.mark.parametrize("loss_of", [giving, updating])
def test_validation_and_test_compute_over_all_their_batches(loss_of):
    whole = task(loss_of(BinaryPrecision()))

    assert validate(whole, BATCHES[:2]).metrics["val_acc"] == 0.25
    assert fncb.test(whole, BATCHES[:2], progress=False).metrics["test_acc"] == 0.25


def test_each_of_several_loaders_has_a_value_of_its_own():
    result = validate(task(giving(BinaryPrecision())), {"a": BATCHES[:2], "b": BATCHES[:1]})

    assert (result.metrics["val_acc/a"], result.metrics["val_acc/b"]) == (0.25, 1.0)


def test_each_of_several_loaders_may_have_metrics_of_its_own():
    a, b = giving(BinaryPrecision(), "a"), giving(BinaryPrecision(), "b")

    result = validate(
        task(lambda m, batch: (a if len(batch[0]) == 4 else b)(m, batch)), {"four": BATCHES[:1], "three": BATCHES[1:2]}
    )

    assert set(result.metrics) == {"val_loss/four", "val_a/four", "val_loss/three", "val_b/three"}


def test_a_name_that_begins_with_the_prefix_keeps_it_once():
    assert validate(task(giving(BinaryPrecision(), "val_acc")), BATCHES[:2]).metrics["val_acc"] == 0.25


@pytest.mark.parametrize("make", [BinaryPrecision, BinaryAUROC])
def test_a_metric_that_validation_shares_goes_on_where_training_left_it(make):
    alone = fit(task(giving(make())), BATCHES)
    shared = fit(task(giving(make())), BATCHES, OTHERS, val_check_interval=1)

    pairs = 7 / 18  # of a true and a false one that are in order, ties half
    expected = pytest.approx({BinaryPrecision: 1 / 3, BinaryAUROC: pairs}[make])
    assert alone.metrics["acc_epoch"] == expected
    assert shared.metrics["acc_epoch"] == expected


def test_a_validation_in_the_middle_measures_its_own_batches_only():
    seen = []
    sees = Callback(key="sees", init=int, on_validation_end=lambda s, e: seen.append(e.metrics["val_acc"]) or s)

    fit(task(giving(BinaryPrecision())), BATCHES, OTHERS, val_check_interval=1, callbacks=sees)

    assert seen == [1.0, 1.0, 1.0]


def test_a_sanity_check_leaves_no_trace():
    result = fit(task(giving(BinaryPrecision())), BATCHES[:2], OTHERS, num_sanity_val_steps=1)

    assert result.metrics["acc_epoch"] == 0.25


def test_a_validation_that_fails_gives_the_metric_back():
    metric = BinaryPrecision()
    measures = Measures(torch.device("cpu"))
    measures.update({"acc": (metric, *BATCHES[0][1:])})

    def fails():
        with measures.set_aside():
            assert (metric.tp.item(), metric.update_count) == (0, 0)
            metric.update(*BATCHES[1][1:])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert measures.compute() == {"acc": 1.0}
    assert metric.update_count == 1


@pytest.mark.parametrize("loss_of", [giving, updating])
def test_every_epoch_begins_anew(loss_of):
    def anew():
        yield from ([BATCHES[:2], BATCHES[:1], BATCHES][epoch] for epoch in range(3))

    made = anew()

    seen = epochs(
        lambda sees: fit(
            task(loss_of(BinaryPrecision())),
            lambda: next(made),
            callbacks=sees,
            max_epochs=3,
            reload_dataloaders_every_n_epochs=1,
        )
    )

    assert seen == [PRECISION[2], PRECISION[1], PRECISION[3]]


def test_a_metric_that_the_loss_updates_has_the_same_value_and_the_step_runs_eagerly(caplog):
    with caplog.at_level(logging.WARNING, "fncb"):
        result = fit(task(updating(BinaryPrecision())), BATCHES[:2], BATCHES[:2], compile=True)

    assert (result.metrics["acc_epoch"], result.metrics["val_acc"]) == (0.25, 0.25)
    assert result.compiled == "eager"
    assert caplog.messages == [
        "fncb: the step runs as eager, not as one graph: the loss updates ['acc']; "
        "return (metric, *what_to_update_it_with)"
    ]


def test_where_nothing_is_compiled_a_loss_may_update_a_metric_without_a_word(caplog):
    with caplog.at_level(logging.WARNING, "fncb"):
        fit(task(updating(BinaryPrecision())), BATCHES[:2])

    assert caplog.messages == []


def test_given_what_to_update_it_with_the_step_stays_one_graph(caplog):
    with caplog.at_level(logging.WARNING, "fncb"):
        result = fit(task(giving(BinaryPrecision())), [BATCHES[0]] * 3 + BATCHES[1:2] * 2, compile=True)

    assert (result.compiled, result.recompilations) == ("one graph", 1)  # one more for the smaller batches
    assert result.metrics["acc_epoch"] == pytest.approx(3 / 9)
    assert caplog.messages == []


class Keeps(torchmetrics.Metric):
    """Keeps what it is given, as it is."""

    def __init__(self):
        super().__init__()
        self.add_state("kept", default=[])
        self.given = []

    def update(self, value):
        self.given.append(value)
        self.kept.append(value)

    def compute(self):
        return torch.cat(self.kept).sum()


def test_a_metric_is_given_values_without_their_gradients():
    metric = Keeps()

    def loss(model, batch):
        return model(batch).mean(), {"sum": (metric, model(batch))}

    result = fit(task(loss), [torch.ones(1, 1)])

    assert [value.requires_grad for value in metric.given] == [False]
    assert result.metrics["sum_epoch"] == result.metrics["loss"]


@pytest.mark.parametrize("run", [fit, validate])
def test_a_metric_that_computes_no_scalar_is_refused(run):
    with pytest.raises(ValueError, match=r"^loss: metric 'acc' must compute a scalar, got tensor\("):
        run(task(giving(BinaryConfusionMatrix())), BATCHES[:2])


@pytest.mark.parametrize("make", [BinaryPrecision, BinaryAUROC])
@pytest.mark.parametrize("step", [1, 2])
def test_a_run_that_goes_on_in_the_middle_of_an_epoch_has_the_same_value(tmp_path, make, step):
    def run(name, **given):
        callbacks = checkpoint(tmp_path / name, every_n_train_steps=1, save_top_k=-1)
        return fit(task(giving(make())), BATCHES, callbacks=callbacks, **given)

    whole = run("whole")
    cut = run("cut", resume=tmp_path / "whole" / f"epoch=0-step={step}.safetensors")

    assert cut.metrics["acc_epoch"] == whole.metrics["acc_epoch"]
    assert fit(task(giving(make())), BATCHES[step:]).metrics["acc_epoch"] != whole.metrics["acc_epoch"]


def test_a_run_that_goes_on_from_a_validation_has_the_same_value(tmp_path):
    def run(name, **given):
        callbacks = checkpoint(tmp_path / name, monitor="val_loss", save_top_k=-1)
        return fit(task(giving(BinaryPrecision())), BATCHES, OTHERS, callbacks=callbacks, val_check_interval=1, **given)

    whole = run("whole")
    cut = run("cut", resume=tmp_path / "whole" / "epoch=0-step=1.safetensors")

    assert cut.metrics["acc_epoch"] == whole.metrics["acc_epoch"]


@pytest.mark.parametrize("run", [fit, validate])
def test_a_metric_that_an_earlier_run_has_used_begins_anew(run):
    whole = task(giving(BinaryPrecision()))
    fit(whole, BATCHES[1:2])  # precision 0

    metrics = run(whole, BATCHES[:1]).metrics

    assert metrics["acc_epoch" if run is fit else "val_acc"] == 1.0
