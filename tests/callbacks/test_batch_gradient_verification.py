from functools import partial

import pytest
import torch
from torch import nn

import fncb
from fncb.callbacks.batch_gradient_verification import batch_gradient_verification
from fncb.effects import Examine, Print
from fncb.events import TrainBatchStart, TrainStart
from tests.callbacks.digits import batches, classifier_task, train
from tests.folding import fold


class Applies(nn.Module):
    """A model that is a function of its inputs; its one parameter says where it is and in which format."""

    def __init__(self, fn):
        super().__init__()
        self.fn, self.p = fn, nn.Parameter(torch.ones(1))

    def forward(self, *inputs):
        return self.fn(*inputs)


def found(model, batch, **arguments):
    """What it says of a model, as `Examine` has it: in eval mode, without gradients."""
    verify = batch_gradient_verification(batch, **arguments)
    with torch.no_grad():
        return fold(verify, [TrainStart()]).effects[0].fn(model.eval(), TrainStart(), {})


X = torch.arange(1.0, 13.0).reshape(3, 4)

MIXES = {
    "mean over the batch": lambda x: x - x.mean(0),
    "reshape": lambda x: x.reshape(4, 3).T,
    "flipped batch": lambda x: x.flip(0),
    "softmax over the batch": lambda x: x.softmax(0),
    "attention without a batch": lambda x: (x @ x.T).softmax(1) @ x,
    "shuffled by a table": lambda x: x[[1, 2, 0]],
    "flipped batch, features centred": lambda x: x.flip(0) - x.flip(0).mean(1, keepdim=True),  # a sum of 0
    "flipped batch, softmax over the features": lambda x: x.flip(0).softmax(1),  # a sum of 1
}

DOES_NOT_MIX = {
    "elementwise": lambda x: x * x,
    "mean over the features": lambda x: x - x.mean(1, keepdim=True),
    "reshape": lambda x: x.reshape(3, 2, 2).transpose(1, 2).flatten(1),
    "one number each": lambda x: x.sum(1),
    "softmax over the features": lambda x: x.softmax(1),
    "two heads": lambda x: {"a": x, "b": (x * 2, "note", x.sum())},  # of a loss beside them nothing is asked
}


@pytest.mark.parametrize("name", MIXES)
def test_a_model_that_mixes_samples_is_told(name):
    said = found(Applies(MIXES[name]), X)

    assert type(said) is Print
    assert said.text.startswith("batch_gradient_verification: the output for sample 0 depends on")


@pytest.mark.parametrize("name", DOES_NOT_MIX)
@pytest.mark.parametrize("sample_idx", [0, 1, 2])
def test_of_one_that_does_not_nothing_is_said(name, sample_idx):
    assert found(Applies(DOES_NOT_MIX[name]), X, sample_idx=sample_idx) is None


def test_it_names_how_many_others_and_one_of_them():
    assert found(Applies(lambda x: x.flip(0)), X, sample_idx=2) == Print(
        "batch_gradient_verification: the output for sample 2 depends on 1 other sample too, such as sample 0. "
        "Look for a reshape or a permutation that takes the batch's dimension for another."
    )
    assert "depends on 2 other samples too, such as sample 1." in found(Applies(lambda x: x - x.mean(0)), X).text


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.GroupNorm(2, 4), nn.Dropout(0.5)]
)
def test_what_norms_mix_in_training_is_not_told(layer):
    sides = {nn.BatchNorm2d: 2, nn.BatchNorm3d: 3, nn.GroupNorm: 2}.get(type(layer), 0)

    assert found(layer if [*layer.parameters()] else Applies(layer), torch.rand(3, 4, *[5] * sides)) is None


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_recurrent_layers_are_differentiated_in_eval_mode(kind):
    batch_first, time_first = kind(2, 3, batch_first=True), kind(2, 3)
    of_all = {"output_mapping": lambda out: out[0]}

    assert found(batch_first, torch.rand(4, 5, 2), **of_all) is None
    assert found(time_first, torch.rand(4, 5, 2), **of_all) is None  # sample 0 is the first moment: of no other
    assert "depends on 3 other samples" in found(time_first, torch.rand(4, 5, 2), **of_all, sample_idx=3).text


def test_gradients_that_are_not_finite_tell_nothing():
    sqrt = Applies(lambda x: x.sqrt())
    says = partial("batch_gradient_verification: the output for sample 0 {}".format)

    # infinite for the sample itself, and 0 for all others
    assert found(sqrt, torch.tensor([[0.0], [4.0]])) is None
    # 0 times infinity for the others
    assert found(sqrt, torch.tensor([[4.0], [4.0], [0.0]])) == Print(
        says("has gradients that are not finite, such as for sample 2: nothing can be told.")
    )
    # some not finite, and one that is: it mixes
    others = torch.tensor([[4.0], [4.0], [0.0]])
    assert found(Applies(lambda x: x.sqrt() + x[1]), others).text.startswith(says("depends on 1 other sample too"))


