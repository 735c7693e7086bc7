"""Effects on the training under way: what they change, what they refuse, and that a resumed run has it too."""

from functools import partial

import attrs
import pytest
import torch
from torch import nn

from fncb import events as ev
from fncb.callback import Callback, StepHooks, emit
from fncb.callbacks import checkpoint, ema
from fncb.control import Control
from fncb.effects import (
    Apply,
    Freeze,
    HoldSchedules,
    ScaleLR,
    Set,
    SetAccumulation,
    SetLR,
    Transform,
    Unfreeze,
)
from fncb.loop import fit
from fncb.position import Position
from fncb.step import Step
from fncb.task import Task, make_turns
from tests.reliability.resuming import unlike

run = partial(fit, compile=False, progress=False, max_epochs=1)


def task(model=None, **given):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
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


def groups_of(given):
    """The task, and the optimizer that it makes once it is trained."""
    made = []
    return attrs.evolve(given, optimizer=lambda params: made.append(given.optimizer(params)) or made[-1]), made


@pytest.mark.parametrize(
    ("effect", "rates"),
    [
        (ScaleLR(0.5), [0.25, 0.0625]),
        (ScaleLR(0.5, min_lr=0.25), [0.25, 0.125]),  # one that is below it already stays
        (ScaleLR(0.5, min_lr=0.125), [0.25, 0.125]),
        (ScaleLR(0.5, eps=0.0625), [0.25, 0.125]),  # a change of exactly so much is none
        (ScaleLR(2.0), [1.0, 0.25]),
        (ScaleLR(2.0, min_lr=0.25), [1.0, 0.125]),
        (ScaleLR(2.0, eps=0.125), [1.0, 0.125]),
        (ScaleLR(1.0), [0.5, 0.125]),
    ],
)
def test_rates_are_scaled(effect, rates):
    def groups(params):
        first, *rest = params
        return torch.optim.SGD([{"params": [first]}, {"params": rest, "lr": 0.125}], lr=0.5)

    result = run(task(optimizer=groups), data(), callbacks=asks(effect))

    assert [value for name, value in result.metrics.items() if name.startswith("lr-")] == rates


SCHEDULES = {
    "epoch": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    "step": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    "plateau": partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, mode="max", threshold=100.0),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_that_are_held_rest_for_good(kind, tmp_path):
    def train(*callbacks, **settings):
        interval = "step" if kind == "step" else "epoch"
        given = task(schedule=SCHEDULES[kind], schedule_interval=interval, schedule_monitor="loss_epoch")
        return run(given, data(1), callbacks=callbacks, **settings).metrics["lr-SGD"]

    assert train(max_epochs=4) < 0.25  # it would have moved
    holds = asks(HoldSchedules(), hook="on_train_epoch_start", at=1)
    moved = train(max_epochs=1)
    assert train(holds, checkpoint(tmp_path), max_epochs=3) == moved
    assert train(holds, checkpoint(tmp_path), max_epochs=5, resume=tmp_path) == moved


def bn_task(**given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1))
    given = {"optimizer": partial(torch.optim.SGD, lr=0.5, momentum=0.5), **given}
    return Task(model, loss=lambda model, x: model(x).square().mean(), **given)


def test_numbers_are_set_by_name_and_whole_ones_stay_ints():
    given, made = groups_of(bn_task(optimizer=partial(torch.optim.Adam, lr=0.5)))
    effects = [
        Set("lr", 1),
        Set("optimizer.weight_decay", 0.25),
        Set("optimizer.betas.0", 0.5),
        Set("model.2.p", 0.25),
        Set("model.0.in_features", 2.0),
        Set("accumulate_grad_batches", 2.0),
    ]

    result = run(given, data(4), callbacks=asks(*effects))

    (group,) = made[0].param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1, 0.25, (0.5, 0.999))
    assert (given.model[2].p, given.model[0].in_features) == (0.25, 2)
    assert type(given.model[0].in_features) is int
    assert result.step == 2


