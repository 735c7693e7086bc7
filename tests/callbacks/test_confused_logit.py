import pytest
import torch
from torch import nn

from fncb.callbacks.confused_logit import confused_logit
from fncb.effects import Examine
from fncb.events import TrainBatchEnd
from tests.callbacks.digits import batches, classifier_task, keeps, train
from tests.folding import fold


def shown(confused, model, *batch):
    """What it shows of a batch, as `Examine` has it: in eval mode, without gradients."""
    ends = [TrainBatchEnd(batch_idx=i) for i in range(20)]
    effect = fold(confused, ends).effects[0]
    with torch.no_grad():
        return effect.fn(model.eval(), TrainBatchEnd(batch=batch), {})


def panels(image, size):
    """The five panels of an image without the padding of two pixels, which is white."""
    height, width = size
    assert image.shape[1:] == (height + 4, 5 * (width + 2) + 2)
    assert (image[:, :2] == 1).all()
    assert (image[:, :, :2] == 1).all()
    return [image[:, 2 : 2 + height, 2 + i * (width + 2) : 2 + i * (width + 2) + width] for i in range(5)]


def linear(weight, channels, size):
    """A model whose logits are linear in the image: the gradient of each is its row of `weight`."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], len(weight), bias=False))
    with torch.no_grad():
        model[1].weight.copy_(weight.flatten(1))
    return model


@pytest.mark.parametrize(("every", "batch_idxs"), [(20, [19, 39]), (1, list(range(40))), (15, [14, 29])])
def test_it_looks_at_every_nth_batch(every, batch_idxs):
    confused = confused_logit(1, logging_batch_interval=every)
    looked = [i for i in range(40) if fold(confused, [TrainBatchEnd(batch_idx=i)]).effects]

    assert looked == batch_idxs


def test_it_shows_a_sample_and_the_gradients_of_its_own_two_best_logits():
    # logits 8 x_0, 8 x_1, -4 x_0: the gradients are (8, 0), (0, 8) and (-4, 0)
    model = linear(torch.tensor([[8.0, 0.0], [0.0, 8.0], [-4.0, 0.0]]), 1, (1, 2))
    images = torch.tensor([[1.0078125, 1.0], [2.0, 0.0]])[:, None, None, :]
    found = shown(confused_logit(5), model, images)

    assert [each.name for each in found] == ["confused_logit/0"]
    x, first, second, toward_first, toward_second = panels(found[0].image, (1, 2))
    assert x.tolist() == [[[1, 0]]]
    assert first.tolist() == [[[1, 0.5]]]  # 0 is grey, the steepest of both is white
    assert second.tolist() == [[[0.5, 1]]]
    assert toward_first.tolist() == [[[1, 0]]]  # x + 2 (8, 0) is about (17, 1)
    assert toward_second.tolist() == [[[0, 1]]]


def test_the_last_panels_are_the_sample_moved_by_twice_each_gradient():
    model = linear(torch.tensor([[2.0, 0.0, 4.0], [0.0, 2.0, 4.0]]), 1, (1, 3))
    confused = confused_logit(1, max_logit_difference=9)
    *_, first, second = panels(shown(confused, model, torch.tensor([[[[2.0, 1.0, 4.0]]]]))[0].image, (1, 3))

    # (2, 1, 4) + 2 (2, 0, 4) = (6, 1, 12), and (2, 1, 4) + 2 (0, 2, 4) = (2, 5, 12)
    assert first.flatten().tolist() == pytest.approx([5 / 11, 0, 1])
    assert second.flatten().tolist() == pytest.approx([0, 3 / 10, 1])


def test_gradients_are_drawn_to_one_scale_and_fall_below_grey_where_negative():
    model = linear(torch.tensor([[8.0, 2.0], [10.0, -4.0]]), 1, (1, 2))
    image = shown(confused_logit(1, max_logit_difference=3), model, torch.tensor([[[[2.0, 1.0]]]]))[0].image
    _, first, second, toward_first, toward_second = panels(image, (1, 2))  # logits 18 and 16

    assert first.flatten().tolist() == pytest.approx([0.9, 0.6])
    assert second.flatten().tolist() == pytest.approx([1.0, 0.3])
    assert toward_first.flatten().tolist() == [1, 0]  # (18, 5)
    assert toward_second.flatten().tolist() == [1, 0]  # (22, -7)


def test_rows_with_other_classes_do_not_mix():
    torch.manual_seed(0)
    weight = torch.randn(4, 1, 3, 3)
    images = torch.zeros(2, 1, 3, 3)
    model = nn.Sequential(linear(weight, 1, (3, 3)), nn.Identity())
    offsets = torch.tensor([[9.05, 9, 0, 0], [0, 0, 9.05, 9]])  # the first is torn between 0 and 1, the other 2 and 3
    found = shown(confused_logit(2, logits=lambda model, x: model(x) + offsets), model, images)

    for each, classes in zip(found, ((0, 1), (2, 3)), strict=True):
        steepest = weight[list(classes)].abs().max()
        for panel, of in zip(panels(each.image, (3, 3))[1:3], classes, strict=True):
            torch.testing.assert_close(panel, weight[of] / (2 * steepest) + 0.5)


@pytest.mark.parametrize(
    ("logits", "arguments", "confused"),
    [
        ([6.0, 5.95, 0.0], {}, True),
        ([6.0, 5.5, 0.0], {}, False),  # sure
        ([6.0, 5.5, 0.0], {"max_logit_difference": 0.75}, True),
        ([6.0, 5.5, 0.0], {"max_logit_difference": 0.5}, False),  # must be closer than that
        ([5.0, 5.0, 0.0], {}, False),  # must be more than the minimum
        ([5.0, 5.0, 0.0], {"min_logit_value": 4.5}, True),
        ([-1.0, -1.0, -8.0], {"min_logit_value": -2.0}, True),
        ([torch.nan, 6.0, 6.0], {}, False),
    ],
)
def test_who_is_confused(logits, arguments, confused):
    given = torch.tensor([logits])
    found = shown(
        confused_logit(1, logits=lambda _, x: given + 0 * x.sum((1, 2, 3))[:, None], **arguments),
        nn.Linear(1, 1),
        torch.ones(1, 1, 2, 2),
    )

    assert len(found) == confused


def test_a_sample_is_judged_by_its_own_logits_not_by_the_largest_of_the_batch():
    logits = torch.tensor([[9.0, 0.0], [1.0, 1.0]])
    confused = confused_logit(2, logits=lambda _, x: logits[: len(x)] + 0 * x.sum((1, 2, 3))[:, None])

    assert shown(confused, nn.Linear(1, 1), torch.ones(2, 1, 2, 2)) == ()


def test_no_more_than_top_k_are_shown_in_the_order_of_the_batch():
    model = linear(torch.full((2, 4), 4.0), 1, (2, 2))  # every logit is 4 times the sum: more than 5 for x = 1
    images = torch.stack([torch.full((1, 2, 2), value) for value in (0.0, 1.0, 2.0, 3.0)])
    images[:, :, 0, 0] = 0.0
    found = shown(confused_logit(2), model, images)

    assert [each.name for each in found] == ["confused_logit/0", "confused_logit/1"]
    for each, value in zip(found, (1.0, 2.0), strict=True):
        toward = panels(each.image, (2, 2))[3]  # x + 8: from 8 to 8 + value
        assert toward.flatten().tolist() == [0, 1, 1, 1], value


@pytest.mark.parametrize(("channels", "drawn"), [(1, 1), (2, 1), (3, 3), (5, 1)])
def test_any_number_of_channels_is_drawn(channels, drawn):
    torch.manual_seed(0)
    weight = torch.rand(2, channels, 2, 3)
    weight[1] = weight[0]
    images = torch.ones(1, channels, 2, 3) * 6
    image = shown(confused_logit(1), linear(weight, channels, (2, 3)), images)[0].image

    assert len(image) == drawn
    expected = weight[0] if drawn == channels else weight[0].mean(0, keepdim=True)
    torch.testing.assert_close(panels(image, (2, 3))[1], expected / (2 * expected.max()) + 0.5)


def test_the_model_keeps_no_gradients_and_the_batch_is_left_alone():
    model = linear(torch.full((2, 4), 4.0), 1, (2, 2))
    images = torch.ones(3, 1, 2, 2)
    assert len(shown(confused_logit(3), model, images)) == 3

    assert all(p.grad is None for p in model.parameters())
    assert (images.requires_grad, images.grad) == (False, None)


def test_what_cannot_be_looked_at_is_told():
    with pytest.raises(ValueError, match=r"^confused_logit: inputs must be \(batch, channels, .*got shape \(3, 4\)"):
        shown(confused_logit(1), nn.Linear(4, 2), torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"logits must be \(batch, 2 or more classes\), got shape \(3, 1\)"):
        shown(confused_logit(1), linear(torch.ones(1, 4), 1, (2, 2)), torch.ones(3, 1, 2, 2))


def test_a_classifier_of_digits_shows_those_that_it_takes_for_two():
    sink, seen = keeps()
    confused = confused_logit(2, min_logit_value=1.0, logging_batch_interval=4, max_logit_difference=0.5)

    task, without = classifier_task(), classifier_task()
    train(task, batches(0, 1024), callbacks=confused, sinks=[sink], max_epochs=2)
    train(without, batches(0, 1024), max_epochs=2)

    assert set(seen) == {"confused_logit/0", "confused_logit/1"}
    assert {step for step, _ in seen["confused_logit/0"]} <= {4, 8, 12, 16, 20, 24, 28, 32}
    assert {image.shape for _, image in seen["confused_logit/0"]} == {(1, 12, 52)}
    for _, image in seen["confused_logit/0"]:
        x, first, second, *_ = panels(image, (8, 8))
        assert (x.min(), x.max()) == (0, 1)
        assert (first - second).abs().max() > 0.1  # other classes, other gradients
    assert all(map(torch.equal, task.model.parameters(), without.model.parameters()))


def test_it_asks_to_be_shown_the_model():
    assert fold(confused_logit(1, logging_batch_interval=1), [TrainBatchEnd()]).effects == (Examine("confused_logit"),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 0}, "top_k must be 1 or more, got 0"),
        ({"top_k": 1.5}, "top_k must be an int, got 1.5"),
        ({"logging_batch_interval": False}, "logging_batch_interval must be an int, got False"),
        ({"min_logit_value": torch.nan}, r"min_logit_value must be a number in \(-inf, inf\), got nan"),
        ({"max_logit_difference": 0}, r"max_logit_difference must be a number in \(0, inf\), got 0"),
        ({"max_logit_difference": torch.nan}, r"max_logit_difference must be a number in \(0, inf\), got nan"),
        ({"logits": 1}, "logits must be a function, got 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"^confused_logit: {message}"):
        confused_logit(**{"top_k": 1, **arguments})
