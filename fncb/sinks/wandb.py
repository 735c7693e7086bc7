"""Metrics, images and histograms for Weights & Biases."""

from pathlib import Path
from typing import Any, Literal

from fncb.fields import must_be_one_of
from fncb.sinks.bulk import Row
from fncb.sinks.sink import Sink
from fncb.sinks.vendor import package, sink_of_runs


def wandb(
    project: str | None = None,
    *,
    mode: Literal["offline", "online"] = "offline",
    dir: str | Path | None = None,
    id: str | None = None,
    **init: Any,
) -> Sink:
    """Gives metrics, images and histograms to Weights & Biases; needs `pip install 'fncb[wandb]'`.

    The x axis is the column `step`, the optimizer step; `epoch` and `seconds` are columns too. wandb's own counter of
    rows goes up by one a row, so that a resumed run, whose steps begin before the last that was logged, loses none.
    Rows of single batches wait for a while, up to 10 seconds, and are then read from the device in one go.

    Args:
      project: the project's name; None leaves it to wandb.
      mode: "offline" keeps the run in files, for `wandb sync` to send; "online" sends it.
      dir: where these files are, in a directory `wandb`; None for the working directory.
      id: of the run; online, a run that has it goes on, offline, `wandb sync --append` makes it go on. None for a new
        one each time.
      init: further arguments of `wandb.init`, such as `name`, `tags`, `config` and `settings`.

    Raises:
      ModuleNotFoundError: without wandb.
      ValueError: for another mode.

    Example:
      >>> import fncb
      >>> fncb.fit(task, train, val, sinks=[fncb.sinks.wandb("digits", name="wide")])  # doctest: +SKIP

    wandb reports its own errors to its makers unless the environment has `WANDB_ERROR_REPORTING=false`.
    """
    vendor = package("wandb", "wandb")
    must_be_one_of("wandb", "mode", mode, ("offline", "online"))
    goes_on = {"resume": "allow"} if id is not None and mode == "online" else {}

    def begin() -> Any:
        if dir is not None:
            Path(dir).mkdir(parents=True, exist_ok=True)  # or wandb takes a temporary one
        given = {"project": project, "mode": mode, "dir": dir, "id": id, "reinit": "create_new", **goes_on, **init}
        run = vendor.init(**given)
        run.define_metric("*", step_metric="step", step_sync=True)
        return run

    def write(run: Any, rows: list[Row]) -> None:
        for row in rows:
            run.log({**row.metrics, **row.counters})

    def image(run: Any, name: str, pixels: Any, at: Row) -> None:
        drawn = package("PIL.Image", "wandb").fromarray(pixels)  # since an array of one row would lose it
        run.log({name: vendor.Image(drawn), **at.counters})

    def histogram(run: Any, name: str, values: Any, at: Row) -> None:
        run.log({name: vendor.Histogram(values), **at.counters})

    def end(run: Any, failed: bool) -> None:
        run.finish(exit_code=int(failed))

    return sink_of_runs(begin, write, end, image, histogram)
