"""Conditions on events: what holds, what an event cannot answer, what is refused."""

from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fncb import events as ev
from fncb.conditions import condition_of
from fncb.expressions import DEEPEST, LONGEST
from fncb.metrics import Unrecorded

CHECK = ev.ValidationEnd(epoch=3, step=40, seconds=1.5, metrics={"val_loss": 0.25, "val_loss/a": 2.0, "big": inf})
ERROR = ev.ExceptionRaised(step=7, error="ValueError", message="loss is nan")


@pytest.mark.parametrize(
    ("text", "event", "wanted"),
    [
        ("val_loss < 0.3", CHECK, True),
        ("val_loss < 0.25", CHECK, False),
        ("val_loss <= 0.25", CHECK, True),
        (" val_loss>0.2\n", CHECK, True),
        ("step % 20 == 0 and epoch > 2", CHECK, True),
        ("step % 30 == 0 and epoch > 2", CHECK, False),
        ("step % 30 == 0 or epoch > 2", CHECK, True),
        ("not epoch_is_over", CHECK, True),
        ("epoch_is_over", CHECK, False),
        ("1 < epoch <= 3 != step", CHECK, True),
        ("1 < epoch < 3", CHECK, False),
        ("metrics['val_loss/a'] > 1", CHECK, True),
        ("'val_loss/a' in metrics", CHECK, True),
        ("'acc' not in metrics", CHECK, True),
        ("'nan' in message", ERROR, True),
        ("error == 'Value' + 'Error'", ERROR, True),
        ("error in ('KeyError', 'ValueError')", ERROR, True),
        ("step not in [1, 7]", ERROR, False),
        ("signal == None", ERROR, True),
        ("-step < -6.5", ERROR, True),
        ("step - 2 * 3 == 1 and step / 2 == 3.5 and step // 2 == 3 and step + 1 == 8", ERROR, True),
        ("big == inf", CHECK, True),
        ("big < inf", CHECK, False),
        ("step", CHECK, True),
        ("True", CHECK, True),
        ("nan", CHECK, True),
        ("step == 0 or 10 % step == 1", ev.TrainEnd(), True),  # what is not needed is not divided
    ],
)
def test_what_holds(text, event, wanted):
    assert condition_of(text)(event) is wanted


def test_nan_equals_nothing_and_itself_neither():
    event = ev.TrainBatchEnd(metrics={"loss": nan})

    assert condition_of("loss != loss")(event)
    assert not condition_of("loss == nan")(event)


def test_a_field_goes_before_a_metric_of_its_name():
    event = ev.TrainEnd(step=3, metrics={"step": 5.0})

    assert condition_of("step == 3 and metrics['step'] == 5")(event)


@pytest.mark.parametrize(
    "text",
    [
        "val_los < 1",
        "val_los > 1",
        "not val_los",
        "val_los != 1",
        "val_los or True",
        "True or val_los",
        "1 < 0 < val_los",
    ],
)
def test_an_event_without_a_name_never_matches_wherever_it_stands(text):
    assert condition_of(text)(CHECK) is False


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("metrics['acc'] > 1 or True", CHECK),
        ("metrics['loss'] > 0", ERROR),  # it has no metrics at all
        ("val_loss > 0", ERROR),
        ("step['a'] > 0", CHECK),
        ("batch != 0", ev.TrainBatchEnd(batch=1)),  # a live field
        ("_batch != 0", ev.TrainBatchEnd(batch=1)),
        ("loss > 0", ev.TrainBatchEnd(metrics=Unrecorded("TrainBatchEnd"))),
        ("'loss' in metrics", ev.TrainBatchEnd(metrics=Unrecorded("TrainBatchEnd"))),
        ("error < 3", ERROR),
        ("not error < 3", ERROR),
        ("1 in step", CHECK),
        ("1 / 0", CHECK),
        ("step % 0 == 0", CHECK),
        ("not step // 0", CHECK),
        ("-error", ERROR),
        ("error * 2 != ''", ERROR),  # could make a lot of text of little
        ("'%99999999d' % step != ''", ERROR),
        ("[step] * 9 != 0", ERROR),
        ("[step] + [step] != 0", ERROR),
        (f"1{'0' * 400} / 0.5 > 0", CHECK),  # too large for a float
    ],
)
def test_what_an_event_cannot_answer_is_false(text, event):
    assert condition_of(text)(event) is False


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("val_loss < 0.3 and val_loss > step", (("val_loss", None), ("step", None))),
        ("metrics['a/b'] > metrics['c']", (("metrics", "a/b"), ("metrics", "c"))),
        ("'a' in metrics", (("metrics", None),)),
        ("1 < inf", ()),
    ],
)
def test_it_tells_what_it_needs(text, needs):
    assert sorted(condition_of(text).needs) == sorted(needs)


