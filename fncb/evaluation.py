"""Passes over loaders that do not train: validation, test and prediction, with their events in order."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from toolz import isdistinct
from torch import Tensor, nn

from fncb import events as ev
from fncb.batch import batch_size, to_device
from fncb.loaders import Loader
from fncb.measures import Measured, Measures
from fncb.metrics import joined
from fncb.sight import Sight
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


def evaluate(
    the: Pass,
    task: Task,
    loaders: Sequence[Loader],
    device: torch.device,
    fire: Fire,
    boundary: Callable[[], None],
    sight: Sight,
) -> ev.Metrics:
    """Measures a task, from the pass's first event to the one before its last; to be called in eval mode.

    The model is what `sight` shows, and what callbacks measure beside is there.

    Returns:
      Means weighted by batch size, still on the device; with the loader's name after a slash where there are several.
    """
    found: list[ev.Metrics] = []
    with sight.of_a_pass():
        fire(the.start, batches=_total(loaders))
        fire(ev.EpochStart)
        fire(the.epoch_start)
        for dataloader_idx, loader in enumerate(loaders):
            means, beside, measures = _Means(the.stage), _Means(the.stage), Measures(device)
            for batch_idx, batch in enumerate(loader):
                batch = to_device(batch, device)
                size = batch_size(batch)
                which = {"batch_idx": batch_idx, "dataloader_idx": dataloader_idx, "batch": batch}
                fire(the.batch_start, samples=size, **which)
                outputs, values, measured = _of_batch(the, task, sight.model, batch)
                measures.update(measured)
                means.add(values, size)
                fire(the.batch_end, outputs=outputs, **which)
                beside.add(sight.measured(), size)
                boundary()
            computed = measures.compute()
            measures.reset()
            name = partial(_named, the.prefix, loader.name)
            found.append(ev.Metrics({name(each): value for each, value in computed.items()}))
            for each in (means, beside) if beside.names else (means,):
                found.append(ev.Metrics(None, tuple(map(name, each.names)), each.sums / each.samples))
        fire(the.epoch_end)
        fire(ev.EpochEnd)
    names = [name for metrics in found for name in metrics]
    if not isdistinct(names):
        raise ValueError(f"{the.stage}: each metric must have a name of its own, got {names}. Rename one.")
    return joined(*found)


class _Means:
    """Sums of a loader's metrics, weighted by batch size, on the device."""

    def __init__(self, who: str):
        self.who = who
        self.names: tuple[str, ...] = ()
        self.sums: Any = 0
        self.samples = 0

    def add(self, values: dict[str, Tensor], size: int) -> None:
        if self.samples and self.names != tuple(values):
            raise ValueError(
                f"{self.who}: each batch must give the same metrics, got {[*values]}, not {[*self.names]}."
            )
        if not values and not self.names:
            self.samples += size
            return
        wide = [value.detach().to(torch.promote_types(value.dtype, torch.float32)) for value in values.values()]
        self.names, self.sums, self.samples = tuple(values), self.sums + torch.stack(wide) * size, self.samples + size


def _of_batch(the: Pass, task: Task, model: nn.Module, batch: Any) -> tuple[Any, dict[str, Tensor], Measured]:
    """What a task's function returned, or by name what several did; its metrics; what others are updated with."""
    given = task.test if the is TEST else task.validate
    losses = task.losses if given is None else {"": given}
    outputs: dict[str, Any] = {}
    values: dict[str, Tensor] = {}
    measured: Measured = {}
    with torch.no_grad():
        for name, loss in losses.items():
            outputs[name] = loss(model, batch)
            value, beside, more = loss_and_metrics(the.stage, outputs[name])
            twice = {*values, *measured} & {*beside, *more}
            if twice:
                raise ValueError(f"{the.stage}: a metric must have a name of its own, got {sorted(twice)} twice.")
            values |= {f"loss/{name}" if name else "loss": value, **beside}
            measured |= more
    return outputs.get("", outputs), values, measured


def predictions(
    task: Task,
    loaders: Sequence[Loader],
    device: torch.device,
    fire: Fire,
    boundary: Callable[[], None],
    sight: Sight,
    keep: Callable[[], bool],
) -> list[list[Any]]:
    """What a task predicts, a list of batches for each loader, empty unless kept; to be called in eval mode.

    The model is what `sight` shows. Whether predictions are kept is asked once the first event has been heard.
    """
    kept: list[list[Any]] = [[] for _ in loaders]
    with sight.of_a_pass():
        fire(ev.PredictStart, batches=_total(loaders))
        kept_for_all = keep()
        fire(ev.PredictEpochStart)
        for dataloader_idx, loader in enumerate(loaders):
            for batch_idx, batch in enumerate(loader):
                batch = to_device(batch, device)
                which = {"batch_idx": batch_idx, "dataloader_idx": dataloader_idx, "batch": batch}
                fire(ev.PredictBatchStart, samples=batch_size(batch), **which)
                with torch.no_grad():
                    outputs = task.predicts(sight.model, batch)
                if kept_for_all:
                    kept[dataloader_idx].append(outputs)
                fire(ev.PredictBatchEnd, outputs=outputs, **which)
                boundary()
        fire(ev.PredictEpochEnd, **({"predictions": flat(kept)} if kept_for_all else {}))
    return kept


def flat(of_loaders: list[list[Any]]) -> list[Any]:
    """Predictions as users see them: in lists by loader only where there are several."""
    return of_loaders[0] if len(of_loaders) == 1 else of_loaders


def _total(loaders: Sequence[Loader]) -> int | None:
    counts = [loader.count for loader in loaders]
    return None if None in counts else sum(count or 0 for count in counts)


def _named(prefix: str, loader: str | None, metric: str) -> str:
    return (metric if metric.startswith(prefix) else prefix + metric) + ("" if loader is None else f"/{loader}")
