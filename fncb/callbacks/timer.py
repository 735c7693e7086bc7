"""Stop training when its time is up."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal

import attrs
from toolz import dissoc

from fncb.callback import Callback, Emit, emit
from fncb.durations import seconds_of
from fncb.effects import Stop
from fncb.events import Event
from fncb.fields import must_be_one_of

Timed = Literal["train", "validate", "test", "sanity_check"]


@attrs.frozen
class TimerState:
    """What `timer` remembers: how long each stage took, and which are under way.

    Attributes:
      spent: seconds by stage, up to its last end: summed over the run's resumes.
      since: by stage that is under way, the run's `seconds` at which it began.
    """

    spent: Mapping[Timed, float] = attrs.field(factory=dict)
    since: Mapping[Timed, float] = attrs.field(factory=dict)

    def elapsed(self, seconds: float, stage: Timed = "train") -> float:
        """Seconds that a stage has taken when the run has taken `seconds`, 0 if it has not begun."""
        return self.spent.get(stage, 0.0) + (seconds - self.since.get(stage, seconds))


def timer(
    duration: str | timedelta | Mapping[str, float] | None = None,
    *,
    interval: Literal["step", "epoch"] = "step",
    key: str = "timer",
) -> Callback[TimerState]:
    """Asks for `Stop` when training has taken its time, and keeps the time of each stage.

    Training takes from `on_train_start` to `on_train_end`, the validations in between included. A resumed run goes on
    counting from where it was saved: the time until its training starts again does not count. The time is up once it
    is reached, exactly or more. It is looked at when a fit starts, so that a resumed run whose time is up trains no
    more, and then at each `interval`. Where the run goes on regardless (`min_epochs`), it asks again. The sanity check
    is a stage of its own, and its validation does not count as one.

    Args:
      duration: 0 s or more: "DD:HH:MM:SS", a timedelta, or a mapping of its arguments; None never stops.
      interval: whether to look after each training batch ("step") or each training epoch ("epoch").
      key: names the state.

    Returns:
      A `Callback` with `TimerState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> from fncb.events import TrainBatchEnd, TrainStart
      >>> limit = timer("00:00:00:10")
      >>> state, _ = limit.transition(limit.init(), TrainStart(seconds=2.0))
      >>> state.elapsed(5.0), limit.transition(state, TrainBatchEnd(seconds=12.5))[1]
      (3.0, (Stop(reason='training has taken 10.5 s of 10.0 s'),))

    Known as:
      `Timer` in Lightning.

    Lightning's `verbose` is left out: a run says why it stopped. Its `time_remaining` is `duration` less `elapsed`.
    """
    limit = None if duration is None else seconds_of("timer: duration", duration)
    must_be_one_of("timer", "interval", interval, ("step", "epoch"))

    def check(state: TimerState, event: Event) -> TimerState | Emit[TimerState]:
        elapsed = state.elapsed(event.seconds)
        if limit is None or elapsed < limit:
            return state
        return emit(state, Stop(f"training has taken {elapsed:.1f} s of {limit:.1f} s"))

    moment: dict[str, Any] = {}
    if limit is not None:
        moment = {"on_train_batch_end" if interval == "step" else "on_train_epoch_end": check}
    return Callback(
        constructor="timer",
        key=key,
        init=TimerState,
        emits=() if limit is None else (Stop,),
        config={"duration": duration, "interval": interval},
        on_init_start=_end,  # the first event after a resume: what was under way when it was saved ends there
        on_fit_start=lambda state, event: check(_end(state, event), event),
        on_sanity_check_start=_starts("sanity_check"),
        on_sanity_check_end=_ends("sanity_check"),
        on_train_start=_starts("train"),
        on_train_end=_ends("train"),
        on_validation_start=_starts("validate"),
        on_validation_end=_ends("validate"),
        on_test_start=_starts("test"),
        on_test_end=_ends("test"),
        teardown=_end,
        **moment,
    )


def _starts(stage: Timed) -> Callable[[TimerState, Event], TimerState]:
    def start(state: TimerState, event: Event) -> TimerState:
        if stage == "validate" and "sanity_check" in state.since:
            return state
        before = _end(state, event, stage)
        return attrs.evolve(before, since={**before.since, stage: event.seconds})

    return start


def _ends(stage: Timed) -> Callable[[TimerState, Event], TimerState]:
    return lambda state, event: _end(state, event, stage)


def _end(state: TimerState, event: Event, *stages: Timed) -> TimerState:
    under_way: list[Timed] = [stage for stage in stages or tuple(state.since) if stage in state.since]
    spent: dict[Timed, float] = {stage: state.elapsed(event.seconds, stage) for stage in under_way}
    return TimerState({**state.spent, **spent}, dissoc(state.since, *spent)) if spent else state
