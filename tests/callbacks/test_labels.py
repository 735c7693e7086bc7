from collections import namedtuple

import pytest
import torch

from fncb.callbacks.labels import check_labels, part, probabilities, random_pairs, with_parts

X, Y, Z = torch.zeros(2), torch.ones(2), torch.full((2,), 2.0)
Pair = namedtuple("Pair", ["x", "y"])


@pytest.mark.parametrize(
    ("batch", "place"),
    [((X, Y), 1), ([X, Y], 1), ([X, Y], -1), (Pair(X, Y), 1), ({"image": X, "label": Y}, "label"), ({1: Y}, 1)],
)
def test_a_part_is_found_by_index_or_key(batch, place):
    assert part("who", batch, "labels", place) is Y


@pytest.mark.parametrize(
    ("batch", "place", "there"),
    [
        ((X, Y), 2, "tuple"),
        ((X, Y), "label", "tuple"),
        ((X, [Y]), 1, "tuple"),  # a part, but no tensor
        ({"image": X}, "label", r"one with \['image'\]"),
        ({"image": X, "label": "cat"}, "label", r"one with \['image', 'label'\]"),
        (X, 0, "Tensor"),  # whose first row is no part
    ],
)
def test_a_part_that_is_not_there_is_told(batch, place, there):
    message = f"mixup: a batch must have a tensor of labels at {place!r}, got {there}. Pass `labels=`"
    with pytest.raises(TypeError, match=message):
        part("mixup", batch, "labels", place)


@pytest.mark.parametrize(
    ("batch", "place"), [((X, Y, "name"), 1), ([X, Y], -1), (Pair(X, Y), 1), ({"a": X, "b": Y, "c": [Y]}, "b")]
)
def test_a_batch_keeps_its_structure_and_is_left_as_it_was(batch, place):
    new = with_parts(batch, {place: Z})

    assert type(new) is type(batch)
    assert new[place] is Z
    assert batch[place] is Y
    keys = list(batch) if isinstance(batch, dict) else range(len(batch))
    assert [key for key in keys if new[key] is not batch[key]] == ["b" if isinstance(batch, dict) else 1]


def test_numbers_of_classes_become_probabilities():
    assert probabilities("who", torch.tensor([2, 0]), 3).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert probabilities("who", torch.tensor([True, False]), 2).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert probabilities("who", torch.tensor([1, -100, 3]), 2).tolist() == [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_the_classes_are_the_second_dimension():
    labels = torch.tensor([[[0, 1], [2, 1]]])
    found = probabilities("who", labels, 3)

    assert found.shape == (1, 3, 2, 2)
    assert torch.equal(found, torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float())


def test_what_is_no_number_of_a_class_stays_as_it_is():
    for labels in (torch.tensor([[0.25, 0.75]]), torch.tensor([1.5]), torch.ones(2, 2, dtype=torch.float16)):
        assert probabilities("who", labels, None) is labels
    assert probabilities("who", torch.ones(3, 2), 2).shape == (3, 2)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (torch.tensor([1]), None, "num_classes must be given for labels that are numbers of classes, got None"),
        (torch.ones(3, 2), 4, r"labels must be numbers of 4 classes or their probabilities, got shape \(3, 2\)"),
        (torch.ones(3), 4, r"labels must be numbers of 4 classes .* got shape \(3,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, num_classes, message):
    with pytest.raises(ValueError, match=f"^who: {message}"):
        probabilities("who", labels, num_classes)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be 1 class or more, got 0"),
        ({"num_classes": 2.0}, TypeError, "num_classes must be an int, got 2.0"),
        ({"num_classes": None, "labels": None}, TypeError, "labels must be an index or a key of the batch, got None"),
        ({"num_classes": None, "inputs": True}, TypeError, "inputs must be an index or a key"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=f"^who: {message}"):
        check_labels("who", **arguments)


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 5.0])
def test_the_coefficient_has_a_beta_distribution(alpha):
    """By the Kolmogorov-Smirnov distance of 4000 draws from numpy's, at a level of about 0.001.

    Rounded: what is next to 0 or 1, numpy takes for that and torch does not.
    """
    numpy = pytest.importorskip("numpy")
    torch.manual_seed(0)
    found = numpy.sort([round(random_pairs(torch.zeros(1), alpha, 1.0)[0].item(), 4) for _ in range(4000)])
    wanted = numpy.sort(numpy.random.default_rng(0).beta(alpha, alpha, 100000).round(4))
    places = numpy.unique([*found, *wanted[::100]])
    below = [numpy.searchsorted(each, places, side="right") / len(each) for each in (found, wanted)]

    assert abs(below[0] - below[1]).max() < 1.95 * (1 / 4000 + 1 / 100000) ** 0.5


def test_partners_are_a_permutation_and_each_is_as_probable():
    torch.manual_seed(0)
    drawn = torch.stack([random_pairs(torch.zeros(4, 2), 1.0, 1.0)[1] for _ in range(4000)])

    assert torch.equal(drawn.sort(1).values, torch.arange(4).expand(4000, 4))
    counts = torch.stack([(drawn == i).sum(0) for i in range(4)])  # 1000 each, with a deviation of 27
    assert ((counts - 1000).abs() < 130).all()


@pytest.mark.parametrize(("probability", "mixed"), [(0.0, 0), (1.0, 400), (0.25, 100)])
def test_it_is_1_where_nothing_is_to_be_mixed(probability, mixed):
    torch.manual_seed(0)
    drawn = [random_pairs(torch.zeros(2), 1.0, probability)[0].item() for _ in range(400)]

    assert sum(coefficient < 1 for coefficient in drawn) == pytest.approx(mixed, abs=35 if 0 < probability < 1 else 0)


def test_pairs_are_drawn_from_the_default_generator():
    torch.manual_seed(0)
    one = [random_pairs(torch.zeros(8), 0.5, 0.5) for _ in range(3)]
    torch.manual_seed(0)
    other = [random_pairs(torch.zeros(8), 0.5, 0.5) for _ in range(3)]

    assert all(torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True))
