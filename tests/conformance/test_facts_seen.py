"""The facts of facts.md on what people see, with their numbers, and what callbacks.md says beside them."""

import pytest
import torch
import torchmetrics
from torch import nn

from fncb import events as ev
from fncb.callbacks.progress_bar import progress_bar
from fncb.callbacks.rich_progress_bar import rich_progress_bar
from fncb.callbacks.tqdm_progress_bar import tqdm_progress_bar
from fncb.effects import Render
from fncb.loop import predict, test, validate
from fncb.recording import read
from tests.conformance.runs import batches, raises_in, task, train

STAGES = {"epoch": "train", "validation": "validate", "sanity check": "sanity_check"}
NAMES = {"a_epoch": "a", "val_b": "b"}


class Shown:
    """Notes what a bar shows where Lightning's is given metrics: after a batch, a validation, an epoch."""

    def __init__(self):
        self.seen, self.closed = [], 0

    def render(self, effect, event):
        if isinstance(event, ev.TrainBatchEnd | ev.ValidationEnd | ev.TrainEpochEnd):
            metrics = {NAMES[name]: value for name, value in effect.metrics.items() if name in NAMES}
            self.seen.append((STAGES[effect.label.rstrip(" 0123456789")], event.epoch, event.step, metrics))

    def close(self):
        self.closed += 1


def counting():
    """A task whose model counts its steps: `a` is the highest count of an epoch, `b` the one at a validation."""
    model, highest = nn.Linear(32, 2), torchmetrics.MaxMetric()
    model.register_buffer("steps", torch.zeros(()))

    def loss(model, batch):
        highest.update(model.steps)
        model.steps += 1
        return model(batch).square().mean(), {"a": highest}

    return task(model, loss=loss, validate=lambda model, batch: (model(batch).mean(), {"b": model.steps.clone()}))


def test_f58_a_bar_shows_the_last_validation_and_the_last_epoch():
    shown = Shown()

    train(counting(), batches(2), batches(2), callbacks=progress_bar(shown, refresh_rate=1e9), max_epochs=2)

    assert shown.seen == [
        ("sanity_check", 0, 0, {"b": 0}),
        ("train", 0, 1, {}),
        ("train", 0, 2, {}),
        ("validate", 0, 2, {"b": 2}),
        ("train", 0, 2, {"a": 1, "b": 2}),
        ("train", 1, 3, {"a": 1, "b": 2}),
        ("train", 1, 4, {"a": 1, "b": 2}),
        ("validate", 1, 4, {"a": 1, "b": 4}),
        ("train", 1, 4, {"a": 3, "b": 4}),
    ]
    assert shown.closed == 1


def test_f58_a_run_that_goes_on_shows_what_was_known(tmp_path):
    from fncb.callbacks import checkpoint

    for epochs, resume in ((1, None), (2, tmp_path)):
        shown = Shown()
        callbacks = [progress_bar(shown, refresh_rate=1e9), checkpoint(tmp_path)]
        train(counting(), batches(2), batches(2), callbacks=callbacks, max_epochs=epochs, resume=resume)

    assert shown.seen[:2] == [("train", 1, 3, {"a": 1, "b": 2}), ("train", 1, 4, {"a": 1, "b": 2})]


@pytest.mark.parametrize(("limit", "sanity"), [(3, 3), (8, 4)])
def test_f16_the_bar_of_validation_sees_each_batch_and_those_of_the_sanity_check(tmp_path, limit, sanity):
    settings = {"max_epochs": 3, "num_sanity_val_steps": 4, "limit_val_batches": limit}
    result = train(
        task(), batches(2), batches(), callbacks=tqdm_progress_bar(), record=tmp_path / "events.jsonl", **settings
    )

    shown = [effect for effect in read(result.recording).effects if isinstance(effect, Render) and not effect.done]
    assert sum(effect.label == "validation" for effect in shown) == 3 * limit
    assert sum(effect.label == "sanity check" for effect in shown) == sanity
    assert sum(effect.label.startswith("epoch") for effect in shown) == 6


@pytest.mark.parametrize("make", [progress_bar, rich_progress_bar, tqdm_progress_bar])
def test_where_there_is_no_terminal_an_epoch_is_one_line_with_its_validation_in_it(capsys, make):
    train(task(), batches(2), batches(2), callbacks=make(), max_epochs=2, val_check_interval=1)

    sanity, *epochs = capsys.readouterr().out.splitlines()
    assert sanity.startswith("sanity check: 2/2 batches, step 0, ")
    assert [line.split(",")[:2] for line in epochs] == [
        ["epoch 0: 2/2 batches", " step 2"],
        ["epoch 1: 2/2 batches", " step 4"],
    ]
    assert all("  val_loss " in line for line in epochs)


def test_the_other_stages_have_a_line_too(capsys):
    for stage in (validate, test, predict):
        stage(task(), batches(2), callbacks=progress_bar())

    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" batches")[0] for line in lines] == ["validation: 2/2", "test: 2/2", "prediction: 2/2"]
    assert ["val_loss" in lines[0], "test_loss" in lines[1]] == [True, True]


def test_there_is_one_bar_at_most():
    with pytest.raises(ValueError, match="keys must be unique, got two callbacks with the key 'progress_bar'"):
        train(task(), batches(2), callbacks=[progress_bar(), rich_progress_bar()])
    with pytest.raises(ValueError, match=r"there must be one progress bar at most, got .'progress_bar', 'other'"):
        train(task(), batches(2), callbacks=[progress_bar(), tqdm_progress_bar(key="other")])


def test_a_bar_is_closed_when_something_raises():
    shown = Shown()

    with pytest.raises(ZeroDivisionError):
        train(
            task(),
            batches(2),
            callbacks=[progress_bar(shown), raises_in("on_train_epoch_end", ZeroDivisionError())],
            max_epochs=1,
        )

    assert shown.closed == 1
