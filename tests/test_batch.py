"""Batches: found, measured, refilled, whatever they are nested in."""

from typing import NamedTuple

import pytest
import torch

from fncb.batch import batch_size, count, refill, signature, tensors, to_device


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


X, Y = torch.zeros(4, 2), torch.ones(4)
BATCHES = [X, (X, Y), [X, Y], {"x": X, "meta": {"y": Y, "name": "a"}}, Pair(X, Y), (X, None, 3)]


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: type(batch).__name__)
def test_refilling_with_its_own_tensors_gives_an_equal_batch(batch):
    again = refill(batch, tensors(batch))

    assert type(again) is type(batch)
    assert [id(tensor) for tensor in tensors(again)] == [id(tensor) for tensor in tensors(batch)]
    assert batch_size(batch) == 4


@pytest.mark.parametrize(
    "other",
    [
        (X[:3], Y),  # fewer samples
        (X.double(), Y),
        (torch.zeros(2, 4).T, Y),  # the same shape, other strides
        [X, Y],
        {"x": X, "y": Y},
        (X, Y, None),
    ],
)
def test_what_a_graph_depends_on_changes_the_signature(other):
    if isinstance(other, list):  # a list is handed on as a list, but holds the same tensors
        assert signature(other) == signature((X, Y))
    else:
        assert signature(other) != signature((X, Y))


def test_values_do_not_change_the_signature():
    assert signature((X, "a", 1)) == signature((X + 1, "b", 2))


def test_a_batch_that_is_there_is_not_copied():
    batch = (X, Y)

    assert to_device(batch, torch.device("cpu")) is batch
    assert to_device(batch, torch.device("meta"))[0].device.type == "meta"


def test_a_batch_without_tensors_counts_for_one():
    assert batch_size(("a", 3)) == 1
    assert batch_size(torch.tensor(1.0)) == 1


def test_a_loader_that_does_not_know_its_length_has_none():
    assert count(iter([1])) is None
    assert count([1, 2]) == 2
