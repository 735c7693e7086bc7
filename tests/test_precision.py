"""Precision: what is computed in which numbers, and the loss scale that halves and grows."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import fncb
from fncb import phases, store
from fncb.callback import Callback, StepHooks, compose
from fncb.callbacks import checkpoint
from fncb.phases import FIRST_SCALE
from fncb.precision import checked, needs_scale, with_precision
from fncb.step import Step
from fncb.task import Task, Turn
from fncb.tree import leaves

CPU = torch.device("cpu")

fit = partial(fncb.fit, compile=False, progress=False, max_epochs=1)


def line(weight=1.0):
    """One parameter: what it is multiplied with is its gradient."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(weight)
    return model


def loss(model, batch):
    return model(batch).float().mean()


def of(value):
    """Eight samples; of `loss` the gradient is `value`. That of one sample does not overflow, up to the scale 2**18."""
    return torch.full((8, 1), value)


SMALL = of(0.25)
LARGE = of(1.0)  # at the first scale 2**16 more than half precision can hold, after a halving no longer
LARGER = of(2.0)  # after two


def make(callbacks=(), *, model=None, loss=loss, compile=False, accumulate=1, momentum=0.0):
    """A step of SGD at a learning rate of 0.5, in "16-mixed"."""
    task = with_precision(Task(model or line(), loss=loss), "16-mixed", CPU)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.5, momentum=momentum)
    hooks = compose(callbacks).step
    step = Step(task.model, [Turn(None, task.loss, optimizer)], hooks, CPU, compile, scaled=True)
    step.set_accumulation(accumulate)
    return step


def weight(step):
    return step.params["weight"].item()


def scale(step):
    return step.carry["turns"][0]["scale"].item()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("32", "32"),
        ("64", "64"),
        ("bf16-mixed", "bf16-mixed"),
        ("16-mixed", "16-mixed"),
        (32, "32"),
        (64, "64"),
        ("32-true", "32"),
        ("64-true", "64"),
    ],
)
def test_a_precision_is_known_by_its_name_and_by_that_of_lightning(given, meant):
    assert checked("fit", given) == meant


@pytest.mark.parametrize("given", ["16", 16, "bf16", "fp16", "16-true", "", None, torch.float16])
def test_another_precision_is_refused(given):
    with pytest.raises(ValueError, match=r"^fit: precision must be '32', 'bf16-mixed', '16-mixed' or '64', got "):
        checked("fit", given)


def test_only_half_precision_of_sixteen_bits_needs_a_scale():
    assert [name for name in ("32", "64", "bf16-mixed", "16-mixed") if needs_scale(name)] == ["16-mixed"]


def looks(seen):
    """A loss that notes the dtypes of parameters, batch, product and loss."""

    def loss(model, batch):
        product = model(batch["x"])
        value = product.float().mean() if product.dtype != torch.float64 else product.mean()
        seen.append((model.weight.dtype, batch["x"].dtype, batch["i"].dtype, product.dtype, value.dtype))
        return value

    return loss


BATCH = {"x": torch.ones(2, 1), "i": torch.ones(2, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("precision", "params", "inputs", "products", "value"),
    [
        ("32", torch.float32, torch.float32, torch.float32, torch.float32),
        ("bf16-mixed", torch.float32, torch.float32, torch.bfloat16, torch.float32),
        ("16-mixed", torch.float32, torch.float32, torch.float16, torch.float32),
        ("64", torch.float64, torch.float64, torch.float64, torch.float64),
    ],
)
def test_every_stage_computes_in_the_precision(precision, params, inputs, products, value):
    seen = []
    task = Task(
        line(),
        loss=looks(seen),
        validate=looks(seen),
        test=looks(seen),
        predict=looks(seen),
        optimizer=partial(torch.optim.SGD, lr=0.5, momentum=0.5),
    )
    given = {"precision": precision, "progress": False}

    fncb.validate(task, [BATCH], **given)
    fncb.test(task, [BATCH], **given)
    fncb.predict(task, [BATCH], **given)
    fit(task, [BATCH], [BATCH], num_sanity_val_steps=0, **given)

    assert seen == [(params, inputs, torch.int64, products, value)] * 5
    assert task.model.weight.dtype == params
    assert BATCH["x"].dtype == torch.float32  # the batch itself is left alone


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed", "64"])
def test_gradients_and_optimizer_states_have_the_precision_of_the_parameters(precision):
    dtypes = []
    looks = Callback(
        key="looks",
        step=StepHooks(
            init=lambda params: {},
            on_before_optimizer_step=lambda s, e: dtypes.append(e.grads["weight"].dtype) or s,
        ),
    )
    model = line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)

    fit(Task(model, loss=lambda m, b: m(b).mean(), optimizer=optimizer), [SMALL], precision=precision, callbacks=looks)

    wide = torch.float64 if precision == "64" else torch.float32
    assert dtypes == [wide]
    if precision != "16-mixed":  # where a loss in half precision overflows at the first scale
        assert optimizer.state[model.weight]["momentum_buffer"].dtype == wide


