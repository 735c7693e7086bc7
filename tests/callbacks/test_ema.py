from functools import partial

import attrs
import pytest
import torch
from torch import nn

from fncb.callback import Callback, EmptyState, emit
from fncb.callbacks import checkpoint, skip_nonfinite
from fncb.callbacks.ema import ema
from fncb.effects import Apply, View
from fncb.events import AfterOptimizerStep, TrainEnd, TrainEpochEnd, ValidationStart
from fncb.events import TestStart as StartOfTest
from fncb.loop import fit, test, validate
from fncb.step_hooks import NamedParams
from fncb.task import Task
from tests.folding import fold

train = partial(fit, compile=False, progress=False, num_sanity_val_steps=0)


def task(model=None, lr=0.5, seed=0):
    torch.manual_seed(seed)
    model = model or nn.Linear(2, 1)
    return Task(model, loss=lambda model, x: model(x).square().mean(), optimizer=partial(torch.optim.SGD, lr=lr))


def data(n=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, generator=generator) for _ in range(n)]


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def after(step, **params):
    return AfterOptimizerStep(step=torch.tensor(step), params={name: torch.tensor(p) for name, p in params.items()})


def averages(callback, values, start=0.0):
    """The average after each step, the parameter being `start` at first and then one of `values` after each."""
    state, found = callback.step.init({"w": torch.tensor(start)}), []
    for i, value in enumerate(values):
        state = callback.step.on_after_optimizer_step(state, after(i + 1, w=value))
        found.append(state["w"].item())
    return found


def test_it_starts_with_a_copy_of_the_parameters():
    model = torch.nn.Linear(2, 1)
    state = ema().step.init(dict(model.named_parameters()))

    assert {name: (value.shape, value.requires_grad) for name, value in state.items()} == {
        "weight": ((1, 2), False),
        "bias": ((1,), False),
    }
    assert torch.equal(state["weight"], model.weight)
    assert state["weight"].data_ptr() != model.weight.data_ptr()


def test_each_step_moves_it_by_what_is_left_of_the_decay():
    # .75 * 4 + .25 * 8 = 5, .75 * 5 + .25 * 1 = 4
    assert averages(ema(0.75), [8.0, 1.0], start=4.0) == [5.0, 4.0]


def test_without_decay_it_is_the_parameters():
    assert averages(ema(0.0), [8.0, 1.0], start=4.0) == [8.0, 1.0]


def test_every_parameter_has_its_own():
    step = ema(0.5).step
    state = step.init({"a": torch.tensor([0.0, 2.0]), "b": torch.tensor(8.0)})

    state = step.on_after_optimizer_step(state, after(1, a=[4.0, 4.0], b=0.0))
    assert {name: value.tolist() for name, value in state.items()} == {"a": [2.0, 3.0], "b": 4.0}


def test_the_state_before_is_left_as_it_was():
    step = ema(0.5).step
    state = step.init({"w": torch.tensor(4.0)})
    step.on_after_optimizer_step(state, after(1, w=0.0))

    assert state["w"].item() == 4.0


@pytest.mark.parametrize(
    ("every", "start", "updates"),
    [
        (5, None, [0, 5, 10, 15]),
        (1, None, list(range(16))),
        (2, 0, list(range(0, 16, 2))),  # a start at the beginning puts nothing off
    ],
)
def test_which_steps_update(every, start, updates):
    values = [float(2**i) for i in range(16)]  # each update is seen
    found = [0.0, *averages(ema(0.5, update_every_n_steps=every, update_starting_at_step=start), values)]

    assert [step for step in range(16) if found[step + 1] != found[step]] == updates


def test_until_a_late_start_the_average_is_a_copy():
    values = [float(2**i) for i in range(6)]  # 1, 2, 4, 8, 16, 32 after steps 0 to 5

    # steps 0 and 1 copy; step 2: .5 * 2 + .5 * 4, step 4: .5 * 3 + .5 * 16
    late = ema(0.5, update_every_n_steps=2, update_starting_at_step=2)
    assert averages(late, values, start=100.0) == [1.0, 2.0, 3.0, 3.0, 9.5, 9.5]
    # step 1 is no multiple of 2: step 2 is the first
    odd = ema(0.5, update_every_n_steps=2, update_starting_at_step=1)
    assert averages(odd, values, start=100.0) == averages(late, values, start=100.0)
    # steps 0, 2, 4: .5 * 3 + .5 * 1, .5 * 2 + .5 * 4, .5 * 3 + .5 * 16
    assert averages(ema(0.5, update_every_n_steps=2), values, start=3.0) == [2.0, 2.0, 3.0, 3.0, 9.5, 9.5]


