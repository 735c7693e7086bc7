"""What callbacks cost a step of `fit`, whether they listen to it or not.

python benchmarks/dispatch.py [--try]
"""

from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

import fncb
from fncb.callback import Callback
from side_by_side import TRY, race, table, write


def listens(i: int) -> Callback[Any]:
    return Callback(key=f"listens-{i}", on_train_batch_end=lambda state, event: state)


def does_not(i: int) -> Callback[Any]:
    return Callback(key=f"does-not-{i}", on_validation_end=lambda state, event: state)


def fit_with(callbacks: list[Callback[Any]]) -> Callable[[Iterable[Any]], object]:
    def run(batches: Iterable[Any]) -> None:
        task = fncb.Task(
            nn.Linear(4, 1),
            loss=lambda model, batch: model(batch).square().mean(),
            optimizer=partial(torch.optim.SGD, lr=0.01),
        )
        fncb.fit(task, batches, callbacks=callbacks, max_epochs=1, progress=False)

    return run


def main() -> None:
    counts = (1, 10, 100)
    makers = {"listen": listens, "do not": does_not}
    contenders = {(0, ""): fit_with([])} | {
        (n, which): fit_with([make(i) for i in range(n)]) for which, make in makers.items() for n in counts
    }
    times = race(contenders, torch.randn(4, 4), chunk=200 if TRY else 1000, rounds=3 if TRY else 60)

    none = times[0, ""]
    rows = [["none", f"{median(none) * 1e6:.2f}", "", ""]]
    for (n, which), seconds in times.items():
        if n:
            more = median(one - zero for one, zero in zip(seconds, none, strict=True)) * 1e6
            rows.append([f"{n} that {which}", f"{median(seconds) * 1e6:.2f}", f"{more:+.2f}", f"{more / n:+.3f}"])
    write(
        "Dispatch",
        table(["callbacks", "µs a step", "more than none", "for each"], rows)
        + "\n\nA compiled step of a linear layer. Those that listen return their state from `on_train_batch_end`; the "
        "first of them also has the loop build the event. The others listen to `on_validation_end`. Differences are "
        "medians of the differences within a round.",
    )


if __name__ == "__main__":
    main()
