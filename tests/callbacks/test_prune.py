import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as of_torch

from fncb import store
from fncb.callback import Callback, EmptyState
from fncb.callbacks import checkpoint, skip_nonfinite
from fncb.callbacks.finetuning import finetuning
from fncb.callbacks.prune import prune
from fncb.effects import Apply, Examine, Print, Transform
from fncb.events import AfterOptimizerStep, TrainEpochEnd, ValidationEnd
from fncb.loop import fit, validate
from fncb.step_hooks import NamedParams
from fncb.task import Task
from tests.folding import fold

train = partial(fit, compile=False, progress=False, num_sanity_val_steps=0)
plainly = partial(prune, use_lottery_ticket_hypothesis=False)


def weights(**given):
    return {name.replace("_", "."): torch.tensor(values) for name, values in given.items()}


def pruned(callback, params, times=1, epoch=0):
    """The parameters and the masks after pruning so many times."""
    states = {part.key: part.step.init(params) for part in callback.parts or (callback,)}
    for _ in range(times):
        effects = fold(callback, [TrainEpochEnd(epoch=epoch, step=1)]).of(Apply)
        changed, states = effects[0].fn(NamedParams(params, {}), states)
        params = {**params, **changed}
    return params, states["prune"]


def after(params):
    return AfterOptimizerStep(step=torch.tensor(1), params=params)


def test_the_smallest_go_and_half_of_the_rest_when_it_prunes_again():
    params = weights(weight=[8.0, -7.0, 6.0, -5.0, 4.0, -3.0, 2.0, 1.0])

    assert pruned(plainly("l1_unstructured"), params)[0]["weight"].tolist() == [8, -7, 6, -5, 0, 0, 0, 0]
    once, mask = pruned(plainly("l1_unstructured"), params, times=2)
    assert once["weight"].tolist() == [8, -7, 0, 0, 0, 0, 0, 0]
    assert mask["weight"].tolist() == [True, True, *[False] * 6]


def test_globally_all_are_one_tensor_and_otherwise_each_is_its_own():
    params = weights(a_weight=[8.0, 7.0], b_weight=[1.0, 2.0])

    everywhere, _ = pruned(plainly("l1_unstructured"), params)
    assert [everywhere[name].tolist() for name in params] == [[8, 7], [0, 0]]
    each, _ = pruned(plainly("l1_unstructured", use_global_unstructured=False), params)
    assert [each[name].tolist() for name in params] == [[8, 0], [0, 2]]


def test_a_number_of_weights_or_a_function_of_the_epoch_may_be_the_amount():
    params = weights(weight=[4.0, 3.0, 2.0, 1.0])
    grows = plainly("l1_unstructured", amount=lambda epoch: epoch)

    assert pruned(plainly("l1_unstructured", amount=1), params)[0]["weight"].tolist() == [4, 3, 2, 0]
    assert pruned(grows, params, epoch=3)[0]["weight"].tolist() == [4, 0, 0, 0]
    assert fold(grows, [TrainEpochEnd(epoch=0, step=1)]).effects == ()  # an amount of 0
    with pytest.raises(ValueError, match=r"^prune: amount must be a fraction in \[0.0, 1.0\] or a number, .* got -1"):
        fold(plainly("l1_unstructured", amount=lambda _: -1), [TrainEpochEnd(step=1)])
    with pytest.raises(ValueError, match="amount=5 should be smaller than the number of parameters to prune=4"):
        pruned(plainly("l1_unstructured", amount=5), params)


STRUCTURED = {"use_global_unstructured": False, "pruning_dim": 0}


def test_channels_with_the_smallest_norm_go():
    params = weights(weight=[[3.0, 4.0], [0.0, 4.5], [6.0, 8.0], [1.0, 1.0]], bias=[1.0, 1.0, 1.0, 1.0])
    by_norm = plainly("ln_structured", pruning_norm=2, **STRUCTURED)

    once, masks = pruned(by_norm, params)
    assert once["weight"].tolist() == [[3, 4], [0, 0], [6, 8], [0, 0]]
    assert masks.keys() == {"weight"}  # a bias has no channels
    assert pruned(by_norm, params, times=2)[0]["weight"].tolist() == [[0, 0], [0, 0], [6, 8], [0, 0]]


def test_any_channels_go_as_torch_draws_them():
    model = nn.Linear(3, 4, bias=False)
    params = {"weight": model.weight.detach()}
    torch.manual_seed(3)
    found, _ = pruned(plainly("random_structured", **STRUCTURED), params)
    torch.manual_seed(3)
    of_torch.random_structured(model, "weight", amount=0.5, dim=0)

    assert torch.equal(found["weight"], model.weight)
    assert (found["weight"].abs().sum(1) == 0).sum() == 2


