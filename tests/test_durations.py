from datetime import timedelta
from math import inf, nan

import pytest

from fncb.durations import seconds_of


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("00:00:00:22", 22.0),
        ("12:34:56:65", 1162625.0),  # fields are not bounded
        ({"weeks": 52, "days": 1}, 31536000.0),
        (timedelta(seconds=10), 10.0),
    ],
)
def test_a_duration_is_written_in_three_ways(duration, seconds):  # F19
    assert seconds_of("it", duration) == seconds


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("01:02:03:04", 93784.0),
        ({"hours": 2, "minutes": 30}, 9000.0),
        (timedelta(days=1, seconds=30), 86430.0),
    ],
)
def test_an_interval_of_validation_is_written_so_too(duration, seconds):  # F21
    assert seconds_of("it", duration) == seconds


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("1:0:0:0", 86400.0),
        ("0:1:0:0", 3600.0),
        ("0:0:1:0", 60.0),
        ("0:0:0:120", 120.0),
        ({"hours": 2.5, "minutes": -30}, 7200.0),  # only the whole must be 0 or more
        (timedelta(milliseconds=250), 0.25),
        ("0:0:0:0", 0.0),
        ({}, 0.0),
        (timedelta(), 0.0),
    ],
)
def test_what_the_fields_mean(duration, seconds):
    assert seconds_of("it", duration) == seconds


@pytest.mark.parametrize(
    "duration", ["6:00:00", "60 minutes", "", "::: ", "00:00:00:-1", "00:00:00:1.5", " 00:00:00:01", "0:00:00:00:01"]
)
def test_another_string_is_refused_with_the_cure(duration):  # F19
    with pytest.raises(ValueError, match=r"^it must be 'DD:HH:MM:SS', got '.*'\. Write 90 minutes as '00:01:30:00'\."):
        seconds_of("it", duration)


@pytest.mark.parametrize(
    "duration", [{"hour": 1}, {"hours": "1"}, {"seconds": nan}, {"seconds": inf}, {"days": 10**10}, {1: 2}]
)
def test_a_mapping_must_be_arguments_of_timedelta(duration):
    with pytest.raises(ValueError, match=r"^it must be made of arguments of timedelta, got \{"):
        seconds_of("it", duration)


@pytest.mark.parametrize("duration", [{"seconds": -1}, timedelta(microseconds=-1)])
def test_a_duration_is_not_negative(duration):
    with pytest.raises(ValueError, match=r"^it must be 0 s or more, got "):
        seconds_of("it", duration)


@pytest.mark.parametrize("duration", [90, 1.5, None, ["00:00:00:01"]])
def test_another_kind_is_refused(duration):
    with pytest.raises(TypeError, match=r"^it must be 'DD:HH:MM:SS', a timedelta or a mapping .*, got .*'00:00:00:90'"):
        seconds_of("it", duration)
