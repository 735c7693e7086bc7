"""Profile a few steps, now and then."""

from pathlib import Path
from typing import Any

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import StartProfiler, StopProfiler
from fncb.events import TrainBatchEnd, TrainBatchStart, TrainEnd
from fncb.fields import must_be_int


@attrs.frozen
class ProfileState:
    """What `profile` remembers.

    Attributes:
      began: the steps that were made when the profile under way began; None if there is none.
    """

    began: int | None = None


def profile(
    path: str | Path,
    *,
    skip_first: int = 10,
    wait: int = 0,
    active: int = 3,
    repeat: int = 1,
    record_shapes: bool = False,
    profile_memory: bool = False,
    with_stack: bool = False,
    key: str = "profile",
) -> Callback[ProfileState]:
    """Asks for a profile of `active` steps of training at a time, each written as a trace of its own.

    After `skip_first` steps come cycles of `wait` steps that are not profiled and `active` steps that are, `repeat` of
    them. A profile begins as the first batch of its first step starts and ends with the last batch of its last step, or
    with training. A run that goes on in the middle of one leaves that one out. The trace is what `torch.profiler`
    writes: https://ui.perfetto.dev and `chrome://tracing` show it. While it is profiled a step takes longer, and its
    end waits for the device.

    Args:
      path: of a trace, ending in `.json` or `.json.gz`; `{step}` in it is the number of steps made when it began. Its
        folder is made if needed; a name that is taken gets the suffix `-v1`, `-v2`, ....
      skip_first: steps, 0 or more: the first ones compile and warm up.
      wait: steps, 0 or more.
      active: steps, 1 or more.
      repeat: cycles, 0 or more; 0 is no end to them.
      record_shapes, profile_memory, with_stack: as of `torch.profiler.profile`.
      key: names the state.

    Returns:
      A `Callback` with `ProfileState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> callback = profile("runs/a/step={step}.json.gz", skip_first=4, active=2)
      >>> state, (start,) = callback.transition(callback.init(), TrainBatchStart(step=4))
      >>> state, start.path
      (ProfileState(began=4), 'runs/a/step=4.json.gz')
      >>> callback.transition(state, TrainBatchEnd(step=6))
      (ProfileState(began=None), (StopProfiler(),))

    `torch.profiler.schedule` has `warmup` too: here the profiler is made ready before its first step begins.

    Known as:
      `torch.profiler.schedule` in PyTorch, `PyTorchProfiler` in Lightning, `Profiler` in Composer, `PyTorchProfiler` in
      TorchTNT.
    """
    config = {name: value for name, value in locals().items() if name != "key"} | {"path": str(path)}
    for name, least in (("skip_first", 0), ("wait", 0), ("active", 1), ("repeat", 0)):
        must_be_int("profile", name, config[name], least)
    if not str(path).endswith((".json", ".json.gz")):
        raise ValueError(f"profile: path must end in .json or .json.gz, got {str(path)!r}.")
    settings: dict[str, Any] = {name: config[name] for name in ("record_shapes", "profile_memory", "with_stack")}

    def on_train_batch_start(state: ProfileState, event: TrainBatchStart) -> ProfileState | Emit[ProfileState]:
        cycle, place = divmod(event.step - skip_first, wait + active)
        if state.began is not None or place != wait or cycle < 0 or (repeat and cycle >= repeat):
            return state
        to = str(path).replace("{step}", str(event.step))
        return emit(ProfileState(began=event.step), StartProfiler(to, **settings))

    def on_train_batch_end(state: ProfileState, event: TrainBatchEnd) -> ProfileState | Emit[ProfileState]:
        over = state.began is not None and event.step >= state.began + active
        return emit(ProfileState(), StopProfiler()) if over else state

    def on_train_end(state: ProfileState, event: TrainEnd) -> ProfileState | Emit[ProfileState]:
        return state if state.began is None else emit(ProfileState(), StopProfiler())

    return Callback(
        constructor="profile",
        key=key,
        init=ProfileState,
        emits=(StartProfiler, StopProfiler),
        config=config,
        on_train_batch_start=on_train_batch_start,
        on_train_batch_end=on_train_batch_end,
        on_train_end=on_train_end,
    )
