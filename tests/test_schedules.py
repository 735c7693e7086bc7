"""When a callback is heard: predicates on events, and callbacks and step hooks that are restricted to them."""

from functools import partial
from math import inf, nan

import attrs
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

import fncb
from fncb import events as ev
from fncb.callback import Callback, EmptyState, StepHooks, compose, emit
from fncb.callbacks import clip_grad_norm, early_stop, ema, skip_nonfinite, timer
from fncb.callbacks.clip_grad_value import clip_grad_value
from fncb.callbacks.label_smoothing import label_smoothing
from fncb.callbacks.mixup import mixup
from fncb.callbacks.sam import sam
from fncb.effects import Log, Stop
from fncb.schedules import after, between, every, first, when
from fncb.tree import leaves
from tests.folding import fold


def steps(predicate, n=12):
    """At which of so many optimizer steps it holds."""
    return [step for step in range(n) if predicate(ev.TrainBatchEnd(step=step))]


def epochs(predicate, n=8):
    return [epoch for epoch in range(n) if predicate(ev.TrainEpochEnd(epoch=epoch))]


def seconds(predicate, n=8):
    return [second for second in range(n) if predicate(ev.TrainBatchEnd(seconds=float(second)))]


def counter(key="counter", **given):
    hook = lambda state, event: state + 1  # noqa: E731
    return Callback(key=key, init=int, emits=(), on_train_batch_end=hook, on_validation_end=hook, **given)


# Predicates.


@pytest.mark.parametrize(
    ("predicate", "wanted"),
    [
        (every(steps=1), [*range(1, 12)]),  # not before the first step
        (every(steps=5), [5, 10]),
        (every(steps=12), []),
        (after(steps=0), [*range(12)]),
        (after(steps=9), [9, 10, 11]),
        (first(steps=0), []),
        (first(steps=3), [0, 1, 2]),
        (between(steps=(3, 6)), [3, 4, 5]),
        (between(steps=(3, 3)), []),
        (between(steps=[0, 2]), [0, 1]),
        (every(steps=2) & after(steps=7), [8, 10]),
        (every(steps=5) | first(steps=2), [0, 1, 5, 10]),
        (~every(steps=5), [0, 1, 2, 3, 4, 6, 7, 8, 9, 11]),
        (~(first(steps=4) | after(steps=6)), [4, 5]),
        (~~every(steps=5), [5, 10]),
        (every(steps=2) & every(steps=3), [6]),
    ],
    ids=repr,
)
def test_at_which_steps_it_holds(predicate, wanted):
    assert steps(predicate) == wanted
    assert [step for step in range(12) if predicate(ev.TrainBatchEnd(step=torch.tensor(step)))] == wanted  # in the step


@pytest.mark.parametrize(
    ("predicate", "wanted"),
    [
        (every(epochs=1), [*range(8)]),  # an epoch is over when it ends: the first counts
        (every(epochs=3), [2, 5]),
        (after(epochs=5), [5, 6, 7]),
        (first(epochs=2), [0, 1]),
        (between(epochs=(1, 3)), [1, 2]),
        (~first(epochs=6), [6, 7]),
    ],
    ids=repr,
)
def test_in_which_epochs_it_holds(predicate, wanted):
    assert epochs(predicate) == wanted
    assert [e for e in range(8) if predicate(ev.TrainEpochEnd(epoch=torch.tensor(e)))] == wanted


@pytest.mark.parametrize(
    ("predicate", "wanted"),
    [
        (after(seconds=5.5), [6, 7]),
        (after(seconds=5), [5, 6, 7]),
        (first(seconds=2.0), [0, 1]),
        (between(seconds=(1.5, 3)), [2]),
        (after(seconds=inf), []),
        (after(seconds=4) & every(epochs=1), [4, 5, 6, 7]),
    ],
    ids=repr,
)
def test_at_which_seconds_it_holds(predicate, wanted):
    assert seconds(predicate) == wanted
    assert not predicate.in_step


