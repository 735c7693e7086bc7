"""Where callbacks reach into the step: around the gradient, into submodules, to the model; and states that rest."""

import copy
from functools import partial

import attrs
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fncb
from fncb import events as ev
from fncb.callback import Callback, EmptyState, StepHooks, compose, emit
from fncb.callbacks import checkpoint, ema, skip_nonfinite
from fncb.effects import Apply, Freeze
from fncb.live import is_live
from fncb.step import Step
from fncb.step_hooks import NamedParams
from fncb.task import Turn
from fncb.tree import leaves
from tests.reliability.resuming import unlike

CPU = torch.device("cpu")
SGD = partial(torch.optim.SGD, lr=0.5)


class Net(nn.Module):
    """A linear layer, batch normalisation and another one, and a parameter that no loss uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x))))


def loss(model, batch):
    x, y = batch
    value = F.mse_loss(model(x), y)
    return value, {"size": value.detach() * 2}


def batches(n=3, nan_at=()):
    generator = torch.Generator().manual_seed(1)
    made = [(torch.randn(6, 3, generator=generator), torch.randn(6, 2, generator=generator)) for _ in range(n)]
    for i in nan_at:
        made[i][0][0, 0] = float("nan")
    return made


def make(*callbacks, model=None, accumulate=1, compile=False, optimizer=SGD):
    model = model or Net()
    step = Step(model, [Turn(None, loss, optimizer(model.parameters()))], compose(callbacks).step, CPU, compile)
    step.set_accumulation(accumulate)
    return step


def around(around_gradient, key="around", **hooks):
    return Callback(key=key, step=StepHooks(init=lambda _: EmptyState(), around_gradient=around_gradient, **hooks))


def hooked(key="hooked", **hooks):
    return Callback(key=key, step=StepHooks(init=lambda _: EmptyState(), **hooks))


def moved(params, by=0.25):
    return {name: p + by for name, p in params.items()}


def at_moved(gradient, params):
    """Gradients of parameters that are moved, after a look at where they are."""
    gradient(params)
    return gradient(moved(params))


def gradients(model, batch, fn=loss):
    """As torch gives them, of a copy of the model, by name."""
    model = copy.deepcopy(model).train()
    fn(model, batch)[0].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def with_params(model, change):
    model = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(change(p))
    return model


def bits(step):
    held = {"params": step.params, "buffers": step.buffers, "states": step.states}
    return {path: tensor.detach().clone() for path, tensor in leaves(held)}


def same(one, other):
    assert unlike(one, other) == []


# Around the gradient.


def test_gradients_are_those_of_the_parameters_that_a_callback_chose():
    model, (batch, *_) = Net(), batches()
    wanted = gradients(with_params(model, lambda p: p + 0.25), batch)
    seen = {}

    def notes(state, event):
        seen.update(event.grads)
        return state

    make(around(at_moved), hooked(on_after_backward=notes), model=model)(batch)

    same(seen, wanted)
    assert "unused" not in seen


def test_loss_metrics_and_statistics_of_batch_norm_are_those_of_the_first_call():
    plain, twice = make(optimizer=partial(SGD, lr=0.0)), make(around(at_moved), optimizer=partial(SGD, lr=0.0))

    for batch in batches():
        same(dict(plain(batch)), dict(twice(batch)))

    same(bits(plain), bits(twice))
    assert twice.buffers["norm.num_batches_tracked"] == 3


def test_parameters_are_put_back_to_the_last_bit_before_the_optimizer_moves_them():
    seen = {}

    def notes(state, event):
        seen.update({name: p.clone() for name, p in event.params.items()})
        return state

    step = make(around(at_moved), hooked(on_after_backward=notes))
    before = {name: p.detach().clone() for name, p in step.params.items()}
    step(batches()[0])

    same(seen, before)


def test_a_loss_that_is_scaled_up_does_not_show():
    """Half precision's scale is of the loss alone: what is around the gradient sees it as it is."""
    seen, model, (batch, *_) = [], Net(), batches()
    wanted = gradients(model, batch)
    callbacks = compose(around(lambda gradient, params: seen.append(gradient(params)) or seen[-1])).step
    step = Step(model, [Turn(None, loss, SGD(model.parameters()))], callbacks, CPU, compile=False, scaled=True)
    before = {name: p.detach().clone() for name, p in step.params.items()}
    step(batch)

    assert step.carry["turns"][0]["scale"] > 1
    torch.testing.assert_close(seen[0], wanted, rtol=1e-6, atol=1e-7)
    for name, grad in wanted.items():
        torch.testing.assert_close(step.params[name], before[name] - 0.5 * grad)


