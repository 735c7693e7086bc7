"""What is seen of a function beside its result."""

import datetime
import enum
import io
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Sized
from functools import partial
from time import monotonic_ns as now

import attrs
import numpy
import pytest
import torch

from fncb.testing.comparing import as_it_is, unlike
from fncb.testing.seeing import CLOCK, OUTSIDE, RANDOMNESS, memory, watched


@torch.no_grad()
def clock_under_a_decorator():
    return time.time()


@pytest.mark.parametrize(
    ("does", "law"),
    [
        (lambda: now(), CLOCK),  # under a name of its own
        (lambda: time.localtime(), CLOCK),
        (lambda: datetime.date.today(), CLOCK),
        (lambda: time.sleep(0), CLOCK),
        (clock_under_a_decorator, CLOCK),
        (lambda: random.gauss(0, 1), RANDOMNESS),
        (lambda: random.Random(0).random(), RANDOMNESS),
        (lambda: os.urandom(1), RANDOMNESS),
        (lambda: numpy.random.rand(), RANDOMNESS),
        (lambda: torch.rand(()), RANDOMNESS),
        (lambda: os.path.exists("/"), OUTSIDE),
        (lambda: os.getcwd(), OUTSIDE),
        (lambda: sys.stderr.write(""), OUTSIDE),
        (lambda: open(os.devnull).close(), OUTSIDE),
        (lambda: socket.gethostname(), OUTSIDE),
        (lambda: subprocess.run(["true"], check=True), OUTSIDE),
        (lambda: torch.save(1, io.BytesIO()), OUTSIDE),
        (lambda: warnings.warn("x", UserWarning, stacklevel=1), OUTSIDE),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_pure_is_seen(does, law):
    assert law in dict(watched(does)[1])


@pytest.mark.parametrize(
    "does",
    [
        lambda: io.StringIO().write("x"),
        lambda: os.fspath("x") + os.path.join("a", "b"),
        lambda: datetime.timedelta(seconds=1) + datetime.datetime(2000, 1, 1),
        lambda: torch.ones(3).sum().item(),
        lambda: sorted(numpy.ones(3).tolist()),
        lambda: f"{1.5:.2f}".split("."),
    ],
)
def test_what_is_pure_is_not_seen(does):
    assert watched(does)[1] == ()


def test_a_profiler_that_runs_goes_on():
    def profiler(*_):
        return None

    sys.setprofile(profiler)
    watched(int)
    found = sys.getprofile()
    sys.setprofile(None)

    assert found is profiler


class Keeps:
    def __init__(self):
        self.seen = []

    def __call__(self, n):
        self.seen.append(n)

    def method(self, n):
        self(n)


def over(kept):
    def inner(n):
        kept["n"] = n

    return lambda n: inner(n)


def default(n, kept=[]):  # noqa: B006 - which is what is wrong
    kept.append(n)


def attribute(n):
    attribute.n = n


class Counts:
    seen = 0

    def method(self, n):
        self.add(n)

    @classmethod
    def add(cls, n):
        cls.seen += n


class Counted(Counts):
    pass


@attrs.define
class Slotted:
    seen: int = 0

    def __call__(self, n):
        self.seen += n


def on_a_class(n):
    Counted.seen += n


def on_a_class_above(n):
    Counts.seen += n
    return Counted


def on_a_class_inside():
    class Inside:
        seen = 0

    def keeps(n):
        Inside.seen += n

    return keeps


def over_an_object():
    counts = Counts()
    return lambda n: counts.method(n)


def in_a_module(n):
    fake_package.seen = n


fake_package = types.ModuleType("fake_package")
fake_package.seen = 0


@pytest.mark.parametrize(
    "keeps",
    [
        *(Keeps(), Keeps().method, over({}), default, attribute, partial(lambda kept, n: kept.append(n), [])),
        *(Slotted(), Counts().method, on_a_class, on_a_class_above, on_a_class_inside(), over_an_object(), in_a_module),
    ],
    ids=[
        *("object", "method", "function inside", "default", "attribute", "partial"),
        *("object with slots", "method on its class", "class", "class above", "class inside", "object on its class"),
        "module",
    ],
)
def test_memory_of_its_own_is_seen_wherever_it_is(keeps):
    before = memory(keeps)
    assert memory(keeps) == before
    keeps(1)

    assert memory(keeps) != before


class Flag(enum.Flag):
    A = enum.auto()
    B = enum.auto()


class Memo(Sized):
    limit = 3

    def __len__(self):
        return self.limit


def uses_what_others_keep():
    memo = Memo()
    metrics = {"n": torch.ones(2)}
    text = re.compile("a+")

    def uses():
        assert isinstance(memo, Sized)
        return Flag.A | Flag.B, Memo.limit, len(memo), metrics["n"].sum(), text.match("aa"), json.dumps({}), Made(1)

    return uses


@attrs.frozen
class Made:
    n: int


def test_what_a_class_keeps_for_itself_is_no_memory():
    uses = uses_what_others_keep()
    before = memory(uses)
    uses()

    assert memory(uses) == before


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1], lambda value: value.append(2)),
        ({"a": [1]}, lambda value: value["a"].append(2)),
        ({1}, lambda value: value.add(2)),
        (torch.zeros(2), lambda value: value.add_(1)),
        (numpy.zeros(2), lambda value: value.fill(1)),
        (random.Random(0), lambda value: value.random()),
        (torch.Generator(), lambda value: torch.rand((), generator=value)),
        (numpy.random.default_rng(0), lambda value: value.random()),
        (numpy.random.RandomState(0), lambda value: value.rand()),
        (itertools.count(), lambda value: next(value)),
        (Keeps(), lambda value: value(1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_picture_changes_when_the_value_does(value, change):
    before = as_it_is(value)
    assert as_it_is(value) == before
    change(value)

    assert as_it_is(value) != before


def test_a_picture_of_what_holds_itself_ends():
    loop = []
    loop.append(loop)

    assert as_it_is(loop) == as_it_is(loop)


def test_bits_and_kinds_of_tensors_are_compared():
    nan = torch.tensor([float("nan")])

    assert unlike(nan, nan.clone()) == []
    assert unlike(torch.zeros(2), torch.zeros(2, dtype=torch.float64)) != []
    assert unlike(torch.tensor(True), torch.tensor(False)) == [": True and False"]