def test_outputs_that_depend_on_no_input_tell_nothing():
    text = "batch_gradient_verification: the output for sample 1 does not depend on its own input: nothing can be told."

    for constant in (lambda x: x * 0, lambda x: x.detach(), lambda x: torch.ones(3, 2)):
        assert found(Applies(constant), X, sample_idx=1) == Print(text)


def test_a_batch_of_several_inputs_is_looked_at_as_a_whole():
    batch = {"x": X, "more": X + 1, "labels": torch.tensor([0, 1, 2]), "scale": torch.ones(5), "name": "a"}

    def forward(mixes):
        return lambda model, batch: model(batch["x"], batch["more"] - mixes * batch["more"].mean(0))

    model = Applies(lambda x, more: x + more)
    assert found(model, batch, forward=forward(0)) is None
    assert "depends on 2 other samples" in found(model, batch, forward=forward(1)).text
    # of those that an input mapping leaves out nothing is asked
    assert found(model, batch, forward=forward(1), input_mapping=lambda batch: [batch["x"]]) is None


def test_an_output_mapping_says_what_belongs_to_a_sample():
    model = Applies(lambda x: x.T)  # (features, batch)

    with pytest.raises(ValueError, match=r"there must be an output for each sample, got none. Pass output_mapping="):
        found(model, X)
    assert found(model, X, output_mapping=lambda out: out.T) is None


def test_model_and_batch_are_left_alone():
    model, batch = nn.Linear(4, 2), (X.clone(), torch.zeros(3))
    found(model, batch)

    assert all(p.grad is None for p in model.parameters())
    assert (batch[0].requires_grad, batch[0].grad) == (False, None)
    assert found(nn.Linear(4, 2).double(), X) is None  # which is given float64


@pytest.mark.parametrize(
    ("batch", "arguments", "message"),
    [
        (X[:1], {}, "a batch must have 2 samples or more, got 1. Pass another as example."),
        (X, {"sample_idx": 3}, "sample_idx must be in the batch of 3, got 3."),
        (torch.tensor([1, 2]), {}, "a batch must have inputs of floating point, got none. Give embeddings, and forw"),
        (X, {"input_mapping": lambda batch: []}, "a batch must have inputs of floating point, got none"),
    ],
)
def test_a_batch_that_cannot_tell_is_refused(batch, arguments, message):
    with pytest.raises(ValueError, match=f"^batch_gradient_verification: {message}"):
        found(Applies(lambda x: x), batch, **arguments)


def test_it_looks_once_at_the_start_or_at_the_very_first_batch():
    starts = [TrainBatchStart(epoch=epoch, batch_idx=i) for epoch in (0, 1) for i in (0, 1)]
    looks = (Examine("batch_gradient_verification"),)

    assert fold(batch_gradient_verification(), [TrainStart(), *starts]).effects == looks
    assert fold(batch_gradient_verification(), [TrainStart(), *starts[1:]]).effects == ()
    assert fold(batch_gradient_verification(X), [TrainStart()]).effects == looks
    assert fold(batch_gradient_verification(X), starts).effects == ()


class Mixing(nn.Module):
    """A classifier of digits that takes the batch's dimension for the channels'."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.transpose(0, 1).reshape(len(x), 64).roll(1, 0))


def test_a_run_with_a_model_that_mixes_is_warned_or_ends(capsys):
    right = classifier_task()
    wrong = fncb.Task(Mixing(), loss=right.loss, optimizer=partial(torch.optim.SGD, lr=0.1))
    said = "the output for sample 0 depends on 1 other sample too"

    train(right, batches(0, 128), callbacks=batch_gradient_verification(), max_epochs=2)
    assert said not in capsys.readouterr().out
    run = train(wrong, batches(0, 128), callbacks=batch_gradient_verification(), max_epochs=2)
    assert (run.step, capsys.readouterr().out.count(said)) == (4, 1)
    with pytest.raises(RuntimeError, match=said):
        train(wrong, batches(0, 128), callbacks=batch_gradient_verification(error=True), max_epochs=2)
    example = batches(128, 136, 4)[0]
    with pytest.raises(RuntimeError, match=said):
        train(wrong, batches(0, 128), callbacks=batch_gradient_verification(example, error=True), max_epochs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_idx": -1}, "sample_idx must be 0 or more, got -1"),
        ({"sample_idx": True}, "sample_idx must be an int, got True"),
        ({"input_mapping": 1}, "input_mapping must be a function, got 1"),
        ({"output_mapping": "x"}, "output_mapping must be a function, got 'x'"),
        ({"forward": 1}, "forward must be a function, got 1"),
        ({"warn": False}, "warn or error must be True, got neither. Leave the callback out."),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"^batch_gradient_verification: {message}"):
        batch_gradient_verification(**arguments)