def test_in_double_precision_metrics_and_means_are_double_too():
    fine = 1 + 2.0**-40  # 1 in single precision
    stays = partial(torch.optim.SGD, lr=0.0)
    task = Task(line(), loss=lambda m, b: (m(b).mean() * fine, {"also": b.mean() * fine}), optimizer=stays)

    result = fit(task, [of(1.0)], [of(1.0)], precision="64")

    names = ("loss", "also", "val_loss", "val_also", "also_epoch")
    assert {result.metrics[name] for name in names} == {fine}


def test_each_of_several_losses_computes_in_the_precision():
    def named(model, batch):
        return model(batch)

    task = with_precision(Task(line(), loss={"a": named, "b": named}), "bf16-mixed", CPU)

    assert {name: each(task.model, SMALL).dtype for name, each in task.losses.items()} == {
        "a": torch.bfloat16,
        "b": torch.bfloat16,
    }


def test_autocast_is_over_after_a_loss():
    task = with_precision(Task(line(), loss=loss), "bf16-mixed", CPU)

    task.loss(task.model, SMALL)

    assert task.model(SMALL).dtype == torch.float32


def test_single_precision_leaves_the_task_as_it_is():
    task = Task(line(), loss=loss)

    assert with_precision(task, "32", CPU) is task


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "64"])
def test_the_default_prediction_computes_in_the_precision(precision):
    expected = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "64": torch.float64}[precision]

    [prediction] = fncb.predict(Task(line(), loss=loss), [SMALL], precision=precision, progress=False).predictions

    assert prediction.dtype == expected


# The loss scale.


def test_gradients_that_overflow_leave_parameters_and_optimizer_alone_and_halve_the_scale():
    step = make(momentum=0.5)
    step(SMALL)
    state = step.optimizers[0].state[step.params["weight"]]
    before = (weight(step), state["momentum_buffer"].item())

    step(LARGE)

    assert before == (0.875, 0.25)
    assert (weight(step), state["momentum_buffer"].item()) == before
    assert scale(step) == FIRST_SCALE / 2 == 2.0**15
    step(SMALL)
    assert (weight(step), state["momentum_buffer"].item()) == (0.875 - 0.5 * 0.375, 0.375)
    step(LARGE)  # which now fits
    assert state["momentum_buffer"].item() == 0.1875 + 1.0


def test_an_overflow_in_the_first_batch_does_not_reach_the_optimizer():
    step = make(momentum=0.5)

    step(LARGER)
    step(LARGER)

    assert (weight(step), scale(step)) == (1.0, 2.0**14)
    assert step.optimizers[0].state == {}
    step(LARGER)
    assert weight(step) == 0.0


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_gradient_that_is_no_number_counts_as_an_overflow(value):
    step = make()

    step(of(value))

    assert (weight(step), scale(step)) == (1.0, 2.0**15)


def test_a_batch_that_overflows_counts_as_a_step_and_its_loss_in_the_mean():
    step = make()
    step.start_epoch(0)

    losses = [step(batch)["loss"] for batch in (SMALL, LARGE)]

    assert losses == [0.25, 0.875]
    assert step.means()["loss_epoch"] == 0.5625
    assert step.carry["step"].item() == 2


@pytest.mark.parametrize(
    ("batches", "exponents"),
    [
        ([SMALL] * 5, [16, 16, 17, 17, 17]),
        ([SMALL, SMALL, LARGE, SMALL, SMALL, SMALL], [16, 16, 15, 15, 15, 16]),  # an overflow restarts the count
        ([LARGE, LARGE, LARGE, LARGE, LARGE], [15, 15, 15, 16, 15]),  # grown too far
        ([LARGER, LARGER, SMALL, SMALL, SMALL], [15, 14, 14, 14, 15]),
    ],
)
def test_the_scale_doubles_after_so_many_updates_without_overflow(monkeypatch, batches, exponents):
    monkeypatch.setattr(phases, "GROWTH_INTERVAL", 3)
    step, seen = make(), []

    for batch in batches:
        step(batch)
        seen.append(scale(step))

    assert seen == [2.0**exponent for exponent in exponents]


