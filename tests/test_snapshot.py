"""State survives the way to plain data and back, and what does not fit is named."""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fncb.callback import Callback, compose
from fncb.snapshot import load_state_dict, state_dict


@attrs.frozen
class Kept:
    path: str
    score: float | None = None


@attrs.frozen
class KeepState:
    best: float | None = None
    stale: int = 0
    mode: Literal["min", "max"] = "min"
    kept: tuple[Kept, ...] = ()
    last: Kept | None = None
    by_name: Mapping[str, Kept] = attrs.field(factory=dict)
    window: tuple[float, int] | None = None
    done: bool = False
    rows: tuple[tuple[int, ...], ...] = ()
    first: Kept = Kept("none")


class Pair(NamedTuple):
    count: int = 0
    mean: float = 0.0


@attrs.frozen
class EmptyOne:
    pass


def keeper(key: str = "keep", init=KeepState) -> Callback:
    return Callback(key=key, init=init)


def through_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


floats = st.floats(allow_nan=False)
kept = st.builds(Kept, path=st.text(), score=st.none() | floats)
states = st.builds(
    KeepState,
    best=st.none() | floats,
    stale=st.integers(),
    mode=st.sampled_from(["min", "max"]),
    kept=st.lists(kept).map(tuple),
    last=st.none() | kept,
    by_name=st.dictionaries(st.text(), kept, max_size=3),
    window=st.none() | st.tuples(floats, st.integers()),
    done=st.booleans(),
    rows=st.lists(st.lists(st.integers()).map(tuple), max_size=3).map(tuple),
    first=kept,
)


@given(states)
def test_a_record_comes_back_equal_also_through_json(state):
    data = state_dict(state)

    assert load_state_dict(keeper(), data) == state
    assert load_state_dict(keeper(), through_json(data)) == state


@given(states, st.integers(), st.tuples(st.integers(), floats))
def test_a_composition_comes_back_equal_through_json(state, number, pair):
    callback = compose(keeper(), keeper("count", int), keeper("pair", Pair), keeper("nothing", EmptyOne))
    states = {"keep": state, "count": number, "pair": Pair(*pair), "nothing": EmptyOne()}

    assert load_state_dict(callback, through_json(state_dict(states))) == states


@pytest.mark.parametrize(
    ("init", "state"),
    [
        (int, 3),
        (float, 0.5),
        (str, "a"),
        (bool, True),
        (lambda: None, 3),  # the type of None tells nothing
        (tuple, (1, "a", None)),
        (lambda: ((0, 0), Kept("")), ((1, 2), Kept("a", 0.5))),
        (list, [1, [2]]),
        (dict, {"a": {"b": [1, None]}}),
        (lambda: {"best": None, "seen": (), "kept": Kept("")}, {"best": 1.5, "seen": (1, 2), "kept": Kept("a")}),
        (lambda: Pair(), Pair(1, 0.5)),
    ],
)
def test_a_state_that_is_no_record_has_the_type_of_its_first_value(init, state):
    loaded = load_state_dict(keeper(init=init), through_json(state_dict(state)))

    assert loaded == state
    assert type(loaded) is type(state)


def test_plain_data_shares_no_container_with_the_state():
    state = {"a": {"b": [1, {"c": 2}]}}
    data = state_dict(state)
    data["a"]["b"][1]["c"] = 3
    loaded = load_state_dict(keeper(init=dict), data)
    data["a"]["b"][0] = 9

    assert state == {"a": {"b": [1, {"c": 2}]}}
    assert loaded == {"a": {"b": [1, {"c": 3}]}}


def test_a_tensor_stays_the_same_object():
    torch = pytest.importorskip("torch")

    @attrs.frozen
    class Averages:
        weights: dict[str, torch.Tensor]
        bias: torch.Tensor | None = None

    state = Averages({"w": torch.ones(2)}, torch.zeros(()))
    loaded = load_state_dict(keeper(init=lambda: Averages({})), state_dict(state))

    assert loaded.weights["w"] is state.weights["w"]
    assert loaded.bias is state.bias


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": {1: 2}}, "got 1 at 'a'"),
        ({"a": [1, {2}]}, "got {2} of type set at 'a.1'"),
        ({"keep": KeepState(best=b"x")}, "got b'x' of type bytes at 'keep.best'"),
        (object, "got <class 'object'> of type type."),
    ],
)
def test_what_is_not_plain_is_refused_where_it_is(state, where):
    with pytest.raises(TypeError, match=re.escape(where)):
        state_dict(state)


