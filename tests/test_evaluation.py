"""Passes that do not train: what validation, test and prediction measure, return, fire and leave as it was."""

import weakref
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import nn

import fncb
from fncb import events as ev
from fncb.callback import Callback, StepHooks, emit
from fncb.callbacks import checkpoint, ema, skip_nonfinite, weight_averaging
from fncb.effects import Attach, Freeze, Log, Save
from fncb.task import Task

validate = partial(fncb.validate, progress=False)
predict = partial(fncb.predict, progress=False)
measure = partial(fncb.test, progress=False)  # any other name than that of a test

STAGES = {
    "validate": (validate, "validation"),
    "test": (measure, "test"),
    "predict": (predict, "predict"),
}
EVERY = pytest.mark.parametrize("stage", STAGES)
MEASURING = pytest.mark.parametrize(("run", "prefix"), [(validate, "val_"), (measure, "test_")])


def mean(model, batch):
    return model(batch).mean()


def task(loss=mean, **given):
    return Task(nn.Identity(), loss=loss, **given)


ONES, TWOS, THREES = torch.ones(3), torch.full((1,), 2.0), torch.full((4,), 3.0)


def heard(*hooks, key="heard"):
    """A callback that keeps the events of some hooks, and the list that it keeps them in."""
    seen = []
    return Callback(key=key, init=int, **dict.fromkeys(hooks, lambda s, e: seen.append(e) or s)), seen


def names(seen):
    return [ev.hook_name(type(event)) for event in seen]


# What is measured.


@MEASURING
def test_means_are_weighted_by_batch_size(run, prefix):
    def loss(model, batch):
        return batch.mean(), {"double": batch.sum() * 2, "count": torch.tensor(batch.numel())}

    result = run(task(loss), [ONES, TWOS])

    assert result.metrics == {
        f"{prefix}loss": 1.25,  # (3 * 1 + 1 * 2) / 4
        f"{prefix}double": 5.5,  # (3 * 6 + 1 * 4) / 4
        f"{prefix}count": 2.5,  # (3 * 3 + 1 * 1) / 4
    }


@MEASURING
def test_several_loaders_are_measured_apart_under_their_names(run, prefix):
    named = run(task(), {"a": [ONES, TWOS], "b": (batch for batch in [THREES])})
    listed = run(task(), [(batch for batch in [ONES, TWOS]), (batch for batch in [THREES])])

    assert named.metrics == {f"{prefix}loss/a": 1.25, f"{prefix}loss/b": 3.0}
    assert listed.metrics == {f"{prefix}loss/dataloader_idx_0": 1.25, f"{prefix}loss/dataloader_idx_1": 3.0}


@MEASURING
def test_a_mapping_of_one_loader_has_its_name(run, prefix):
    assert run(task(), {"a": [ONES]}).metrics == {f"{prefix}loss/a": 1.0}


@MEASURING
def test_each_of_several_loaders_may_give_metrics_of_its_own(run, prefix):
    def loss(model, batch):
        return batch.mean(), {"only": batch.sum()} if len(batch) == 4 else {}

    assert run(task(loss), {"a": [ONES], "b": [THREES]}).metrics == {
        f"{prefix}loss/a": 1.0,
        f"{prefix}loss/b": 3.0,
        f"{prefix}only/b": 12.0,
    }


@MEASURING
def test_a_name_gets_the_prefix_unless_it_has_it(run, prefix):
    def loss(model, batch):
        value = batch.mean()
        return value, {"acc": value, f"{prefix}f1": value, "loss_of_val_test": value, "value": value}

    assert list(run(task(loss), [ONES]).metrics) == [
        f"{prefix}{name}" for name in ("loss", "acc", "f1", "loss_of_val_test", "value")
    ]


def test_a_name_with_the_prefix_of_another_stage_gets_that_of_this_one_too():
    assert "test_val_acc" in measure(task(lambda m, b: (b.mean(), {"val_acc": b.mean()})), [ONES]).metrics


def test_validation_and_test_take_their_own_function_and_the_loss_without_one():
    own = {"validate": lambda m, b: b.mean() + 1, "test": lambda m, b: b.mean() + 2}

    assert validate(task(**own), [ONES]).metrics == {"val_loss": 2.0}
    assert measure(task(**own), [ONES]).metrics == {"test_loss": 3.0}
    assert validate(task(test=own["test"]), [ONES]).metrics == {"val_loss": 1.0}
    assert measure(task(validate=own["validate"]), [ONES]).metrics == {"test_loss": 1.0}


