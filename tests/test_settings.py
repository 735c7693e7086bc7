"""Settings: each checked, all against each other, and what they stand for."""

import inspect
import logging
import random
from datetime import timedelta
from math import inf, nan

import attrs
import numpy
import pytest
import torch

import fncb
from fncb.callback import compose
from fncb.callbacks import accumulation_schedule, clip_grad_norm, ema, timer
from fncb.effects import Stop
from fncb.events import TrainBatchEnd, TrainStart
from fncb.settings import (
    Settings,
    check_limit,
    device_for,
    seed_everything,
    settings_of,
    torch_modes,
    validation_interval,
    with_sugar,
)

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(fncb.fit).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}


def settings(**said):
    """The settings of a `fit` that was called with these arguments."""
    return settings_of({**DEFAULTS, **said})


def test_without_arguments_the_settings_are_the_documented_ones():
    assert settings() == Settings()


def test_every_setting_is_an_argument_of_fit():
    assert {field.name for field in attrs.fields(Settings)} <= DEFAULTS.keys()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"max_epochs": -2}, "fit: max_epochs must be -1 or more, got -2"),
        ({"max_epochs": 1.0}, "fit: max_epochs must be an int, got 1.0"),
        ({"max_epochs": True}, "fit: max_epochs must be an int, got True"),
        ({"max_epochs": "3"}, "fit: max_epochs must be an int, got '3'"),
        ({"max_steps": -2}, "fit: max_steps must be -1 or more, got -2"),
        ({"max_steps": None}, "fit: max_steps must be an int, got None"),
        ({"min_epochs": -1}, "fit: min_epochs must be 0 or more, got -1"),
        ({"min_epochs": 0.5}, "fit: min_epochs must be an int, got 0.5"),
        ({"min_steps": -1}, "fit: min_steps must be 0 or more, got -1"),
        ({"min_steps": "1"}, "fit: min_steps must be an int, got '1'"),
        ({"num_sanity_val_steps": -2}, "fit: num_sanity_val_steps must be -1 or more, got -2"),
        ({"num_sanity_val_steps": 0.5}, "fit: num_sanity_val_steps must be an int, got 0.5"),
        ({"accumulate_grad_batches": 0}, "fit: accumulate_grad_batches must be 1 or more, got 0"),
        ({"accumulate_grad_batches": 2.0}, "fit: accumulate_grad_batches must be an int, got 2.0"),
        ({"log_every_n_steps": 0}, "fit: log_every_n_steps must be 1 or more, got 0"),
        ({"log_every_n_steps": None}, "fit: log_every_n_steps must be an int, got None"),
        ({"reload_dataloaders_every_n_epochs": -1}, "fit: reload_dataloaders_every_n_epochs must be 0 or more, got -1"),
        ({"reload_dataloaders_every_n_epochs": True}, "fit: reload_dataloaders_every_n_epochs must be an int"),
        ({"check_val_every_n_epoch": 0}, "fit: check_val_every_n_epoch must be 1 or more, got 0"),
        ({"check_val_every_n_epoch": 1.0}, "fit: check_val_every_n_epoch must be an int, got 1.0"),
        ({"fast_dev_run": -1}, "fit: fast_dev_run must be True, False or a number of batches, got -1"),
        ({"fast_dev_run": 1.0}, "fit: fast_dev_run must be True, False or a number of batches, got 1.0"),
        ({"fast_dev_run": None}, "fit: fast_dev_run must be True, False or a number of batches, got None"),
        ({"deterministic": "yes"}, "fit: deterministic must be True, False, 'warn' or None, got 'yes'"),
        ({"precision": "16"}, "fit: precision must be '32', 'bf16-mixed', '16-mixed' or '64', got '16'"),
        (
            {"limit_train_batches": -1},
            "fit: limit_train_batches must be 0 batches or more, .*, got -1",
        ),
        ({"limit_train_batches": 1.5}, r"fit: limit_train_batches must be .* a fraction in \[0.0, 1.0\], got 1.5"),
        ({"limit_train_batches": "1"}, r"fit: limit_train_batches must be an int \(batches\) or a float .*, got '1'"),
        (
            {"limit_val_batches": -0.5},
            "fit: limit_val_batches must be 0 batches or more, .*, got -0.5",
        ),
        ({"limit_val_batches": True}, r"fit: limit_val_batches must be an int \(batches\) or a float .*, got True"),
        ({"overfit_batches": -1}, "fit: overfit_batches must be 0 batches or more, or a fraction in .*, got -1"),
        ({"overfit_batches": 1.5}, "fit: overfit_batches must be .* a fraction in .*, got 1.5"),
        ({"overfit_batches": True}, r"fit: overfit_batches must be an int \(batches\) or a float .*, got True"),
        ({"overfit_batches": None}, r"fit: overfit_batches must be an int \(batches\) or a float .*, got None"),
        ({"val_check_interval": True}, "fit: val_check_interval must be an int, a float or a duration, got True"),
        ({"val_check_interval": None}, "fit: val_check_interval must be an int, a float or a duration, got None"),
        ({"val_check_interval": 1.5}, r"fit: val_check_interval as a float is a fraction of an epoch .*, got 1.5"),
        ({"val_check_interval": -0.5}, r"fit: val_check_interval as a float is a fraction of an epoch .*, got -0.5"),
        ({"val_check_interval": nan}, r"fit: val_check_interval as a float is a fraction of an epoch .*, got nan"),
        ({"val_check_interval": 0}, "fit: val_check_interval must be 1 batch or more, got 0"),
        ({"val_check_interval": "1:30"}, "fit: val_check_interval must be 'DD:HH:MM:SS', got '1:30'"),
        ({"val_check_interval": {"years": 1}}, "fit: val_check_interval must be made of arguments of timedelta"),
        ({"val_check_interval": timedelta(seconds=-1)}, "fit: val_check_interval must be 0 s or more"),
    ],
)
def test_a_setting_that_cannot_be_is_told_in_one_sentence(said, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        settings(**said)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"min_epochs": 3, "max_epochs": 2}, "fit: min_epochs must be at most max_epochs, got 3 and 2"),
        ({"min_epochs": 1, "max_epochs": 0}, "fit: min_epochs must be at most max_epochs, got 1 and 0"),
        ({"min_epochs": 1001}, "fit: min_epochs must be at most max_epochs, got 1001 and 1000"),
        ({"min_steps": 3, "max_steps": 2}, "fit: min_steps must be at most max_steps, got 3 and 2"),
        (
            {"val_check_interval": 0.5, "check_val_every_n_epoch": None},
            "fit: val_check_interval must be an int or a duration when check_val_every_n_epoch is None, got 0.5",
        ),
        (
            {"check_val_every_n_epoch": None},  # whose default interval is the end of an epoch
            "fit: val_check_interval must be an int or a duration when check_val_every_n_epoch is None, got 1.0",
        ),
        ({"fast_dev_run": True, "overfit_batches": 2}, "fit: fast_dev_run and overfit_batches both set .* Drop one"),
        (
            {"overfit_batches": 2, "limit_train_batches": 2},
            "fit: overfit_batches sets limit_train_batches itself, got both. Drop one",
        ),
        (
            {"overfit_batches": 0.5, "limit_val_batches": 0},
            "fit: overfit_batches sets limit_val_batches itself, got both. Drop one",
        ),
    ],
)
def test_settings_that_make_no_sense_together_are_told_in_one_sentence(said, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        settings(**said)


@pytest.mark.parametrize(
    "said",
    [
        {"min_epochs": 2, "max_epochs": 2},
        {"min_epochs": 5000, "max_epochs": -1},  # no limit
        {"min_steps": 5000},
        {"fast_dev_run": True, "min_epochs": 3, "max_epochs": 2},  # which sets both itself
        {"fast_dev_run": False, "overfit_batches": 2},
        {"check_val_every_n_epoch": None, "val_check_interval": 2000},
        {"check_val_every_n_epoch": None, "val_check_interval": "00:00:10:00"},
        {"val_check_interval": 0.0},
        {"limit_train_batches": 0, "limit_val_batches": 0.0},
        {"deterministic": "warn"},
    ],
)
def test_what_makes_sense_is_taken(said):
    settings(**said)


@pytest.mark.parametrize(
    ("said", "max_epochs"),
    [
        ({}, 1000),
        ({"max_epochs": 7}, 7),
        ({"max_epochs": 7, "max_steps": 100}, 7),
        ({"max_epochs": -1}, -1),
        ({"max_steps": 100}, -1),
        ({"max_steps": 0}, -1),
        ({"max_steps": -1}, 1000),
        ({"max_time": "00:01:00:00"}, -1),
        ({"max_time": {"seconds": 0}}, -1),
        ({"max_epochs": 7, "max_time": "00:01:00:00"}, 7),
    ],
)
def test_without_any_limit_there_are_a_thousand_epochs(said, max_epochs):
    assert settings(**said).max_epochs == max_epochs


def test_least_epochs_and_steps_are_none_unless_they_are_given():
    assert (settings().min_epochs, settings(min_epochs=3).min_epochs) == (0, 3)
    assert (settings().min_steps, settings(min_steps=3).min_steps) == (0, 3)


@pytest.mark.parametrize(
    ("value", "fails"),
    [
        (0, False),
        (3, False),
        (0.0, False),
        (1.0, False),
        (0.25, False),
        (-1, True),
        (-0.25, True),
        (1.25, True),
        (nan, True),
        (inf, True),
        (True, True),
        (None, True),
        ("1", True),
    ],
)
def test_a_limit_is_a_number_of_batches_or_a_fraction(value, fails):
    if not fails:
        check_limit("test", "limit_test_batches", value)
        return
    with pytest.raises((TypeError, ValueError), match=f"^test: limit_test_batches must be .*, got {value!r}"):
        check_limit("test", "limit_test_batches", value)


@pytest.mark.parametrize(("given", "n"), [(True, 1), (1, 1), (3, 3)])
def test_fast_dev_run_is_one_epoch_of_so_many_batches(given, n):
    longer = {"max_epochs": 9, "max_steps": 90, "min_epochs": 4, "min_steps": 40, "num_sanity_val_steps": -1}
    rarer = {"val_check_interval": 5, "check_val_every_n_epoch": 3, "limit_train_batches": 0.5, "limit_val_batches": 7}

    expanded = settings(fast_dev_run=given, **longer, **rarer)

    assert expanded == Settings(
        fast_dev_run=given,
        limit_train_batches=n,
        limit_val_batches=n,
        max_steps=n,
        max_epochs=1,
        num_sanity_val_steps=0,
        val_check_interval=1.0,
        check_val_every_n_epoch=1,
    )


@pytest.mark.parametrize("given", [0, False])
def test_no_fast_dev_run_changes_nothing(given):
    assert attrs.evolve(settings(fast_dev_run=given, max_epochs=3), fast_dev_run=0) == Settings(max_epochs=3)


@pytest.mark.parametrize("n", [2, 0.5, 1.0])
def test_overfit_batches_limits_training_and_validation(n):
    assert settings(overfit_batches=n) == Settings(overfit_batches=n, limit_train_batches=n, limit_val_batches=n)


def test_precision_is_understood_as_lightning_writes_it():
    assert settings(precision=64).precision == "64"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1.0, None),
        (100, None),
        ("00:00:01:30", 90.0),
        (timedelta(minutes=2), 120.0),
        ({"hours": 1}, 3600.0),
    ],
)
def test_validation_is_by_time_if_its_interval_is_a_duration(value, seconds):
    assert settings(val_check_interval=value).validates_by_time == seconds