def test_until_a_late_epoch_the_average_is_a_copy():
    step = ema(0.5, update_starting_at_epoch=2).step
    state, found = step.init({"w": torch.tensor(100.0)}), []
    for i, value in enumerate([1.0, 2.0, 4.0, 8.0]):  # one step an epoch
        event = attrs.evolve(after(i + 1, w=value), epoch=torch.tensor(i))
        state = step.on_after_optimizer_step(state, event)
        found.append(state["w"].item())

    assert found == [1.0, 2.0, 3.0, 5.5]


def test_buffers_are_averaged_and_counts_copied():
    step = ema(0.5).step
    norm = torch.nn.BatchNorm1d(1, affine=False)
    state = step.init(NamedParams({"w": torch.tensor(0.0)}, dict(norm.named_buffers())))
    later = {"running_mean": torch.tensor([4.0]), "running_var": torch.tensor([3.0])}
    later["num_batches_tracked"] = torch.tensor(7)

    state = step.on_after_optimizer_step(state, attrs.evolve(after(1, w=2.0), buffers=later))

    assert {name: value.tolist() for name, value in state.items()} == {
        "w": 1.0,
        "running_mean": [2.0],  # halfway from 0 to 4
        "running_var": [2.0],  # from 1 to 3
        "num_batches_tracked": 7,
    }


def test_without_buffers_there_are_parameters_only():
    state = ema(use_buffers=False).step.init(NamedParams({"w": torch.tensor(0.0)}, {"b": torch.tensor(0.0)}))

    assert [*state] == ["w"]


def test_with_several_optimizers_each_turn_moves_what_is_its_own():
    step = ema(0.5).step
    params = {name: torch.tensor(0.0) for name in ("g.norm.weight", "d.weight")}
    buffers = {name: torch.tensor(0.0) for name in ("g.norm.mean", "d.mean", "shared")}
    state = step.init(NamedParams(params, buffers))
    now = {name: torch.tensor(8.0) for name in (*params, *buffers)}

    def turn(optimizer, name):
        return AfterOptimizerStep(
            step=torch.tensor(1), optimizer=optimizer, params={name: now[name]}, buffers={b: now[b] for b in buffers}
        )

    state = step.on_after_optimizer_step(state, turn("g", "g.norm.weight"))
    first = {"g.norm.weight": 4.0, "d.weight": 0.0, "g.norm.mean": 4.0, "d.mean": 0.0, "shared": 4.0}
    assert {name: value.item() for name, value in state.items()} == first

    state = step.on_after_optimizer_step(state, turn("d", "d.weight"))
    assert {value.item() for value in state.values()} == {4.0}  # once each


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("every", [1, 2])
def test_dtypes_stay(dtype, every):
    step = ema(0.5, update_every_n_steps=every, update_starting_at_step=2).step
    state = step.init({"w": torch.ones(3, dtype=dtype)})
    event = AfterOptimizerStep(step=torch.tensor(3), params={"w": torch.zeros(3, dtype=dtype)})

    assert step.on_after_optimizer_step(state, event)["w"].dtype == dtype


