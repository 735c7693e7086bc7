"""Effects on the training under way: what they change, what they refuse, and that a resumed run has it too."""

from functools import partial

import attrs
import pytest
import torch
from torch import nn

from fncb.callback import Callback, emit
from fncb.callbacks import checkpoint, ema
from fncb.effects import Apply, Freeze, SetAccumulation, SetLR, Unfreeze
from fncb.loop import fit
from fncb.task import Task

run = partial(fit, compile=False, progress=False, max_epochs=1)


def task(**given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    given = {"optimizer": partial(torch.optim.SGD, lr=0.5), **given}
    return Task(model, loss=lambda model, x: model(x).square().mean(), **given)


def data(n=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, generator=generator) for _ in range(n)]


def asks(*effects, hook="on_train_start", at=None):
    def ask(state, event):
        return state if at is not None and event.epoch != at else emit(state, *effects)

    return Callback(key="asks", init=int, **{hook: ask})


def values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(before, model):
    return {name for name, p in model.named_parameters() if not torch.equal(before[name], p)}


ALL = {"0.weight", "0.bias", "1.weight", "1.bias"}


@pytest.mark.parametrize("compile", [False, True])
def test_frozen_parameters_stay_and_the_others_move(compile):
    given = task(optimizer=partial(torch.optim.AdamW, lr=0.5, weight_decay=0.5))
    before = values(given.model)

    result = run(given, data(3), callbacks=[asks(Freeze("0.*")), ema(0.5)], compile=compile)

    assert changed(before, given.model) == {"1.weight", "1.bias"}
    assert set(result.step_state["ema"]) == {"1.weight", "1.bias"}
    assert result.compiled == ("one graph" if compile else "eager")


def test_frozen_and_unfrozen_trains_all_again():
    given = task()
    later = Callback(
        key="later",
        init=int,
        on_train_start=lambda s, e: emit(s, Freeze("*bias")),
        on_train_epoch_start=lambda s, e: emit(s, Unfreeze("0.bias")) if e.epoch == 1 else s,
    )
    before = values(given.model)
    seen = []
    spy = Callback(key="spy", init=int, on_train_epoch_end=lambda s, e: seen.append(changed(before, given.model)) or s)

    result = run(given, data(), callbacks=[later, ema(0.5), spy], max_epochs=2)

    assert seen == [{"0.weight", "1.weight"}, {"0.weight", "1.weight", "0.bias"}]
    assert set(result.step_state["ema"]) == {"0.weight", "1.weight", "0.bias"}


def test_step_states_survive_a_change_of_what_is_trained():
    freezes = attrs.evolve(asks(Freeze("1.*"), hook="on_train_epoch_start", at=1), key="freezes")
    still = task(optimizer=partial(torch.optim.SGD, lr=0.0))

    def shift(params, states):
        return {name: p + 1 for name, p in params.items()}, states

    moved = asks(Apply("shift", shift), hook="on_train_epoch_start", at=1)
    first = values(still.model)["0.bias"]

    result = run(still, data(), callbacks=[ema(0.5), moved, freezes], max_epochs=2)

    # two steps at the old value, then two halfway each towards the new one
    torch.testing.assert_close(result.step_state["ema"]["0.bias"], first + 0.75)


def test_unfrozen_with_a_rate_is_a_group_of_its_own():
    seen = []
    spy = Callback(key="spy", init=int, on_train_epoch_start=lambda s, e: seen.append(dict(e.metrics)) or s)
    both = asks(Freeze("0.*"), Unfreeze("0.*", lr=0.125), hook="on_fit_start")

    run(task(), data(), callbacks=[both, spy])

    assert seen == [{"lr-SGD/pg1": 0.5, "lr-SGD/pg2": 0.125}]


def test_a_parameter_outside_of_the_optimizer_joins_it_when_it_is_unfrozen():
    given = task()
    given.model[0].requires_grad_(False)
    before = values(given.model)

    result = run(given, data(), callbacks=asks(Unfreeze("0.*"), hook="on_train_epoch_start", at=1), max_epochs=2)

    assert changed(before, given.model) == ALL
    assert [name for name in result.metrics if name.startswith("lr-")] == ["lr-SGD/pg1", "lr-SGD/pg2"]


