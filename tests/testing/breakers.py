"""Callbacks that are wrong in one way each, beside the same ones put right."""

import datetime
import logging
import random
import time
import uuid
from functools import partial
from pathlib import Path

import attrs
import torch

from fncb.callback import Callback, StepHooks, emit
from fncb.effects import Log, Print, Stop
from fncb.testing import in_step, laws


@attrs.frozen
class Seen:
    losses: tuple[float, ...] = ()
    best: float | None = None


@attrs.define
class Changing:
    best: float | None = None


@attrs.frozen
class Annotated:
    losses: list[float] = attrs.field(factory=list)


def at_end(hook, init=Seen, **fields):
    return Callback(key="own", init=init, on_validation_end=hook, **fields)


def counts(state, event):
    return state + 1


# Time, randomness, the world outside.


def reads_the_clock(state, event):
    return emit(state, Log({"time": time.time()}))


def reads_the_date(state, event):
    return emit(state, Print(str(datetime.datetime.now().year)))


def tells_the_time(state, event):
    return emit(state, Log({"time": event.seconds}))


def draws_a_number(state, event):
    return emit(state, Log({"jitter": 0.0 * random.random()}))


def draws_from_torch(state, event):
    return emit(state, Log({"jitter": 0.0 * float(torch.rand(()))}))


def makes_up_a_name(state, event):
    return emit(state, Print(f"check {uuid.uuid4()}"))


def draws_nothing(state, event):
    return emit(state, Log({"jitter": event.step % 7 / 7}))


def writes_a_file(state, event):
    Path("/dev/null").write_text("checked")
    return state


def prints(state, event):
    print(end="")  # noqa: T201 - which is what is wrong
    return state


def logs(state, event):
    logging.getLogger("own").debug("checked")
    return state


def asks_to_print(state, event):
    return emit(state, Print("checked"))


# Memory.


def changes_its_state(state, event):
    state["checks"] = state["checks"] + 1
    return state


def gives_a_new_state(state, event):
    return {**state, "checks": state["checks"] + 1}


def remembers_in_its_closure():
    best = []

    def on_validation_end(state, event):
        best.append(1)
        return state

    return at_end(on_validation_end)


def remembers_once_in_its_closure():
    begun = False

    def on_validation_end(state, event):
        nonlocal begun
        begun = True
        return state

    return at_end(on_validation_end)


TALLY = {"checks": 0}


def remembers_in_a_global(state, event):
    TALLY["checks"] += 1
    return state


class OnItself:
    """The way of other libraries: memory on `self`."""

    def __init__(self):
        self.best = None

    def on_validation_end(self, state, event):
        self.best = event.step
        return state


class Shared:
    """The way of yet others: memory on the class."""

    checks = 0

    def on_validation_end(self, state, event):
        type(self).checks += 1
        return state


def remembers_in_a_class(state, event):
    Shared.checks += 1
    return state


def draws_from_its_own_generator():
    generator = torch.Generator().manual_seed(1)

    def on_validation_end(state, event):
        return emit(state, Log({"jitter": float(torch.rand((), generator=generator))}))

    return at_end(on_validation_end)


def remembers_in_its_state(state, event):
    return attrs.evolve(state, best=float(event.step))


# What comes out.


def gives_nothing(state, event):
    if event.epoch > 0:
        return None
    return state


def gives_what_it_has(state, event):
    return state


def emits_a_word(state, event):
    return emit(state, "stop")


def emits_undeclared(state, event):
    if event.metrics["acc"] > 1.0:
        return emit(state, Stop("good enough"))
    return state


def emits_what_cannot_be_written(state, event):
    return emit(state, Stop(event))


def stops(state, event):
    return emit(state, Stop("good enough"))


def numbers_its_calls():
    calls = iter(range(10**9))

    def on_validation_end(state, event):
        return emit(state, Log({"call": float(next(calls))}))

    return at_end(on_validation_end)


def tells_the_step(state, event):
    return emit(state, Log({"call": float(event.step)}))


def raises_on_nan(state, event):
    if event.metrics["val_loss"] != event.metrics["val_loss"]:
        raise ArithmeticError("NaN")
    return state


def keeps_a_set(state, event):
    return {*state, event.epoch}


def keeps_a_tuple(state, event):
    return tuple(sorted({*state, event.epoch}))


def loses_the_kind(state, event):
    return Annotated((1.0,))


def keeps_the_kind(state, event):
    return Annotated([1.0])


START = Seen()


def knows_its_first_state(state, event):
    return emit(state, Print("begin")) if state is START else state


def asks_what_its_state_holds(state, event):
    return emit(state, Print("begin")) if state == START else state


class Restless(Callback):
    """Gives another state at events that it does not hear."""

    def transition(self, state, event):
        new, effects = super().transition(state, event)
        return (new, effects) if self.hears(type(event)) else (attrs.evolve(new), effects)


