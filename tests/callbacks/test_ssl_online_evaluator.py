from functools import partial
from math import log

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fncb
from fncb.callback import Callback, EmptyState, compose, emit
from fncb.callbacks import checkpoint, skip_nonfinite
from fncb.callbacks.module_data_monitor import module_data_monitor
from fncb.callbacks.ssl_online_evaluator import ssl_online_evaluator
from fncb.effects import Freeze, Measure
from fncb.events import TrainBatchEnd, ValidationBatchEnd
from fncb.tree import leaves
from tests.callbacks.digits import batches, digits, train
from tests.folding import fold

KEY = "ssl_online_evaluator(online)"


def first(evaluator):
    return evaluator.step.init({"w": torch.zeros(1)})


def stepped(evaluator, state, *batch, model=None):
    """The state after a batch, and what is published."""
    event = TrainBatchEnd(model=model or nn.Identity(), batch=batch)
    with torch.no_grad():
        out = evaluator.step.on_train_batch_end(state, event)
    return out.state, out.replaced["metrics"]


def measured(evaluator, state, *batch):
    """What is measured of a batch of a validation."""
    event = ValidationBatchEnd(batch=batch)
    (effect,) = fold(evaluator, [event]).effects
    assert effect == Measure(evaluator.key)
    with torch.no_grad():
        return effect.fn(nn.Identity(), event, {evaluator.key: state})


def random_batches(n, size=8, width=5, classes=3):
    generator = torch.Generator().manual_seed(n)
    return [
        (torch.randn(size, width, generator=generator), torch.randint(classes, (size,), generator=generator))
        for _ in range(n)
    ]


# The classifier.


def test_its_first_weights_come_from_the_seed_and_from_no_generator_of_the_run():
    before = torch.get_rng_state()
    state, again, other = (first(ssl_online_evaluator(9, 4, hidden_dim=16, seed=seed)) for seed in (0, 0, 1))

    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one, same) for (_, one), (_, same) in zip(leaves(state), leaves(again), strict=True))
    assert not torch.equal(state["weights"]["weight"], other["weights"]["weight"])
    assert {path: tuple(leaf.shape) for path, leaf in leaves(state["weights"])} == {
        "hidden_weight": (16, 9),
        "norm_weight": (16,),
        "norm_bias": (16,),
        "weight": (4, 16),
        "bias": (4,),
    }
    assert 0.3 < state["weights"]["hidden_weight"].abs().max() <= 1 / 3  # 1 / sqrt(9)
    assert 0.2 < state["weights"]["weight"].abs().max() <= 0.25


def in_torch(state, hidden_dim):
    """The same classifier of torch's layers."""
    weights = state["weights"]
    if hidden_dim is None:
        model = nn.Linear(5, 3)
        model.load_state_dict(weights)
        return model
    model = nn.Sequential(
        nn.Linear(5, hidden_dim, bias=False), nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 3)
    )
    with torch.no_grad():
        for p, weight in zip(model.parameters(), weights.values(), strict=True):
            p.copy_(weight)
    return model


