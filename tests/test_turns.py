"""Several optimizers: turns of a round, what each is given, what each leaves, and what tells them apart."""

import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from fncb import events as ev
from fncb.callback import Callback, StepHooks, compose, emit
from fncb.callbacks import checkpoint, clip_grad_norm, early_stop, ema, skip_nonfinite
from fncb.effects import Freeze, SetLR, Unfreeze
from fncb.loop import fit, validate
from fncb.step import Step
from fncb.task import Task, make_turns
from fncb.tree import leaves

run = partial(fit, compile=False, progress=False, max_epochs=1, num_sanity_val_steps=0)
adam = partial(torch.optim.Adam, lr=0.01, betas=(0.5, 0.9))
sgd = partial(torch.optim.SGD, lr=0.1)


class GAN(nn.Module):
    def __init__(self):
        super().__init__()
        # a bias before the normalisation would get gradients of rounding errors, which Adam makes steps of
        self.generator = nn.Sequential(nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))


def gan():
    torch.manual_seed(0)
    return GAN()


def tell_apart(model, batch):
    real, noise, _ = batch
    drawn = model.generator(noise).detach()
    right = (model.discriminator(real) > 0).float().mean()
    return (model.discriminator(drawn) - model.discriminator(real)).square().mean(), {"right": right}


def deceive(model, batch):
    _, noise, weight = batch
    return (weight * (model.discriminator(model.generator(noise)) - 1).square()).mean()


LOSSES = {"discriminator": tell_apart, "generator": deceive}


def task(model=None, optimizer=adam, **given):
    """A GAN's task; one optimizer is for both."""
    both = optimizer if isinstance(optimizer, dict) else dict.fromkeys(LOSSES, optimizer)
    return Task(model or gan(), **{"loss": LOSSES, "optimizer": both, **given})


def data(n=4, spoilt=(), size=4):
    """Real points, noise, and a weight that makes the generator's loss NaN in some batches."""
    generator = torch.Generator().manual_seed(1)
    made = [
        (torch.randn(size, 2, generator=generator), torch.randn(size, 3, generator=generator), torch.ones(size, 1))
        for _ in range(n)
    ]
    for i in spoilt:
        made[i][2][0] = float("nan")
    return made


def step_of(task, callbacks=(), *, compile=False):
    return Step(task.model, make_turns(task), compose(callbacks).step, torch.device("cpu"), compile)


def train(step, batches):
    return [dict(step(batch, turns=step.turns_of_round(i))) for i, batch in enumerate(batches)]


def tensors(step):
    optimizers = [dict(each.state_dict()["state"]) for each in step.optimizers]
    held = {"params": step.params, "buffers": step.buffers, "states": step.states, "carry": step.carry}
    return {path: tensor.detach().clone() for path, tensor in leaves({**held, "optimizers": optimizers})}


def assert_same(one, other, **tolerance):
    one, other = ({path: t for path, t in tensors(each).items() if not path.endswith(".step")} for each in (one, other))
    torch.testing.assert_close(one, other, **tolerance)


def spy(*hooks):
    """A callback that notes the events of some hooks, and the list that it notes them in."""
    seen = []
    return Callback(key="spy", init=int, **dict.fromkeys(hooks, lambda state, event: seen.append(event) or state)), seen


