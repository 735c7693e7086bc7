"""How many floating-point operations a training step takes, counted without making any."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fncb.batch import refill, tensors
from fncb.task import loss_and_metrics
from fncb.views import view_of

log = logging.getLogger("fncb")


def training_flops(model: nn.Module, loss: Callable[[Any, Any], Any], batch: Any) -> int | None:
    """Operations of the forward and backward pass of a batch, as torch's flop counter counts them.

    Tensors without data stand in for weights and batch, so nothing is computed, drawn or changed. A multiplication and
    an addition count as two; only products of matrices, convolutions and attention count at all.

    Returns:
      The number, or None where a model cannot run on such tensors; one log line says why.

    Example:
      >>> training_flops(nn.Linear(3, 5), lambda model, x: model(x).sum(), torch.ones(2, 3))
      120
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            pretend = FakeTensorMode()
            fakes = {name: pretend.from_tensor(tensor) for name, tensor in named}
            inputs = refill(batch, [pretend.from_tensor(each) for each in tensors(batch)])
            with pretend, FlopCounterMode(display=False) as counter:
                value, _, _ = loss_and_metrics("loss", loss(view_of(model, fakes), inputs))
                moved = [fakes[name] for name, p in model.named_parameters() if p.requires_grad]
                torch.autograd.grad(value, moved, allow_unused=True)
    except Exception as error:  # whatever a model does that needs data
        log.warning("fncb: operations are not counted: %s: %s", type(error).__name__, str(error).split("\n")[0])
        return None
    return counter.get_total_flops()
