"""Callbacks of a recording, given or made again, and those that cannot be."""

import pytest

from fncb.callback import Callback
from fncb.callbacks import early_stop
from fncb.recalling import Recalled, recalled

STOP = "early_stop('val_loss', patience=2)"
HEADER = {"keys": ["early_stop(val_loss)"], "callbacks": {"early_stop(val_loss)": STOP}}


def test_a_callback_is_made_again_from_its_expression():
    (each,) = recalled(HEADER, None)

    assert (each.key, each.text, each.why) == ("early_stop(val_loss)", STOP, "")
    assert each.callback.config["patience"] == 2


def test_one_that_is_given_is_taken_in_place_of_the_expression():
    given = early_stop("val_loss", patience=5)

    assert recalled(HEADER, given) == [Recalled("early_stop(val_loss)", STOP, given)]


def test_one_that_is_not_among_those_given_is_named():
    mine = Callback(key="mine")

    assert [(each.key, each.why) for each in recalled(HEADER, [mine])] == [
        ("mine", ""),
        ("early_stop(val_loss)", "it is not among `callbacks=`"),
    ]


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"keys": ["a"], "callbacks": {"a": None}}, "no plain value, or is no built-in: pass it as `callbacks=`"),
        ({"keys": ["a"]}, "the recording does not tell how: pass it as `callbacks=`"),
        ({"keys": ["a"], "callbacks": {"a": "open('x')"}}, "every name must be a built-in callback, got 'open'"),
        ({"keys": ["a"], "callbacks": {"a": "early_stop('b')"}}, "makes one with the key 'early_stop(b)'"),
        ({"keys": ["a"], "callbacks": {"a": 7}}, "no plain value"),
    ],
)
def test_a_callback_that_cannot_be_made_again_is_named_with_the_reason(header, why):
    (each,) = recalled(header, None)

    assert each.callback is None
    assert why in each.why


@pytest.mark.parametrize("header", [{}, {"keys": 3}, {"keys": [1, None]}, {"callbacks": []}, {"keys": "abc"}])
def test_a_header_without_callbacks_has_none(header):
    assert recalled(header, None) == []
