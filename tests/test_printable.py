from hypothesis import given
from hypothesis import strategies as st

from fncb.printable import printable


def test_what_can_be_seen_stays_as_it_is():
    assert printable("Zürich 🙂 [red] a\\b 'c' 0.5") == "Zürich 🙂 [red] a\\b 'c' 0.5"
    assert printable(None) == "None"


@given(text=st.text())
def test_what_is_left_is_one_visible_line_that_can_be_written(text):
    shown = printable(text)

    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert len(printable(shown)) == len(shown)
