"""Metrics that keep their own state, torchmetrics': updated with what a loss returns, computed at the end."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Measured = dict[str, tuple[Any, ...]]
"""By name a metric and what it is to be updated with; alone when the loss has updated it."""


def keeps_state(value: Any) -> bool:
    """Whether something is such a metric."""
    return hasattr(type(value), "metric_state")  # of its class, or a trace would depend on the values of its state


class Measures:
    """The metrics that a loss has returned so far.

    Args:
      device: where they are moved to.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._metrics: dict[str, Any] = {}
        self._saved: dict[str, Any] = {}

    def update(self, measured: Measured) -> None:
        """Gives each metric what belongs to it. No value is read, unless the metric does."""
        for name, (metric, *values) in measured.items():
            if name not in self._metrics:
                self._metrics[name] = metric.to(self._device)
                if name in self._saved:
                    _put_back(metric, self._saved.pop(name))
                elif values:
                    metric.reset()  # what another run has left in it
            if metric is not self._metrics[name]:
                raise ValueError(f"loss: metric {name!r} must be one object, got another. Make it outside of the loss.")
            if values:
                metric.update(*values)

    def compute(self) -> dict[str, float]:
        """The values over everything so far, by name; waits for the device."""
        computed: dict[str, float] = {}
        for name, metric in self._metrics.items():
            if not metric.update_count:  # every batch was skipped
                continue
            value = metric.compute()
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise ValueError(f"loss: metric {name!r} must compute a scalar, got {value!r}. Take its average.")
            computed[name] = value.item()
        return computed

    def reset(self) -> None:
        """Starts all of them anew."""
        for metric in self._metrics.values():
            metric.reset()

    @contextmanager
    def set_aside(self) -> Generator[None]:
        """Leaves the metrics to somebody else, such as a validation whose loss returns the same ones."""
        states = self.state_dict()
        self.reset()
        try:
            yield
        finally:
            for name, state in states.items():
                _put_back(self._metrics[name], state)

    def state_dict(self) -> dict[str, Any]:
        """What each has gathered, by name."""
        return {name: _state(metric) for name, metric in self._metrics.items()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave, as soon as the loss returns the metric again."""
        self._saved = dict(saved)


def _state(metric: Any) -> dict[str, Any]:
    states = {name: list(value) if isinstance(value, list) else value for name, value in metric.metric_state.items()}
    return {"states": states, "updates": metric.update_count}


def _put_back(metric: Any, state: Mapping[str, Any]) -> None:
    metric.reset()
    for name, value in state["states"].items():
        there = [part.to(metric.device) for part in value] if isinstance(value, list) else value.to(metric.device)
        setattr(metric, name, there)
    metric._update_count = state["updates"]  # which has no public way in; only a warning of `compute` reads it