def test_of_several_the_first_is_the_outermost():
    calls = []

    def calling(name):
        def around_gradient(gradient, params):
            calls.append(name)
            return {n: g * 2 for n, g in gradient(moved(params, 1.0)).items()}

        return around(around_gradient, name)

    model, (batch, *_) = Net(), batches()
    wanted = gradients(with_params(model, lambda p: p + 1.0 + 1.0), batch)
    seen = {}
    noting = hooked(on_after_backward=lambda state, event: seen.update(event.grads) or state)
    make(calling("outer"), calling("inner"), noting, model=model)(batch)

    assert calls == ["outer", "inner"]
    same(seen, {name: grad * 4 for name, grad in wanted.items()})


def test_it_accumulates_what_it_makes_of_each_batch():
    step, model = make(around(at_moved), accumulate=2), Net()
    one, two, _ = batches()
    there = with_params(model, lambda p: p + 0.25)
    first = gradients(there, one)
    second = gradients(there, two)

    step(one, update=False)
    step(two, update=True, first=False)

    for name, p in model.named_parameters():
        if name in first:
            torch.testing.assert_close(step.params[name], p - 0.5 * (first[name] + second[name]) / 2)


def test_a_batch_that_is_skipped_leaves_everything_as_it_was():
    step = make(around(at_moved), skip_nonfinite())
    step(batches()[0])
    before = bits(step)
    step(batches(nan_at=(1,))[1])

    changed = [path for path, tensor in bits(step).items() if not torch.equal(tensor, before[path])]
    assert changed == ["states.skip_nonfinite.skipped"]


def test_each_optimizer_has_its_own_gradients():
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)})
    seen = []

    def looks(gradient, params):
        seen.append(list(params))
        return at_moved(gradient, params)

    of = {name: lambda model, x, name=name: model[name](x).square().mean() for name in "ab"}
    turns = [Turn(name, of[name], SGD(model[name].parameters())) for name in "ab"]
    before, x = copy.deepcopy(model), batches()[0][0]
    metrics = Step(model, turns, compose(around(looks)).step, CPU, compile=False)(x)

    assert seen == [["a.weight", "a.bias"], ["b.weight", "b.bias"]]
    for name in "ab":
        there = with_params(before[name], lambda p: p + 0.25)
        there(x).square().mean().backward()
        for p, was, at in zip(*(each.parameters() for each in (model[name], before[name], there)), strict=True):
            torch.testing.assert_close(p, was - 0.5 * at.grad)
        assert metrics[f"loss/{name}"] == before[name](x).square().mean().item()


def test_a_loss_and_a_batch_that_hooks_replace_are_those_of_every_call():
    """A batch is replaced once, and what the hook of the loss publishes and counts is that of the first call."""
    counting = Callback(
        key="counting",
        step=StepHooks(
            init=lambda _: {"n": torch.zeros(())},
            on_train_batch_start=lambda s, e: emit({"n": s["n"] + 1}, batch=(e.batch[0] * 2, e.batch[1])),
            on_before_backward=lambda s, e: emit({"n": s["n"] + 1}, loss=e.loss * 3, metrics={"weighed": e.loss * 3}),
        ),
    )
    model, ((x, y), *_) = Net(), batches()
    wanted = gradients(with_params(model, lambda p: p + 0.25), (x * 2, y))
    first = loss(copy.deepcopy(model), (x * 2, y))[0].item()
    seen = {}
    noting = hooked(on_after_backward=lambda state, event: seen.update(event.grads) or state)
    step = make(around(at_moved), counting, noting, model=model)
    metrics = step((x, y))

    torch.testing.assert_close(seen, {name: grad * 3 for name, grad in wanted.items()})
    assert (metrics["loss"], metrics["weighed"]) == (first, pytest.approx(3 * first))
    assert step.states["counting"]["n"] == 2


