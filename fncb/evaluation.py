"""Passes over loaders that do not train: validation, test and prediction, with their events in order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from fncb import data
from fncb import events as ev
from fncb.loaders import Loader
from fncb.measures import Measures
from fncb.task import Task, loss_and_metrics

Fire = Callable[..., None]
"""Sends an event of a class, with the run's counters, if anybody would notice it."""


@attrs.frozen
class Pass:
    """The events of a pass, in order, and what the names of its metrics begin with."""

    stage: ev.Stage
    prefix: str
    start: type[ev.Event]
    epoch_start: type[ev.Event]
    batch_start: type[ev.Event]
    batch_end: type[ev.Event]
    epoch_end: type[ev.Event]
    end: type[ev.Event]


VALIDATION = Pass(
    *("validate", "val_", ev.ValidationStart, ev.ValidationEpochStart, ev.ValidationBatchStart),
    *(ev.ValidationBatchEnd, ev.ValidationEpochEnd, ev.ValidationEnd),
)
TEST = Pass(
    *("test", "test_", ev.TestStart, ev.TestEpochStart, ev.TestBatchStart),
    *(ev.TestBatchEnd, ev.TestEpochEnd, ev.TestEnd),
)
PREDICTION = Pass(
    *("predict", "", ev.PredictStart, ev.PredictEpochStart, ev.PredictBatchStart),
    *(ev.PredictBatchEnd, ev.PredictEpochEnd, ev.PredictEnd),
)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts every submodule into eval mode, and afterwards back into the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    the: Pass, task: Task, loaders: Sequence[Loader], where: torch.device, fire: Fire, boundary: Callable[[], None]
) -> ev.Metrics:
    """Measures a task, from the pass's first event to the one before its last; to be called in eval mode.

    Returns:
      Means weighted by batch size, still on the device; with the loader's name after a slash where there are several.
    """
    given = task.test if the is TEST else task.validate
    losses = {"": given} if given is not None else task.losses
    fire(the.start, batches=_total(loaders))
    fire(ev.EpochStart)
    fire(the.epoch_start)
    names: list[str] = []
    means: list[Tensor] = []
    computed: dict[str, float] = {}
    for dataloader_idx, loader in enumerate(loaders):
        after = "" if loader.name is None else f"/{loader.name}"
        of_loader: tuple[str, ...] = ()
        sums: Any = None
        samples, measures = 0, Measures(where)
        for batch_idx, batch in enumerate(loader):
            batch = data.to_device(batch, where)
            fire(the.batch_start, batch_idx=batch_idx, dataloader_idx=dataloader_idx, batch=batch)
            outputs: Any = None
            values: dict[str, Tensor] = {}
            with torch.no_grad():
                for name, loss in losses.items():
                    outputs = loss(task.model, batch)
                    value, beside, measured = loss_and_metrics(the.stage, outputs)
                    values |= {f"loss/{name}" if name else "loss": value, **beside}
                    measures.update(measured)
                size = data.batch_size(batch)
                wide = [value.detach().to(torch.promote_types(value.dtype, torch.float32)) for value in values.values()]
                weighted = torch.stack(wide) * size
            if sums is not None and of_loader != tuple(values):
                raise ValueError(
                    f"{the.stage}: each batch must give the same metrics, got {[*values]}, not {[*of_loader]}."
                )
            of_loader = tuple(values)
            sums = weighted if sums is None else sums + weighted
            samples += size
            fire(the.batch_end, batch_idx=batch_idx, dataloader_idx=dataloader_idx, batch=batch, outputs=outputs)
            boundary()
        names += [_prefixed(the.prefix, name) + after for name in of_loader]
        means += [sums / samples]
        computed |= {_prefixed(the.prefix, name) + after: value for name, value in measures.compute("{}").items()}
        measures.reset()
    fire(the.epoch_end)
    fire(ev.EpochEnd)
    return ev.Metrics(computed, tuple(names), torch.cat(means))


def predictions(
    task: Task, loaders: Sequence[Loader], where: torch.device, fire: Fire, boundary: Callable[[], None], keep: bool
) -> list[list[Any]]:
    """What a task predicts, a list of batches for each loader, empty unless kept; to be called in eval mode."""
    predict = task.predict or _of_first
    kept: list[list[Any]] = [[] for _ in loaders]
    fire(ev.PredictStart, batches=_total(loaders))
    fire(ev.PredictEpochStart)
    for dataloader_idx, loader in enumerate(loaders):
        for batch_idx, batch in enumerate(loader):
            batch = data.to_device(batch, where)
            fire(ev.PredictBatchStart, batch_idx=batch_idx, dataloader_idx=dataloader_idx, batch=batch)
            with torch.no_grad():
                outputs = predict(task.model, batch)
            if keep:
                kept[dataloader_idx].append(outputs)
            fire(ev.PredictBatchEnd, batch_idx=batch_idx, dataloader_idx=dataloader_idx, batch=batch, outputs=outputs)
            boundary()
    fire(ev.PredictEpochEnd)
    return kept


def _total(loaders: Sequence[Loader]) -> int | None:
    counts = [loader.count for loader in loaders]
    return None if None in counts else sum(count or 0 for count in counts)


def _prefixed(prefix: str, name: str) -> str:
    return name if name.startswith(prefix) else prefix + name


def _of_first(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, dict):
        batch = next(iter(batch.values()))
    elif isinstance(batch, list | tuple):
        batch = batch[0]
    return model(batch)
