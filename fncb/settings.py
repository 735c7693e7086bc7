"""The settings of `fit`, checked and put into the form that the loop uses."""

import logging
import random
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import attrs
import torch

from fncb.callback import Callback, compose
from fncb.callbacks import clip_grad_norm, timer
from fncb.durations import seconds_of
from fncb.fields import is_number, must_be_int, must_be_one_of
from fncb.precision import Precision, checked

log: logging.Logger = logging.getLogger("fncb")

Interval = int | float | str | timedelta | Mapping[str, float]


@attrs.frozen(kw_only=True)
class Settings:
    """What `fit` was asked for, under the names of its arguments, where the docstring of `fit` says what they mean."""

    max_epochs: int = 1000
    max_steps: int = -1
    min_epochs: int = 0
    min_steps: int = 0
    max_time: str | timedelta | Mapping[str, float] | None = None
    limit_train_batches: int | float = 1.0
    limit_val_batches: int | float = 1.0
    val_check_interval: Interval = 1.0
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int = 2
    overfit_batches: int | float = 0
    fast_dev_run: int = 0
    accumulate_grad_batches: int = 1
    reload_dataloaders_every_n_epochs: int = 0
    log_every_n_steps: int = 50
    gradient_clip_val: float | None = None
    precision: Precision = "32"
    deterministic: bool | Literal["warn"] | None = None
    detect_anomaly: bool = False

    @property
    def validates_by_time(self) -> float | None:
        """Seconds between validations, None if they are counted in batches."""
        value = self.val_check_interval
        return None if isinstance(value, int | float) else seconds_of("fit: val_check_interval", value)


def settings_of(given: Mapping[str, Any]) -> Settings:
    """The settings among the arguments of `fit`, each checked, and all against each other.

    Raises:
      TypeError, ValueError: in one sentence, for what cannot be or makes no sense together.
    """
    said = {field.name: given[field.name] for field in attrs.fields(Settings)}
    for name in ("min_epochs", "min_steps"):
        said[name] = said[name] or 0
    if said["max_epochs"] is None:
        said["max_epochs"] = -1 if said["max_steps"] != -1 or said["max_time"] is not None else 1000
    said["precision"] = checked("fit", said["precision"])
    for name in ("limit_train_batches", "limit_val_batches"):
        if said["overfit_batches"] and said[name] is not None:
            raise ValueError(f"fit: overfit_batches sets {name} itself, got both. Drop one.")
        said[name] = 1.0 if said[name] is None else said[name]
    settings = Settings(**said)
    _check_counts(settings)
    for name in ("limit_train_batches", "limit_val_batches", "overfit_batches"):
        check_limit("fit", name, getattr(settings, name))
    _check_interval(settings)
    if settings.max_time is not None:
        seconds_of("fit: max_time", settings.max_time)
    _check_together(settings)
    if settings.fast_dev_run:
        n = int(settings.fast_dev_run)
        settings = attrs.evolve(
            settings, limit_train_batches=n, limit_val_batches=n, max_steps=n, max_epochs=1, num_sanity_val_steps=0,
            val_check_interval=1.0, check_val_every_n_epoch=1, min_epochs=0, min_steps=0,
        )  # fmt: skip
    if settings.overfit_batches:
        n = settings.overfit_batches
        settings = attrs.evolve(settings, limit_train_batches=n, limit_val_batches=n)
    return settings


def _check_counts(settings: Settings) -> None:
    """Raises unless each setting that counts something is an int in its range."""
    least = {"max_epochs": -1, "max_steps": -1, "num_sanity_val_steps": -1, "accumulate_grad_batches": 1}
    least |= {"min_epochs": 0, "min_steps": 0, "log_every_n_steps": 1, "reload_dataloaders_every_n_epochs": 0}
    if settings.check_val_every_n_epoch is not None:
        least["check_val_every_n_epoch"] = 1
    for name, at_least in least.items():
        must_be_int("fit", name, getattr(settings, name), at_least)
    if not isinstance(settings.fast_dev_run, int) or settings.fast_dev_run < 0:
        raise ValueError(
            f"fit: fast_dev_run must be True, False or a number of batches, got {settings.fast_dev_run!r}."
        )
    must_be_one_of("fit", "deterministic", settings.deterministic, (True, False, "warn", None))


