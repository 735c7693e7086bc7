"""Values as a page can hold them, and patches that lead from one to the next."""

import json
from math import inf, nan

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fncb.page.plain import LONGEST_TEXT, MOST_ITEMS, SAME, cut, patch, plain


@attrs.frozen
class Wait:
    best: float | None = None
    seen: tuple[float, ...] = ()


def patched(value, change):
    """What the page does with a patch, in Python: values are in the notation of `plain`."""
    if not isinstance(change, list):
        return change
    how, changes, *more = change
    if how == 0:
        return changes
    if how == 2:
        return [*value[changes:], *more[0]]
    if how == 3:
        parts = dict(zip(changes[::2], changes[1::2], strict=True))
        return [patched(each, parts[i]) if i in parts else each for i, each in enumerate(value)]
    known = dict(zip(value["d"][::2], value["d"][1::2], strict=True))
    known |= {key: patched(known.get(key), each) for key, each in zip(changes[::2], changes[1::2], strict=True)}
    return {"d": [x for key, each in known.items() if key not in more[0] for x in (key, each)]}


def spelled(value):
    """A value as text, in which keys have no order and True is not 1."""
    if isinstance(value, dict) and "d" in value:
        pairs = zip(value["d"][::2], value["d"][1::2], strict=True)
        return str(sorted((key, spelled(each)) for key, each in pairs))
    return str([spelled(each) for each in value]) if isinstance(value, list) else repr(value)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(width=16), st.sampled_from(["a", "b"]))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(tuple), st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(VALUES, VALUES)
def test_a_patch_leads_from_any_value_to_any_other(old, new):
    change = patch(old, new)

    assert json.loads(json.dumps(plain(new), allow_nan=False)) == plain(new)
    led = plain(old) if change is SAME else patched(plain(old), change)
    assert spelled(led) == spelled(plain(new))


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (Wait(), Wait(), SAME),
        (Wait(nan), Wait(float("nan")), SAME),
        (Wait(0.5), Wait(0.25), [1, ["best", 0.25], []]),
        (Wait(seen=(1.0,)), Wait(seen=(1.0, 2.0)), None),
        ({"a": 1}, {"b": 1}, [1, ["b", 1], ["a"]]),
        (1, True, True),  # they are equal in Python, and shown otherwise
        (1, 1.0, 1.0),
        (0.0, -0.0, -0.0),
        ({1: True, "1": 0.0}, {1: 1, "1": 0.0}, {"d": ["1", 1, "1", 0.0]}),  # keys that are shown alike
        (0, [1], [0, [1]]),
    ],
)
def test_a_patch_has_what_changed_and_nothing_else(old, new, change):
    assert change is None or patch(old, new) is change or patch(old, new) == change


def test_a_window_that_moves_on_costs_what_is_new():
    window = tuple(map(float, range(100)))

    assert patch(window, (*window, 7.5)) == [2, 0, [7.5]]
    assert patch(window, (*window[1:], 7.5)) == [2, 1, [7.5]]
    assert patch(window, window[1:]) == [2, 1, []]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (inf, {"n": "inf"}),
        (-inf, {"n": "-inf"}),
        (nan, {"n": "nan"}),
        (2**53 + 2, {"t": "9007199254740994"}),
        (10**5000, {"t": "an integer of 16,610 bits"}),  # more digits than Python writes
        (torch.zeros(2, 3), {"t": "float32 of shape [2, 3]"}),
        (torch.tensor(0.5), {"t": "float32 0.5"}),
        ({1: "a"}, {"d": ["1", "a"]}),
        (Wait(0.5, (1.0,)), {"d": ["best", 0.5, "seen", [1.0]]}),
        (list(range(MOST_ITEMS + 1)), {"t": "501 values: 0, …, 500"}),
        ({str(i): i for i in range(MOST_ITEMS + 1)}, {"t": "501 keys"}),
        ("a" * (LONGEST_TEXT + 1), "a" * LONGEST_TEXT + "… (2,001 characters)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_plain_value_or_too_much_becomes_text(value, shown):
    assert plain(value) == shown


def test_what_cannot_be_shown_is_told_by_its_kind():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert plain(Broken()) == {"t": "a Broken"}
    assert plain([10**5000] * 600)["t"].startswith("600 values: an integer of")


def test_what_lies_too_deep_is_summed_up():
    deep = []
    for _ in range(1000):
        deep = [deep]

    assert len(json.dumps(plain(deep))) < 200


def test_tensors_are_the_same_only_if_they_are_one_object():
    kept, other = torch.zeros(2), torch.zeros(2)

    assert patch((kept,), (kept, other)) == [2, 0, [{"t": "float32 of shape [2]"}]]
    assert patch((kept,), (kept,)) is SAME


def test_keys_that_are_shown_alike_are_replaced_together():
    old, new = {1: "a", "1": "b"}, {1: "a", "1": "c"}

    assert patch(old, new) == {"d": ["1", "a", "1", "c"]}


def test_text_is_cut_only_beyond_its_length():
    assert [cut("abc", 3), cut("abcd", 3)] == ["abc", "abc… (4 characters)"]
