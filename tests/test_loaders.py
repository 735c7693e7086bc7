"""Loaders: one or several, limited, in order, made anew when it is time."""

import logging

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from fncb.loaders import Loader, Loaders

NUMBERS = torch.arange(8.0)
DATA = TensorDataset(NUMBERS)
ONE, TWO = DataLoader(DATA, batch_size=4), DataLoader(DATA, batch_size=2)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(NUMBERS)


class Unsized:
    """Iterable as often as wanted, without a length."""

    def __iter__(self):
        return iter(range(5))


def maker(*made):
    """A function that makes these in turn, and the list of the calls to it."""
    calls, each = [], iter(made)

    def make():
        calls.append(len(calls))
        return next(each)

    return make, calls


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (ONE, [None]),
        ({"a": ONE, "b": [1, 2]}, ["a", "b"]),
        ([ONE, TWO], ["dataloader_idx_0", "dataloader_idx_1"]),
        ((ONE, TWO), ["dataloader_idx_0", "dataloader_idx_1"]),
        ([ONE], ["dataloader_idx_0"]),  # a list of loaders, if only of one
        ([ONE, iter([1])], ["dataloader_idx_0", "dataloader_idx_1"]),  # any iterable is a loader
        ([torch.zeros(2), torch.zeros(2)], [None]),  # from here on batches: a tensor is iterable too
        ([(torch.zeros(2), torch.zeros(2))], [None]),
        ([[torch.zeros(2)], [torch.zeros(2)]], [None]),
        ([{"x": torch.zeros(2)}], [None]),
        (["ab", "cd"], [None]),
        ([ONE, torch.zeros(2)], [None]),
        ([1, 2], [None]),
        (range(3), [None]),
        ([], [None]),
        (lambda: {"a": ONE}, ["a"]),
        (lambda: [ONE, TWO], ["dataloader_idx_0", "dataloader_idx_1"]),
    ],
)
def test_one_loader_is_told_from_several(given, names):
    assert [loader.name for loader in Loaders("fit: val", given).at(0)] == names


def test_each_of_several_gives_its_own_batches():
    loaders = Loaders("fit: val", {"a": [1, 2], "b": [3]}).at(0)

    assert [list(loader) for loader in loaders] == [[1, 2], [3]]


def test_a_mapping_without_loaders_is_refused():
    with pytest.raises(ValueError, match="a mapping must name at least one loader, got none"):
        Loaders("fit: val", {})


@pytest.mark.parametrize(
    ("limit", "taken"),
    [
        (1.0, [0, 1, 2, 3, 4]),
        (1, [0]),  # as an int, one batch
        (0, []),
        (0.0, []),
        (3, [0, 1, 2]),
        (5, [0, 1, 2, 3, 4]),
        (9, [0, 1, 2, 3, 4]),  # more than there are
        (0.5, [0, 1]),  # int(2.5)
        (0.2, [0]),
        (0.99, [0, 1, 2, 3]),
    ],
)
def test_a_limit_is_a_number_of_batches_or_a_fraction_rounded_down(limit, taken):
    loader = Loader("fit: train", None, [0, 1, 2, 3, 4], limit)

    assert list(loader) == taken
    assert list(loader) == taken  # begun anew
    assert (loader.count, loader.length) == (len(taken), 5)


def test_a_limit_counts_for_each_of_several_loaders():
    loaders = Loaders("fit: val", {"a": [0, 1, 2, 3], "b": [4, 5]}, 0.5).at(0)

    assert [list(loader) for loader in loaders] == [[0, 1], [4]]


@pytest.mark.parametrize(
    ("limit", "taken", "count"), [(1.0, [0, 1, 2, 3, 4], None), (3, [0, 1, 2], 3), (9, [0, 1, 2, 3, 4], 9)]
)
def test_without_a_length_a_number_limits_all_the_same(limit, taken, count):
    loader = Loader("fit: train", None, Unsized(), limit)

    assert list(loader) == taken
    assert (loader.count, loader.length) == (count, None)


