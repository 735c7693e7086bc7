"""Which batch size still fits into memory, tried out on a copy of what is trained."""

import errno
import gc
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, Literal

import attrs
import torch

from fncb import plots
from fncb.batch import batch_size, count, to_device
from fncb.data import batches
from fncb.fields import must_be_int, must_be_number, must_be_one_of
from fncb.precision import Precision, PrecisionGiven, checked
from fncb.settings import device_for
from fncb.task import Task
from fncb.trials import again, borrowed, trying


@attrs.frozen
class SizeTried:
    """One trial of `batch_size_finder`.

    Attributes:
      batch_size: samples in a batch.
      fits: whether all steps were made without running out of memory.
      seconds: for a step, without the loader: the fastest of the trial; None if it does not fit.
    """

    batch_size: int
    fits: bool
    seconds: float | None = None

    @property
    def samples_per_second(self) -> float | None:
        """`batch_size / seconds`; None if it does not fit."""
        return None if self.seconds is None else self.batch_size / self.seconds


@attrs.frozen
class BatchSizeFound:
    """What `batch_size_finder` came to.

    Attributes:
      batch_size: the size to train with.
      trials: the sizes that were tried, in order.
    """

    batch_size: int
    trials: tuple[SizeTried, ...] = attrs.field(repr=lambda trials: f"<{len(trials)}>")

    def plot(self) -> Any:
        """Samples per second over batch sizes, as a plotly figure with methods such as `show` and `write_html`.

        Raises:
          ModuleNotFoundError: without plotly: `pip install 'fncb[plotly]'`.
        """
        sizes = [trial.batch_size for trial in self.trials]
        return plots.of_sizes(sizes, [trial.samples_per_second for trial in self.trials], self.batch_size)

    def __str__(self) -> str:
        lines = [f"batch size {self.batch_size}, of {len(self.trials)} tried"]
        for trial in sorted(self.trials, key=lambda trial: trial.batch_size):
            speed = trial.samples_per_second
            told = "does not fit" if speed is None else f"{trial.seconds:10.3g} s a step {speed:10,.0f} samples/s"
            lines.append(f"{trial.batch_size:8} {told}")
        return "\n".join(lines)


def batch_size_finder(
    task: Task,
    make_batches: Callable[[int], Iterable[Any]] | Any,
    *,
    mode: Literal["power", "binsearch"] = "power",
    steps_per_trial: int = 3,
    init_val: int = 2,
    max_trials: int = 25,
    margin: float = 0.05,
    max_val: int = 8192,
    precision: PrecisionGiven = "32",
    device: str | torch.device | None = None,
    compile: bool = False,
) -> BatchSizeFound:
    """Finds a large batch size with which training does not run out of memory.

    `init_val` is doubled until a size does not fit, or is `max_val`, or all data are one batch. Mode "power" takes the
    largest that fitted. Mode "binsearch" goes on half way between the largest that fitted and the smallest that did
    not, until these are neighbours, and then takes `int(found * (1 - margin))`, but at least 1: the reserve is for what
    a whole training holds beside. Where no size failed it takes the largest that fitted.

    Each trial trains a new copy of the task, optimizer state included, in memory that is cleared of the one before. The
    task, its model, optimizer and schedule, the loaders, and the generators of torch, Python and numpy are as they were
    afterwards, whatever happens; nothing is written. What a loss changes by itself beside the model that it is given is
    not looked after. Waits for the device after each step.

    A model that is on the device already takes its memory twice; one that is still on the CPU does not. On a CPU the
    system may end a process instead of refusing it memory: set `max_val` there to what is sure to fit.

    Args:
      task: as in `fit`; its schedule is not used.
      make_batches: a function that makes of a batch size an iterable of batches, such as
        `lambda n: DataLoader(dataset, batch_size=n)`; or a dataset, for `fncb.batches`.
      mode: what is done once a size did not fit, as above.
      steps_per_trial: batches to train on at each size, 1 or more; a loader that is over sooner is begun again.
      init_val: the first size, 1 or more.
      max_trials: how many sizes to try at most, 1 or more.
      margin: part of the found size to keep free in mode "binsearch", in [0, 1).
      max_val: the largest size to try, `init_val` or more.
      precision, device: as in `fit`.
      compile: whether to compile the step, anew for each size. The first step, in which `fit` needs the most memory,
        is not compiled either way.

    Returns:
      A `BatchSizeFound`. The largest size is often not the fastest: its `trials` tell, and `plot()` shows it.

    Raises:
      TypeError, ValueError: for arguments that cannot be.
      MemoryError: if `init_val` does not fit.
      Exception: whatever a trial raises but for running out of memory.

    Example:
      >>> from functools import partial
      >>> def loss(model, batch):
      ...     if len(batch) > 100:
      ...         raise torch.OutOfMemoryError("no memory for this batch")
      ...     return model(batch).square().mean()
      >>> task = Task(torch.nn.Linear(2, 1), loss=loss, optimizer=partial(torch.optim.SGD, lr=0.1))
      >>> found = batch_size_finder(task, torch.ones(500, 2), init_val=32)
      >>> found.batch_size, [(each.batch_size, each.fits) for each in found.trials]
      (64, [(32, True), (64, True), (128, False)])
      >>> batch_size_finder(task, torch.ones(500, 2), init_val=32, mode="binsearch").batch_size
      95

    Known as:
      `BatchSizeFinder` in Lightning.
    """
    _check(mode, steps_per_trial, init_val, max_trials, margin, max_val)
    precision, device, make = checked("batch_size_finder", precision), device_for(device), _function(make_batches)
    fits, fails, size = 0, None, init_val
    trials: list[SizeTried] = []
    for _ in range(max_trials):
        _clear(device)
        try:
            trial, is_all = _attempt(task, partial(make, size), size, steps_per_trial, precision, device, compile)
        except Exception as error:
            if not out_of_memory(error):
                raise
            if not fits:
                raise MemoryError(
                    f"batch_size_finder: a batch of init_val={init_val} must fit into memory, got {error!r}. Pass a "
                    "smaller init_val, or take a smaller model."
                ) from error
            trial, is_all = SizeTried(size, fits=False), False
        if trial.batch_size > fits:
            trials.append(trial)
        fits, fails = (trial.batch_size, fails) if trial.fits else (fits, size)
        if is_all or (fails is not None and mode == "power"):
            break
        following = min(2 * size, max_val) if fails is None else (fits + fails) // 2
        if following == fits:
            break
        size = following
    _clear(device)
    found = fits if fails is None or mode == "power" else max(1, int(fits * (1 - margin)))
    return BatchSizeFound(found, tuple(trials))


