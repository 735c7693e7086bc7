"""The MLflow sink, by what its client reads."""

import threading
from math import isnan

import numpy
import pytest
from PIL import Image

from fncb.events import Metrics, ValidationEnd
from fncb.session import Session
from fncb.sinks import mlflow
from tests.sinks.logged import COLOUR_BYTES, GREY_BYTES, log_metrics, show

# MLflow uses what SQLAlchemy has deprecated, when it is first imported
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for all tests, since making a database takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


def client(folder):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def runs(folder, experiment):
    """The runs of an experiment, the first one first."""
    of = client(folder).get_experiment_by_name(experiment).experiment_id
    return client(folder).search_runs([of], order_by=["attributes.start_time ASC"])


def points(folder, run, name):
    return [(each.step, each.value) for each in client(folder).get_metric_history(run.info.run_id, name)]


def test_metrics_have_their_steps_and_the_run_its_end(folder):
    threads = set(threading.enumerate())
    sink = mlflow("metrics", tracking_uri=folder, run_name="name", tags={"a": "b"})

    sink.start()
    log_metrics(sink)
    sink.close()
    assert set(threading.enumerate()) == threads

    (run,) = runs(folder, "metrics")
    assert points(folder, run, "loss") == [(1, 0.5), (2, 0.25)]
    assert points(folder, run, "norm/a._") == [(1, 2.0)]
    assert dict(points(folder, run, "epoch")) == {1: 0.0, 2: 1.0}
    assert points(folder, run, "seconds") == [(1, 0.25), (2, 0.5), (2, 0.75)]
    ((step, value),) = points(folder, run, "val_loss")
    assert (step, isnan(value)) == (2, True)
    ((step, value),) = points(folder, run, "val_acc")
    assert (step, value > 1e308) == (2, True)  # the largest number that a database has
    assert (run.info.status, run.info.run_name, run.data.tags["a"]) == ("FINISHED", "name", "b")


def test_images_are_kept_beside_the_database(folder):
    sink = mlflow("images", tracking_uri=folder)

    show(sink)
    sink.close()

    (run,) = runs(folder, "images")
    found = {each.path: each for each in client(folder).list_artifacts(run.info.run_id, "images")}
    (grey,) = [path for path in found if "grey+step+2+" in path and path.endswith(".png")]
    (colours,) = [path for path in found if "colours+step+3+" in path and path.endswith(".png")]
    local = client(folder).download_artifacts(run.info.run_id, "images")
    assert pixels(local, grey) == GREY_BYTES
    assert pixels(local, colours) == COLOUR_BYTES
    assert run.info.artifact_uri.startswith((folder / "artifacts").as_uri())


def pixels(local, path):
    return numpy.asarray(Image.open(f"{local}/{path.removeprefix('images/')}")).tolist()


def test_a_run_goes_on_by_its_id_and_is_a_new_one_without(folder):
    sink = mlflow("ids", tracking_uri=folder)
    for step in (1, 2):
        sink.log(Metrics({"val_loss": 0.5}), ValidationEnd(step=step, seconds=1.0))
        sink.close()

    first = runs(folder, "ids")[0]
    again = mlflow("ids", tracking_uri=folder, run_id=first.info.run_id)
    again.start()
    assert client(folder).get_run(first.info.run_id).info.status == "RUNNING"
    again.log(Metrics({"val_loss": 0.25}), ValidationEnd(step=3, seconds=1.0))
    again.close()

    assert [points(folder, run, "val_loss") for run in runs(folder, "ids")] == [[(1, 0.5), (3, 0.25)], [(2, 0.5)]]
    assert {run.info.status for run in runs(folder, "ids")} == {"FINISHED"}


def test_a_run_that_failed_says_so(folder):
    def breaks():
        with Session(sinks=[mlflow("failed", tracking_uri=folder)]) as session:
            session(ValidationEnd(step=1, metrics={"val_loss": 0.5}))
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        breaks()

    (run,) = runs(folder, "failed")
    assert (run.info.status, points(folder, run, "val_loss")) == ("FAILED", [(1, 0.5)])


def test_more_metrics_than_it_takes_at_once_are_all_there(folder):
    sink = mlflow("many", tracking_uri=folder)

    sink.log(Metrics({f"metric {i}": float(i) for i in range(1100)}), ValidationEnd(step=1, seconds=1.0))
    sink.close()

    (run,) = runs(folder, "many")
    assert len(run.data.metrics) == 1102
