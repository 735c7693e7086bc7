"""Which events of a long run are shown."""

from itertools import pairwise

from fncb import events as ev
from fncb.page.shown import shown_of

BATCHES = [ev.TrainBatchEnd(step=i) for i in range(100)]


def test_few_events_are_all_shown():
    assert shown_of(BATCHES, [], [], most=100) == list(range(100))
    assert shown_of([], [], [], most=1) == []


def test_the_first_the_last_and_those_that_must_be_are_shown_whatever_happens():
    assert shown_of(BATCHES, [50, 60], [], most=1) == [0, 50, 60, 99]


def test_what_is_no_batch_comes_before_what_is():
    events = [*BATCHES, *[ev.ValidationEnd()] * 3, *BATCHES]

    assert {100, 101, 102} <= {*shown_of(events, [], [*range(90)], most=5)}


def test_where_something_happened_comes_before_where_nothing_did():
    shown = shown_of(BATCHES, [], range(10, 20), most=20)

    assert {*range(10, 20)} <= {*shown}
    assert len(shown) == 20


def test_others_are_left_out_evenly():
    shown = shown_of(BATCHES, [], [], most=12)

    assert [b - a for a, b in pairwise(shown)] == [1, 9, 10, 10, 10, 10, 9, 10, 10, 10, 10]