class Doubling(Callback):
    """Asks for everything twice, but not in a composition."""

    def transition(self, state, event):
        new, effects = super().transition(state, event)
        return new, effects * 2


# The step.


def in_the_step(hook, init=lambda params: torch.zeros(())):
    return Callback(key="own", step=StepHooks(init=init, on_after_backward=hook))


def adds_in_place(state, event):
    state.add_(1)
    return state


def scales_in_place(state, event):
    for grad in event.grads.values():
        grad.mul_(0.5)
    return state


def scales(state, event):
    return emit(state, grads={name: grad * 0.5 for name, grad in event.grads.items()})


def adds(state, event):
    return state + 1


def grows(state, event):
    return torch.cat([state.reshape(-1), torch.ones(1)])


def widens(state, event):
    return state.double()


def counts_in_python(state, event):
    return {"n": state["n"] + 1}


def branches(state, event):
    return state + 1 if event.loss > 1.0 else state


def selects(state, event):
    return torch.where(event.loss > 1.0, state + 1, state)


def is_quick_in_the_graph(state, event):
    return state + (1 if torch.compiler.is_compiling() else 2)


def gives_nothing_in_the_step(state, event):
    return None


def stops_in_the_step(state, event):
    return emit(state, Stop("loss"))


def times_in_the_step(state, event):
    return state + 0.0 * time.perf_counter()


def uses_what_is_not_there(state, event):
    return state + event.accuracy


def draws_from_its_own_generator_in_the_step():
    generator = torch.Generator().manual_seed(1)
    return in_the_step(lambda state, event: torch.rand((), generator=generator))


def publishes(name, value):
    def hook(state, event):
        return emit(state, metrics={name: value(event)})

    return Callback(key="own", step=StepHooks(init=dict, on_train_batch_end=hook))


def gives(**replaced):
    return Callback(key="own", step=StepHooks(init=dict, on_after_backward=lambda state, e: emit(state, **replaced)))


def rounds(dtype):
    def hook(state, event):
        return emit(state, grads={name: grad.to(dtype) for name, grad in event.grads.items()})

    return in_the_step(hook)


def detaches(state, event):
    return emit(state, loss=event.loss.detach())


def doubles(state, event):
    return emit(state, loss=event.loss * 2)


def before_backward(hook):
    return Callback(key="own", step=StepHooks(init=dict, on_before_backward=hook))


def around(around_gradient):
    return Callback(key="own", step=StepHooks(init=dict, around_gradient=around_gradient))


def remembers_around_the_gradient():
    norms = []

    def around_gradient(gradient, params):
        grads = gradient(params)
        norms.append(len(grads))
        return grads

    return around(around_gradient)


def draws_from_the_default_generator():
    generator = torch.default_generator
    return in_the_step(lambda state, event: torch.rand((), generator=generator))


