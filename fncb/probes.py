"""Facts about the world that callbacks ask for: what the device is up to, whether a file is there."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fncb.effects import Probe
from fncb.events import Event, Probed, counters, hook_name
from fncb.handling import Handler

Answers = Callable[[Any, Event], Mapping[str, float] | None]
"""Given an argument and the event, finds something out; None is no answer."""


def probing(device: torch.device | None = None, **more: Answers) -> Handler:
    """Carries out `Probe`.

    Args:
      device: that the run is on; None is the accelerator, or the CPU if there is none.
      **more: facts that only the loop around knows, by name.

    Example:
      >>> probe = probing(optimizer=lambda argument, event: {"momentum": 0.5})
      >>> probe(Probe("optimizer", key="a"), Event(step=3)).metrics
      {'momentum': 0.5}
    """
    known: dict[str, Answers] = {
        "device": lambda cpu, _: device_stats(cpu, device),
        "file": lambda path, _: {} if Path(path).exists() else None,
        **more,
    }

    def probe(effect: Probe, event: Event) -> Probed | None:
        if effect.what not in known:
            raise ValueError(f"Probe: what must be one of {sorted(known)} here, got {effect.what!r}.")
        found = known[effect.what](effect.argument, event)
        if found is None:
            return None
        at = hook_name(type(event))
        return Probed(**counters(event), what=effect.what, key=effect.key or "", at=at, metrics=found)

    return probe


def device_stats(cpu: Any = None, device: torch.device | None = None) -> dict[str, float]:
    """Memory and use of a device; of the CPU too if asked for, or if `cpu` is None and there is nothing else.

    What an accelerator has allocated is counted on the host, so nothing waits for it. What is not known of it is left
    out: a monitor stops no run.

    Raises:
      ModuleNotFoundError: for the CPU, without psutil.
    """
    found: dict[str, float] = {}
    if device is None and torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
    of = "cpu" if device is None else device.type
    if of != "cpu":
        found |= _allocated() | (_cuda_use() if of == "cuda" else {})
    if cpu or (cpu is None and of == "cpu"):
        psutil = _psutil()
        found["cpu_percent"] = psutil.cpu_percent()
        found["cpu_vm_percent"] = psutil.virtual_memory().percent
        found["cpu_swap_percent"] = psutil.swap_memory().percent
    return found


def _allocated() -> dict[str, float]:
    try:
        return {name: float(value) for name, value in torch.accelerator.memory_stats().items()}
    except RuntimeError:  # an accelerator whose allocator does not count, as Apple's in some versions of torch
        return {}


def _cuda_use() -> dict[str, float]:
    found: dict[str, float] = {}
    for name, ask in (("gpu_percent", torch.cuda.utilization), ("gpu_celsius", torch.cuda.temperature)):
        try:
            found[name] = float(ask())
        except Exception:  # without nvidia-ml-py, or of a part of a device; each driver has errors of its own
            continue
    return found


@cache
def _psutil() -> Any:
    try:
        import psutil
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Probe: what the CPU does is read with psutil, got none. pip install 'fncb[monitor]', or leave the CPU "
            "out: Probe('device', False)."
        ) from None
    psutil.cpu_percent()  # the first reading is of no time at all
    return psutil
