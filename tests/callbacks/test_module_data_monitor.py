import pytest
import torch
from torch import nn

from fncb.callbacks.module_data_monitor import module_data_monitor
from fncb.effects import Examine
from fncb.events import TrainBatchStart, TrainStart
from tests.callbacks.digits import batches, classifier_task, keeps, train
from tests.folding import fold


def shown(monitor, model, batch):
    """What it shows, as `Examine` has it: in eval mode, without gradients."""
    start = TrainBatchStart(batch_idx=49, batch=batch)
    with torch.no_grad():
        return fold(monitor, [start]).effects[0].fn(model.eval(), start, {})


def names(found):
    return [each.name for each in found]


class Two(nn.Module):
    """Takes two inputs and gives two outputs, and calls a layer twice."""

    def __init__(self):
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(12, 5), nn.Linear(5, 5)
        self.head = nn.Sequential(nn.Linear(5, 2))

    def forward(self, x, mask):
        hidden = self.layer2(self.layer2(self.layer1(x))) * mask
        return {"hidden": hidden, "logits": self.head(hidden)}


def forward(model, batch):
    return model(batch["x"], batch["mask"])


BATCH = {"x": torch.rand(2, 12), "mask": torch.ones(2, 5)}


def test_by_default_it_shows_what_the_model_takes_and_gives():
    model = nn.Sequential(nn.Linear(12, 5))
    found = shown(module_data_monitor(), model, (BATCH["x"], BATCH["mask"]))

    assert names(found) == ["input/[2, 12]", "output/[2, 5]"]
    assert torch.equal(found[0].values, BATCH["x"])
    assert torch.equal(found[1].values, model(BATCH["x"]))


def test_submodules_are_named_and_shown_each_time_they_are_called():
    found = shown(module_data_monitor(["layer1", "layer2"], forward=forward), Two(), BATCH)

    assert names(found) == [
        *("input/layer1/[2, 12]", "output/layer1/[2, 5]"),
        *("input/layer2/[2, 5]", "output/layer2/[2, 5]", "input/layer2/[2, 5]", "output/layer2/[2, 5]"),
    ]


def test_several_inputs_and_outputs_are_named_for_their_places():
    found = shown(module_data_monitor([""], forward=forward), Two(), BATCH)

    assert names(found) == ["input/0/[2, 12]", "input/1/[2, 5]", "output/hidden/[2, 5]", "output/logits/[2, 2]"]


def test_all_submodules_are_those_that_the_model_names_itself_included():
    found = shown(module_data_monitor(True, forward=forward), Two(), BATCH)

    shown_for = {each.split("/[")[0].removeprefix("input").strip("/") for each in names(found) if "input" in each}
    assert shown_for == {"0", "1", "layer1", "layer2", "head", "head.0"}  # 0 and 1 are those of the model


def test_what_is_written_over_in_place_is_shown_as_it_was():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(inplace=True))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    found = shown(module_data_monitor(["0", "1"]), model, torch.tensor([[-1.0, 2.0]]))

    assert {each.name: each.values.tolist() for each in found} == {
        "input/0/[1, 2]": [[-1, 2]],
        "output/0/[1, 2]": [[-1, 2]],
        "input/1/[1, 2]": [[-1, 2]],
        "output/1/[1, 2]": [[0, 2]],
    }


def test_nothing_stays_on_the_model_also_when_it_raises():
    model = nn.Sequential(nn.Linear(2, 2))
    shown(module_data_monitor(True), model, torch.ones(1, 2))
    with pytest.raises(RuntimeError):
        shown(module_data_monitor(True), model, torch.ones(1, 3))

    assert all(not each._forward_hooks and not each._forward_pre_hooks for each in model.modules())


def test_a_batch_is_given_in_the_format_of_the_model():
    found = shown(module_data_monitor(), nn.Linear(12, 5).double(), BATCH["x"])

    assert [each.values.dtype for each in found] == [torch.float64] * 2


def test_a_run_shows_what_the_weights_before_the_update_give_and_is_trained_as_without():
    sink, seen = keeps()
    given, task, without = batches(0, 320), classifier_task(), classifier_task()
    first = without.model(given[0][0])
    train(task, given, callbacks=module_data_monitor(["4"], log_every_n_steps=1), sinks=[sink], max_steps=2)
    train(without, given, max_steps=2)

    assert {name: [step for step, _ in values] for name, values in seen.items()} == {
        "input/4/[64, 128]": [0, 1],
        "output/4/[64, 10]": [0, 1],
    }
    assert torch.equal(seen["output/4/[64, 10]"][0][1], first)
    assert all(map(torch.equal, task.model.parameters(), without.model.parameters()))


@pytest.mark.parametrize(("every", "batch_idxs"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5]), (4, [3]), (7, [])])
def test_it_looks_at_every_nth_batch(every, batch_idxs):
    monitor = module_data_monitor(log_every_n_steps=every)
    asked = (Examine("module_data_monitor"),)

    assert [i for i in range(6) if fold(monitor, [TrainBatchStart(batch_idx=i)]).effects == asked] == batch_idxs


def test_a_name_that_the_model_has_not_is_told_when_training_starts():
    monitor = module_data_monitor(["layer1", "layer3"])

    with pytest.raises(ValueError, match=r"submodules must be of the model, got \['layer3'\]. It has \['', 'layer1'"):
        fold(monitor, [TrainStart()]).effects[0].fn(Two(), TrainStart(), {})
    with pytest.raises(ValueError, match="module_data_monitor: submodules must be of the model"):
        train(classifier_task(), batches(0, 64), callbacks=monitor, max_epochs=1)
    assert fold(module_data_monitor(True), [TrainStart()]).effects == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_every_n_steps": 0}, "log_every_n_steps must be 1 batch or more, got 0"),
        ({"submodules": "layer1"}, "submodules must be names, True or None, got 'layer1'"),
        ({"submodules": False}, "submodules must be names, True or None, got False"),
        ({"submodules": 1}, "submodules must be names, True or None, got 1"),
        ({"submodules": [1]}, r"submodules must be names, got \[1\]. True takes all."),
        ({"submodules": []}, r"submodules must be names, got \[\]. True takes all."),
        ({"forward": 1}, "forward must be a function, got 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"^module_data_monitor: {message}"):
        module_data_monitor(**arguments)
