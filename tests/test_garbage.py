"""Python's garbage: collected when asked, and only then, until the run is over."""

import gc
import weakref
from contextlib import suppress

import pytest

from fncb import events as ev
from fncb.callback import Callback, emit
from fncb.effects import CollectGarbage
from fncb.garbage import Garbage
from fncb.session import Session


class Node:
    """Something that refers to itself."""

    def __init__(self):
        self.itself = self


def left_behind():
    """A weak reference to an object that only the collector finds."""
    return weakref.ref(Node())


@pytest.fixture(autouse=True)
def collecting():
    """Has Python collect before and after, whatever the test does."""
    gc.enable()
    yield
    gc.enable()


def test_what_is_found_goes_at_once():
    node, garbage = left_behind(), Garbage()
    gc.disable()
    assert node() is not None

    garbage.collect(CollectGarbage(0), ev.Event())
    assert node() is None
    garbage.close()


def test_an_older_generation_is_looked_at_only_if_asked_for():
    node, garbage = Node(), Garbage()
    ref = weakref.ref(node)
    gc.collect()  # what survives is of the oldest now
    del node

    garbage.collect(CollectGarbage(0), ev.Event())
    assert ref() is not None
    garbage.collect(CollectGarbage(2), ev.Event())
    assert ref() is None
    garbage.close()


def test_from_the_first_time_on_python_collects_none_by_itself_until_it_is_closed():
    garbage = Garbage()
    assert gc.isenabled()

    garbage.collect(CollectGarbage(), ev.Event())
    assert not gc.isenabled()
    garbage.close()
    assert gc.isenabled()


def test_where_it_was_off_it_stays_off():
    gc.disable()
    garbage = Garbage()

    garbage.collect(CollectGarbage(), ev.Event())
    garbage.close()
    assert not gc.isenabled()


def test_closing_what_never_collected_changes_nothing():
    gc.disable()
    Garbage().close()

    assert not gc.isenabled()


@pytest.mark.parametrize("generation", [-1, 3, None])
def test_a_generation_that_is_none_is_told(generation):
    garbage = Garbage()
    with pytest.raises(ValueError, match=f"^CollectGarbage: generation must be 0, 1 or 2, got {generation}"):
        garbage.collect(CollectGarbage(generation), ev.Event())

    assert gc.isenabled()


def test_a_session_has_python_collect_again_also_after_an_exception():
    def hook(state, event):
        return emit(state, CollectGarbage())

    asks = Callback(key="a", init=int, emits=(CollectGarbage,), on_train_start=hook)
    with suppress(KeyError), Session(asks) as session:
        session(ev.TrainStart())
        assert not gc.isenabled()
        raise KeyError

    assert gc.isenabled()
