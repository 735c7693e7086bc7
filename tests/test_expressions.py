"""Text to callbacks and back: only what is in the grammar, and nothing is lost on the way without a word."""

import subprocess
import sys
import warnings
from datetime import timedelta
from functools import partial
from math import inf

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fncb.callback import Callback, compose
from fncb.callbacks import (
    after,
    between,
    checkpoint,
    clip_grad_norm,
    device_stats_monitor,
    early_stop,
    ema,
    every,
    first,
    masked,
    notify,
    prune,
    quantization_aware_training,
    timer,
    weight_averaging,
    when,
)
from fncb.expressions import DEEPEST, LONGEST, callback_of, written
from tests.built_ins import BUILT_INS, now_and_then

# Text to callbacks.


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("early_stop('val_loss', patience=2)", early_stop("val_loss", patience=2)),
        (" early_stop(\n'val_loss')\n", early_stop("val_loss")),
        ("early_stop(monitor='acc', stopping_threshold=-1.5)", early_stop("acc", stopping_threshold=-1.5)),
        ("clip_grad_norm(1, norm_type=inf)", clip_grad_norm(1, norm_type=inf)),
        ("timer({'minutes': 90})", timer({"minutes": 90})),
        ("checkpoint('a', save_last=True, monitor=None)", checkpoint("a", save_last=True)),
        ("when(every(steps=100), ema(0.5))", when(every(steps=100), ema(0.5))),
        (
            "when(every(steps=2) & ~first(epochs=1) | between(steps=(3, 6)), ema(0.5))",
            when((every(steps=2) & ~first(epochs=1)) | between(steps=(3, 6)), ema(0.5)),
        ),
        ("masked(ema(0.9), ('enc.*', 'dec.*'))", masked(ema(0.9), ("enc.*", "dec.*"))),
        (
            "quantization_aware_training(collect_quantization=after(steps=2))",
            quantization_aware_training(collect_quantization=after(steps=2)),
        ),
    ],
)
def test_an_expression_makes_what_the_same_code_makes(text, wanted):
    made = callback_of(text)

    assert (made.key, made.config, made.emits) == (wanted.key, wanted.config, wanted.emits)


@pytest.mark.parametrize(
    "text",
    [
        "compose(early_stop('val_loss'), checkpoint('runs', monitor='val_loss'))",
        "compose([early_stop('val_loss')], (checkpoint('runs', monitor='val_loss'),))",
        "when(every(epochs=2), [early_stop('val_loss'), checkpoint('runs', monitor='val_loss')])",
    ],
)
def test_an_expression_makes_compositions(text):
    assert [part.key for part in callback_of(text).parts] == ["early_stop(val_loss)", "checkpoint(val_loss)"]