@MEASURING
def test_several_losses_are_measured_under_their_names(run, prefix):
    losses = {"g": lambda m, b: (b.mean(), {"real": b.sum()}), "d": lambda m, b: b.mean() + 1}

    assert run(task(losses), [ONES]).metrics == {f"{prefix}loss/g": 1.0, f"{prefix}real": 3.0, f"{prefix}loss/d": 2.0}


def test_a_mean_of_half_precision_values_is_a_full_one():
    batches = [torch.tensor([256.0], dtype=torch.bfloat16), torch.tensor([1.0], dtype=torch.bfloat16)]

    assert validate(task(), batches).metrics == {"val_loss": 128.5}  # 257 would be 256


def test_a_batch_without_samples_of_its_own_counts_for_one():
    assert validate(task(lambda m, b: torch.tensor(float(b))), [1, 2]).metrics == {"val_loss": 1.5}


@MEASURING
def test_metrics_that_differ_from_batch_to_batch_are_refused(run, prefix):
    def loss(model, batch):
        return batch.mean(), {"ones" if len(batch) == 3 else "others": batch.sum()}

    message = r"each batch must give the same metrics, got \['loss', 'others'\], not \['loss', 'ones'\]"
    with pytest.raises(ValueError, match=message):
        run(task(loss), [ONES, THREES])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, b: 3.0, "validate: a loss must return a tensor"),
        (lambda m, b: b, r"validate: a loss must be a scalar, got shape \(3,\)"),
        (lambda m, b: (b.mean(), {"acc": 0.5}), "validate: metric 'acc' must be a tensor, got 0.5"),
    ],
)
def test_a_wrong_loss_is_told_with_the_stage(loss, message):
    with pytest.raises((TypeError, ValueError), match=message):
        validate(task(loss), [ONES])


def test_metrics_are_known_to_the_last_event_and_reach_sinks(tmp_path):
    callback, seen = heard("on_test_end")
    sink = fncb.sinks.csv(tmp_path / "metrics.csv")

    measure(task(), [ONES, TWOS], callbacks=callback, sinks=[sink])

    assert [event.metrics for event in seen] == [{"test_loss": 1.25}]
    header, row = (tmp_path / "metrics.csv").read_text().splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["test_loss"] == "1.25"


def test_what_a_callback_logs_is_among_the_metrics_and_states_are_returned():
    logs = Callback(key="logs", init=int, emits=(Log,), on_validation_end=lambda s, e: emit(s + 1, Log({"own": 0.5})))

    result = validate(task(), [ONES], callbacks=logs)

    assert (result.metrics, result.state) == ({"val_loss": 1.0, "own": 0.5}, {"logs": 1})
    assert result.predictions is None


# What is predicted.


def test_predictions_are_returned_for_each_batch_and_by_loader_where_there_are_several():
    whole = task(predict=lambda model, batch: batch.sum().item())
    single, double, named = [ONES, TWOS], [iter([ONES, TWOS]), iter([THREES])], {"a": [ONES]}

    assert predict(whole, single).predictions == [3.0, 2.0]
    assert predict(whole, double).predictions == [[3.0, 2.0], [12.0]]
    assert predict(whole, named).predictions == [3.0]


def test_predictions_need_not_be_kept():
    callback, seen = heard("on_predict_batch_end")

    result = predict(task(), [ONES, TWOS], callbacks=callback, return_predictions=False)

    assert result.predictions is None
    assert [event.outputs.tolist() for event in seen] == [[1.0, 1.0, 1.0], [2.0]]


class Prediction:
    """Something to be referred to weakly."""


