"""Metrics that keep their own state, such as torchmetrics': updated with what a loss returns, computed at the end."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Measured = dict[str, tuple[Any, ...]]
"""By name a metric and what it is to be updated with; alone when the loss has updated it."""


def keeps_state(value: Any) -> bool:
    """Whether something is such a metric."""
    return not isinstance(value, Tensor) and all(hasattr(value, name) for name in ("update", "compute", "reset"))


class Measures:
    """The metrics that a loss has returned so far.

    Args:
      device: where they are moved to.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._metrics: dict[str, Any] = {}
        self._saved: Mapping[str, Any] = {}

    def update(self, measured: Measured) -> None:
        """Gives each metric what belongs to it. No value is read, unless the metric does."""
        for name, (metric, *values) in measured.items():
            if name not in self._metrics:
                self._metrics[name] = metric.to(self._device) if hasattr(metric, "to") else metric
                for state, value in self._saved.get(name, {}).items():
                    setattr(metric, state, value)
            if values:
                metric.update(*values)

    def compute(self, template: str) -> dict[str, Any]:
        """The values over everything so far; waits for the device. `template` makes names of names: `val_{}`."""
        computed = {}
        for name, metric in self._metrics.items():
            value = metric.compute()
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise ValueError(f"loss: metric {name!r} must compute a scalar, got {value!r}. Take its average.")
            computed[template.format(name)] = value.item()
        return computed

    def reset(self) -> None:
        """Starts all of them anew."""
        for metric in self._metrics.values():
            metric.reset()

    def state_dict(self) -> dict[str, Any]:
        """What each has gathered, by name."""
        return {name: dict(metric.metric_state) for name, metric in self._metrics.items()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave, as soon as the loss returns the metric again."""
        self._saved = dict(saved)