@pytest.mark.parametrize(
    "schedule",
    [
        partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
        partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.5**epoch),
    ],
)
def test_a_schedule_moves_groups_that_came_later_too(schedule):
    later = asks(Freeze("0.*"), Unfreeze("0.*", lr=0.25), hook="on_train_epoch_start", at=0)

    result = run(task(schedule=schedule), data(), callbacks=later, max_epochs=2)

    assert (result.metrics["lr-SGD/pg1"], result.metrics["lr-SGD/pg2"]) == (0.125, 0.0625)


def test_what_is_trained_is_the_same_after_a_resume(tmp_path):
    def train(given, **settings):
        later = Callback(
            key="later",
            init=int,
            on_train_start=lambda s, e: emit(s, Freeze("0.*")) if e.epoch == 0 else s,
            on_train_epoch_start=lambda s, e: emit(s, Unfreeze("0.*", lr=0.125)) if e.epoch == 1 else s,
        )
        callbacks = [later, ema(0.5), checkpoint(tmp_path, every_n_epochs=1, save_top_k=-1)]
        return run(given, data(3), callbacks=callbacks, max_epochs=4, **settings)

    def adam():
        return task(optimizer=partial(torch.optim.Adam, lr=0.01))

    straight = adam()
    whole = train(straight)
    for step in (3, 6, 9):  # before, in the epoch of, and after the change
        again = adam()
        result = train(again, resume=tmp_path / f"epoch={step // 3 - 1}-step={step}.safetensors")

        assert result.metrics == whole.metrics
        for name, value in values(straight.model).items():
            assert torch.equal(value, dict(again.model.named_parameters())[name]), (step, name)
        for name, average in whole.step_state["ema"].items():
            assert torch.equal(average, result.step_state["ema"][name])


def test_rates_are_set_for_all_groups_or_one():
    def groups(params):
        return torch.optim.SGD([{"params": [p]} for p in params], lr=0.5)

    result = run(task(optimizer=groups), data(), callbacks=asks(SetLR(0.25), SetLR(0.125, group=1)))

    assert [value for name, value in result.metrics.items() if name.startswith("lr-")] == [0.25, 0.125, 0.25, 0.25]


def test_apply_replaces_parameters_and_step_states():
    def halve(params, states):
        return {name: p / 2 for name, p in params.items()}, {"ema": {name: p * 0 for name, p in states["ema"].items()}}

    given = task(optimizer=partial(torch.optim.SGD, lr=0.0))
    before = values(given.model)

    result = run(given, data(), callbacks=[ema(0.5), asks(Apply("halve", halve), hook="on_train_end")])

    for name, p in given.model.named_parameters():
        assert torch.equal(p, before[name] / 2)
        assert torch.equal(result.step_state["ema"][name], torch.zeros_like(p))


def test_a_pruned_weight_stays_zero_in_the_compiled_step_too():
    def prune(params, states):
        return {**params, "0.weight": torch.zeros_like(params["0.weight"])}, states

    given = task(optimizer=partial(torch.optim.SGD, lr=0.0))

    run(
        given,
        data(4),
        callbacks=asks(Apply("prune", prune), hook="on_train_epoch_start", at=1),
        compile=True,
        max_epochs=2,
    )

    assert not given.model[0].weight.any()


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (Freeze("x*"), r"Freeze: pattern must match a parameter, got 'x\*'. There are \['0.weight'"),
        (Unfreeze("nothing"), "Unfreeze: pattern must match a parameter, got 'nothing'"),
        (SetAccumulation(0), "SetAccumulation: n must be 1 batch or more, got 0"),
        (SetLR(0.1, group=3), "SetLR: group must be the index of a parameter group, got 3"),
        (SetLR(0.1, optimizer="g"), r"SetLR: optimizer must be one of \[None\], got 'g'"),
        (Apply("nothing"), "Apply 'nothing': fn must be a function, got None"),
        (Apply("half", lambda params, states: params), r"must return \(params, step_state\), got NamedParams"),
        (Apply("more", lambda params, states: ({"no": 1}, states)), "Apply 'more': names and shapes of tensors must stay"),
    ],
)
def test_an_effect_that_cannot_be_is_told_in_one_sentence(effect, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run(task(), data(), callbacks=asks(effect))
