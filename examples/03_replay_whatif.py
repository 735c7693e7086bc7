"""Hindsight: why a run stopped, what other settings would have done, where two runs part. No GPU, no data, seconds.

Trains a small network on scikit-learn's handwritten digits, twice, and then asks the recordings.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import fncb
from fncb.callbacks import checkpoint, clip_grad_norm, early_stop
from fncb.events import ValidationEnd


def batches():
    """Training and validation batches of 64 digits: 1,197 and 600 of 64 pixels in [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    together = list(zip(x[order].split(64), y[order].split(64), strict=True))
    return together[:19], together[19:]


def train(record: Path, lr: float, compile: bool) -> fncb.Run:
    """A run that stops early, with a recording of all that happened in it."""
    torch.manual_seed(0)
    task = fncb.Task(
        nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.3), nn.Linear(48, 10)),
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        optimizer=partial(torch.optim.AdamW, lr=lr),
    )
    callbacks = [
        early_stop("val_loss", patience=3, min_delta=1e-3),
        checkpoint(record.with_suffix(""), monitor="val_loss"),
        clip_grad_norm(1.0),
    ]
    fit = partial(fncb.fit, callbacks=callbacks, max_epochs=60, compile=compile, progress=False, seed=0)
    return fit(task, *batches(), record=record)


def main(directory: Path, compile: bool) -> None:
    torch.set_num_threads(1)  # more only get in each other's way with a model this small
    run = train(directory / "first.jsonl", 1e-2, compile)
    recording = run.recording

    print("Why did it stop, and which checkpoint is the best?")
    print(fncb.explain(recording))

    print("\nWhat if patience or min_delta had been others?")
    settings = fncb.grid(early_stop, "val_loss", patience=[1, 2, 3, 5], min_delta=[0.0, 1e-2])
    print(fncb.whatif(recording, settings))

    print("\nWhat did early_stop remember at each validation? Its last five:")
    stop = early_stop("val_loss", patience=3, min_delta=1e-3)
    moments = [each for each in fncb.history(stop, recording) if isinstance(each.event, ValidationEnd)]
    for event, state in [(each.event, each.state) for each in moments[-5:]]:
        val_loss = event.metrics["val_loss"]
        print(f"  epoch {event.epoch}: val_loss {val_loss:.4f}, best {state.best:.4f}, stale {state.stale}")

    replayed = fncb.replay(stop, recording)
    print(f"\nReplayed, it ends with the state that it had live: {replayed.state == run.state[stop.key]}")

    print("\nThe same run with another learning rate, and where the two part:")
    other = train(directory / "second.jsonl", 2e-2, compile)
    print(fncb.diff(recording, other.recording))

    print(f"\nLook at both:  fncb report {recording} {other.recording} -o {directory / 'runs.html'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("runs/hindsight"), help="where recordings and files go")
    parser.add_argument("--no-compile", action="store_true", help="run the step eagerly")
    given = parser.parse_args()
    main(given.directory, not given.no_compile)