def test_the_scale_is_that_of_torch():
    scaler = torch.amp.GradScaler("cpu")

    scaler.scale(torch.zeros(()))
    assert scaler.get_scale() == FIRST_SCALE
    assert scaler.get_growth_interval() == phases.GROWTH_INTERVAL


@pytest.mark.parametrize("window", [(LARGER, SMALL, SMALL), (SMALL, LARGER, SMALL), (SMALL, SMALL, LARGER)])
def test_an_overflow_anywhere_in_a_window_leaves_its_update_out(window):
    step = make(accumulate=3)
    windows = [window, (of(0.75), of(0.0), of(0.75))]
    seen = []

    step.carry["share"].fill_(0.5)  # exact in binary, for a third
    for batches in windows:
        for i, batch in enumerate(batches):
            step(batch, update=i == 2, first=i == 0)
        seen.append((weight(step), scale(step)))

    assert seen == [(1.0, 2.0**15), (1.0 - 0.5 * 0.75, 2.0**15)]


def test_growth_counts_updates_and_not_the_batches_of_a_window(monkeypatch):
    monkeypatch.setattr(phases, "GROWTH_INTERVAL", 2)
    step, seen = make(accumulate=2), []

    for i in range(4):
        step(SMALL, update=i % 2 == 1, first=i % 2 == 0)
        seen.append(scale(step))

    assert seen == [2.0**16, 2.0**16, 2.0**16, 2.0**17]


def test_an_overflow_in_a_window_that_an_epoch_cut_short_does_not_reach_the_next():
    step = make(accumulate=2)
    step.start_epoch(0)
    step(LARGER, update=False, first=True)

    step.start_epoch(1)
    step(SMALL, update=False, first=True)
    step(SMALL, update=True, first=False)

    assert weight(step) == 0.875


def test_the_scale_stays_finite(monkeypatch):
    monkeypatch.setattr(phases, "GROWTH_INTERVAL", 1)
    step = make(loss=lambda model, batch: (model.weight * batch).mean())  # nothing in half precision

    for _ in range(120):
        step(of(0.0))

    assert scale(step) < float("inf")


def test_hooks_see_what_is_not_scaled():
    seen = []

    def notes(*names):
        return lambda s, e: seen.extend(getattr(e, name)["weight"].item() for name in names) or s

    sees = Callback(
        key="sees",
        step=StepHooks(
            init=lambda params: {},
            on_before_backward=lambda s, e: seen.append(e.loss.item()) or s,
            on_after_backward=notes("grads"),
            on_before_optimizer_step=notes("grads"),
            on_after_optimizer_step=notes("grads", "params"),
        ),
    )

    make([sees])(SMALL)

    assert seen == [0.25, 0.25, 0.25, 0.25, 0.875]


def test_states_of_hooks_around_an_update_that_overflows_stay():
    def count(state, event):
        return {"n": state["n"] + 1}

    def counts(name):
        return Callback(key=name, step=StepHooks(init=lambda params: {"n": torch.zeros(())}, **{name: count}))

    names = ("on_after_backward", "on_before_optimizer_step", "on_after_optimizer_step", "on_train_batch_end")
    step = make([counts(name) for name in names])

    for batch in (SMALL, LARGE, SMALL):
        step(batch)

    assert [step.states[name]["n"].item() for name in names] == [3, 2, 2, 3]


