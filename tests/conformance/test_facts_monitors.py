"""The facts of facts.md on monitors and writers, with their numbers, and what callbacks.md says of them."""

import gc
import gzip
import json
from functools import partial

import pytest
import torch
from torch import nn

import fncb
from fncb import store
from fncb.callback import Callback, compose, emit
from fncb.callbacks import checkpoint, early_stop, progress_bar, timer
from fncb.callbacks.data_wait import data_wait
from fncb.callbacks.device_stats_monitor import device_stats_monitor
from fncb.callbacks.garbage_collect import garbage_collect
from fncb.callbacks.lr_monitor import lr_monitor
from fncb.callbacks.notify import notify
from fncb.callbacks.on import on
from fncb.callbacks.prediction_writer import prediction_writer
from fncb.callbacks.profile import profile
from fncb.callbacks.recompile_monitor import recompile_monitor
from fncb.callbacks.reduce_on_plateau import reduce_on_plateau
from fncb.callbacks.schedule import schedule
from fncb.callbacks.throughput_monitor import throughput_monitor
from fncb.effects import Freeze, Log, Unfreeze
from fncb.loop import predict, test, validate
from fncb.recording import read
from fncb.task import Task
from tests.conformance.runs import Clock, StepLR, asks, batches, spy, stops_at, task, train

SGD = partial(torch.optim.SGD, lr=0.1)
Adam = partial(torch.optim.Adam, lr=0.1, weight_decay=0.25)


def logged(function, *given, tmp_path, key="log", **settings):
    """The metrics of each `Log` that was asked for in a run."""
    run = function(*given, record=tmp_path / f"{key}.jsonl", **settings)
    return [dict(effect.metrics) for effect in read(run.recording).effects if type(effect) is Log]


# Learning rates.


def names_of(optimizer, tmp_path, *callbacks, **settings):
    """The names that are logged for an optimizer over a model of two layers, epoch by epoch."""
    model = nn.Sequential(nn.Linear(32, 2), nn.Linear(2, 2))
    settings = {"max_epochs": 1, **settings}
    found = logged(
        train, task(model, optimizer=optimizer), batches(2), callbacks=callbacks, tmp_path=tmp_path, **settings
    )
    return [list(each) for each in found]


def groups(*names, optimizer=torch.optim.SGD):
    def make(params):
        parts = [list(params)[i :: len(names)] for i in range(len(names))]
        named = [{"params": part, **({"name": name} if name else {})} for part, name in zip(parts, names, strict=True)]
        return optimizer(named, lr=0.1)

    return lambda params: make(list(params))


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (SGD, ["lr-SGD"]),
        (partial(torch.optim.AdamW, lr=0.1), ["lr-AdamW"]),
        (groups(None, None), ["lr-SGD/pg1", "lr-SGD/pg2"]),
        (groups("linear"), ["lr-SGD/linear"]),  # a single group that has a name
        (groups("linear", "head"), ["lr-SGD/linear", "lr-SGD/head"]),
        (groups("linear", None, optimizer=torch.optim.Adam), ["lr-Adam/linear", "lr-Adam/pg2"]),
    ],
)
def test_f56_rates_are_named_by_optimizer_and_group(optimizer, names, tmp_path):
    assert names_of(optimizer, tmp_path, lr_monitor()) == [names]


@pytest.mark.parametrize("names", [("linear", "linear"), ("pg2", None)])
def test_f56_groups_must_have_names_of_their_own(names, tmp_path):
    with pytest.raises(ValueError, match=r"^Task: each parameter group must have a name of its own, got"):
        names_of(groups(*names), tmp_path, lr_monitor())


def two_adams(**given):
    return Task(
        nn.ModuleDict({"a": nn.Linear(32, 2), "b": nn.Linear(32, 2)}),
        loss={name: lambda model, x, name=name: model[name](x).square().mean() for name in "ab"},
        optimizer=dict.fromkeys("ab", Adam),
        **given,
    )


@pytest.mark.parametrize(("interval", "values"), [("epoch", 2), ("step", 7)])
def test_f56_a_second_optimizer_of_a_kind_has_a_number(interval, values, tmp_path):
    monitor = lr_monitor(logging_interval=interval, log_every_n_steps=2)

    found = logged(train, two_adams(), batches(7), callbacks=monitor, max_epochs=2, tmp_path=tmp_path)

    # 14 rounds, each second one of which is logged; Lightning counts the steps of both optimizers
    assert found == [{"lr-Adam": 0.1, "lr-Adam-1": 0.1}] * values