@pytest.mark.parametrize(
    ("predicate", "text"),
    [
        (every(steps=2), "every(steps=2)"),
        (every(epochs=2), "every(epochs=2)"),
        (after(seconds=0.5), "after(seconds=0.5)"),
        (first(epochs=3), "first(epochs=3)"),
        (between(steps=(1, 2)), "between(steps=(1, 2))"),
        (every(steps=2) & ~first(steps=9), "(every(steps=2) & ~first(steps=9))"),
        (~(every(steps=2) | after(epochs=1)), "~(every(steps=2) | after(epochs=1))"),
    ],
)
def test_a_predicate_is_shown_as_the_expression_that_makes_it(predicate, text):
    assert repr(predicate) == text
    assert repr(eval(text)) == text


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: every(), TypeError, r"every: exactly one of steps or epochs must be given, got \[\]"),
        (lambda: every(steps=1, epochs=1), TypeError, r"every: exactly one .*, got \['steps', 'epochs'\]"),
        (lambda: every(steps=0), ValueError, "every: steps must be 1 or more, got 0"),
        (lambda: every(epochs=True), ValueError, "every: epochs must be 1 or more, got True"),
        (lambda: every(steps=1.5), ValueError, "every: steps must be 1 or more, got 1.5"),
        (lambda: after(), TypeError, "after: exactly one of steps or epochs or seconds must be given"),
        (lambda: after(steps=-1), ValueError, "after: steps must be 0 or more, got -1"),
        (lambda: after(steps=0.5), ValueError, "after: steps must be 0 or more, got 0.5"),
        (lambda: after(seconds=nan), ValueError, "after: seconds must be 0 or more, got nan"),
        (lambda: after(seconds="1"), ValueError, "after: seconds must be 0 or more, got '1'"),
        (lambda: first(epochs=True), ValueError, "first: epochs must be 0 or more, got True"),
        (lambda: between(steps=5), TypeError, r"between: steps must be a pair such as \(10, 20\), got 5"),
        (lambda: between(steps=(1, 2, 3)), TypeError, "between: steps must be a pair"),
        (lambda: between(steps=(5, 2)), ValueError, r"between: steps must not end before they begin, got \(5, 2\)"),
        (lambda: between(epochs=(-1, 2)), ValueError, "between: epochs must be 0 or more, got -1"),
        (lambda: every(steps=1) & max, TypeError, r"every\(steps=1\) &: it must be combined with a predicate"),
        (lambda: every(steps=1) | True, TypeError, r"every\(steps=1\) \|: it must be combined .*, got True"),
        (lambda: every(steps=1) and after(steps=1), TypeError, "it must be combined with &, | or ~, got and, or, not"),
        (lambda: not every(steps=1), TypeError, "it must be combined with"),
    ],
)
def test_what_is_no_predicate_is_refused_at_once(make, error, message):
    with pytest.raises(error, match=message.replace("| or", r"\| or")):
        make()


# Host hooks.


def test_a_callback_is_heard_where_the_predicate_holds_and_its_state_stays_elsewhere():
    rarely = when(every(steps=3), counter())

    assert fold(rarely, [ev.TrainBatchEnd(step=step) for step in range(1, 10)]).state == 3
    assert fold(rarely, [ev.ValidationEnd(step=4), ev.ValidationEnd(step=6)]).state == 1


def test_an_event_where_it_does_not_hold_returns_the_very_same_state():
    callback = when(every(steps=2), Callback(key="c", init=list, on_train_batch_end=lambda s, e: [*s, e.step]))
    state = [0]

    new, effects = callback.transition(state, ev.TrainBatchEnd(step=1))
    assert new is state
    assert effects == ()
    assert callback.transition(state, ev.TrainEpochEnd())[0] is state  # nobody hears it
    assert callback.transition(state, ev.TrainBatchEnd(step=2))[0] == [0, 2]


def test_effects_are_asked_for_only_where_it_holds():
    stops = Callback(
        key="stops", init=int, emits=(Stop,), on_train_batch_end=lambda s, e: emit(s, Stop(f"at {e.step}"))
    )

    assert fold(when(after(steps=2), stops), [ev.TrainBatchEnd(step=s) for s in range(4)]).effects == (
        Stop("at 2"),
        Stop("at 3"),
    )


ALWAYS = (
    *("on_init_start", "on_init_end", "setup", "on_configure_sharded_model", "teardown", "on_fit_start", "on_fit_end"),
    *("on_sanity_check_start", "on_sanity_check_end", "on_exception", "on_keyboard_interrupt", "on_stop_requested"),
    *("on_step_compiled", "on_probed", "on_saved", "on_save_checkpoint", "on_load_checkpoint"),
    *("on_train_start", "on_train_end"),
)


@pytest.mark.parametrize("hook", ev.HOOKS)
def test_what_tells_of_the_run_as_a_whole_or_answers_is_always_heard(hook):
    callback = when(lambda event: False, Callback(key="c", init=int, **{hook: lambda state, event: state + 1}))

    assert callback.transition(0, ev.HOOKS[hook]())[0] == (hook in ALWAYS)


