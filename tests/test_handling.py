import pytest

from fncb import events as ev
from fncb.effects import Apply, Call
from fncb.handling import called, must_be_asked_at


def test_an_effect_is_asked_for_at_one_of_its_events():
    kinds = (ev.TestStart, ev.ValidationStart, ev.PredictStart)

    must_be_asked_at("View", ev.ValidationStart(), *kinds)
    at = "on_test_start, on_validation_start or on_predict_start, got it at setup"
    with pytest.raises(ValueError, match=f"^View: it must be asked for at {at}\\.$"):
        must_be_asked_at("View", ev.Setup(), *kinds)


def test_what_an_effect_holds_is_called_with_what_is_given():
    assert called(Apply("swap", lambda a, b: (b, a)), 1, 2) == (2, 1)
    with pytest.raises(ValueError, match=r"^Call 'mine': fn must be a function, got None\.$"):
        called(Call("mine"), 1)
