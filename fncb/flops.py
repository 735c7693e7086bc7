"""How many floating-point operations a training step takes, counted without making any, and how many a device makes."""

import logging
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fncb.batch import refill, tensors
from fncb.position import random_state, set_random_state
from fncb.task import loss_and_metrics
from fncb.views import view_of

log: logging.Logger = logging.getLogger("fncb")


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
    before = random_state()  # a loss may draw elsewhere than in torch
    try:
        with torch.enable_grad():
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
    finally:
        set_random_state(before)
    return counter.get_total_flops()


_HALF = (torch.float16, torch.bfloat16)

_PEAKS: dict[tuple[str, ...], tuple[float, float, float]] = {
    ("A10",): (125, 62.5, 31.2),
    ("A100",): (312, 156, 19.5),
    ("H100", "PCIe"): (756, 378, 51),
    ("H100", "NVL"): (835, 417, 60),
    ("H100",): (989, 494, 67),
    ("H200",): (989, 494, 67),
    ("L4",): (121, 60, 30.3),
    ("L40S",): (362, 183, 91.6),
    ("MI300X",): (1307, 653, 163.4),
}
"""10^12 operations a second by words of a device's name: products in half precision, in TF32 and in float32.

As its maker's data sheet has them, for matrices that are not sparse. The first row all of whose words are there counts.
"""


def peak_flops(device: str, dtype: torch.dtype) -> float | None:
    """Operations a second that a device could make at most, if it is one whose figures are known here.

    Args:
      device: its name, as `torch.cuda.get_device_name` gives it.
      dtype: what products are computed in; float32 is TF32 where `torch.set_float32_matmul_precision` allows it.

    Example:
      >>> peak_flops("NVIDIA A100-SXM4-80GB", torch.bfloat16), peak_flops("a CPU", torch.float32)
      (312000000000000.0, None)
    """
    words = re.split(r"[\s-]+", device)
    known = next((peaks for name, peaks in _PEAKS.items() if all(word in words for word in name)), None)
    if known is None or dtype not in (*_HALF, torch.float32):
        return None
    half, tf32, single = known
    if dtype in _HALF:
        return half * 1e12
    return (single if torch.get_float32_matmul_precision() == "highest" else tf32) * 1e12