@pytest.mark.parametrize(
    ("value", "batches", "every"),
    [
        (1.0, 12, None),  # the end of each epoch
        (1.0, None, None),
        (0.5, 12, 6),
        (0.42, 12, 5),  # int(5.04)
        (0.99, 12, 11),
        (0.01, 12, 1),  # at least one batch
        (0.0, 12, 1),
        (1, 12, 1),
        (12, 12, 12),
        (5, None, 5),
        ("00:00:00:01", 12, None),
        (timedelta(seconds=1), None, None),
    ],
)
def test_the_interval_of_validation_in_batches(value, batches, every):
    assert validation_interval(settings(val_check_interval=value), batches, validates=True) == every


def test_an_interval_across_epochs_may_be_longer_than_one():
    across = settings(val_check_interval=13, check_val_every_n_epoch=None)

    assert validation_interval(across, 12, validates=True) == 13


def test_an_interval_longer_than_an_epoch_is_refused():
    with pytest.raises(ValueError, match=r"at most the 12 batches of an epoch, got 13\. Pass check_val_every_n_epoch"):
        validation_interval(settings(val_check_interval=13), 12, validates=True)


def test_a_fraction_of_an_epoch_without_length_is_refused():
    with pytest.raises(ValueError, match=r"must be 1.0, an int or a duration when the loader has no length, got 0.5"):
        validation_interval(settings(val_check_interval=0.5), None, validates=True)


