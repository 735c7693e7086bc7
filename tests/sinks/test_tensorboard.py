"""The TensorBoard sink, by what TensorBoard reads of it."""

import io
from functools import partial

import numpy
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fncb
from fncb.callback import Callback, emit
from fncb.effects import LogHistogram, LogImage
from fncb.events import Metrics, ValidationEnd
from fncb.sinks import tensorboard
from tests.sinks.logged import COLOUR_BYTES, GREY_BYTES, log_metrics, show


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"histograms": 0, "images": 0, "scalars": 0})  # 0 is all
    accumulator.Reload()
    return accumulator


def scalars(folder, name):
    return [(each.step, each.value) for each in read(folder).Scalars(name)]


def test_metrics_are_curves_over_steps(tmp_path):
    sink = tensorboard(tmp_path)

    log_metrics(sink)
    sink.close()

    assert scalars(tmp_path, "loss") == [(1, 0.5), (2, 0.25)]
    assert scalars(tmp_path, "norm/a.*") == [(1, 2.0)]
    assert scalars(tmp_path, "epoch") == [(1, 0.0), (2, 1.0), (2, 1.0)]
    assert [(step, str(value)) for step, value in scalars(tmp_path, "val_loss")] == [(2, "nan")]
    assert scalars(tmp_path, "val_acc") == [(2, float("inf"))]


def test_a_row_has_the_time_at_which_it_was_logged(tmp_path, monkeypatch):
    times = iter([100.0, 200.5])
    monkeypatch.setattr("fncb.sinks.bulk.time.time", lambda: next(times, 300.0))
    sink = tensorboard(tmp_path)

    log_metrics(sink)
    sink.close()

    assert [each.wall_time for each in read(tmp_path).Scalars("loss")] == [100.0, 200.5]


def test_images_and_histograms_are_shown_at_their_steps(tmp_path):
    sink = tensorboard(tmp_path)

    show(sink)
    sink.close()

    events = read(tmp_path)
    (grey,), (colours,) = events.Images("images/grey"), events.Images("images/colours")
    assert (grey.step, pixels(grey)) == (2, [[[value] * 3 for value in row] for row in GREY_BYTES])
    assert (colours.step, pixels(colours)) == (3, COLOUR_BYTES)
    (weights,) = events.Histograms("weights")
    values = weights.histogram_value
    assert (weights.step, values.num, values.min, values.max, values.sum) == (3, 3.0, 1.0, 2.0, 5.0)


def pixels(event):
    return numpy.asarray(Image.open(io.BytesIO(event.encoded_image_string))).tolist()


@pytest.mark.parametrize(("purge_step", "steps"), [(None, [1, 2, 2]), (2, [1, 2])])
def test_a_directory_that_exists_is_gone_on_with(tmp_path, purge_step, steps):
    for times, given in ((2, None), (1, purge_step)):
        sink = tensorboard(tmp_path, purge_step=given)
        for step in (1, 2)[-times:]:
            sink.log(Metrics({"val_loss": 0.5}), ValidationEnd(step=step))
        sink.close()

    assert len([*tmp_path.iterdir()]) == 2
    assert [step for step, _ in scalars(tmp_path, "val_loss")] == steps


def test_a_run_brings_metrics_images_and_histograms(tmp_path):
    def on_train_epoch_end(state, event):
        return emit(state, LogImage("image", torch.zeros(1, 2, 2)), LogHistogram("values", torch.ones(2)))

    shows = Callback(key="shows", init=int, emits=(LogImage, LogHistogram), on_train_epoch_end=on_train_epoch_end)
    loss, sgd = (lambda model, batch: model(batch).square().mean()), partial(torch.optim.SGD, lr=0.1)
    task, data = fncb.Task(torch.nn.Linear(2, 1), loss=loss, optimizer=sgd), [torch.ones(4, 2)] * 3
    settings = {"max_epochs": 2, "log_every_n_steps": 1, "compile": False, "progress": False}

    run = fncb.fit(task, data, data[:1], callbacks=shows, sinks=[tensorboard(tmp_path)], **settings)
    fncb.fit(task, data, sinks=[tensorboard(tmp_path / "dev_run")], fast_dev_run=True, **settings)

    events = read(tmp_path)
    assert [each.step for each in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [each.step for each in events.Scalars("loss_epoch")] == [3, 6]
    assert [each.step for each in events.Scalars("val_loss")] == [3, 6]
    assert events.Scalars("val_loss")[-1].value == pytest.approx(run.metrics["val_loss"])
    assert [each.step for each in events.Images("image")] == [3, 6]
    assert [each.step for each in events.Histograms("values")] == [3, 6]
    assert not (tmp_path / "dev_run").exists()
