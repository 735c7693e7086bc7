"""What is tried leaves everything as it was, bit for bit, whatever happens."""

import gc
import os
import random
from functools import partial

import attrs
import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchmetrics import MeanMetric

from fncb.batch_fit import batch_size_finder
from fncb.data import batches
from fncb.loop import fit
from fncb.lr_range import lr_finder
from fncb.settings import seed_everything
from fncb.task import Task

DATA = TensorDataset(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)))
NUMBERS = TensorDataset(torch.arange(8.0))
SMALL = {"num_training_steps": 6, "min_lr": 0.25}


class Noted(nn.Module):
    """Keeps numbers and activations beside its parameters and buffers, and draws from every generator there is."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1))
        self.layers[0].bias.requires_grad_(False)
        self.layers[1].eval()
        self.calls, self.seen, self.last = 0, [], {}

    def forward(self, batch):
        self.calls += 1
        self.seen.append(len(batch[0]))
        self.last = {"output": self.layers(batch[0])}
        return self.last["output"] * random.random() * numpy.random.random()


def loss(model, batch):
    return model(batch).square().mean() + 1


def failing(error, *, at=3):
    """A loss that raises at one of its calls."""
    calls = []

    def raises(model, batch):
        calls.append(None)
        if len(calls) == at:
            raise error
        return loss(model, batch)

    return raises


def task(loss=loss, **given):
    """A task that has been trained a little: gradients, momentum and statistics are there."""
    seed_everything(0)
    model = Noted()
    optimizer = torch.optim.SGD([{"params": [*model.layers[0].parameters()], "lr": 0.5}], lr=0.25, momentum=0.5)
    optimizer.add_param_group({"params": [*model.layers[3].parameters()]})
    for _ in range(2):
        model(DATA[:4]).square().mean().backward()
        optimizer.step()
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    return Task(model, loss=loss, optimizer=given.pop("optimizer", optimizer), schedule=schedule, **given)


def state_of(task, folder):
    """All that has to stay, with copies of what could be changed in place."""
    model, optimizer = task.model, task.optimizer
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    of_optimizer = optimizer.state_dict() if isinstance(optimizer, torch.optim.Optimizer) else None
    return plain(
        {
            "tensors": {name: (id(each), each.data_ptr(), each) for name, each in tensors.items()},
            "grads": {name: (id(each.grad), each.grad) for name, each in model.named_parameters()},
            "needs": {name: each.requires_grad for name, each in model.named_parameters()},
            "modes": [each.training for each in model.modules()],
            "beside": (model.calls, list(model.seen), id(model.last["output"]), model.last["output"]),
            "hooks": [{k: len(v) for k, v in vars(each).items() if "hooks" in k} for each in model.modules()],
            "optimizer": of_optimizer,
            "of_optimizer": [k for k in vars(optimizer) if k != "state"] if of_optimizer else None,
            "generators": (torch.get_rng_state(), random.getstate(), numpy.random.get_state()),
            "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()),
            "python": (gc.isenabled(), gc.get_threshold()),
            "files": sorted(os.listdir(folder)),
        }
    )


def plain(tree):
    if isinstance(tree, torch.Tensor):
        return tuple(tree.shape), str(tree.dtype), tree.detach().numpy().tobytes()
    if isinstance(tree, numpy.ndarray):
        return tree.tobytes()
    if isinstance(tree, dict):
        return {name: plain(each) for name, each in tree.items()}
    return tuple(map(plain, tree)) if isinstance(tree, list | tuple) else tree


FINDERS = {
    "rates": lambda task: lr_finder(task, batches(DATA, 4, shuffle=True), **SMALL),
    "seeded": lambda task: lr_finder(task, partial(DataLoader, DATA, batch_size=4), seed=7, **SMALL),
    "double": lambda task: lr_finder(task, partial(DataLoader, DATA, batch_size=4), precision=64, **SMALL),
    "sizes": lambda task: batch_size_finder(task, DATA, mode="binsearch", max_trials=3),
}
ERRORS = [
    *(None, ArithmeticError("no"), torch.OutOfMemoryError("no"), RuntimeError("can't allocate memory")),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("find", FINDERS.values(), ids=FINDERS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("at", [1, 5])
def test_everything_is_as_it_was(find, error, at, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tried = task(loss if error is None else failing(error, at=at))
    before = state_of(tried, tmp_path)

    try:
        find(tried)
    except BaseException as raised:
        assert raised is error or raised.__cause__ is error  # noqa: PT017 - not always there
    assert state_of(tried, tmp_path) == before


def test_what_is_tried_does_train():
    seen = []

    def noting(model, batch):
        seen.append((model, model.calls, {name: p.detach().clone() for name, p in model.named_parameters()}))
        return loss(model, batch)

    tried = task(noting)
    lr_finder(tried, batches(DATA, 4), **SMALL)

    assert [calls for _, calls, _ in seen] == [2, 3, 4, 5, 6, 7]
    assert not any(model is tried.model for model, _, _ in seen)
    first, last = seen[0][2], seen[-1][2]
    stayed = [name for name in first if torch.equal(first[name], last[name])]
    assert stayed == ["layers.0.bias", "layers.1.weight", "layers.1.bias"]  # frozen, or in no group


@pytest.mark.parametrize("find", FINDERS.values(), ids=FINDERS)
def test_a_fit_afterwards_is_the_fit_that_it_would_have_been(find):
    def fitted(first):
        trained = task()
        first(trained)
        run = fit(trained, DataLoader(DATA, 4, shuffle=True), max_epochs=2, compile=False, progress=False)
        return plain([run.metrics, dict(trained.model.state_dict()), trained.optimizer.state_dict()["state"]])

    assert fitted(find) == fitted(lambda task: None)


def test_an_optimizer_that_goes_by_the_model_is_copied_with_it():
    made = task()
    groups = [{"params": made.model.layers[0].parameters()}, {"params": made.model.layers[3].parameters(), "lr": 0.5}]
    tried = attrs.evolve(made, optimizer=lambda _: torch.optim.Adagrad(groups, lr=0.25))

    assert len(lr_finder(tried, batches(DATA, 4), **SMALL).losses) == 6


def test_the_state_of_an_optimizer_comes_to_where_the_copy_is():
    model = nn.ParameterList([torch.zeros(())])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    model[0].backward()
    optimizer.step()
    tried = Task(model, loss=lambda model, batch: model[0] * (1 + 2.0**-40), optimizer=optimizer)

    # in double precision, which a velocity in single precision would not have
    found = lr_finder(tried, [torch.zeros(1)], min_lr=0.5, num_training_steps=2, precision=64)
    assert found.losses[1] == (-1 - 0.5 * (0.5 + 1 + 2.0**-40)) * (1 + 2.0**-40)
    assert optimizer.state[model[0]]["momentum_buffer"].dtype == torch.float32


@pytest.mark.parametrize("find", [FINDERS["rates"], FINDERS["sizes"]], ids=["rates", "sizes"])
def test_a_loss_must_go_by_the_model_that_it_is_given(find):
    tried = task(lambda model, batch: loss(tried.model, batch))

    with pytest.raises(
        ValueError, match="_finder: a loss must call the model that it is given, got a call of the task"
    ):
        find(tried)
    assert not tried.model._forward_pre_hooks


def test_a_model_that_cannot_be_copied_is_told():
    tried = task()
    tried.model.open = (_ for _ in ())

    with pytest.raises(TypeError) as raised:
        lr_finder(tried, batches(DATA, 4))
    assert raised.value.__notes__ == [
        "lr_finder: a copy is trained, so copy.deepcopy((model, optimizer)) must be possible."
    ]


def test_metrics_that_a_loss_returns_are_left_alone():
    given, own = MeanMetric(), MeanMetric()
    given.update(2.0)

    def measured(model, batch):
        own.update(1.0)
        value = loss(model, batch)
        return value, {"given": (given, value), "own": own, "plain": value}

    tried = task(measured)
    lr_finder(tried, batches(DATA, 4), **SMALL)
    batch_size_finder(tried, DATA)

    assert (given.update_count, given.compute().item()) == (1, 2.0)
    assert own.update_count == 0


# The loaders: what comes next, and after that.


def order(loader, n=2):
    return [[batch[0].tolist() for batch in loader] for _ in range(n)]


def shuffled(**given):
    return DataLoader(NUMBERS, 2, shuffle=True, **given)


def with_generator():
    return shuffled(generator=torch.Generator().manual_seed(3))


def with_sampler_of_its_own():
    return DataLoader(NUMBERS, 2, sampler=RandomSampler(NUMBERS, generator=torch.Generator().manual_seed(3)))


def ours():
    return batches(NUMBERS, 2, shuffle=True)


def stateful(**given):
    return StatefulDataLoader(NUMBERS, 2, shuffle=True, **given)


def stateful_with_generator():
    return stateful(generator=torch.Generator().manual_seed(3))


class Moving(IterableDataset):
    """Samples that know where they are."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < 8:
            self.at += 1
            yield (torch.tensor(self.at - 1.0),)
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def over_what_moves():
    return DataLoader(Moving(), 2)


