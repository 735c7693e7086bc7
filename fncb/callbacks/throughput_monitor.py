"""Log how many batches and samples a second are trained on."""

from collections.abc import Mapping
from typing import Any

import attrs

from fncb import events as ev
from fncb.callback import Callback, Emit, emit
from fncb.effects import Log, Probe
from fncb.fields import must_be_int, must_be_number


@attrs.frozen
class Pace:
    """How far a stage has come.

    Attributes:
      seconds: that it has taken, without what does not count.
      batches: that are done.
      samples: that were in them.
      window: the last ends of batches: the three numbers above as they were then.
    """

    seconds: float = 0.0
    batches: int = 0
    samples: int = 0
    window: tuple[tuple[float, int, int], ...] = ()


@attrs.frozen
class ThroughputMonitorState:
    """What `throughput_monitor` remembers.

    Attributes:
      paces: by stage.
      since: the run's `seconds` up to which time is counted in the stage under way.
      samples: in the batch under way.
      checking: whether the sanity check is under way, which does not count.
      logged: the step at which training was last logged.
      flops: operations of a training step, for each sample; None before they are known.
      available_flops: that the device can make a second; None if it is not known.
    """

    paces: Mapping[str, Pace] = attrs.field(factory=dict)
    since: float = 0.0
    samples: int = 0
    checking: bool = False
    logged: int = 0
    flops: float | None = None
    available_flops: float | None = None


