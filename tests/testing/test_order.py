"""Whether order matters, and where."""

import pytest

from fncb import effects as eff
from fncb import events as ev
from fncb.callback import Callback, StepHooks, emit
from fncb.callbacks import clip_grad_norm, clip_grad_value, early_stop, ema, grad_norms, lr_monitor
from fncb.effects import Apply, Log, Print, Save, SetLR, Stop
from fncb.testing import commutes, order


def asks(key, *effects):
    return Callback(key=key, on_validation_end=lambda state, event: emit(state, *effects))


@pytest.mark.parametrize(
    ("one", "other", "thing"),
    [
        (Stop("enough"), Stop("late"), "the reason to stop"),
        (SetLR(0.5), SetLR(0.25), "the learning rate"),
        (Save("a"), SetLR(0.25), "the learning rate"),  # is in the file or not
        (Apply("half"), Save("a"), "the weights"),
        (Apply("half", len), Apply("half", str), "the weights"),  # of one name, and not the same
        (Save("a"), Save("a", weights_only=True), "a"),
        (Log({"x": 1.0, "y": 1.0}), Log({"y": 2.0}), "the metric y"),
    ],
)
def test_two_that_ask_about_the_same_thing_do_not_commute(one, other, thing):
    for first, second in ((one, other), (other, one)):
        found = commutes(asks("a", first), asks("b", second))

        assert not found
        assert found.sentence == f"a and b both ask about {thing} at on_validation_end"
        assert type(found.event) is ev.ValidationEnd
        assert found.events == (found.event,)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SetLR(0.5), SetLR(0.5)),
        (Print("a"), Print("b")),
        (Save("a"), Save("b")),
        (Log({"x": 1.0}), Log({"y": 1.0})),
        (Save("a"), Stop("enough")),
    ],
)
def test_two_that_ask_about_different_things_commute(one, other):
    assert commutes(asks("a", one), asks("b", other))


def test_two_that_hear_different_events_commute():
    later = Callback(key="b", on_train_end=lambda state, event: emit(state, SetLR(0.5)))

    assert str(commutes(asks("a", SetLR(0.25)), later)) == "a and b commute"


def test_the_event_is_the_first_at_which_both_ask():
    late = Callback(key="b", init=int, on_validation_end=lambda s, e: emit(s + 1, Stop("late")) if s > 0 else s + 1)
    run = [ev.ValidationEnd(step=step) for step in range(5)]

    assert commutes(asks("a", Stop("enough")), late, run).events == (
        ev.ValidationEnd(step=3),
        ev.ValidationEnd(step=4),
    ) or (commutes(asks("a", Stop("enough")), late, run).event == ev.ValidationEnd(step=1))


def test_step_hooks_that_move_what_another_looks_at_do_not_commute():
    found = commutes(clip_grad_value(0.001), grad_norms())

    assert "first at on_before_optimizer_step" in found.sentence
    assert type(found.event) is ev.BeforeOptimizerStep
    assert not commutes(clip_grad_norm(0.01), clip_grad_value(0.001))


def test_step_hooks_that_do_not_touch_each_other_commute():
    def adds(key, n):
        def on_after_backward(state, event):
            return emit(state, grads={name: grad + n for name, grad in event.grads.items()})

        return Callback(key=key, step=StepHooks(init=dict, on_after_backward=on_after_backward))

    assert commutes(ema(0.5), grad_norms())
    assert commutes(adds("a", 1.0), adds("b", 2.0))  # what each gives differs, what comes of both does not


def test_built_ins_that_share_nothing_commute():
    assert commutes(early_stop("val_loss"), lr_monitor())


def test_two_of_one_key_are_refused():
    with pytest.raises(ValueError, match="keys must be unique"):
        commutes(ema(0.5), ema(0.5))


def test_every_effect_has_a_row_or_is_known_to_leave_others_alone():
    alone = {
        *("Attach", "CollectGarbage", "KeepPredictions", "Print", "Probe", "Render", "Skip", "StopEpoch", "Validate"),
        "Log",  # by the names of its metrics
    }
    effects = {name for name, cls in vars(eff).items() if isinstance(cls, type) and issubclass(cls, eff.Effect)}
    rows = {cls.__name__ for cls in (*order._WRITES, *order._READS)}

    assert effects - rows - alone == {"Effect"}
