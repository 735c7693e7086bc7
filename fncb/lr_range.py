"""How a loss answers to the learning rate, measured in one short training of a copy."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf, isfinite
from typing import Any, Literal

import attrs
import torch

from fncb import plots
from fncb.batch import to_device
from fncb.fields import is_number, must_be_int, must_be_one_of
from fncb.precision import PrecisionGiven, checked
from fncb.settings import device_for
from fncb.task import Task
from fncb.trials import again, borrowed, trying

_BETA = 0.98  # of the smoothing


def _brief(values: tuple[float, ...]) -> str:
    return f"<{len(values)}: {values[0]:.3g} to {values[-1]:.3g}>" if values else "<none>"


@attrs.frozen
class LRFound:
    """What `lr_finder` measured.

    Attributes:
      mode: how the rates grow, "exponential" or "linear".
      lrs: the learning rate of each step.
      losses: the loss of each step's batch, before the step.
      smoothed: their average up to there, as `lr_finder` defines it.
    """

    mode: Literal["exponential", "linear"]
    lrs: tuple[float, ...] = attrs.field(repr=_brief)
    losses: tuple[float, ...] = attrs.field(repr=_brief)
    smoothed: tuple[float, ...] = attrs.field(repr=_brief)

    def suggestion(self, skip_begin: int = 10, skip_end: int = 1) -> float | None:
        """A tenth of the rate at which the smoothed loss is least: well below where it begins to rise.

        Where it still falls at the end, a higher `max_lr` tells more.

        Args:
          skip_begin, skip_end: how many steps to leave out at either end, 0 or more; the first say little, as few
            losses are in their average.

        Returns:
          None if none of the finite losses that are left is below the first of them: the loss does not fall.
        """
        if min(skip_begin, skip_end) < 0:
            raise ValueError(f"suggestion: what is skipped must be 0 steps or more, got {skip_begin} and {skip_end}.")
        kept = slice(skip_begin, max(0, len(self.lrs) - skip_end))
        found = [(loss, lr) for loss, lr in zip(self.smoothed[kept], self.lrs[kept], strict=True) if isfinite(loss)]
        loss, lr = min(found, default=(inf, 0.0))
        return lr / 10 if found and loss < found[0][0] else None

    def plot(self, suggest: bool = True) -> Any:
        """The losses over the rates, as a plotly figure with methods such as `show` and `write_html`.

        Args:
          suggest: whether to mark `suggestion()`.

        Raises:
          ModuleNotFoundError: without plotly: `pip install 'fncb[plotly]'`.
        """
        marked = self.suggestion() if suggest else None
        return plots.of_rates(self.lrs, self.losses, self.smoothed, self.mode == "exponential", marked)

    def __str__(self) -> str:
        loss, lr = min((loss, lr) for loss, lr in zip(self.smoothed, self.lrs, strict=True) if isfinite(loss))
        suggested = self.suggestion()
        return (
            f"{len(self.lrs)} learning rates from {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}. Smoothed loss: "
            f"{self.smoothed[0]:.3g} at first, {loss:.3g} at least, at {lr:.3g}, and {self.smoothed[-1]:.3g} at last. "
            f"Suggestion: {'none' if suggested is None else f'{suggested:.3g}'}."
        )


def lr_finder(
    task: Task,
    train: Iterable[Any] | Callable[[], Iterable[Any]],
    *,
    min_lr: float = 1e-8,
    max_lr: float = 1.0,
    num_training_steps: int = 100,
    mode: Literal["exponential", "linear"] = "exponential",
    early_stop_threshold: float | None = 4.0,
    precision: PrecisionGiven = "32",
    seed: int | None = None,
    device: str | torch.device | None = None,
    compile: bool = False,
) -> LRFound:
    """Trains a copy of a task at ever higher learning rates, and gives the losses.

    Step i of n, counted from 0, has the rate `min_lr ** (1 - r) * max_lr ** r` with `r = i / (n - 1)`, or with mode
    "linear" `(1 - r) * min_lr + r * max_lr`, in all parameter groups. A loader that is over is begun again. The k-th
    loss is smoothed to `s / (1 - 0.98**k)`, where `s` is 0 at first and becomes `0.98 * s + 0.02 * loss`.

    The task, its model, optimizer and schedule, the loader, and the generators of torch, Python and numpy are as they
    were afterwards, whatever happens; nothing is written. What a loss changes by itself beside the model that it is
    given is not looked after. Waits for the device after each step.

    Args:
      task: with one optimizer; its schedule is not used.
      train: as in `fit`, but no iterator, as that could not be begun again.
      min_lr, max_lr: the first rate and the last, above 0 and growing.
      num_training_steps: how many rates to try, 2 or more.
      mode: whether rates grow by the same factor or by the same amount from step to step.
      early_stop_threshold: ends when the smoothed loss is above so many times the smallest so far, or not finite; more
        than 1. Where that is negative, above it by so many times its size less one. None tries all.
      precision, device: as in `fit`.
      seed: for torch's, Python's and numpy's generators; None goes on from where they are.
      compile: whether to compile the step, which is worth it for many steps only.

    Returns:
      An `LRFound`: `suggestion()` is a rate to train with, `plot()` a figure to see for oneself.

    Raises:
      TypeError, ValueError: for arguments that cannot be, several optimizers, and a first loss that is not finite.

    Example:
      >>> from functools import partial
      >>> task = Task(torch.nn.Linear(2, 1), loss=lambda model, batch: model(batch).square().mean(),
      ...             optimizer=partial(torch.optim.SGD, lr=0.1))
      >>> lr_finder(task, [torch.ones(4, 2)], min_lr=2**-8, num_training_steps=5).lrs
      (0.00390625, 0.015625, 0.0625, 0.25, 1.0)

    Reference:
      Smith, "Cyclical Learning Rates for Training Neural Networks", 2017: section 3.3.

    Known as:
      `LearningRateFinder` in Lightning.
    """
    _check(min_lr, max_lr, num_training_steps, mode, early_stop_threshold)
    if isinstance(task.loss, Mapping) and len(task.loss) > 1:
        raise ValueError(
            f"lr_finder: the task must have one optimizer, got {[*task.loss]}. Make a task of one of the losses."
        )
    if isinstance(train, Iterator):
        raise TypeError(
            f"lr_finder: train must be iterable again and again, got {type(train).__name__}, whose batches would be "
            "gone. Pass a list, a loader, or a function that makes one."
        )
    precision, device = checked("lr_finder", precision), device_for(device)
    measured: list[tuple[float, float, float]] = []
    average, best = 0.0, inf
    with (
        borrowed("lr_finder: train", train, seed) as loader,
        trying("lr_finder", task, precision, device, compile) as step,
    ):
        for i, batch in zip(range(num_training_steps), again(loader), strict=False):
            if batch is None:  # as in `fit`, nothing to train on
                continue
            lr = _rate(min_lr, max_lr, mode, i / (num_training_steps - 1))
            for group in step.optimizers[0].param_groups:
                group["lr"] = lr
            metrics = step(to_device(batch, device))
            loss = metrics[step.averaged[0][0]]  # waits for the device
            if not measured and not isfinite(loss):
                raise ValueError(
                    f"lr_finder: the loss must be finite before the first step, got {loss}. Look at the batch and the "
                    "model: no learning rate has had a part in it."
                )
            average = _BETA * average + (1 - _BETA) * loss
            smoothed = average / (1 - _BETA ** (len(measured) + 1))
            measured.append((lr, loss, smoothed))
            if early_stop_threshold is not None:
                bound = best + (early_stop_threshold - 1) * abs(best)
                if smoothed > bound or not isfinite(smoothed):
                    break
            best = min(best, smoothed)
        else:
            if len(measured) < 2:
                raise ValueError(
                    f"lr_finder: train must give {num_training_steps} batches or be iterable again, got "
                    f"{len(measured)}. Pass a list or a loader, or a function that makes one."
                )
    lrs, losses, averages = zip(*measured, strict=True)
    return LRFound(mode, lrs, losses, averages)


def _rate(first: float, last: float, mode: str, part: float) -> float:
    if mode == "linear":
        return (1 - part) * first + part * last
    return first ** (1 - part) * last**part


def _check(min_lr: float, max_lr: float, steps: int, mode: str, threshold: float | None) -> None:
    for name, value in (("min_lr", min_lr), ("max_lr", max_lr), ("early_stop_threshold", threshold)):
        if (value is not None or name != "early_stop_threshold") and not is_number(value):
            raise TypeError(f"lr_finder: {name} must be a number, got {value!r}.")
    if not 0 < min_lr < max_lr < inf:
        raise ValueError(f"lr_finder: rates must grow, 0 < min_lr < max_lr, got {min_lr} and {max_lr}.")
    must_be_int("lr_finder", "num_training_steps", steps, 2)
    must_be_one_of("lr_finder", "mode", mode, ("exponential", "linear"))
    if threshold is not None and not threshold > 1:
        raise ValueError(
            f"lr_finder: early_stop_threshold must be more than 1, got {threshold}. Pass None to try all rates."
        )
