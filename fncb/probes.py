"""Facts about the world that callbacks ask for: what the device is up to, whether a file is there."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fncb.effects import Probe
from fncb.events import Event, Probed
from fncb.interpret import Handler

Answers = Callable[[Any, Event], Mapping[str, float] | None]
"""Given an argument and the event, finds something out; None is no answer."""


def probing(**more: Answers) -> Handler:
    """Carries out `Probe`; `more` are facts that only the loop around knows, by name.

    Example:
      >>> probe = probing(optimizer=lambda argument, event: {"momentum": 0.5})
      >>> probe(Probe("optimizer", key="a"), Event(step=3)).metrics
      {'momentum': 0.5}
    """
    known: dict[str, Answers] = {"device": device_stats, "file": file_is_there, **more}

    def probe(effect: Probe, event: Event) -> Probed | None:
        if effect.what not in known:
            raise ValueError(f"Probe: what must be one of {sorted(known)} here, got {effect.what!r}.")
        found = known[effect.what](effect.argument, event)
        if found is None:
            return None
        counters = {"epoch": event.epoch, "step": event.step, "seconds": event.seconds}
        return Probed(**counters, what=effect.what, key=effect.key or "", metrics=found)

    return probe


def file_is_there(path: Any, event: Event) -> Mapping[str, float] | None:
    """An empty answer if there is such a file."""
    return {} if Path(path).exists() else None


def device_stats(cpu: Any, event: Event) -> dict[str, float]:
    """Memory and use of the accelerator; of the CPU too if asked for, or if there is nothing else.

    What the accelerator has allocated is counted on the host, so nothing waits for it.

    Raises:
      ModuleNotFoundError: for the CPU, without psutil.
    """
    found: dict[str, float] = {}
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        found |= {name: float(value) for name, value in torch.accelerator.memory_stats().items()}
        if accelerator.type == "cuda":
            found |= _cuda_use()
    if cpu or (cpu is None and accelerator is None):
        psutil = _psutil()
        found["cpu_percent"] = psutil.cpu_percent()
        found["cpu_vm_percent"] = psutil.virtual_memory().percent
        found["cpu_swap_percent"] = psutil.swap_memory().percent
    return found


def _cuda_use() -> dict[str, float]:
    try:
        return {"gpu_percent": float(torch.cuda.utilization()), "gpu_celsius": float(torch.cuda.temperature())}
    except ModuleNotFoundError:  # nvidia-ml-py, which not everybody has
        return {}


@cache
def _psutil() -> Any:
    try:
        import psutil
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "device_stats_monitor: what the CPU does is read with psutil, got none. pip install 'fncb[monitor]', or "
            "pass cpu_stats=False."
        ) from None
    psutil.cpu_percent()  # the first reading is of no time at all
    return psutil