REFUSED = "it must be made of calls, literals, and predicates"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # what there is not
        ("erly_stop('val_loss')", "got 'erly_stop'. Did you mean early_stop?"),
        ("zzzzzz()", "got 'zzzzzz'. There are accumulation_schedule, "),
        ("__import__('os')", "every name must be a built-in callback, got '__import__'"),
        ("open('/etc/passwd')", "every name must be a built-in callback, got 'open'"),
        ("pausing()", "every name must be a built-in callback"),  # a room of the folder
        ("early_stop(val_loss)", "text must stand in quotes, got val_loss. Write 'val_loss'"),  # a shell took them
        ("early_stop", "early_stop must be called, got it without arguments. Write early_stop(...)"),
        # what is not in the grammar
        ("early_stop.__globals__", REFUSED),
        ("early_stop('a').init()", REFUSED),
        ("(lambda: 1)()", REFUSED),
        ("early_stop(['a'][0])", REFUSED),
        ("early_stop([x for x in 'a'])", REFUSED),
        ("early_stop(*['a'])", REFUSED),
        ("early_stop(f'{1}')", REFUSED),
        ("early_stop(b'a')", REFUSED),
        ("early_stop(...)", REFUSED),
        ("early_stop(1j)", REFUSED),
        ("early_stop('a', patience=1 + 1)", REFUSED),
        ("early_stop('a', patience=2 ** 9)", REFUSED),
        ("early_stop('a', patience=-True)", REFUSED),
        ("early_stop('a' if True else 'b')", REFUSED),
        ("(a := early_stop('a'))", REFUSED),
        ("timer({**{}})", REFUSED),
        ("early_stop('a') & early_stop('b')", REFUSED),
        ("every(steps=2) and every(steps=3)", REFUSED),
        ("every(steps=2) ^ every(steps=3)", REFUSED),
        ("~1", REFUSED),
        ("early_stop(**{'monitor': 'a'})", "every argument must have a name of its own"),
        ("early_stop('a', patience=1, patience=2)", "every argument must have a name of its own"),
        ("timer({[]: 1})", "unhashable type: 'list'"),
        ("early_stop({[]})", "unhashable type: 'list'"),
        ("early_stop('a'", "it must be an expression such as early_stop('val_loss')"),
        ("a = 1", "it must be an expression such as early_stop('val_loss')"),
        ("", "it must be an expression such as early_stop('val_loss'), got ''"),
        ("\0", "null bytes"),
        ("\ud800", "surrogates not allowed"),
        ("9" * 5000, "it must be an expression"),  # more digits than Python reads
        # what a constructor refuses
        ("early_stop()", "'early_stop()' cannot be made: early_stop() missing 1 required positional argument"),
        ("early_stop('a', patiense=2)", "one of early_stop's, got 'patiense'. Did you mean patience?"),
        ("early_stop('a', zzzzz=2)", "got 'zzzzz'. There are monitor, min_delta, "),
        ("activation_stats('a', patterns=1)", "one of activation_stats's, got 'patterns'. There are key"),
        ("early_stop('a', patience=-1)", "cannot be made: early_stop: patience must be 0 checks or more, got -1."),
        ("ema('high')", "\"ema('high')\" cannot be made: "),
        ("compose(ema(), ema())", "two callbacks with the key 'ema'"),
        ("when(1, ema())", "cannot be made: when: predicate must be a function"),
        ("on(nowhere=1)", "cannot be made: on: it must be the name of a hook"),
        ("prune('no_such_method')", "cannot be made: prune: pruning_fn must be one of"),
        # what is no callback
        ("every(steps=100)", "must make a callback, got 'every(steps=100)', which makes every(steps=100)"),
        ("['early_stop']", "must make a callback"),
        ("-inf", "must make a callback, got '-inf', which makes -inf"),
    ],
)
def test_everything_else_is_refused_with_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=r"^callback_of: ") as caught:
        callback_of(text)

    assert message in str(caught.value)


def test_what_a_constructor_says_stays_the_cause():
    with pytest.raises(ValueError, match="cannot be made") as caught:
        callback_of("ema('high')")

    assert isinstance(caught.value.__cause__, TypeError)


def test_a_vendor_that_is_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)

    with pytest.raises(ValueError, match=r"'device_stats_monitor\(True\)' cannot be made: .*fncb\[monitor\]"):
        callback_of("device_stats_monitor(True)")


def test_text_is_what_is_parsed():
    with pytest.raises(TypeError, match="callback_of: an expression must be text"):
        callback_of(early_stop("val_loss"))


def test_a_long_expression_is_refused():
    fits = f"early_stop('{'a' * (LONGEST - 14)}')"

    assert len(fits) == LONGEST
    assert callback_of(fits).key.startswith("early_stop(aaa")
    with pytest.raises(ValueError, match=f"at most {LONGEST} characters, got {LONGEST + 1}"):
        callback_of(fits + " ")


@pytest.mark.parametrize("begin", ["compose(", "[", "when(every(steps=1), "])
def test_a_deep_expression_is_refused(begin):
    def nested(levels):
        return begin * levels + "ema()" + ("]" if begin == "[" else ")") * levels

    callback_of(f"compose({nested(DEEPEST - 4)})")
    with pytest.raises(ValueError, match=f"at most {DEEPEST} levels, got more"):
        callback_of(nested(DEEPEST))


