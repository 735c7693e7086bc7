"""`lr_finder`: which rates it tries, what it measures, when it ends, what it suggests."""

from functools import partial
from math import inf, nan

import pytest
import torch
from torch import nn

from fncb.lr_range import LRFound, lr_finder
from fncb.task import Task

ONES = [torch.ones(4)]


class Weight(nn.Module):
    """One number."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))


def slope(model, batch):
    """Falls by the rate in each step."""
    return model.value * batch.mean()


SGD = partial(torch.optim.SGD, lr=0.1)


def task(loss=slope, model=None, optimizer=SGD, **given):
    return Task(model or Weight(), loss=loss, optimizer=optimizer, **given)


def of(*losses):
    """A task with these losses, whatever is learnt."""
    each = iter(losses)
    return task(lambda model, batch: model.value * 0 + next(each))


def found(smoothed, lrs=None, mode="exponential"):
    return LRFound(mode, lrs or tuple(2.0**i for i in range(len(smoothed))), smoothed, smoothed)


def test_rates_grow_by_a_factor_from_the_first_to_the_last():
    assert lr_finder(task(), ONES, min_lr=2**-8, num_training_steps=5).lrs == (2**-8, 2**-6, 2**-4, 2**-2, 1.0)


def test_rates_grow_by_an_amount():
    lrs = lr_finder(task(), ONES, min_lr=0.25, max_lr=1.25, num_training_steps=5, mode="linear").lrs

    assert lrs == (0.25, 0.5, 0.75, 1.0, 1.25)


@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_the_last_rate_is_exactly_the_one_that_was_asked_for(mode):
    lrs = lr_finder(task(), ONES, min_lr=3e-7, max_lr=0.7, mode=mode).lrs

    assert (len(lrs), lrs[0], lrs[-1]) == (100, 3e-7, 0.7)
    assert sorted(set(lrs)) == [*lrs]


def test_a_step_is_made_with_its_rate_and_a_loss_is_from_before_it():
    given = lr_finder(task(), ONES, min_lr=0.25, max_lr=1.0, num_training_steps=4, mode="linear")

    assert given.lrs == (0.25, 0.5, 0.75, 1.0)
    assert given.losses == (0.0, -0.25, -0.75, -1.5)


def test_all_groups_have_the_rate():
    model = nn.ParameterList([torch.zeros(()), torch.zeros(())])
    optimizer = torch.optim.SGD([{"params": [model[0]]}, {"params": [model[1]], "lr": 7.0}], lr=3.0)
    tried = task(lambda model, batch: model[0] + 8 * model[1], model, optimizer)

    assert lr_finder(tried, ONES, min_lr=0.25, num_training_steps=2).losses == (0.0, -0.25 - 8 * 8 * 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [3.0, 7.0]


def test_a_made_optimizer_goes_on_with_its_momentum():
    model = Weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    model.value.backward()
    optimizer.step()

    # the first step's velocity is 0.5 * 1 + 1
    given = lr_finder(task(model=model, optimizer=optimizer), ONES, min_lr=0.25, num_training_steps=2)
    assert given.losses == (-1.0, -1.0 - 0.25 * 1.5)


def test_the_schedule_rests():
    tried = task(schedule=lambda optimizer: 1 / 0)

    assert len(lr_finder(tried, ONES, num_training_steps=3).lrs) == 3


def test_losses_are_smoothed_with_the_bias_taken_out():
    given = lr_finder(of(1.0, 2.0, 4.0), ONES, num_training_steps=3)

    assert given.losses == (1.0, 2.0, 4.0)
    assert given.smoothed == pytest.approx(
        (1.0, (0.98 + 2.0) / 1.98, (0.98**2 + 0.98 * 2 + 4) / (1 + 0.98 + 0.98**2)), rel=1e-12
    )


@pytest.mark.parametrize(
    ("losses", "threshold", "n"),
    [
        ((1.0, 1.0, 100.0, 1.0), 4.0, 3),
        ((1.0, 1.0, 9.0, 1.0), 4.0, 4),  # on average that is not four times as much
        ((1.0, 1.0, 9.0, 1.0), 2.0, 3),
        ((1.0, 3.0, 1.0, 1.0), 2.0 - 2**-5, 2),  # times the best so far: the average of the first two is about 2
        ((8.0, 1.0, 1.0, 30.0), 4.0, 4),  # the best is about 3
        ((1.0, 1.0, 100.0, 1.0), None, 4),
        ((1.0, nan, 1.0, 1.0), 4.0, 2),
        ((1.0, inf, 1.0, 1.0), 4.0, 2),
        ((1.0, -inf, 1.0, 1.0), 4.0, 2),
        ((1.0, nan, 1.0, 1.0), None, 4),
        ((-1.0, -1.5, -0.5, -1.0), 4.0, 4),  # below 0 no multiple is above the best
        ((-1.0, -1.0, 100.0, -1.0), 4.0, 3),
        ((0.0, 0.0, 0.5, 0.0), 4.0, 3),
    ],
)
def test_it_ends_when_the_loss_explodes(losses, threshold, n):
    assert len(lr_finder(of(*losses), ONES, num_training_steps=4, early_stop_threshold=threshold).losses) == n


def test_a_loader_is_begun_again():
    assert lr_finder(task(), [torch.ones(1), torch.full((1,), 2.0)], num_training_steps=5).losses[1:] != ()
    assert len(lr_finder(task(), lambda: iter([torch.ones(1)] * 3), num_training_steps=3).losses) == 3


def test_a_batch_that_is_none_is_left_out_with_its_rate():
    given = lr_finder(task(), [torch.ones(1), None], min_lr=0.25, max_lr=1.0, num_training_steps=4, mode="linear")

    assert given.lrs == (0.25, 0.75)


def test_a_seed_gives_the_same_again_and_none_goes_on_from_here():
    def drawn(seed):
        return lr_finder(task(lambda model, batch: model.value * torch.rand(())), ONES, seed=seed).losses

    assert drawn(3) == drawn(3) != drawn(4)
    assert drawn(None) == drawn(None)  # as nothing was drawn meanwhile
    torch.rand(())
    assert drawn(3) == drawn(3)


def test_double_precision_is_double():
    tiny = 1 + 2**-40
    given = lr_finder(task(lambda model, batch: model.value * 0 + tiny), ONES, num_training_steps=2, precision=64)

    assert given.losses == (tiny, tiny)


def test_one_named_optimizer_is_one():
    tried = Task(Weight(), loss={"only": slope}, optimizer={"only": SGD})

    assert lr_finder(tried, ONES, min_lr=0.25, num_training_steps=2).losses == (0.0, -0.25)


def test_a_compiled_step_finds_the_same():
    torch.manual_seed(0)
    model, data = nn.Linear(3, 1), [torch.randn(4, 3), torch.randn(4, 3)]
    tried = task(lambda model, batch: model(batch).square().mean(), model, partial(torch.optim.AdamW, lr=0.1))
    eager, compiled = (lr_finder(tried, data, num_training_steps=12, compile=each) for each in (False, True))

    assert compiled.lrs == eager.lrs
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-3)


@pytest.mark.parametrize("optimizer", [SGD, partial(torch.optim.AdamW, lr=0.1)])
def test_what_is_suggested_trains_well(optimizer):
    torch.manual_seed(0)
    inputs = torch.randn(64, 3)
    batch = inputs, inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
    loss = lambda model, batch: (model(batch[0]) - batch[1]).square().mean()  # noqa: E731
    model = nn.Linear(3, 1)
    lr = lr_finder(task(loss, model, optimizer), [batch], max_lr=10.0).suggestion()

    before, trained = loss(model, batch).item(), optimizer(model.parameters(), lr=lr)
    for _ in range(30):
        trained.zero_grad()
        loss(model, batch).backward()
        trained.step()
    assert loss(model, batch).item() < before / 10


@pytest.mark.parametrize(
    ("smoothed", "skips", "expected"),
    [
        ((4.0, 3.0, 1.0, 2.0), (0, 0), 0.4),  # a tenth of 4
        ((0.0, 3.0, 1.0, 2.0), (1, 0), 0.4),
        ((4.0, 3.0, 2.0, 1.0), (0, 1), 0.4),
        ((4.0, 3.0, 2.0, 1.0), (0, 0), 0.8),
        ((4.0, 1.0, 1.0, 2.0), (0, 0), 0.2),  # of two that are as good the more careful one
        ((4.0, nan, 1.0, -inf), (0, 0), 0.4),
        ((1.0, 1.0, 2.0), (0, 0), None),  # it does not fall
        ((1.0, 2.0, 3.0), (0, 0), None),
        ((4.0,), (0, 0), None),
        ((4.0, nan), (0, 0), None),
        ((4.0, 3.0, 2.0), (10, 1), None),
        ((4.0, 3.0, 2.0), (1, 5), None),
    ],
)
def test_a_tenth_of_the_rate_of_the_least_loss_is_suggested(smoothed, skips, expected):
    assert found(smoothed).suggestion(*skips) == expected


def test_the_first_ten_and_the_last_are_skipped():
    falling = (*[0.0] * 10, *(100.0 - i for i in range(4)))

    assert found(falling).suggestion() == 2.0**12 / 10
    with pytest.raises(ValueError, match="suggestion: what is skipped must be 0 steps or more, got -1 and 1"):
        found(falling).suggestion(-1)


def test_it_prints_in_a_line():
    given = LRFound("linear", (0.25, 0.5), (2.0, 1.0), (2.0, 1.5))

    assert str(given) == (
        "2 learning rates from 0.25 to 0.5. Smoothed loss: 2 at first, 1.5 at least, at 0.5, and 1.5 at last. "
        "Suggestion: none."
    )
    assert repr(given) == ("LRFound(mode='linear', lrs=<2: 0.25 to 0.5>, losses=<2: 2 to 1>, smoothed=<2: 2 to 1.5>)")


GAN = Task(
    nn.ModuleDict({"one": nn.Linear(1, 1), "two": nn.Linear(1, 1)}),
    loss={"one": slope, "two": slope},
    optimizer={"one": torch.optim.SGD, "two": torch.optim.SGD},
)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"min_lr": 0.0}, ValueError, r"rates must grow, 0 < min_lr < max_lr, got 0.0 and 1.0"),
        ({"min_lr": 1.0}, ValueError, "rates must grow"),
        ({"min_lr": nan}, ValueError, "rates must grow"),
        ({"max_lr": inf}, ValueError, "rates must grow"),
        ({"max_lr": "1"}, TypeError, "max_lr must be a number, got '1'"),
        ({"min_lr": None}, TypeError, "min_lr must be a number, got None"),
        ({"min_lr": True}, TypeError, "min_lr must be a number, got True"),
        ({"num_training_steps": 1}, ValueError, "num_training_steps must be 2 or more, got 1"),
        ({"num_training_steps": 2.0}, TypeError, "num_training_steps must be an int, got 2.0"),
        ({"num_training_steps": True}, TypeError, "num_training_steps must be an int, got True"),
        ({"mode": "log"}, ValueError, "mode must be 'exponential' or 'linear', got 'log'"),
        ({"early_stop_threshold": 1.0}, ValueError, "early_stop_threshold must be more than 1, got 1.0. Pass None"),
        ({"early_stop_threshold": nan}, ValueError, "early_stop_threshold must be more than 1, got nan"),
        ({"early_stop_threshold": "4"}, TypeError, "early_stop_threshold must be a number, got '4'"),
        ({"precision": "8"}, ValueError, "precision must be '32'"),
        ({"task": GAN}, ValueError, r"the task must have one optimizer, got \['one', 'two'\]. Make a task of one"),
        ({"train": iter(ONES)}, TypeError, "train must be iterable again and again, got list_iterator, whose batches"),
        ({"train": 3}, TypeError, "train must be an iterable of batches, got 3"),
        ({"train": lambda: None}, TypeError, "train must be an iterable of batches, got None"),
        ({"train": {"a": ONES, "b": ONES}}, ValueError, "train must be one loader, got 2"),
        ({"train": []}, ValueError, "train must give 100 batches or be iterable again, got 0"),
        ({"train": lambda: iter(ONES)}, ValueError, "train must give 100 batches or be iterable again, got 1"),
        ({"task": of(nan)}, ValueError, "the loss must be finite before the first step, got nan"),
        ({"task": of(inf)}, ValueError, "the loss must be finite before the first step, got inf"),
    ],
)
def test_what_cannot_be_is_refused(given, error, message):
    with pytest.raises(error, match=f"^lr_finder: {message}"):
        lr_finder(**{"task": task(), "train": ONES, **given})