@pytest.mark.parametrize(("keep", "alive"), [(False, 2), (True, 8)])
def test_a_stream_forgets_what_is_not_kept(keep, alive):
    made, most = [], []

    def make(model, batch):
        prediction = Prediction()
        made.append(weakref.ref(prediction))
        return prediction

    def count(state, event):
        most.append(sum(each() is not None for each in made))
        return state

    counts = Callback(key="counts", init=int, on_predict_batch_end=count)
    predict(task(predict=make), (ONES for _ in range(8)), callbacks=counts, return_predictions=keep)

    assert len(made) == 8
    assert max(most) == alive  # this one and the one before, while the next is made


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [ONES, (ONES, TWOS), [ONES, TWOS], {"x": ONES, "y": TWOS}, Pair(ONES, TWOS), (ONES,)],
    ids=["tensor", "tuple", "list", "dict", "named tuple", "tuple of one"],
)
def test_without_a_function_of_its_own_a_prediction_is_the_model_on_the_first_of_a_batch(batch):
    [prediction] = predict(Task(nn.Threshold(5.0, 7.0), loss=mean), iter([batch])).predictions

    assert prediction.tolist() == [7.0, 7.0, 7.0]


def test_a_prediction_may_be_anything():
    assert predict(task(predict=lambda model, batch: {"sum": batch.sum().item()}), [ONES]).predictions == [{"sum": 3.0}]


@pytest.mark.parametrize(
    ("batches", "expected"), [([ONES, TWOS], [3.0, 2.0]), ({"a": [ONES], "b": [TWOS]}, [[3.0], [2.0]])]
)
def test_the_end_of_a_prediction_is_told_what_was_predicted(batches, expected):
    seen = []
    sees = Callback(key="sees", init=int, on_predict_epoch_end=lambda s, e: seen.append(e.predictions) or s)

    result = predict(task(predict=lambda m, b: b.sum().item()), batches, callbacks=sees)

    assert seen == [expected] == [result.predictions]


def test_where_predictions_are_not_kept_its_end_has_none():
    sees = Callback(key="sees", init=int, on_predict_epoch_end=lambda s, e: e.predictions and s)

    with pytest.raises(ev.LiveFieldError, match="`predictions` is a live field, got none"):
        predict(task(), [ONES], callbacks=sees, return_predictions=False)


# Events.


SET_UP = ["on_init_start", "on_init_end", "setup", "on_configure_sharded_model"]


@pytest.mark.parametrize(("stage", "epoch"), [("validate", True), ("test", True), ("predict", False)])
def test_events_come_in_the_order_of_lightning(stage, epoch):
    run, name = STAGES[stage]
    callback, seen = heard(*ev.HOOKS)

    run(task(), [ONES, TWOS], callbacks=callback)

    assert names(seen) == [
        *SET_UP,
        f"on_{name}_start",
        *["on_epoch_start"] * epoch,
        f"on_{name}_epoch_start",
        *[f"on_{name}_batch_start", f"on_{name}_batch_end"] * 2,
        f"on_{name}_epoch_end",
        *["on_epoch_end"] * epoch,
        f"on_{name}_end",
        "teardown",
    ]
    assert {event.stage for event in seen if hasattr(event, "stage")} == {stage}


@EVERY
def test_batches_are_counted_for_each_loader_and_told_apart_by_its_index(stage):
    run, name = STAGES[stage]
    callback, seen = heard(f"on_{name}_start", f"on_{name}_batch_start", f"on_{name}_batch_end")

    run(task(), {"a": [ONES, TWOS], "b": [THREES]}, callbacks=callback)

    start, *batches = seen
    assert start.batches == 3
    at = [(event.dataloader_idx, event.batch_idx, event.batch.tolist()) for event in batches]
    expected = [(0, 0, [1.0] * 3), (0, 1, [2.0]), (1, 0, [3.0] * 4)]
    assert at[::2] == at[1::2] == expected


@EVERY
@pytest.mark.parametrize(
    ("knows", "limit", "total"), [(True, None, 2), (True, 1, 1), (False, None, None), (False, 2, 2)]
)
def test_the_start_is_told_how_many_batches_there_are(stage, knows, limit, total):
    run, name = STAGES[stage]
    callback, seen = heard(f"on_{name}_start")
    batches = [ONES, TWOS] if knows else (batch for batch in [ONES, TWOS])

    run(task(), batches, callbacks=callback, **{limited(stage): limit})

    assert [event.batches for event in seen] == [total]


@MEASURING
def test_outputs_are_what_the_loss_returned(run, prefix):
    callback, seen = heard("on_validation_batch_end", "on_test_batch_end")

    run(task(lambda m, b: (b.mean(), {"sum": b.sum()})), [ONES, TWOS], callbacks=callback)

    assert [(loss.item(), beside["sum"].item()) for loss, beside in (event.outputs for event in seen)] == [
        (1.0, 3.0),
        (2.0, 2.0),
    ]