def test_a_pure_function_of_an_event_is_a_predicate():
    def is_poor(event):
        return event.metrics["loss"] > 1

    callback = when(is_poor, counter())
    events = [ev.TrainBatchEnd(metrics={"loss": loss}) for loss in (0.5, 1.5, 2.5, 1.0)]

    assert fold(callback, events).state == 2
    assert "when='test_a_pure_function_of_an_event_is_a_predicate.<locals>.is_poor'" in repr(callback)


def test_an_error_in_a_predicate_names_the_callback():
    callback = when(lambda event: event.metrics["nothing"] > 1, counter("mine"))

    with pytest.raises(ev.MissingMetric) as raised:
        callback.transition(0, ev.TrainBatchEnd(step=3))
    assert raised.value.__notes__ == ["mine: on_train_batch_end failed at epoch 0, step 3."]


def test_all_of_the_callback_stays_but_when_it_is_heard():
    callback = early_stop("val_loss", patience=2)
    rarely = when(every(epochs=2), callback)

    kept = [field.name for field in attrs.fields(Callback) if field.name not in ("config", *ev.HOOKS, "_hooks")]
    assert [getattr(rarely, name) for name in kept] == [getattr(callback, name) for name in kept]
    assert {name for name in ev.HOOKS if getattr(rarely, name)} == {
        name for name in ev.HOOKS if getattr(callback, name)
    }
    assert rarely.config == {**callback.config, "when": "every(epochs=2)"}


def test_it_is_shown_with_its_predicate_and_one_in_another_with_both():
    assert repr(when(every(steps=2), timer("00:00:00:01"))).endswith("interval='step', when='every(steps=2)')")
    twice = when(every(steps=2), when(after(epochs=1), counter()))

    assert repr(twice) == "Callback('counter', when='every(steps=2) & after(epochs=1)')"
    assert fold(twice, [ev.TrainBatchEnd(step=s, epoch=e) for s, e in ((2, 0), (3, 1), (4, 1))]).state == 1


def test_early_stopping_may_be_restricted_to_late_epochs():
    stop = when(after(epochs=3), early_stop("val_loss", patience=1))
    checks = [ev.ValidationEnd(epoch=epoch, metrics={"val_loss": 1.0}) for epoch in range(5)]

    folded = fold(stop, checks)
    assert (folded.state.stale, folded.state.stopped_epoch) == (1, 4)
    assert len(folded.of(Stop)) == 1


def test_each_of_several_is_restricted():
    both = when(every(steps=2), [counter("a"), compose(counter("b"), counter("c"))])

    assert [part.key for part in both.parts] == ["a", "b", "c"]
    assert fold(both, [ev.TrainBatchEnd(step=s) for s in (1, 2, 3)]).state == {"a": 1, "b": 1, "c": 1}


def test_of_one_callback_it_makes_one_and_of_a_list_or_a_composition_a_composition():
    assert when(every(steps=2), counter()).parts is None
    assert len(when(every(steps=2), [counter()]).parts) == 1
    assert len(when(every(steps=2), compose(counter())).parts) == 1
    assert when(every(steps=2), compose()).parts == ()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: when(3, counter()),
            TypeError,
            r"when: predicate must be a function such as every\(steps=100\), got 3",
        ),
        (lambda: when(counter(), every(steps=2)), TypeError, "when: predicate must be a function"),
        (lambda: when(every(steps=2), counter), TypeError, "everything must be a Callback, got .* add `\\(\\)`"),
        (lambda: when(every(steps=2), [counter(), counter()]), ValueError, "keys must be unique"),
        (
            lambda: when(after(seconds=3), ema(0.5)),
            ValueError,
            r"when: no time is known inside the step, got after\(seconds=3\) for ema. Use steps or epochs.",
        ),
        (lambda: when(every(steps=2) | first(seconds=3), [counter(), ema(0.5)]), ValueError, "no time is known"),
        (
            lambda: when(after(epochs=1), sam()),
            ValueError,
            "when: what is around the gradient cannot be left out of some steps, got sam",
        ),
    ],
)
def test_what_cannot_be_restricted_is_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


