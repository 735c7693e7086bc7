from math import inf, nan

import pytest

from fncb import events as ev
from fncb.callbacks.throughput_monitor import Pace, ThroughputMonitorState, throughput_monitor
from fncb.effects import Log, Probe
from tests.folding import fold

KEY = "throughput_monitor"


def monitor(**given):
    return throughput_monitor(**{"window_size": 3, "log_every_n_steps": 1, "count_flops": False, **given})


def batch(step, seconds, samples=8, start=ev.TrainBatchStart, end=ev.TrainBatchEnd):
    """A batch that ends then, after which so many steps are made."""
    return [start(step=step - 1, seconds=seconds, samples=samples), end(step=step, seconds=seconds)]


def train(*ends, start=1.0):
    """Training whose batches end then, one step each."""
    return [ev.TrainStart(seconds=start), *(event for i, at in enumerate(ends, 1) for event in batch(i, at))]


def logs(callback, events, state=None):
    return [log.metrics for log in fold(callback, events, state).of(Log)]


def test_time_batches_and_samples_are_counted_from_the_start_of_training():
    assert logs(monitor(), train(1.5, 3.0, start=1.0)) == [
        {"train/time": 0.5, "train/batches": 1, "train/samples": 8},
        {"train/time": 2.0, "train/batches": 2, "train/samples": 16},
    ]


def test_what_is_made_in_a_second_is_told_once_the_window_is_full():
    found = logs(monitor(), train(2.0, 2.5, 4.0, 4.25))

    # between the first and the last end of three batches are two
    assert [name for name in found[1] if "device" in name] == []
    assert found[2]["train/device/batches_per_sec"] == 1.0  # 2.0 to 4.0
    assert found[3]["train/device/samples_per_sec"] == 16 / 1.75  # 2.5 to 4.25


def test_batches_count_with_as_many_samples_as_they_have():
    events = [ev.TrainStart(seconds=0.5), *batch(1, 1.0, 64), *batch(2, 2.0, 4), *batch(3, 3.0, 2)]

    last = logs(monitor(), events)[-1]
    assert (last["train/samples"], last["train/device/samples_per_sec"]) == (70, 3.0)


def test_a_length_counts_items():
    last = logs(monitor(length=128), train(1.0, 2.0, 3.0))[-1]

    assert (last["train/lengths"], last["train/device/items_per_sec"]) == (24 * 128, 8 * 128.0)
    assert "train/lengths" not in logs(monitor(), train(1.0, 2.0, 3.0))[-1]


def test_time_that_stands_still_gives_no_rate():
    assert "train/device/batches_per_sec" not in logs(monitor(), train(1.0, 1.0, 1.0))[-1]


def test_only_every_nth_step_is_logged():
    found = logs(monitor(log_every_n_steps=2), train(2.0, 3.0, 4.0, 5.0, 6.0))

    assert [log["train/batches"] for log in found] == [2, 4]


def test_a_step_is_logged_once_at_the_end_of_its_window():
    steps = [0, 1, 1, 2, 2, 3]  # made after each batch: two are accumulated
    events = [event for i, step in enumerate(steps) for event in batch(step, 2.0 + i)]

    assert [log["train/batches"] for log in logs(monitor(), events)] == [2, 4, 6]
    assert [log["train/batches"] for log in logs(monitor(log_every_n_steps=2), events)] == [4]


def validation(*ends, start, samples=4):
    batches = (batch(2, at, samples, ev.ValidationBatchStart, ev.ValidationBatchEnd) for at in ends)
    events = [event for each in batches for event in each]
    return [ev.ValidationStart(step=2, seconds=start), *events, ev.ValidationEnd(step=2, seconds=ends[-1] + 0.5)]


def test_validation_does_not_count_as_training():
    events = [*train(2.0, 3.0), *validation(20.0, 30.0, start=10.0), *batch(3, 31.5)]

    run = fold(monitor(), events)

    train_logs = [log.metrics for log in run.of(Log) if "train/time" in log.metrics]
    # from 1.0 to 3.0, then from the end of validation, 30.5, on
    assert [log["train/time"] for log in train_logs] == [1.0, 2.0, 3.0]
    assert train_logs[-1]["train/device/batches_per_sec"] == 1.0


def test_validations_are_summed_up_and_logged_when_each_is_over():
    events = [*validation(11.0, 12.0, start=10.0), *validation(20.5, 21.0, start=20.0)]

    assert logs(monitor(), events) == [
        {"validate/time": 2.0, "validate/batches": 2, "validate/samples": 8},
        {
            "validate/time": 3.0,
            "validate/batches": 4,
            "validate/samples": 16,
            "validate/device/batches_per_sec": 2.0,  # of the last three ends: 2.0, 2.5 and 3.0
            "validate/device/samples_per_sec": 8.0,
        },
    ]


def test_the_sanity_check_does_not_count():
    check = [ev.SanityCheckStart(seconds=1.0), *validation(2.0, start=1.5), ev.SanityCheckEnd(seconds=3.0)]

    run = fold(monitor(), [*check, *train(5.0, start=4.0)])

    assert [log.metrics for log in run.of(Log)] == [{"train/time": 1.0, "train/batches": 1, "train/samples": 8}]
    assert list(run.state.paces) == ["train"]


