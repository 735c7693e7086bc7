"""What a training step costs: loops written by hand, fncb and Lightning, by turns on the same batch.

Usage: python benchmarks/step.py [--try] [mlp] [transformer] [conv]
"""

import sys
from statistics import median

import torch

from loops import COMPILED, LIGHTNING, contenders
from problems import problems
from side_by_side import TRY, race, ratio, table, write

LEGEND = """\
AdamW. The set is gradient clipping by norm, EMA, a guard that skips updates that are not finite, the running mean of
the loss, early stopping, checkpoints and, in fncb, the recording of every event. Loops written by hand have none of
it. The ratios are medians of the ratios within a round. Lightning's guard looks at the loss only, and nothing is
recorded there.
"""


def main() -> None:
    chosen = problems()
    for name in [name for name in sys.argv[1:] if name in chosen] or chosen:
        problem = chosen[name]
        torch._dynamo.reset()
        times = race(contenders(problem), problem.batch, chunk=problem.chunk, rounds=3 if TRY else 20)
        against = [each for each in (COMPILED, LIGHTNING) if each in times]
        rows = [
            [loop, f"{median(seconds) * 1e6:,.0f}", *[f"{ratio(seconds, times[each]):.2f}" for each in against]]
            for loop, seconds in times.items()
        ]
        head = ["loop", "µs a step", *[f"/ {each}" for each in against]]
        write(f"A step: {problem.title}", f"{table(head, rows)}\n\n{LEGEND}")


if __name__ == "__main__":
    main()
