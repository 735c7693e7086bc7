"""Each way to be wrong is found, and named rightly."""

import pytest

from fncb.callback import Callback
from fncb.testing import LawsBroken, check
from tests.testing.breakers import COMPILED, HOST, STEP

EAGER = {
    **{f"{name} (host)": row for name, row in HOST.items()},
    **{f"{name} (step)": row for name, row in STEP.items()},
}


def broken_by(callback, compile):
    with pytest.raises(LawsBroken) as caught:
        check(callback, compile=compile)
    return caught.value.report.broken


@pytest.mark.parametrize("name", EAGER)
def test_the_law_that_is_broken_is_named_and_no_other(name):
    law, wrong, right = EAGER[name]

    assert [broken.law for broken in broken_by(wrong, compile=False)] == [law]
    assert check(right, compile=False).broken == ()


@pytest.mark.parametrize("name", COMPILED)
def test_what_only_the_compiler_shows_is_named_and_nothing_else(name):
    law, wrong, right = COMPILED[name]

    assert check(wrong, compile=False)
    assert [broken.law for broken in broken_by(wrong, compile=True)] == [law]
    assert check(right).broken == ()


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("prints", ["ValidationEnd"]),
        ("gives nothing", ["ValidationEnd"]),  # of the second epoch, whatever came before it
        ("emits undeclared", ["ValidationEnd"]),
        ("begins each time otherwise", []),  # no event is needed
    ],
)
def test_the_smallest_run_is_shown(name, events):
    (broken,) = broken_by(HOST[name][1], compile=False)

    assert [type(event).__name__ for event in broken.events] == events
    assert broken.where == ("own: on_validation_end" if events else "own: init")


def test_a_run_of_several_events_is_shown_where_one_is_not_enough():
    late = Callback(key="late", init=int, on_train_batch_end=lambda state, event: None if state == 2 else state + 1)

    (broken,) = broken_by(late, compile=False)
    assert [type(event).__name__ for event in broken.events] == ["TrainBatchEnd"] * 3
