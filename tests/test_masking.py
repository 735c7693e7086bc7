"""Step hooks that are given some parameters only."""

from functools import partial

import pytest
import torch
from torch import nn

import fncb
from fncb import events as ev
from fncb.callback import Callback, EmptyState, StepHooks, compose, emit
from fncb.callbacks import clip_grad_norm, ema, skip_nonfinite, timer
from fncb.callbacks.grad_norms import grad_norms
from fncb.callbacks.sam import sam
from fncb.effects import Freeze
from fncb.masking import masked
from fncb.schedules import every, when
from fncb.step import Step
from fncb.step_hooks import NamedParams
from fncb.task import Turn

SGD = partial(torch.optim.SGD, lr=0.5)
GRADS = {"encoder.w": torch.tensor([3.0, 4.0]), "head.w": torch.tensor([9.0])}


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"encoder": nn.Linear(3, 2), "head": nn.Linear(2, 1)})


def loss(model, x):
    return model["head"](torch.tanh(model["encoder"](x))).square().mean()


def batches(n=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, generator=generator) for _ in range(n)]


def train(*callbacks, compile=False, epochs=1, **settings):
    task = fncb.Task(network(), loss=loss, optimizer=SGD)
    settings = {"max_epochs": epochs, "compile": compile, "progress": False, **settings}
    return task.model, fncb.fit(task, batches(), callbacks=callbacks, **settings)


def sees(fields, key="sees"):
    """A callback that notes the names in a field of each event, and the list of what it noted."""
    seen = []

    def hook(name, field):
        return lambda state, event: seen.append((name, [*getattr(event, field)])) or state

    hooks = {name: hook(name, field) for name, field in fields.items()}
    return Callback(key=key, step=StepHooks(init=lambda _: EmptyState(), **hooks)), seen


def test_it_sees_the_parameters_gradients_and_buffers_that_match():
    callback, seen = sees(
        {
            "on_train_batch_start": "params",
            "on_after_backward": "grads",
            "on_before_optimizer_step": "params",
            "on_after_optimizer_step": "buffers",
            "on_train_batch_end": "params",
        }
    )
    model = nn.ModuleDict({"encoder": nn.BatchNorm1d(3), "head": nn.BatchNorm1d(3)})
    turn = Turn(None, lambda model, x: model["head"](model["encoder"](x)).square().mean(), SGD(model.parameters()))
    Step(model, [turn], compose(masked(callback, "encoder.*")).step, torch.device("cpu"), compile=False)(batches()[0])

    mine = ["encoder.weight", "encoder.bias"]
    assert seen == [
        ("on_train_batch_start", mine),
        ("on_after_backward", mine),
        ("on_before_optimizer_step", mine),
        ("on_after_optimizer_step", ["encoder.running_mean", "encoder.running_var", "encoder.num_batches_tracked"]),
        ("on_train_batch_end", mine),
    ]


def test_its_state_is_made_of_what_matches():
    given = []
    callback = Callback(key="c", step=StepHooks(init=lambda params: given.append(params) or dict(params)))
    buffers = {"encoder.b": torch.zeros(1), "head.b": torch.zeros(1)}
    state = masked(callback, "encoder.*").step.init(NamedParams(GRADS, buffers, ("encoder.f", "head.f")))

    assert [*state] == [*given[0]] == ["encoder.w"]
    assert ([*given[0].buffers], given[0].frozen) == (["encoder.b"], ("encoder.f",))


def test_what_it_replaces_is_replaced_and_the_rest_stays_the_same_object():
    hook = masked(clip_grad_norm(1.0), "encoder.*").step.on_before_optimizer_step
    out = hook(EmptyState(), ev.BeforeOptimizerStep(grads=GRADS))

    assert [*out.replaced["grads"]] == [*GRADS]
    torch.testing.assert_close(out.replaced["grads"]["encoder.w"], torch.tensor([0.6, 0.8]))
    assert out.replaced["grads"]["head.w"] is GRADS["head.w"]
    assert out.replaced["metrics"] == {"grad_norm/encoder.*": 5.0}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["encoder.w", "head.w"]),
        ("*.w", ["encoder.w", "head.w"]),
        ("head.w", ["head.w"]),
        ("head", None),  # a pattern is of the whole name
        ("HEAD.*", None),  # and told apart by case
        (("head.*", "no.*"), ["head.w"]),
        (("head.*", "encoder.*"), ["encoder.w", "head.w"]),  # in the order of the model
        (["[eh]*"], ["encoder.w", "head.w"]),
    ],
)
def test_what_a_pattern_matches(pattern, names):
    callback = masked(ema(0.5), pattern)
    if names is None:
        with pytest.raises(ValueError, match=r"masked: \('.*',\) must match a parameter for ema, got none. There are"):
            callback.step.init(GRADS)
    else:
        assert [*callback.step.init(GRADS)] == names


