"""Batches as a function of (seed, epoch, position)."""

import multiprocessing
import random
from collections import Counter
from functools import partial
from itertools import islice, permutations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

import fncb
from fncb.callbacks import checkpoint
from fncb.data import batches
from fncb.permutation import permuted, round_keys

FORKS = multiprocessing.get_context("forkserver")  # a process without threads, so that forking it is safe
FORKS.set_forkserver_preload(["torch", "fncb.data", "torchdata.stateful_dataloader"])


@pytest.fixture(autouse=True)
def no_worker_is_left():
    """Ends workers that a loader keeps: pytest's own processes may end without telling them, and they would stay."""
    yield
    for child in multiprocessing.active_children():
        child.terminate()
        child.join()


class Augmenting:
    """Samples with noise of all three generators; says which were made."""

    def __init__(self, n):
        self.n, self.made = n, []

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not isinstance(index, int) or not 0 <= index < self.n:
            raise IndexError(index)
        self.made.append(index)
        return torch.tensor([index, torch.rand(()).item(), random.random(), np.random.rand()], dtype=torch.float64)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


def order_of(n, *, seed=0, epoch=0):
    return permuted(torch.arange(n), n, round_keys(seed, epoch)).tolist()


def plain(made):
    return [batch.tolist() for batch in made]


def epochs(loader, n=2):
    return [plain(loader) for _ in range(n)]


def chi_square(counts, n):
    """Of so many possible outcomes, all as frequent; its mean is n - 1, its deviation sqrt(2 * (n - 1))."""
    expected = sum(counts.values()) / n
    return sum((counts[key] - expected) ** 2 / expected for key in counts) + (n - len(counts)) * expected


# The order of an epoch.


def test_an_order_has_each_index_once_whatever_their_number():
    assert all(sorted(order_of(n)) == list(range(n)) for n in range(1, 301))


@pytest.mark.parametrize("n", [4096, 4097, 4160, 4161, 5000, 8192, 20_000, 65_536, 65_537])
def test_so_has_one_that_is_computed_in_blocks(n):
    seen = [i for batch in batches(torch.arange(n), 1000, shuffle=True) for i in batch.tolist()]

    assert sorted(seen) == list(range(n))
    assert seen == order_of(n)


@pytest.mark.parametrize("n", [10**9 + 7, 2**40 + 1, 2**62])
@pytest.mark.parametrize("first", [0, 123_456_789])
def test_a_huge_order_is_never_made_as_a_whole(n, first):
    found = permuted(torch.arange(first, first + 10_000), n, round_keys(0, 0))

    assert 0 <= found.min() < n / 1000
    assert n - n / 1000 < found.max() < n
    assert len(found.unique()) == 10_000


def test_orders_stay_as_they_are_from_version_to_version():
    assert order_of(10) == [7, 9, 6, 1, 8, 4, 3, 2, 5, 0]
    assert order_of(5000, seed=-1, epoch=7)[:6] == [1024, 3516, 2470, 2050, 4151, 3830]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_of_a_few_are_as_frequent(n):
    outcomes = len(list(permutations(range(n))))
    counts = Counter(tuple(order_of(n, epoch=epoch)) for epoch in range(20 * outcomes))

    assert chi_square(counts, outcomes) < outcomes - 1 + 4 * (2 * (outcomes - 1)) ** 0.5