def stateful_over_what_moves():
    return StatefulDataLoader(Moving(), 2)


class Standing:
    """A loader of one's own that knows where it is, and gives its state itself and no copy."""

    def __init__(self):
        self.place = {"at": 0}

    def __iter__(self):
        while self.place["at"] < 8:
            self.place["at"] += 2
            yield [torch.arange(self.place["at"] - 2.0, self.place["at"])]
        self.place["at"] = 0

    def state_dict(self):
        return self.place

    def load_state_dict(self, state):
        self.place = dict(state)


def left(loader):
    """Left in the middle of an epoch."""
    next(iter(loader))
    return loader


def gone_on_with(loader):
    """To be gone on with in the middle of an epoch."""
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    loader.load_state_dict(state)
    return loader


PLAIN = [shuffled, with_generator, with_sampler_of_its_own, over_what_moves]
WITH_STATE = [ours, stateful, stateful_with_generator, stateful_over_what_moves, Standing]
CASES = [(make, state) for make in (*PLAIN, *WITH_STATE) for state in (lambda loader: loader, left)]
CASES += [(make, gone_on_with) for make in WITH_STATE]

torchdata_warns = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # which torchdata calls


@torchdata_warns
@pytest.mark.parametrize(("make", "state"), CASES)
def test_a_loader_gives_what_it_would_have_given(make, state):
    tried = Task(nn.Linear(2, 1), loss=lambda model, batch: model(batch[0]).mean(), optimizer=torch.optim.SGD)

    def given(find):
        torch.manual_seed(0)
        loader = state(make())
        find(loader)
        torch.manual_seed(1)
        return order(loader)

    expected = given(lambda loader: None)
    assert given(lambda loader: lr_finder(tried, loader, num_training_steps=7)) == expected
    assert given(lambda loader: batch_size_finder(tried, lambda size: loader, max_trials=2)) == expected


