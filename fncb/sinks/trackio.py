"""Metrics, images and histograms for Trackio."""

from typing import Any, Literal

from fncb.sinks.bulk import Row
from fncb.sinks.sink import Sink
from fncb.sinks.vendor import package, sink_of_runs


def trackio(
    project: str,
    *,
    name: str | None = None,
    resume: Literal["never", "allow", "must"] = "never",
    **init: Any,
) -> Sink:
    """Gives metrics, images and histograms to Trackio; needs `pip install 'fncb[trackio]'`.

    Without a `space_id` or `server_url` they stay on this machine, in the directory that `TRACKIO_DIR` names in the
    environment. The x axis is the optimizer step; each row also has its `epoch` and `seconds`. Rows of single batches
    wait for a while, up to 10 seconds, and are then read from the device in one go.

    Args:
      project: the project's name.
      name: of the run; None leaves it to Trackio.
      resume: whether a run of that name goes on, as for a resumed one: "allow" if there is one, "must" or it is an
        error, "never" for a new one of the same name.
      init: further arguments of `trackio.init`, such as `space_id`, `config` and `auto_log_cpu`.

    Raises:
      ModuleNotFoundError: without trackio.

    Example:
      >>> import fncb
      >>> fncb.fit(task, train, val, sinks=[fncb.sinks.trackio("digits", name="wide")])  # doctest: +SKIP
    """
    vendor = package("trackio", "trackio")

    def begin() -> Any:
        return vendor.init(project, name=name, resume=resume, **{"embed": False, **init})

    def write(run: Any, rows: list[Row]) -> None:
        for row in rows:
            run.log({**row.metrics, "epoch": row.epoch, "seconds": row.seconds}, step=row.step)

    def image(run: Any, name: str, pixels: Any, at: Row) -> None:
        run.log({name: vendor.Image(pixels), "epoch": at.epoch, "seconds": at.seconds}, step=at.step)

    def histogram(run: Any, name: str, values: Any, at: Row) -> None:
        run.log({name: vendor.Histogram(values), "epoch": at.epoch, "seconds": at.seconds}, step=at.step)

    def end(run: Any, _: bool) -> None:
        if vendor.context_vars.current_run.get() is run:
            vendor.finish()  # which also forgets it
        else:
            run.finish()

    return sink_of_runs(begin, write, end, image, histogram)
