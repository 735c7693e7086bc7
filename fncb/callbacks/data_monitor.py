"""Show histograms of the training batches."""

from collections.abc import Iterator
from typing import Any

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.effects import Examine, LogHistogram
from fncb.events import TrainBatchStart
from fncb.fields import must_be_int
from fncb.tree import leaves


def data_monitor(*, log_every_n_steps: int = 50, key: str = "data_monitor") -> Callback[EmptyState]:
    """Shows a histogram of every tensor in the batch, as every n-th batch of a training epoch starts.

    A tensor is named for its place in the batch and its shape: `training_step/0/[2, 3, 4]` is the first part of a
    tuple, `training_step/image/[2, 3, 4]` that of a mapping, and `training_step/[2, 3, 4]` a batch that is a tensor.
    It is the batch before callbacks that work in the step replace it.

    Args:
      log_every_n_steps: batches, 1 or more: after that of index n - 1, 2 n - 1, ... of the epoch.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for an argument out of range or of the wrong kind.

    Example:
      >>> monitor = data_monitor(log_every_n_steps=2)
      >>> [len(monitor.transition(monitor.init(), TrainBatchStart(batch_idx=i))[1]) for i in range(5)]
      [0, 1, 0, 1, 0]

    Known as:
      `TrainingDataMonitor` in Lightning Bolts.
    """
    must_be_int("data_monitor", "log_every_n_steps", log_every_n_steps, 1, "batch")

    def show(_: Any, event: TrainBatchStart, __: Any) -> list[LogHistogram]:
        return [LogHistogram(name, tensor) for name, tensor in named_tensors("training_step", event.batch)]

    def on_train_batch_start(state: EmptyState, event: TrainBatchStart) -> EmptyState | Emit[EmptyState]:
        due = (event.batch_idx + 1) % log_every_n_steps == 0
        return emit(state, Examine("data_monitor", show)) if due else state

    return Callback(
        constructor="data_monitor",
        key=key,
        emits=(Examine, LogHistogram),
        config={"log_every_n_steps": log_every_n_steps},
        on_train_batch_start=on_train_batch_start,
    )


def named_tensors(group: str, data: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of nested data, each with the name of its histogram; one without values has none.

    Example:
      >>> import torch
      >>> [name for name, _ in named_tensors("input", (torch.ones(2, 12), {"mask": torch.ones(2), "note": "a"}))]
      ['input/0/[2, 12]', 'input/1/mask/[2]']
    """
    for path, leaf in leaves(data):
        if hasattr(leaf, "numel") and leaf.numel():
            place = f"/{path.replace('.', '/')}" if path else ""
            yield f"{group}{place}/{list(leaf.shape)}", leaf
