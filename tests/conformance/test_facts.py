"""The facts of facts.md on stopping and limits, time and accumulation, with their numbers."""

import logging
from datetime import timedelta

import pytest
import torch

from fncb import events as ev
from fncb.callback import Callback
from fncb.callbacks import accumulation_schedule, checkpoint, early_stop, timer
from fncb.durations import seconds_of
from fncb.effects import Stop
from fncb.loop import predict, test, validate
from tests.conformance.runs import Clock, StepLR, asks, batches, heard, raises_in, spy, task, train, validations
from tests.folding import fold


def of_the_facts():
    return task(schedule=StepLR)


# Stop and limits.


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
def test_f11_a_stop_in_the_fifth_of_ten_batches_validates_there_and_ends_the_epoch(hook):
    stops = asks(Stop("enough"), hook, lambda event: event.batch_idx == 4)
    validated, at = spy("on_validation_end", lambda event: (event.epoch, event.step))
    ends, epochs = spy("on_train_end", lambda event: event.epoch, "ends")
    settings = {"max_epochs": 1, "limit_train_batches": 10, "num_sanity_val_steps": 0}

    result = train(of_the_facts(), batches(), batches(), callbacks=[stops, validated, ends], **settings)

    assert (result.step, at, epochs) == (5, [(0, 5)], [1])
    assert (result.epoch, result.stopped) == (1, Stop("enough"))


def test_f13_a_stop_waits_for_min_epochs_and_says_so_once(caplog):
    still = task(schedule=StepLR, loss=lambda model, batch: model(batch).sum() * 0)
    stops, asked = early_stop("val_loss", patience=0), []
    requested = Callback(key="r", init=int, on_stop_requested=lambda s, e: asked.append(e.epoch) or s)

    with caplog.at_level(logging.INFO, "fncb"):
        result = train(
            still,
            batches(2),
            batches(2),
            callbacks=[stops, requested],
            min_epochs=5,
            max_epochs=50,
            num_sanity_val_steps=0,
        )

    assert (result.step, result.epoch, asked) == (10, 5, [1])
    assert sum("min_epochs=5" in record.getMessage() for record in caplog.records if record.name == "fncb") == 1


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "done"),
    [(5, -1, False), (-1, 10, False), (0, -1, True), (-1, 0, True), (-1, -1, False)],
)
def test_f14_a_run_is_over_before_it_begins_if_a_limit_is_0(max_epochs, max_steps, done):
    callback, seen = heard()
    stops = asks(Stop("enough"), "on_train_batch_end", lambda event: event.step == 3)  # -1 and -1 never end

    result = train(of_the_facts(), batches(2), callbacks=[callback, stops], max_epochs=max_epochs, max_steps=max_steps)

    assert ("on_train_start" not in seen) == done
    assert result.step == (0 if done else 3)


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
@pytest.mark.parametrize("value", [-2, -100])
def test_f14_a_limit_below_minus_1_is_an_error(limit, value):
    with pytest.raises(ValueError, match=f"^fit: {limit} must be -1 or more, got {value}"):
        train(of_the_facts(), batches(2), **{limit: value})


@pytest.mark.parametrize(("limit", "sanity"), [(3, 3), (8, 4), (1.0, 4)])
def test_f16_the_sanity_check_has_no_more_batches_than_validation(limit, sanity):
    seen, checked = [], []
    callback = Callback(
        key="counts",
        init=int,
        on_validation_batch_end=lambda s, e: seen.append(e.batch_idx) or s,
        on_sanity_check_end=lambda s, e: checked.append(len(seen)) or s,
    )

    train(
        of_the_facts(),
        batches(2),
        batches(),
        callbacks=callback,
        max_epochs=3,
        num_sanity_val_steps=4,
        limit_val_batches=limit,
    )

    total = 64 if limit == 1.0 else limit
    assert (checked, len(seen)) == ([sanity], 3 * total + sanity)


def test_f17_ctrl_c_in_a_hook_reaches_later_callbacks_teardown_and_the_caller():
    error = KeyboardInterrupt()
    later, seen = spy("on_exception", lambda event: event.exception, "later")
    callback, names = heard()

    with pytest.raises(KeyboardInterrupt):  # Lightning exits and does not tear down; hooks.md, section 0
        train(of_the_facts(), batches(), callbacks=[raises_in("on_train_batch_start", error), later, callback])

    assert seen == [error]
    assert names[-3:] == ["on_keyboard_interrupt", "on_exception", "teardown(fit)"]