@pytest.mark.parametrize(
    ("stage", "kinds"),
    [
        ("test", (ev.TestStart, ev.TestBatchStart, ev.TestBatchEnd, ev.TestEnd)),
        ("predict", (ev.PredictStart, ev.PredictBatchStart, ev.PredictBatchEnd, ev.PredictEnd)),
    ],
)
def test_other_stages_are_logged_when_they_are_over(stage, kinds):
    start, batch_start, batch_end, end = kinds
    batches = [event for at in (2.0, 4.0, 6.0) for event in batch(0, at, 8, batch_start, batch_end)]

    (found,) = logs(monitor(), [start(seconds=1.0), *batches, end(seconds=9.0)])

    assert found == {
        f"{stage}/time": 5.0,
        f"{stage}/batches": 3,
        f"{stage}/samples": 24,
        f"{stage}/device/batches_per_sec": 0.5,
        f"{stage}/device/samples_per_sec": 4.0,
    }


def test_the_window_holds_the_last_ends_only():
    state = fold(monitor(window_size=2), train(2.0, 3.0, 4.5)).state

    window = ((2.0, 2, 16), (3.5, 3, 24))
    assert state.paces == {"train": Pace(3.5, 3, 24, window)}
    assert (state.since, state.samples, state.logged) == (4.5, 0, 3)


def test_a_run_that_goes_on_does_not_count_the_time_between():
    state = fold(monitor(), train(2.0, 3.0)).state

    (found,) = logs(monitor(), [ev.TrainStart(seconds=100.0), *batch(3, 101.0)], state)

    assert found["train/time"] == 3.0
    assert found["train/device/batches_per_sec"] == 1.0


def test_a_batch_that_nobody_started_has_no_samples():  # one that is None
    events = [*train(2.0), ev.TrainBatchEnd(step=2, seconds=3.0)]

    assert logs(monitor(), events)[-1]["train/samples"] == 8


def counted(**metrics):
    return ev.Probed(what="flops", key=KEY, at="on_train_batch_start", metrics=metrics)


def test_operations_are_counted_at_the_first_batch_of_a_run_only():
    callback = monitor(count_flops=True)

    asked = fold(callback, train(2.0, 3.0)).of(Probe)
    again = fold(callback, train(5.0), fold(callback, train(2.0, 3.0)).state).of(Probe)

    assert (asked, again) == ((Probe("flops", key=KEY),), ())
    assert fold(monitor(), train(2.0)).of(Probe) == ()
    assert (monitor().emits, callback.emits) == ((Log,), (Log, Probe))


def with_operations(*ends, **found):
    start, first, *rest = train(*ends)
    return [start, first, counted(**found), *rest]


def test_operations_of_a_sample_are_those_of_the_first_batch_by_its_samples():
    state = fold(monitor(count_flops=True), with_operations(2.0, flops=4000.0)).state

    assert (state.flops, state.available_flops) == (500.0, None)


@pytest.mark.parametrize(
    ("given", "found", "mfu"),
    [
        ({}, {"available_flops": 32000.0}, 0.25),  # as the loop knows the device
        ({"available_flops": 16000.0}, {}, 0.5),
        ({"available_flops": 16000.0}, {"available_flops": 32000.0}, 0.5),  # what is given counts
        ({}, {}, None),
    ],
)
def test_mfu_is_what_is_made_by_what_could_be(given, found, mfu):
    events = with_operations(2.0, 2.5, 3.0, flops=4000.0, **found)

    last = logs(monitor(count_flops=True, **given), events)[-1]

    assert last["train/device/flops_per_sec"] == 8000.0  # 16 samples a second of 500 each
    assert last.get("train/device/mfu") == mfu


def test_operations_are_those_of_training_only():
    events = [*with_operations(2.0, flops=4000.0, available_flops=1.0), *validation(11.0, 12.0, 13.0, start=10.0)]

    last = logs(monitor(count_flops=True), events)[-1]
    assert last["validate/device/batches_per_sec"] == 1.0
    assert [name for name in last if "flops" in name or "mfu" in name] == []


def test_operations_that_cannot_be_counted_are_not_logged():
    last = logs(monitor(count_flops=True), train(2.0, 2.5, 3.0))[-1]

    assert [name for name in last if "flops" in name or "mfu" in name] == []


@pytest.mark.parametrize("other", [{"key": "somebody"}, {"what": "device"}])
def test_answers_to_others_are_not_taken(other):
    found = ev.Probed(**{"what": "flops", "key": KEY, "metrics": {"flops": 8.0}, **other})
    start, first = train(2.0)[:2]

    assert fold(monitor(count_flops=True), [start, first, found]).state.flops is None


def test_the_separator_is_between_all_parts():
    last = logs(monitor(separator="."), train(2.0, 3.0, 4.0))[-1]

    assert list(last)[2:4] == ["train.samples", "train.device.batches_per_sec"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"window_size": 1}, ValueError, "window_size must be 2 batches or more, got 1"),
        ({"window_size": 2.5}, TypeError, "window_size must be an int, got 2.5"),
        ({"separator": None}, TypeError, "separator must be text, got None"),
        ({"available_flops": 0}, ValueError, r"available_flops must be a number in \(0, inf\), got 0"),
        ({"available_flops": nan}, ValueError, r"available_flops must be a number in \(0, inf\), got nan"),
        ({"available_flops": inf}, ValueError, r"available_flops must be a number in \(0, inf\), got inf"),
        ({"length": 0}, ValueError, "length must be 1 item or more, got 0"),
        ({"log_every_n_steps": 0}, ValueError, "log_every_n_steps must be 1 step or more, got 0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=f"^throughput_monitor: {message}"):
        throughput_monitor(**arguments)


def test_it_begins_with_nothing():
    assert throughput_monitor().init() == ThroughputMonitorState()
