"""The main job: a small conv net on handwritten digits, with callbacks, a checkpoint to go on from, and hindsight.

Trains on scikit-learn's bundled scans of handwritten digits (1,797 images of 8 x 8 pixels, 10 classes).
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fncb
from fncb.callbacks import checkpoint, clip_grad_norm, early_stop, ema, skip_nonfinite


def loaders(seed=0):
    """Train, validation and test loaders: 1,197, 300 and 300 images with values in [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, val, test = (TensorDataset(x[part], y[part]) for part in order.split([len(x) - 600, 300, 300]))
    return (
        DataLoader(train, batch_size=64, shuffle=True),
        DataLoader(val, batch_size=300),
        DataLoader(test, batch_size=300),
    )


def network():
    """Two convolutions, batch normalisation and dropout: 39,050 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 10),
    )


def loss(model, batch):
    """Cross entropy, and the accuracy beside it."""
    x, y = batch
    out = model(x)
    return F.cross_entropy(out, y), {"acc": (out.argmax(1) == y).float().mean()}


def main(directory: Path, max_epochs: int, compile: bool) -> None:
    torch.set_num_threads(1)  # more only get in each other's way with a model this small
    train, val, test = loaders()
    recording = directory / "events.jsonl"

    def task():
        torch.manual_seed(0)
        return fncb.Task(network(), loss=loss, optimizer=partial(torch.optim.AdamW, lr=2e-3))

    callbacks = fncb.compose(
        early_stop("val_loss", patience=3),
        checkpoint(directory, monitor="val_loss", save_last=True),
        ema(0.95),
        clip_grad_norm(1.0),
        skip_nonfinite(),
    )
    fit = partial(fncb.fit, callbacks=callbacks, compile=compile, seed=0, progress=True)

    print("Training, a line an epoch or a bar on a terminal:")
    trained = task()
    run = fit(trained, train, val, max_epochs=max_epochs, record=recording)
    print(f"\nStopped after epoch {run.epoch}: {run.stopped.reason if run.stopped else 'all epochs done'}")
    print(f"The step ran as {run.compiled}, compiled again {run.recompilations} time(s).")

    accuracy = fncb.test(trained, test, progress=False).metrics["test_acc"]
    print(f"Test accuracy: {accuracy:.2%}, with the averages that training ended with")

    print("\nGoing on from the last checkpoint, for two epochs more:")
    longer = fit(task(), train, val, max_epochs=run.epoch + 2, resume="last", record=recording)
    print(f"Went on from {longer.resumed.path.name} and made {longer.step - run.step} steps more.")

    print("\nWhat other patience would have done, from the recording alone:")
    patience = {
        f"patience={n}": [early_stop("val_loss", patience=n), checkpoint(directory, monitor="val_loss")]
        for n in (1, 2, 3, 5)
    }
    print(fncb.whatif(recording, patience))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("runs/digits"), help="where checkpoints and events go")
    parser.add_argument("--max-epochs", type=int, default=30)
    parser.add_argument("--no-compile", action="store_true", help="run the step eagerly")
    given = parser.parse_args()
    main(given.directory, given.max_epochs, not given.no_compile)
