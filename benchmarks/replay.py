"""How fast events are folded, from memory and from a file, and what importing fncb takes.

Usage: python benchmarks/replay.py [--try]
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

from fncb import compose, history, replay, whatif
from fncb.callbacks import checkpoint, early_stop
from fncb.events import HOOKS, Event, Saved, TrainBatchEnd, ValidationEnd
from fncb.recorder import Recorder
from fncb.recording import read
from side_by_side import TRY, table, write

N = 20_000 if TRY else 1_000_000
callbacks = compose(early_stop("val_loss"), checkpoint("runs/x", monitor="val_loss"))


def events() -> list[Event]:
    """A run of epochs of 998 batches, each with a better validation and a checkpoint at its end."""
    made: list[Event] = []
    for epoch in range(N // 1000):
        steps = range(epoch * 998, epoch * 998 + 998)
        made += [TrainBatchEnd(epoch=epoch, step=s, batch_idx=i, metrics={"loss": 0.5}) for i, s in enumerate(steps)]
        name = f"runs/x/epoch={epoch}-step={steps[-1]}.safetensors"
        made.append(ValidationEnd(epoch=epoch, step=steps[-1], metrics={"val_loss": 1 / (1 + epoch)}))
        made.append(Saved(epoch=epoch, step=steps[-1], path=name, requested=name))
    return made


def recorded(events: list[Event], path: Path) -> Path:
    recorder = Recorder(path, {"recorded": [kind.__name__ for kind in HOOKS.values()]})
    for moment in history(callbacks, events):
        recorder.event(moment.event)
        for effect in moment.effects:
            recorder.effect(effect)
    recorder.close()
    return recorder.path


def seconds(do: Callable[[], object]) -> float:
    """The median of five times."""
    times = []
    for _ in range(5):
        began = perf_counter()
        do()
        times.append(perf_counter() - began)
    return median(times)


def milliseconds_to_import(code: str) -> float:
    """What running `code` in a new interpreter takes, beyond an interpreter that does nothing; by turns."""

    def once(code: str) -> float:
        began = perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return perf_counter() - began

    return 1e3 * median(once(code) - once("pass") for _ in range(3 if TRY else 20))


def main() -> None:
    made = events()
    with tempfile.TemporaryDirectory() as folder:
        path = recorded(made, Path(folder, "events.jsonl"))
        size = path.stat().st_size
        heard = [event for event in made if callbacks.hears(type(event))]
        setting = {"patience=3": early_stop("val_loss", patience=3, min_delta=0.01)}
        asked = seconds(lambda: whatif(path, setting))
        rows = [
            [what, f"{len(of) / seconds(do):,.0f}"]
            for what, of, do in (
                ("replay, from memory", made, lambda: replay(callbacks, made)),
                ("... of events that are all heard", heard, lambda: replay(callbacks, heard)),
                ("replay, from a file", made, lambda: replay(callbacks, path)),
                ("only reading the file", made, lambda: read(path)),
            )
        ]
    write(
        "Replay",
        table(["through compose(early_stop, checkpoint)", "events a second"], rows)
        + f"\n\n{len(made):,} events: 998 batches, a validation and a save, again and again. The file has "
        f"{size / len(made):.0f} bytes an event. `whatif` of that file with one setting of `early_stop` takes "
        f"{asked:.2f} s (aimed at: 3 s). Medians of five.",
    )

    rows = [
        [code.replace("\n", "; "), f"{milliseconds_to_import(code):.0f}"]
        for code in ("import fncb", "import fncb; fncb.replay; fncb.callbacks.early_stop", "import fncb; fncb.fit")
    ]
    write(
        "Import",
        table(["in a new interpreter", "ms"], rows)
        + "\n\nBeyond an interpreter that does nothing; medians of 20. Only the last one loads torch.",
    )


if __name__ == "__main__":
    main()
