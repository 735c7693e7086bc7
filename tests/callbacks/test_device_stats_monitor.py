import importlib.util

import pytest

from fncb import events as ev
from fncb.callbacks.device_stats_monitor import DeviceStatsMonitorState, device_stats_monitor
from fncb.effects import Log, Print, Probe
from tests.folding import fold

HOOKS = [f"on_{stage}_batch_{moment}" for stage in ("train", "validation", "test") for moment in ("start", "end")]
ASKED = Probe("device", key="device_stats_monitor")


def answer(**metrics):
    return ev.Probed(what="device", key="device_stats_monitor", at="on_test_batch_end", metrics=metrics)


@pytest.mark.parametrize("hook", HOOKS)
def test_it_asks_before_and_after_a_batch_of_each_stage(hook):
    event = ev.HOOKS[hook](step=1)

    assert fold(device_stats_monitor(log_every_n_steps=1), [event]).effects == (ASKED,)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        (ev.TrainBatchStart, [2, 5]),  # batches whose update will be the third, the sixth
        (ev.TrainBatchEnd, [3, 6]),  # and whose update was
    ],
)
def test_training_batches_of_every_nth_update_are_looked_at(kind, steps):
    monitor = device_stats_monitor(log_every_n_steps=3)

    assert [step for step in range(8) if fold(monitor, [kind(step=step)]).effects] == steps


@pytest.mark.parametrize("kind", [ev.ValidationBatchStart, ev.ValidationBatchEnd, ev.TestBatchStart, ev.TestBatchEnd])
def test_every_nth_batch_of_other_stages_is_looked_at(kind):
    monitor = device_stats_monitor(log_every_n_steps=3)

    assert [i for i in range(8) if fold(monitor, [kind(step=3, batch_idx=i)]).effects] == [2, 5]


@pytest.mark.parametrize("cpu_stats", [None, True, False])
def test_whether_the_cpu_is_looked_at_goes_along(cpu_stats):
    (asked,) = fold(device_stats_monitor(cpu_stats, log_every_n_steps=1), [ev.TrainBatchStart()]).effects

    assert asked.argument is cpu_stats


def test_the_answer_goes_to_sinks_under_the_hook_that_asked():
    run = fold(device_stats_monitor(), [answer(cpu_percent=12.5, num_ooms=0.0)])

    begins = "device_stats_monitor.on_test_batch_end"
    logged = {f"{begins}/cpu_percent": 12.5, f"{begins}/num_ooms": 0.0}
    assert (run.state, run.effects) == (DeviceStatsMonitorState(), (Log(logged, only_to_sinks=True),))


@pytest.mark.parametrize(
    "other",
    [
        ev.Probed(what="device", key="somebody", metrics={"a": 1.0}),
        ev.Probed(what="flops", key="device_stats_monitor", metrics={"a": 1.0}),
        answer(),
    ],
)
def test_other_answers_and_empty_ones_are_not_logged(other):
    assert fold(device_stats_monitor(), [other]).effects == ()


def test_names_that_are_not_wanted_are_left_out():
    (logged,) = fold(device_stats_monitor(filter_keys={"a", "c"}), [answer(a=1.0, b=2.0, c=3.0)]).effects

    assert [name.split("/")[1] for name in logged.metrics] == ["a", "c"]


def test_a_wanted_name_that_is_not_there_is_said_once():
    monitor = device_stats_monitor(filter_keys=["a", "typo"])

    run = fold(monitor, [answer(a=1.0, b=2.0), answer(a=1.0, b=2.0)])

    assert run.of(Print) == (Print("device_stats_monitor: there is no ['typo'] to log. There are ['a', 'b']."),)
    assert len(run.of(Log)) == 2
    assert run.state == DeviceStatsMonitorState(told=("typo",))
    assert fold(device_stats_monitor(filter_keys=["typo"]), [answer(a=1.0)]).of(Log) == ()


def test_a_key_begins_the_names():
    found = ev.Probed(what="device", key="mine", at="on_train_batch_end", metrics={"a": 1.0})

    (logged,) = fold(device_stats_monitor(key="mine"), [found]).effects
    assert logged.metrics == {"mine.on_train_batch_end/a": 1.0}


def test_without_psutil_the_cpu_is_refused_at_once(monkeypatch):
    room = importlib.import_module("fncb.callbacks.device_stats_monitor")
    monkeypatch.setattr(room, "find_spec", lambda name: None)

    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fncb\[monitor\]'"):
        device_stats_monitor(cpu_stats=True)
    device_stats_monitor(cpu_stats=False)
    device_stats_monitor()  # there may be an accelerator; the run will tell


def test_the_extra_that_an_error_names_has_psutil():
    assert importlib.util.find_spec("psutil") is not None
    assert device_stats_monitor(cpu_stats=True).config["cpu_stats"] is True


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"cpu_stats": 1}, TypeError, "cpu_stats must be True, False or None, got 1"),
        ({"filter_keys": "cpu_percent"}, TypeError, "filter_keys must be several names, got 'cpu_percent'"),
        ({"log_every_n_steps": 0}, ValueError, "log_every_n_steps must be 1 step or more, got 0"),
        ({"log_every_n_steps": 1.5}, TypeError, "log_every_n_steps must be an int, got 1.5"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^device_stats_monitor: {message}"):
        device_stats_monitor(**arguments)
