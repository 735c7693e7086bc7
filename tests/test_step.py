"""The compiled step: the same numbers at every level, one graph where it can be, clear errors where it cannot."""

import ast
import copy
import logging
from functools import partial

import attrs
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fncb import compiling
from fncb.callback import Callback, EmptyState, StepHooks, compose, emit
from fncb.callbacks import clip_grad_norm, ema, skip_nonfinite
from fncb.events import MissingMetric
from fncb.not_in_step import NotInStepError
from fncb.step import Step
from fncb.task import Turn
from fncb.tree import leaves

CPU = torch.device("cpu")


def loss(model, batch):
    out = model(batch[0])
    return F.cross_entropy(out, batch[1]), {"acc": (out.argmax(1) == batch[1]).float().mean()}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batches(sizes=(8, 8, 8, 5), nan_at=()):
    generator = torch.Generator().manual_seed(1)
    made = [(torch.randn(n, 6, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in sizes]
    for i in nan_at:
        made[i][0][0, 0] = float("nan")
    return made


def make(callbacks=(), *, compile, optimizer=None, model=None, loss=loss, accumulate=1):
    model = model or network()
    optimizer = optimizer or partial(torch.optim.AdamW, lr=0.01)
    turn = Turn(None, loss, optimizer(model.parameters()))
    step = Step(model, [turn], compose(callbacks).step, CPU, compile)
    step.set_accumulation(accumulate)
    return step


def train(step, data, accumulate=1):
    seen = []
    for i, batch in enumerate(data):
        last = i == len(data) - 1
        seen.append(dict(step(batch, update=last or i % accumulate == accumulate - 1, first=i % accumulate == 0)))
    return seen


def tensors(step):
    return dict(leaves({"params": step.params, "buffers": step.buffers, "states": step.states, "carry": step.carry}))


def assert_same(one, other, rtol=1e-5):
    for path, tensor in tensors(one).items():
        torch.testing.assert_close(
            tensor, tensors(other)[path], rtol=rtol, atol=1e-6, msg=lambda m, p=path: f"{p}: {m}"
        )


def hooked(key="hooked", **hooks):
    return Callback(key=key, step=StepHooks(init=lambda params: {"n": torch.zeros(())}, **hooks))


def counts(state, event):
    return {"n": state["n"] + 1}


def every_hook():
    def double_inputs(state, event):
        x, y = event.batch
        return emit(counts(state, event), batch=(x * 2, y))

    def triple_loss(state, event):
        return emit(counts(state, event), loss=event.loss * 3, metrics={"weighed": event.loss.detach() * 3})

    def halve(state, event):
        return emit(counts(state, event), grads={name: grad / 2 for name, grad in event.grads.items()})

    def shrink(state, event):
        return emit(counts(state, event), params={name: p * 0.99 for name, p in event.params.items()})

    return hooked(
        on_train_batch_start=double_inputs,
        on_before_zero_grad=counts,
        on_before_backward=triple_loss,
        on_after_backward=halve,
        on_before_optimizer_step=halve,
        on_after_optimizer_step=shrink,
        on_train_batch_end=counts,
    )


def test_compiled_equals_eager_with_every_kind_of_hook_and_compiles_one_graph_more_for_a_smaller_last_batch():
    data = batches((8, 8, 8, 5, 8, 8, 8, 5), nan_at=(4,))
    callbacks = (every_hook(), clip_grad_norm(0.5), ema(0.9), skip_nonfinite())
    compiled, eager = make(callbacks, compile=True), make(callbacks, compile=False)

    seen, expected = train(compiled, data), train(eager, data)

    assert (compiled.level, compiled.compilations, compiled.recompilations) == ("one graph", 2, 1)
    assert (eager.level, eager.compilations) == ("eager", 0)
    assert_same(compiled, eager)
    for one, other in zip(seen, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5, nan_ok=True)
    assert compiled.states["hooked"]["n"].item() == 7 * 7  # seven hooks, seven batches that were not skipped
    assert compiled.states["skip_nonfinite"]["skipped"].item() == 1


def test_a_hand_written_loop_gives_the_same_numbers():
    model, data = network(), batches()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    step = make((clip_grad_norm(0.1),), compile=False)

    train(step, data)
    for batch in data:
        optimizer.zero_grad()
        loss(model, batch)[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    for name, p in model.named_parameters():
        torch.testing.assert_close(step.params[name], p, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5),  # whose first step differs from the others
        partial(torch.optim.Adam, lr=0.01, amsgrad=True, weight_decay=0.1),
        partial(torch.optim.Adagrad, lr=0.1, initial_accumulator_value=0.1),
        partial(torch.optim.RMSprop, lr=0.01, centered=True),
        partial(torch.optim.NAdam, lr=0.01),  # keeps a product that starts at one
    ],
    ids=lambda optimizer: optimizer.func.__name__,
)
def test_an_optimizer_of_torch_gives_the_same_numbers_in_the_graph(optimizer):
    data = batches((8, 8, 8, 8), nan_at=(2,))
    compiled = make((skip_nonfinite(),), compile=True, optimizer=optimizer)
    eager = make((skip_nonfinite(),), compile=False, optimizer=optimizer)

    train(compiled, data)
    train(eager, data)

    assert (compiled.level, compiled.recompilations) == ("one graph", 0)
    assert_same(compiled, eager)


def test_two_parameter_groups_keep_their_own_settings():
    def optimizer(params):
        *others, last = params
        return torch.optim.SGD([{"params": others, "lr": 0.1}, {"params": [last], "lr": 0.0}])

    compiled, eager = make(compile=True, optimizer=optimizer), make(compile=False, optimizer=optimizer)

    train(compiled, batches((8, 8, 8)))
    train(eager, batches((8, 8, 8)))

    assert_same(compiled, eager)
    torch.testing.assert_close(compiled.params["3.bias"], dict(network().named_parameters())["3.bias"])


def test_an_optimizer_that_cannot_be_traced_gets_a_region_of_its_own(caplog):
    adafactor = partial(torch.optim.Adafactor, lr=0.01)
    callbacks = (every_hook(), ema(0.9), skip_nonfinite())
    compiled, eager = (
        make(callbacks, compile=True, optimizer=adafactor),
        make(callbacks, compile=False, optimizer=adafactor),
    )

    with caplog.at_level(logging.WARNING, "fncb"):
        train(compiled, batches((8, 8, 8, 8), nan_at=(2,)))
    train(eager, batches((8, 8, 8, 8), nan_at=(2,)))

    assert (compiled.level, compiled.recompilations) == ("two regions", 0)
    assert len(caplog.records) == 1
    assert "the step runs as two regions, not as one graph: " in caplog.text
    assert_same(compiled, eager)


def test_a_loss_that_cannot_be_traced_runs_eagerly_and_says_so_once(caplog):
    def branches(model, batch):
        value = loss(model, batch)[0]
        return value if value.item() > 0 else -value

    compiled = make(compile=True, loss=branches)

    with caplog.at_level(logging.WARNING, "fncb"):
        train(compiled, batches((8, 8, 8)))

    assert compiled.level == "eager"
    (said,) = caplog.messages
    assert said.startswith("fncb: the step runs as eager, not as one graph: UserError: ")
    assert "hook" not in said


def branches(state, event):
    return counts(state, event) if event.loss > 0 else state


def only_eagerly(state, event):
    return {"n": state["n"] + float(event.loss.numpy())}


@pytest.mark.parametrize(
    ("hook", "error"),
    [
        (branches, "GuardOnDataDependentSymNode: Could not guard on data-dependent expression"),
        (only_eagerly, "RuntimeError: .numpy() is not supported for tensor subclasses."),  # raised by the hook itself
    ],
)
def test_a_step_hook_that_cannot_be_traced_is_named_once_with_its_callback(hook, error, caplog):
    callbacks = (hooked("fine", on_after_backward=counts), hooked("mine", on_before_optimizer_step=hook))
    compiled = make(callbacks, compile=True)

    with caplog.at_level(logging.WARNING, "fncb"):
        train(compiled, batches((8, 8)))

    assert compiled.level == "eager"
    (said,) = caplog.messages
    because = "fncb: the step runs as eager, not as one graph, because of the step hook `on_before_optimizer_step` of "
    assert said.startswith(f"{because}'mine': {error}")


def test_what_keeps_the_step_from_each_level_is_told_in_one_line(monkeypatch, caplog):
    """The optimizer from one graph, the compiler, which fails after that, from two regions."""
    compiled = make(compile=True, optimizer=partial(torch.optim.Adafactor, lr=0.01))

    def gives_up(*_, **__):
        raise RuntimeError("too large")

    monkeypatch.setattr(compiling, "inductor", gives_up)
    with caplog.at_level(logging.WARNING, "fncb"):
        train(compiled, batches((8, 8)))

    (said,) = caplog.messages
    assert said.startswith("fncb: the step runs as eager, not as one graph: ")
    assert said.endswith("; nor as two regions: RuntimeError: too large")


@pytest.mark.parametrize("missing", ["nonstrict_trace", "trace_autograd_ops"])
def test_without_a_young_part_of_torch_the_step_runs_eagerly(missing, monkeypatch, caplog):
    def unavailable(*_):
        raise compiling.Unavailable(f"torch has no {missing}")

    monkeypatch.setattr(compiling, "nonstrict" if missing == "nonstrict_trace" else "tracing", unavailable)
    step = make((ema(0.9),), compile=True)

    with caplog.at_level(logging.WARNING, "fncb"):
        train(step, batches((8, 8)))

    assert step.level == "eager"
    assert f"torch has no {missing}" in caplog.text


def test_the_probes_notice_a_torch_without_the_young_parts(monkeypatch):
    monkeypatch.delattr(torch._dynamo, "nonstrict_trace")
    monkeypatch.delattr(torch.compiler, "nonstrict_trace", raising=False)

    with pytest.raises(compiling.Unavailable, match="no nonstrict_trace"):
        compiling.nonstrict(len)


def test_without_a_compiler_the_step_runs_eagerly_and_one_line_says_so(monkeypatch, caplog):
    def no_compiler(*_, **__):
        raise RuntimeError("no working C++ compiler found")

    monkeypatch.setattr(compiling, "inductor", no_compiler)
    step = make(compile=True)

    with caplog.at_level(logging.WARNING, "fncb"):
        train(step, batches((8, 8)))

    assert step.level == "eager"
    assert len(caplog.records) == 1
    assert "C++ compiler" in caplog.text


@pytest.mark.parametrize("compile", [True, False])
def test_accumulated_batches_make_the_update_of_one_large_batch(compile):
    sgd, model = partial(torch.optim.SGD, lr=0.1), nn.Linear(6, 3)  # no batch statistics, which depend on the batch
    parts = make(compile=compile, model=copy.deepcopy(model), accumulate=2, optimizer=sgd)
    whole = make(compile=False, model=model, optimizer=sgd)
    data = batches((4, 4, 4, 4, 4, 4))

    train(parts, data, accumulate=2)
    train(
        whole,
        [tuple(map(torch.cat, zip(one, two, strict=True))) for one, two in zip(data[::2], data[1::2], strict=True)],
    )

    for name, p in whole.params.items():
        torch.testing.assert_close(parts.params[name], p)
    assert parts.carry["step"].item() == 3


def test_a_skipped_batch_is_left_out_of_its_window_and_a_window_of_them_makes_no_update():
    step = make((skip_nonfinite(), ema(0.5)), compile=False, accumulate=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    reference = make(compile=False, optimizer=partial(torch.optim.SGD, lr=0.05))  # one batch counts for half
    data = batches((4, 4, 4, 4), nan_at=(1, 2, 3))

    train(step, data, accumulate=2)
    train(reference, data[:1])

    for name, p in reference.params.items():
        torch.testing.assert_close(step.params[name], p)
    for name, buffer in reference.buffers.items():
        torch.testing.assert_close(step.buffers[name], buffer)
    assert step.states["skip_nonfinite"]["skipped"].item() == 3


@pytest.mark.parametrize("compile", [True, False])
def test_a_skipped_batch_leaves_everything_as_it_was_but_the_count_of_it(compile):
    step = make((skip_nonfinite(), clip_grad_norm(1.0), ema(0.5)), compile=compile)
    train(step, batches((8, 8)))
    before = {path: tensor.clone() for path, tensor in tensors(step).items()}
    optimizer = [tensor.clone() for _, tensor in leaves(dict(step.optimizers[0].state_dict()["state"]))]

    (metrics,) = train(step, batches((8,), nan_at=(0,)))

    changed = {path for path, tensor in tensors(step).items() if not torch.equal(tensor, before[path])}
    assert changed == {"states.skip_nonfinite.skipped", "carry.step"}
    for one, other in zip(optimizer, leaves(dict(step.optimizers[0].state_dict()["state"])), strict=True):
        torch.testing.assert_close(one, other[1], rtol=0, atol=0)
    assert metrics["skipped"] == 1.0


def test_a_first_batch_that_is_skipped_does_not_reach_the_optimizer():
    step = make((skip_nonfinite(),), compile=True)

    train(step, batches((8,), nan_at=(0,)))
    assert step.started == [False]
    train(step, batches((8, 8)))

    assert step.started
    assert all(torch.isfinite(p).all() for p in step.params.values())


def test_changing_the_learning_rate_never_recompiles_and_takes_effect():
    step = make(compile=True, optimizer=partial(torch.optim.SGD, lr=0.1))
    data = batches((8,) * 6)
    train(step, data[:2])
    compiled = step.compilations
    still = {name: p.clone() for name, p in step.params.items()}

    step.optimizers[0].param_groups[0]["lr"] = 0.0
    train(step, data[2:4])
    for name, p in step.params.items():
        assert torch.equal(p, still[name])
    step.optimizers[0].param_groups[0]["lr"] = 0.1
    train(step, data[4:])

    assert step.compilations == compiled
    assert not torch.equal(step.params["3.bias"], still["3.bias"])


def test_a_plain_value_that_changes_in_the_model_is_noticed():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = nn.Linear(6, 3), 1.0

        def forward(self, x):
            return self.inner(x) * self.scale

    torch.manual_seed(0)
    step = make(compile=True, model=Scaled())
    data = batches((8,) * 4)
    train(step, data[:2])

    step.model.scale = 0.0
    (metrics,) = train(step, data[2:3])

    assert metrics["loss"] == pytest.approx(1.0986123, rel=1e-6)  # ln 3: all logits are zero
    assert (step.level, step.recompilations) == ("one graph", 1)


def test_a_setting_that_changes_beside_the_learning_rate_takes_the_optimizer_out_of_the_graph():
    step = make(compile=True, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    reference = make(compile=False, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    data = batches((8,) * 5)

    for i, batch in enumerate(data):
        for each in (step, reference):
            each.optimizers[0].param_groups[0]["momentum"] = 0.9 - i / 10
            each.check_settings()
            each(batch)

    assert step.level == "two regions"
    assert_same(step, reference)


def test_callbacks_that_differ_by_a_number_only_are_compiled_apart():
    data = batches((8, 8, 8))
    norms = {}
    for max_norm in (1.0, 0.001):  # the second compilation may find the first in the compiler's caches
        step = make((clip_grad_norm(max_norm),), compile=True, optimizer=partial(torch.optim.SGD, lr=1.0))
        train(step, data[:2])
        before = {name: p.detach().clone() for name, p in step.params.items()}
        train(step, data[2:])
        norms[max_norm] = sum((p - before[name]).square().sum() for name, p in step.params.items()).sqrt().item()

    assert norms[1.0] > 0.1
    assert norms[0.001] == pytest.approx(0.001, rel=1e-3)


def test_many_batch_shapes_share_one_graph_in_the_end():
    step, eager = make(compile=True), make(compile=False)
    data = batches(tuple(range(4, 16)))

    train(step, data)
    train(eager, data)

    assert step.compilations <= 6
    assert step.level == "one graph"
    assert_same(step, eager)


def test_the_graph_that_many_shapes_share_is_traced_again_where_it_must_be():
    """Parts of one tensor begin in different places, and a graph made for those does not fit one that begins anew."""
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    begins, sizes = (0, 64, 114, 147, 194, 0), (64, 50, 33, 47, 21, 40)
    data = [x[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)]
    torch.manual_seed(0)
    model, sgd = nn.Linear(4, 1), partial(torch.optim.SGD, lr=0.1)
    step, eager = (
        make(compile=compile, model=copy.deepcopy(model), loss=lambda model, x: model(x).square().mean(), optimizer=sgd)
        for compile in (True, False)
    )

    train(step, data)
    train(eager, data)

    assert step.level == "one graph"
    assert_same(step, eager)


def test_the_means_of_an_epoch_are_weighted_by_batch_size_and_leave_skipped_batches_out():
    step = make(
        (skip_nonfinite(),), compile=False, model=nn.Linear(1, 1), loss=lambda model, x: model(x).mean() * 0 + x.mean()
    )
    step.start_epoch(0)

    for x in (torch.full((1, 1), 1.0), torch.full((3, 1), 2.0), torch.full((5, 1), float("nan"))):
        step(x)

    assert dict(step.means()) == {"loss_epoch": 1.75}


def test_step_state_never_aliases_the_parameters():
    step = make(
        (Callback(key="same", step=StepHooks(init=dict, on_train_batch_end=lambda state, event: state)),), compile=False
    )
    before = step.states["same"]["3.bias"].clone()

    train(step, batches((8,)))

    assert torch.equal(step.states["same"]["3.bias"], before)


def test_dropout_draws_from_the_default_generator_and_repeats_with_it():
    model = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    step = make(compile=True, model=model, optimizer=partial(torch.optim.SGD, lr=0.0))
    data = batches((8, 8, 8))
    train(step, data)

    state = torch.get_rng_state()
    one, two = train(step, [data[0], data[0]])
    torch.set_rng_state(state)
    again = train(step, [data[0], data[0]])

    assert one != two
    assert [one, two] == again


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda s, e: {"n": torch.zeros(2)}, r"hooked: step hook on_train_batch_end must keep shape and dtype of 'n'"),
        (lambda s, e: {"n": torch.zeros((), dtype=torch.int64)}, "must keep shape and dtype"),
        (lambda s, e: {"n": 1.0}, r"must hold tensors only, got 1.0 at 'n'"),
        (lambda s, e: {"m": torch.zeros(())}, r"must keep the structure \['n'\], got \['m'\]"),
        (lambda s, e: None, "must return its state, got None. Return the state"),
        (lambda s, e: emit(s, metrics={"a": 1.0}), "metric 'a' must hold tensors only, got 1.0"),
        (lambda s, e: emit(s, metrics={"loss": torch.zeros(())}), "publishes 'loss', got that name twice"),
        (lambda s, e: emit(s, grads={}), "may replace nothing, got 'grads'"),
        (lambda s, e: emit(s, Callback(key="x")), "must not return effects"),
    ],
)
def test_a_wrong_step_hook_is_named(hook, message):
    step = make((hooked(on_train_batch_end=hook),), compile=True)

    with pytest.raises((TypeError, ValueError), match=message):
        train(step, batches((8,)))


@pytest.mark.parametrize(
    ("name", "skips"),
    [
        ("on_train_batch_start", False),
        ("on_before_backward", False),
        ("on_after_backward", True),
        ("on_before_optimizer_step", True),
        ("on_before_zero_grad", False),
        ("on_after_optimizer_step", False),
        ("on_train_batch_end", False),
    ],
)
def test_what_cannot_be_skipped_any_more_or_yet_is_refused(name, skips):
    step = make((hooked(**{name: lambda s, e: emit(s, skip=torch.tensor(True))}),), compile=False)
    before = {path: p.clone() for path, p in step.params.items()}

    if skips:
        train(step, batches((8,)))
        assert all(torch.equal(p, before[path]) for path, p in step.params.items())
    else:
        with pytest.raises(TypeError, match=rf"^hooked: step hook {name} must not skip, got it. That is for on_after_"):
            train(step, batches((8,)))


def test_gradients_must_be_replaced_in_full():
    step = make((hooked(on_after_backward=lambda s, e: emit(s, grads={})),), compile=True)

    with pytest.raises(TypeError, match=r"replacing grads, must keep the structure"):
        train(step, batches((8,)))


def test_step_state_must_be_tensors_from_the_beginning():
    callback = Callback(key="bad", step=StepHooks(init=lambda params: {"n": 0}, on_train_batch_end=counts))

    with pytest.raises(TypeError, match=r"bad: init must hold tensors only, got 0 at 'n'"):
        make((callback,), compile=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda model, batch: model(batch[0]), r"a loss must be a scalar, got shape \(8, 3\). Take .mean\(\)."),
        (lambda model, batch: model(batch[0]).sum().item(), "a loss must return a tensor"),
        (lambda model, batch: batch[0].sum(), "a loss must need gradients"),
        (lambda model, batch: (model(batch[0]).sum(), 3), "must map names to tensors, got int"),
        (lambda model, batch: (model(batch[0]).sum(), {"acc": 0.5}), "metric 'acc' must be a tensor, got 0.5"),
        (lambda model, batch: (model(batch[0]).sum(), {"acc": batch[0]}), "metric 'acc' must be a scalar"),
    ],
)
def test_a_wrong_loss_is_named(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        train(make(compile=True, loss=wrong), batches((8,)))


@pytest.mark.parametrize("compile", [True, False])
def test_an_exception_in_a_step_hook_says_whose_it_is_and_when(compile):
    def fails(state, event):
        raise ZeroDivisionError("by zero")

    callbacks = (hooked("fine", on_before_optimizer_step=counts), hooked("mine", on_before_optimizer_step=fails))
    step = make(callbacks, compile=compile)
    step.start_epoch(2)

    with pytest.raises(ZeroDivisionError, match="by zero") as caught:
        train(step, batches((8,)))

    assert caught.value.__notes__ == ["mine: step hook on_before_optimizer_step failed at epoch 2, step 0."]


def test_a_field_that_the_event_of_a_step_hook_has_not_is_answered_by_those_it_has():
    step = make((hooked(on_before_backward=lambda s, e: emit(s, loss=e.grads)),), compile=False)

    with pytest.raises(AttributeError, match="has no attribute 'grads'") as caught:
        train(step, batches((8,)))

    there = ["epoch", "step", "optimizer", "batch", "loss"]
    assert sorted(there) == sorted(ast.literal_eval(caught.value.__notes__[1].split("It has ")[1].rstrip(".")))


def test_metrics_are_tensors_in_the_step_and_compile():
    """The last loss and what an earlier hook published enter a running mean, without a value being asked for."""

    def mean(state, event):
        assert isinstance(event.metrics["loss"], torch.Tensor)
        return {"n": 0.5 * state["n"] + 0.5 * event.metrics["loss"] + event.metrics["one"]}

    one = hooked("one", on_before_backward=lambda s, e: emit(s, metrics={"one": torch.ones(())}))
    data = batches((8, 8, 8))
    compiled, eager = (make((one, hooked("mean", on_train_batch_end=mean)), compile=way) for way in (True, False))

    seen, expected = train(compiled, data), train(eager, data)

    assert (compiled.level, compiled.compilations) == ("one graph", 1)
    assert_same(compiled, eager)
    by_hand = 0.0
    for metrics in expected:
        by_hand = 0.5 * by_hand + 0.5 * metrics["loss"] + 1.0
    assert eager.states["mean"]["n"].item() == pytest.approx(by_hand)
    assert [each["loss"] for each in seen] == pytest.approx([each["loss"] for each in expected])


def test_a_metric_that_is_not_there_in_the_step_is_answered_by_those_that_are():
    step = make((hooked(on_train_batch_end=lambda s, e: {"n": e.metrics["los"]}),), compile=False)

    with pytest.raises(MissingMetric, match=r"no metric 'los'. It has \['loss', 'acc'\]"):
        train(step, batches((8,)))


@pytest.mark.parametrize(
    ("hook", "use"),
    [
        ("on_before_backward", lambda e: e.batch_idx % 2),
        ("on_after_backward", lambda e: e.seconds > 3.0),
        ("on_before_optimizer_step", lambda e: e.loss * e.batch_idx),
        ("on_train_batch_start", lambda e: 1 / e.samples),
        ("on_train_batch_start", lambda e: torch.zeros(()) if e.waited else 0),
        ("on_before_zero_grad", lambda e: [0, 1][e.batch_idx]),
        ("on_after_optimizer_step", lambda e: torch.full((), float(e.batch_idx))),
        ("on_train_batch_end", lambda e: e.batch_idx == 0),
        ("on_train_batch_end", lambda e: f"{e.batch_idx}"),
        ("on_train_batch_end", lambda e: {0: 1}[e.dataloader_idx]),
    ],
)
def test_what_the_step_does_not_know_raises_when_it_is_used(hook, use):
    step = make((hooked(**{hook: lambda s, e: use(e) and s}),), compile=False)

    with pytest.raises(NotInStepError, match=r": '\w+' is not known inside the step. Read it in a host hook, or"):
        train(step, batches((8,)))


def test_an_event_in_the_step_can_be_printed_and_changed():
    shown = []

    def prints(state, event):
        shown.append(repr(attrs.evolve(event, loss=event.loss)))
        return state

    train(make((hooked(on_before_backward=prints),), compile=False), batches((8,)))

    assert shown == [
        "BeforeBackward(epoch=tensor(0), step=tensor(0), seconds=<not known>, batch_idx=<not known>, "
        "dataloader_idx=<not known>, optimizer=None)"
    ]


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step"])
def test_a_metric_of_a_hook_must_not_have_a_name_of_the_losss(hook):
    step = make((hooked(**{hook: lambda s, e: emit(s, metrics={"acc": torch.zeros(())})}),), compile=False)

    with pytest.raises(ValueError, match=r"each metric must have a name of its own, got the loss's \['acc'\]"):
        train(step, batches((8,)))


def test_a_callback_without_state_may_have_step_hooks():
    callback = Callback(
        key="norm",
        step=StepHooks(
            init=lambda params: EmptyState(),
            on_before_optimizer_step=lambda s, e: emit(s, metrics={"g": e.grads["3.bias"].norm()}),
        ),
    )
    step = make((callback,), compile=False)

    (metrics,) = train(step, batches((8,)))

    assert set(metrics) == {"loss", "acc", "g"}
