"""A tiny model with batches, on which the step half of a callback is tried."""

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from torch import Tensor, nn


@attrs.frozen
class Tiny:
    """What a step half is tried on.

    Attributes:
      model: makes the model, the same each time.
      loss: as in `Task`.
      batches: all of one shape, three or more.
      lr: of the SGD that moves the model.
    """

    model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Any], Any]
    batches: Iterable[Any]
    lr: float = 0.1


def classifier_of_images() -> Tiny:
    """Images of 1 x 6 x 6 in three classes, eight a batch; a model with a normalization and two layers.

    Example:
      >>> tiny = classifier_of_images()
      >>> [(name, tuple(p.shape)) for name, p in tiny.model().named_parameters()][:2]
      [('body.1.weight', (8, 36)), ('body.2.weight', (8,))]
    """
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(8, 1, 6, 6, generator=generator) for _ in range(4)]
    return Tiny(_network, _loss, [(x, torch.randint(0, 3, (8,), generator=generator)) for x in images])


class _Network(nn.Module):
    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 3)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1 + (p if p.ndim == 1 else 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def _network() -> nn.Module:
    return _Network(torch.Generator().manual_seed(0))


def _loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])
