"""How large the page of a long run is, how long it takes to write, and how long a browser takes to open it.

Usage: python benchmarks/page.py [--try]

Chromium and its driver must be there: apt-get install chromium chromium-driver.
"""

import tempfile
from array import array
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter

import attrs
from selenium import webdriver

from fncb import compose
from fncb.callback import Callback
from fncb.callbacks import checkpoint, early_stop
from fncb.events import Saved, TrainBatchEnd, ValidationEnd
from fncb.page.html import report
from replay import recorded
from side_by_side import TRY, table, write

SIZES = (1_000,) if TRY else (1_000, 100_000, 1_000_000)
OPENED = 1 if TRY else 5
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
READY = "return 'ready' in document.documentElement.dataset ? Number(document.documentElement.dataset.ready) : null"


@attrs.frozen
class MeanState:
    batches: int = 0
    total: float = 0.0


def mean() -> Callback[MeanState]:
    """Changes its state at every batch."""

    def on_train_batch_end(state: MeanState, event: TrainBatchEnd) -> MeanState:
        return MeanState(state.batches + 1, state.total + event.metrics["loss"])

    return Callback(key="mean", init=MeanState, on_train_batch_end=on_train_batch_end)


def events(n: int) -> list[TrainBatchEnd | ValidationEnd | Saved]:
    """Epochs of 998 batches, a validation and a checkpoint; three metrics a batch, noise as a device would give it."""
    made: list[TrainBatchEnd | ValidationEnd | Saved] = []
    random = Random(0)
    noise = iter(array("f", (random.random() for _ in range(3 * n))))
    for epoch in range(n // 1000):
        for i in range(998):
            step = epoch * 998 + i + 1
            metrics = {"loss": next(noise), "acc": next(noise), "grad_norm": next(noise)}
            made.append(TrainBatchEnd(epoch=epoch, step=step, seconds=step / 77, batch_idx=i, metrics=metrics))
        now = {"epoch": epoch, "step": step, "seconds": step / 77}
        made.append(ValidationEnd(**now, metrics={"val_loss": 1 / (1 + epoch)}))
        name = f"runs/x/epoch={epoch}-step={step}.safetensors"
        made.append(Saved(**now, path=name, requested=name, bytes=512_000, took=0.02))
    return made


def seconds_to_open(page: Path, profile: Path) -> float:
    """From the start of the navigation until the page says that it is drawn; the browser is new each time."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path="/usr/bin/chromedriver")
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.get(page.as_uri())
        while (ready := browser.execute_script(READY)) is None:
            pass
        return ready / 1e3
    finally:
        browser.quit()


def main() -> None:
    rows = []
    callbacks = compose(early_stop("val_loss"), checkpoint("runs/x", monitor="val_loss"), mean())
    with tempfile.TemporaryDirectory() as folder:
        for n in SIZES:
            path = recorded(events(n), Path(folder, f"{n}.jsonl"))
            began = perf_counter()
            page = report(path, Path(folder, f"{n}.html"), callbacks=callbacks)
            wrote = perf_counter() - began
            opened = [seconds_to_open(page, Path(folder, f"{n}-{i}")) for i in range(OPENED)]
            size = page.stat().st_size / 1e6
            rows.append([f"{n:,} events", f"{wrote:.1f}", f"{size:.2f}", f"{median(opened):.2f}"])
    write(
        "The page of a run",
        table(["a recording of", "s to write", "MB", "s to open"], rows)
        + "\n\nEpochs of 998 batches with three metrics, a validation and a checkpoint; `early_stop`, `checkpoint` "
        "and a callback whose state changes at every batch. To write: read, folded, and other patience tried. To open: "
        "from the start of the navigation in a new headless Chromium until the curves are drawn, medians of "
        f"{OPENED}. Aimed at for 100,000 events: 8 MB and 3 s. Of more than 200,000 events some are left out. "
        "plotly.js is 1.96 MB of each page.",
    )


if __name__ == "__main__":
    main()
