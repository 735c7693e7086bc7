"""The models and batches that training loops are timed on."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@attrs.frozen
class Problem:
    """A model to make, a batch for it, and how many steps a turn takes."""

    title: str
    model: Callable[[], nn.Module]
    batch: tuple[Tensor, Tensor]
    chunk: int


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(32 * 4 * 4, 10),
    )


class Block(nn.Module):
    """Attention to what came before, then two layers for each token."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:  # (batch, tokens, width), as what it returns
        split = self.qkv(self.before_attention(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
        query, key, value = split.unbind(2)  # (batch, heads, tokens, width of a head) each
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.layers(self.before_layers(x))


class Transformer(nn.Module):
    """A small language model over 64 words."""

    def __init__(self, depth: int = 4, width: int = 64, heads: int = 4, tokens: int = 32, words: int = 64):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(torch.randn(tokens, width) / 10)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, words))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.words(x) + self.places))


def problems() -> dict[str, Problem]:
    torch.manual_seed(0)
    digits = torch.randint(10, (64,))
    text = torch.randint(64, (8, 33))
    return {
        "mlp": Problem("MLP 32-64-64-10, batch 64", mlp, (torch.randn(64, 32), digits), 1024),
        "transformer": Problem(
            "Transformer, 4 layers, d=64, T=32, batch 8",
            Transformer,
            (text[:, :-1].contiguous(), text[:, 1:].contiguous()),
            32,
        ),
        "conv": Problem(
            "Conv net with BatchNorm and dropout, 1x8x8, batch 64", conv_net, (torch.randn(64, 1, 8, 8), digits), 64
        ),
    }


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy; labels are classes, or, where a callback smooths them, probabilities."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs).flatten(0, -2), labels if labels.is_floating_point() else labels.flatten())
