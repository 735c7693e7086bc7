"""Batches: found, measured, refilled, whatever they are nested in."""

from typing import NamedTuple

import pytest
import torch

from fncb import data


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


X, Y = torch.zeros(4, 2), torch.ones(4)
BATCHES = [X, (X, Y), [X, Y], {"x": X, "meta": {"y": Y, "name": "a"}}, Pair(X, Y), (X, None, 3)]


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: type(batch).__name__)
def test_refilling_with_its_own_tensors_gives_an_equal_batch(batch):
    again = data.refill(batch, data.tensors(batch))

    assert type(again) is type(batch)
    assert [id(tensor) for tensor in data.tensors(again)] == [id(tensor) for tensor in data.tensors(batch)]
    assert data.batch_size(batch) == 4


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
        assert data.signature(other) == data.signature((X, Y))
    else:
        assert data.signature(other) != data.signature((X, Y))


def test_values_do_not_change_the_signature():
    assert data.signature((X, "a", 1)) == data.signature((X + 1, "b", 2))


def test_a_batch_that_is_there_is_not_copied():
    batch = (X, Y)

    assert data.to_device(batch, torch.device("cpu")) is batch
    assert data.to_device(batch, torch.device("meta"))[0].device.type == "meta"


def test_a_batch_without_tensors_counts_for_one():
    assert data.batch_size(("a", 3)) == 1
    assert data.batch_size(torch.tensor(1.0)) == 1


def test_a_loader_that_does_not_know_its_length_has_none():
    assert data.count(iter([1])) is None
    assert data.count([1, 2]) == 2
