"""Write predictions down as they are made, or all at the end."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import Call, KeepPredictions
from fncb.events import PredictBatchEnd, PredictBatchStart, PredictEpochEnd, PredictStart


@attrs.frozen
class PredictionWriterState:
    """What `prediction_writer` remembers of a prediction.

    Attributes:
      first: the place of the first sample of the batch under way among those that its loader gave.
      samples: how many it holds.
      sizes: for each loader so far the samples of its batches, where they are needed at the end.
    """

    first: int = 0
    samples: int = 0
    sizes: tuple[tuple[int, ...], ...] = ()


def prediction_writer(
    write_on_batch_end: Callable[..., object] | None = None,
    write_on_epoch_end: Callable[..., object] | None = None,
    *,
    write_interval: Literal["batch", "epoch", "batch_and_epoch"] = "batch",
    key: str = "prediction_writer",
) -> Callback[PredictionWriterState]:
    """Calls a function with each prediction, or with all at the end, that writes them wherever it likes.

    Indices are the places of samples in the order in which the loader gave them, from 0 on, each loader by itself: of a
    loader that does not shuffle, those in its dataset. A batch has as many samples as its first tensor is long.

    Args:
      write_on_batch_end: `f(prediction, batch_indices, batch, batch_idx, dataloader_idx)`, called after each batch;
        `batch_indices` is a list of ints.
      write_on_epoch_end: `f(predictions, batch_indices)`, called at the end: a list with what was predicted for each
        batch, and one with the indices of each; where there are several loaders, a list of such lists. All predictions
        are kept for it, also with `return_predictions=False`.
      write_interval: which of them are called.
      key: names the state.

    Returns:
      A `Callback` with `PredictionWriterState`.

    Raises:
      ValueError: for an unknown interval, or one whose function is missing.
      TypeError: for something that is no function.

    Example:
      >>> import fncb, torch
      >>> write = prediction_writer(lambda prediction, indices, *_: print(prediction.tolist(), indices))
      >>> task = fncb.Task(torch.nn.Identity(), loss=lambda model, batch: model(batch).mean())
      >>> batches = [torch.ones(2), torch.zeros(1)]
      >>> _ = fncb.predict(task, batches, callbacks=write, return_predictions=False, progress=False)
      [1.0, 1.0] [0, 1]
      [0.0] [2]

    Lightning's class is to be subclassed; here the two methods are functions, without trainer and module.

    Known as:
      `BasePredictionWriter` in Lightning.
    """
    functions = {"batch": write_on_batch_end, "epoch": write_on_epoch_end}
    if write_interval not in (*functions, "batch_and_epoch"):
        raise ValueError(
            f"prediction_writer: write_interval must be 'batch', 'epoch' or 'batch_and_epoch', got {write_interval!r}."
        )
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"prediction_writer: write_on_{name}_end must be a function, got {function!r}.")
        if function is None and name in write_interval:
            raise ValueError(
                f"prediction_writer: write_on_{name}_end must be given for write_interval={write_interval!r}, got None."
            )
    by_batch, by_epoch = (name in write_interval for name in functions)

    def on_predict_start(
        state: PredictionWriterState, event: PredictStart
    ) -> PredictionWriterState | Emit[PredictionWriterState]:
        return emit(PredictionWriterState(), KeepPredictions()) if by_epoch else PredictionWriterState()

    def on_predict_batch_start(state: PredictionWriterState, event: PredictBatchStart) -> PredictionWriterState:
        begins, sizes = event.batch_idx == 0, state.sizes
        if by_epoch:
            sizes = (*sizes, (event.samples,)) if begins or not sizes else (*sizes[:-1], (*sizes[-1], event.samples))
        return PredictionWriterState(0 if begins else state.first + state.samples, event.samples, sizes)

    def on_predict_batch_end(state: PredictionWriterState, event: PredictBatchEnd) -> Emit[PredictionWriterState]:
        indices = [*range(state.first, state.first + state.samples)]
        return emit(state, Call("write_on_batch_end", partial(_of_batch, write_on_batch_end, indices)))

    def on_predict_epoch_end(state: PredictionWriterState, event: PredictEpochEnd) -> Emit[PredictionWriterState]:
        return emit(state, Call("write_on_epoch_end", partial(_of_epoch, write_on_epoch_end, state.sizes)))

    return Callback(
        constructor="prediction_writer",
        key=key,
        init=PredictionWriterState,
        emits=(Call,) + (KeepPredictions,) * by_epoch,
        config={"write_interval": write_interval},
        on_predict_start=on_predict_start,
        on_predict_batch_start=on_predict_batch_start,
        on_predict_batch_end=on_predict_batch_end if by_batch else None,
        on_predict_epoch_end=on_predict_epoch_end if by_epoch else None,
    )


def _of_batch(write: Any, indices: list[int], event: PredictBatchEnd) -> None:
    write(event.outputs, indices, event.batch, event.batch_idx, event.dataloader_idx)


def _of_epoch(write: Any, sizes: tuple[tuple[int, ...], ...], event: PredictEpochEnd) -> None:
    indices = [_indices(of_loader) for of_loader in sizes]
    write(event.predictions, indices[0] if len(indices) == 1 else indices)


def _indices(sizes: tuple[int, ...]) -> list[list[int]]:
    found, first = [], 0
    for size in sizes:
        found.append([*range(first, first + size)])
        first += size
    return found
