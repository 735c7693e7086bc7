"""A GAN: two losses and two optimizers that take turns, in one compiled step. It learns to draw digits.

Trains on scikit-learn's bundled scans of handwritten digits (1,797 images of 8 x 8 pixels, 10 classes), and shows
digits that nobody wrote: in the terminal, and ten of each as `samples.png` in the directory.
"""

import argparse
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fncb
from fncb.callbacks import ema

NOISE = 32  # numbers that a digit is drawn from, beside its class


def digits():
    """All images, each a row of 64 values in [-1, 1], with their classes one-hot."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 8 - 1, F.one_hot(torch.tensor(labels), 10).float()
    return DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, drop_last=True)


class GAN(nn.Module):
    """Draws digits of given classes, and judges whether digits are real."""

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(
            *(nn.Linear(NOISE + 10, 128), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.Linear(128, 64), nn.Tanh()),
        )
        self.discriminator = nn.Sequential(
            *(nn.Linear(64 + 10, 256), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
            *(nn.Linear(256, 256), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
            nn.Linear(256, 1),
        )

    def draw(self, y):
        """Digits of classes y."""
        return self.generator(torch.cat([torch.randn(len(y), NOISE, device=y.device), y], 1))

    def judge(self, x, y):
        """Logits: above 0 where x is taken for a real digit of class y."""
        return self.discriminator(torch.cat([x, y], 1))


def tell_apart(model, batch):
    """The discriminator's loss, and the share of digits that it judges rightly: one half when it can only guess."""
    x, y = batch
    real, drawn = model.judge(x, y), model.judge(model.draw(y).detach(), y)
    loss = F.binary_cross_entropy_with_logits(real, torch.full_like(real, 0.9))  # not 1, or it grows too sure
    loss = loss + F.binary_cross_entropy_with_logits(drawn, torch.zeros_like(drawn))
    return loss, {"told_apart": torch.cat([real > 0, drawn < 0]).float().mean()}


def deceive(model, batch):
    """The generator's loss: what it draws should be taken for real."""
    _, y = batch
    drawn = model.judge(model.draw(y), y)
    return F.binary_cross_entropy_with_logits(drawn, torch.ones_like(drawn))


def blocks(picture):
    """A picture as text: each character is two pixels, one above the other."""
    bright = picture > 0.45
    return "\n".join("".join(" ▄▀█"[i] for i in row) for row in 2 * bright[::2] + bright[1::2])


def png(picture):
    """A picture as the bytes of a greyscale PNG file, each pixel 8 x 8 large."""
    large = np.kron(np.uint8(255 * picture), np.ones((8, 8), np.uint8))
    head = struct.pack(">IIBBBBB", large.shape[1], large.shape[0], 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in large))
    chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    framed = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def main(directory: Path, max_epochs: int, compile: bool) -> None:
    torch.set_num_threads(1)  # more only get in each other's way with a model this small
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
    task = fncb.Task(
        GAN(),
        loss={"discriminator": tell_apart, "generator": deceive},
        optimizer={"discriminator": adam, "generator": adam},  # each moves the submodule of its name
        predict=lambda model, classes: model.draw(classes),
    )
    run = fncb.fit(task, digits(), callbacks=ema(0.995), max_epochs=max_epochs, compile=compile, seed=0)
    print(f"{run.step} rounds in {run.seconds:.0f} s. The step ran as {run.compiled}.")
    print(f"In the last epoch {run.metrics['told_apart_epoch']:.0%} were told apart; 50% is guessing.")

    task.model.load_state_dict({**task.model.state_dict(), **run.step_state["ema"]})
    drawn = fncb.predict(task, [torch.eye(10).repeat(10, 1)]).predictions[0].cpu()
    apart = F.pad(drawn.view(10, 10, 8, 8), (0, 0, 1, 1), value=-1)  # rows of digits, black between them
    picture = (apart.transpose(1, 2).reshape(100, 80).numpy() + 1) / 2
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "samples.png").write_bytes(png(picture))
    print(blocks(picture[:20]))
    print(f"Ten of each: {directory / 'samples.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("runs/gan"), help="where the picture goes")
    parser.add_argument("--max-epochs", type=int, default=100)
    parser.add_argument("--no-compile", action="store_true", help="run the step eagerly")
    given = parser.parse_args()
    main(given.directory, given.max_epochs, not given.no_compile)