def test_a_position_has_any_index_as_often():
    positions = torch.tensor([0, 1, 70, 2500, 4999])
    found = torch.stack([permuted(positions, 5000, round_keys(3, epoch)) for epoch in range(4000)])

    for column in found.T:
        assert chi_square(Counter((column // 500).tolist()), 10) < 9 + 4 * 18**0.5


@pytest.mark.parametrize("n", [4000, 5000, 10**6])
def test_neighbours_are_far_apart(n):
    found = permuted(torch.arange(4000), n, round_keys(0, 0))
    steps = found.diff()

    counts = Counter((steps.remainder(n) * 10 // n).tolist())
    assert chi_square(counts, 10) < 9 + 4 * 18**0.5
    assert steps.abs().eq(1).sum() < 12  # of n in the order of the dataset would be 4000, by chance 2 at most


@pytest.mark.parametrize("n", [4000, 5000])
def test_epochs_and_seeds_have_orders_of_their_own(n):
    orders = [torch.tensor(order_of(n, seed=seed, epoch=epoch)) for seed, epoch in [(0, 0), (0, 1), (1, 0), (-1, 0)]]

    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert one.eq(other).sum() < 8  # one place in n, by chance
            assert one.add(1).remainder(n).eq(other).sum() < 8


def test_without_shuffling_batches_come_in_the_order_of_the_data():
    assert epochs(batches(torch.arange(5), 2)) == [[[0, 1], [2, 3], [4]]] * 2


# Samples.


def test_a_sample_depends_on_seed_epoch_and_index_only():
    def samples(seed, epoch, batch_size, drop_last=False):
        loader = batches(Augmenting(11), batch_size, shuffle=batch_size > 1, seed=seed, drop_last=drop_last)
        loader.set_epoch(epoch)
        return {int(sample[0]): tuple(sample[1:]) for batch in plain(loader) for sample in batch}

    of_3 = samples(0, 5, 3)

    assert len(of_3) == 11
    assert samples(0, 5, 1) == samples(0, 5, 4) == samples(0, 5, 99) == of_3
    assert samples(0, 5, 4, drop_last=True).items() <= of_3.items()
    drawn = [
        number for each in (of_3, samples(1, 5, 3), samples(0, 6, 3)) for noise in each.values() for number in noise
    ]
    assert len(set(drawn)) == 3 * 3 * 11


def test_the_generators_outside_stay_as_they_are():
    def draw():
        return torch.rand(()).item(), random.random(), np.random.randn(), random.gauss(0, 1)

    def seed():
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        return draw()  # so that numpy and Python hold half a pair of normal numbers

    seed()
    expected = [draw() for _ in range(4)]
    seed()
    seen = [draw() for _ in batches(Augmenting(8), 2, shuffle=True, collate_fn=lambda rows: torch.rand(()))]

    assert seen == expected


def test_the_generators_are_as_before_when_a_sample_fails():
    class Fails(Augmenting):
        def __getitem__(self, index):
            torch.rand(()), random.random(), np.random.rand()
            raise OSError("no such picture")

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    loader = batches(Fails(4), 2)
    with pytest.raises(OSError, match="no such picture"):
        next(iter(loader))

    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert loader.state_dict()["position"] == 0


def test_samples_that_are_not_seeded_draw_as_the_program_does():
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = [Augmenting(2)[0].tolist(), Augmenting(2)[1].tolist()]

    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    assert plain(batches(Augmenting(2), 2, seed_samples=False)) == [expected]


@pytest.mark.parametrize("shuffle", [False, True])
def test_tensors_are_batched_as_torch_does_it(shuffle):
    data = TensorDataset(torch.randn(10, 3), torch.arange(10), torch.randn(10, 2, 2).transpose(1, 2))
    same = batches(data, 4, shuffle=shuffle, collate_fn=torch.utils.data.default_collate)

    for batch, expected in zip(batches(data, 4, shuffle=shuffle), same, strict=True):
        assert type(batch) is type(expected) is list
        assert all(map(torch.equal, batch, expected))
        assert [part.is_contiguous() for part in batch] == [True] * 3
    if not shuffle:
        for batch, expected in zip(batches(data, 4), DataLoader(data, 4), strict=True):
            assert all(map(torch.equal, batch, expected))


def test_what_is_done_to_a_batch_is_not_done_to_the_data():
    data = torch.ones(4)

    for batch in batches(data, 4):
        batch.zero_()

    assert data.tolist() == [1.0] * 4


def test_collating_is_seeded_too():
    mix = partial(batches, Augmenting(6), 2, shuffle=True, collate_fn=lambda rows: torch.rand(2))
    straight = epochs(mix())
    torch.manual_seed(1)

    assert epochs(mix()) == straight
    assert len({number for epoch in straight for batch in epoch for number in batch}) == 12


# Going on.


def test_iterations_are_epochs():
    loader = batches(torch.arange(50), 7, shuffle=True)
    first, second = epochs(loader)
    assert first != second

    other = batches(torch.arange(50), 7, shuffle=True)
    next(iter(other))  # broken off
    assert plain(other) == second
    iter(other)  # counts too
    other.set_epoch(1)
    assert plain(other) == second
    other.set_epoch(0)
    assert plain(other) == first


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n", [6, 7, 8])
def test_a_run_goes_on_at_every_cut(n, drop_last):
    make = partial(batches, Augmenting(n), 3, shuffle=True, seed=4, drop_last=drop_last)
    straight, states, loader = [], [], make()
    for _ in range(2):
        for batch in loader:
            straight.append(batch.tolist())
            states.append(loader.state_dict())
    length = n // 3 if drop_last else -(-n // 3)
    assert len(loader) == length
    assert [(state["epoch"], state["position"]) for state in states] == [
        (epoch, position) for epoch in (0, 1) for position in range(1, length + 1)
    ]

    for done, state in enumerate(states, start=1):
        again = make()
        again.load_state_dict(state)
        assert again.state_dict() == state
        rest = [*plain(again)]
        assert len(rest) == -done % length  # the rest of the epoch: none after its last batch
        while again.state_dict()["epoch"] < 2:
            rest += plain(again)
        assert rest == straight[done:]


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 200),
    batch_size=st.integers(1, 70),
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 10**12),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    data=st.data(),
)
def test_any_run_goes_on_at_any_cut(n, batch_size, seed, epoch, drop_last, shuffle, data):
    make = partial(batches, torch.arange(n), batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last)
    straight = make()
    straight.set_epoch(epoch)
    whole = epochs(straight)
    cut = data.draw(st.integers(0, len(straight)))

    first, second = make(), make()
    first.set_epoch(epoch)
    begun = plain(islice(first, cut)) if cut else []
    second.load_state_dict(first.state_dict())

    assert [begun + plain(second), plain(second)] == whole
    seen = sorted(index for batch in whole[0] for index in batch)
    assert len(seen) == len(set(seen)) == (n // batch_size * batch_size if drop_last else n)


def test_what_is_skipped_is_not_made():
    dataset = Augmenting(10**15)
    loader = batches(dataset, 4, shuffle=True)
    loader.load_state_dict({**loader.state_dict(), "epoch": 3, "position": 10**14})

    next(iter(loader))

    assert len(dataset.made) == 4


def test_after_the_end_of_an_iteration_comes_the_next_epoch():
    loader = batches(torch.arange(4), 2)
    iteration = iter(loader)
    next(iteration), next(iteration)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (0, 2)

    assert next(iteration, None) is None
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)


def test_a_state_says_what_its_position_is_relative_to():
    loader = batches(torch.arange(9), 2, seed=5, drop_last=True)

    names = ("epoch", "position", "length", "batch_size", "shuffle", "seed", "drop_last")
    assert loader.state_dict() == dict(zip(names, (0, 0, 9, 2, False, 5, True), strict=True))


def test_an_epoch_that_is_set_keeps_the_place_that_was_loaded_in_it():
    loader = batches(torch.arange(6), 2)
    middle = {**loader.state_dict(), "epoch": 3, "position": 2}

    loader.load_state_dict(middle)
    loader.set_epoch(3)
    assert plain(loader) == [[4, 5]]
    loader.load_state_dict(middle)
    loader.set_epoch(4)
    assert plain(loader) == [[0, 1], [2, 3], [4, 5]]


def test_in_mid_epoch_other_arguments_are_refused_with_all_their_names():
    state = {**batches(torch.arange(9), 2, shuffle=True).state_dict(), "epoch": 1, "position": 3}
    other = batches(torch.arange(8), 4, seed=1, drop_last=True)

    message = (
        r"got length=8 where it was 9, batch_size=4 where it was 2, shuffle=False where it was True, seed=1 where it "
        r"was 0, drop_last=True where it was False\. Give those, .* here 3 batches of epoch 1 are done"
    )
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(state)
    assert other.state_dict()["epoch"] == 0


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("position", [0, 5])
def test_between_epochs_the_arguments_of_the_new_run_count(position, batch_size):
    state = {**batches(torch.arange(9), 2).state_dict(), "epoch": 1, "position": position}
    other = batches(torch.arange(8), batch_size, seed=1, shuffle=True)

    other.load_state_dict(state)

    length = 8 // batch_size
    assert [len(epoch) for epoch in epochs(other)] == [0 if position else length, length]
    assert other.state_dict()["epoch"] == 3


def test_a_state_of_another_loader_is_refused():
    with pytest.raises(ValueError, match=r"a state must be of `batches`, got one without \['epoch', 'position', "):
        batches(torch.arange(3)).load_state_dict({"_snapshot": {}})


def test_one_iteration_must_be_over_before_the_next():
    loader = batches(torch.arange(4), 2)
    left, _ = iter(loader), iter(loader)

    with pytest.raises(RuntimeError, match=r"got asked for the next batch of one that was left.* make two loaders"):
        next(left)


def test_a_dataset_that_grows_is_refused_when_an_epoch_begins():
    data = [1, 2, 3]
    loader = batches(data, 2)
    assert plain(loader) == [[1, 2], [3]]

    data.append(4)
    with pytest.raises(ValueError, match=r"must keep its length of 3, got 4\. Make a new loader"):
        iter(loader)


def test_without_samples_there_are_no_batches():
    assert epochs(batches([], 2, shuffle=True)) == [[], []]
    assert epochs(batches(torch.arange(3), 4, shuffle=True, drop_last=True)) == [[], []]


# Workers.


@pytest.fixture(scope="module")
def with_workers():
    """Makes a loader with two workers."""
    return partial(batches, num_workers=2, multiprocessing_context=FORKS)


@pytest.mark.parametrize("shuffle", [False, True])
def test_workers_make_the_same_batches(with_workers, shuffle):
    given = partial(batches, Augmenting(11), 2, shuffle=shuffle, seed=6)

    assert epochs(with_workers(*given.args, **given.keywords), 3) == epochs(given(), 3)


def test_workers_make_the_same_batches_of_tensors(with_workers):
    data = TensorDataset(torch.randn(9, 2), torch.arange(9))
    one, other = batches(data, 4, shuffle=True), with_workers(data, 4, shuffle=True)

    for expected, batch in zip(one, other, strict=True):
        assert type(batch) is list
        assert all(map(torch.equal, batch, expected))


def test_workers_that_are_ahead_do_not_count(with_workers):
    loader, straight = with_workers(Augmenting(20), 2, shuffle=True), batches(Augmenting(20), 2, shuffle=True)
    first, second = epochs(straight)
    states = []
    for batch in islice(loader, 4):
        states.append(loader.state_dict())
        assert batch.tolist() == first[len(states) - 1]
    assert [state["position"] for state in states] == [1, 2, 3, 4]

    loader.load_state_dict(states[1])  # with workers still at work on what was left
    assert plain(loader) == first[2:]
    assert plain(loader) == second


def test_workers_stay_and_nothing_is_drawn_for_them(with_workers):
    loader = with_workers(Pids(8), 2)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    pids = [{pid for batch in epoch for pid in batch} for epoch in epochs(loader, 3)]

    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert pids[0] == pids[1] == pids[2]
    assert len(pids[0]) == 2


class Pids(Augmenting):
    def __getitem__(self, index):
        return multiprocessing.current_process().pid


# What is refused.


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (TypeError, {"dataset": Stream()}, r"must have __len__ and __getitem__, got Stream\. .*StatefulDataLoader"),
        (TypeError, {"dataset": iter([1])}, "must have __len__ and __getitem__, got list_iterator"),
        (ValueError, {"batch_size": 0}, r"batches: batch_size must be 1 or more, got 0\."),
        (TypeError, {"batch_size": None}, r"batches: batch_size must be an int, got None\."),
        (TypeError, {"batch_size": True}, "batch_size must be an int, got True"),
        (TypeError, {"seed": 0.5}, "seed must be an int, got 0.5"),
        (ValueError, {"num_workers": -1}, "num_workers must be 0 or more, got -1"),
        (TypeError, {"collate_fn": 3}, "collate_fn must be a function, got 3"),
        (ValueError, {"prefetch_factor": 2}, "prefetch_factor is for workers, got 2 with num_workers=0"),
        (ValueError, {"multiprocessing_context": "spawn"}, "multiprocessing_context is for workers, got 'spawn'"),
        (ValueError, {"num_workers": 1, "prefetch_factor": 0}, "prefetch_factor must be 1 or more, got 0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(kind, given, message):
    with pytest.raises(kind, match=message):
        batches(**{"dataset": [1, 2, 3], **given})


def test_an_epoch_is_a_number_from_0_on():
    with pytest.raises(ValueError, match="epoch must be 0 or more, got -1"):
        batches([1]).set_epoch(-1)


# In a run.


def train(directory, loader, every=1, **given):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 1)).double()
    task = fncb.Task(
        model,
        loss=lambda model, batch: model(batch / 10).square().mean(),
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    )
    callbacks = checkpoint(directory, every_n_train_steps=every, save_top_k=-1)
    given = {"compile": False, "progress": False, "max_epochs": 2, "seed": 1, **given}
    run = fncb.fit(task, loader, callbacks=callbacks, **given)
    return run.step, [parameter.tolist() for parameter in model.parameters()], dict(run.metrics)


class Noiseless(Augmenting):
    """For torchdata, which does not seed samples."""

    def __getitem__(self, index):
        return torch.full((4,), index, dtype=torch.float64)


def loaders(kind, workers):
    several = {"num_workers": 2, "multiprocessing_context": FORKS} if workers else {}
    if kind == "batches":
        return batches(Augmenting(11), 3, shuffle=True, seed=2, **several)
    return StatefulDataLoader(Noiseless(11), 3, shuffle=True, **several)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # which torchdata calls
@pytest.mark.parametrize("workers", [False, True], ids=["no workers", "workers"])
@pytest.mark.parametrize("kind", ["batches", "torchdata"])
@pytest.mark.parametrize("limit", [None, 3], ids=["all", "limit 3"])
def test_a_run_resumed_in_mid_epoch_ends_as_the_straight_one(tmp_path, kind, workers, limit):
    fit = partial(train, limit_train_batches=limit)
    whole = fit(tmp_path / "whole", loaders(kind, workers))
    per_epoch = limit or 4
    assert whole[0] == 2 * per_epoch

    steps = range(1, 2 * per_epoch) if not workers else (1, per_epoch, per_epoch + 1)
    for step in steps:
        path = tmp_path / "whole" / f"epoch={(step - 1) // per_epoch}-step={step}.safetensors"
        again = fit(tmp_path / f"again-{step}", loaders(kind, workers), 99, resume=path, seed=None)
        assert again == whole, step