@pytest.mark.parametrize(
    ("batches", "limit", "message"),
    [
        ([0, 1, 2], 0.3, r"fit: val: a limit must leave at least one batch, got 0.3 of 3. Raise it, or pass 0"),
        (Unsized(), 0.5, "fit: val: a limit must be an int where the loader has no length, got 0.5"),
    ],
)
def test_a_fraction_that_cannot_be_taken_is_refused_at_once(batches, limit, message):
    with pytest.raises(ValueError, match=message):
        Loaders("fit: val", batches, limit)


def test_of_batches_that_went_through_already_only_the_rest_is_taken():
    loader = Loader("fit: train", None, range(5), 3)

    assert list(loader.first(iter([1, 2, 3, 4]), taken=1)) == [1, 2]
    assert list(Loader("fit: train", None, range(5)).first(iter([1, 2, 3, 4]), taken=1)) == [1, 2, 3, 4]


@pytest.mark.parametrize(("limit", "wanted"), [(1.0, True), (1, True), (0.5, True), (0, False), (0.0, False)])
def test_a_limit_of_zero_leaves_the_stage_out(limit, wanted):
    assert Loaders("fit: val", [1, 2], limit).wanted is wanted


def test_no_loader_at_all_leaves_the_stage_out():
    assert not Loaders("fit: val", None).wanted


def test_shuffling_is_taken_out_and_one_log_line_says_so(caplog):
    shuffled = DataLoader(DATA, batch_size=3, shuffle=True, drop_last=True, collate_fn=lambda rows: len(rows))

    with caplog.at_level(logging.WARNING, "fncb"):
        loaders = Loaders("fit: train", shuffled, in_order=True)
    [loader] = loaders.at(0)

    assert caplog.messages == ["fncb: overfit_batches takes the batches in order: RandomSampler is left out"]
    assert isinstance(loader.batches.sampler, SequentialSampler)
    assert (loader.batches.dataset, loader.batches.collate_fn) == (DATA, shuffled.collate_fn)
    assert list(loader) == [3, 3]  # its batch size, without the last two


def test_in_order_gives_the_data_from_the_beginning_every_time():
    [loader] = Loaders("fit: train", DataLoader(DATA, batch_size=4, shuffle=True), 1, in_order=True).at(0)

    assert [[batch.tolist() for (batch,) in loader] for _ in range(3)] == [[[0.0, 1.0, 2.0, 3.0]]] * 3


def test_in_order_takes_any_sampler_out_and_keeps_a_loader_without_batches_so():
    subset = DataLoader(DATA, batch_size=None, sampler=SubsetRandomSampler([5, 6]))

    [loader] = Loaders("fit: train", subset, in_order=True).at(0)

    assert [value.item() for (value,) in loader] == NUMBERS.tolist()


def test_in_order_counts_for_each_of_several_and_for_what_a_function_makes():
    shuffled = DataLoader(DATA, batch_size=4, shuffle=True)

    several = Loaders("fit: val", {"a": shuffled, "b": shuffled}, in_order=True).at(0)
    made = Loaders("fit: val", lambda: shuffled, in_order=True).at(0)

    assert all(isinstance(loader.batches.sampler, SequentialSampler) for loader in [*several, *made])


@pytest.mark.parametrize(
    "given",
    [
        ONE,  # in order already
        DataLoader(DATA, batch_sampler=[[7, 0], [3]]),
        DataLoader(DATA, batch_sampler=type("Own", (BatchSampler,), {})(SubsetRandomSampler([5, 6]), 2, False)),
        DataLoader(Stream(), batch_size=4),
        [torch.zeros(2)],
        Unsized(),
    ],
    ids=["sequential", "list of indices", "own batch sampler", "stream", "list", "iterable"],
)
def test_in_order_leaves_what_it_cannot_or_need_not_change(given, caplog):
    with caplog.at_level(logging.WARNING, "fncb"):
        [loader] = Loaders("fit: train", given, in_order=True).at(0)

    assert loader.batches is given
    assert caplog.messages == []


def test_shuffling_stays_unless_order_is_asked_for():
    shuffled = DataLoader(DATA, shuffle=True)

    assert Loaders("fit: train", shuffled).at(0)[0].batches is shuffled