def test_a_tensor_that_a_callback_keeps_in_the_step_is_set():
    def count(state, event):
        return {"n": state["n"] + 1}

    counts = Callback(
        key="counts",
        step=StepHooks(init=lambda params: {"n": torch.zeros((), dtype=torch.int64)}, on_train_batch_end=count),
    )

    result = run(task(), data(2), callbacks=[counts, asks(Set("step_state.counts.n", 7.0))])

    assert result.step_state["counts"]["n"].item() == 9


@pytest.mark.parametrize("how", ["swaps", "sets"])
def test_a_model_is_transformed_and_trained_on(how):
    given = bn_task()
    before = values(given.model)

    def fn(model):
        if how == "swaps":
            model[2] = nn.Identity()
        else:
            model[2].p = 0.0

    run(given, data(), callbacks=[asks(Transform("no dropout", fn)), ema(0.5)])

    assert type(given.model[2]) is (nn.Identity if how == "swaps" else nn.Dropout)
    assert changed(before, given.model) == set(before)


def test_an_attribute_that_is_set_has_nothing_compiled_anew():
    given = bn_task()
    step = Step(given.model, make_turns(given), None, torch.device("cpu"), compile=False)
    control, taken_up = Control(step, {}, Position()), step.params

    control.transform(Transform("sets", lambda model: setattr(model[2], "p", 0.0)), ev.TrainStart())
    assert step.params is taken_up

    control.transform(Transform("swaps", lambda model: setattr(model, "2", nn.Identity())), ev.TrainStart())
    assert step.params is not taken_up