PREDICATES = st.recursive(
    st.one_of(
        st.builds(every, steps=st.integers(1, 4)),
        st.builds(every, epochs=st.integers(1, 3)),
        st.builds(after, steps=st.integers(0, 9)),
        st.builds(first, epochs=st.integers(0, 3)),
        st.builds(between, steps=st.tuples(st.integers(0, 5), st.integers(5, 9))),
    ),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=4,
)
EVENTS = st.lists(
    st.builds(
        lambda kind, step, epoch: kind(step=step, epoch=epoch),
        st.sampled_from([ev.TrainBatchEnd, ev.ValidationEnd, ev.TrainStart, ev.TrainEpochEnd]),
        st.integers(0, 10),
        st.integers(0, 4),
    ),
    max_size=12,
)


def logger(key="logger"):
    return Callback(
        key=key,
        init=int,
        emits=(Log,),
        on_train_start=lambda s, e: s + 100,
        on_train_batch_end=lambda s, e: emit(s + 1, Log({"n": s})),
        on_validation_end=lambda s, e: s * 2,
    )


@given(PREDICATES, EVENTS)
def test_it_is_a_filter_of_events(predicate, events):
    heard = [e for e in events if isinstance(e, ev.TrainStart) or predicate(e)]

    assert fold(when(predicate, logger()), events) == fold(logger(), heard)


@given(PREDICATES, EVENTS)
def test_restricting_commutes_with_composing(predicate, events):
    one = when(predicate, compose(logger("a"), logger("b")))
    other = compose(when(predicate, logger("a")), when(predicate, logger("b")))

    assert fold(one, events) == fold(other, events)
    assert repr(one) == repr(other)


@given(PREDICATES, PREDICATES, EVENTS)
def test_one_restriction_in_another_is_that_of_both(one, other, events):
    assert fold(when(one, when(other, logger())), events) == fold(when(one & other, logger()), events)


@given(PREDICATES, st.integers(0, 10), st.integers(0, 4))
def test_a_predicate_says_of_tensors_what_it_says_of_numbers(predicate, step, epoch):
    in_step = ev.BeforeBackward(step=torch.tensor(step), epoch=torch.tensor(epoch))

    assert bool(predicate(in_step)) == predicate(ev.BeforeBackward(step=step, epoch=epoch))


# Step hooks.


def at(kind, step, epoch=0, **fields):
    return kind(step=torch.tensor(step), epoch=torch.tensor(epoch), **fields)


def test_a_step_hook_leaves_what_it_replaces_as_it_was_where_it_does_not_hold():
    hook = when(every(steps=2), clip_grad_value(1.0)).step.on_before_optimizer_step
    grads = {"w": torch.tensor([3.0, -0.5])}

    clipped = [hook(EmptyState(), at(ev.BeforeOptimizerStep, s, grads=grads)).replaced["grads"]["w"] for s in (1, 2)]
    assert [each.tolist() for each in clipped] == [[3.0, -0.5], [1.0, -0.5]]


def test_a_step_state_stays_where_it_does_not_hold():
    average = when(after(steps=3), ema(0.5)).step
    state = average.init({"w": torch.tensor([8.0])})
    for step in range(1, 5):
        out = average.on_after_optimizer_step(state, at(ev.AfterOptimizerStep, step, params={"w": torch.tensor([0.0])}))
        state = out.state

    assert state["w"].tolist() == [2.0]  # after steps 3 and 4


def test_a_skip_is_asked_for_only_where_it_holds():
    guard = when(first(epochs=1), skip_nonfinite()).step
    state = guard.init({"w": torch.zeros(1)})
    bad = {"loss": torch.tensor(nan), "grads": {"w": torch.ones(1)}}

    skips = [guard.on_after_backward(state, at(ev.AfterBackward, 0, epoch, **bad)) for epoch in (0, 1)]
    assert [out.replaced["skip"].item() for out in skips] == [True, False]
    assert [out.state["skipped"].item() for out in skips] == [1, 0]


def test_what_is_published_is_published_all_the_same():
    hook = when(every(steps=2), clip_grad_norm(1.0)).step.on_before_optimizer_step
    out = hook(EmptyState(), at(ev.BeforeOptimizerStep, 1, grads={"w": torch.tensor([3.0, 4.0])}))

    assert out.replaced["metrics"] == {"grad_norm": 5.0}
    assert out.replaced["grads"]["w"].tolist() == [3.0, 4.0]