@pytest.mark.parametrize(
    ("around_gradient", "message"),
    [
        (lambda gradient, params: {}, "around: around_gradient must call gradient, got no call"),
        (lambda gradient, params: gradient({}), r"must call gradient with the parameters of \['unused', .*\[\]"),
        (lambda gradient, params: gradient(params | {"other": torch.zeros(())}), "got those of .*'other'"),
        (lambda gradient, params: gradient(params) and {}, r"must give the gradients of \['body.weight', .*\[\]"),
        (lambda gradient, params: gradient(params) | {"unused": torch.ones(2)}, "got those of .*'unused'"),
        (
            lambda gradient, params: {name: grad.sum() for name, grad in gradient(params).items()},
            r"gradients in their shapes and dtypes, got \(\(\), torch.float32\) instead of .* for 'body.weight'",
        ),
        (
            lambda gradient, params: gradient({name: p.double() for name, p in params.items()}),
            "parameters in their shapes and dtypes, got .*float64",
        ),
    ],
)
def test_what_is_no_gradient_is_refused(around_gradient, message):
    step = make(around(around_gradient))
    before = bits(step)

    with pytest.raises(ValueError, match=message):
        step(batches()[0])

    same(bits(step), before)


def test_an_exception_leaves_parameters_and_buffers_as_they_were():
    def breaks(gradient, params):
        gradient(params)
        gradient(moved(params))
        raise KeyError("no")

    step = make(around(breaks), ema(0.5))
    before = bits(step)

    with pytest.raises(KeyError, match="no"):
        step(batches()[0])

    same(bits(step), before)
    step.state_dict()  # and so may be saved


# Watching submodules.


def watching(*patterns, seen, key="watching"):
    def on_after_backward(state, event):
        seen.append(dict(event.activations))
        return state

    return Callback(
        key=key, step=StepHooks(init=lambda _: EmptyState(), watch=patterns, on_after_backward=on_after_backward)
    )


def test_what_watched_submodules_return_comes_by_name_and_detached():
    seen, model, (batch, *_) = [], Net(), batches()
    body = model.body(batch[0]).detach()
    make(watching("body", "he*", seen=seen), model=model)(batch)

    ((names, found),) = [([*each], each) for each in seen]
    assert names == ["body", "head"]
    assert torch.equal(found["body"], body)
    assert not found["head"].requires_grad


def test_with_gradients_in_several_places_outputs_are_those_of_the_first():
    seen, model, (batch, *_) = [], Net(), batches()
    body = model.body(batch[0]).detach()
    make(watching("body", seen=seen), around(at_moved), model=model)(batch)

    assert torch.equal(seen[0]["body"], body)


def test_only_what_a_batch_ran_through_is_there():
    """What was called between batches, and in another turn, is not."""
    torch.manual_seed(0)
    seen, model = [], nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)})
    of = {name: lambda model, x, name=name: model[name](x).square().mean() for name in "ab"}
    turns = [Turn(name, of[name], SGD(model[name].parameters())) for name in "ab"]
    step = Step(model, turns, compose(watching("[ab]", seen=seen)).step, CPU, compile=False)
    x = batches()[0][0]
    model["b"](x)  # somebody else's call
    step(x)

    assert [[*each] for each in seen] == [["a"], ["b"]]


def test_a_pattern_without_a_match_is_refused():
    with pytest.raises(ValueError, match=r"pattern must match a submodule, got 'tail'. There are \['body', 'norm', "):
        make(watching("head", "tail", seen=[]))


def test_a_single_pattern_must_be_in_a_tuple():
    with pytest.raises(TypeError, match=r"watch must be a tuple of patterns, got 'head'. Write \('head',\)"):
        StepHooks(init=dict, watch="head")


def test_after_a_run_nothing_watches_any_more():
    seen, model = [], Net()
    task = fncb.Task(model, loss=loss, optimizer=SGD)
    fncb.fit(
        task, batches(), batches(), callbacks=watching("*", seen=seen), max_epochs=1, compile=False, progress=False
    )

    assert len(seen) == 3  # of the training batches alone
    assert [*seen[0]] == ["body", "norm", "head"]
    assert [name for name, module in model.named_modules() if module._forward_hooks] == []


# The model, read at the end of a batch.


def reading(read, key="reading"):
    return Callback(key=key, step=StepHooks(init=lambda _: EmptyState(), reads_model=True, on_train_batch_end=read))