@EVERY
def test_an_exception_becomes_an_event_then_teardown_then_goes_on(stage):
    run, name = STAGES[stage]
    callback, seen = heard(*ev.HOOKS)

    def breaks(model, batch):
        raise ZeroDivisionError("in the pass")

    with pytest.raises(ZeroDivisionError, match="in the pass"):
        run(task(breaks, predict=breaks), [ONES], callbacks=callback)

    assert names(seen)[-3:] == [f"on_{name}_batch_start", "on_exception", "teardown"]
    assert (seen[-2].error, seen[-2].message, seen[-1].stage) == ("ZeroDivisionError", "in the pass", stage)


@EVERY
def test_step_hooks_rest(stage):
    def never(state, event):
        raise AssertionError

    rests = Callback(key="rests", step=StepHooks(init=lambda params: {}, on_train_batch_start=never))

    STAGES[stage][0](task(), [ONES], callbacks=rests)


# Limits.


def limited(stage):
    return f"limit_{'val' if stage == 'validate' else stage}_batches"


@EVERY
@pytest.mark.parametrize(
    ("limit", "taken"),
    [(None, (4, 2)), (1.0, (4, 2)), (1, (1, 1)), (3, (3, 2)), (9, (4, 2)), (0.5, (2, 1)), (0.9, (3, 1))],
)
def test_a_limit_takes_so_many_batches_of_each_loader(stage, limit, taken):
    run, name = STAGES[stage]
    callback, seen = heard(f"on_{name}_batch_end")

    run(task(), {"a": [ONES] * 4, "b": [ONES] * 2}, callbacks=callback, **{limited(stage): limit})

    of = [event.dataloader_idx for event in seen]
    assert (of.count(0), of.count(1)) == taken


@EVERY
@pytest.mark.parametrize("limit", [0, 0.0])
def test_a_limit_of_zero_only_sets_up_and_tears_down(stage, limit):
    callback, seen = heard(*ev.HOOKS)

    result = STAGES[stage][0](task(), [ONES], callbacks=callback, **{limited(stage): limit})

    assert names(seen) == [*SET_UP, "teardown"]
    assert (result.metrics, result.predictions) == ({}, [] if stage == "predict" else None)


@EVERY
@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (-1, "must be 0 batches or more"),
        (1.5, "must be 0 batches or more, or a fraction"),
        (True, "must be an int"),
        (0.1, "a limit must leave at least one batch, got 0.1 of 2"),
    ],
)
def test_a_limit_that_cannot_be_is_told_with_its_name(stage, limit, message):
    who = {"validate": "validate: val", "test": "test: test", "predict": "predict: batches"}[stage]
    who = who if limit == 0.1 else f"{stage}: {limited(stage)}"

    with pytest.raises((TypeError, ValueError), match=f"^{who}.*{message}"):
        STAGES[stage][0](task(), [ONES, TWOS], **{limited(stage): limit})


@EVERY
def test_a_loader_without_batches_is_refused(stage):
    with pytest.raises(ValueError, match=f"^{stage}: .* must give at least one batch, got none"):
        STAGES[stage][0](task(), [])


@EVERY
def test_a_function_makes_the_loaders(stage):
    callback, seen = heard(f"on_{STAGES[stage][1]}_batch_end")

    STAGES[stage][0](task(), lambda: {"a": [ONES], "b": [TWOS]}, callbacks=callback)

    assert [event.batch.tolist() for event in seen] == [[1.0] * 3, [2.0]]


# What is left as it was.