@pytest.mark.parametrize(("value", "batches"), [(5, 12), (13, 12), (0.5, 12), (0.5, None)])
def test_where_nothing_is_validated_there_is_no_interval(value, batches):
    assert validation_interval(settings(val_check_interval=value), batches, validates=False) is None


def keys(callbacks):
    return [part.key for part in callbacks.parts]


def test_without_such_settings_the_callbacks_stay_as_they_are():
    assert keys(with_sugar(settings(), compose([ema(0.5)]))) == ["ema"]


def test_clipping_is_put_last():
    composed = with_sugar(settings(gradient_clip_val=0.5, max_time="00:00:00:10"), compose([ema(0.5)]))

    assert keys(composed) == ["ema", "timer", "clip_grad_norm"]
    assert composed.parts[-1].config == {"max_norm": 0.5, "norm_type": 2.0}


@pytest.mark.parametrize("max_time", ["00:00:00:10", timedelta(seconds=10), {"seconds": 10}])
def test_max_time_is_a_timer(max_time):
    composed = with_sugar(settings(max_time=max_time), compose(()))

    state, _ = composed.transition(composed.init(), TrainStart(seconds=2.0))
    assert composed.transition(state, TrainBatchEnd(seconds=11.75))[1] == ()
    assert composed.transition(state, TrainBatchEnd(seconds=12.0))[1] == (Stop("training has taken 10.0 s of 10.0 s"),)


