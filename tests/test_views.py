"""A model to look at: over other tensors, and in eval mode."""

import copy

import pytest
import torch
from torch import nn

from fncb.views import eval_mode, view_of


class Net(nn.Module):
    """Two linear layers with one weight, batch normalisation, and things of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.two.weight = self.one.weight
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.settings = {"factor": 2.0}
        self.unregistered = torch.tensor([5.0])

    def forward(self, x):
        return self.two(self.drop(self.norm(self.one(x)))) * self.scale * self.settings["factor"]


def ids(model):
    return {name: id(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def test_what_is_given_takes_the_place_and_the_rest_is_shared():
    model = Net()
    given = {"one.bias": torch.full((3,), 7.0), "norm.running_mean": torch.full((3,), 9.0)}
    view = view_of(model, given)

    assert {name for name, i in ids(view).items() if i != ids(model)[name]} == {*given}
    assert view.one.bias is given["one.bias"]
    assert view.norm.running_mean is given["norm.running_mean"]
    assert view.one.weight is model.one.weight


def test_the_model_is_as_it_was():
    model = Net()
    before, state = ids(model), copy.deepcopy(model.state_dict())
    view = view_of(model, {name: torch.ones_like(p) for name, p in model.named_parameters()})
    view.train()(torch.ones(4, 3))
    view.settings["factor"] = 3.0

    assert ids(model) == before
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, state[name])]
    assert changed == ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]  # which the view shares
    assert model.settings == {"factor": 2.0}


def test_it_computes_with_what_is_given():
    model, x = Net().eval(), torch.randn(4, 3)
    other = {name: torch.randn_like(p) for name, p in model.named_parameters()} | {"scale": torch.tensor(3.0)}
    wanted = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in wanted.named_parameters():
            p.copy_(other[name])
        wanted.scale.fill_(3.0)

    assert torch.equal(view_of(model, other)(x), wanted(x))
    assert torch.equal(view_of(model, {})(x), model(x))


def test_a_tied_weight_stays_tied():
    model = Net()
    weight = torch.eye(3)
    view = view_of(model, {"one.weight": weight})

    assert view.one.weight is weight
    assert view.two.weight is weight
    assert view_of(model, {}).two.weight is model.one.weight


def test_it_has_the_mode_that_the_model_has_and_may_change_it():
    model = Net()
    model.drop.eval()
    view = view_of(model, {})

    assert [m.training for m in view.modules()] == [m.training for m in model.modules()]
    view.eval()
    assert model.training


def test_gradients_go_through_what_is_given():
    model = nn.Linear(2, 1, bias=False)
    weight = torch.ones(1, 2, requires_grad=True)
    view_of(model, {"weight": weight})(torch.tensor([[3.0, 4.0]])).sum().backward()

    assert weight.grad.tolist() == [[3.0, 4.0]]
    assert model.weight.grad is None


def test_what_is_no_parameter_or_buffer_is_copied():
    model = Net()
    view = view_of(model, {})

    assert view.unregistered is not model.unregistered
    assert torch.equal(view.unregistered, model.unregistered)


class Remembering(nn.Module):
    """Keeps what its layer gave, and with it the graph of its gradients, which cannot be copied."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(2, 1)

    def forward(self, x):
        self.hidden = self.inner(x)
        self.more = {"doubled": [self.hidden * 2]}
        return self.hidden


def test_an_activation_that_a_module_keeps_is_no_obstacle():
    model = nn.Sequential(Remembering())
    model(torch.ones(3, 2))
    kept = model[0].hidden

    view = view_of(model, {"0.inner.bias": torch.tensor([7.0])})

    assert model[0].hidden is kept
    assert torch.equal(view[0].hidden, kept)
    assert torch.equal(view[0].more["doubled"][0], model[0].more["doubled"][0])
    assert not view[0].hidden.requires_grad
    assert torch.equal(view(torch.zeros(1, 2)), torch.tensor([[7.0]]))
    assert model[0].hidden is kept


def test_eval_mode_is_for_the_length_of_a_block_and_each_submodule_gets_its_own_back():
    model = Net()
    model.norm.eval()
    with eval_mode(model):
        assert not any(module.training for module in model.modules())

    assert [name for name, module in model.named_modules() if not module.training] == ["norm"]


def test_modes_are_put_back_after_an_exception_too():
    model = Net()
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError

    assert all(module.training for module in model.modules())
