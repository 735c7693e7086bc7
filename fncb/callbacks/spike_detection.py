"""Stop a training whose loss spikes, and note the batches that it spiked at."""

import json
import os
from math import isfinite
from typing import Literal

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.callbacks.pausing import pausing
from fncb.effects import Append, Print, Stop
from fncb.events import TrainBatchEnd, TrainEnd
from fncb.fields import must_be_int, must_be_metric, must_be_number, must_be_one_of


@attrs.frozen
class SpikeDetectionState:
    """What `spike_detection` remembers.

    Attributes:
      recent: the last finite values that were no spikes, at most `window`, oldest first.
      paused: whether nothing counts now: in a `fast_dev_run`, a sanity check or a run that does not train.
    """

    recent: tuple[float, ...] = ()
    paused: bool = False


def spike_detection(
    *,
    monitor: str = "loss",
    mode: Literal["min", "max"] = "min",
    window: int = 10,
    warmup: int = 1,
    atol: float | None = None,
    rtol: float | None = 2.0,
    exclude_batches_path: str | os.PathLike[str] | None = None,
    finite_only: bool = True,
    key: str = "spike_detection",
) -> Callback[SpikeDetectionState]:
    """Asks for `Stop` when a training metric spikes and, if wanted, for `Append` of the batches to leave out.

    At the end of each training batch but the first `warmup` of an epoch, the value x is a spike if it is not finite
    and `finite_only`, or if all of these hold, where m is the mean of the last `window` values: x is worse than the
    value before it (a tie is not), |x - m| >= atol, and |x - m| >= rtol * |m|. Spikes and values that are not finite
    enter neither m nor the value before. Before there is one, only the first condition counts. Where the run goes on
    regardless (`min_epochs`), each spike asks again.

    Args:
      monitor: the metric's name. Batches without it are passed over.
      mode: whether less ("min") or more ("max") is better.
      window: values, 1 or more.
      warmup: batches, 0 or more.
      atol: in the metric's unit, 0 or more; None for any.
      rtol: dimensionless, 0 or more; None for any.
      exclude_batches_path: a text file that gets a line of JSON for each spike: its epoch, and the 0-based indices of
        the batch before it, whose update may have led to it, and of its own. None for no file.
      finite_only: whether each value that is not finite is a spike.
      key: names the state.

    Returns:
      A `Callback` with `SpikeDetectionState`. Costs a wait for the device at each batch.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> stop = spike_detection(exclude_batches_path="spikes.jsonl")
      >>> state, _ = stop.transition(stop.init(), TrainBatchEnd(batch_idx=7, metrics={"loss": 0.5}))
      >>> asked = stop.transition(state, TrainBatchEnd(batch_idx=8, metrics={"loss": 1.5}))[1]
      >>> asked[0]
      Stop(reason='loss is 1.5 at batch 8 of epoch 0: a spike from 0.5')
      >>> asked[1]
      Append(path='spikes.jsonl', line='{"epoch": 0, "batches": [7, 8]}')

    Known as:
      `SpikeDetection` in Lightning.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    must_be_metric("spike_detection", monitor)
    must_be_one_of("spike_detection", "mode", mode, ("min", "max"))
    must_be_int("spike_detection", "window", window, 1, "value")
    must_be_int("spike_detection", "warmup", warmup, 0, "batches")
    for name in ("atol", "rtol"):
        if config[name] is not None:
            must_be_number("spike_detection", name, config[name], "[0, inf)")
    path = None
    if exclude_batches_path is not None:
        if not isinstance(exclude_batches_path, str | os.PathLike) or not os.fspath(exclude_batches_path):
            raise TypeError(f"spike_detection: exclude_batches_path must be a path, got {exclude_batches_path!r}.")
        config["exclude_batches_path"] = path = os.fspath(exclude_batches_path)
    sign = 1.0 if mode == "min" else -1.0  # sign * value: less is better

    def is_spike(recent: tuple[float, ...], value: float) -> bool:
        if finite_only and not isfinite(value):
            return True
        if not recent or sign * value <= sign * recent[-1]:
            return False
        mean = sum(recent) / len(recent)
        off = abs(value - mean)
        return (atol is None or off >= atol) and (rtol is None or off >= rtol * abs(mean))

    def on_train_batch_end(
        state: SpikeDetectionState, event: TrainBatchEnd
    ) -> SpikeDetectionState | Emit[SpikeDetectionState]:
        if state.paused or monitor not in event.metrics:
            return state
        value, i = event.metrics[monitor], event.batch_idx  # waits for the device
        if i < warmup or not is_spike(state.recent, value):
            return attrs.evolve(state, recent=(*state.recent, value)[-window:]) if isfinite(value) else state
        since = f": a spike from {state.recent[-1]:g}" if state.recent else ""
        asked: list[Stop | Append] = [Stop(f"{monitor} is {value:g} at batch {i} of epoch {event.epoch}{since}")]
        if path is not None:
            batches = {"epoch": event.epoch, "batches": [i - 1, i] if i else [i]}
            asked.append(Append(path, json.dumps(batches)))
        return emit(state, *asked)

    def on_train_end(state: SpikeDetectionState, event: TrainEnd) -> SpikeDetectionState | Emit[SpikeDetectionState]:
        if state.recent or state.paused:
            return state
        return emit(state, Print(f"spike_detection: nothing was compared: no batch had a finite {monitor!r}"))

    return Callback(
        constructor="spike_detection",
        key=key,
        init=SpikeDetectionState,
        emits=(Stop, Append, Print),
        config=config,
        on_train_batch_end=on_train_batch_end,
        on_train_end=on_train_end,
        **pausing(),
    )