def test_the_model_is_read_in_eval_mode_with_the_weights_of_after_the_update():
    x, found = torch.ones(5, 3), {}

    def read(state, event):
        found.update(training=event.model.training, out=event.model(x), n=event.model.norm.num_batches_tracked.clone())
        return state

    step = make(reading(read))
    step(batches()[0])

    assert not found["training"]
    assert step.model.training
    assert torch.equal(found["out"], copy.deepcopy(step.model).eval()(x).detach())
    assert found["n"] == step.model.norm.num_batches_tracked == 1


def test_frozen_parameters_are_read_too_and_are_inputs_only_where_they_are_read():
    model = Net()
    model.body.requires_grad_(False)
    found = []
    step = make(reading(lambda s, e: found.append(e.model.body.weight) or s), model=model)
    step(batches()[0])

    assert torch.equal(found[0], model.body.weight)
    assert [*step._held()["frozen"]] == ["body.weight", "body.bias"]
    assert make(ema(0.5), model=model)._held()["frozen"] == {}


def test_what_a_hook_calls_is_not_taken_for_what_is_watched():
    seen, (batch, *_) = [], batches()
    step = make(watching("body", seen=seen), reading(lambda s, e: emit(s, metrics={"out": e.model(batch[0]).mean()})))
    step(batch)

    assert step._seen == {}


# States that rest.


def keeping(key="kept", tensor=None):
    return Callback(key=key, step=StepHooks(init=lambda _: {"x": torch.zeros(2) if tensor is None else tensor}))


def test_a_state_that_no_hook_reads_is_kept_out_of_the_graph():
    step = make(keeping(), ema(0.5))

    assert [*step._held()["states"]] == ["ema"]
    assert [*step.states] == ["kept", "ema"]
    step(batches()[0])
    assert step.states["kept"]["x"].tolist() == [0.0, 0.0]


def test_a_hook_in_the_step_wakes_it():
    callback = Callback(key="awake", step=StepHooks(init=lambda _: {}, on_before_zero_grad=lambda s, e: s))

    assert compose(callback, keeping(), around(at_moved)).step.resting == {"kept", "around"}


def filling(value):
    def fill(params, step_state):
        return {}, {**step_state, "kept": {"x": torch.full((2,), value)}}

    return Callback(
        key="filling", init=int, on_train_epoch_end=lambda s, e: emit(s, Apply("fill", fill)), emits=(Apply,)
    )


def test_a_resting_state_is_written_by_apply_and_survives_a_resume(tmp_path):
    def train(*callbacks, **settings):
        task, saves = fncb.Task(Net(), loss=loss, optimizer=SGD), checkpoint(tmp_path)
        return fncb.fit(task, batches(), callbacks=[*callbacks, saves], compile=False, progress=False, **settings)

    run = train(keeping(), filling(3.0), max_epochs=1)
    resumed = train(keeping(), max_epochs=2, resume=tmp_path)

    assert run.step_state["kept"]["x"].tolist() == [3.0, 3.0]
    assert resumed.step_state["kept"]["x"].tolist() == [3.0, 3.0]


# What else callbacks are given.


def test_states_are_made_from_parameters_with_their_buffers_and_the_names_of_frozen_ones():
    given = []
    model = Net()
    model.head.requires_grad_(False)
    make(Callback(key="looks", step=StepHooks(init=lambda params: given.append(params) or {})), model=model)

    (params,) = given
    assert isinstance(params, NamedParams)
    assert [*params] == ["unused", "body.weight", "body.bias", "norm.weight", "norm.bias"]
    assert [*params.buffers] == ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    assert params.frozen == ("head.weight", "head.bias")


def test_after_an_update_a_hook_sees_the_buffers_as_the_batch_left_them():
    found = []
    step = make(hooked(on_after_optimizer_step=lambda s, e: found.append({**e.buffers}) or s))
    step(batches()[0])

    assert found[0]["norm.num_batches_tracked"] == 1
    assert torch.equal(found[0]["norm.running_mean"], step.model.norm.running_mean)


