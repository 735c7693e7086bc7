"""Small real models on scikit-learn's digits, 1797 images of 8x8, and sinks that keep what they are shown."""

from functools import cache, partial

import torch
from sklearn.datasets import load_digits
from torch import nn

from fncb.loop import fit
from fncb.sinks.sink import Sink
from fncb.task import Task


@cache
def digits():
    """Images (1797, 1, 8, 8) in [0, 1], and their labels."""
    given = load_digits()
    return torch.tensor(given.images, dtype=torch.float32)[:, None] / 16, torch.tensor(given.target)


def batches(start, stop, size=64):
    """Batches of (images, labels)."""
    images, labels = (each[start:stop].split(size) for each in digits())
    return list(zip(images, labels, strict=True))


class VAE(nn.Module):
    """A variational autoencoder with a latent space of two dimensions; called with points, it decodes them."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())

    def forward(self, z):
        return self.decoder(z)

    def loss(self, images):
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        kl = (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean() / 2
        found = nn.functional.binary_cross_entropy(self.decoder(z), images.flatten(1), reduction="sum")
        return found / len(images) + kl


def vae_task(seed=0):
    torch.manual_seed(seed)
    return Task(VAE(), loss=lambda model, batch: model.loss(batch[0]), optimizer=partial(torch.optim.Adam, lr=5e-3))


def classifier_task(seed=0):
    """A small convolutional net."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )
    return Task(
        model,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        optimizer=partial(torch.optim.Adam, lr=1e-2),
    )


def keeps():
    """A sink that shows images and histograms, and by name what it was shown, with the step, in order."""
    shown = {}

    def keep(name, value, event):
        shown.setdefault(name, []).append((event.step, value))

    return Sink(log=lambda *_: None, close=lambda: None, image=keep, histogram=keep), shown


def train(task, batches, val=None, **settings):
    """`fit`, eager and silent."""
    return fit(task, batches, val, compile=False, progress=False, **settings)
