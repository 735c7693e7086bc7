"""The settings of `fit`, checked and put into the form that the loop uses."""

import logging
import random
import sys
from pathlib import Path
from typing import Any

import torch

from fncb import store
from fncb.callback import Callback

log = logging.getLogger("fncb")


def epoch_limit(max_epochs: int | None, max_steps: int) -> int:
    """Epochs to train, -1 for no limit: 1000 if nothing is said."""
    if max_epochs is None:
        return -1 if max_steps >= 0 else 1000
    return max_epochs


def check_counts(
    max_epochs: int, max_steps: int, accumulate_grad_batches: int, check_val_every_n_epoch: int | None, every: int
) -> None:
    """Raises unless each setting is an int in its range."""
    for name, value, least in (
        ("max_epochs", max_epochs, -1),
        ("max_steps", max_steps, -1),
        ("accumulate_grad_batches", accumulate_grad_batches, 1),
        ("check_val_every_n_epoch", 1 if check_val_every_n_epoch is None else check_val_every_n_epoch, 1),
        ("log_every_n_steps", every, 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"fit: {name} must be an int, got {value!r}.")
        if value < least:
            raise ValueError(f"fit: {name} must be {least} or more, got {value}.")


def validation_interval(value: int | float, n_batches: int | None, every: int | None, validates: bool) -> int | None:
    """Batches between validations; None for the end of each epoch."""
    who = "fit: val_check_interval"
    if isinstance(value, float):
        if not 0 <= value <= 1:
            raise ValueError(
                f"{who} as a float is a fraction of an epoch in [0, 1], got {value}. Pass an int for batches."
            )
        if every is None:
            raise ValueError(f"{who} must be an int when check_val_every_n_epoch is None, got {value}.")
        if value == 1.0:
            return None
        if n_batches is None:
            raise ValueError(f"{who} must be 1.0 or an int when the loader has no length, got {value}.")
        return max(1, int(n_batches * value))
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{who} must be an int or a float, got {value!r}.")
    if value < 1:
        raise ValueError(f"{who} must be 1 batch or more, got {value}.")
    if validates and every is not None and n_batches is not None and value > n_batches:
        raise ValueError(
            f"{who} must be at most the {n_batches} batches of an epoch, got {value}. "
            "Pass check_val_every_n_epoch=None to count across epochs."
        )
    return value


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


def newest_checkpoint(resume: str | Path, callbacks: Callback[Any]) -> Path | None:
    """The checkpoint that `resume` means; None for "last" when there is none yet."""
    if resume != "last" and not Path(resume).is_dir():
        return Path(resume)
    directories = [Path(resume)]
    if resume == "last":
        directories = [Path(part.config["dirpath"]) for part in callbacks.parts or () if "dirpath" in part.config]
        if not directories:
            raise ValueError('fit: resume="last" needs a checkpoint(...) callback, got none. Pass a path.')
    found = [store.latest(directory) for directory in directories]
    for rejected in (rejected for each in found for rejected in each.rejected):
        log.warning("fncb: %s is passed over: %s", rejected.path, rejected.reason)
    paths = [each.path for each in found if each.path is not None]
    if not paths and resume != "last":
        raise ValueError(f"fit: resume must be a checkpoint or a directory with one, got {str(resume)!r} without any.")
    if not paths:
        log.warning("fncb: no checkpoint yet in %s; starting from the beginning", ", ".join(map(str, directories)))
    return max(paths, key=lambda path: store.read_header(path)["step"], default=None)