def test_the_same_callback_for_several_patterns():
    """Each scales what is its own, and publishes under its own name."""
    _, run = train(
        masked(clip_grad_norm(1e-3, key="of encoder"), "encoder.*"),
        masked(clip_grad_norm(1e-6, key="of head"), ("head.weight", "head.bias")),
        grad_norms(),
    )

    assert {"grad_norm/encoder.*", "grad_norm/head.weight,head.bias"} <= {*run.metrics}
    assert run.metrics["grad_norm/encoder"] == pytest.approx(1e-3, rel=1e-2)
    assert run.metrics["grad_norm/head"] == pytest.approx(1e-6, rel=0.5)


def test_an_average_of_some_parameters_is_that_of_all_restricted_to_them():
    _, some = train(masked(ema(0.5), "encoder.*"))
    _, every_one = train(ema(0.5))

    averages = every_one.step_state["ema"]
    assert [*some.step_state["ema"]] == ["encoder.weight", "encoder.bias"]
    for name, average in some.step_state["ema"].items():
        assert torch.equal(average, averages[name])


def test_a_guard_of_some_parameters_judges_those_alone():
    guard = masked(skip_nonfinite(), "encoder.*").step
    state = guard.init(GRADS)
    bad = torch.tensor([float("nan")])

    def skips(**grads):
        event = ev.AfterBackward(loss=torch.tensor(1.0), grads={**GRADS, **grads}, params=GRADS)
        return guard.on_after_backward(state, event).replaced["skip"].item()

    assert [skips(**{"head.w": bad}), skips(**{"encoder.w": bad})] == [False, True]


def test_around_the_gradient_the_others_stay_where_they_are():
    """Only what matches is perturbed; the gradients of the others are those without perturbation."""
    x, model = batches()[0], network()
    seen = {}
    noting = Callback(
        key="noting",
        step=StepHooks(init=lambda _: EmptyState(), on_after_backward=lambda s, e: seen.update(e.grads) or s),
    )
    turn = Turn(None, loss, SGD(model.parameters()))
    here, there = network(), network()
    loss(here, x).backward()
    grads = [p.grad for p in here["encoder"].parameters()]
    norm = torch.cat([g.flatten() for g in grads]).norm()
    with torch.no_grad():
        for p, g in zip(there["encoder"].parameters(), grads, strict=True):
            p.add_(0.5 * g / norm)
    loss(there, x).backward()

    hooks = compose(masked(sam(0.5), "encoder.*"), noting).step
    Step(model, [turn], hooks, torch.device("cpu"), compile=False)(x)

    wanted = {**dict(here.named_parameters()), **{n: p for n, p in there.named_parameters() if n.startswith("enc")}}
    torch.testing.assert_close(seen, {name: p.grad for name, p in wanted.items()})


def turns(model):
    of = {
        "encoder": lambda model, x: model["encoder"](x).square().mean(),
        "head": lambda model, x: model["head"](x[:, :2]).square().mean(),
    }
    return [Turn(name, fn, SGD(model[name].parameters())) for name, fn in of.items()]


def test_in_the_turn_of_an_optimizer_that_moves_nothing_of_it_it_is_not_heard():
    callback, seen = sees({"on_after_backward": "grads", "on_after_optimizer_step": "params"})
    around = []
    looks = StepHooks(
        init=lambda _: EmptyState(),
        around_gradient=lambda gradient, params: around.append([*params]) or gradient(params),
    )
    model = network()
    hooks = compose(
        masked(callback, "head.*"),
        masked(Callback(key="looks", step=looks), "head.*"),
        masked(clip_grad_norm(1.0), "encoder.*"),
    ).step
    metrics = Step(model, turns(model), hooks, torch.device("cpu"), compile=False)(batches()[0])

    mine = ["head.weight", "head.bias"]
    assert around == [mine]
    assert seen == [("on_after_backward", mine), ("on_after_optimizer_step", mine)]
    assert [*metrics] == ["loss/encoder", "loss/head", "grad_norm/encoder.*/encoder"]


