"""Metrics, images and histograms for TensorBoard."""

from pathlib import Path
from typing import Any

from fncb.sinks.bulk import Row
from fncb.sinks.sink import Sink
from fncb.sinks.vendor import package, sink_of_runs


def tensorboard(log_dir: str | Path, *, purge_step: int | None = None) -> Sink:
    """Writes metrics, images and histograms to a directory for TensorBoard; needs `pip install 'fncb[tensorboard]'`.

    The x axis is the optimizer step; each row of metrics also has its `epoch`. Rows of single batches wait for a while,
    up to 10 seconds, and are then read from the device in one go, each with the time at which it was logged.

    A directory is a run to TensorBoard, and each of ours adds a file of its own to it. So a resumed run goes on in the
    curves of the one before if it is given the same directory.

    Args:
      log_dir: made if needed.
      purge_step: TensorBoard hides what the directory has from this step on: that from which a run goes on.

    Raises:
      ModuleNotFoundError: without tensorboard.

    Example:
      >>> import tempfile
      >>> from fncb.events import Metrics, ValidationEnd
      >>> where = Path(tempfile.mkdtemp())
      >>> sink = tensorboard(where)
      >>> sink.log(Metrics({"val_loss": 0.5}), ValidationEnd(epoch=0, step=10))
      >>> sink.close()
      >>> [file.name[:19] for file in where.iterdir()]
      ['events.out.tfevents']
    """
    vendor = package("torch.utils.tensorboard", "tensorboard")

    def begin() -> Any:
        return vendor.SummaryWriter(str(log_dir), purge_step=purge_step)

    def write(writer: Any, rows: list[Row]) -> None:
        for row in rows:
            for name, value in {"epoch": row.epoch, **row.metrics}.items():
                writer.add_scalar(name, value, row.step, row.time)
        writer.flush()

    def image(writer: Any, name: str, pixels: Any, at: Row) -> None:
        writer.add_image(name, pixels, at.step, dataformats="HW" if pixels.ndim == 2 else "HWC")

    def histogram(writer: Any, name: str, values: Any, at: Row) -> None:
        writer.add_histogram(name, values, at.step)

    return sink_of_runs(begin, write, lambda writer, _: writer.close(), image, histogram)
