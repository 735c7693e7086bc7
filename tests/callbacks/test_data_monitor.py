import pytest
import torch

from fncb.callbacks.data_monitor import data_monitor, named_tensors
from fncb.effects import Examine, LogHistogram
from fncb.events import TrainBatchStart
from tests.callbacks.digits import batches, classifier_task, keeps, train
from tests.folding import fold


def shown(batch):
    """The histograms that it shows of a batch."""
    start = TrainBatchStart(batch_idx=49, batch=batch)
    return fold(data_monitor(), [start]).effects[0].fn(None, start, {})


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        ("helloworld", []),
        (("foo", 1, True, None), []),
        (torch.zeros(2, 3, 4), ["training_step/[2, 3, 4]"]),
        ([torch.zeros(2, 3, 4), torch.zeros(2)], ["training_step/0/[2, 3, 4]", "training_step/1/[2]"]),
        (
            ((torch.zeros(1), "a", {"x": [torch.zeros(2), 3]}), torch.zeros(())),
            ["training_step/0/0/[1]", "training_step/0/2/x/0/[2]", "training_step/1/[]"],
        ),
        (
            {"image": torch.zeros(1, 2), "label": torch.zeros(1)},
            ["training_step/image/[1, 2]", "training_step/label/[1]"],
        ),
        ((torch.zeros(0, 3), torch.zeros(3)), ["training_step/1/[3]"]),  # of nothing there is no histogram
    ],
)
def test_a_tensor_is_named_for_its_place_and_its_shape(batch, names):
    assert [each.name for each in shown(batch)] == names


def test_it_shows_the_values_themselves():
    batch = torch.arange(6.0), torch.tensor([1, 2])

    assert [each.values for each in shown(batch)] == [*batch]
    assert all(type(each) is LogHistogram for each in shown(batch))


@pytest.mark.parametrize(("every", "batch_idxs"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5]), (4, [3]), (7, [])])
def test_it_looks_at_every_nth_batch(every, batch_idxs):
    monitor = data_monitor(log_every_n_steps=every)
    looked = [
        i for i in range(6) if fold(monitor, [TrainBatchStart(batch_idx=i)]).effects == (Examine("data_monitor"),)
    ]

    assert looked == batch_idxs


def test_a_run_shows_the_batches_of_every_epoch():
    sink, seen = keeps()
    given = batches(0, 320)
    train(classifier_task(), given, callbacks=data_monitor(log_every_n_steps=3), sinks=[sink], max_epochs=2)

    assert {name: [step for step, _ in values] for name, values in seen.items()} == {
        "training_step/0/[64, 1, 8, 8]": [2, 7],  # updates before: the third batch of each epoch of five
        "training_step/1/[64]": [2, 7],
    }
    assert all(torch.equal(values, given[2][1]) for _, values in seen["training_step/1/[64]"])


def test_a_group_can_have_any_name():
    assert [name for name, _ in named_tensors("input/layer1", torch.zeros(2, 12))] == ["input/layer1/[2, 12]"]


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None])
def test_a_wrong_number_is_refused_at_once(every):
    said = rf"^data_monitor: log_every_n_steps must be (1 batch or more|an int), got {every}\."
    with pytest.raises((ValueError, TypeError), match=said):
        data_monitor(log_every_n_steps=every)