def test_f17_an_error_in_on_test_start_is_seen_and_raised_again():
    error = ValueError("misconfigured")
    later, seen = spy("on_exception", lambda event: event.exception, "later")

    with pytest.raises(ValueError, match="misconfigured") as caught:
        test(of_the_facts(), batches(), callbacks=[raises_in("on_test_start", error), later])

    assert caught.value is error
    assert seen == [error]


def test_f17_on_exception_comes_once_for_each_function_that_fails():
    def breaks(model, batch):
        raise RuntimeError("in a step")

    counts, seen = spy("on_exception", lambda event: event.error)
    broken, counted = task(loss=breaks, predict=breaks), []
    for function in (train, validate, test, predict):
        with pytest.raises(RuntimeError, match="in a step"):
            function(broken, batches(2), callbacks=counts)
        counted.append(len(seen))

    assert counted == [1, 2, 3, 4]


class Stateful:
    """Numbers up to 9 as batches; keeps the place of the next one."""

    def __init__(self, start=0):
        self.next, self.loaded = start, []

    def __iter__(self):
        while self.next < 10:
            self.next += 1
            yield torch.full((1, 32), float(self.next - 1))
        self.next = 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.loaded.append(dict(state))
        self.next = state["next"]


class Combined:
    """Pairs of batches of two loaders; keeps the state of both."""

    def __init__(self, *loaders):
        self.loaders = loaders

    def __iter__(self):
        return zip(*self.loaders, strict=False)

    def state_dict(self):
        return {"loaders": [loader.state_dict() for loader in self.loaders]}

    def load_state_dict(self, state):
        for loader, each in zip(self.loaders, state["loaders"], strict=True):
            loader.load_state_dict(each)


def trained_on(train_on, tmp_path, number, **settings):
    starts, seen = spy("on_train_batch_start", lambda event: number(event.batch))
    saves = checkpoint(tmp_path, every_n_train_steps=2)
    train(task(loss=lambda model, batch: model(first(batch)).mean()), train_on, callbacks=[saves, starts], **settings)
    return seen


def first(batch):
    return batch if isinstance(batch, torch.Tensor) else batch[0]


def number_of(batch):
    return int(batch[0, 0]) if isinstance(batch, torch.Tensor) else [int(each[0, 0]) for each in batch]


def test_f18_a_loader_that_keeps_state_goes_on_through_it(tmp_path):
    cut, resumed = Stateful(), Stateful()

    assert trained_on(cut, tmp_path, number_of, max_steps=2) == [0, 1]
    assert trained_on(resumed, tmp_path, number_of, max_steps=4, resume="last") == [2, 3]
    assert (cut.loaded, resumed.loaded) == ([], [{"next": 2}])


def test_f18_a_loader_that_keeps_none_goes_on_too(tmp_path):  # Lightning begins again; promise 6 of reliability.md
    numbers = [torch.full((1, 32), float(k)) for k in range(10)]

    assert trained_on(numbers, tmp_path, number_of, max_steps=2) == [0, 1]
    assert trained_on(numbers, tmp_path, number_of, max_steps=4, resume="last") == [2, 3]


def test_f18_loaders_that_are_combined_go_on_together(tmp_path):
    cut, resumed = Combined(Stateful(3), Stateful(1)), Combined(Stateful(3), Stateful(1))

    assert trained_on(cut, tmp_path, number_of, max_steps=2) == [[3, 1], [4, 2]]
    assert trained_on(resumed, tmp_path, number_of, max_steps=4, resume="last") == [[5, 3], [6, 4]]
    assert [loader.loaded for loader in resumed.loaders] == [[{"next": 5}], [{"next": 3}]]


def test_f18_a_limit_counts_the_batches_before_the_resume(tmp_path):
    trained_on(Stateful(), tmp_path, number_of, max_steps=2, limit_train_batches=5)
    going_on = {"max_epochs": 2, "limit_train_batches": 5, "resume": "last"}

    assert trained_on(Stateful(), tmp_path, number_of, **going_on)[:3] == [2, 3, 4]


