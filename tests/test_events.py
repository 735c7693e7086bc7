"""Events: facts with defaults, metrics that are read when asked for, live fields that say so."""

import attrs
import pytest
import torch

from fncb import events as ev
from fncb.events import LiveFieldError, Metrics, MissingMetric, TrainBatchEnd, ValidationEnd


def test_every_event_can_be_made_from_nothing():
    for kind in ev.HOOKS.values():
        event = kind()
        assert (event.epoch, event.step, event.seconds) == (0, 0, 0.0)


def test_an_event_is_frozen_and_compares_by_its_facts():
    event = TrainBatchEnd(step=3, batch=torch.ones(2), metrics={"loss": 0.5})

    assert event == TrainBatchEnd(step=3, metrics={"loss": 0.5})
    assert event != TrainBatchEnd(step=3, metrics={"loss": 0.25})
    assert "batch" not in repr(event).replace("batch_idx", "")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.step = 4


def test_a_live_field_is_there_while_training():
    assert TrainBatchEnd(outputs=None).outputs is None
    assert attrs.evolve(TrainBatchEnd(batch="b"), step=1).batch == "b"


def test_a_live_field_that_is_not_there_says_so_by_name():
    with pytest.raises(LiveFieldError, match=r"TrainBatchEnd at step 5: `batch` is a live field, got none"):
        _ = TrainBatchEnd(step=5).batch


def test_metrics_stay_on_the_device_until_one_is_read():
    metrics = Metrics({"lr": 0.5}, ("loss", "acc"), torch.tensor([1.5, 0.25]))

    assert list(metrics) == ["lr", "loss", "acc"]
    assert "acc" in metrics
    assert len(metrics) == 3
    assert metrics["lr"] == 0.5
    assert metrics.pending is not None
    assert metrics["loss"] == 1.5
    assert metrics.pending is None
    assert metrics == {"lr": 0.5, "loss": 1.5, "acc": 0.25}


def test_values_read_elsewhere_are_taken_over():
    metrics = Metrics(None, ("loss",), torch.tensor([1.5]))

    metrics.resolve([2.5])

    assert metrics["loss"] == 2.5


def test_a_missing_metric_names_those_that_are_there():
    with pytest.raises(MissingMetric, match=r"no metric 'acc'. It has \['loss'\]."):
        Metrics({"loss": 1.0})["acc"]


def test_more_values_join_without_a_read_and_do_not_replace_any():
    metrics = Metrics({"a": 1.0}, ("loss",), torch.tensor([1.5]))

    more = metrics.with_values({"a": 2.0, "loss": 2.0, "lr": 0.5})

    assert more.pending is not None
    assert more == {"a": 1.0, "loss": 1.5, "lr": 0.5}


def test_every_hook_has_a_name_that_leads_back_to_its_event():
    assert ev.HOOKS["on_validation_end"] is ValidationEnd
    assert ev.HOOKS["setup"] is ev.Setup
    assert ev.HOOKS["on_exception"] is ev.ExceptionRaised
    assert all(ev.hook_name(kind) == name for name, kind in ev.HOOKS.items())