def by_hand(model, batches, every=1, accumulate=1, optimizer=adam):
    """A GAN's loop as PyTorch has it; gives the losses of each batch."""
    parts = [(model.discriminator, tell_apart, 1), (model.generator, deceive, every)]
    turns = [(part, loss, optimizer(part.parameters()), n) for part, loss, n in parts]
    seen, rounds = [], 0
    for i, batch in enumerate(batches):
        update = (i + 1) % accumulate == 0 or i == len(batches) - 1
        losses = []
        for part, loss, moves, n in turns:
            if (rounds + 1) % n:
                continue
            out = loss(model, batch)
            value = out[0] if isinstance(out, tuple) else out
            torch.autograd.backward(value / accumulate, inputs=list(part.parameters()))
            losses.append(value.item())
            if update:
                moves.step()
                moves.zero_grad()
        rounds += update
        seen.append(losses)
    return seen


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_optimizers_give_the_numbers_of_a_loop_written_by_hand(every, accumulate):
    reference, trained = gan(), task(every={"generator": every})
    noted, seen = spy("on_train_batch_end")

    expected = by_hand(reference, data(7), every, accumulate)
    result = run(trained, data(7), callbacks=noted, accumulate_grad_batches=accumulate)

    torch.testing.assert_close(trained.model.state_dict(), reference.state_dict(), rtol=1e-6, atol=1e-7)
    for event, losses in zip(seen, expected, strict=True):
        assert [event.metrics[f"loss/{name}"] for name in LOSSES if f"loss/{name}" in event.metrics] == pytest.approx(
            losses, rel=1e-5
        )
    assert result.step == (7 if accumulate == 1 else 4)  # the last window is of one batch


def test_compiled_turns_equal_eager_ones_and_are_one_graph_for_each_combination():
    callbacks = (clip_grad_norm(0.5), ema(0.9), skip_nonfinite())
    compiled = step_of(task(every={"generator": 2}), callbacks, compile=True)
    eager = step_of(task(every={"generator": 2}), callbacks)
    batches = data(8, spoilt=(5,))

    seen, expected = train(compiled, batches), train(eager, batches)

    assert (compiled.level, compiled.compilations, compiled.recompilations) == ("one graph", 2, 0)
    assert_same(compiled, eager, rtol=1e-5, atol=1e-6)
    for one, other in zip(seen, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5, nan_ok=True)
    assert compiled.states["skip_nonfinite"]["skipped"].item() == 1


def test_an_optimizer_that_cannot_be_traced_takes_the_step_into_two_regions(caplog):
    mixed = {"discriminator": adam, "generator": partial(torch.optim.Adafactor, lr=0.01)}
    callbacks = (ema(0.9), skip_nonfinite())
    compiled = step_of(task(optimizer=mixed), callbacks, compile=True)
    eager = step_of(task(optimizer=mixed), callbacks)

    with caplog.at_level(logging.WARNING, "fncb"):
        train(compiled, data(4, spoilt=(2,)))
    train(eager, data(4, spoilt=(2,)))

    assert (compiled.level, compiled.compilations, compiled.recompilations) == ("two regions", 4, 0)
    assert "the step runs as two regions, not as one graph: " in caplog.text
    assert_same(compiled, eager, rtol=1e-5, atol=1e-6)


def test_a_loss_that_cannot_be_traced_runs_all_turns_eagerly():
    def branches(model, batch):
        value = deceive(model, batch)
        return value if value.item() > 0 else -value

    untraceable = step_of(task(loss={**LOSSES, "generator": branches}), compile=True)
    eager = step_of(task())

    train(untraceable, data())
    train(eager, data())

    assert untraceable.level == "eager"
    assert_same(untraceable, eager, rtol=0, atol=0)


def test_a_turn_moves_its_own_parameters_and_no_others():
    step = step_of(task())
    before = {name: p.detach().clone() for name, p in step.params.items()}

    step(data()[0], turns=(0,))

    moved = {name.split(".")[0] for name, p in step.params.items() if not torch.equal(p, before[name])}
    assert moved == {"discriminator"}


def test_rounds_are_counted_and_not_turns():
    noted, seen = spy("on_train_batch_end", "on_after_optimizer_step")

    result = run(task(every={"generator": 2}), data(), callbacks=noted)

    assert result.step == 4
    assert [(type(event).__name__, event.step) for event in seen[:4]] == [
        ("AfterOptimizerStep", 1),
        ("TrainBatchEnd", 1),
        ("AfterOptimizerStep", 2),  # the discriminator's
        ("AfterOptimizerStep", 2),  # the generator's
    ]
    assert run(task(), data(), max_epochs=9, max_steps=6).step == 6


