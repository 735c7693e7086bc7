"""The numbers of callbacks.md, section 3, on the callbacks of Bolts."""

import logging

import pytest
import torch
from torch import nn

from fncb.callbacks.batch_gradient_verification import batch_gradient_verification
from fncb.callbacks.confused_logit import confused_logit
from fncb.callbacks.data_monitor import data_monitor
from fncb.callbacks.latent_dim_interpolator import latent_dim_interpolator
from fncb.callbacks.module_data_monitor import module_data_monitor
from fncb.sinks.sink import Sink
from tests.conformance.runs import batches, loss, task, train


def keeps():
    """A sink that shows histograms and images, and the names and shapes that it was shown, in order."""
    shown = []

    def keep(name, values, _):
        shown.append((name, tuple(values.shape)))

    return Sink(log=lambda *_: None, close=lambda: None, image=keep, histogram=keep), shown


class Layered(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(12, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.layer2(self.layer1(x))


CALLS = [(1, 5, 5), (2, 5, 2), (5, 5, 1), (6, 5, 0), (3, 10, 3)]
"""log_every_n_steps, max_steps, and how often there is something to see."""


@pytest.mark.parametrize(("n", "max_steps", "calls"), CALLS)
def test_how_often_a_batch_is_seen(n, max_steps, calls):
    sink, shown = keeps()
    train(task(), batches(), callbacks=data_monitor(log_every_n_steps=n), max_steps=max_steps, sinks=[sink])

    assert shown == [("training_step/[1, 32]", (1, 32))] * calls


@pytest.mark.parametrize(("n", "max_steps", "calls"), CALLS)
def test_how_often_a_layer_is_seen(n, max_steps, calls):
    sink, shown = keeps()
    monitor = module_data_monitor(["layer1"], log_every_n_steps=n)
    data = [torch.full((2, 12), float(k)) for k in range(10)]
    train(task(Layered()), data, callbacks=monitor, max_steps=max_steps, sinks=[sink])

    assert shown == [("input/layer1/[2, 12]", (2, 12)), ("output/layer1/[2, 5]", (2, 5))] * calls


def test_what_a_batch_and_a_layer_are_called():
    sink, shown = keeps()
    data = [(torch.zeros(2, 3, 4), torch.zeros(2))]
    monitors = [data_monitor(log_every_n_steps=1), module_data_monitor(log_every_n_steps=1)]
    of_first = task(nn.Linear(4, 1), loss=lambda model, batch: loss(model, batch[0]))
    train(of_first, data, callbacks=monitors, max_epochs=1, sinks=[sink])

    assert [name for name, _ in shown] == [
        *("training_step/0/[2, 3, 4]", "training_step/1/[2]", "input/[2, 3, 4]", "output/[2, 3, 1]"),
    ]


def test_no_sink_to_show_histograms_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING, "fncb"):
        train(task(), batches(1), callbacks=data_monitor(), max_epochs=1)

    assert [record.getMessage() for record in caplog.records] == [
        "fncb: data_monitor gives histograms, which no sink of this run shows. Pass sinks=[...]."
    ]


def test_an_interpolation_has_121_images_in_11_rows():
    sink, shown = keeps()
    decoded = []

    def decode(model, z):
        decoded.append(model.training)
        return z[:, :1, None, None].expand(-1, 1, 4, 6)

    walk = latent_dim_interpolator(2, decode=decode)
    modes = []
    train(
        task(loss=lambda model, batch: modes.append(model.training) or loss(model, batch)),
        batches(1),
        callbacks=walk,
        max_epochs=40,
        sinks=[sink],
    )

    assert shown == [("Linear_latent_space", (1, 11 * (4 + 2) + 2, 11 * (6 + 2) + 2))] * 2  # epochs 20 and 40
    assert decoded == [False] * 22
    assert modes == [True] * 40  # and not, as Bolts has it, in whatever mode it was left in


def test_confusion_is_looked_for_every_20th_batch():
    sink, shown = keeps()
    # two logits of 6 for every image
    confused = confused_logit(1, logits=lambda _, x: 6 + x.sum((1, 2, 3))[:, None] * torch.tensor([1.0, 1.001]))
    images = [torch.zeros(1, 1, 4, 8) for _ in range(45)]
    of_pixels = task(loss=lambda model, batch: loss(model, batch.flatten(1)))
    train(of_pixels, images, callbacks=confused, max_epochs=1, sinks=[sink])

    assert shown == [("confused_logit/0", (1, 4 + 4, 5 * (8 + 2) + 2))] * 2


def test_one_sample_is_too_few_to_tell_whether_samples_mix():
    with pytest.raises(ValueError, match="a batch must have 2 samples or more, got 1"):
        train(task(), batches(), callbacks=batch_gradient_verification(), max_epochs=1)
