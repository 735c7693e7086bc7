"""The facts of facts.md on quantization-aware training, with their numbers."""

import io

import pytest
import torch
from torch import nn

from fncb.callbacks.quantization_aware_training import quantization_aware_training
from tests.conformance.runs import batches, task, train


class Counting(nn.Module):
    """A layer that counts its forward passes and those that are quantized."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.passes, self.quantized = inner, 0, 0

    def forward(self, x):
        self.passes += 1
        self.quantized += self.inner.weight_fake_quantizer.enabled
        return self.inner(x)


@pytest.mark.parametrize(
    ("collect_quantization", "quantized"),
    [
        (None, 9),
        (3, 3),
        (lambda event: False, 0),
        (lambda event: event.epoch % 2 == 0, 5),
        (lambda event: event.epoch == 3, 2),
    ],
)
def test_f63_so_many_forward_passes_are_quantized(collect_quantization, quantized):
    model = Counting(nn.Linear(32, 2))
    callback = quantization_aware_training(collect_quantization=collect_quantization)

    train(task(model), batches(1), batches(1), callbacks=callback, max_epochs=4)

    assert (model.passes, model.quantized) == (9, quantized)


def test_f63_int8_makes_the_model_smaller():
    model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 32))

    def size():
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        return len(file.getvalue())

    before = size()
    train(task(model), batches(4), callbacks=quantization_aware_training(), max_epochs=1)

    assert size() / before < 0.65
