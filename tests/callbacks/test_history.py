from math import nan

import pytest
import torch

from fncb import events as ev
from fncb.callbacks.history import HistoryState, history
from fncb.snapshot import load_state_dict, state_dict
from tests.conformance.runs import batches, task, train
from tests.folding import fold


def ends(*metrics, first=0):
    return [ev.TrainEpochEnd(epoch=first + i, metrics=each) for i, each in enumerate(metrics)]


def test_each_epoch_adds_a_value_to_each_metric():
    run = fold(history(), ends({"loss": 0.5, "acc": 0.25}, {"loss": 0.25, "acc": 0.75}))

    assert run.state == HistoryState((0, 1), {"loss": (0.5, 0.25), "acc": (0.25, 0.75)})
    assert run.effects == ()


def test_a_metric_that_an_epoch_does_not_have_is_none_there():
    run = fold(history(), ends({"loss": 0.5}, {"val_loss": 0.75}, {"loss": 0.25, "val_loss": 0.5}))

    assert run.state == HistoryState((0, 1, 2), {"loss": (0.5, None, 0.25), "val_loss": (None, 0.75, 0.5)})


def test_an_epoch_that_ends_again_takes_its_own_place():
    stopped = fold(history(), ends({"loss": 0.5}, {"loss": 0.25})).state
    run = fold(history(), ends({"loss": 0.125, "acc": 1.0}, {"loss": 2.0}, first=1), stopped)

    assert run.state == HistoryState((0, 1, 2), {"loss": (0.5, 0.125, 2.0), "acc": (None, 1.0, None)})


def test_it_survives_a_file():
    state = HistoryState((0, 2), {"loss": (0.5, None), "acc": (nan, 1.0)})
    again = load_state_dict(history(), state_dict(state))

    assert str(again) == str(state)
    assert isinstance(again.metrics["loss"], tuple)


def test_the_metrics_of_an_epoch_are_waited_for_once():
    waits = []

    class Pending:
        def tolist(self):
            waits.append("waited")
            return [0.5, 0.25]

    run = fold(history(), [ev.TrainEpochEnd(metrics=ev.Metrics(None, ("a", "b"), Pending()))])

    assert (run.state.metrics, waits) == ({"a": (0.5,), "b": (0.25,)}, ["waited"])


def test_a_run_gives_its_history_and_what_goes_on_has_all_of_it(tmp_path):
    from fncb.callbacks import checkpoint

    def run(epochs, folder, **resume):
        keep = checkpoint(tmp_path / folder, save_top_k=-1)
        settings = {"max_epochs": epochs, "num_sanity_val_steps": 1, "check_val_every_n_epoch": 2, **resume}
        torch.manual_seed(0)
        return train(task(), batches(3), batches(2), callbacks=[history(), keep], **settings)

    straight = run(4, "straight").state["history"]
    run(2, "cut")
    went_on = run(4, "cut", resume=tmp_path / "cut").state["history"]

    assert straight == went_on
    assert straight.epochs == (0, 1, 2, 3)
    assert [value is None for value in straight.metrics["val_loss"]] == [True, False, True, False]
    assert straight.metrics["lr-SGD"] == (pytest.approx(0.1),) * 4
    assert straight.metrics["loss_epoch"][3] < straight.metrics["loss_epoch"][0]