@torchdata_warns
@pytest.mark.parametrize("make", [shuffled, stateful, partial(batches, NUMBERS, 2, shuffle=True)])
def test_workers_of_a_loader_stay_out_of_it(make):
    tried = Task(nn.Linear(2, 1), loss=lambda model, batch: model(batch[0]).mean(), optimizer=torch.optim.SGD)
    kept = {"persistent_workers": True} if make in (shuffled, stateful) else {}

    def given(find):
        torch.manual_seed(0)
        loader = make(num_workers=1, **kept)
        find(loader)
        torch.manual_seed(1)
        return order(loader)

    assert given(lambda loader: lr_finder(tried, loader, num_training_steps=5)) == given(lambda loader: None)


def test_workers_that_are_at_it_go_on():
    tried = Task(nn.Linear(2, 1), loss=lambda model, batch: model(batch[0]).mean(), optimizer=torch.optim.SGD)
    loader = DataLoader(NUMBERS, 2, num_workers=1, persistent_workers=True)
    under_way = iter(loader)
    next(under_way)
    lr_finder(tried, loader, num_training_steps=7)

    assert [batch[0].tolist() for batch in under_way] == [[2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    assert iter(loader) is under_way  # the same workers


class Drawn(Dataset):
    """Samples that are drawn."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.rand(3) * random.random() * numpy.random.random()


def test_samples_that_are_drawn_leave_no_trace(tmp_path):
    tried = task(lambda model, batch: loss(model, [batch]))
    before = state_of(tried, tmp_path)

    lr_finder(tried, DataLoader(Drawn(), 2), **SMALL)
    batch_size_finder(tried, lambda size: DataLoader(Drawn(), size))

    assert state_of(tried, tmp_path) == before
