"""Metrics and images for MLflow."""

import re
from pathlib import Path
from typing import Any

from fncb.sinks.bulk import Row
from fncb.sinks.sink import Sink
from fncb.sinks.vendor import package, sink_of_runs


def mlflow(
    experiment: str = "Default",
    *,
    tracking_uri: str | Path | None = None,
    run_id: str | None = None,
    run_name: str | None = None,
    tags: dict[str, Any] | None = None,
) -> Sink:
    """Gives metrics and images to MLflow; needs `pip install 'fncb[mlflow]'`.

    The x axis is the optimizer step; each row also has the metrics `epoch` and `seconds`, and the time at which it was
    logged. Rows of single batches wait for a while, up to 10 seconds, and are then read from the device in one go.
    Characters that MLflow has not in names become `_`. The run ends as FINISHED, or as FAILED if ours has.
    Histograms are not kept, as MLflow has none.

    Args:
      experiment: the experiment's name; made if needed.
      tracking_uri: of the server or database; a `Path` is a directory, made if needed, for a database `mlflow.db` and
        the images. None is what MLflow is set to, which without any setting is files in the working directory.
      run_id: of a run to go on with, as for a resumed one; None for a new one each time.
      run_name: of a new run; None leaves it to MLflow.
      tags: of a new run.

    Raises:
      ModuleNotFoundError: without mlflow.

    Example:
      >>> import fncb
      >>> fncb.fit(task, train, val, sinks=[fncb.sinks.mlflow("digits", tracking_uri=Path("runs"))])  # doctest: +SKIP

    MLflow counts uses for its makers unless the environment has `MLFLOW_DISABLE_TELEMETRY=true`.
    """
    vendor = package("mlflow", "mlflow")

    def begin() -> tuple[Any, str]:
        uri, place = tracking_uri, None
        if isinstance(uri, Path):
            uri.mkdir(parents=True, exist_ok=True)
            place, uri = (uri / "artifacts").absolute().as_uri(), f"sqlite:///{(uri / 'mlflow.db').absolute()}"
        client = vendor.MlflowClient(uri)
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            return client, run_id
        found = client.get_experiment_by_name(experiment)
        of = client.create_experiment(experiment, artifact_location=place) if found is None else found.experiment_id
        return client, client.create_run(of, run_name=run_name, tags=tags).info.run_id

    def write(run: tuple[Any, str], rows: list[Row]) -> None:
        client, id = run
        metrics = [
            vendor.entities.Metric(_allowed(name), value, int(row.time * 1000), row.step)
            for row in rows
            for name, value in {"epoch": row.epoch, "seconds": row.seconds, **row.metrics}.items()
        ]
        client.log_batch(id, metrics, synchronous=True)

    def image(run: tuple[Any, str], name: str, pixels: Any, at: Row) -> None:
        client, id = run
        client.log_image(id, pixels, key=_allowed(name), step=at.step, synchronous=True)

    def end(run: tuple[Any, str], failed: bool) -> None:
        client, id = run
        client.set_terminated(id, "FAILED" if failed else "FINISHED")

    return sink_of_runs(begin, write, end, image)


def _allowed(name: str) -> str:
    return re.sub(r"[^\w\-./ ]", "_", name, flags=re.ASCII)