def test_one_error_names_every_mismatch():
    callback = compose(keeper(), keeper("stop(loss)", Pair), keeper("gone"))
    data = {
        "keep": {
            **state_dict(KeepState()),
            "stale": 1.5,
            "mode": "avg",
            "pace": 1,
            "kept": [{"path": 1}, {"path": "a", "score": None, "size": 2}],
            "last": {"score": 0.5},
            "first": 3,
        },
        "stop(loss)": ["many", 0.5],
        "new": {},
    }
    del data["keep"]["best"]

    with pytest.raises(ValueError, match="load_state_dict") as error:
        load_state_dict(callback, data)

    assert str(error.value) == (
        "load_state_dict: the data must match what init declares, got "
        "missing gone, keep.best, keep.kept.0.score, keep.last.path; "
        "unexpected new, keep.kept.1.size, keep.pace; "
        "ill-typed keep.stale (Expected `int`, got `float`), keep.mode (Invalid enum value 'avg'), "
        "keep.kept.0.path (Expected `str`, got `int`), keep.first (expected the fields of Kept, got int), "
        "stop(loss) (Expected `int`, got `str` at `[0]`). "
        "With strict=False what is missing is as in init and what is unexpected is dropped."
    )


def test_not_strict_takes_the_missing_from_init_and_drops_the_unexpected():
    callback = compose(keeper(init=lambda: KeepState(stale=7, first=Kept("init", 0.25))), keeper("count", lambda: 5))
    data = {"keep": {"best": 1, "first": {"path": "b"}, "kept": [{"path": "c"}], "pace": 2}, "new": 1}

    loaded = load_state_dict(callback, data, strict=False)

    assert loaded == {
        "keep": KeepState(best=1.0, stale=7, first=Kept("b", 0.25), kept=(Kept("c"),)),
        "count": 5,
    }


def test_not_strict_still_refuses_wrong_types_and_what_has_no_default():
    data = {"best": "low", "kept": [{"score": 1.0}]}

    with pytest.raises(ValueError, match=re.escape("missing keep.kept.0.path; ill-typed keep.best")):
        load_state_dict(keeper(), data, strict=False)


def test_a_union_of_records_takes_the_one_that_fits():
    @attrs.frozen
    class Either:
        last: Kept | KeepState | None = None

    for state in (Either(Kept("a")), Either(KeepState(stale=2)), Either()):
        assert load_state_dict(keeper(init=Either), state_dict(state), strict=False) == state


@pytest.mark.parametrize("data", [None, 3, [], "keep"])
def test_a_composition_wants_a_mapping(data):
    with pytest.raises(ValueError, match="ill-typed the whole"):
        load_state_dict(compose(keeper()), data)
    with pytest.raises(ValueError, match="ill-typed keep"):
        load_state_dict(keeper(), data)


def test_a_records_own_validator_is_reported_with_its_place():
    @attrs.frozen
    class Positive:
        n: int = attrs.field(default=1, validator=attrs.validators.ge(1))

    with pytest.raises(ValueError, match=re.escape("ill-typed keep ('n' must be >= 1: 0)")):
        load_state_dict(keeper(init=Positive), {"n": 0})


def test_a_true_is_no_integer():
    with pytest.raises(ValueError, match=re.escape("keep.stale (Expected `int`, got `bool`)")):
        load_state_dict(keeper(), {"stale": True}, strict=False)


def test_an_annotation_that_nobody_can_resolve_says_so():
    @attrs.frozen
    class Odd:
        x: "Nowhere" = None  # noqa: F821 - unknown, which is the point

    with pytest.raises(TypeError, match="annotations of Odd must be known at run time"):
        load_state_dict(keeper(init=Odd), {"x": 1})


def test_a_private_field_and_a_derived_one_come_back():
    @attrs.frozen
    class Seen:
        _n: int = 0
        twice: int = attrs.field(init=False, default=attrs.Factory(lambda self: 2 * self._n, takes_self=True))

    data = state_dict(Seen(n=2))

    assert data == {"_n": 2}
    assert load_state_dict(keeper(init=Seen), data) == Seen(n=2)