def test_while_all_of_it_is_frozen_it_rests():
    callback, seen = sees({"on_after_optimizer_step": "params"})
    freezes = Callback(
        key="freezes",
        init=int,
        emits=(Freeze,),
        on_train_epoch_end=lambda s, e: emit(s, Freeze("encoder.*")) if e.epoch == 0 else s,
    )
    _, run = train(masked(callback, "encoder.*"), masked(ema(0.5), "encoder.*"), freezes, epochs=2)

    assert len(seen) == 3  # the batches of the first epoch
    assert run.step_state["ema"] == {}


def test_other_hooks_and_what_they_know_stay():
    """Batch, loss and activations are not by name of parameter."""
    seen = []
    hooks = {
        "on_train_batch_start": lambda s, e: seen.append([*e.batch]) or emit(s, batch={"x": e.batch["x"] * 2}),
        "on_before_backward": lambda s, e: seen.append(e.loss.item()) or s,
        "on_after_backward": lambda s, e: seen.append([*e.activations]) or emit(s, metrics={"m": e.loss}),
    }
    callback = Callback(key="c", step=StepHooks(init=lambda _: EmptyState(), watch=("head",), **hooks))
    model = network()
    turn = Turn(None, lambda model, batch: loss(model, batch["x"]), SGD(model.parameters()))
    wanted = loss(network(), batches()[0] * 2).item()
    hooks = compose(masked(callback, "encoder.*")).step
    metrics = Step(model, [turn], hooks, torch.device("cpu"), compile=False)({"x": batches()[0]})

    assert seen == [["x"], wanted, ["head"]]
    assert dict(metrics) == {"loss": wanted, "m/encoder.*": wanted}


def test_all_of_the_callback_stays_but_its_parameters():
    callback = clip_grad_norm(1.0, key="mine")
    restricted = masked(callback, "encoder.*")

    assert (restricted.key, restricted.emits, restricted.init) == (callback.key, callback.emits, callback.init)
    assert repr(restricted) == "Callback('mine', max_norm=1.0, norm_type=2.0, masked=['encoder.*'])"


def test_a_host_half_is_heard_as_before():
    both = Callback(
        key="both",
        init=int,
        on_train_batch_end=lambda s, e: s + 1,
        step=StepHooks(init=dict, on_train_batch_end=lambda s, e: s),
    )
    _, run = train(masked(both, "head.*"))

    assert run.state["both"] == 3
    assert [*run.step_state["both"]] == ["head.weight", "head.bias"]


def test_it_goes_with_when_either_way_round():
    event = {"params": GRADS, "grads": GRADS}
    one = masked(when(every(steps=2), clip_grad_norm(1.0)), "encoder.*").step.on_before_optimizer_step
    other = when(every(steps=2), masked(clip_grad_norm(1.0), "encoder.*")).step.on_before_optimizer_step

    for step, clipped in ((1, [3.0, 4.0]), (2, [0.6, 0.8])):
        for hook in (one, other):
            out = hook(EmptyState(), ev.BeforeOptimizerStep(step=torch.tensor(step), **event)).replaced["grads"]
            torch.testing.assert_close(out, {"encoder.w": torch.tensor(clipped), "head.w": torch.tensor([9.0])})


def test_one_mask_in_another_leaves_what_both_match():
    twice = masked(masked(ema(0.5), "*.w"), "head.*")

    assert [*twice.step.init({**GRADS, "head.b": torch.zeros(1)})] == ["head.w"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: masked(clip_grad_norm, "a"), TypeError, "masked: callback must be a Callback, got <function"),
        (lambda: masked([ema(0.5)], "a"), TypeError, "masked: callback must be a Callback, got"),
        (lambda: masked(ema(0.5), ()), TypeError, r"masked: pattern must be text such as 'encoder.\*', or several"),
        (lambda: masked(ema(0.5), (1,)), TypeError, "masked: pattern must be text"),
        (lambda: masked(timer(), "a"), ValueError, "masked: callback must be one with a step half, got Callback"),
        (lambda: masked(compose(ema(0.5)), "a"), ValueError, r"with a step half, got compose\(Callback\('ema'"),
    ],
)
def test_what_cannot_be_masked_is_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_pattern_that_matches_nothing_is_told_when_training_begins():
    with pytest.raises(ValueError, match=r"\('decoder.*',\) must match a parameter for ema, got none. .*'encoder.wei"):
        train(masked(ema(0.5), "decoder.*"))