def test_parameters_that_a_hook_replaces_after_an_overflow_stay():
    zeros = Callback(
        key="zeros",
        step=StepHooks(
            init=lambda params: {},
            on_after_optimizer_step=lambda s, e: fncb.emit(s, params={"weight": torch.zeros(1, 1)}),
        ),
    )
    step = make([zeros])

    step(LARGE)
    assert weight(step) == 1.0
    step(SMALL)
    assert weight(step) == 0.0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loop_with_the_scaler_of_torch_gives_the_same_numbers(monkeypatch, accumulate):
    monkeypatch.setattr(phases, "GROWTH_INTERVAL", 3)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(4, 3, generator=generator) for _ in range(14)]
    batches[7] *= 300
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    other = copy.deepcopy(model)

    def loss(model, batch):
        return model(batch).float().square().mean()

    task = with_precision(Task(model, loss=loss), "16-mixed", CPU)
    adam = partial(torch.optim.Adam, lr=0.01)
    step = Step(model, [Turn(None, task.loss, adam(model.parameters()))], None, CPU, False, scaled=True)
    step.set_accumulation(accumulate)
    scaler, optimizer, scales = torch.amp.GradScaler("cpu", growth_interval=3), adam(other.parameters()), set()
    for i, batch in enumerate(batches):
        update = i % accumulate == accumulate - 1
        step(batch, update=update, first=i % accumulate == 0)
        with torch.autocast("cpu", dtype=torch.float16):
            value = loss(other, batch)
        scaler.scale(value / accumulate).backward()
        if update:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            assert scale(step) == scaler.get_scale()
            scales.add(scale(step))

    assert len(scales) > 1
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)


def test_compiled_equals_eager_with_an_overflow_in_the_middle():
    def square():  # wide enough for a product of its own; a narrow one is fused, and never held in half precision
        model = nn.Linear(4, 4, bias=False)
        nn.init.eye_(model.weight)
        return model

    compiled, eager = make(model=square(), compile=True, momentum=0.5), make(model=square(), momentum=0.5)
    seen = []

    for value in (1.0, 1.0, 4.0, 1.0):  # each entry of the gradient is a quarter of it
        for step in (compiled, eager):
            step(torch.full((8, 4), value))
        seen.append((compiled.params["weight"][0, 0].item(), scale(compiled)))
        expected = dict(leaves(held(eager)))
        for path, tensor in leaves(held(compiled)):
            torch.testing.assert_close(tensor, expected[path], rtol=0, atol=0, msg=lambda m, p=path: f"{p}: {m}")

    assert (compiled.level, compiled.compilations) == ("one graph", 1)
    assert seen == [(0.875, 2.0**16), (0.6875, 2.0**16), (0.6875, 2.0**15), (0.6875 - 0.5 * 0.4375, 2.0**15)]


def held(step):
    return {
        "carry": step.carry,
        "params": step.params,
        "momentum": dict(step.optimizers[0].state[step.params["weight"]]),
    }


def scale_in(path):
    [turn] = store.read(path)["step_state"]["carry"]["turns"]
    return {name: turn[name].item() for name in ("scale", "calm")} if "scale" in turn else None


def mixed(tmp_path, precision="16-mixed", **given):
    task = Task(line(), loss=loss, optimizer=partial(torch.optim.SGD, lr=0.5))
    data = [SMALL, LARGE, SMALL]
    callbacks = checkpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    return task, fit(task, data, precision=precision, callbacks=callbacks, max_epochs=2, **given)


def test_a_fit_trains_with_the_scale(tmp_path):
    task, result = mixed(tmp_path)

    assert result.step == 6
    # the second batch of the first epoch overflows, the one of the second epoch no longer does
    assert task.model.weight.item() == 1.0 - 0.5 * (0.25 + 0.25 + 0.25 + 1.0 + 0.25)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "64"])
def test_without_need_there_is_no_scale(tmp_path, precision):
    mixed(tmp_path, precision)

    assert {scale_in(path) for path in tmp_path.glob("*.safetensors")} == {None}


def test_a_run_that_goes_on_has_the_scale_it_was_saved_with(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "GROWTH_INTERVAL", 3)
    task, _ = mixed(tmp_path / "a")

    saved = {n: scale_in(tmp_path / "a" / f"epoch={(n - 1) // 3}-step={n}.safetensors") for n in range(1, 7)}
    again, _ = mixed(tmp_path / "b", resume=tmp_path / "a" / "epoch=1-step=4.safetensors")

    assert saved == {
        1: {"scale": 2.0**16, "calm": 1},
        2: {"scale": 2.0**15, "calm": 0},
        3: {"scale": 2.0**15, "calm": 1},
        4: {"scale": 2.0**15, "calm": 2},
        5: {"scale": 2.0**16, "calm": 0},
        6: {"scale": 2.0**16, "calm": 1},
    }
    for n in (5, 6):
        assert scale_in(tmp_path / "b" / f"epoch=1-step={n}.safetensors") == saved[n]
    assert again.model.weight.item() == task.model.weight.item()
