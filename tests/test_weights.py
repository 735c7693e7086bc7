import logging
import pickle
from functools import partial
from math import inf, nan

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fncb
from fncb import store
from fncb.callbacks import checkpoint, ema
from fncb.tree import leaves
from fncb.weights import load_torch, must_fit, not_finite, take_what_fits


def tied():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


def test_a_models_weights_come_back_in_one_line(tmp_path):
    model, again = tied(), tied()
    store.write(tmp_path / "a.safetensors", {"step": 1, "model": model.state_dict()})

    again.load_state_dict(fncb.load(tmp_path / "a.safetensors"))

    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_of_a_directory_the_newest_that_verifies_is_taken(tmp_path, caplog):
    for step in (1, 2):
        store.write(tmp_path / f"{step}.safetensors", {"step": step, "model": {"weight": torch.full((1,), step)}})
    (tmp_path / "3.safetensors").write_bytes(b"half")

    with caplog.at_level(logging.WARNING, "fncb"):
        assert fncb.load(tmp_path) == {"weight": torch.tensor([2])}
    assert "3.safetensors is passed over" in caplog.text


def test_any_reader_of_safetensors_finds_the_model_of_a_run_under_its_name(tmp_path):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 1))
    model[3].weight = model[2].weight  # tied
    model = model.to(memory_format=torch.channels_last)
    task = fncb.Task(model, loss=lambda model, x: model(x).mean(), optimizer=partial(torch.optim.Adam, lr=0.1))
    fncb.fit(task, [torch.ones(1, 2, 4, 4)] * 2, callbacks=checkpoint(tmp_path), max_epochs=1, compile=False)
    (path,) = tmp_path.glob("*.safetensors")

    found = load_file(path)
    mine = {name.removeprefix("model."): each for name, each in found.items() if name.startswith("model.")}

    weights = model.state_dict()
    assert weights.keys() - mine.keys() == {"3.weight"}
    assert all(torch.equal(each, weights[name]) for name, each in mine.items())
    assert fncb.load(path).keys() == weights.keys()
    assert fncb.load(path)["0.weight"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("tree", "message"),
    [({"net": {}}, r"must hold a model, got \['net'\]"), ([1], "must hold a model, got list")],
)
def test_a_checkpoint_without_a_model_says_what_it_holds(tmp_path, tree, message):
    store.write(tmp_path / "a.safetensors", tree)

    with pytest.raises(ValueError, match=message):
        fncb.load(tmp_path / "a.safetensors")


def test_a_path_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"load: path must be a checkpoint or a directory, got .*nowhere"):
        fncb.load(tmp_path / "nowhere")


def test_an_empty_directory_is_told(tmp_path):
    with pytest.raises(ValueError, match="load: path must be a checkpoint or a directory with one"):
        fncb.load(tmp_path)


def stepped(tmp_path, states, model=None):
    """A checkpoint of a tied model whose callbacks keep tensors so."""
    path = tmp_path / "a.safetensors"
    model = tied().state_dict() if model is None else model
    flat = {key: dict(leaves(state)) for key, state in states.items()}
    store.write(path, {"step": 1, "model": model, "step_state": {"states": flat}})
    return path, model


@pytest.mark.parametrize("within", [None, "average"])
def test_averages_take_the_place_of_the_weights(tmp_path, within):
    average = {"0.weight": torch.full((2, 2), 0.5), "0.bias": torch.zeros(2)}  # of two tied weights, one
    path, model = stepped(tmp_path, {"ema": {within: average, "n": torch.tensor(3)} if within else average})

    found = fncb.load(path, averaged="ema")

    assert found.keys() == model.keys()
    assert found["0.weight"].tolist() == found["1.weight"].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert found["0.bias"].tolist() == [0.0, 0.0]
    assert torch.equal(found["1.bias"], model["1.bias"])  # nobody averages it
    again = tied()
    again.load_state_dict(found)
    assert again[0].weight.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert torch.equal(fncb.load(path)["0.weight"], model["0.weight"])


@pytest.mark.parametrize("within", [None, "average"])
def test_a_weight_may_be_named_as_if_it_were_an_average(tmp_path, within):
    model = {name: torch.zeros(1) for name in ("weight", "average.weight")}
    average = {"weight": torch.ones(1), "average.weight": torch.full((1,), 2.0)}
    path, _ = stepped(tmp_path, {"ema": {within: average} if within else average}, model)

    assert fncb.load(path, averaged="ema") == average


