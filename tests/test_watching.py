"""What submodules return, noted while a model is trained."""

import pytest
import torch
from torch import nn

from fncb.views import view_of
from fncb.watching import watching


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.recurrent, self.head = nn.LSTM(4, 2, batch_first=True), nn.Linear(2, 1)

    def forward(self, x):
        return self.head(self.recurrent(self.body(x))[0])


def called(*patterns, x=None, model=None):
    model, seen = model or Net(), {}
    handles = watching(model, patterns, seen)
    out = model(torch.ones(5, 6, 3) if x is None else x)
    return model, seen, handles, out


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (("head",), ["head"]),
        (("body",), ["body"]),  # and not what is in it
        (("body.*", "body"), ["body.0", "body.1", "body"]),  # in the order in which they return
        (("*.[01]",), ["body.0", "body.1"]),
        (("*",), ["body.0", "body.1", "body", "recurrent", "head"]),  # the model itself has no name
        ((), []),
    ],
)
def test_which_submodules_match(patterns, names):
    assert [*called(*patterns)[1]] == names


def test_what_is_noted_is_what_was_returned():
    _, seen, _, out = called("head", "body.1")

    assert seen["head"] is out
    assert seen["body.1"].shape == (5, 6, 4)


def test_of_several_tensors_the_first_and_of_several_calls_the_last():
    model, seen, _, _ = called("recurrent", "head")
    assert seen["recurrent"].shape == (5, 6, 2)  # the output, and not the state
    out = model(torch.zeros(2, 6, 3))

    assert seen["head"] is out


def test_a_dictionary_that_is_returned_counts_by_its_first_tensor():
    class Two(nn.Module):
        def forward(self, x):
            return {"logits": x + 1, "hidden": x}

    _, seen, _, out = called("0", model=nn.Sequential(Two()), x=torch.ones(2))

    assert seen["0"] is out["logits"]


def test_what_returns_no_tensor_is_passed_over():
    class Nothing(nn.Module):
        def forward(self, x):
            self.x = x

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.nothing, self.head = Nothing(), nn.Linear(3, 1)

        def forward(self, x):
            self.nothing(x)
            return self.head(x)

    assert [*called("*", model=Both(), x=torch.ones(2, 3))[1]] == ["head"]


def test_only_while_the_model_is_trained():
    """Its own mode counts: a submodule may be in eval mode on its own, as frozen batch normalisation is."""
    model = Net()
    model.head.eval()
    assert [*called("head", model=model)[1]] == ["head"]
    model.eval()
    assert called("head", model=model)[1] == {}


def test_a_view_is_not_watched():
    model, seen, _, _ = called("head")
    seen.clear()
    view_of(model, {})(torch.ones(5, 6, 3))

    assert seen == {}


def test_the_handles_end_it():
    model, seen, handles, _ = called("head", "body.*")
    seen.clear()
    for handle in handles:
        handle.remove()
    model(torch.ones(5, 6, 3))

    assert seen == {}
    assert [module for module in model.modules() if module._forward_hooks] == []


@pytest.mark.parametrize("pattern", ["tail", "Head", "head.*", ""])
def test_a_pattern_that_matches_nothing_is_refused_and_nothing_is_watched(pattern):
    model = Net()
    message = (
        rf"watch: pattern must match a submodule, got '{pattern.replace('*', '.')}'. There are \['body', 'body.0', "
    )
    with pytest.raises(ValueError, match=message):
        watching(model, ("head", pattern), {})

    assert [module for module in model.modules() if module._forward_hooks] == []