def test_a_timer_among_the_callbacks_stays_the_only_one(caplog):
    with caplog.at_level(logging.WARNING, "fncb"):
        composed = with_sugar(settings(max_time="00:00:00:10"), compose([timer("00:00:00:20"), ema(0.5)]))

    assert keys(composed) == ["timer", "ema"]
    assert composed.parts[0].config["duration"] == "00:00:00:20"
    assert caplog.messages == ["fncb: max_time is left to the timer among the callbacks"]


@pytest.mark.parametrize(
    ("said", "callback", "message"),
    [
        (
            {"accumulate_grad_batches": 2},
            accumulation_schedule({0: 4}),
            "accumulate_grad_batches and the callback accumulation_schedule both set the accumulation. Drop one",
        ),
        (
            {"gradient_clip_val": 1.0},
            clip_grad_norm(1.0),
            "gradient_clip_val and the callback clip_grad_norm are the same. Drop one",
        ),
        ({"gradient_clip_val": 0.0}, ema(0.5), "clip_grad_norm: max_norm must be more than 0, got 0.0"),
        ({"max_time": "soon"}, ema(0.5), "fit: max_time must be 'DD:HH:MM:SS', got 'soon'"),
    ],
)
def test_a_setting_and_a_callback_that_contradict_each_other_are_refused(said, callback, message):
    with pytest.raises(ValueError, match=message):
        with_sugar(settings(**said), compose([callback]))


def test_a_schedule_of_accumulation_goes_with_the_default():
    assert keys(with_sugar(settings(), compose([accumulation_schedule({0: 4})]))) == ["accumulation_schedule"]


def modes():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.is_anomaly_enabled(),
    )


@pytest.mark.parametrize(
    ("said", "inside"),
    [
        ({}, (False, False, False)),
        ({"deterministic": True}, (True, False, False)),
        ({"deterministic": "warn"}, (True, True, False)),
        ({"deterministic": False}, (False, False, False)),
        ({"detect_anomaly": True}, (False, False, True)),
    ],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_modes_of_torch_hold_inside_only(said, inside):
    with torch_modes(settings(**said)):
        assert modes() == inside

    assert modes() == (False, False, False)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_modes_of_torch_are_put_back_after_an_exception():
    with (
        pytest.raises(ZeroDivisionError),
        torch_modes(settings(deterministic="warn", detect_anomaly=True)),
    ):
        raise ZeroDivisionError

    assert modes() == (False, False, False)


@pytest.mark.parametrize(
    ("said", "inside"), [(None, (True, True)), (False, (False, False)), (True, (True, False)), ("warn", (True, True))]
)
def test_modes_that_were_set_before_hold_again_afterwards(said, inside):
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch_modes(settings(deterministic=said)):
            during = modes()
        after = modes()
    finally:
        torch.use_deterministic_algorithms(False)

    assert (during[:2], after[:2]) == (inside, (True, True))


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_anomaly_detection_that_is_on_stays_on():
    with torch.autograd.set_detect_anomaly(True):
        with torch_modes(settings()):
            assert torch.is_anomaly_enabled()
        assert torch.is_anomaly_enabled()


def test_a_seed_is_given_to_every_generator():
    drawn = []
    for seed in (7, 7, 2**32 + 7):  # numpy takes 32 bits
        seed_everything(seed)
        drawn.append((torch.rand(()).item(), random.random(), numpy.random.rand()))

    assert drawn[0] == drawn[1]
    assert drawn[2][2] == drawn[0][2]
    assert drawn[2][:2] != drawn[0][:2]


def test_a_device_may_be_named_or_left_to_torch():
    assert device_for("cpu") == device_for(torch.device("cpu")) == torch.device("cpu")
    assert device_for("meta").type == "meta"
    assert device_for(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