def test_a_host_half_finds_what_its_step_half_publishes_under_the_name_that_it_gave():
    """As made for all parameters, so for some: `clip_to_mean` of docs/compiled_step.md is such a one."""
    both = Callback(
        key="both",
        init=tuple,
        on_train_epoch_end=lambda s, e: (*s, e.metrics["bias"], e.metrics["bias/head.*"], e.metrics["lr-SGD"]),
        step=StepHooks(
            init=lambda _: EmptyState(),
            on_train_batch_end=lambda s, e: emit(s, metrics={"bias": e.params["head.bias"].sum()}),
        ),
    )
    model, run = train(masked(both, "head.*"), Callback(key="other", step=StepHooks(init=dict)))

    bias = model["head"].bias.item()
    assert run.state["both"] == (bias, bias, 0.5)
    assert "bias" not in run.metrics


def host(hook):
    return masked(Callback(key="host", init=tuple, step=StepHooks(init=dict), on_train_batch_end=hook), "a.*")


def metrics_of(*patterns, **given):
    """What a host half that was masked with the patterns, one in another, finds in an event's metrics."""
    callback = Callback(
        key="host", init=dict, step=StepHooks(init=dict), on_validation_end=lambda s, e: dict(e.metrics)
    )
    for pattern in patterns:
        callback = masked(callback, pattern)
    return fncb.replay(callback, [ev.ValidationEnd(metrics=given)]).state


def test_the_plain_names_join_the_others_and_win_over_those_of_other_callbacks():
    given = {"loss": 1.0, "n": 2.0, "n/a.*": 3.0, "m/a.*/gen": 4.0, "m/b.*": 5.0}

    assert metrics_of("a.*", **given) == {**given, "n": 3.0, "m/gen": 4.0}
    assert metrics_of(("a.*", "b"), **{"n/a.*,b": 1.0}) == {"n/a.*,b": 1.0, "n": 1.0}
    assert metrics_of("*.w", "a.*", **{"n/*.w/a.*": 1.0})["n"] == 1.0  # one mask in another


def test_a_metric_that_a_masked_host_half_misses_is_answered_by_those_that_are_there():
    callback = host(lambda s, e: (*s, e.metrics["x"]))

    with pytest.raises(ev.MissingMetric, match=r"no metric 'x'. It has \['loss', 'n/a.\*', 'n'\]."):
        fncb.replay(callback, [ev.TrainBatchEnd(metrics={"loss": 1.0, "n/a.*": 2.0})])


def test_what_is_on_the_device_stays_there_until_a_masked_host_half_reads_it():
    metrics = ev.Metrics(None, ("loss", "n/a.*"), torch.tensor([1.5, 0.25]))
    looks = host(lambda s, e: (*s, "n" in e.metrics, [*e.metrics], len(e.metrics), repr(e.metrics)))
    reads = host(lambda s, e: (*s, e.metrics["n"], e.metrics.get("o"), e.metrics == {"loss": 1.5, "n/a.*": 0.25}))
    joins = host(lambda s, e: (*s, {**e.metrics.with_values({"n": 1.0, "lr": 0.5})}))
    event = ev.TrainBatchEnd(metrics=metrics)

    seen = fncb.replay(looks, [event]).state
    assert seen == (True, ["loss", "n/a.*", "n"], 3, "<metrics loss, n/a.*, n>")
    assert metrics.pending is not None
    assert fncb.replay(reads, [event]).state == (0.25, None, False)
    assert metrics.pending is None
    assert fncb.replay(joins, [event]).state[0] == {"loss": 1.5, "n/a.*": 0.25, "n": 0.25, "lr": 0.5}


def test_a_recording_of_a_masked_callback_replays_to_the_same_state(tmp_path):
    both = Callback(
        key="both",
        init=tuple,
        on_train_batch_end=lambda s, e: (*s, e.metrics["n"]),
        step=StepHooks(
            init=lambda _: EmptyState(),
            on_after_backward=lambda s, e: emit(s, metrics={"n": e.grads["head.bias"].sum()}),
        ),
    )
    callback = masked(both, "head.*")
    _, run = train(callback, record=tmp_path / "events.jsonl")

    assert len(run.state["both"]) == 3
    assert fncb.replay(fncb.compose(callback), run.recording).state == {"both": run.state["both"]}
