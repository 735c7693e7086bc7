"""A run that is cut off over and over, and ends bit for bit as one that never was.

The training runs in a process of its own. It is sent SIGTERM, as a cluster does before it takes a machine back, and
SIGKILL, which nothing can be done about; each time it is started again with `resume="last"`. In the end its weights are
compared with those of a run that was left alone.
"""

import argparse
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import fncb
from fncb.callbacks import checkpoint, early_stop, ema


def train(directory: Path, max_epochs: int) -> None:
    """Trains, or goes on from the newest checkpoint in the directory. Tells each step that is done."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    digits = TensorDataset(x, y)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10))
    task = fncb.Task(
        model,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        schedule=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=400),
        schedule_interval="step",
    )
    keep = checkpoint(directory, every_n_train_steps=20, save="async", save_on_signal=True)
    tells = fncb.Callback(
        key="tells",
        on_train_batch_end=lambda state, event: fncb.emit(state, fncb.Print(f"step {event.step}")),
    )
    fncb.fit(
        task,
        fncb.batches(digits, 64, shuffle=True, seed=0),  # goes on in the middle of an epoch
        fncb.batches(digits, 512),
        callbacks=[early_stop("val_loss", patience=50), ema(0.99), keep, tells],
        max_epochs=max_epochs,
        resume="last",
        record=directory / "events.jsonl",
        compile=False,
        progress=False,
        seed=0,
    )
    torch.save(model.state_dict(), directory / "final.pt")


def cut_off(command: list[str], after: int, by: signal.Signals) -> tuple[int, bool]:
    """Runs a command and sends it a signal after so many steps. Gives the last step, and whether it ended by itself."""
    last, told = 0, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last, told = int(line.split()[1]), told + 1
            if told == after:
                process.send_signal(by)
    return last, process.returncode == 0


def main(directory: Path, max_epochs: int) -> None:
    straight, broken = directory / "straight", directory / "broken"
    command = [sys.executable, __file__, "--max-epochs", str(max_epochs), "--train"]

    print("A run that is left alone:")
    last, _ = cut_off([*command, str(straight)], after=-1, by=signal.SIGTERM)
    print(f"  {last} steps")

    print("The same run, cut off:")
    for attempt in range(20):
        by = (signal.SIGTERM, signal.SIGKILL)[attempt % 2]
        last, ended = cut_off([*command, str(broken)], after=70, by=by)
        print(f"  {'ended' if ended else by.name} at step {last}")
        if ended:
            break

    weights = [torch.load(each / "final.pt", weights_only=True) for each in (straight, broken)]
    same = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    print(f"The weights are the same, bit for bit: {same}")

    print("\nWhat the newest checkpoint holds:")  # SIGKILL may have left the one before it, too
    fncb.inspect(broken)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("runs/survive"))
    parser.add_argument("--max-epochs", type=int, default=10)
    parser.add_argument("--train", type=Path, help="only train, into this directory")
    given = parser.parse_args()
    if given.train:
        train(given.train, given.max_epochs)
    else:
        main(given.directory, given.max_epochs)
