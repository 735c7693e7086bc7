"""What exceptions say of the hook that they came from."""

import pytest
import torch

from fncb.events import AfterBackward, TrainBatchEnd
from fncb.notes import note, note_hook


def noted(event, error=None):
    error = error or ZeroDivisionError("by zero")
    note_hook(error, "mine", "on_train_batch_end", event)
    return error.__notes__


class Stands(torch.Tensor):
    """A tensor that has no value, as those in a trace."""

    def __int__(self):
        raise AssertionError("a trace must not be asked for a number")


def test_notes_are_kept_in_order():
    error = ValueError("bad")
    note(error, "one")
    note(error, "two")

    assert error.__notes__ == ["one", "two"]


def test_a_hook_is_noted_with_its_callback_epoch_and_step():
    assert noted(TrainBatchEnd(epoch=2, step=7)) == ["mine: on_train_batch_end failed at epoch 2, step 7."]


def test_counters_of_the_step_are_read():
    event = AfterBackward(epoch=torch.tensor(2), step=torch.tensor(7))

    assert noted(event) == ["mine: on_train_batch_end failed at epoch 2, step 7."]


@pytest.mark.parametrize("step", [torch.zeros(()).as_subclass(Stands), torch.zeros((), device="meta")])
def test_counters_that_have_no_value_are_not_read(step):
    """Those of a trace are of another class; a device that has failed raises."""
    assert noted(AfterBackward(step=step)) == ["mine: on_train_batch_end failed while the step was traced."]


def test_fields_are_told_only_for_one_that_an_event_has_not():
    event = TrainBatchEnd(batch="b")
    with pytest.raises(AttributeError) as of_event:
        _ = event.grads
    with pytest.raises(AttributeError) as of_another:
        _ = event.batch.grads

    assert noted(event, of_event.value)[1:] == [
        "TrainBatchEnd: there is no 'grads'. It has "
        "['epoch', 'step', 'seconds', 'batch_idx', 'dataloader_idx', 'batch', 'metrics']."
    ]
    assert noted(event, of_another.value)[1:] == []
