from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fncb.callback import Callback
from fncb.callbacks import checkpoint
from fncb.callbacks.weight_averaging import WeightAveragingState, weight_averaging
from fncb.effects import Apply, View
from fncb.events import TestStart as StartOfTest
from fncb.events import TrainBatchEnd, TrainEnd, TrainEpochEnd, ValidationStart
from fncb.loop import fit, validate
from fncb.step_hooks import NamedParams
from fncb.task import Task
from tests.folding import fold

UPDATE, COPY = Apply("weight_averaging: update"), Apply("weight_averaging: copy into the model")
train = partial(fit, compile=False, progress=False, num_sanity_val_steps=0)


def updated_after(average, values, start=0.0, buffers=None):
    """The average after an update with each of the values, the parameter being `start` when it is made."""
    (update,) = fold(average, [TrainBatchEnd(step=1)]).effects
    states = {average.key: average.step.init(NamedParams({"w": torch.tensor(start)}, buffers or {}))}
    for value in values:
        changed, states = update.fn(NamedParams({"w": torch.tensor(value)}, buffers or {}), states)
        assert changed == {}
    return states[average.key]


def test_without_a_function_every_step_updates_and_no_epoch():
    run = fold(
        weight_averaging(),
        [TrainBatchEnd(step=1), TrainBatchEnd(step=2), TrainEpochEnd(step=2), TrainBatchEnd(step=3, epoch=1)],
    )

    assert run.effects == (UPDATE, UPDATE, UPDATE)
    assert run.state == WeightAveragingState(latest_update_step=3)


def test_batches_that_only_accumulate_do_not_update():
    batches = [TrainBatchEnd(step=step, batch_idx=i) for i, step in enumerate([0, 0, 1, 1, 1, 2])]

    assert fold(weight_averaging(), batches).effects == (UPDATE, UPDATE)


def test_the_function_is_asked_for_each_step_and_each_epoch_counted_from_0():
    asked = []

    def never(step_idx=None, epoch_idx=None):
        asked.append((step_idx, epoch_idx))
        return False

    run = fold(weight_averaging(never), [TrainBatchEnd(step=1), TrainBatchEnd(step=2), TrainEpochEnd(epoch=0, step=2)])

    assert asked == [(0, None), (1, None), (None, 0)]
    assert (run.state, run.effects) == (WeightAveragingState(), ())


def test_steps_and_epochs_are_remembered_apart():
    always = weight_averaging(lambda step_idx=None, epoch_idx=None: True)
    events = [TrainBatchEnd(step=5), TrainEpochEnd(epoch=0, step=5)]
    run = fold(always, events)

    assert run.state == WeightAveragingState(latest_update_step=5, latest_update_epoch=0)
    assert fold(always, events, state=run.state).effects == ()  # a run that goes on there updates with neither again
    later = fold(always, [TrainEpochEnd(epoch=1, step=5)], state=run.state)
    assert later.state == WeightAveragingState(latest_update_step=5, latest_update_epoch=1)


@pytest.mark.parametrize("event", [TrainBatchEnd(step=1), TrainEpochEnd(epoch=0, step=1)])
def test_once_there_was_an_update_validation_is_a_view_and_training_ends_with_a_copy(event):
    always = weight_averaging(lambda step_idx=None, epoch_idx=None: True)
    ends = [ValidationStart(step=1), StartOfTest(), TrainEnd(epoch=1, step=1)]

    assert fold(always, ends).effects == ()
    assert fold(always, [event, *ends]).effects == (UPDATE, View("weight_averaging"), View("weight_averaging"), COPY)


def test_all_weights_count_alike():
    state = updated_after(weight_averaging(), [1.0, 2.0, 6.0], start=100.0)  # the first update copies

    assert (state["average"]["w"].item(), state["n_averaged"].item()) == (3.0, 3)
    assert state["n_averaged"].dtype == torch.int64


def test_another_function_may_average():
    seen = []

    def half(average, weight, n):
        seen.append(n.item())
        return (average + weight) / 2

    assert updated_after(weight_averaging(avg_fn=half), [1.0, 3.0, 8.0])["average"]["w"] == 5.0  # 1, 2, 5
    assert seen[1:] == [1, 2]