REFUSED = "must be made of comparisons, names, numbers and text, got"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val_loss ** 2 < 1", f"{REFUSED} 'val_loss ** 2'"),
        ("9 ** 9 ** 9", REFUSED),
        ("1 << 9", REFUSED),
        ("step & 1", REFUSED),
        ("~step", REFUSED),
        ("len(message) > 3", f"{REFUSED} 'len(message)'"),
        ("__import__('os')", REFUSED),
        ("message.upper() == 'A'", REFUSED),
        ("metrics[step]", REFUSED),
        ("metrics[0]", REFUSED),
        ("metrics['a']['b']", REFUSED),
        ("'abc'['a']", REFUSED),
        ("message[1:]", REFUSED),
        ("signal is None", REFUSED),
        ("lambda: 1", REFUSED),
        ("[x for x in message]", REFUSED),
        ("{1: 2}", REFUSED),
        ("1 if step else 2", REFUSED),
        ("(a := 1)", REFUSED),
        ("f'{step}'", REFUSED),
        ("b'a'", REFUSED),
        ("1j", REFUSED),
        ("...", REFUSED),
        ("[*metrics]", REFUSED),
        ("step = 3", "must be an expression such as val_loss < 0.3, got 'step = 3'"),
        ("step == 3 && epoch", "must be an expression such as val_loss < 0.3"),
        ("", "must be an expression such as val_loss < 0.3, got ''"),
        ("1" + " " * LONGEST, f"at most {LONGEST} characters"),
        ("not " * DEEPEST + "step", f"at most {DEEPEST} levels"),
        ("-" * 9000 + "1", f"at most {DEEPEST} levels"),
        ("+".join("1" * 2000), f"at most {DEEPEST} levels"),
    ],
)
def test_everything_else_is_refused(text, message):
    with pytest.raises(ValueError, match=r"^condition_of: ") as caught:
        condition_of(text)

    assert message in str(caught.value)


def answer_or_message(text):
    try:
        return condition_of(text)(CHECK)
    except ValueError as error:
        return str(error)


@settings(max_examples=500, deadline=None)
@given(text=st.text("step val_loss<>=!andornoti+-*/%()[]'\"10., ", max_size=40) | st.text(max_size=40))
def test_any_text_gives_an_answer_or_a_value_error(text):
    answer = answer_or_message(text)

    assert answer in (True, False) or answer.startswith("condition_of: ")


SIGNS = ["+", "-", "*", "/", "//", "%", "<", "<=", "==", "!=", "and", "or", "in"]


def numbers(inner):
    pairs = st.tuples(inner, st.sampled_from(SIGNS), inner)
    return pairs.map(" ".join) | inner.map("({})".format) | inner.map("not {}".format) | inner.map("-{}".format)


@settings(max_examples=500, deadline=None)
@given(text=st.recursive(st.sampled_from(["step", "epoch", "val_loss", "0", "1", "2.5"]), numbers, max_leaves=6))
def test_it_answers_as_python_does(text):
    try:
        wanted = bool(eval(text, {"step": 40, "epoch": 3, "val_loss": 0.25}))
    except (ArithmeticError, TypeError):
        wanted = False
    except SyntaxError:  # such as `1 + not 2`
        return

    assert condition_of(text)(CHECK) is wanted