def test_generators_are_found_wherever_a_loader_draws_from_them():
    of_loader, of_sampler, of_batches, of_both = (torch.Generator() for _ in range(4))
    of_first = DataLoader(DATA, shuffle=True, generator=of_loader)
    of_second = DataLoader(DATA, sampler=RandomSampler(DATA, generator=of_sampler))
    of_third = DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA, generator=of_batches), 2, False))
    of_fourth = DataLoader(DATA, sampler=RandomSampler(DATA, generator=of_both), generator=of_both)
    plain = DataLoader(DATA, shuffle=True)

    loaders = Loaders("fit: val", [of_first, of_second, of_third, of_fourth, plain, iter([1])])

    assert [id(each) for each in loaders.generators()] == [*map(id, (of_loader, of_sampler, of_both, of_batches))]
    assert Loaders("fit: val", lambda: of_first).generators() == []


def test_a_function_is_called_when_loaders_are_needed_and_then_never_again():
    make, calls = maker([1], [2])
    loaders = Loaders("fit: train", make)

    assert calls == []
    assert [list(loaders.at(epoch)[0]) for epoch in (None, 0, 1, 7)] == [[1], [1], [1], [1]]
    assert calls == [0]


@pytest.mark.parametrize(
    ("every", "epochs", "calls_after"),
    [
        (1, (0, 1, 2), [1, 2, 3]),
        (2, (0, 1, 2, 3, 4), [1, 1, 2, 2, 3]),
        (2, (1, 3, 5), [1, 2, 3]),  # validated in every second epoch
        (2, (0, 0, 1, 1, 2, 2), [1, 1, 1, 1, 2, 2]),  # several validations in an epoch
        (3, (4, 6, 7), [1, 1, 2]),  # counted from the first time
        (2, (None, 0, 1, 2), [1, 2, 2, 3]),  # what the sanity check made does not count
    ],
)
def test_a_function_is_called_again_so_many_epochs_after_it_was(every, epochs, calls_after):
    make, calls = maker(*[[i] for i in range(9)])
    loaders, seen = Loaders("fit: train", make, every=every), []

    for epoch in epochs:
        assert list(loaders.at(epoch)[0]) == [len(calls) - 1]  # the batches of the last call
        seen.append(len(calls))

    assert seen == calls_after


def test_a_run_that_goes_on_makes_loaders_when_the_first_would_have():
    first = Loaders("fit: train", lambda: [1], every=3)
    first.at(1)
    make, calls = maker([1], [2])
    second = Loaders("fit: train", make, every=3)

    second.load_state_dict(first.state_dict())

    assert first.state_dict() == {"made_at": 1}
    assert [list(second.at(epoch)[0]) for epoch in (2, 3, 4)] == [[1], [1], [2]]
    assert calls == [0, 1]


def test_loaders_are_made_anew_only_by_a_function():
    with pytest.raises(ValueError, match=r"fit: train must be a function .* got a list\. Pass `lambda: loader`"):
        Loaders("fit: train", [1], every=1)


def test_an_iterable_that_can_be_called_is_no_function():
    class Both:
        def __iter__(self):
            return iter([1])

        def __call__(self):
            raise AssertionError

    assert list(Loaders("fit: train", Both()).at(0)[0]) == [1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"fit: train must give at least one batch, got none\.$"),
        (lambda: (), r"fit: train must give at least one batch, got none\.$"),
        (3, "fit: train must be an iterable of batches, got 3"),
    ],
)
def test_a_loader_without_batches_is_refused_when_it_is_begun(given, message):
    [loader] = Loaders("fit: train", given).at(0)

    with pytest.raises((TypeError, ValueError), match=message):
        list(loader)


def test_a_used_up_generator_is_refused_with_a_hint():
    [loader] = Loaders("fit: train", iter([1, 2])).at(0)

    assert list(loader) == [1, 2]
    with pytest.raises(ValueError, match=r"got none\. A generator gives its batches once: pass a list or a loader"):
        list(loader)
