"""Durations as people write them, in seconds."""

import re
from collections.abc import Mapping
from datetime import timedelta

_DAYS_TO_SECONDS = re.compile(r"([0-9]+):([0-9]+):([0-9]+):([0-9]+)")


def seconds_of(who: str, duration: str | timedelta | Mapping[str, float]) -> float:
    """A duration in seconds.

    Args:
      who: begins the message of an error, for example `timer: duration`.
      duration: 0 s or more. A string is "DD:HH:MM:SS": days, hours, minutes and seconds, each of one or more digits
        and without an upper bound. A mapping holds arguments of `datetime.timedelta` by name.

    Returns:
      Seconds, to the microsecond.

    Raises:
      TypeError: for a duration of another kind; a bare number does not tell its unit.
      ValueError: for a string or a mapping that is no duration, or for one below 0 s.

    Example:
      >>> seconds_of("timer: duration", "00:01:30:00"), seconds_of("timer: duration", {"hours": 1, "minutes": 30})
      (5400.0, 5400.0)
      >>> seconds_of("timer: duration", "01:30:00")
      Traceback (most recent call last):
      ValueError: timer: duration must be 'DD:HH:MM:SS', got '01:30:00'. Write 90 minutes as '00:01:30:00'.
    """
    if isinstance(duration, str):
        fields = _DAYS_TO_SECONDS.fullmatch(duration)
        if fields is None:
            raise ValueError(f"{who} must be 'DD:HH:MM:SS', got {duration!r}. Write 90 minutes as '00:01:30:00'.")
        days, hours, minutes, seconds = map(float, fields.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    if isinstance(duration, Mapping):
        try:
            length = timedelta(**duration)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{who} must be made of arguments of timedelta, got {duration!r}: {error}.") from error
    elif isinstance(duration, timedelta):
        length = duration
    else:
        raise TypeError(
            f"{who} must be 'DD:HH:MM:SS', a timedelta or a mapping of its arguments, got {duration!r}. "
            "Write 90 seconds as '00:00:00:90'."
        )
    if length < timedelta():
        raise ValueError(f"{who} must be 0 s or more, got {duration!r}.")
    return length.total_seconds()