HOST = {
    # name: the law, what is wrong, what is right
    "reads the clock": (laws.CLOCK, at_end(reads_the_clock), at_end(tells_the_time)),
    "reads the date": (laws.CLOCK, at_end(reads_the_date), at_end(tells_the_time)),
    "draws a number": (laws.RANDOMNESS, at_end(draws_a_number), at_end(draws_nothing)),
    "draws from torch": (laws.RANDOMNESS, at_end(draws_from_torch), at_end(draws_nothing)),
    "makes up a name": (laws.RANDOMNESS, at_end(makes_up_a_name), at_end(draws_nothing)),
    "writes a file": (laws.OUTSIDE, at_end(writes_a_file), at_end(asks_to_print)),
    "prints": (laws.OUTSIDE, at_end(prints), at_end(asks_to_print)),
    "logs": (laws.OUTSIDE, at_end(logs), at_end(asks_to_print)),
    "changes its state": (
        laws.INPUTS,
        at_end(changes_its_state, init=lambda: {"checks": 0}),
        at_end(gives_a_new_state, init=lambda: {"checks": 0}),
    ),
    "remembers in its closure": (laws.HIDDEN, remembers_in_its_closure(), at_end(remembers_in_its_state)),
    "remembers once": (laws.HIDDEN, remembers_once_in_its_closure(), at_end(remembers_in_its_state)),
    "remembers in a global": (laws.HIDDEN, at_end(remembers_in_a_global), at_end(remembers_in_its_state)),
    "remembers on itself": (laws.HIDDEN, at_end(OnItself().on_validation_end), at_end(remembers_in_its_state)),
    "remembers in a class": (laws.HIDDEN, at_end(remembers_in_a_class), at_end(remembers_in_its_state)),
    "remembers on its class": (laws.HIDDEN, at_end(Shared().on_validation_end), at_end(remembers_in_its_state)),
    "has a generator": (laws.HIDDEN, draws_from_its_own_generator(), at_end(draws_nothing)),
    "gives nothing": (laws.RETURNS, at_end(gives_nothing), at_end(gives_what_it_has)),
    "emits a word": (laws.RETURNS, at_end(emits_a_word), at_end(stops)),
    "emits undeclared": (
        laws.DECLARED,
        at_end(emits_undeclared, emits=(Log,)),
        at_end(emits_undeclared, emits=(Stop,)),
    ),
    "emits what cannot be written": (laws.RECORDED, at_end(emits_what_cannot_be_written), at_end(stops)),
    "numbers its calls": (laws.SAME, numbers_its_calls(), at_end(tells_the_step)),
    "begins each time otherwise": (
        laws.SAME,
        Callback(key="own", init=partial(next, iter(range(10**9))), on_train_end=counts),
        Callback(key="own", init=int, on_train_end=counts),
    ),
    "raises": (laws.RAISES, at_end(raises_on_nan), at_end(gives_what_it_has)),
    "keeps a set": (laws.PLAIN, at_end(keeps_a_set, init=set), at_end(keeps_a_tuple, init=tuple)),
    "can be changed": (laws.PLAIN, at_end(gives_what_it_has, init=Changing), at_end(gives_what_it_has, init=Seen)),
    "loses the kind": (laws.SNAPSHOT, at_end(loses_the_kind, init=Annotated), at_end(keeps_the_kind, init=Annotated)),
    "is restless": (
        laws.UNHEARD,
        Restless(key="own", init=Seen, on_validation_end=gives_what_it_has),
        at_end(gives_what_it_has),
    ),
    "asks twice": (laws.COMPOSES, Doubling(key="own", init=Seen, on_validation_end=stops), at_end(stops)),
    "knows its first state": (
        laws.RESUME,
        at_end(knows_its_first_state, init=lambda: START),
        at_end(asks_what_its_state_holds, init=lambda: START),
    ),
}
STEP = {
    "adds in place": (laws.INPUTS, in_the_step(adds_in_place), in_the_step(adds)),
    "scales in place": (laws.INPUTS, in_the_step(scales_in_place), in_the_step(scales)),
    "grows": (in_step.SHAPES, in_the_step(grows), in_the_step(adds)),
    "widens": (in_step.SHAPES, in_the_step(widens), in_the_step(adds)),
    "counts in Python": (in_step.TENSORS, in_the_step(counts_in_python, lambda params: {"n": 0}), in_the_step(adds)),
    "gives nothing": (laws.RETURNS, in_the_step(gives_nothing_in_the_step), in_the_step(adds)),
    "stops": (laws.RETURNS, in_the_step(stops_in_the_step), in_the_step(adds)),
    "times": (laws.CLOCK, in_the_step(times_in_the_step), in_the_step(adds)),
    "uses what is not there": (in_step.RUNS, in_the_step(uses_what_is_not_there), in_the_step(adds)),
    "begins with too much": (in_step.RUNS, in_the_step(adds, lambda: torch.zeros(())), in_the_step(adds)),
    "has a generator": (
        laws.HIDDEN,
        draws_from_its_own_generator_in_the_step(),
        draws_from_the_default_generator(),
    ),
    "remembers around": (
        laws.HIDDEN,
        remembers_around_the_gradient(),
        around(lambda gradient, params: gradient(params)),
    ),
    # What a run refuses, or cannot carry out.
    "publishes a number": (laws.RETURNS, publishes("n", lambda e: 0.5), publishes("n", lambda e: e.metrics["loss"])),
    "publishes a vector": (
        laws.RETURNS,
        publishes("n", lambda e: torch.ones(2)),
        publishes("n", lambda e: torch.ones(())),
    ),
    "publishes the loss": (
        laws.RETURNS,
        publishes("loss", lambda e: torch.ones(())),
        publishes("n", lambda e: torch.ones(())),
    ),
    "replaces the loss too late": (laws.RETURNS, gives(loss=torch.zeros(())), before_backward(doubles)),
    "replaces by nothing": (laws.RETURNS, gives(grads={}), in_the_step(scales)),
    "skips with a bool": (laws.RETURNS, gives(skip=True), gives(skip=torch.tensor(True))),
    "rounds": (laws.RETURNS, rounds(torch.float16), rounds(torch.float32)),
    "detaches": (laws.RETURNS, before_backward(detaches), before_backward(doubles)),
    "calls no gradient": (
        laws.RETURNS,
        around(lambda gradient, params: params),
        around(lambda gradient, params: gradient(params)),
    ),
}
COMPILED = {
    "branches": (in_step.GRAPH, in_the_step(branches), in_the_step(selects)),
    "is quick in the graph": (in_step.COMPILED, in_the_step(is_quick_in_the_graph), in_the_step(adds)),
}
