"""Log the learning rates in use."""

from collections.abc import Mapping
from typing import Literal

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import Log, Probe
from fncb.events import Probed, TrainBatchStart, TrainEpochStart
from fncb.fields import must_be_int


@attrs.frozen
class LRMonitorState:
    """What `lr_monitor` remembers.

    Attributes:
      logged: the rates that were logged last, by name.
    """

    logged: Mapping[str, float] = attrs.field(factory=dict)


def lr_monitor(
    *,
    logging_interval: Literal["step", "epoch"] | None = None,
    log_momentum: bool = False,
    log_weight_decay: bool = False,
    log_key_prefix: str = "",
    log_every_n_steps: int = 1,
    key: str = "lr_monitor",
) -> Callback[LRMonitorState]:
    """Asks for a `Log` of the learning rates when they have changed, every epoch or every step.

    The loop gives the rates as metrics whose names start with `lr-`: `lr-AdamW`, or `lr-AdamW/pg1`, `lr-AdamW/pg2`
    where there are several parameter groups, or `lr-AdamW/<name>` for one that has a name; a second AdamW is
    `lr-AdamW-1`. When a group comes or goes, the names are others from then on. Those of a batch are the ones that its
    update is made with. They are known on the host, so reading them never waits for the device.

    They go to sinks only, as events have them anyway: `early_stop("lr-SGD", check_on_train_epoch_end=True)` needs none.

    Args:
      logging_interval: "epoch" logs as each training epoch starts, "step" as training batches start; None logs as each
        epoch starts and, at a batch, rates that are others than those logged last: so a schedule is seen whenever it
        has moved, by epoch or by step.
      log_momentum: whether to log `<name>-momentum` too, of each group that has one: for Adam and its like, the first
        of `betas`.
      log_weight_decay: whether to log `<name>-weight_decay` too, of each group that has it.
      log_key_prefix: put before each name as it is, for example "optimizer/".
      log_every_n_steps: 1 or more: at batches only those whose update is an n-th one. Of accumulated batches each is
        looked at.
      key: names the state.

    Returns:
      A `Callback` with `LRMonitorState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> monitor = lr_monitor()
      >>> start = TrainEpochStart(epoch=1, step=100, metrics={"lr-SGD": 0.25, "loss_epoch": 1.5})
      >>> monitor.transition(monitor.init(), start)
      (LRMonitorState(logged={'lr-SGD': 0.25}), (Log(metrics={'lr-SGD': 0.25}),))

    A logger is not required, as in Lightning. For a group without momentum nothing is logged, where Lightning logs 0.

    Known as:
      `LearningRateMonitor` in Lightning.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    if logging_interval not in (None, "step", "epoch"):
        raise ValueError(f"lr_monitor: logging_interval must be 'step', 'epoch' or None, got {logging_interval!r}.")
    if not isinstance(log_key_prefix, str):
        raise TypeError(f"lr_monitor: log_key_prefix must be text, got {log_key_prefix!r}.")
    must_be_int("lr_monitor", "log_every_n_steps", log_every_n_steps, 1, "step")
    endings = ("-momentum",) * log_momentum + ("-weight_decay",) * log_weight_decay
    also = (Probe("optimizer"),) if endings else ()

    def log(found: Mapping[str, float]) -> Log:
        return Log({f"{log_key_prefix}{name}": value for name, value in found.items()}, only_to_sinks=True)

    def log_rates(
        state: LRMonitorState, event: TrainEpochStart | TrainBatchStart
    ) -> LRMonitorState | Emit[LRMonitorState]:
        rates = _rates(event)
        return emit(LRMonitorState(rates), log(rates), *also) if rates else state

    def on_train_batch_start(state: LRMonitorState, event: TrainBatchStart) -> LRMonitorState | Emit[LRMonitorState]:
        due = (event.step + 1) % log_every_n_steps == 0
        moved = logging_interval == "step" or _texts(_rates(event)) != _texts(state.logged)
        return log_rates(state, event) if due and moved else state

    def on_probed(state: LRMonitorState, event: Probed) -> LRMonitorState | Emit[LRMonitorState]:
        if event.key != key or event.what != "optimizer":
            return state
        found = {name: event.metrics[name] for name in event.metrics if name.endswith(endings)}
        return emit(state, log(found)) if found else state

    return Callback(
        constructor="lr_monitor",
        key=key,
        init=LRMonitorState,
        emits=(Log, Probe) if endings else (Log,),
        config=config,
        on_train_epoch_start=None if logging_interval == "step" else log_rates,
        on_train_batch_start=None if logging_interval == "epoch" else on_train_batch_start,
        on_probed=on_probed if endings else None,
    )


def _rates(event: TrainEpochStart | TrainBatchStart) -> dict[str, float]:
    return {name: event.metrics[name] for name in event.metrics if name.startswith("lr-")}


def _texts(rates: Mapping[str, float]) -> dict[str, str]:
    return {name: repr(rate) for name, rate in rates.items()}  # NaN does not equal NaN, but reads the same