@pytest.mark.parametrize("text", ["~" * 9000 + "1", "-" * 9000 + "1", "a&" * 4000 + "a", "a." * 4000 + "a", "(" * 9000])
def test_what_would_exhaust_the_stack_is_refused(text):
    with pytest.raises(ValueError, match=r"^callback_of: "):
        callback_of(text)


def made_or_message(text):
    try:
        return callback_of(text)
    except ValueError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(text=st.text("erly_stop('v',=2)[]{}:*~&|-. \\\"\n1", max_size=40) | st.text(max_size=40))
def test_any_text_makes_a_callback_or_a_value_error(text):
    made = made_or_message(text)

    assert isinstance(made, Callback) or made.startswith("callback_of: ")


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 100) | st.floats(-2, 2) | st.sampled_from(["val_loss", "a/{step}", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_arguments_make_a_callback_or_a_value_error(data):
    # some may do on purpose what takes long with large numbers; nothing may raise what is no ValueError
    name = data.draw(st.sampled_from(sorted(set(BUILT_INS) - {"quantization_aware_training"})))
    arguments = data.draw(st.lists(LITERALS.map(repr), max_size=3))
    text = f"{name}({', '.join(arguments)})"

    made = made_or_message(text)

    assert isinstance(made, Callback) or made.startswith("callback_of: ")


def test_a_backslash_makes_no_noise():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert callback_of(r"activation_stats('enc\.\d')").config == {"patterns": [r"enc\.\d"]}


def test_no_torch_is_loaded_for_host_callbacks():
    code = (
        "import sys; from fncb.expressions import callback_of as c, written as w; "
        "w(c('compose(early_stop(\"a\"), checkpoint())')); w(c('early_stop(\"a\")')); sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Callbacks to text.

NEVER_WRITTEN = {
    "batch_gradient_verification": "its config leaves out the example batch, which may hold tensors",
    "finetuning": "it is given a function of the epoch",
    "knn_online_evaluator": "its config leaves out the batches",
    "on": "it is made of functions",
    "prediction_writer": "its config leaves out the functions that write",
    "schedule": "it is given a function",
}
SOMETIMES_WRITTEN = {
    "notify": "not where it is given a function",
    "prune": "not where it is given a function of the epoch",
    "weight_averaging": "not where it is given a function of the counters",
}


@pytest.mark.parametrize("name", BUILT_INS)
def test_what_is_written_reads_as_the_same_callback(name):
    outcomes = set()

    @settings(max_examples=50, deadline=None)
    @given(callback=BUILT_INS[name])
    def law(callback):
        text = written(callback)
        outcomes.add(text is not None)
        if text is not None:
            again = callback_of(text)
            assert again.config == callback.config
            assert again.key == callback.key
            assert again.constructor == callback.constructor == name
            assert written(again) == text

    law()
    assert outcomes == ({False} if name in NEVER_WRITTEN else {True, False} if name in SOMETIMES_WRITTEN else {True})


@pytest.mark.parametrize("restriction", ["when", "masked"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_what_is_restricted_is_written_too(restriction, data):
    atoms = st.sampled_from(
        [
            every(steps=3),
            every(epochs=2),
            first(steps=9),
            after(epochs=1),
            between(steps=(2, 7)),
            between(epochs=[0, 2]),
        ]
    )
    predicates = st.recursive(
        atoms,
        lambda p: p.map(lambda one: ~one) | st.builds(lambda a, b: a & b, p, p) | st.builds(lambda a, b: a | b, p, p),
        max_leaves=4,
    )
    callback = ema(0.5)
    for _ in range(data.draw(st.integers(1, 3))):
        callback = when(data.draw(predicates), callback)
        if restriction == "masked" and "masked" not in callback.config and data.draw(st.booleans()):
            callback = masked(callback, data.draw(st.sampled_from(["a.*", ("a.*", "b.*"), ("a",)])))

    again = callback_of(written(callback))
    assert (again.key, again.config, list(again.config)) == (callback.key, callback.config, list(callback.config))


@pytest.mark.parametrize(
    ("callback", "wanted"),
    [
        (early_stop("val_loss"), "early_stop('val_loss')"),
        (early_stop("val_loss", patience=3, min_delta=0.0), "early_stop('val_loss')"),  # as they are by default
        (early_stop("val_loss", patience=2), "early_stop('val_loss', patience=2)"),
        (early_stop("val_loss", key="early_stop(val_loss)"), "early_stop('val_loss')"),  # as it would be anyway
        (early_stop("val_loss", key="mine"), "early_stop('val_loss', key='mine')"),
        (early_stop('it\'s "a"\n'), "early_stop('it\\'s \"a\"\\n')"),
        (early_stop("a", stopping_threshold=-1.5), "early_stop('a', stopping_threshold=-1.5)"),
        (clip_grad_norm(1, norm_type=inf), "clip_grad_norm(1, norm_type=inf)"),
        (checkpoint("runs/a", save_last=True), "checkpoint('runs/a', save_last=True)"),
        (checkpoint(), "checkpoint()"),
        (checkpoint(monitor="a"), "checkpoint(monitor='a')"),
        (timer(interval="epoch"), "timer(interval='epoch')"),
        (timer({"minutes": 90}), "timer({'minutes': 90})"),
        (
            device_stats_monitor(filter_keys=["a"]),
            "device_stats_monitor(filter_keys=['a'])",
        ),  # not in the first's place
        (masked(ema(0.5), "enc.*"), "masked(ema(0.5), 'enc.*')"),
        (masked(ema(0.5), ("a.*", "b")), "masked(ema(0.5), ('a.*', 'b'))"),
        (when(every(steps=2), masked(ema(), "a")), "when(every(steps=2), masked(ema(), 'a'))"),
        (masked(when(every(steps=2), ema()), "a"), "masked(when(every(steps=2), ema()), 'a')"),
        (
            when(every(steps=2), when(first(steps=9), ema())),
            "when(every(steps=2), when(first(steps=9), ema()))",
        ),
        (
            when(every(steps=2) & first(steps=9) & after(epochs=1), ema()),
            "when((every(steps=2) & first(steps=9)) & after(epochs=1), ema())",
        ),
    ],
)
def test_it_is_written_as_one_would_write_it(callback, wanted):
    assert written(callback) == wanted


@pytest.mark.parametrize(
    "callback",
    [
        Callback(key="mine", config={"monitor": "val_loss"}),
        compose(early_stop("val_loss")),
        compose(),
        timer(timedelta(hours=1)),
        weight_averaging(now_and_then),
        notify(print, on=["train_end"]),  # of which the config keeps the name, which would be that of a file
        prune("l1_unstructured").parts[0],  # alone it is not what the expression makes, which is a composition
        when(lambda event: True, early_stop("val_loss")),
        when(now_and_then, early_stop("val_loss")),
        attrs.evolve(early_stop("val_loss"), on_test_end=lambda state, event: state),
        attrs.evolve(early_stop("val_loss"), emits=None),
        attrs.evolve(early_stop("val_loss"), constructor="no_such"),
        attrs.evolve(early_stop("val_loss"), config={"monitor": "val_loss"}),
        attrs.evolve(early_stop("val_loss"), constructor="ema"),
        early_stop("a" * LONGEST),
    ],
)
def test_what_cannot_be_written_is_none(callback):
    assert written(callback) is None


def test_a_callback_written_with_tensors_is_none():
    torch = pytest.importorskip("torch")
    kept = attrs.evolve(ema(0.5), config={**ema(0.5).config, "decay": torch.ones(2)})

    assert written(kept) is None
    assert written(attrs.evolve(kept, config={**kept.config, "decay": partial(max)})) is None
