"""Log what the device is up to."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import Effect, Log, Print, Probe
from fncb.events import Probed
from fncb.fields import must_be_int


@attrs.frozen
class DeviceStatsMonitorState:
    """What `device_stats_monitor` remembers.

    Attributes:
      told: those of `filter_keys` that were missing, and were said to be.
    """

    told: tuple[str, ...] = ()


def device_stats_monitor(
    cpu_stats: bool | None = None,
    filter_keys: Iterable[str] | None = None,
    *,
    log_every_n_steps: int = 50,
    key: str = "device_stats_monitor",
) -> Callback[DeviceStatsMonitorState]:
    """Asks what the device is up to, before and after some batches, and logs the answer.

    It asks for `Probe("device")` at the start and at the end of training, validation and test batches, and sends the
    answer to the sinks as `device_stats_monitor.<hook>/<name>`, for example
    `device_stats_monitor.on_train_batch_end/cpu_percent`. It joins no event's metrics: there may be a hundred numbers.

    What there is: of an accelerator what `torch.accelerator.memory_stats` tells, in bytes and counts; of CUDA also
    `gpu_percent` and `gpu_celsius`, if nvidia-ml-py is there; of the CPU `cpu_percent`, since it was last asked,
    `cpu_vm_percent` and `cpu_swap_percent`. Nothing of it waits for the device.

    Args:
      cpu_stats: whether to look at the CPU, with psutil; None does so if there is no accelerator.
      filter_keys: the names to log, without what comes before the slash; None logs all. What is not there is said once.
      log_every_n_steps: 1 or more: looks at training batches whose update is an n-th one, and at each n-th batch of a
        validation or test.
      key: names the state, and begins the names of what is logged.

    Returns:
      A `Callback` with `DeviceStatsMonitorState`.

    Raises:
      ModuleNotFoundError: if `cpu_stats` is True and there is no psutil.
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> monitor = device_stats_monitor(filter_keys=["num_ooms"], key="device")
      >>> found = {"num_ooms": 0.0, "active.all.peak": 1.0}
      >>> answer = Probed(what="device", key="device", at="on_train_batch_end", metrics=found)
      >>> monitor.transition(monitor.init(), answer)[1]
      (Log(metrics={'device.on_train_batch_end/num_ooms': 0.0}),)

    Known as:
      `DeviceStatsMonitor` in Lightning, `MemoryMonitor` and `SystemMetricsMonitor` in Composer.
    """
    if not (cpu_stats is None or isinstance(cpu_stats, bool)):
        raise TypeError(f"device_stats_monitor: cpu_stats must be True, False or None, got {cpu_stats!r}.")
    if isinstance(filter_keys, str):
        raise TypeError(
            f"device_stats_monitor: filter_keys must be several names, got {filter_keys!r}. Write [{filter_keys!r}]."
        )
    must_be_int("device_stats_monitor", "log_every_n_steps", log_every_n_steps, 1, "step")
    if cpu_stats and find_spec("psutil") is None:
        raise ModuleNotFoundError(
            "device_stats_monitor: what the CPU does is read with psutil, got none. pip install 'fncb[monitor]', or "
            "pass cpu_stats=False."
        )
    wanted, n = None if filter_keys is None else sorted(filter_keys), log_every_n_steps

    def asks(due: Callable[[Any], bool]) -> Any:
        return lambda state, event: emit(state, Probe("device", cpu_stats)) if due(event) else state

    def on_probed(
        state: DeviceStatsMonitorState, event: Probed
    ) -> DeviceStatsMonitorState | Emit[DeviceStatsMonitorState]:
        if event.key != key or event.what != "device":
            return state
        names = [name for name in event.metrics if wanted is None or name in wanted]
        missing = tuple(name for name in wanted or () if name not in names)
        found: list[Effect] = []
        if names:
            found.append(Log({f"{key}.{event.at}/{name}": event.metrics[name] for name in names}, only_to_sinks=True))
        if missing and missing != state.told:
            there, state = list(event.metrics), DeviceStatsMonitorState(told=missing)
            found.append(Print(f"device_stats_monitor: there is no {list(missing)} to log. There are {there}."))
        return emit(state, *found) if found else state

    batch_start = asks(lambda event: (event.step + 1) % n == 0)
    batch_end = asks(lambda event: event.step % n == 0 and event.step > 0)
    of_others = asks(lambda event: (event.batch_idx + 1) % n == 0)
    return Callback(
        constructor="device_stats_monitor",
        key=key,
        init=DeviceStatsMonitorState,
        emits=(Probe, Log, Print) if wanted else (Probe, Log),
        config={"cpu_stats": cpu_stats, "filter_keys": wanted, "log_every_n_steps": n},
        on_train_batch_start=batch_start,
        on_train_batch_end=batch_end,
        on_validation_batch_start=of_others,
        on_validation_batch_end=of_others,
        on_test_batch_start=of_others,
        on_test_batch_end=of_others,
        on_probed=on_probed,
    )