def test_it_agrees_with_torch():
    model = torch.nn.Linear(3, 2)
    torch_average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    torch_average.update_parameters(model)  # its first update copies, as our `init` does
    step = ema(0.9).step
    state = step.init(dict(model.named_parameters()))
    for i in range(5):
        with torch.no_grad():
            for param in model.parameters():
                param.add_(torch.randn_like(param))
        torch_average.update_parameters(model)
        params = {name: param.detach() for name, param in model.named_parameters()}
        state = step.on_after_optimizer_step(state, AfterOptimizerStep(step=torch.tensor(i + 1), params=params))

    for name, average in torch_average.module.named_parameters():
        torch.testing.assert_close(state[name], average.detach())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.0}, r"decay must be a number in \[0, 1\), got 1.0"),
        ({"decay": -0.1}, r"decay must be a number in \[0, 1\), got -0.1"),
        ({"decay": float("nan")}, r"decay must be a number in \[0, 1\), got nan"),
        ({"decay": False}, r"decay must be a number in \[0, 1\), got False"),
        ({"update_every_n_steps": -1}, "update_every_n_steps must be 0 steps or more, got -1"),
        ({"update_every_n_steps": 0.5}, "update_every_n_steps must be an int, got 0.5"),
        ({"update_every_n_steps": True}, "update_every_n_steps must be an int, got True"),
        ({"update_starting_at_step": -1}, "update_starting_at_step must be 0 or more, got -1"),
        ({"update_starting_at_epoch": -1}, "update_starting_at_epoch must be 0 or more, got -1"),
        (
            {"update_every_n_steps": 0, "update_starting_at_step": 3},
            "update_starting_at_step must be None where no step updates, got 3",
        ),
        ({"device": "nowhere"}, "device must be a device such as 'cpu' or None, got 'nowhere'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"^ema: {message}"):
        ema(**arguments)


def test_the_device_must_be_that_of_the_parameters():
    model = nn.Linear(2, 1)

    assert ema(device="cpu").step.init(dict(model.named_parameters())).keys() == {"weight", "bias"}
    with pytest.raises(ValueError, match=r"^ema: device must be that of the parameters, \['cpu'\], got 'meta'"):
        ema(device="meta").step.init(dict(model.named_parameters()))


# The half on the host.


@pytest.mark.parametrize(
    ("arguments", "place", "seen"),
    [
        ({}, {"step": 0}, False),  # a sanity check, or a run that does not train
        ({}, {"step": 1}, True),
        ({"update_starting_at_step": 3}, {"step": 3}, False),
        ({"update_starting_at_step": 3}, {"step": 4}, True),
        ({"update_starting_at_step": 3, "update_every_n_steps": 5}, {"step": 5}, False),  # the first is 0-based 5
        ({"update_starting_at_step": 3, "update_every_n_steps": 5}, {"step": 6}, True),
        ({"update_starting_at_epoch": 2}, {"step": 9, "epoch": 1}, False),
        ({"update_starting_at_epoch": 2}, {"step": 9, "epoch": 2}, True),
        ({"update_every_n_steps": 0}, {"step": 9, "epoch": 0}, False),  # before the first epoch's end
        ({"update_every_n_steps": 0}, {"step": 9, "epoch": 1}, True),
        ({"update_every_n_steps": 0, "update_starting_at_epoch": 2}, {"step": 9, "epoch": 2}, False),
        ({"update_every_n_steps": 0, "update_starting_at_epoch": 2}, {"step": 9, "epoch": 3}, True),
    ],
)
def test_a_view_is_asked_for_once_there_was_an_update(arguments, place, seen):
    average = ema(**arguments)

    for kind in (ValidationStart, StartOfTest):
        assert fold(average, [kind(**place)]).effects == ((View("ema"),) if seen else ())


@pytest.mark.parametrize(
    ("arguments", "end", "copied"),
    [
        ({}, {"epoch": 1, "step": 1}, True),  # at the end of training the epoch counts those that are over
        ({"update_starting_at_step": 3}, {"epoch": 1, "step": 3}, False),
        ({"update_starting_at_step": 3}, {"epoch": 1, "step": 4}, True),
        ({"update_starting_at_epoch": 2}, {"epoch": 2, "step": 20}, False),  # of epochs 0 and 1
        ({"update_starting_at_epoch": 2}, {"epoch": 3, "step": 30}, True),
        ({"update_every_n_steps": 0, "update_starting_at_epoch": 2}, {"epoch": 2, "step": 20}, False),
        ({"update_every_n_steps": 0, "update_starting_at_epoch": 2}, {"epoch": 3, "step": 30}, True),
    ],
)
def test_the_averages_come_into_the_model_if_there_was_an_update(arguments, end, copied):
    expected = (Apply("ema: copy into the model"),) if copied else ()

    assert fold(ema(**arguments), [TrainEnd(**end)]).effects == expected


def test_without_steps_each_epoch_from_the_start_on_updates():
    ends = [TrainEpochEnd(epoch=epoch, step=epoch + 1) for epoch in range(4)]
    average = ema(update_every_n_steps=0, update_starting_at_epoch=2)

    assert [len(fold(average, [end]).effects) for end in ends] == [0, 0, 1, 1]
    assert average.step.on_after_optimizer_step is None
    assert fold(average, ends).state == EmptyState()
    assert not ema().hears(TrainEpochEnd)


def test_the_first_update_of_an_epoch_is_a_copy_and_the_next_averages():
    average, state = ema(0.5, update_every_n_steps=0), {"ema": {"w": torch.tensor(100.0)}}
    for epoch, weight in enumerate([4.0, 8.0]):
        (update,) = fold(average, [TrainEpochEnd(epoch=epoch)]).effects
        changed, state = update.fn(NamedParams({"w": torch.tensor(weight)}, {}), {**state, "other": 1})
        assert changed == {}

    assert (state["ema"]["w"].item(), state["other"]) == (6.0, 1)


def test_a_view_is_of_nothing_in_a_run_that_does_not_keep_it():
    (view,) = fold(ema(), [ValidationStart(step=1)]).effects

    assert view.fn({}, {"other": 1}) == {}
    assert view.fn({}, {"ema": {"w": 1}}) == {"w": 1}


def seen_by(hook, note):
    found = []
    return Callback(key="sees", init=int, **{hook: lambda s, e: found.append(note(e)) or s}), found


def test_validation_is_of_the_averages_and_training_ends_with_them():
    trained, values = task(), data()
    untouched, before = seen_by("on_validation_end", lambda event: weights(trained.model))
    losses = []
    measured = Callback(key="m", init=int, on_validation_end=lambda s, e: losses.append(e.metrics["val_loss"]) or s)

    run = train(trained, values, values[:1], callbacks=[ema(0.75), untouched, measured], max_epochs=1)

    averaged = task()
    averaged.model.load_state_dict(run.step_state["ema"])
    assert losses == [validate(averaged, values[:1], progress=False).metrics["val_loss"]]
    assert not equal(before[0], run.step_state["ema"])  # the weights that were trained stayed in place
    assert equal(weights(trained.model), run.step_state["ema"])


def test_the_sanity_check_is_of_the_weights_themselves():
    asked = []
    trained = task()
    average = ema(0.75)
    told = attrs.evolve(average, on_validation_start=lambda s, e: asked.append(average.transition(s, e)[1]) or s)

    train(trained, data(), data(1), callbacks=told, max_epochs=2, num_sanity_val_steps=1)

    assert asked == [(), (View("ema"),), (View("ema"),)]


def test_it_may_be_there_in_a_test_of_its_own(tmp_path):
    average = ema(0.75, update_every_n_steps=0)
    train(task(), data(), data(1), callbacks=[average, checkpoint(tmp_path)], max_epochs=2)
    (path,) = tmp_path.glob("*.safetensors")

    assert test(task(), data(1), callbacks=average, resume=path, progress=False).metrics.keys() == {"test_loss"}


def with_norm():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def test_buffers_come_into_the_model_with_the_parameters():
    torch.manual_seed(0)
    trained = task(with_norm())

    run = train(trained, data(), callbacks=ema(0.5), max_epochs=2)

    assert run.step_state["ema"].keys() == trained.model.state_dict().keys()
    assert equal(dict(trained.model.state_dict()), run.step_state["ema"])
    assert trained.model[1].num_batches_tracked == 4


def test_a_skipped_batch_at_the_end_of_a_window_leaves_no_trace_in_averaged_buffers():
    torch.manual_seed(0)
    trained, values = task(with_norm()), data()
    values[1] = values[1].fill_(torch.nan)

    run = train(trained, values, callbacks=[skip_nonfinite(), ema(0.5)], max_epochs=1, accumulate_grad_batches=2)

    assert run.step == 1
    assert all(torch.isfinite(average).all() for average in run.step_state["ema"].values())


def test_a_run_that_goes_on_has_the_averages_of_one_that_was_never_cut(tmp_path):
    def run(folder, **settings):
        callbacks = [ema(0.5, update_starting_at_epoch=1), checkpoint(folder, save_top_k=-1)]
        torch.manual_seed(0)
        return train(task(with_norm()), data(), data(1), callbacks=callbacks, **settings)

    whole = run(tmp_path / "whole", max_epochs=3)
    run(tmp_path / "cut", max_epochs=2)
    gone_on = run(tmp_path / "cut", max_epochs=3, resume=tmp_path / "cut")

    assert equal(whole.step_state["ema"], gone_on.step_state["ema"])
    assert whole.metrics == gone_on.metrics


@pytest.mark.parametrize("settings", [{}, {"weights_only": True}], ids=["the whole run", "weights only"])
def test_it_begins_with_the_weights_that_were_loaded(tmp_path, settings):
    first, again = task(lr=0.0), task(lr=0.0, seed=1)  # which stay as they are
    train(first, data(), callbacks=checkpoint(tmp_path), max_epochs=1)
    read = []
    sees = Callback(key="sees", init=int, on_train_end=lambda s, e: emit(s, Apply("sees", look)))

    def look(params, states):
        read.append({name: average.clone() for name, average in states["ema"].items()})
        return params, states

    train(again, data(), callbacks=[sees, ema(0.5)], max_epochs=2, resume=tmp_path, **settings)

    assert equal(read[0], weights(first.model))