def test_f56_names_change_when_a_group_comes(tmp_path):
    later = Callback(
        key="later",
        init=int,
        emits=(Freeze, Unfreeze),
        on_train_start=lambda s, e: emit(s, Freeze("1.*")),
        on_train_epoch_end=lambda s, e: emit(s, Unfreeze("1.*", lr=0.5)) if e.epoch == 0 else s,
    )

    names = names_of(SGD, tmp_path, later, lr_monitor(logging_interval="step"), max_epochs=2)

    assert names == [["lr-SGD"]] * 2 + [["lr-SGD/pg1", "lr-SGD/pg2"]] * 2


def test_f56_momentum_and_weight_decay_of_each_group(tmp_path):
    monitor = lr_monitor(log_momentum=True, log_weight_decay=True, log_key_prefix="optimizer/")

    found = logged(train, two_adams(), batches(1), callbacks=monitor, max_epochs=1, tmp_path=tmp_path)

    names = ["lr-Adam-momentum", "lr-Adam-weight_decay", "lr-Adam-1-momentum", "lr-Adam-1-weight_decay"]
    assert found[1] == dict(zip([f"optimizer/{name}" for name in names], [0.9, 0.25] * 2, strict=True))


@pytest.mark.parametrize(("interval", "rates"), [("epoch", [0.1, 0.01]), ("step", [0.1, 0.01, 0.001, 0.0001])])
def test_rates_are_logged_whenever_a_schedule_has_moved_them(interval, rates, tmp_path):
    given = task(schedule=StepLR, schedule_interval=interval)

    found = logged(train, given, batches(2), callbacks=lr_monitor(), max_epochs=2, tmp_path=tmp_path)

    # Lightning knows the schedule's interval; here an epoch's first rate is logged, and each that is another
    assert [each["lr-SGD"] for each in found] == pytest.approx(rates)


def test_a_rate_can_be_monitored_without_a_monitor():
    stop = early_stop("lr-SGD", stopping_threshold=0.05, check_on_train_epoch_end=True)

    result = train(task(schedule=StepLR), batches(2), callbacks=stop, max_epochs=5)

    assert (result.epoch, result.stopped is not None) == (1, True)


# Predictions.


@pytest.mark.parametrize(
    ("interval", "of_batches", "of_epochs"), [("batch_and_epoch", 4, 1), ("batch", 4, 0), ("epoch", 0, 1)]
)
@pytest.mark.parametrize("return_predictions", [True, False])
def test_f61_a_writer_is_called_for_each_batch_and_at_the_end(interval, of_batches, of_epochs, return_predictions):
    by_batch, at_end = [], []
    writer = prediction_writer(
        lambda prediction, indices, batch, batch_idx, dataloader_idx: by_batch.append((batch_idx, indices)),
        lambda predictions, indices: at_end.append((len(predictions), indices)),
        write_interval=interval,
    )

    given = [torch.zeros(4, 32)] * 4
    predict(task(), given, callbacks=writer, progress=False, return_predictions=return_predictions)

    indices = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert by_batch == [*enumerate(indices)][:of_batches]
    assert at_end == [(4, indices)][:of_epochs]


@pytest.mark.parametrize("interval", ["something", "batch", "epoch"])
def test_a_writer_must_have_the_functions_that_it_calls(interval):
    with pytest.raises(ValueError, match=r"^prediction_writer: "):  # Lightning raises when it is called
        prediction_writer(write_interval=interval)


# The device.


@pytest.mark.parametrize(("cpu_stats", "reads"), [(None, 4), (True, 4), (False, 0)])
def test_f62_two_batches_read_the_cpu_four_times(cpu_stats, reads, tmp_path):
    monitor = device_stats_monitor(cpu_stats, log_every_n_steps=1)

    found = logged(train, task(), batches(2), callbacks=monitor, max_epochs=1, tmp_path=tmp_path, device="cpu")

    names = [name for each in found for name in each if name.endswith("/cpu_percent")]
    hooks = ["on_train_batch_start", "on_train_batch_end"] * 2
    assert names == [f"device_stats_monitor.{hook}/cpu_percent" for hook in hooks][:reads]


