"""One pass over a loader to measure a model, not to train it."""

from typing import Any

import torch

from fncb import data
from fncb import events as ev
from fncb.task import Task, loss_and_metrics


def evaluate(stage: str, task: Task, loader: Any, where: torch.device, fire: Any) -> ev.Metrics:
    """One pass over a loader in eval mode; the means stay on the device."""
    model, measure = task.model, task.validate or task.loss
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    names: tuple[str, ...] = ()
    sums: Any = None
    samples = 0
    try:
        fire(ev.ValidationStart, batches=data.count(loader))
        fire(ev.ValidationEpochStart)
        with torch.no_grad():
            for batch_idx, batch in enumerate(data.at_least_one(f"{stage}: val", loader)):
                batch = data.to_device(batch, where)
                fire(ev.ValidationBatchStart, batch_idx=batch_idx, batch=batch)
                outputs = measure(model, batch)
                loss, beside = loss_and_metrics(stage, outputs)
                names = ("loss", *beside)
                size = data.batch_size(batch)
                weighted = torch.stack([value.detach().float() for value in (loss, *beside.values())]) * size
                sums = weighted if sums is None else sums + weighted
                samples += size
                fire(ev.ValidationBatchEnd, batch_idx=batch_idx, batch=batch, outputs=outputs)
        fire(ev.ValidationEpochEnd)
    finally:
        for module, mode in modes:
            module.training = mode
    return ev.Metrics(None, tuple(name if name.startswith("val_") else f"val_{name}" for name in names), sums / samples)