class Switched(nn.Module):
    """A layer whose output goes through a function that is an attribute, times a number that is one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.act, self.scale = nn.Linear(2, 1), torch.sigmoid, 1.0

    def forward(self, x):
        return self.act(self.inner(x)) * self.scale


def test_a_function_that_is_set_is_compiled_and_a_number_that_goes_to_and_fro_only_once():
    def changes(**values):
        def fn(model):
            for name, value in values.items():
                setattr(model, name, value)

        return Transform("changes", fn)

    after = {2: changes(act=torch.tanh), 5: changes(scale=2.0), 6: changes(scale=1.0), 7: changes(scale=2.0)}
    changing = Callback(
        key="changing", init=int, on_train_batch_end=lambda s, e: emit(s, *filter(None, [after.get(e.batch_idx)]))
    )

    def trained(compile):
        losses = []
        spy = Callback(key="spy", init=int, on_train_batch_end=lambda s, e: losses.append(e.metrics["loss"]) or s)
        result = run(task(model=Switched()), data(10), callbacks=[changing, spy], compile=compile)
        return result, losses

    result, losses = trained(True)

    assert losses == pytest.approx(trained(False)[1], rel=1e-5)
    # one graph for each function, and one more for the second number: the first one's is there when it comes back
    assert (result.compiled, result.recompilations) == ("one graph", 2)


def test_attributes_that_are_not_plain_have_the_step_compiled_anew():
    given = task(model=Switched())
    step = Step(given.model, make_turns(given), None, torch.device("cpu"), compile=False)
    control, taken_up = Control(step, {}, Position()), step.params

    control.transform(Transform("a number", lambda model: setattr(model, "scale", 2.0)), ev.TrainStart())
    assert step.params is taken_up
    for value in (torch.tanh, torch.relu, [1.0]):
        control.transform(
            Transform("no number", lambda model, value=value: setattr(model, "act", value)), ev.TrainStart()
        )
        assert step.params is not taken_up
        taken_up = step.params


def test_a_part_that_takes_the_place_of_another_in_memory_is_noticed():
    class Replaceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.act = nn.Linear(2, 1), nn.ReLU()

    given = task(model=Replaceable())
    step = Step(given.model, make_turns(given), None, torch.device("cpu"), compile=False)
    control = Control(step, {}, Position())

    def fn(model):
        model.act = None  # frees it, so that the next one may get its address
        model.act = nn.Sigmoid()

    for _ in range(20):
        taken_up = step.params
        control.transform(Transform("swaps", fn), ev.TrainStart())
        assert step.params is not taken_up


def test_what_is_trained_must_survive_a_transformation():
    def fn(model):
        model[0] = nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"^Transform 'a': fn must leave what is trained, got .*'0.weight', '0.bias'"):
        run(task(), data(), callbacks=asks(Transform("a", fn)))


def test_what_is_frozen_may_be_transformed():
    given = task()

    def fn(model):
        model[0] = nn.Identity()

    run(given, data(), callbacks=[asks(Freeze("0.*"), Transform("a", fn))])
    assert type(given.model[0]) is nn.Identity


OF_NORM, OF_LINEAR = {"1.weight", "1.bias"}, {"0.weight", "0.bias"}
HEAD = {"3.weight", "3.bias"}


@pytest.mark.parametrize(
    ("train_bn", "trained", "tracks"),
    [(None, HEAD, True), (True, HEAD | OF_NORM, True), (False, HEAD, False)],
)
def test_batch_normalisation_is_frozen_as_all_others_or_not_or_altogether(train_bn, trained, tracks):
    given = bn_task()
    before, mean = values(given.model), given.model[1].running_mean.clone()

    run(given, data(), callbacks=asks(Freeze("[01].*", train_bn=train_bn)))

    assert changed(before, given.model) == trained
    assert torch.equal(given.model[1].running_mean, mean) == (not tracks)
    assert given.model[1].track_running_stats is tracks


@pytest.mark.parametrize(
    ("train_bn", "trained", "tracks"), [(None, HEAD | OF_NORM | OF_LINEAR, True), (False, HEAD | OF_LINEAR, False)]
)
def test_statistics_are_tracked_again_when_what_they_belong_to_is_unfrozen(train_bn, trained, tracks):
    given = bn_task()
    freezes = attrs.evolve(asks(Freeze("[01].*", train_bn=False)), key="freezes")
    before = values(given.model)

    run(given, data(), callbacks=[freezes, asks(Unfreeze("[01].*", train_bn=train_bn), hook="on_train_epoch_start")])

    assert changed(before, given.model) == trained
    assert given.model[1].track_running_stats is tracks


def test_what_tracks_no_statistics_is_the_same_after_a_resume(tmp_path):
    freezes = asks(Freeze("[01].*", train_bn=False), at=0)
    first, again = bn_task(), bn_task()

    run(first, data(), callbacks=[freezes, checkpoint(tmp_path)])
    run(again, data(), callbacks=[freezes, checkpoint(tmp_path)], resume=tmp_path, max_epochs=2)

    assert not again.model[1].track_running_stats
    assert torch.equal(again.model[1].running_mean, first.model[1].running_mean)


def test_what_leaves_the_optimizer_comes_back_to_a_group_of_its_own():
    given, made = groups_of(task())
    sizes = []
    spy = Callback(
        key="spy",
        init=int,
        on_train_epoch_end=lambda s, e: sizes.append([len(g["params"]) for g in made[0].param_groups]) or s,
    )
    leaves = attrs.evolve(asks(Freeze("0.*", leave_optimizer=True)), key="leaves")

    result = run(
        given, data(), callbacks=[leaves, asks(Unfreeze("0.*"), hook="on_train_epoch_start", at=1), spy], max_epochs=2
    )

    assert sizes == [[2], [2, 2]]
    assert (result.metrics["lr-SGD/pg1"], result.metrics["lr-SGD/pg2"]) == (0.5, 0.5)


def test_a_group_that_nothing_is_left_in_goes():
    def groups(params):
        return torch.optim.SGD([{"params": [p]} for p in params], lr=0.5)

    given, made = groups_of(task(optimizer=groups))

    run(given, data(), callbacks=asks(Freeze("0.*", leave_optimizer=True)))
    assert [len(group["params"]) for group in made[0].param_groups] == [1, 1]


def of_two_rates(cls, **settings):
    """A function that makes an optimizer with a group for each of the two layers."""

    def make(params):
        one, two, *last = params
        return cls([{"params": [one, two], "lr": 0.5}, {"params": last, "lr": 0.25}], lr=0.5, **settings)

    return make


OPTIMIZERS = {
    "Adam": of_two_rates(torch.optim.Adam),
    "momentum": of_two_rates(torch.optim.SGD, momentum=0.5),
}
OF_GROUPS = {
    "none": None,
    "StepLR": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    "LambdaLR": partial(
        torch.optim.lr_scheduler.LambdaLR, lr_lambda=[lambda epoch: 0.5**epoch, lambda epoch: 1 / (epoch + 1)]
    ),
    "OneCycleLR": partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=[0.5, 0.25], total_steps=9),
    "CyclicLR": partial(torch.optim.lr_scheduler.CyclicLR, base_lr=[0.1, 0.2], max_lr=[0.3, 0.6], step_size_up=3),
    "ReduceLROnPlateau": partial(
        torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0, mode="max", min_lr=[0.125, 0.0625]
    ),
}


@pytest.mark.parametrize(
    ("optimizer", "schedule"), [*zip(["Adam"] * len(OF_GROUPS), OF_GROUPS, strict=True), ("momentum", "LambdaLR")]
)
def test_what_left_the_optimizer_and_what_came_back_is_the_same_after_a_resume(optimizer, schedule, tmp_path):
    def train(**settings):
        given, made = groups_of(
            task(optimizer=OPTIMIZERS[optimizer], schedule=OF_GROUPS[schedule], schedule_monitor="loss_epoch")
        )
        callbacks = [
            asks(Freeze("0.*", leave_optimizer=True), hook="on_train_epoch_start", at=1),
            attrs.evolve(asks(Unfreeze("0.*", lr=0.125), hook="on_train_epoch_start", at=3), key="back"),
            checkpoint(tmp_path, every_n_epochs=1, save_top_k=-1),
        ]
        result = run(given, data(2), callbacks=callbacks, max_epochs=6, **settings)
        return {"metrics": result.metrics, "model": given.model.state_dict(), "optimizer": made[0].state_dict()}

    whole = train()

    assert [group["params"] for group in whole["optimizer"]["param_groups"]] == [[0, 1], [2, 3]]
    for epoch in range(5):  # before it left, while it was out, in the epoch that it came back in, and later
        assert unlike(whole, train(resume=tmp_path / f"epoch={epoch}-step={2 * epoch + 2}.safetensors")) == [], epoch


def test_a_group_that_comes_back_follows_one_cycle_from_its_own_rate():
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=[0.5, 0.25], total_steps=9)
    given = task(optimizer=OPTIMIZERS["momentum"], schedule=one_cycle, schedule_interval="step")
    callbacks = [
        asks(Freeze("0.*", leave_optimizer=True)),
        attrs.evolve(asks(Unfreeze("0.*", lr=0.0625), hook="on_train_epoch_start", at=1), key="back"),
    ]
    rates = []
    spy = Callback(
        key="spy",
        init=int,
        on_train_batch_start=lambda s, e: rates.append([value for name, value in e.metrics.items()]) or s,
    )

    run(given, data(3), callbacks=[*callbacks, spy], max_epochs=3)

    optimizer = OPTIMIZERS["momentum"](task().model.parameters())
    alone, expected = one_cycle(optimizer), []
    for _ in range(9):
        expected.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        if len(expected) < 9:
            alone.step()
    assert [each[0] for each in rates] == expected
    ratio = 0.0625 / expected[3]
    assert [len(each) for each in rates] == [1, 1, 1, *[2] * 6]
    assert [each[1] for each in rates[3:]] == pytest.approx([rate * ratio for rate in expected[3:]], rel=1e-12)


def test_what_left_an_optimizer_leaves_its_state_there():
    given, made = groups_of(task(optimizer=partial(torch.optim.SGD, lr=0.5, momentum=0.5)))
    leaves = asks(Freeze("0.*", leave_optimizer=True), hook="on_train_epoch_start", at=1)

    run(given, data(), callbacks=leaves, max_epochs=2)

    assert {id(p) for p in made[0].state} == {id(p) for p in given.model[1].parameters()}


def test_apply_replaces_parameters_and_step_states():
    def halve(params, states):
        return {name: p / 2 for name, p in params.items()}, {"ema": {name: p * 0 for name, p in states["ema"].items()}}

    given = task(optimizer=partial(torch.optim.SGD, lr=0.0))
    before = values(given.model)

    result = run(given, data(), callbacks=[ema(0.5), asks(Apply("halve", halve), hook="on_train_end")])

    for name, p in given.model.named_parameters():
        assert torch.equal(p, before[name] / 2)
        assert torch.equal(result.step_state["ema"][name], torch.zeros_like(p))


@pytest.mark.parametrize(
    "returned",
    [
        lambda params, states: ({name: p * 0 for name, p in params.items()}, {}),  # a step state is missing
        lambda params, states: (
            {name: p * 0 for name, p in params.items()},
            {"ema": {**states["ema"], "more": of_seven()}},
        ),
        lambda params, states: (
            {**params, "0.bias": of_seven()},
            {"ema": {n: p * 0 for n, p in states["ema"].items()}},
        ),
    ],
    ids=["a state is missing", "a state has more", "a parameter has another shape"],
)
def test_an_apply_that_is_refused_writes_nothing(returned):
    given, kept = task(), {}
    before = values(given.model)

    def keeps(params, states):
        kept.update(states["ema"])
        return returned(params, states)

    with pytest.raises(ValueError, match=r"^Apply 'a': names and shapes of tensors must stay, got differences at \['"):
        run(given, data(), callbacks=[ema(0.5), asks(Apply("a", keeps))])

    assert changed(before, given.model) == set()
    assert unlike(before, kept) == []


def of_seven():
    return torch.zeros(7)


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
        (Set("lr.0", 1.0), r"^Set: setting must be lr, .* or step_state\.<key>\.<path>, got 'lr\.0'"),
        (Set("optimizer.momentums", 1.0), r"^Set: 'optimizer.momentums' must name a number, got None. There are \["),
        (Set("optimizer.nesterov", 1.0), r"^Set: 'optimizer.nesterov' must name a number, got False"),
        (Set("optimizer.lr.0", 1.0), r"^Set: 'optimizer.lr.0' must name a number, got 0.5"),
        (Set("model.9.p", 1.0), r"^Set: 'model.9.p' must name a submodule, got '9'. There are \['', '0', '1'\]"),
        (Set("model.0.weight", 1.0), r"^Set: 'model.0.weight' must name a number, got None"),
        (Set("step_state.ema.0", 1.0), r"^Set: 'step_state.ema.0' must name a 0-d tensor, got none. There are \[\]"),
        (Transform("nothing"), "Transform 'nothing': fn must be a function, got None"),
        (Freeze("x*"), r"Freeze: pattern must match a parameter, got 'x\*'. There are \['0.weight'"),
        (Unfreeze("nothing"), "Unfreeze: pattern must match a parameter, got 'nothing'"),
        (SetAccumulation(0), "SetAccumulation: n must be 1 batch or more, got 0"),
        (SetLR(0.1, group=3), "SetLR: group must be the index of a parameter group, got 3"),
        (SetLR(0.1, optimizer="g"), r"SetLR: optimizer must be one of \[None\], got 'g'"),
        (Apply("nothing"), "Apply 'nothing': fn must be a function, got None"),
        (Apply("half", lambda params, states: params), r"must return \(params, step_state\), got NamedParams"),
        (
            Apply("more", lambda params, states: ({"no": 1}, states)),
            "Apply 'more': names and shapes of tensors must stay",
        ),
    ],
)
def test_an_effect_that_cannot_be_is_told_in_one_sentence(effect, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run(task(), data(), callbacks=asks(effect))
