import pytest

from fncb.callbacks.lr_monitor import LRMonitorState, lr_monitor
from fncb.effects import Log, Probe
from fncb.events import Metrics, Probed, TrainBatchStart, TrainEpochStart
from tests.folding import fold

OLD = {"lr-SGD/pg1": 1.0}
RATES = {"lr-SGD/pg1": 0.5, "lr-SGD/pg2": 0.25}
EVENTS = [
    TrainEpochStart(epoch=0, step=0, metrics={"loss": 9.0, **OLD}),
    TrainBatchStart(epoch=0, step=0, metrics={"loss": 9.0, **OLD}),
    TrainBatchStart(epoch=0, step=1, metrics={"loss": 9.0, **RATES}),
    TrainBatchStart(epoch=0, step=2, metrics={"loss": 9.0, **RATES}),
]


def log(rates):
    return Log(rates, only_to_sinks=True)


@pytest.mark.parametrize(
    ("interval", "logged"),
    [
        (None, (OLD, RATES)),  # when an epoch starts, and when they have changed
        ("epoch", (OLD,)),
        ("step", (OLD, RATES, RATES)),
    ],
)
def test_it_logs_the_rates_and_nothing_else(interval, logged):
    run = fold(lr_monitor(logging_interval=interval), EVENTS)

    assert run.effects == tuple(map(log, logged))
    assert run.state == LRMonitorState(logged[-1])


def test_they_join_no_events_which_have_them_anyway():  # or the old name would stay when a group has come
    assert all(effect.only_to_sinks for effect in fold(lr_monitor(logging_interval="step"), EVENTS).effects)


@pytest.mark.parametrize(("interval", "steps"), [("step", [1, 3, 5]), (None, [1, 5]), ("epoch", [])])
def test_only_batches_of_every_nth_update_are_logged(interval, steps):
    rates = [1.0, 1.0, 0.5, 1.0, 0.25, 0.25]  # at step 3 the rate is again what was logged at step 1
    events = [TrainBatchStart(step=step, metrics={"lr-SGD": rate}) for step, rate in enumerate(rates)]

    run = fold(lr_monitor(logging_interval=interval, log_every_n_steps=2), events)

    assert run.effects == tuple(log({"lr-SGD": rates[step]}) for step in steps)


def test_an_epoch_is_logged_even_if_nothing_has_changed():
    events = [TrainEpochStart(epoch=epoch, metrics={"lr-SGD": 0.5}) for epoch in range(2)]

    assert fold(lr_monitor(), events).effects == (log({"lr-SGD": 0.5}), log({"lr-SGD": 0.5}))


def test_a_rate_that_is_nan_and_stays_so_has_not_changed():  # whichever object it is, as after a resume
    events = [TrainBatchStart(step=step, metrics={"lr-SGD": float("nan")}) for step in range(2)]

    assert len(fold(lr_monitor(), events).effects) == 1


def test_without_rates_it_logs_nothing():
    run = fold(lr_monitor(), [TrainEpochStart(metrics={"loss": 9.0}), TrainBatchStart(metrics={"loss": 9.0})])

    assert (run.state, run.effects) == (LRMonitorState(), ())


FOUND = {"lr-SGD-momentum": 0.5, "lr-SGD-weight_decay": 0.25}


@pytest.mark.parametrize(
    ("arguments", "logged"),
    [
        ({"log_momentum": True}, {"lr-SGD-momentum": 0.5}),
        ({"log_weight_decay": True}, {"lr-SGD-weight_decay": 0.25}),
        ({"log_momentum": True, "log_weight_decay": True}, FOUND),
    ],
)
def test_momentum_and_weight_decay_are_asked_for_when_rates_are_logged(arguments, logged):
    start = TrainEpochStart(metrics={"lr-SGD": 0.5})
    answer = Probed(what="optimizer", key="lr_monitor", metrics=FOUND)

    run = fold(lr_monitor(**arguments), [start, answer])

    assert run.effects == (log({"lr-SGD": 0.5}), Probe("optimizer", key="lr_monitor"), log(logged))


def test_answers_to_others_are_not_logged():
    others = [
        Probed(what="optimizer", key="somebody", metrics=FOUND),
        Probed(what="device", key="lr_monitor", metrics=FOUND),
        Probed(what="optimizer", key="lr_monitor", metrics={"lr-SGD-weight_decay": 0.5}),  # of a group without momentum
    ]

    assert fold(lr_monitor(log_momentum=True), others).effects == ()


def test_a_prefix_is_put_before_every_name():
    monitor = lr_monitor(log_momentum=True, log_key_prefix="optimizer/")
    answer = Probed(what="optimizer", key="lr_monitor", metrics=FOUND)

    first, _, last = fold(monitor, [TrainEpochStart(metrics={"lr-SGD": 0.5}), answer]).effects

    assert (first, last) == (log({"optimizer/lr-SGD": 0.5}), log({"optimizer/lr-SGD-momentum": 0.5}))


def test_what_it_does_not_ask_for_it_does_not_declare():
    assert lr_monitor().emits == (Log,)
    assert not lr_monitor().hears(Probed)
    assert lr_monitor(log_momentum=True).emits == (Log, Probe)


class Waits:
    def tolist(self):
        raise AssertionError("a metric was read that is still on the device")


def test_it_never_waits_for_the_device():
    pending = Metrics({"lr-SGD": 0.5}, ("loss", "acc"), Waits())

    run = fold(lr_monitor(logging_interval="step"), [TrainBatchStart(step=1, metrics=pending)])
    assert run.effects == (log({"lr-SGD": 0.5}),)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"logging_interval": "batch"}, ValueError, "logging_interval must be .*, got 'batch'"),
        ({"log_every_n_steps": 0}, ValueError, "log_every_n_steps must be 1 step or more, got 0"),
        ({"log_every_n_steps": True}, TypeError, "log_every_n_steps must be an int, got True"),
        ({"log_key_prefix": None}, TypeError, "log_key_prefix must be text, got None"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^lr_monitor: {message}"):
        lr_monitor(**arguments)