@pytest.mark.parametrize("hidden_dim", [None, 6])
def test_it_is_trained_as_torch_trains_it(hidden_dim):
    evaluator = ssl_online_evaluator(5, 3, hidden_dim=hidden_dim, drop_p=0.0, lr=0.01)
    state = first(evaluator)
    model = in_torch(state, hidden_dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for x, y in random_batches(20):
        state, metrics = stepped(evaluator, state, x, y)
        loss = nn.functional.cross_entropy(model(x), y)
        torch.testing.assert_close(metrics["online_train_loss"], loss.detach())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for ours, theirs in zip(state["weights"].values(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-5)
    assert state["count"] == 20
    x, y = random_batches(1)[0]
    found = measured(evaluator, state, x, y)
    logits = model.eval()(x)
    torch.testing.assert_close(
        found["online_loss"], nn.functional.cross_entropy(logits, y).detach(), rtol=1e-4, atol=1e-5
    )
    assert found["online_acc"] == (logits.argmax(1) == y).float().mean()


def test_a_batch_of_one_trains_a_hidden_layer_too():
    evaluator = ssl_online_evaluator(5, 3, hidden_dim=4)
    state, metrics = stepped(evaluator, first(evaluator), torch.ones(1, 5), torch.tensor([1]))

    assert all(torch.isfinite(leaf).all() for _, leaf in leaves(state))
    assert torch.isfinite(metrics["online_train_loss"])


def test_it_publishes_loss_and_accuracy_of_each_batch():
    evaluator = ssl_online_evaluator(2, 3, drop_p=0.0)
    weights = {"weight": torch.zeros(3, 2), "bias": torch.tensor([log(2), 0.0, 0.0])}  # probabilities 1/2, 1/4, 1/4
    batch = torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])
    _, metrics = stepped(evaluator, {**first(evaluator), "weights": weights}, *batch)

    assert list(metrics) == ["online_train_loss", "online_train_acc"]
    assert metrics["online_train_loss"] == pytest.approx((3 * log(2) + log(4)) / 4)
    assert metrics["online_train_acc"] == 0.75


# Its dropout.


def kept(p, seed=0, steps=1, hidden=False, width=1000):
    """What is left of inputs of the last layer that are all 1, at each of some steps: 0 where dropped."""
    evaluator = ssl_online_evaluator(width, 2, drop_p=p, seed=seed, hidden_dim=width if hidden else None, lr=1e-30)
    state, seen = first(evaluator), []
    still = {name: torch.zeros_like(weight) for name, weight in state["weights"].items()}
    weights = {**still, "norm_bias": torch.ones(width)} if hidden else still
    for _ in range(steps):
        before = {**state, "weights": weights, "mean": still}
        state, _ = stepped(evaluator, before, torch.ones(1, width), torch.tensor([0]))
        seen.append(state["mean"]["weight"][0] / -0.05)  # a tenth of the gradient, which is -.5 times the input
    return seen