def test_rounds_go_on_across_epochs():
    noted, seen = spy("on_after_optimizer_step")

    run(task(every={"generator": 2}), data(3), callbacks=noted, max_epochs=2)

    assert [event.step for event in seen if event.optimizer == "generator"] == [2, 4, 6]


def test_metrics_of_a_turn_carry_its_name_and_others_do_not():
    publishes = Callback(
        key="publishes",
        step=StepHooks(
            init=lambda params: {"n": torch.zeros(())},
            on_after_backward=lambda s, e: emit(s, metrics={"n_grads": torch.tensor(float(len(e.grads)))}),
            on_train_batch_end=lambda s, e: emit(s, metrics={"n_params": torch.tensor(float(len(e.params)))}),
        ),
    )
    noted, seen = spy("on_train_batch_end")

    result = run(task(every={"generator": 2}), data(), data(), callbacks=[publishes, noted])

    own = {"loss/discriminator", "right", "n_grads/discriminator", "n_params"}
    assert set(seen[0].metrics) == own
    assert set(seen[1].metrics) == own | {"loss/generator", "n_grads/generator"}
    assert (seen[1].metrics["n_grads/generator"], seen[1].metrics["n_params"]) == (5, 9)
    assert set(result.metrics) == {
        *(own | {"loss/generator", "n_grads/generator"}),
        *("loss/discriminator_epoch", "loss/generator_epoch", "right_epoch"),
        *("val_loss/discriminator", "val_loss/generator", "val_right"),
        *("lr-Adam", "lr-Adam-1"),
    }


def test_the_mean_of_a_turn_is_over_the_rounds_it_takes_part_in():
    noted, seen = spy("on_train_batch_end")

    result = run(task(every={"generator": 2}), data(), callbacks=noted)

    for name, taking in (("discriminator", seen), ("generator", seen[1::2])):
        losses = [event.metrics[f"loss/{name}"] for event in taking]
        assert result.metrics[f"loss/{name}_epoch"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)


def test_an_epoch_in_which_a_turn_never_comes_has_no_mean_of_it():
    result = run(task(every={"generator": 9}), data())

    assert "loss/discriminator_epoch" in result.metrics
    assert "loss/generator_epoch" not in result.metrics


def test_a_validation_loss_is_one_metric_for_all():
    one = task(validate=lambda model, batch: model.generator(batch[1]).square().mean())

    assert set(validate(one, data()).metrics) == {"val_loss"}
    assert set(validate(task(), {"a": data(), "b": data()}).metrics) == {
        f"val_{name}/{loader}" for name in ("loss/discriminator", "loss/generator", "right") for loader in "ab"
    }


def test_a_metric_that_two_losses_return_is_refused():
    def beside(loss):
        return lambda model, batch: (loss(model, batch), {"weight": batch[2].mean()})

    twice = task(loss={"discriminator": beside(lambda *a: tell_apart(*a)[0]), "generator": beside(deceive)})

    with pytest.raises(ValueError, match=r"each metric must have a name of its own, got \['weight'\] twice"):
        run(twice, data())


def test_events_of_a_turn_come_in_order_and_carry_its_name():
    hooks = [
        *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
        *("on_before_optimizer_step", "on_after_optimizer_step", "on_train_batch_end"),
    ]
    noted, seen = spy(*hooks)

    run(task(every={"generator": 2}), data(), callbacks=noted, accumulate_grad_batches=2)

    def turn(*kinds):
        return [(kind, name) for name in LOSSES for kind in kinds]

    happened = [(ev.hook_name(type(event)), getattr(event, "optimizer", None)) for event in seen]
    start, zero_grad, before, after, before_step, after_step, end = hooks
    alone = [(start, None), *turn(zero_grad, before, after)[:3], (end, None)]
    alone += [(start, None), *turn(before, after, before_step, after_step)[:4], (end, None)]
    together = [(start, None), *turn(zero_grad, before, after), (end, None)]
    together += [(start, None), *turn(before, after, before_step, after_step), (end, None)]
    assert happened == alone + together  # a window each


