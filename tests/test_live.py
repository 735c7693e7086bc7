import attrs

from fncb import events as ev
from fncb.effects import Apply
from fncb.live import is_live, recorded_fields


def test_live_fields_have_the_names_that_people_pass():
    live = [field.alias for field in attrs.fields(ev.BeforeOptimizerStep) if is_live(field)]

    assert live == ["batch", "loss", "grads", "params"]
    assert not any(map(is_live, attrs.fields(ev.ValidationEnd)))


def test_a_recording_holds_all_fields_but_the_live_ones():
    assert [field.name for field in recorded_fields(Apply)] == ["key", "name"]
    assert recorded_fields(ev.ValidationEnd) == [*attrs.fields(ev.ValidationEnd)]