def test_dropout_drops_its_share_and_scales_the_rest():
    (seen,) = kept(0.25, width=4000)

    assert seen.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (seen == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert kept(0.0)[0].unique().tolist() == pytest.approx([1])


def test_dropout_is_another_at_each_step_with_each_seed_and_in_each_layer_and_the_same_again():
    one, other, third = (seen == 0 for seen in kept(0.5, steps=3))

    for a, b in ((one, other), (other, third), (one, kept(0.5, seed=1)[0] == 0), (one, kept(0.5, hidden=True)[0] == 0)):
        assert (a == b).float().mean() == pytest.approx(0.5, abs=0.06)  # as if they had nothing to do with each other
    assert torch.equal(one, kept(0.5)[0] == 0)


def test_dropout_draws_from_no_generator_of_the_run():
    before = torch.get_rng_state()
    kept(0.5, hidden=True)

    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_dropped_in_validation():
    x, y = random_batches(1)[0]
    some, none = (ssl_online_evaluator(5, 3, drop_p=p, hidden_dim=4) for p in (0.9, 0.0))

    assert measured(some, first(some), x, y) == measured(none, first(none), x, y)


# Its features.


def test_by_default_features_are_the_flat_output_for_inputs_or_the_last_of_their_views():
    evaluator = ssl_online_evaluator(6, 2, drop_p=0.0)
    x, y = torch.rand(4, 2, 3), torch.tensor([0, 1, 1, 0])
    plain = stepped(evaluator, first(evaluator), x, y)[1]

    assert stepped(evaluator, first(evaluator), (torch.zeros(4, 2, 3), x), y)[1] == plain
    by_name = ssl_online_evaluator(6, 2, drop_p=0.0, features=lambda model, batch: (model(batch[0]["x"]).flatten(1), y))
    assert stepped(by_name, first(by_name), {"x": x})[1] == plain


@pytest.mark.parametrize(
    ("batch", "arguments", "message"),
    [
        ((torch.ones(4, 5), torch.zeros(4)), {"z_dim": 6}, r"must have the shape \(batch, 6\), got \(4, 5\)"),
        ((torch.ones(4, 5), torch.zeros(4, 1)), {}, r"labels must have the shape \(4,\), got \(4, 1\)"),
        ((torch.ones(4, 5),), {}, r"a batch must be \(inputs, labels\), got tuple. Pass features="),
        (
            (torch.ones(4, 5),),
            {"features": lambda m, b: b[0]},
            "features must return .features, labels., two tensors, got T",
        ),
    ],
)
def test_what_does_not_fit_is_told(batch, arguments, message):
    evaluator = ssl_online_evaluator(**{"z_dim": 5, "num_classes": 3, **arguments})

    with pytest.raises((ValueError, TypeError), match=message):
        stepped(evaluator, first(evaluator), *batch)


# In a run.


def encoder_task(seed=0, dropout=0.3, lr=0.05):
    """An autoencoder of digits, which sees no labels."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.BatchNorm1d(24), nn.Dropout(dropout), nn.Linear(24, 64)),
    )
    return fncb.Task(
        model,
        loss=lambda model, batch: (model(batch[0]) - batch[0].flatten(1)).square().mean(),
        optimizer=partial(torch.optim.SGD, lr=lr, momentum=0.9),
    )


def features(model, batch):
    return model[:4](batch[0]), batch[1]


PROBE = partial(ssl_online_evaluator, 24, 10, features=features, lr=1e-2)


def test_the_model_is_trained_bit_for_bit_as_without():
    def loader():
        return DataLoader(TensorDataset(*(each[:256] for each in digits())), batch_size=64, shuffle=True)

    probed, plain = encoder_task(), encoder_task()
    run = train(probed, loader(), batches(256, 320), callbacks=PROBE(drop_p=0.5, hidden_dim=8), max_epochs=3, seed=0)
    train(plain, loader(), batches(256, 320), max_epochs=3, seed=0)

    assert run.step_state[KEY]["count"] == 12
    assert all(map(torch.equal, probed.model.state_dict().values(), plain.model.state_dict().values()))


def test_it_learns_digits_from_features_that_never_saw_a_label():
    run = train(encoder_task(dropout=0.0), batches(0, 1024), batches(1024, 1536), callbacks=PROBE(), max_epochs=15)

    assert run.metrics["val_online_acc"] > 0.8
    assert run.metrics["online_train_acc"] > 0.6  # with dropout
    assert 0 < run.metrics["val_online_loss"] < 0.8


def test_compiled_it_is_what_it_is_eagerly():
    """And monitors that hook into the model for a moment have nothing compiled anew."""
    given = batches(0, 256), batches(256, 384)
    probe = PROBE(drop_p=0.5, hidden_dim=8)
    told = Callback(key="told", init=int, on_step_compiled=lambda state, event: event.graphs)
    tasks = [encoder_task(dropout=0.0) for _ in range(2)]
    with_monitor = [probe, module_data_monitor(True, log_every_n_steps=1), told]
    compiled = fncb.fit(tasks[0], *given, callbacks=with_monitor, max_epochs=2, progress=False)
    eager = train(tasks[1], *given, callbacks=probe, max_epochs=2)

    assert (compiled.compiled, compiled.state["told"]) == ("one graph", 1)
    torch.testing.assert_close(dict(leaves(compiled.step_state)), dict(leaves(eager.step_state)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(tasks[0].model.state_dict(), tasks[1].model.state_dict())
    for name in ("online_train_loss", "val_online_loss"):
        assert compiled.metrics[name] == pytest.approx(eager.metrics[name], rel=1e-3)


def test_a_run_goes_on_exactly_where_it_was_saved(tmp_path):
    given = batches(0, 320), batches(320, 384)
    keeps = checkpoint(tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    probe = PROBE(drop_p=0.5, hidden_dim=8)
    whole = train(encoder_task(), *given, callbacks=[probe, keeps], max_epochs=2, seed=0)
    again = train(encoder_task(1), *given, callbacks=probe, max_epochs=2, resume=tmp_path / "step=3.safetensors")

    assert again.metrics == whole.metrics
    for (path, one), (_, other) in zip(leaves(whole.step_state[KEY]), leaves(again.step_state[KEY]), strict=True):
        assert torch.equal(one, other), path


def test_a_validation_measures_means_over_its_batches_and_one_outside_of_a_fit_nothing():
    task = encoder_task()
    run = train(task, batches(0, 64), batches(64, 164, 75), callbacks=PROBE(), max_epochs=1)
    state = run.step_state[KEY]
    with torch.no_grad():
        images, labels = (each[64:164] for each in digits())
        logits = nn.functional.linear(features(task.model.eval(), (images, None))[0], *state["weights"].values())

    assert run.metrics["val_online_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert run.metrics["val_online_acc"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert list(fncb.validate(task, batches(64, 164), callbacks=PROBE(), progress=False).metrics) == ["val_loss"]


def test_a_batch_that_is_skipped_teaches_it_nothing():
    bad = [(torch.full((64, 1, 8, 8), torch.nan), torch.zeros(64, dtype=torch.int64))]
    good = batches(0, 128)
    runs = [
        train(encoder_task(), given, callbacks=[skip_nonfinite(), PROBE()], max_epochs=1, seed=0)
        for given in ([*good[:1], *bad, *good[1:]], good)
    ]

    assert runs[0].step_state[KEY]["count"] == 2
    assert all(torch.isfinite(leaf).all() for _, leaf in leaves(runs[0].step_state[KEY]))


def test_it_goes_on_when_a_part_of_the_model_is_frozen():
    freezes = Callback(
        key="freezes",
        init=int,
        on_train_epoch_start=lambda s, e: emit(s, Freeze("1.*")) if e.epoch == 1 else s,
    )
    run = train(encoder_task(), batches(0, 256), callbacks=[freezes, PROBE()], max_epochs=2)

    assert run.step_state[KEY]["count"] == 8


def test_a_model_in_float64_has_a_classifier_in_float32():
    run = train(encoder_task(), batches(0, 128), batches(128, 192), callbacks=PROBE(), max_epochs=1, precision="64")

    assert {leaf.dtype for _, leaf in leaves(run.step_state[KEY]["weights"])} == {torch.float32}
    assert run.metrics["val_online_loss"] > 0


def test_several_have_names_of_their_own():
    both = compose(PROBE(), PROBE(name="mlp", hidden_dim=8))
    run = train(encoder_task(), batches(0, 128), batches(128, 192), callbacks=both, max_epochs=1)

    assert [part.key for part in both.parts] == [KEY, "ssl_online_evaluator(mlp)"]
    assert {"online_train_acc", "mlp_train_acc", "val_online_acc", "val_mlp_acc"} <= set(run.metrics)


def test_its_host_half_remembers_nothing():
    assert fold(PROBE(), [ValidationBatchEnd()]).state == EmptyState()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"z_dim": 0}, "z_dim must be 1 or more, got 0"),
        ({"z_dim": 1.5}, "z_dim must be an int, got 1.5"),
        ({"num_classes": True}, "num_classes must be an int, got True"),
        ({"hidden_dim": 0}, "hidden_dim must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"drop_p": 1.0}, r"drop_p must be a number in \[0, 1\), got 1.0"),
        ({"drop_p": torch.nan}, r"drop_p must be a number in \[0, 1\), got nan"),
        ({"lr": 0}, r"lr must be a number in \(0, inf\), got 0"),
        ({"lr": torch.nan}, r"lr must be a number in \(0, inf\), got nan"),
        ({"features": "z"}, "features must be a function, got 'z'"),
        ({"name": ""}, "name must be a name, got ''"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"^ssl_online_evaluator: {message}"):
        ssl_online_evaluator(**{"z_dim": 2, "num_classes": 2, **arguments})