@pytest.mark.parametrize(
    "batch",
    [lambda b: b[0], lambda b: (*b, torch.zeros(6)), lambda b: {"x": b[0], "y": b[1]}, lambda b: (b[0], [b[1]])],
)
def test_a_batch_must_be_replaced_by_one_of_its_structure(batch):
    step = make(hooked(on_train_batch_start=lambda s, e: emit(s, batch=batch(e.batch))))

    with pytest.raises(TypeError, match=r"replacing batch, must keep its structure \['0', '1'\], got"):
        step(batches()[0])


# All of it in one graph.


def everything():
    """Callbacks that use every seam at once."""

    def perturb(gradient, params):
        grads = gradient(params)
        return gradient({**params, **{name: params[name] + 0.1 * grad for name, grad in grads.items()}})

    def nearby(gradient, params):
        return {name: grad / 2 for name, grad in gradient(moved(params, 0.125)).items()}

    def halve(state, event):
        return emit(state, loss=event.loss / 2, metrics={"halved": event.loss.detach() / 2})

    def statistics(state, event):
        means = {f"mean/{name}": value.mean() for name, value in event.activations.items()}
        return emit(state, metrics=means)

    def output(state, event):
        out = event.model(event.batch[0]).square().mean()
        return emit({"out": state["out"] + out}, metrics={"out": out})

    def tracked(state, event):
        return {"mean": event.buffers["norm.running_mean"] * 2}

    return (
        around(perturb, "perturb"),
        hooked("scale", on_train_batch_start=lambda s, e: emit(s, batch=(e.batch[0] * 0.5, e.batch[1]))),
        hooked("halve", on_before_backward=halve),
        around(nearby, "nearby"),
        Callback(
            key="statistics",
            step=StepHooks(init=lambda _: EmptyState(), watch=("body", "h*"), on_after_backward=statistics),
        ),
        Callback(
            key="output",
            step=StepHooks(init=lambda _: {"out": torch.zeros(())}, reads_model=True, on_train_batch_end=output),
        ),
        Callback(
            key="tracked",
            step=StepHooks(
                init=lambda params: {"mean": params.buffers["norm.running_mean"]}, on_after_optimizer_step=tracked
            ),
        ),
        keeping(),
        skip_nonfinite(),
    )


def test_all_seams_at_once_compile_into_one_graph_that_gives_what_the_eager_step_gives():
    def frozen():
        model = Net()
        model.head.bias.requires_grad_(False)
        return model

    momentum = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    compiled = make(*everything(), model=frozen(), compile=True, optimizer=momentum)
    eager = make(*everything(), model=frozen(), optimizer=momentum)

    for batch in batches(6, nan_at=(3,)):
        one, other = dict(compiled(batch)), dict(eager(batch))
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6, nan_ok=True)

    assert (compiled.level, compiled.compilations, compiled.recompilations) == ("one graph", 1, 0)
    assert {"halved", "mean/body", "mean/head", "out", "skipped"} <= {*one}
    for path, tensor in bits(compiled).items():
        torch.testing.assert_close(tensor, bits(eager)[path], rtol=1e-5, atol=1e-6, msg=lambda m, p=path: f"{p}: {m}")
    assert torch.equal(compiled.states["tracked"]["mean"], compiled.buffers["norm.running_mean"] * 2)


def test_freezing_in_the_middle_keeps_the_seams():
    """What is frozen then is neither moved nor given a gradient, and what is kept for the others stays."""
    seen = []
    freeze = Callback(
        key="freeze",
        init=int,
        emits=(Freeze,),
        on_train_epoch_end=lambda s, e: emit(s, Freeze("body.*")) if e.epoch == 0 else s,
    )
    noting = hooked(on_after_backward=lambda s, e: seen.append([*e.grads]) or s)
    task = fncb.Task(Net(), loss=loss, optimizer=SGD)
    callbacks = [around(at_moved), noting, freeze, ema(0.5)]
    fncb.fit(task, batches(1), callbacks=callbacks, max_epochs=2, compile=False, progress=False)

    rest = ["norm.weight", "norm.bias", "head.weight", "head.bias"]
    assert seen == [["body.weight", "body.bias", *rest], rest]


def test_the_event_fields_of_the_seams_are_live():
    kinds = (ev.AfterBackward, ev.AfterOptimizerStep, ev.TrainBatchEnd)
    live = {field.alias for kind in kinds for field in attrs.fields(kind) if is_live(field)}
    assert live >= {"activations", "buffers", "model"}