def _attempt(
    task: Task,
    make: Callable[[], Any],
    size: int,
    steps: int,
    precision: Precision,
    device: torch.device,
    compile: bool,
) -> tuple[SizeTried, bool]:
    """A trial that fits, and whether its batch holds all data."""
    seconds, is_all = [], False
    who = "batch_size_finder"
    with borrowed(f"{who}: make_batches", make) as loader, trying(who, task, precision, device, compile) as step:
        for batch in islice(again(loader), steps):
            if batch is None:  # as in `fit`, nothing to train on
                continue
            samples = batch_size(batch)
            if count(loader) == 1 and samples < size:
                size, is_all = samples, True
            batch = to_device(batch, device)
            _wait(device)
            began = time.perf_counter()
            step(batch)
            _wait(device)
            seconds.append(time.perf_counter() - began)
    if not seconds:
        raise ValueError(f"{who}: make_batches must give at least one batch, got none for size {size}.")
    return SizeTried(size, fits=True, seconds=min(seconds)), is_all


_FRAGMENTS = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "invalid buffer size"),
    *("alloc_failed", "out of shared memory", "insufficient shared memory"),
    # what cuDNN and cuBLAS say when there is no room for them to work in
    *("cudnn_status_not_supported", "cudnn_status_internal_error", "cudnn_status_not_initialized"),
    *("cublas_status_not_initialized", "unable to find an engine to execute"),
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that there was too little memory, on the device or beside it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(fragment in said for fragment in _FRAGMENTS)


def _clear(device: torch.device) -> None:
    """Frees what the trial before held, as far as something still holds it."""
    if device.type != "cpu":  # where memory has no sharp limit, and a collection takes longer than a small trial
        gc.collect()
        torch.accelerator.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _function(make_batches: Any) -> Callable[[int], Any]:
    is_dataset = hasattr(make_batches, "__len__") and hasattr(make_batches, "__getitem__")
    if is_dataset and not isinstance(make_batches, type):
        return partial(batches, make_batches)
    if not callable(make_batches):
        raise TypeError(
            "batch_size_finder: make_batches must be a function of a batch size, or a dataset with length and index, "
            f"got {type(make_batches).__name__}. Pass `lambda n: DataLoader(dataset, batch_size=n)`."
        )
    return make_batches


def _check(mode: str, steps: int, init_val: int, max_trials: int, margin: float, max_val: int) -> None:
    must_be_one_of("batch_size_finder", "mode", mode, ("power", "binsearch"))
    counts = {"steps_per_trial": steps, "init_val": init_val, "max_trials": max_trials, "max_val": max_val}
    for name, value in counts.items():
        must_be_int("batch_size_finder", name, value, 1)
    must_be_number("batch_size_finder", "margin", margin, "[0, 1)")
    if init_val > max_val:
        raise ValueError(f"batch_size_finder: init_val must be at most max_val, got {init_val} and {max_val}.")