def test_a_batch_that_is_replaced_may_hold_more_than_tensors():
    doubles = Callback(
        key="doubles",
        step=StepHooks(
            init=lambda _: EmptyState(),
            on_train_batch_start=lambda s, e: emit(s, batch={**e.batch, "x": e.batch["x"] * 2}),
        ),
    )
    hook = when(every(steps=2), doubles).step.on_train_batch_start
    batch = {"name": "cat", "x": torch.tensor([1.5])}

    for step, x in ((1, 1.5), (2, 3.0)):
        new = hook(EmptyState(), at(ev.TrainBatchStart, step, batch=batch)).replaced["batch"]
        assert (new["name"], new["x"].item()) == ("cat", x)


def test_any_function_of_the_counters_may_restrict_a_step_hook():
    hook = when(lambda event: (event.step > 1) & True, clip_grad_value(1.0)).step.on_before_optimizer_step
    constant = when(lambda event: False, clip_grad_value(1.0)).step.on_before_optimizer_step
    event = at(ev.BeforeOptimizerStep, 2, grads={"w": torch.tensor([3.0])})

    assert hook(EmptyState(), event).replaced["grads"]["w"].item() == 1.0
    assert constant(EmptyState(), event).replaced["grads"]["w"].item() == 3.0


def data(n=4):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(5, 3, generator=generator), torch.randint(4, (5,), generator=generator)) for _ in range(n)]


def train(*callbacks, compile=False, epochs=2, **settings):
    torch.manual_seed(0)
    task = fncb.Task(
        nn.Linear(3, 4),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        optimizer=partial(torch.optim.SGD, lr=0.1),
    )
    settings = {"max_epochs": epochs, "compile": compile, "progress": False, **settings}
    return task, fncb.fit(task, data(), callbacks=callbacks, **settings)


def test_what_changes_the_shape_of_a_batch_cannot_be_left_out_and_says_so():
    message = (
        r"when: what mixup changes must keep shape and dtype, got \(\(5, 4\), torch.float32\) instead of \(\(5,\), "
    )
    with pytest.raises(ValueError, match=message):
        train(when(after(epochs=1), mixup(num_classes=4)))


def test_of_labels_that_are_probabilities_already_it_can_be_left_out():
    _, run = train(label_smoothing(0.0, num_classes=4), when(after(epochs=1), mixup()), epochs=1)
    _, plain = train(label_smoothing(0.0, num_classes=4), epochs=1)

    assert run.metrics["loss"] == plain.metrics["loss"]
    _, run = train(label_smoothing(0.0, num_classes=4), when(after(epochs=1), mixup()))
    _, plain = train(label_smoothing(0.0, num_classes=4))
    assert run.metrics["loss"] != plain.metrics["loss"]


def test_a_run_hears_host_and_step_half_alike():
    """The first epoch is neither averaged nor counted."""
    task, run = train(when(after(epochs=1), [ema(0.0), counter()]), epochs=2)

    assert run.state["counter"] == 4
    for name, p in task.model.named_parameters():
        torch.testing.assert_close(run.step_state["ema"][name], p.detach(), rtol=0, atol=0)
    task, run = train(when(after(epochs=1), [ema(0.0), counter()]), epochs=1)
    assert run.state["counter"] == 0
    torch.manual_seed(0)
    torch.testing.assert_close(run.step_state["ema"]["weight"], nn.Linear(3, 4).weight.detach())


def test_compiled_it_is_one_graph_that_gives_what_the_eager_step_gives():
    callbacks = (
        when(every(steps=2) & after(epochs=1), clip_grad_value(0.001)),
        when(between(steps=(2, 6)), ema(0.5)),
        when(~first(steps=5), skip_nonfinite()),
        when(lambda event: event.epoch < 1, clip_grad_norm(0.01)),
    )
    (task, compiled), (reference, eager) = train(*callbacks, compile=True), train(*callbacks)

    assert (compiled.compiled, compiled.recompilations) == ("one graph", 0)
    found = {**dict(leaves(compiled.step_state)), **task.model.state_dict()}
    wanted = {**dict(leaves(eager.step_state)), **reference.model.state_dict()}
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_every_hook_of_a_callback_is_either_restricted_or_always_heard():
    """A new event must be thought of: those here are of a batch, a pass or an epoch."""
    restricted = [name for name in ev.HOOKS if name not in ALWAYS]

    assert {*ALWAYS} <= {*ev.HOOKS}
    assert all(
        name.startswith(
            ("on_train_", "on_epoch_", "on_before_", "on_after_", "on_validation_", "on_test_", "on_predict_")
        )
        for name in restricted
    )