@pytest.mark.parametrize("function", [partial(train, max_epochs=1), test])
def test_a_run_on_the_cpu_looks_at_the_cpu_whatever_else_there_is(function, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monitor = device_stats_monitor(log_every_n_steps=1)

    found = logged(function, task(), batches(1), callbacks=monitor, tmp_path=tmp_path, device="cpu")

    assert [name for each in found for name in each if name.endswith("/cpu_percent")]


def test_it_looks_at_validation_and_test_too(tmp_path):
    for stage, name in ((validate, "validation"), (test, "test")):
        monitor = device_stats_monitor(True, ["cpu_percent"], log_every_n_steps=1)
        found = logged(stage, task(), batches(1), callbacks=monitor, tmp_path=tmp_path, key=name)

        begins = f"device_stats_monitor.on_{name}_batch"
        assert [list(each) for each in found] == [[f"{begins}_start/cpu_percent"], [f"{begins}_end/cpu_percent"]]


def test_what_it_logs_joins_no_events():
    names, seen = spy("on_train_epoch_end", lambda event: list(event.metrics))

    train(task(), batches(2), callbacks=[device_stats_monitor(log_every_n_steps=1), names], max_epochs=1)

    assert seen == [["loss", "loss_epoch", "lr-SGD"]]


# Throughput.


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when it is told to."""
    clock = Clock()
    for room in ("session", "training"):
        monkeypatch.setattr(f"fncb.{room}.time", clock)
    monkeypatch.setattr(clock, "time", lambda: 0.0, raising=False)
    return clock


def test_throughput_leaves_validation_out_of_training(clock, tmp_path):
    passes = clock.passes(on_train_batch_end=0.5, on_validation_batch_end=4.0, on_validation_start=8.0)
    monitor = throughput_monitor(window_size=3, log_every_n_steps=1, count_flops=False)

    found = logged(
        *(train, task(), [torch.zeros(4, 32)] * 3, [torch.zeros(2, 32)] * 2),
        callbacks=[passes, monitor],
        max_epochs=2,
        tmp_path=tmp_path,
    )

    # time is taken before a hook lets it pass, so half a second lies between two ends
    of_training = [each for each in found if "train/time" in each]
    assert [each["train/time"] for each in of_training] == [0.0, 0.5, 1.0, 1.0, 1.5, 2.0]
    assert [each["train/samples"] for each in of_training] == [4, 8, 12, 16, 20, 24]
    assert of_training[2]["train/device/samples_per_sec"] == 8 / 1.0
    assert "train/device/samples_per_sec" not in of_training[1]

    of_validation = [each for each in found if "validate/time" in each]  # without the sanity check
    assert [each["validate/batches"] for each in of_validation] == [2, 4]
    assert [each["validate/time"] for each in of_validation] == [12.0, 24.0]


def test_throughput_is_logged_at_the_end_of_a_window_of_accumulated_batches(tmp_path):
    monitor = throughput_monitor(log_every_n_steps=1, count_flops=False)

    found = logged(
        *(train, task(), batches(6)), callbacks=monitor, max_epochs=1, accumulate_grad_batches=3, tmp_path=tmp_path
    )

    assert [each["train/batches"] for each in found] == [3, 6]


def test_throughput_knows_what_a_training_step_takes(clock, tmp_path):
    passes = clock.passes(on_train_batch_end=0.5)
    monitor = throughput_monitor(window_size=2, log_every_n_steps=1, available_flops=4096.0)

    last = logged(
        train, task(), [torch.zeros(4, 32)] * 2, callbacks=[passes, monitor], max_epochs=1, tmp_path=tmp_path
    )[-1]

    operations = 2 * (2 * 4 * 32 * 2)  # forward and the gradient of the weight
    assert last["train/device/flops_per_sec"] == operations / 0.5
    assert last["train/device/mfu"] == operations / 0.5 / 4096


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_throughput_of_other_stages(stage, tmp_path):
    function = {"validate": validate, "test": test, "predict": predict}[stage]

    (found,) = logged(function, task(), [torch.zeros(4, 32)] * 3, callbacks=throughput_monitor(), tmp_path=tmp_path)

    assert (found[f"{stage}/batches"], found[f"{stage}/samples"]) == (3, 12)


def test_waiting_for_batches_is_told(clock, tmp_path):
    class Slow:
        def __iter__(self):
            for batch in batches(3):
                clock.now += 1.5
                yield batch

    passes = clock.passes(on_train_batch_start=0.5, on_validation_start=100.0)

    found = logged(train, task(), Slow(), batches(1), callbacks=[passes, data_wait()], max_epochs=2, tmp_path=tmp_path)

    assert found == [{"data_wait_seconds": 4.5, "data_wait_share": 0.75}] * 2


# Functions as callbacks, keys and order.


def test_a_function_for_a_hook_runs_in_a_fit():
    seen = []

    result = train(
        task(),
        batches(2),
        callbacks=[
            on(train_start=lambda event: seen.append("starts"), train_end=lambda event: Log({"end": 1.0})),
            on(key="counts", init=int, train_batch_end=lambda state, event: state + 1),
        ],
        max_epochs=1,
    )

    assert (seen, result.metrics["end"], result.state["counts"]) == (["starts"], 1.0, 2)


def counter(what):
    """Counts batches or epochs, as the example of Lightning's documentation does."""

    def counts(name):
        return lambda state, event: {**state, name: state[name] + 1} if name == what else state

    return Callback(
        key=f"counter({what})",
        init=lambda: {"batches": 0, "epochs": 0},
        emits=(),
        config={"what": what},
        on_train_batch_end=counts("batches"),
        on_train_epoch_end=counts("epochs"),
    )


def test_f66_two_of_a_kind_are_told_apart_by_their_keys(tmp_path):
    both = [counter("batches"), counter("epochs"), checkpoint(tmp_path)]

    result = train(task(), batches(16), callbacks=both, max_epochs=2)

    # in fncb a key is what the callback was given; Lightning's would be "Counter{'what': 'batches'}"
    expected = {"counter(batches)": {"batches": 32, "epochs": 0}, "counter(epochs)": {"epochs": 2, "batches": 0}}
    assert {key: result.state[key] for key in expected} == expected
    (saved,) = tmp_path.glob("*.safetensors")
    assert {key: store.read(saved)["callbacks"][key] for key in expected} == expected


def test_f66_two_with_one_key_are_refused():
    with pytest.raises(ValueError, match=r"'counter\(epochs\)'.*key="):
        compose(counter("epochs"), counter("epochs"))


def test_f65_order_given_is_order_run(tmp_path):  # Lightning moves checkpoints last; hooks.md, section 0
    given = [
        checkpoint(tmp_path / "a", key="first"),
        progress_bar(),
        lr_monitor(),
        timer(),
        checkpoint(tmp_path / "b", key="second"),
    ]

    assert [part.key for part in compose(given).parts] == ["first", "progress_bar", "lr_monitor", "timer", "second"]


def test_f65_whatever_they_do_they_are_heard_in_that_order(tmp_path):
    heard = []

    def spies(key):
        return on(key=key, train_epoch_end=lambda event: heard.append(key))

    between = [
        spies("a"),
        early_stop("loss", check_on_train_epoch_end=True),
        spies("b"),
        checkpoint(tmp_path),
        spies("c"),
    ]
    train(task(), batches(2), callbacks=between, max_epochs=2)

    assert heard == ["a", "b", "c"] * 2


def test_f65_a_second_one_of_a_kind_takes_no_place_of_the_first():  # Lightning's model replaces the trainer's
    with pytest.raises(ValueError, match="keys must be unique, got two callbacks with the key 'early_stop\\(red\\)'"):
        compose([progress_bar(), early_stop("red")], [early_stop("red", patience=7)])


# What happens outside of the metrics.


def test_garbage_is_collected_at_the_steps_that_are_asked_for():
    enabled, seen = spy("on_train_batch_end", lambda event: gc.isenabled())

    train(task(), batches(3), callbacks=[garbage_collect(every_n_steps=2), enabled], max_epochs=1)

    assert seen == [False] * 3
    assert gc.isenabled()


def test_traces_are_written_for_the_steps_that_are_asked_for(tmp_path):
    callback = profile(tmp_path / "step={step}.json.gz", skip_first=1, wait=1, active=1, repeat=0)

    train(task(), batches(5), callbacks=callback, max_epochs=1)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["step=2.json.gz", "step=4.json.gz"]
    trace = json.loads(gzip.decompress((tmp_path / "step=2.json.gz").read_bytes()))
    assert "aten::addmm" in {each.get("name") for each in trace["traceEvents"]}


def test_the_last_trace_is_written_when_training_ends_early(tmp_path):
    callback = profile(tmp_path / "{step}.json", skip_first=1, active=100)

    train(task(), batches(5), callbacks=[callback, stops_at(0, 2)], max_epochs=1)

    assert [path.name for path in tmp_path.iterdir()] == ["1.json"]


def test_a_trace_is_written_when_a_run_fails(tmp_path):
    callback = profile(tmp_path / "{step}.json", skip_first=0, active=100)

    with pytest.raises(KeyError):
        train(task(), batches(5), callbacks=[callback, on(train_batch_end=fails)], max_epochs=1)

    assert [path.name for path in tmp_path.iterdir()] == ["0.json"]


def test_somebody_outside_is_told_how_a_run_ends(tmp_path):
    path, called = tmp_path / "made" / "notes.jsonl", []
    told = [
        notify(path, metrics=["loss"]),
        notify(lambda event: called.append(event.step), key="calls", on=["train_end"]),
    ]

    train(task(), batches(4), callbacks=[*told, stops_at(0, 1)], max_epochs=5)
    with pytest.raises(KeyError):
        train(task(), batches(2), callbacks=[*told, on(train_batch_end=fails)], max_epochs=1)

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["stop_requested", "train_end", "exception"]
    assert (lines[0]["reason"], lines[1]["step"], list(lines[1]["metrics"])) == ("enough", 2, ["loss"])
    assert (lines[2]["error"], lines[2]["message"]) == ("KeyError", "'gone'")
    assert called == [2]


def fails(event):
    raise KeyError("gone")


# Recordings.


def all_of_them():
    return [
        lr_monitor(log_momentum=True),
        device_stats_monitor(True, log_every_n_steps=1),
        throughput_monitor(window_size=2, log_every_n_steps=1, available_flops=1e9),
        data_wait(log_every_n_steps=2),
        recompile_monitor(),
        garbage_collect(every_n_steps=2),
        notify(lambda event: None, on=["validation_end", "train_end"]),
        schedule("lr", lambda step: 0.1 / (1 + step), interval="step"),
        reduce_on_plateau("val_loss", patience=0),
        on(train_batch_end=lambda event: Log({"twice": 2.0 * event.step})),
    ]


def test_a_recording_replays_to_the_states_and_effects_of_the_run(tmp_path):
    rounds = {"accumulate_grad_batches": 2, "max_epochs": 3, "val_check_interval": 2}

    result = train(task(), batches(5), batches(2), callbacks=all_of_them(), record=tmp_path / "a.jsonl", **rounds)

    recorded = read(result.recording)
    replayed = fncb.replay(compose(all_of_them()), recorded)
    assert replayed.effects == recorded.effects
    assert replayed.state == result.state


def test_monitors_change_nothing_of_what_is_trained():
    def trained(callbacks):
        torch.manual_seed(7)
        given = task(nn.Sequential(nn.Linear(32, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)))
        data = [torch.randn(4, 32) for _ in range(4)]
        train(given, data, data[:1], callbacks=callbacks, max_epochs=2)
        return {name: each.clone() for name, each in given.model.state_dict().items()}

    monitors = [each for each in all_of_them() if not each.key.startswith(("schedule", "reduce"))]
    one, other = trained(monitors), trained([])
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stage", [validate, test, predict])
def test_what_is_made_for_training_can_be_there_in_other_stages(stage):
    stage(task(), batches(2), callbacks=[*all_of_them(), profile("a.json")], progress=False)


def test_a_callback_that_is_asked_for_what_others_asked_for_hears_its_own_answers_only(tmp_path):
    both = [device_stats_monitor(True, ["cpu_percent"], log_every_n_steps=1, key=key) for key in "ab"]
    asked = asks(Log({"x": 1.0}), "on_train_start", lambda event: True)

    found = logged(train, task(), batches(1), callbacks=[*both, asked], max_epochs=1, tmp_path=tmp_path)

    names = [name.split(".")[0] for each in found[1:] for name in each]
    assert names == ["a", "b", "a", "b"]
