"""What callbacks see of the model: views for a pass, measures beside its means, and functions that look."""

from functools import partial

import pytest
import torch
from torch import nn

from fncb.callback import Callback, emit
from fncb.callbacks import ema
from fncb.effects import Examine, Log, Measure, Print, View
from fncb.loop import fit, test, validate
from fncb.position import random_state
from fncb.task import Task
from tests.reliability.resuming import unlike

run = partial(fit, compile=False, progress=False, max_epochs=1, num_sanity_val_steps=0, device="cpu")


def task(**given):
    torch.manual_seed(0)
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    given = {"optimizer": partial(torch.optim.SGD, lr=0.0), **given}
    return Task(model, loss=lambda model, x: model(x).mean(), **given)


BATCHES = [torch.ones(3, 1), torch.full((1, 1), 5.0)]


def asks(effect, hook, key="asks", emits=None):
    return Callback(key=key, init=int, emits=emits or (type(effect),), **{hook: lambda s, e: emit(s, effect)})


def views(weight=10.0, hook="on_validation_start", key="views"):
    return asks(View("other", lambda params, states: {"weight": torch.tensor([[weight]])}), hook, key)


# Views.


def test_a_validation_is_made_with_other_weights_and_the_model_keeps_its_own():
    given = task()

    result = run(given, BATCHES, BATCHES, callbacks=views())

    assert result.metrics["val_loss"] == 10.0 * 2  # the mean of 1, 1, 1 and 5
    assert result.metrics["loss"] == 2.0 * 5
    assert given.model.weight.item() == 2.0


@pytest.mark.parametrize(("stage", "hook"), [(validate, "on_validation_start"), (test, "on_test_start")])
def test_a_pass_of_its_own_has_views_too(stage, hook):
    result = stage(task(), BATCHES, callbacks=views(hook=hook), progress=False)

    assert list(result.metrics.values()) == [20.0]


def test_a_view_is_given_parameters_buffers_and_step_states():
    given, seen = task(), []

    def fn(params, states):
        seen.append((list(params), list(params.buffers), list(states)))
        return states["ema"]

    run(given, BATCHES, BATCHES, callbacks=[ema(0.5), asks(View("averaged", fn), "on_validation_start")])

    assert seen == [(["weight"], [], ["ema"])]


def test_a_view_of_nothing_is_the_model():
    nothing = asks(View("nothing", lambda params, states: {}), "on_validation_start")

    assert run(task(), BATCHES, BATCHES, callbacks=nothing).metrics["val_loss"] == 4.0


def test_a_view_lasts_for_one_pass():
    first = Callback(
        key="first",
        init=int,
        emits=(View,),
        on_validation_start=lambda s, e: views().on_validation_start(s, e) if e.epoch == 0 else s,
    )
    seen = []
    spy = Callback(key="spy", init=int, on_validation_end=lambda s, e: seen.append(e.metrics["val_loss"]) or s)

    run(task(), BATCHES, BATCHES, callbacks=[first, spy], max_epochs=2)

    assert seen == [20.0, 4.0]


def test_a_view_is_gone_after_a_pass_that_failed():
    def fails(model, x):
        raise KeyError

    given = task(validate=fails)
    with pytest.raises(KeyError):
        run(given, BATCHES, BATCHES, callbacks=views())

    assert given.model.weight.item() == 2.0


def test_buffers_can_be_others_too_and_the_own_are_left():
    net = nn.BatchNorm1d(1, affine=False)
    given = Task(net, loss=lambda model, x: model(x).mean())

    def fn(params, states):
        assert list(params.buffers) == ["running_mean", "running_var", "num_batches_tracked"]
        return {"running_mean": torch.tensor([1.0])}

    result = validate(given, [torch.ones(2, 1)], callbacks=asks(View("a", fn), "on_validation_start"), progress=False)

    assert (result.metrics["val_loss"], net.running_mean.item()) == (0.0, 0.0)


