"""The algebra: order kept, states by key, all or nothing, effects after the hooks."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fncb import events as ev
from fncb.callback import Callback, EmptyState, compose, emit
from fncb.effects import Log, Print, Stop
from fncb.events import TrainBatchEnd, ValidationEnd


@attrs.frozen
class Trail:
    seen: tuple[str, ...] = ()


def tracer(key, *effects, emits=None):
    """Remembers the steps that it saw and asks for `effects` each time."""
    return Callback(
        key=key,
        init=Trail,
        emits=emits,
        on_validation_end=lambda state, event: emit(Trail((*state.seen, f"{key}{event.step}")), *effects),
    )


def silent(key):
    return Callback(key=key, init=Trail)


CHECK = ValidationEnd(step=7, metrics={"val_loss": 0.5})


def test_composing_nothing_is_the_identity():
    alone = tracer("a")

    assert compose().init() == {}
    assert compose().transition({}, CHECK) == ({}, ())
    assert compose(compose(), alone, compose()).parts == (alone,)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_composition_is_associative(sizes):
    callbacks = [[tracer(f"{i}.{j}", Print(f"{i}.{j}")) for j in range(n)] for i, n in enumerate(sizes)]
    flat = compose(*[each for group in callbacks for each in group])
    nested = compose(*[compose(*group) for group in callbacks])

    assert nested.parts == flat.parts
    assert nested.init() == flat.init()
    assert nested.transition(nested.init(), CHECK) == flat.transition(flat.init(), CHECK)


def test_a_composition_differs_from_its_only_part_by_one_key():
    alone = tracer("a", Stop("enough"))

    state, effects = alone.transition(alone.init(), CHECK)

    assert compose(alone).transition(compose(alone).init(), CHECK) == ({"a": state}, effects)


def test_order_given_is_order_run():
    both = compose(tracer("a", Print("first")), tracer("b", Print("second")))
    swapped = compose(tracer("b", Print("second")), tracer("a", Print("first")))

    assert both.transition(both.init(), CHECK)[1] == (Print("first"), Print("second"))
    assert swapped.transition(swapped.init(), CHECK)[1] == (Print("second"), Print("first"))


def test_a_list_is_taken_wherever_a_callback_is():
    assert [part.key for part in compose([tracer("a"), [tracer("b")]], tracer("c")).parts] == ["a", "b", "c"]


def test_an_event_that_nobody_hears_returns_the_very_same_state():
    both = compose(tracer("a"), silent("b"))
    state = both.init()

    assert both.transition(state, TrainBatchEnd(step=1))[0] is state
    assert compose(silent("b")).transition(state, CHECK)[0] is state
    assert not both.hears(TrainBatchEnd)


def test_a_hook_that_returns_its_state_leaves_the_mapping_itself_alone():
    same = compose(Callback(key="same", init=Trail, on_validation_end=lambda state, event: state))
    state = same.init()

    assert same.transition(state, CHECK)[0] is state


def test_the_state_before_a_transition_is_left_as_it_was():
    both = compose(tracer("a"), silent("b"))
    before = both.init()

    after, _ = both.transition(before, CHECK)

    assert before == {"a": Trail(), "b": Trail()}
    assert after["a"] == Trail(("a7",))
    assert after["b"] is before["b"]


def test_two_callbacks_with_one_key_are_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"two callbacks with the key 'a'.*pass `key=`|Pass `key=`"):
        compose(tracer("a"), compose(tracer("a")))


def test_a_hook_that_raises_keeps_nothing_and_is_named_while_its_exception_stays():
    def fails(state, event):
        raise ZeroDivisionError("by zero")

    both = compose(tracer("a"), Callback(key="broken", init=Trail, on_validation_end=fails))
    state = both.init()

    with pytest.raises(ZeroDivisionError, match="by zero") as caught:
        both.transition(state, ValidationEnd(epoch=2, step=7))

    assert caught.value.__notes__ == ["broken: on_validation_end failed at epoch 2, step 7."]
    assert state == {"a": Trail(), "broken": Trail()}


def test_a_hook_that_asks_its_event_for_another_field_is_told_which_there_are():
    slip = Callback(key="slip", init=int, on_validation_end=lambda state, event: state + event.loss)

    with pytest.raises(AttributeError, match="no attribute 'loss'") as caught:
        slip.transition(0, CHECK)

    assert caught.value.__notes__[1] == (
        "ValidationEnd: there is no 'loss'. It has ['epoch', 'step', 'seconds', 'metrics', 'epoch_is_over']."
    )


def test_of_other_missing_attributes_a_hook_is_told_nothing_of_its_event():
    slip = Callback(key="slip", init=int, on_validation_end=lambda state, event: state.best)

    with pytest.raises(AttributeError, match="no attribute 'best'") as caught:
        slip.transition(0, CHECK)

    assert len(caught.value.__notes__) == 1


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda state, event: None, "must return its state, got None. Return the state"),
        (lambda state, event: emit(None, Print("x")), "emit must be given the state first"),
        (lambda state, event: emit(state, "stop"), "emit must be given effects after the state, got 'stop'"),
        (lambda state, event: emit(state, grads={}), r"a host hook must emit effects only, got \['grads'\]"),
    ],
)
def test_the_usual_slips_of_a_hook_are_told(hook, message):
    slip = Callback(key="slip", init=Trail, on_validation_end=hook)

    with pytest.raises(TypeError, match=message) as caught:
        compose(slip).transition({"slip": Trail()}, CHECK)

    assert "slip: on_validation_end" in caught.value.__notes__[0]


def test_an_effect_that_was_not_declared_is_refused():
    with pytest.raises(TypeError, match=r"must be declared, got Stop\(reason='enough'\). It has emits=\['Log'\]"):
        tracer("a", Stop("enough"), emits=(Log,)).transition(Trail(), CHECK)


def test_a_composition_declares_what_its_parts_declare_unless_one_leaves_it_open():
    assert compose(tracer("a", emits=(Stop,)), tracer("b", emits=(Log, Stop))).emits == (Stop, Log)
    assert compose(tracer("a", emits=(Stop,)), tracer("b")).emits is None
    assert compose().emits == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"on_validation_edn": print}, "got on_validation_edn. Did you mean on_validation_end?"),
        ({"xyz": print}, "got xyz. There are key, init"),
        ({"on_validation_end": 3}, "on_validation_end must be a function, got 3"),
        ({"step": 3}, "step must be a StepHooks record, got 3"),
        ({"key": 3}, "key must be a name, got 3"),
        ({"key": ""}, "key must be a name, got ''"),
        ({"init": Trail()}, "init must be a function"),
    ],
)
def test_a_wrong_field_is_told_at_construction(fields, message):
    with pytest.raises(TypeError, match=message):
        Callback(**{"key": "wrong", **fields})


def test_a_constructor_that_was_not_called_is_recognised():
    with pytest.raises(TypeError, match="It looks like a constructor that was not called"):
        compose(tracer)


def test_a_callback_that_remembers_nothing_has_the_empty_state():
    assert Callback(key="none").init() == EmptyState()


def test_a_composition_introduces_itself():
    first = Callback(key="a", config={"patience": 3})

    assert repr(compose(first, Callback(key="b"))) == "compose(Callback('a', patience=3), Callback('b'))"


def test_the_hooks_of_a_composition_may_be_called_as_those_of_any_callback():
    both = compose(tracer("a", Print("x")), tracer("b"))

    out = both.on_validation_end(both.init(), CHECK)

    assert (out.state, out.effects) == both.transition(both.init(), CHECK)


def test_hook_fields_and_event_classes_are_the_same_list():
    fields = {field.name for field in attrs.fields(Callback)} - {
        "key",
        "init",
        "step",
        "emits",
        "config",
        "constructor",
        "parts",
        "_hooks",
    }

    assert fields == set(ev.HOOKS)
