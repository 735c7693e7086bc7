"""Running statistics of batch normalisation, measured anew."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fncb.views import eval_mode


def refresh(model: nn.Module, forward: Callable[[Any], Any], batches: Iterable[Any]) -> None:
    """Has each layer of batch normalisation average its statistics over all batches, each weighted alike.

    The model runs in training mode and without gradients, as with `torch.optim.swa_utils.update_bn`; modes and momenta
    are put back afterwards. A model without such layers is left alone, and so are the batches; where something raises,
    the statistics are what they were.

    Args:
      model: whose layers they are.
      forward: runs the model on a batch.
      batches: those of an epoch.
    """
    layers = [each for each in model.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    statistics = [each for layer in layers for each in layer.buffers(recurse=False)]
    before = [each.clone() for each in statistics]
    with eval_mode(model), torch.no_grad():  # which puts the modes back
        model.train()
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # a cumulative mean
            for batch in batches:
                forward(batch)
        except BaseException:
            for each, was in zip(statistics, before, strict=True):
                each.copy_(was)
            raise
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