def test_a_key_of_nobody_who_keeps_weights_says_who_does(tmp_path):
    states = {
        "skip_nonfinite": {"skipped": torch.tensor(0)},
        "other": {"1.bias": torch.zeros(3)},  # of another shape
        "swa": {"average": {"1.bias": torch.zeros(2)}},
        "ema": {"0.bias": torch.zeros(2)},
    }
    path, model = stepped(tmp_path, states)
    store.write(tmp_path / "light.safetensors", {"weights_only": True, "model": model})

    for key in ("emma", "skip_nonfinite", "other"):
        with pytest.raises(ValueError, match=rf"load: averaged must be the key .*, got '{key}'\. .* \['ema', 'swa'\]"):
            fncb.load(path, averaged=key)
    with pytest.raises(ValueError, match=r"got 'ema'\. In .*light\.safetensors there are \[\]\."):
        fncb.load(tmp_path / "light.safetensors", averaged="ema")


def test_the_averages_of_a_run_are_loaded(tmp_path):
    task = fncb.Task(
        nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1)),
        loss=lambda model, x: model(x).mean(),
        optimizer=partial(torch.optim.SGD, lr=0.5),
    )
    callbacks = [ema(0.5), checkpoint(tmp_path)]
    run = fncb.fit(task, [torch.ones(4, 2)] * 2, callbacks=callbacks, max_epochs=2, compile=False, progress=False)

    found, own = fncb.load(tmp_path, averaged="ema"), fncb.load(tmp_path)

    assert found.keys() == own.keys()
    assert torch.equal(found["1.bias"], dict(leaves(run.step_state["ema"]))["1.bias"])
    assert not torch.equal(found["1.bias"], own["1.bias"])
    assert found["1.num_batches_tracked"] == own["1.num_batches_tracked"]


def test_weights_alone_are_loaded_too(tmp_path):
    model = nn.Linear(2, 1)
    task = fncb.Task(model, loss=lambda model, x: model(x).mean(), optimizer=partial(torch.optim.SGD, lr=0.5))
    run = {"max_epochs": 1, "compile": False, "progress": False}
    fncb.fit(task, [torch.ones(4, 2)], callbacks=checkpoint(tmp_path, save_weights_only=True), **run)
    (path,) = tmp_path.glob("*.safetensors")

    torch.testing.assert_close(fncb.load(path), dict(model.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(fncb.load(tmp_path), dict(model.state_dict()), rtol=0, atol=0)
    assert "optimizer" not in store.read(path)


@pytest.mark.parametrize("within", ["state_dict", "model_state_dict", "model", None])
def test_weights_of_others_are_found_where_they_are_kept(tmp_path, within):
    weights = {"weight": torch.ones(2)}
    held = weights if within is None else {within: weights, "epoch": 3}
    torch.save(held, tmp_path / "a.ckpt")

    assert load_torch(tmp_path / "a.ckpt")["weight"].tolist() == [1.0, 1.0]


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code ran')",)


def test_no_code_of_a_pickle_runs(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save({"state_dict": {"weight": torch.ones(1)}, "evil": Evil()}, tmp_path / "b.pt")

    for name in ("a.pt", "b.pt"):
        with pytest.raises(pickle.UnpicklingError):
            load_torch(tmp_path / name)


def test_a_file_without_weights_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pt")

    with pytest.raises(ValueError, match=r"load_torch: .* must hold a state dict, got \['epoch'\]"):
        load_torch(tmp_path / "a.pt")


OTHER = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(3), "head": torch.ones(1)}


def test_everything_that_does_not_fit_is_named_at_once():
    message = r"missing 1.weight, 1.bias; unexpected head; mis-shaped 0.bias \[3\] for \[2\]\. Resume with the same"

    with pytest.raises(ValueError, match=message):
        must_fit("fit", tied(), OTHER)


def test_what_fits_is_taken_and_the_rest_named():
    model = tied()
    bias = model[0].bias.detach().clone()

    left_out = take_what_fits(model, OTHER)

    assert left_out == ("missing 1.weight", "missing 1.bias", "unexpected head", "mis-shaped 0.bias [3] for [2]")
    assert model[0].weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert torch.equal(model[0].bias, bias)


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_parameters_that_are_not_finite_are_named(value, dtype):
    model = tied().to(dtype)
    with torch.no_grad():
        model[1].bias[1] = value

    assert not_finite(model) == ["1.bias"]


def test_what_is_not_trained_may_hold_anything():
    model = tied()
    model.register_buffer("mask", torch.tensor([-inf]))
    with torch.no_grad():
        model[1].bias.fill_(inf)
    model[1].bias.requires_grad_(False)

    assert not_finite(model) == []
    assert not_finite(nn.ReLU()) == []