def test_step_hooks_hear_a_turn_at_a_time():
    heard = []
    listens = Callback(
        key="listens",
        step=StepHooks(
            init=lambda params: {"n": torch.zeros(())},
            on_after_backward=lambda s, e: (
                heard.append((e.optimizer, *sorted({n.split(".")[0] for n in e.grads}))) or s
            ),
        ),
    )

    train(step_of(task(), [listens]), data(1))

    assert heard == [("discriminator", "discriminator"), ("generator", "generator")]


def test_a_skipped_turn_leaves_the_other_one_as_if_it_had_been_alone():
    callbacks = (skip_nonfinite(), ema(0.5))
    spoilt, alone = step_of(task(), callbacks), step_of(task(), callbacks)
    good, bad = data(2, spoilt=(1,))
    train(spoilt, [good])
    train(alone, [good])

    metrics = dict(spoilt(bad))
    alone(bad, turns=(0,))

    changed = {path for path, tensor in tensors(spoilt).items() if not torch.equal(tensor, tensors(alone)[path])}
    assert changed == {"states.skip_nonfinite.skipped"}
    assert (metrics["skipped/discriminator"], metrics["skipped/generator"]) == (0.0, 1.0)
    assert dict(spoilt.means()) == pytest.approx(dict(alone.means()), rel=0)


def test_a_skipped_first_turn_is_not_in_the_way_of_the_second():
    def infinite(model, batch):
        return tell_apart(model, batch)[0] / 0, {"right": batch[0].sum()}

    spoilt = step_of(task(loss={"discriminator": infinite, "generator": deceive}), [skip_nonfinite()])
    alone = step_of(task(), [skip_nonfinite()])

    spoilt(data()[0])
    alone(data()[0], turns=(1,))

    assert spoilt.started == [False, True]
    torch.testing.assert_close(spoilt.model.state_dict(), alone.model.state_dict(), rtol=0, atol=0)


def test_a_window_loses_only_the_turn_that_was_skipped():
    reference, trained = gan(), task(optimizer=sgd)
    good, bad = data(2, spoilt=(1,))

    result = run(trained, [good, bad], callbacks=skip_nonfinite(), accumulate_grad_batches=2)
    for batch, parts in ((good, ("discriminator", "generator")), (bad, ("discriminator",))):
        for part in parts:
            out = LOSSES[part](reference, batch)
            inputs = list(getattr(reference, part).parameters())
            torch.autograd.backward((out[0] if isinstance(out, tuple) else out) / 2, inputs=inputs)
    sgd(reference.parameters()).step()

    torch.testing.assert_close(
        dict(trained.model.named_parameters()), dict(reference.named_parameters()), rtol=1e-6, atol=1e-7
    )
    assert result.metrics["skipped/generator"] == 1


def everything(directory, **saving):
    kept = checkpoint(directory, save_top_k=-1, **saving)
    return [early_stop("val_loss/generator", patience=50), kept, ema(0.9), clip_grad_norm(0.5), skip_nonfinite()]


