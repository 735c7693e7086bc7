from functools import partial

import pytest

from fncb import events as ev
from fncb.callback import EmptyState, compose, emit
from fncb.callbacks.on import on
from fncb.effects import Log, Stop
from tests.folding import fold


@pytest.mark.parametrize("hook", list(ev.HOOKS))
def test_every_hook_is_there_with_and_without_on(hook):
    for name in {hook, hook.removeprefix("on_")}:
        callback = on(**{name: lambda event: Log({"a": 1.0})})

        assert fold(callback, [ev.HOOKS[hook]()]).effects == (Log({"a": 1.0}),)
        assert callback.config == {hook: f"{test_every_hook_is_there_with_and_without_on.__name__}.<locals>.<lambda>"}


def test_a_function_with_two_parameters_is_a_hook():
    callback = on(init=int, train_batch_end=lambda state, event: emit(state + 1, Log({"n": state})))

    run = fold(callback, [ev.TrainBatchEnd(), ev.TrainBatchEnd()])
    assert (run.state, run.effects) == (2, (Log({"n": 0}), Log({"n": 1})))


@pytest.mark.parametrize(
    ("returned", "effects"),
    [
        (None, ()),
        (Stop("a"), (Stop("a"),)),
        ([Stop("a"), Log({})], (Stop("a"), Log({}))),
        ((), ()),
        (iter([Stop("a")]), (Stop("a"),)),
    ],
)
def test_a_function_of_the_event_returns_nothing_an_effect_or_several(returned, effects):
    run = fold(on(train_end=lambda event: returned), [ev.TrainEnd()])

    assert (run.state, run.effects) == (EmptyState(), effects)


def test_both_kinds_go_together_and_those_of_the_event_leave_the_state():
    callback = on(init=int, train_start=lambda state, event: 5, train_end=lambda event: Stop("a"))

    run = fold(callback, [ev.TrainStart(), ev.TrainEnd()])
    assert (run.state, run.effects) == (5, (Stop("a"),))


class Named:
    def __init__(self):
        self.seen = []

    def __call__(self, event):
        self.seen.append(event.step)

    def method(self, event):
        self.seen.append(event.step)


def test_what_is_called_with_the_event(capsys):
    named, seen = Named(), []
    functions = [
        named,
        named.method,
        seen.append,  # written in C
        print,  # takes any number
        lambda event, k=3: seen.append(k),
        lambda event=None: seen.append(event),
        lambda *given: seen.append(len(given)),
        partial(lambda a, event: seen.append(a), "partial"),
    ]

    end = ev.TrainEnd(step=7)
    for function in functions:
        assert fold(on(train_end=function), [end]).effects == ()

    assert named.seen == [7, 7]
    assert seen == [end, 3, end, 1, "partial"]
    assert capsys.readouterr().out.startswith("TrainEnd(")


def test_a_hook_may_have_more_parameters_if_they_have_defaults():
    def count(state, event, by=2):
        return state + by

    assert fold(on(init=int, train_end=count), [ev.TrainEnd()]).state == 2


def test_a_function_that_returns_something_else_is_told():
    with pytest.raises(
        TypeError, match=r"^on: train_end must return None, an effect or several, got True\. Give it two"
    ):
        fold(on(train_end=lambda event: True), [ev.TrainEnd()])
    with pytest.raises(TypeError, match=r"got 'text'"):
        fold(on(train_end=lambda event: "text"), [ev.TrainEnd()])


def test_effects_may_be_declared():
    assert on(train_end=print).emits is None
    assert on(train_end=print, emits=()).emits == ()
    with pytest.raises(TypeError, match="every effect must be declared"):
        fold(on(train_end=lambda event: Stop("a"), emits=(Log,)), [ev.TrainEnd()])


def test_two_of_them_need_a_key():
    with pytest.raises(ValueError, match=r"'on'.*key="):
        compose(on(train_end=print), on(train_start=print))

    compose(on(train_end=print), on(train_start=print, key="another"))


@pytest.mark.parametrize(
    ("functions", "error", "message"),
    [
        (
            {"train_bacth_end": print},
            ValueError,
            "it must be the name of a hook, got .*Did you mean on_train_batch_end?",
        ),
        ({"on_everything": print}, ValueError, "it must be the name of a hook, got 'on_everything'"),
        ({"state_dict": print}, ValueError, "it must be the name of a hook, got 'state_dict'"),
        ({"train_end": 3}, TypeError, "train_end must be a function, got 3"),
        ({"train_end": print, "on_train_end": print}, ValueError, "each hook must be given once, got on_train_end"),
        ({"train_end": lambda: None}, TypeError, r"train_end must have .* \(state, event\) or \(event\), got \(\)"),
        ({"train_end": lambda a, b, c: a}, TypeError, r"train_end must have .*, got \(a, b, c\)"),
        ({"train_end": lambda event, *, x: x}, TypeError, r"train_end must have .*, got \(event, \*, x\)"),
    ],
)
def test_wrong_functions_are_refused_at_once(functions, error, message):
    with pytest.raises(error, match=f"^on: {message}"):
        on(**functions)
