from math import nan

import pytest
import torch
from torch.nn import functional as F

from fncb.callback import EmptyState
from fncb.callbacks.cutmix import cutmix
from fncb.events import TrainBatchStart


def mixed(callback, batch, seed=0):
    torch.manual_seed(seed)
    out = callback.step.on_train_batch_start(EmptyState(), TrainBatchStart(batch=batch))
    assert (out.state, set(out.replaced)) == (EmptyState(), {"batch", "metrics"})
    return out.replaced["batch"], out.replaced["metrics"]["cutmix_lambda"].item()


def numbered(n=4, channels=2, height=6, width=9):
    """Images each of whose pixels is its image's number."""
    return torch.arange(float(n)).reshape(-1, 1, 1, 1).expand(n, channels, height, width).clone()


@pytest.mark.parametrize("seed", range(20))
def test_a_box_of_the_partner_is_pasted_and_labels_have_the_fractions_of_pixels(seed):
    n = 4
    images = numbered(n)
    (x, y), weight = mixed(cutmix(num_classes=n), (images, torch.arange(n)), seed)

    for i in range(n):
        foreign = x[i] != i
        assert torch.equal(foreign[0], foreign[1])  # in all channels alike
        rows, columns = foreign[0].any(1).nonzero().flatten().tolist(), foreign[0].any(0).nonzero().flatten().tolist()
        assert foreign[0].sum() == len(rows) * len(columns)  # it is a box, without holes,
        assert rows == [*range(rows[0], rows[-1] + 1)] if rows else not columns  # in one piece
        assert columns == [*range(columns[0], columns[-1] + 1)] if columns else not rows
        assert len(x[i][:, foreign[0]].unique()) <= 1  # of one partner
        found = torch.tensor([(x[i, 0] == k).float().mean() for k in range(n)])
        torch.testing.assert_close(y[i], found)
    own = [i for i in range(n) if (x[i] != i).any()]
    assert all((x[i] == i).float().mean().item() == pytest.approx(weight) for i in own)
    assert torch.equal(images, numbered(n))  # what it was given is left as it was


def test_the_partners_are_a_permutation():
    n = 6
    (x, _), weight = mixed(cutmix(num_classes=n), (numbered(n), torch.arange(n)), 3)
    assert weight < 1
    row, column = divmod(int((x[:, 0] != torch.arange(n).reshape(-1, 1, 1)).any(0).flatten().nonzero()[0]), 9)

    assert sorted(x[:, 0, row, column].tolist()) == [*range(n)]


def test_the_box_has_the_size_of_the_paper_and_its_centre_is_uniform():
    """Eq. 2 of the paper: sides are sqrt(1 - coefficient) of the image's, and it is cut off at the border.

    With a great alpha the coefficient is 1/2. A side of s = sqrt(1/2), its centre uniform, covers on average
    s - s * s / 4 = 0.582 of the image's, and so the box 0.339 of its area.
    """
    images = torch.stack([torch.zeros(1, 64, 64), torch.ones(1, 64, 64)])
    weights = [mixed(cutmix(1e6), (images, torch.eye(2)), seed)[1] for seed in range(400)]

    assert max(weights) < 1
    assert 1 - min(weights) == pytest.approx(0.5, abs=0.02)  # a box that is all inside
    assert 1 - max(weights) == pytest.approx(0.5 / 4, abs=0.02)  # one whose centre is in a corner
    assert 1 - sum(weights) / 400 == pytest.approx((0.5**0.5 - 0.5 / 4) ** 2, abs=0.02)


def test_where_no_box_is_cut_all_stays():
    (x, y), weight = mixed(cutmix(num_classes=4, probability=0.0), (numbered(), torch.arange(4)))

    assert weight == 1.0
    assert torch.equal(x, numbered())
    assert torch.equal(y, torch.eye(4))


def test_the_last_two_dimensions_are_height_and_width():
    (x, _), weight = mixed(cutmix(), (torch.rand(3, 5, 7), torch.eye(3)), 1)
    assert (x.shape, 0 < weight < 1) == ((3, 5, 7), True)
    (x, _), weight = mixed(cutmix(), (torch.rand(3, 2, 4, 5, 7), torch.eye(3)), 1)
    assert x.shape == (3, 2, 4, 5, 7)


def test_inputs_of_any_dtype_stay_what_they_are():
    for dtype in (torch.uint8, torch.float16, torch.float64):
        (x, y), _ = mixed(cutmix(num_classes=4), (numbered().to(dtype), torch.arange(4)))
        assert (x.dtype, y.dtype) == (dtype, torch.float32)


def test_labels_that_are_probabilities_are_mixed_as_they_are():
    soft = torch.full((4, 5), 0.2)
    (_, y), _ = mixed(cutmix(), (numbered(), soft))

    torch.testing.assert_close(y, soft)


def test_where_the_batch_has_them_may_be_said():
    batch = {"label": torch.arange(4), "image": numbered(), "id": "first"}
    new, _ = mixed(cutmix(num_classes=4, inputs="image", labels="label"), batch)

    assert ([*new], new["id"]) == ([*batch], "first")
    torch.testing.assert_close(new["image"].mean((1, 2, 3)), new["label"] @ torch.arange(4.0))


def test_the_loss_is_that_of_both_labels_by_area():
    logits, y = torch.randn(4, 4), torch.arange(4)
    (x, soft), weight = mixed(cutmix(num_classes=4), (numbered(), y), 5)
    partner = [next((k for k in x[i].unique().tolist() if k != i), i) for i in range(4)]
    wanted = weight * F.cross_entropy(logits, y) + (1 - weight) * F.cross_entropy(logits, torch.tensor(partner).long())

    assert F.cross_entropy(logits, soft).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ((torch.zeros(2, 3), torch.eye(2)), TypeError, r"inputs must have a height and a width, got shape \(2, 3\)"),
        ((torch.zeros(2, 3, 3),), TypeError, "a batch must have a tensor of labels at 1"),
        ((torch.zeros(2, 3, 3), torch.zeros(2).long()), ValueError, "num_classes must be given"),
    ],
)
def test_a_batch_that_cannot_be_mixed_is_refused(batch, error, message):
    with pytest.raises(error, match=f"^cutmix: {message}"):
        mixed(cutmix(), batch)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"alpha": 0.001}, ValueError, r"alpha must be a number in \[0.01, inf\), got 0.001"),
        ({"probability": nan}, ValueError, "probability must be a number"),
        ({"num_classes": "10"}, TypeError, "num_classes must be an int"),
        ({"inputs": 0.0}, TypeError, "inputs must be an index or a key"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^cutmix: {message}"):
        cutmix(**arguments)


def test_it_remembers_nothing():
    assert cutmix().step.init({}) == EmptyState()
    assert cutmix().config["alpha"] == 1.0