def half_frozen():
    """A model whose parts are in different modes, as fine-tuning leaves them."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1)))
    model.train()
    model[1][0].eval()
    return model


@EVERY
@pytest.mark.parametrize("fails", [False, True])
def test_every_module_is_in_eval_mode_inside_and_afterwards_in_its_own(stage, fails):
    model, inside = half_frozen(), []

    def looks(model, batch):
        inside.append([module.training for module in model.modules()])
        if fails:
            raise ZeroDivisionError
        return batch.mean()

    before = [module.training for module in model.modules()]
    try:
        STAGES[stage][0](Task(model, loss=looks, predict=looks), [ONES])
    except ZeroDivisionError:
        assert fails

    assert inside == [[False] * 5]
    assert [module.training for module in model.modules()] == before == [True, True, True, False, True]


@EVERY
def test_hooks_from_the_first_to_the_last_event_see_eval_mode(stage):
    run, name = STAGES[stage]
    model, seen = nn.Linear(1, 1), []

    def notes(state, event):
        seen.append(model.training)
        return state

    sees = Callback(key="sees", init=int, **{f"on_{name}_start": notes, f"on_{name}_end": notes, "teardown": notes})

    run(Task(model, loss=mean), [torch.ones(2, 1)], callbacks=sees)

    assert seen == [False, False, True]


@EVERY
def test_no_gradients_are_made(stage):
    run, name = STAGES[stage]
    model, enabled = nn.Linear(1, 1), []

    def looks(model, batch):
        enabled.append(torch.is_grad_enabled())
        return model(batch).mean()

    callback, seen = heard(f"on_{name}_batch_end")
    run(Task(model, loss=looks, predict=looks), [torch.ones(2, 1)], callbacks=callback)

    assert enabled == [False]
    assert not seen[0].outputs.requires_grad
    assert torch.is_grad_enabled()
    assert [p.grad for p in model.parameters()] == [None, None]


# A checkpoint taken.


def line(weight):
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(weight)
    return model


def counts(saw):
    """Counts training batches, attaches a word to checkpoints, and notes what it hears of one that is loaded."""
    return Callback(
        key="counts",
        init=int,
        emits=(Attach,),
        on_train_batch_end=lambda s, e: s + 1,
        on_save_checkpoint=lambda s, e: emit(s, Attach("word")),
        on_load_checkpoint=lambda s, e: saw.append((s, e.path, dict(e.attached))) or s,
    )


@EVERY
@pytest.mark.parametrize("by", ["file", "directory", "last"])
def test_a_checkpoint_gives_weights_and_states(tmp_path, stage, by):
    saw, order = [], heard("on_configure_sharded_model", "on_load_checkpoint", f"on_{STAGES[stage][1]}_start")
    trained = Task(line(1.0), loss=mean, optimizer=partial(torch.optim.SGD, lr=0.25))
    saves = checkpoint(tmp_path)
    path = tmp_path / "epoch=0-step=2.safetensors"
    fncb.fit(
        trained, [torch.ones(2, 1)] * 2, callbacks=[saves, counts([])], max_epochs=1, compile=False, progress=False
    )

    other = Task(line(9.0), loss=mean)
    result = STAGES[stage][0](
        other,
        [torch.ones(2, 1)],
        callbacks=[saves, counts(saw), order[0]],
        resume={"file": path, "directory": tmp_path, "last": "last"}[by],
    )

    assert other.model.weight.item() == trained.model.weight.item() == 0.5
    assert result.state["counts"] == 2
    assert saw == [(2, str(path), {"counts": "word"})]
    assert names(order[1]) == ["on_configure_sharded_model", "on_load_checkpoint", f"on_{STAGES[stage][1]}_start"]
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {path.name}  # nothing is saved


AVERAGING = {
    "ema": (lambda: ema(0.5), 0.6875),  # half of half of 1.0 and 0.75, and half of 0.5
    "weight_averaging": (lambda: weight_averaging(), 0.625),  # the mean of 0.75 and 0.5
}


def measured(stage, given, **settings):
    """What a stage makes of a batch of ones: a mean or predictions, which are the one weight."""
    result = STAGES[stage][0](given, [torch.ones(2, 1)], **settings)
    return result.metrics or {str(number) for each in result.predictions for number in each.flatten().tolist()}


def as_measured(stage, value):
    return {str(value)} if stage == "predict" else {f"{'val' if stage == 'validate' else 'test'}_loss": value}


def averaged_checkpoint(folder, *callbacks, model=None):
    """A checkpoint after two steps, each of which takes a quarter off the weight, which was 1."""
    trained = Task(model or line(1.0), loss=mean, optimizer=partial(torch.optim.SGD, lr=0.25))
    settings = {"max_epochs": 1, "compile": False, "progress": False}
    fncb.fit(trained, [torch.ones(2, 1)] * 2, callbacks=[*callbacks, checkpoint(folder)], **settings)
    (path,) = folder.glob("*.safetensors")
    return path


@EVERY
@pytest.mark.parametrize("kind", AVERAGING)
def test_a_checkpoint_is_measured_with_the_averages_that_it_holds(tmp_path, stage, kind):
    make, average = AVERAGING[kind]
    path = averaged_checkpoint(tmp_path, make())
    first = f"on_{STAGES[stage][1]}_start"
    callback, seen = heard("setup", first, "teardown")
    other = Task(line(9.0), loss=mean)

    assert measured(stage, other, callbacks=[make(), callback], resume=path) == as_measured(stage, average)
    assert [(event.epoch, event.step) for event in seen] == [(0, 2)] * 3
    assert other.model.weight.item() == 0.5  # the weights that were trained
    assert measured(stage, other, resume=path) == as_measured(stage, 0.5)


@EVERY
@pytest.mark.parametrize("kind", AVERAGING)
def test_without_a_checkpoint_there_are_no_averages(stage, kind):
    callback, seen = heard(f"on_{STAGES[stage][1]}_start")
    given = Task(line(9.0), loss=mean)

    assert measured(stage, given, callbacks=[AVERAGING[kind][0](), callback]) == as_measured(stage, 9.0)
    assert [(event.epoch, event.step) for event in seen] == [(0, 0)]


@pytest.mark.parametrize("kind", AVERAGING)
def test_a_checkpoint_without_averages_is_measured_as_it_is(tmp_path, kind):
    path = averaged_checkpoint(tmp_path, skip_nonfinite())  # which keeps something else

    assert measured("validate", Task(line(9.0), loss=mean), callbacks=AVERAGING[kind][0](), resume=path) == {
        "val_loss": 0.5
    }


@pytest.mark.parametrize("kind", AVERAGING)
def test_what_was_frozen_has_no_average_and_is_measured_as_it_is(tmp_path, kind):
    def with_bias(weight, bias):
        model = nn.Linear(1, 1)
        nn.init.constant_(model.weight, weight)
        nn.init.constant_(model.bias, bias)
        return model

    make, average = AVERAGING[kind]
    freezes = Callback(key="f", init=int, emits=(Freeze,), on_train_start=lambda s, e: emit(s, Freeze("bias")))
    path = averaged_checkpoint(tmp_path, freezes, make(), model=with_bias(1.0, 4.0))

    found = measured("validate", Task(with_bias(9.0, 9.0), loss=mean), callbacks=[freezes, make()], resume=path)
    assert found == {"val_loss": 4.0 + average}


def test_averages_of_another_model_are_refused(tmp_path):
    def with_norm():
        return nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))

    path = averaged_checkpoint(tmp_path, ema(0.5), model=with_norm())

    with pytest.raises(ValueError, match=r"^resume: ema: names and shapes of tensors must stay, got .*0.running_mean"):
        validate(Task(with_norm(), loss=mean), [torch.ones(2, 1)], callbacks=ema(0.5, use_buffers=False), resume=path)


@EVERY
def test_last_without_a_checkpoint_takes_the_weights_as_they_are(tmp_path, stage):
    callback, seen = heard("on_load_checkpoint")
    model = line(9.0)

    STAGES[stage][0](
        Task(model, loss=mean), [torch.ones(2, 1)], callbacks=[checkpoint(tmp_path), callback], resume="last"
    )

    assert (model.weight.item(), seen) == (9.0, [])


@EVERY
def test_a_checkpoint_that_is_not_there_is_told(tmp_path, stage):
    with pytest.raises(OSError, match=r"nowhere\.safetensors"):
        STAGES[stage][0](task(), [ONES], resume=tmp_path / "nowhere.safetensors")


def test_a_callback_may_save_after_a_validation(tmp_path):
    path = str(tmp_path / "a.safetensors")
    saves = Callback(key="saves", init=int, emits=(Save,), on_validation_end=lambda s, e: emit(s, Save(path)))
    model = line(3.0)

    validate(Task(model, loss=mean), [torch.ones(2, 1)], callbacks=saves)
    again = validate(Task(line(1.0), loss=mean), [torch.ones(2, 1)], resume=path)

    assert again.metrics == {"val_loss": 3.0}