# Measures.


def measures(fn, hook="on_validation_batch_end", key="measures"):
    return asks(Measure("m", fn), hook, key)


def test_what_is_measured_joins_the_means_by_samples():
    result = run(task(), BATCHES, BATCHES, callbacks=measures(lambda m, e, s: {"most": e.batch.max()}))

    assert result.metrics["val_most"] == 2.0  # of 1, 1, 1 and 5


def test_it_is_measured_on_the_view_in_eval_mode_and_without_gradients():
    seen = []

    def fn(model, event, states):
        out = model(event.batch)
        seen.append((model.training, out.requires_grad, event.outputs.item(), list(states)))
        return {"out": out.mean()}

    result = run(task(), BATCHES, BATCHES, callbacks=[ema(0.5), views(), measures(fn)])

    assert result.metrics["val_out"] == 20.0
    assert seen == [(False, False, 10.0, ["ema"]), (False, False, 50.0, ["ema"])]


def test_several_loaders_have_measures_of_their_own():
    fn = measures(lambda m, e, s: {"most": e.batch.max()}, "on_test_batch_end")

    result = test(task(), {"a": BATCHES[:1], "b": BATCHES[1:]}, callbacks=fn, progress=False)

    assert [result.metrics[f"test_most/{name}"] for name in "ab"] == [1.0, 5.0]


def test_two_measures_must_have_names_of_their_own():
    both = [measures(lambda m, e, s: {"a": e.batch.max()}, key=key) for key in ("one", "two")]

    with pytest.raises(ValueError, match=r"^Measure 'm': each metric must have a name of its own, got \['a'\]"):
        run(task(), BATCHES, BATCHES, callbacks=both)


def test_a_measure_must_not_have_the_name_of_a_metric():
    same = measures(lambda m, e, s: {"loss": e.batch.max()})

    with pytest.raises(ValueError, match=r"^validate: each metric must have a name of its own, got .*val_loss"):
        run(task(), BATCHES, BATCHES, callbacks=same)


def test_a_measure_must_be_there_for_each_batch():
    at_first = Callback(
        key="first",
        init=int,
        emits=(Measure,),
        on_validation_batch_end=lambda s, e: (
            emit(s, Measure("m", lambda *_: {"a": torch.ones(())})) if e.batch_idx == 0 else s
        ),
    )

    with pytest.raises(ValueError, match=r"^validate: each batch must give the same metrics, got \[\], not \['a'\]"):
        run(task(), BATCHES, BATCHES, callbacks=at_first)


# Functions that look.


def test_what_a_function_returns_is_carried_out(capsys):
    def fn(model, event, states):
        return [Log({"weight": model.weight.item()}), Print(f"at step {event.step}")]

    result = run(task(), BATCHES, callbacks=asks(Examine("look", fn), "on_train_end"))

    assert result.metrics["weight"] == 2.0
    assert capsys.readouterr().out == "at step 2\n"


@pytest.mark.parametrize(("returned", "logged"), [(Log({"a": 1.0}), True), (None, False), ((), False)])
def test_it_may_return_one_effect_or_none(returned, logged):
    result = run(task(), BATCHES, callbacks=asks(Examine("look", lambda *_: returned), "on_train_end"))

    assert ("a" in result.metrics) == logged


def test_it_sees_the_model_in_eval_mode_without_gradients_and_leaves_no_trace():
    given, seen = task(), []
    given = Task(nn.Sequential(given.model, nn.Dropout(0.5)), loss=given.loss, optimizer=given.optimizer)
    given.model[1].train()

    def fn(model, event, states):
        before = random_state()["torch"]
        out = model(torch.randn(2, 1))
        seen.append((model.training, out.requires_grad, not torch.equal(before, random_state()["torch"])))

    def trained(callbacks):
        torch.manual_seed(3)
        run(given, BATCHES, callbacks=callbacks)
        return random_state()["torch"], given.model.training, given.model[1].training

    looks = asks(Examine("look", fn), "on_train_batch_start")
    assert unlike(trained([looks]), trained([])) == []
    assert seen == [(False, False, True)] * 2


