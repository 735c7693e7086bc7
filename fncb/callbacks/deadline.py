"""Stop training at a time of the day."""

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.durations import seconds_of
from fncb.effects import Stop
from fncb.events import Event, Setup


@attrs.frozen
class DeadlineState:
    """What `deadline` remembers.

    Attributes:
      began: what the machine's clock would have said when the run's seconds were 0, had it run without a break, in
        seconds since 1970 in UTC; None before the run is set up.
    """

    began: float | None = None


def deadline(
    at: datetime | str | float,
    *,
    margin: str | timedelta | Mapping[str, float] | None = None,
    key: str = "deadline",
) -> Callback[DeadlineState]:
    """Asks for `Stop` once it is `margin` before a point in time, or later.

    It is looked at when a fit starts, so that a resumed run that is too late trains no more, and after each training
    batch. The time is that of the machine's clock when the run was set up, plus what has passed since; a resumed run
    takes it anew, so the time in between counts. Leave a margin for what comes after the last batch: a validation, the
    checkpoints. Where the run goes on regardless (`min_epochs`), it asks again.

    Args:
      at: a datetime, text in ISO 8601 such as "2030-06-01T08:00:00+02:00", or seconds since 1970 in UTC. Without a time
        zone it is in that of this machine.
      margin: 0 s or more: "DD:HH:MM:SS", a timedelta, or a mapping of its arguments; None for none.
      key: names the state.

    Returns:
      A `Callback` with `DeadlineState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> from fncb.events import TrainBatchEnd
      >>> stop = deadline("2030-01-01T00:00:00Z", margin={"minutes": 5})
      >>> state, _ = stop.transition(stop.init(), Setup(time=1893455600.0, seconds=10.0))
      >>> stop.transition(state, TrainBatchEnd(seconds=109.5))[1]
      ()
      >>> stop.transition(state, TrainBatchEnd(seconds=110.0))[1]
      (Stop(reason='it is 300.0 s to 2030-01-01T00:00:00+00:00'),)

    Known as:
      nothing elsewhere.
    """
    named = _in_utc(at)
    end = named.timestamp()
    spare = 0.0 if margin is None else seconds_of("deadline: margin", margin)

    def check(state: DeadlineState, event: Event) -> DeadlineState | Emit[DeadlineState]:
        left = None if state.began is None else end - (state.began + event.seconds)
        if left is None or left > spare:
            return state
        return emit(
            state,
            Stop(
                f"it is {left:.1f} s to {named.isoformat()}"
                if left >= 0
                else f"it is {-left:.1f} s past {named.isoformat()}"
            ),
        )

    def setup(state: DeadlineState, event: Setup) -> DeadlineState:
        return DeadlineState(began=event.time - event.seconds)

    return Callback(
        constructor="deadline",
        key=key,
        init=DeadlineState,
        emits=(Stop,),
        config={"at": named.isoformat(), "margin": margin},
        setup=setup,
        on_fit_start=check,
        on_train_batch_end=check,
    )


def _in_utc(at: datetime | str | float) -> datetime:
    if isinstance(at, bool) or not isinstance(at, datetime | str | int | float):
        raise TypeError(f"deadline: at must be a datetime, text or seconds since 1970, got {at!r}.")
    try:
        if isinstance(at, str):
            at = datetime.fromisoformat(at[:-1] + "+00:00" if at[-1:] == "Z" else at)  # Python 3.10 knows no Z
        return at.astimezone(timezone.utc) if isinstance(at, datetime) else datetime.fromtimestamp(at, timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(
            f"deadline: at must be a time as 2030-06-01T08:00:00+02:00, or seconds since 1970, got {at!r}: {error}."
        ) from None