def check_limit(who: str, name: str, value: Any) -> None:
    """Raises unless a limit is a number of batches or a fraction of them."""
    if not is_number(value):
        raise TypeError(f"{who}: {name} must be an int (batches) or a float (a fraction of them), got {value!r}.")
    if value < 0 or (isinstance(value, float) and not value <= 1):
        raise ValueError(f"{who}: {name} must be 0 batches or more, or a fraction in [0.0, 1.0], got {value}.")


def _check_interval(settings: Settings) -> None:
    value, who = settings.val_check_interval, "fit: val_check_interval"
    if isinstance(value, str | timedelta | Mapping):
        seconds_of(who, value)
    elif not is_number(value):
        raise TypeError(f"{who} must be an int, a float or a duration, got {value!r}.")
    elif isinstance(value, float) and not 0 <= value <= 1:
        raise ValueError(f"{who} as a float is a fraction of an epoch in [0, 1], got {value}. Pass an int for batches.")
    elif isinstance(value, float) and settings.check_val_every_n_epoch is None:
        raise ValueError(f"{who} must be an int or a duration when check_val_every_n_epoch is None, got {value}.")
    elif isinstance(value, int) and value < 1:
        raise ValueError(f"{who} must be 1 batch or more, got {value}.")


def _check_together(settings: Settings) -> None:
    for most, least in (("max_epochs", "min_epochs"), ("max_steps", "min_steps")):
        limit, value = getattr(settings, most), getattr(settings, least)
        if 0 <= limit < value and not settings.fast_dev_run:
            raise ValueError(f"fit: {least} must be at most {most}, got {value} and {limit}.")
    if settings.fast_dev_run and settings.overfit_batches:
        raise ValueError("fit: fast_dev_run and overfit_batches both set how many batches there are. Drop one.")


def validation_interval(settings: Settings, batches: int | None, validates: bool) -> int | None:
    """Batches between validations; None for the end of each epoch."""
    value, who = settings.val_check_interval, "fit: val_check_interval"
    if not validates:
        return None
    if isinstance(value, float):
        if value == 1.0:
            return None
        if batches is None:
            raise ValueError(f"{who} must be 1.0, an int or a duration when the loader has no length, got {value}.")
        return max(1, int(batches * value))
    if not isinstance(value, int):
        return None
    if settings.check_val_every_n_epoch is not None and batches is not None and value > batches:
        raise ValueError(
            f"{who} must be at most the {batches} batches of an epoch, got {value}. "
            "Pass check_val_every_n_epoch=None to count across epochs."
        )
    return value


def with_sugar(settings: Settings, callbacks: Callback[Any]) -> Callback[Any]:
    """The callbacks, and those that settings stand for: clipping, a timer."""
    keys = [part.key for part in callbacks.parts or ()]
    if settings.accumulate_grad_batches > 1 and "accumulation_schedule" in keys:
        raise ValueError(
            "fit: accumulate_grad_batches and the callback accumulation_schedule both set the accumulation. Drop one."
        )
    added = []
    if settings.max_time is not None:
        if "timer" in keys:
            log.warning("fncb: max_time is left to the timer among the callbacks")
        else:
            added.append(timer(settings.max_time))
    if settings.gradient_clip_val is not None:
        if "clip_grad_norm" in keys:
            raise ValueError("fit: gradient_clip_val and the callback clip_grad_norm are the same. Drop one.")
        added.append(clip_grad_norm(settings.gradient_clip_val))
    return compose(callbacks, *added)


@contextmanager
def torch_modes(settings: Settings) -> Generator[None]:
    """Torch's process-wide modes, as they were afterwards."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if settings.deterministic is not None:
        torch.use_deterministic_algorithms(bool(settings.deterministic), warn_only=settings.deterministic == "warn")
    try:
        with torch.autograd.set_detect_anomaly(settings.detect_anomaly or torch.is_anomaly_enabled()):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def seed_everything(seed: int) -> None:
    """Seeds the generators of torch, Python and, if it is loaded, numpy."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def device_for(device: str | torch.device | None) -> torch.device:
    """The device that is meant, with its index; None is the accelerator if there is one."""
    if device is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = found or "cpu"
    return torch.empty(0, device=device).device
