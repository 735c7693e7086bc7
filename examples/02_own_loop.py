"""Your own loop, with the same callbacks: a `Session` takes events and says when to stop."""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import fncb
from fncb.callbacks import checkpoint, early_stop
from fncb.events import TrainBatchEnd, ValidationEnd


def main(directory: Path, max_epochs: int) -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(x))
    train, val = order[:-300], order[-300:]
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    callbacks = fncb.compose(
        early_stop("val_loss", patience=2, min_delta=0.005), checkpoint(directory, monitor="val_loss")
    )
    with fncb.Session(
        callbacks, objects={"model": model, "optimizer": optimizer}, record=directory / "events.jsonl"
    ) as session:
        resumed = session.resume("last")
        step = resumed.step if resumed else 0
        for epoch in range(resumed.epoch + 1 if resumed else 0, max_epochs):
            for batch_idx, rows in enumerate(train[torch.randperm(len(train))].split(64)):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[rows]), y[rows])
                loss.backward()
                optimizer.step()
                step += 1
                session(TrainBatchEnd(epoch=epoch, step=step, batch_idx=batch_idx, metrics={"loss": loss.item()}))
            with torch.no_grad():
                val_loss = F.cross_entropy(model(x[val]), y[val]).item()
            print(f"epoch {epoch}: val_loss {val_loss:.4f}")
            session(ValidationEnd(epoch=epoch, step=step, metrics={"val_loss": val_loss}))
            if session.stopped:
                break

    print(f"Stopped: {session.stopped.reason if session.stopped else 'all epochs done'}")
    best = session.state["checkpoint(val_loss)"]
    print(f"Best: {Path(best.best_model_path).name}, val_loss {best.best_model_score:.4f}")

    replayed = fncb.replay(callbacks, session.recording)
    print(f"The recording replays to the same state: {replayed.state == session.state}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("runs/own_loop"), help="where checkpoints and events go")
    parser.add_argument("--max-epochs", type=int, default=100)
    given = parser.parse_args()
    main(given.directory, given.max_epochs)