def test_a_generator_is_run_through_while_it_looks():
    seen = []

    def fn(model, event, states):
        seen.append((model.training, torch.is_grad_enabled(), torch.rand(1).item()))
        yield Log({"a": 1.0})
        seen.append((model.training, torch.is_grad_enabled(), torch.rand(1).item()))
        yield Log({"b": 2.0})

    def trained(callbacks):
        torch.manual_seed(3)
        metrics = run(task(), BATCHES, callbacks=callbacks).metrics
        return {name: metrics.get(name) for name in "ab"}, random_state()["torch"]

    looks = asks(Examine("look", fn), "on_train_end", emits=(Examine, Log))

    (found, after), (_, expected) = trained([looks]), trained([])
    assert [each[:2] for each in seen] == [(False, False)] * 2
    assert seen[0] != seen[1]  # it did draw
    assert found == {"a": 1.0, "b": 2.0}
    assert torch.equal(after, expected)


def test_it_sees_each_module_in_its_own_mode_if_it_is_asked_to():
    seen = []
    looks = Examine("look", lambda model, event, states: seen.append(model.training), eval_mode=False)

    run(task(), BATCHES, callbacks=asks(looks, "on_train_end"))
    assert seen == [True]


def test_in_a_validation_it_sees_the_view():
    seen = []
    looks = Examine("look", lambda model, event, states: seen.append(model.weight.item()))
    both = [asks(looks, hook, key=hook) for hook in ("on_validation_epoch_start", "on_validation_end")]

    run(task(), BATCHES, BATCHES, callbacks=[views(), *both])
    assert seen == [10.0, 2.0]


# Where they make no sense.


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"a": 1.0}, "'a' must be a 0-d tensor, got 1.0"),
        ({"b": torch.ones(()), "a": torch.ones(3)}, r"'a' must be a 0-d tensor, got tensor\(\[1., 1., 1.\]\)"),
        ({"a": None}, "'a' must be a 0-d tensor, got None"),
        (None, "fn must return a mapping from name to tensor, got None"),
        (torch.ones(()), r"fn must return a mapping from name to tensor, got tensor\(1.\)"),
        ([("a", torch.ones(()))], r"fn must return a mapping from name to tensor, got \[\('a'"),
    ],
)
@pytest.mark.parametrize(("stage", "hook"), [(validate, "on_validation_batch_end"), (test, "on_test_batch_end")])
def test_what_is_no_measure_is_told_in_one_sentence(returned, message, stage, hook):
    with pytest.raises(TypeError, match=f"^Measure 'm': {message}"):
        stage(task(), BATCHES, callbacks=measures(lambda *_: returned, hook), progress=False)


def test_a_measure_of_one_element_will_do():
    result = validate(task(), BATCHES, callbacks=measures(lambda m, e, s: {"a": torch.ones(1, 1)}), progress=False)

    assert result.metrics["val_a"] == 1.0


@pytest.mark.parametrize(
    ("effect", "hook", "message"),
    [
        (View("a", lambda p, s: {}), "on_train_start", "View: it must be asked for at .*, got it at on_train_start"),
        (View("a", lambda p, s: {"no": 1}), "on_validation_start", r"View 'a': names must be of .*, got \['no'\]"),
        (View("a"), "on_validation_start", "View 'a': fn must be a function, got None"),
        (
            Measure("a", lambda *_: {}),
            "on_train_batch_end",
            "Measure: it must be asked for at .*, got it at on_train_batch_end",
        ),
        (Measure("a"), "on_validation_batch_end", "Measure 'a': fn must be a function, got None"),
        (Examine("a"), "on_train_start", "Examine 'a': fn must be a function, got None"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(effect, hook, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        run(task(), BATCHES, BATCHES, callbacks=asks(effect, hook))