def throughput_monitor(
    *,
    window_size: int = 100,
    separator: str = "/",
    available_flops: float | None = None,
    count_flops: bool = True,
    length: int | None = None,
    log_every_n_steps: int = 50,
    key: str = "throughput_monitor",
) -> Callback[ThroughputMonitorState]:
    """Logs how fast a run goes through its batches, over the last ones, and what share of the device it uses.

    For training, as `train/time` and so on; each n-th step, at the end of its last batch:

    - `time`: seconds that training has taken, to the end of that batch, summed over resumes. Validation, the time
      between a run's end and its resume, and what comes before training do not count.
    - `batches`, `samples`: how many were done, and, with `length`, `lengths`: samples times `length`.
    - `device/batches_per_sec`, `device/samples_per_sec` and `device/items_per_sec`: the same between the first and the
      last end of a batch in the window, by the time between them. They are there once the window is full.
    - `device/flops_per_sec`: samples a second times the operations of a sample, which are those of the run's first
      batch, forward and backward, by its samples; and `device/mfu`: that by what the device could do at most.

    For validation, as `validate/time` and so on, at `on_validation_end`, all validations of the run summed up but for
    the sanity check; likewise for `test` and `predict`; without operations.

    The time is the host's, and nothing waits for the device: as the host gets no more than a few batches ahead of it,
    a window of a hundred is as good. How many samples are in a batch is what the loop says: the length of its first
    tensor.

    Args:
      window_size: ends of batches, 2 or more.
      separator: between the parts of a name.
      available_flops: operations a second that the device can make, for `device/mfu`, more than 0; None takes the data
        sheet's for some accelerators, and logs no `mfu` for others.
      count_flops: whether operations are counted, which takes a moment at the first batch, and the loop's `Probe`.
      length: items of a sample, such as tokens of a sequence, 1 or more.
      log_every_n_steps: 1 or more.
      key: names the state.

    Returns:
      A `Callback` with `ThroughputMonitorState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> monitor = throughput_monitor(window_size=2, log_every_n_steps=2, count_flops=False)
      >>> start, batch = ev.TrainStart(seconds=1.0), ev.TrainBatchStart(samples=8)
      >>> ends = [ev.TrainBatchEnd(step=1, seconds=1.5), ev.TrainBatchEnd(step=2, seconds=1.75)]
      >>> state = monitor.init()
      >>> for event in (start, batch, ends[0], batch, ends[1]):
      ...     state, logs = monitor.transition(state, event)
      >>> logs[0].metrics  # doctest: +NORMALIZE_WHITESPACE
      {'train/time': 0.75, 'train/batches': 2, 'train/samples': 16, 'train/device/batches_per_sec': 4.0,
       'train/device/samples_per_sec': 32.0}

    Lightning's `batch_size_fn` and `length_fn` are left out: they would read batches, which no recording has.

    Known as:
      `ThroughputMonitor` in Lightning, `SpeedMonitor` in Composer.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    who = "throughput_monitor"
    must_be_int(who, "window_size", window_size, 2, "batches")
    must_be_int(who, "log_every_n_steps", log_every_n_steps, 1, "step")
    if length is not None:
        must_be_int(who, "length", length, 1, "item")
    if not isinstance(separator, str):
        raise TypeError(f"{who}: separator must be text, got {separator!r}.")
    if available_flops is not None:
        must_be_number(who, "available_flops", available_flops, "(0, inf)")

    def measured(state: ThroughputMonitorState, stage: str) -> Log:
        pace = state.paces.get(stage, Pace())
        found = {"time": pace.seconds, "batches": pace.batches, "samples": pace.samples}
        if length is not None:
            found["lengths"] = pace.samples * length
        if len(pace.window) == window_size:
            found |= {f"device{separator}{name}": value for name, value in rates(state, stage, pace).items()}
        return Log({f"{stage}{separator}{name}": value for name, value in found.items()})

    def rates(state: ThroughputMonitorState, stage: str, pace: Pace) -> dict[str, float]:
        seconds, batches, samples = (last - first for first, last in zip(pace.window[0], pace.window[-1], strict=True))
        if seconds <= 0:
            return {}
        found = {"batches_per_sec": batches / seconds, "samples_per_sec": samples / seconds}
        if length is not None:
            found["items_per_sec"] = samples * length / seconds
        if stage == "train" and state.flops is not None:
            found["flops_per_sec"] = samples * state.flops / seconds
            most = available_flops or state.available_flops
            if most:
                found["mfu"] = found["flops_per_sec"] / most
        return found

    def start(state: ThroughputMonitorState, event: ev.Event) -> ThroughputMonitorState:
        return attrs.evolve(state, since=event.seconds)

    def batch_start(state: ThroughputMonitorState, event: Any) -> ThroughputMonitorState:
        return attrs.evolve(state, samples=event.samples)

    def on_train_batch_start(state: ThroughputMonitorState, event: ev.TrainBatchStart) -> Any:
        is_first = "train" not in state.paces
        state = batch_start(state, event)
        return emit(state, Probe("flops")) if is_first and count_flops else state

    def on_probed(state: ThroughputMonitorState, event: ev.Probed) -> ThroughputMonitorState:
        if event.key != key or event.what != "flops" or not state.samples:
            return state
        of_sample, most = event.metrics["flops"] / state.samples, event.metrics.get("available_flops")
        return attrs.evolve(state, flops=of_sample, available_flops=most)

    def batch_end(stage: str) -> Any:
        def count(state: ThroughputMonitorState, event: ev.Event) -> ThroughputMonitorState:
            if state.checking:
                return state
            pace = state.paces.get(stage, Pace())
            done = pace.seconds + event.seconds - state.since, pace.batches + 1, pace.samples + state.samples
            pace = Pace(*done, window=(*pace.window[1 - window_size :], done))
            return attrs.evolve(state, paces={**state.paces, stage: pace}, since=event.seconds, samples=0)

        return count

    def on_train_batch_end(state: ThroughputMonitorState, event: ev.TrainBatchEnd) -> Any:
        state = batch_end("train")(state, event)
        if event.step % log_every_n_steps or event.step == state.logged:
            return state
        return emit(attrs.evolve(state, logged=event.step), measured(state, "train"))

    def end(stage: str) -> Any:
        def tell(state: ThroughputMonitorState, event: ev.Event) -> ThroughputMonitorState | Emit[Any]:
            # from where on training goes on
            return state if state.checking else emit(start(state, event), measured(state, stage))

        return tell

    hooks: dict[str, Any] = {"on_probed": on_probed} if count_flops else {}
    for stage, name in (("validate", "validation"), ("test", "test"), ("predict", "predict")):
        hooks |= {f"on_{name}_start": start, f"on_{name}_batch_start": batch_start}
        hooks |= {f"on_{name}_batch_end": batch_end(stage), f"on_{name}_end": end(stage)}
    return Callback(
        constructor="throughput_monitor",
        key=key,
        init=ThroughputMonitorState,
        emits=(Log, Probe) if count_flops else (Log,),
        config=config,
        on_sanity_check_start=lambda state, event: attrs.evolve(state, checking=True),
        on_sanity_check_end=lambda state, event: attrs.evolve(state, checking=False),
        on_train_start=start,
        on_train_batch_start=on_train_batch_start,
        on_train_batch_end=on_train_batch_end,
        **hooks,
    )
