"""What callbacks cost that work in every step, and those that work at moments far apart: the MLP step of `step.py`.

Usage: python benchmarks/callbacks.py [--try]
"""

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import torch

import fncb
from fncb.callbacks import (
    clip_grad_norm,
    ema,
    grad_norms,
    label_smoothing,
    prune,
    skip_nonfinite,
    swa,
)
from loops import COMPILED, adamw, by_hand_compiled
from problems import Problem, loss, problems
from side_by_side import TRY, race, ratio, table, write

NONE, FIVE, MOMENTS = "no callbacks", "the five together", "swa and prune, between their moments"

IN_STEP: dict[str, Callable[[], Any]] = {
    "ema": ema,
    "clip_grad_norm": lambda: clip_grad_norm(1.0),
    "skip_nonfinite": skip_nonfinite,
    "grad_norms": grad_norms,
    "label_smoothing": lambda: label_smoothing(0.1, num_classes=10),
}
"""Those of the bar: 1.35 times the step with none, half of the loop by hand."""

LEGEND = """\
AdamW. Nothing is recorded and no host hook listens, so this is the step alone. The five are those that are listed above
them. Ratios are medians of the ratios within a round. Aimed at: the five together at most 1.35 times the step with no
callbacks, and 0.5 of the loop by hand; `swa` and `prune` nothing.
"""


def with_fncb(problem: Problem, *callbacks: Any) -> Callable[[Iterable[Any]], object]:
    def run(batches: Iterable[Any]) -> None:
        task = fncb.Task(problem.model(), loss=loss, optimizer=adamw)
        fncb.fit(task, batches, callbacks=list(callbacks), max_epochs=1, progress=False)

    return run


def main() -> None:
    problem = problems()["mlp"]
    torch._dynamo.reset()
    moments = [swa(1e-3, swa_epoch_start=1), prune("l1_unstructured", amount=0.5)]
    contenders = {
        COMPILED: by_hand_compiled(problem),
        NONE: with_fncb(problem),
        **{name: with_fncb(problem, make()) for name, make in IN_STEP.items()},
        FIVE: with_fncb(problem, *(make() for make in IN_STEP.values())),
        MOMENTS: with_fncb(problem, *moments),
    }
    times = race(contenders, problem.batch, chunk=problem.chunk, rounds=3 if TRY else 20)
    rows = [
        [name, f"{median(seconds) * 1e6:,.0f}", *[f"{ratio(seconds, times[each]):.2f}" for each in (NONE, COMPILED)]]
        for name, seconds in times.items()
    ]
    head = ["the step with", "µs", f"/ {NONE}", f"/ {COMPILED}"]
    write("Callbacks in a step", f"{table(head, rows)}\n\n{LEGEND}")


if __name__ == "__main__":
    main()