@pytest.mark.parametrize("method", [of_torch.L1Unstructured, of_torch.RandomUnstructured])
def test_again_and_again_it_prunes_as_torch_does(method):
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3))
    params = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("weight")}
    torch.manual_seed(5)
    found, _ = pruned(plainly(method, amount=0.3), params, times=3)
    torch.manual_seed(5)
    for _ in range(3):
        of_torch.global_unstructured([(layer, "weight") for layer in model], method, amount=0.3)

    assert all(torch.equal(found[f"{i}.weight"], model[i].weight) for i in (0, 1))


class Largest(of_torch.BasePruningMethod):
    """A method of one's own: the largest weight goes."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t, default_mask):
        mask = default_mask.clone()
        mask.view(-1)[t.abs().argmax()] = 0
        return mask


def test_a_method_of_ones_own_may_choose():
    params = weights(weight=[4.0, 3.0, 2.0])

    assert pruned(plainly(Largest), params)[0]["weight"].tolist() == [0, 3, 2]
    assert pruned(plainly(Largest), params, times=2)[0]["weight"].tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({}, {"a.weight", "a.bias", "b.weight"}),
        ({"parameter_names": ("weight",)}, {"a.weight", "b.weight"}),
        ({"parameter_names": "bias"}, {"a.bias"}),
        ({"parameters_to_prune": "a.*"}, {"a.weight", "a.bias", "a.scale"}),
        ({"parameters_to_prune": ["a.*", "b.*"], "parameter_names": ["bias", "s*"]}, {"a.bias", "a.scale"}),
    ],
)
def test_which_parameters_are_pruned(arguments, found):
    params = dict.fromkeys(["a.weight", "a.bias", "a.scale", "b.weight"], torch.ones(2))

    assert plainly("l1_unstructured", **arguments).step.init(params).keys() == found


def test_parameters_that_do_not_match_are_told_when_training_begins():
    step = plainly("l1_unstructured", parameters_to_prune="head.*").step

    with pytest.raises(ValueError, match=r"^prune: a parameter must match \('head.\*',\), got none. There are \['w'\]"):
        step.init(NamedParams({"w": torch.ones(1)}, {}))
    assert step.init(NamedParams({"w": torch.ones(1)}, {}, ("head.weight",))) == {}  # frozen for now


def test_pruned_weights_are_zero_after_each_step_even_where_they_are_not_finite():
    step = plainly("l1_unstructured").step
    state = {"weight": torch.tensor([True, False, False])}
    params = {"weight": torch.tensor([1.0, 2.0, torch.nan]), "other": torch.tensor([3.0])}

    out = step.on_after_optimizer_step(state, after(params))
    assert {name: p.tolist() for name, p in out.replaced["params"].items()} == {"weight": [1, 0, 0], "other": [3]}
    assert out.state is state
    # the turn of an optimizer that has others
    assert step.on_after_optimizer_step(state, after({"other": params["other"]})).replaced["params"].keys() == {"other"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_stay(dtype):
    found, masks = pruned(plainly("l1_unstructured"), {"weight": torch.ones(4, dtype=dtype)})
    out = plainly("l1_unstructured").step.on_after_optimizer_step(masks, after(found))

    assert (found["weight"].dtype, masks["weight"].dtype) == (dtype, torch.bool)
    assert out.replaced["params"]["weight"].dtype == dtype


def test_when_it_prunes():
    at_train_end, at_validation = (plainly("l1_unstructured", prune_on_train_epoch_end=each) for each in (True, False))
    train_end, validation = TrainEpochEnd(step=3), ValidationEnd(step=3)
    odd = plainly("l1_unstructured", apply_pruning=lambda epoch: epoch % 2)

    assert [len(fold(at_train_end, [event]).effects) for event in (train_end, validation)] == [1, 0]
    assert [len(fold(at_validation, [event]).effects) for event in (train_end, validation)] == [0, 1]
    assert fold(at_validation, [ValidationEnd(step=0)]).effects == ()  # a sanity check
    assert [len(fold(odd, [TrainEpochEnd(epoch=i, step=1)]).effects) for i in range(4)] == [0, 1, 0, 1]
    assert fold(plainly("l1_unstructured", apply_pruning=False), [train_end]).effects == ()
    assert fold(at_train_end, [train_end]).state == EmptyState()


def test_the_rest_goes_back_to_how_it_began_where_that_is_wanted():
    params, trained = weights(weight=[1.0, 2.0, 3.0, 4.0]), weights(weight=[8.0, 7.0, 6.0, 5.0])
    odd = prune("l1_unstructured", use_lottery_ticket_hypothesis=lambda epoch: epoch % 2)
    states = {part.key: part.step.init(params) for part in odd.parts}

    def rest(epoch):
        (effect,) = fold(odd, [TrainEpochEnd(epoch=epoch, step=1)]).effects
        return effect.fn(NamedParams(trained, {}), states)[0]["weight"].tolist()

    assert [part.key for part in odd.parts] == ["prune", "prune_initial"]
    assert (rest(0), rest(1)) == ([8, 7, 0, 0], [1, 2, 0, 0])
    assert odd.step.resting == {"prune_initial"}  # its copies are no inputs of the graph
    assert plainly("l1_unstructured").parts is None


def test_what_it_asks_for_in_order():
    speaks = prune("l1_unstructured", resample_parameters=True, verbose=1)

    assert fold(speaks, [TrainEpochEnd(step=1)]).effects == (
        Apply("prune: L1Unstructured"),
        Transform("prune: resample"),
        Apply("prune: mask"),
        Examine("prune: count"),
    )


@pytest.mark.parametrize(
    ("verbose", "lines"),
    [
        (1, ["L1Unstructured has pruned 3 of 8 weights (37.50%)"]),
        (
            2,
            [
                "L1Unstructured has pruned 3 of 8 weights (37.50%)",
                "L1Unstructured has pruned 0 of 4 weights (0.00%) in a",
                "L1Unstructured has pruned 3 of 4 weights (75.00%) in b",
            ],
        ),
    ],
)
def test_how_many_are_pruned_is_printed(verbose, lines):
    masks = {"a": torch.ones(2, 2).bool(), "b": torch.tensor([True, False, False, False])}
    *_, examine = fold(plainly("l1_unstructured", verbose=verbose), [TrainEpochEnd(step=1)]).effects

    assert examine.fn(None, None, {"prune": masks}) == [Print(f"prune: {line}") for line in lines]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"pruning_fn": "l2"}, ValueError, r"pruning_fn must be one of \['l1_unstructured', .* got 'l2'"),
        ({"pruning_fn": nn.Linear}, TypeError, "pruning_fn must be the name of a method or a BasePruningMethod, got"),
        ({"pruning_fn": of_torch.PruningContainer}, ValueError, "PruningContainer must have the PRUNING_TYPE"),
        ({"pruning_fn": "ln_structured"}, ValueError, "LnStructured needs pruning_dim, .* got None"),
        ({"pruning_fn": "random_structured"}, ValueError, "RandomStructured needs pruning_dim, .* got None"),
        ({"pruning_fn": "ln_structured", "pruning_dim": 0}, ValueError, "LnStructured needs pruning_norm, .* got None"),
        (
            {"pruning_fn": "random_structured", "pruning_dim": 0},
            ValueError,
            "RandomStructured must have use_global_unstructured=False",
        ),
        ({"amount": 1.5}, ValueError, r"amount must be a fraction in \[0.0, 1.0\] or a number, 0 or more, got 1.5"),
        ({"amount": -1}, ValueError, r"amount must be .* got -1"),
        ({"amount": True}, ValueError, r"amount must be .* got True"),
        ({"amount": float("nan")}, ValueError, r"amount must be .* got nan"),
        ({"apply_pruning": 1}, TypeError, "apply_pruning must be True, False or a function of the epoch, got 1"),
        (
            {"use_lottery_ticket_hypothesis": "no"},
            TypeError,
            "use_lottery_ticket_hypothesis must be True, False or a function of the epoch, got 'no'",
        ),
        ({"verbose": 3}, ValueError, "verbose must be 0, 1 or 2, got 3"),
        ({"parameters_to_prune": [(nn.Linear(1, 1), "weight")]}, TypeError, "names must be text"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^prune: {message}"):
        prune(**{"pruning_fn": "l1_unstructured", **arguments})


# Runs.


def task(**given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return Task(model, loss=lambda model, x: (model(x) - 1).square().mean(), **{"optimizer": optimizer, **given})


def data(n=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, generator=generator) for _ in range(n)]


def zeros(model):
    return {name: int((p == 0).sum()) for name, p in model.named_parameters()}


def test_pruned_weights_stay_zero_while_the_others_train_on():
    trained, seen = task(), []
    counts = Callback(key="c", init=int, on_train_batch_end=lambda s, e: seen.append(zeros(trained.model)) or s)
    halve = plainly("l1_unstructured", parameter_names=["weight"], apply_pruning=lambda epoch: epoch == 0)
    before = trained.model[0].weight.detach().clone()

    train(trained, data(), callbacks=[halve, counts], max_epochs=3)

    found = [each["0.weight"] + each["2.weight"] for each in seen]
    assert found == [0, 0, 0, 12, 12, 12, 12, 12, 12]
    assert (trained.model[0].weight != before).all(), "momentum would move a pruned weight, and the rest trains"


def test_pruned_weights_are_in_the_checkpoint_under_their_names(tmp_path):
    trained = task()
    train(trained, data(), callbacks=[prune("l1_unstructured"), checkpoint(tmp_path)], max_epochs=1)
    (path,) = tmp_path.glob("*.safetensors")

    saved = store.read(path)["model"]
    assert saved.keys() == trained.model.state_dict().keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert sum(int((saved[name] == 0).sum()) for name in saved) == 16  # of 33, as torch rounds


def test_resampled_weights_are_new_and_masked():
    trained, seen = task(), []
    before = copy.deepcopy(trained.model)
    sees = Callback(key="s", init=int, on_epoch_end=lambda s, e: seen.append(copy.deepcopy(trained.model)) or s)

    train(trained, data(), callbacks=[prune("l1_unstructured", resample_parameters=True), sees], max_epochs=1)

    left = {name: p != 0 for name, p in seen[-1].named_parameters()}
    assert sum(int(each.sum()) for each in left.values()) == 17
    for name, p in seen[-1].named_parameters():
        was, then = dict(before.named_parameters())[name], dict(seen[0].named_parameters())[name]
        assert torch.equal(p, then)
        assert (p[left[name]] != was[left[name]]).all()


def test_what_is_frozen_is_not_resampled():
    trained = task()
    trained.model[0].requires_grad_(False)
    before = trained.model[0].weight.clone()

    train(trained, data(), callbacks=prune("l1_unstructured", resample_parameters=True), max_epochs=1)

    assert torch.equal(trained.model[0].weight, before)


def test_the_sanity_check_and_other_stages_prune_nothing():
    trained = task()
    halve = plainly("l1_unstructured", prune_on_train_epoch_end=False)

    train(trained, data(), data(1), callbacks=halve, max_epochs=1, limit_train_batches=0, num_sanity_val_steps=1)
    validate(trained, data(1), callbacks=halve, progress=False)
    assert sum(zeros(trained.model).values()) == 0

    train(trained, data(), data(1), callbacks=halve, max_epochs=1, num_sanity_val_steps=1)
    assert sum(zeros(trained.model).values()) == 16


def test_what_is_frozen_is_pruned_once_it_is_trained_again():
    trained, seen = task(), []
    tune = finetuning("0.*", lambda epoch: "0.*" if epoch == 1 else None)
    halve = plainly("l1_unstructured", parameters_to_prune="0.weight")
    counts = Callback(key="c", init=int, on_epoch_end=lambda s, e: seen.append(zeros(trained.model)["0.weight"]) or s)

    train(trained, data(), callbacks=[tune, halve, counts], max_epochs=3)

    assert seen == [0, 8, 12]


def test_a_skipped_batch_leaves_masks_and_weights():
    trained, values = task(), data(4)
    values[2] = values[2].fill_(torch.nan)

    train(trained, values, callbacks=[skip_nonfinite(), plainly("l1_unstructured")], max_epochs=2)

    assert sum(zeros(trained.model).values()) == 24  # 16 of 33, then 8 of 17
    assert all(torch.isfinite(p).all() for p in trained.model.parameters())


def test_a_run_that_goes_on_ends_as_one_that_was_never_cut(tmp_path):
    def run(folder, **settings):
        trained = task()
        torch.manual_seed(7)
        callbacks = [prune("random_unstructured", resample_parameters=True), checkpoint(folder, save_top_k=-1)]
        found = train(trained, data(), callbacks=callbacks, **settings)
        return {**trained.model.state_dict(), **found.step_state["prune"], **found.step_state["prune_initial"]}

    whole = run(tmp_path, max_epochs=3)
    path = next(tmp_path.glob("epoch=0-*.safetensors"))
    gone_on = run(tmp_path / "again", max_epochs=3, resume=path)

    assert all(torch.equal(whole[name], gone_on[name]) for name in whole)