# Time.


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("00:00:00:22", 22.0),
        ("12:34:56:65", 1162625.0),
        ({"weeks": 52, "days": 1}, 31536000.0),  # 365 days
        (timedelta(weeks=52, days=1), 31536000.0),
    ],
)
def test_f19_a_timer_understands_durations(duration, seconds):
    assert seconds_of("timer: duration", duration) == seconds

    started = [ev.FitStart(seconds=0.0), ev.TrainStart(seconds=0.0)]
    almost, up = ev.TrainBatchEnd(seconds=seconds - 0.5), ev.TrainBatchEnd(seconds=seconds)
    assert fold(timer(duration), [*started, almost]).effects == ()
    assert len(fold(timer(duration), [*started, up]).of(Stop)) == 1


@pytest.mark.parametrize("duration", ["6:00:00", "60 minutes"])
def test_f19_what_is_no_duration_is_an_error(duration):
    with pytest.raises(ValueError, match=f"must be 'DD:HH:MM:SS', got '{duration}'"):
        timer(duration)
    with pytest.raises(ValueError, match=f"must be 'DD:HH:MM:SS', got '{duration}'"):
        train(of_the_facts(), batches(2), max_time=duration)


def test_f19_a_timer_of_ten_seconds_has_seven_left_after_three():
    duration = 10.0
    limit = timer({"seconds": 10})

    before = fold(limit, [ev.FitStart(seconds=1.0)]).state
    assert (duration - before.elapsed(1.0), before.elapsed(1.0)) == (10.0, 0.0)

    state = fold(limit, [ev.FitStart(seconds=1.0), ev.TrainStart(seconds=2.0)]).state
    assert (duration - state.elapsed(5.0), state.elapsed(5.0)) == (7.0, 3.0)


def test_f19_a_run_without_any_time_looks_at_it_when_fit_starts_and_stops():
    callback, seen = heard(leave_out=())

    result = train(of_the_facts(), batches(2), callbacks=callback, max_time="00:00:00:00")

    assert seen == [
        *("on_init_start", "on_init_end", "setup(fit)", "on_configure_sharded_model", "on_fit_start"),
        *("on_stop_requested", "on_fit_end", "teardown(fit)"),
    ]
    assert (result.step, result.epoch) == (0, 0)
    assert result.stopped is not None


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [
        ("01:02:03:04", 93784.0),
        ({"hours": 2, "minutes": 30}, 9000.0),
        (timedelta(days=1, seconds=30), 86430.0),
    ],
)
def test_f21_a_validation_interval_may_be_a_duration(monkeypatch, interval, seconds):
    assert seconds_of("fit: val_check_interval", interval) == seconds

    clock = Clock()
    monkeypatch.setattr("fncb.session.time", clock)
    passes = clock.passes(on_train_batch_start=iter([seconds - 0.5, 0.5, 1.0, seconds - 1.0, 5.0]))
    callback, seen = validations()

    train(
        of_the_facts(), batches(5), batches(1), callbacks=[passes, callback], max_epochs=1, val_check_interval=interval
    )

    assert seen == [(0, 2), (0, 4)]


# Accumulation.


@pytest.mark.parametrize(("accumulate", "times"), [(1, 20), (2, 10), (3, 7)])
def test_f22_gradients_are_dropped_once_a_window(accumulate, times):
    counts, seen = spy("on_before_zero_grad", lambda event: event.batch_idx)

    result = train(of_the_facts(), batches(20), callbacks=counts, max_epochs=1, accumulate_grad_batches=accumulate)

    assert len(seen) == result.step == times


@pytest.mark.parametrize(
    ("scheduling", "steps"),
    [
        ({1: 2, 3: 4}, [10, 5, 5, 3]),
        ({0: 2, 2: 1}, [5, 5, 10, 10]),
    ],
)
def test_f23_the_accumulation_follows_its_schedule(scheduling, steps):
    counts, seen = spy("on_after_optimizer_step", lambda event: event.epoch)

    result = train(of_the_facts(), batches(10), callbacks=[accumulation_schedule(scheduling), counts], max_epochs=4)

    assert [seen.count(epoch) for epoch in range(4)] == steps
    assert result.step == sum(steps)


@pytest.mark.parametrize("scheduling", [{1: 2, -3: 4}, {0: 2, "2": 1}, {1: 0, 3: 4}, {0: 2, 2: "2"}])
def test_f23_a_schedule_of_other_than_epochs_and_batches_is_an_error(scheduling):
    with pytest.raises((TypeError, ValueError), match=r"^accumulation_schedule: (each epoch|batches per step) must be"):
        accumulation_schedule(scheduling)
