import pytest

from fncb.callback import EmptyState
from fncb.callbacks.lr_monitor import lr_monitor
from fncb.effects import Log
from fncb.events import Metrics, TrainBatchStart, TrainEpochStart
from tests.folding import fold

RATES = {"lr-SGD/pg1": 0.5, "lr-SGD/pg2": 0.25}
EVENTS = [
    TrainEpochStart(epoch=0, step=0, metrics={"loss": 9.0, "lr-SGD/pg1": 1.0}),
    TrainBatchStart(epoch=0, step=0, metrics={"loss": 9.0, **RATES}),
]


@pytest.mark.parametrize(
    ("interval", "logged"),
    [
        (None, (Log({"lr-SGD/pg1": 1.0}),)),
        ("epoch", (Log({"lr-SGD/pg1": 1.0}),)),
        ("step", (Log(RATES),)),
    ],
)
def test_it_logs_the_rates_and_nothing_else(interval, logged):
    run = fold(lr_monitor(logging_interval=interval), EVENTS)

    assert (run.state, run.effects) == (EmptyState(), logged)


def test_without_rates_it_logs_nothing():
    assert fold(lr_monitor(), [TrainEpochStart(metrics={"loss": 9.0})]).effects == ()


class Waits:
    def tolist(self):
        raise AssertionError("a metric was read that is still on the device")


def test_it_never_waits_for_the_device():
    pending = Metrics({"lr-SGD": 0.5}, ("loss", "acc"), Waits())

    run = fold(lr_monitor(logging_interval="step"), [TrainBatchStart(step=1, metrics=pending)])
    assert run.effects == (Log({"lr-SGD": 0.5}),)


def test_an_unknown_interval_is_refused():
    with pytest.raises(ValueError, match=r"^lr_monitor: logging_interval must be .*, got 'batch'\."):
        lr_monitor(logging_interval="batch")