def test_counts_are_copied_and_buffers_left_out_where_they_are_not_wanted():
    buffers = {"mean": torch.tensor(2.0), "count": torch.tensor(7)}

    with_buffers = updated_after(weight_averaging(), [1.0, 1.0], buffers=buffers)["average"]
    assert {name: value.item() for name, value in with_buffers.items()} == {"w": 1.0, "mean": 2.0, "count": 7}
    assert updated_after(weight_averaging(use_buffers=False), [1.0], buffers=buffers)["average"].keys() == {"w"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_stay(dtype):
    average = weight_averaging()
    (update,) = fold(average, [TrainBatchEnd(step=1)]).effects
    states = {average.key: average.step.init({"w": torch.ones(3, dtype=dtype)})}
    for _ in range(2):
        states = update.fn(NamedParams({"w": torch.ones(3, dtype=dtype)}, {}), states)[1]

    assert states[average.key]["average"]["w"].dtype == dtype


def test_it_may_be_kept_on_another_device():
    state = weight_averaging(device="meta").step.init(NamedParams({"w": torch.ones(2)}, {"b": torch.ones(3)}))

    assert {str(value.device) for value in (*state["average"].values(), state["n_averaged"])} == {"meta"}


def test_a_view_is_of_nothing_in_a_run_that_does_not_keep_it():
    _, view = fold(weight_averaging(), [TrainBatchEnd(step=1), StartOfTest()]).effects

    assert view.fn(NamedParams({}, {}), {"other": 1}) == {}


def task():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    return Task(model, loss=lambda model, x: model(x).square().mean(), optimizer=partial(torch.optim.SGD, lr=0.5))


def data(n=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, generator=generator) for _ in range(n)]


def test_a_run_averages_as_torch_does_validates_with_that_and_ends_with_it():
    trained, losses = task(), []
    model = trained.model
    by_torch = AveragedModel(model, use_buffers=True)
    follows = Callback(key="f", init=int, on_train_batch_end=lambda s, e: by_torch.update_parameters(model) or s)
    measured = Callback(key="m", init=int, on_validation_end=lambda s, e: losses.append(e.metrics["val_loss"]) or s)

    run = train(trained, data(), data(1), callbacks=[weight_averaging(), follows, measured], max_epochs=1)

    for name, tensor in trained.model.state_dict().items():
        if tensor.is_floating_point():  # torch averages counts too
            torch.testing.assert_close(tensor, by_torch.module.state_dict()[name])
    assert trained.model[1].num_batches_tracked == 3
    assert run.step_state["weight_averaging"]["n_averaged"] == by_torch.n_averaged == 3
    assert losses == [validate(trained, data(1), progress=False).metrics["val_loss"]]


def test_a_run_that_goes_on_has_the_averages_of_one_that_was_never_cut(tmp_path):
    def run(folder, **settings):
        wanted = weight_averaging(lambda step_idx=None, epoch_idx=None: epoch_idx == 0 or step_idx in (2, 4, 7))
        trained = task()
        train(trained, data(), data(1), callbacks=[wanted, checkpoint(folder, save_top_k=-1)], **settings)
        return trained.model.state_dict()

    whole = run(tmp_path / "whole", max_epochs=3)
    run(tmp_path / "cut", max_epochs=1)
    gone_on = run(tmp_path / "cut", max_epochs=3, resume=tmp_path / "cut")

    assert all(torch.equal(whole[name], gone_on[name]) for name in whole)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"should_update": 5}, TypeError, "should_update must be a function or None, got 5"),
        ({"avg_fn": "mean"}, TypeError, "avg_fn must be a function or None, got 'mean'"),
        ({"device": "nowhere"}, ValueError, "device must be a device such as 'cpu' or None, got 'nowhere'"),
        ({"device": 1.5}, ValueError, "device must be a device such as 'cpu' or None, got 1.5"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^weight_averaging: {message}"):
        weight_averaging(**arguments)
