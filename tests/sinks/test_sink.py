"""Sinks of a run: told of its beginning, of its end, and of how it ended."""

import pytest

from fncb.session import Session
from fncb.sinks import Sink


def noting(name, notes, **more):
    """A sink that notes what it is told."""
    return Sink(
        log=lambda metrics, event: None,
        close=lambda: notes.append(f"{name} closes"),
        **{"start": lambda: notes.append(f"{name} starts"), **more},
    )


def test_sinks_are_told_when_a_run_begins_and_ends():
    notes = []

    with Session(sinks=[noting("one", notes), noting("other", notes, start=None)]):
        assert notes == ["one starts"]

    assert sorted(notes[1:]) == ["one closes", "other closes"]


def test_one_that_wants_to_know_is_told_that_the_run_has_failed():
    notes = []
    sinks = [noting("one", notes, fail=lambda: notes.append("one fails")), noting("other", notes)]

    with pytest.raises(KeyboardInterrupt), Session(sinks=sinks):
        raise KeyboardInterrupt
    with Session(sinks=sinks[:1]):
        pass

    assert notes == ["one starts", "other starts", "other closes", "one fails", "one starts", "one closes"]


def test_if_one_cannot_begin_those_that_have_are_told():
    notes = []

    def fails():
        raise OSError("no such server")

    with pytest.raises(OSError, match="no such server"):
        Session(sinks=[noting("one", notes), noting("other", notes, start=fails)]).__enter__()

    assert notes == ["one starts", "one closes"]