@pytest.mark.parametrize(
    ("compile", "accumulate", "every"),
    [(False, 1, 2), (False, 2, 2), (True, 1, 1)],
    ids=["eager", "accumulating", "compiled"],
)
def test_a_run_that_goes_on_in_mid_epoch_equals_one_that_was_never_cut(tmp_path, compile, accumulate, every):
    def full_task():
        schedule = {"discriminator": partial(StepLR, step_size=3, gamma=0.5)}
        return task(every={"generator": every}, schedule=schedule, schedule_interval="step")

    def train(given, **settings):
        noted, epochs = spy("on_train_epoch_end")
        callbacks = [*everything(tmp_path, every_n_train_steps=1), noted]
        settings = {"max_epochs": 2, "accumulate_grad_batches": accumulate, "compile": compile, **settings}
        return run(given, data(5), data(2), callbacks=callbacks, **settings), [dict(event.metrics) for event in epochs]

    straight = full_task()
    whole, ends = train(straight, seed=7)
    saved = sorted(tmp_path.glob("*.safetensors"), key=lambda path: int(path.stem.split("=")[-1]))

    for cut in saved[3:4] if compile else saved[:-1]:
        resumed = full_task()
        with torch.no_grad():
            resumed.model.generator[0].weight.zero_()
        again, later_ends = train(resumed, resume=cut, allow_inexact_resume=True)

        assert (again.step, again.epoch, again.resumed.path) == (whole.step, whole.epoch, cut)
        assert (again.compiled, again.recompilations) == ("one graph" if compile else "eager", 0)
        torch.testing.assert_close(resumed.model.state_dict(), straight.model.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(dict(leaves(again.step_state)), dict(leaves(whole.step_state)), rtol=0, atol=0)
        assert again.metrics == whole.metrics
        assert later_ends == ends[-len(later_ends) :]
        for file in set(tmp_path.glob("*.safetensors")) - set(saved):  # written again, as -v1
            file.unlink()


def test_each_optimizer_has_a_schedule_of_its_own_or_none():
    halves = partial(StepLR, step_size=1, gamma=0.5)
    noted, seen = spy("on_train_epoch_start")

    result = run(task(optimizer=sgd, schedule={"generator": halves}), data(), callbacks=noted, max_epochs=3)

    assert [(event.metrics["lr-SGD"], event.metrics["lr-SGD-1"]) for event in seen] == [
        (0.1, 0.1),
        (0.1, 0.05),
        (0.1, 0.025),
    ]
    assert (result.metrics["lr-SGD"], result.metrics["lr-SGD-1"]) == (0.1, 0.0125)


def test_a_plateau_schedule_may_watch_the_loss_of_one_turn():
    drops = partial(ReduceLROnPlateau, patience=0, factor=0.5)
    still = partial(torch.optim.SGD, lr=0.0)
    watched = task(
        optimizer={"discriminator": sgd, "generator": still},
        loss={"discriminator": lambda m, b: 0 * tell_apart(m, b)[0], "generator": deceive},
        schedule={"discriminator": drops},
        schedule_monitor="val_loss/discriminator",
    )

    result = run(watched, data(), data(), max_epochs=3)

    assert result.metrics["lr-SGD"] == 0.025


def test_a_schedule_by_step_of_an_optimizer_that_waits_moves_when_it_steps():
    halves = partial(StepLR, step_size=1, gamma=0.5)

    result = run(
        task(optimizer=sgd, every={"generator": 2}, schedule={"generator": halves}, schedule_interval="step"), data(4)
    )

    assert result.metrics["lr-SGD-1"] == 0.025


def test_a_learning_rate_is_set_for_the_optimizer_that_is_named():
    sets = Callback(
        key="sets", init=int, emits=(SetLR,), on_train_start=lambda s, e: emit(s, SetLR(lr=0.5, optimizer="generator"))
    )

    result = run(task(optimizer=sgd), data(), callbacks=sets)

    assert (result.metrics["lr-SGD"], result.metrics["lr-SGD-1"]) == (0.1, 0.5)


def test_a_network_may_be_frozen_for_an_epoch_while_the_other_trains():
    def freezes(s, e):
        return emit(s, Freeze("generator.*")) if e.epoch == 0 else emit(s, Unfreeze("generator.*"))

    weights = []
    model = gan()
    looks = Callback(
        key="looks",
        init=int,
        emits=(Freeze, Unfreeze),
        on_train_epoch_start=freezes,
        on_train_epoch_end=lambda s, e: weights.append(model.generator[0].weight.detach().clone()) or s,
    )

    run(task(model), data(), callbacks=looks, max_epochs=2)

    assert torch.equal(weights[0], gan().generator[0].weight)
    assert not torch.equal(weights[1], weights[0])


def test_made_optimizers_need_no_submodules_of_their_names():
    reference, model = gan(), gan()
    made = {"a": adam(model.discriminator.parameters()), "b": adam(model.generator.parameters())}

    by_hand(reference, data())
    run(task(model, loss={"a": tell_apart, "b": deceive}, optimizer=made), data())

    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-6, atol=1e-7)
