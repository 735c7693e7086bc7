"""The laws of the host half, looked at event by event."""

import copy
import json
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import attrs

from fncb.callback import Callback, Emit, compose
from fncb.effects import Effect, Probe, Save
from fncb.events import Event, LiveFieldError, MissingMetric, Probed, Saved, hook_name
from fncb.notation import must_be_readable, notation_of
from fncb.snapshot import load_state_dict, state_dict
from fncb.testing.comparing import as_it_is, unlike
from fncb.testing.seeing import CLOCK, OUTSIDE, RANDOMNESS, memory, watched
from fncb.tree import leaves, map_leaves

RETURNS, INPUTS, HIDDEN = "returns state", "inputs stay as they are", "no hidden memory"
DECLARED, SAME, RAISES = "effects are declared", "same input, same result", "no hook raises"
PLAIN, SNAPSHOT, RESUME = "state is frozen, plain data", "state survives a snapshot", "resumes at any cut"
UNHEARD, COMPOSES, RECORDED = "what is unheard changes nothing", "composes", "effects can be recorded"

LAWS = (
    *(RETURNS, RAISES, CLOCK, RANDOMNESS, OUTSIDE, INPUTS, HIDDEN, DECLARED, SAME),
    *(PLAIN, SNAPSHOT, RESUME, UNHEARD, COMPOSES, RECORDED),
)
"""Every law of the host half, in the order in which they are looked at: where one is broken, those that rest on it
are passed over for that event, so that the cause is named and not what follows from it."""


@attrs.frozen
class Outcome:
    """What a hook gave: a state, effects, and what it raised as text."""

    state: Any
    effects: tuple[Effect, ...] = ()
    error: str | None = None


@attrs.frozen
class Found:
    """A law that is broken, at which of the events, and how."""

    law: str
    at: int
    where: str
    sentence: str


@attrs.define
class Notes:
    """What hooks could not be shown: live fields, and metrics that the events did not have."""

    live: dict[str, None] = attrs.field(factory=dict)
    raised: dict[str, None] = attrs.field(factory=dict)


def broken_laws(callback: Callback[Any], events: Iterable[Event], notes: Notes | None = None) -> list[Found]:
    """The laws that one callback breaks in a run, the first time that it does; it is no composition.

    A hook that finds a metric missing or needs a live field that is not there has not heard that event, and the run
    goes on. When a hook raises anything else, the run ends there.

    Example:
      >>> from fncb.events import ValidationEnd
      >>> forgetful = Callback(key="forgetful", init=int, on_validation_end=lambda state, event: None)
      >>> broken_laws(forgetful, [ValidationEnd()])[0].sentence
      'gives None. Return the state, or emit(state, ...)'
    """
    notes = Notes() if notes is None else notes
    found: dict[str, Found] = {}
    first = callback.init()
    impure: set[str] = set()
    state, queue = first, deque(enumerate(events))

    def tell(law: str, at: int, hook: str, sentence: str) -> None:
        found.setdefault(law, Found(law, at, f"{callback.key}: {hook}", sentence))

    def tell_cause(at: int, hook: str, law: str, sentence: str) -> None:
        impure.add(hook)
        tell(law, at, hook, sentence)

    for law, sentence in _of_first_state(callback, first):
        tell(law, -1, "init", sentence)
    while queue:
        at, event = queue.popleft()
        name = hook_name(type(event))
        if not callback.hears(type(event)):
            new, effects = callback.transition(state, event)
            if new is not state or effects:
                tell(UNHEARD, at, name, "changes its state at an event that it does not hear")
            continue
        outcome = _first_call(callback, state, event, partial(tell_cause, at, name))
        if isinstance(outcome, str):
            (notes.live if outcome.startswith("needs live") else notes.raised).setdefault(outcome)
            continue
        if outcome is None or outcome.error is not None:
            break
        if name not in impure:
            for law, text in _derived(callback, state, event, outcome):
                tell(law, at, name, text)
                break
        state = outcome.state
        queue.extendleft((at, each) for each in reversed(_answers(callback, event, outcome)))
    return list(found.values())


def _answers(callback: Callback[Any], event: Event, outcome: Outcome) -> list[Event]:
    """What a run answers to effects before its next event, of what the callback hears."""
    now: dict[str, Any] = {"epoch": event.epoch, "step": event.step, "seconds": event.seconds}
    found: list[Event] = []
    for effect in outcome.effects:
        if isinstance(effect, Save) and callback.hears(Saved):
            found.append(Saved(**now, path=effect.path, requested=effect.path))
        elif isinstance(effect, Probe) and callback.hears(Probed):
            found.append(Probed(**now, what=effect.what, key=callback.key, at=hook_name(type(event))))
    return found if type(event) not in (Saved, Probed) else []  # else a run might never end


def _of_first_state(callback: Callback[Any], first: Any) -> Iterable[tuple[str, str]]:
    again, seen = watched(callback.init)
    yield from seen
    if not seen and (differs := unlike(first, again)):
        yield SAME, f"gives another state each time: {differs[0]}"
    else:
        yield from _of_state(callback, first)


def _first_call(callback: Callback[Any], state: Any, event: Event, tell: Any) -> Outcome | str | None:
    """Calls a hook and looks at what it does; None if what it gave is of no use, text if it could not be shown."""
    name = hook_name(type(event))
    hook = getattr(callback, name)
    inputs, kept = (as_it_is(state), as_it_is(event)), memory(hook)
    outcome, seen = watched(_called, hook, state, event)
    for law, how in seen:
        tell(law, how)
    if not seen and kept != (now := memory(hook)):
        changed = [what for what in now if now[what] != kept.get(what)]
        tell(HIDDEN, f"keeps something outside of its state: {', '.join(changed)} changed")
    for what, before, value in zip(("state", "event"), inputs, (state, event), strict=True):
        if before != as_it_is(value):
            tell(INPUTS, f"changes the {what} that it is given, in place. Return a new one, as attrs.evolve does")
    if isinstance(outcome, LiveFieldError):
        field = str(outcome).split("`")[1]
        return f"needs live fields at {name} of {callback.key}: {field}"
    if isinstance(outcome, MissingMetric):
        return f"needs a metric at {name} of {callback.key}: {outcome}"
    if isinstance(outcome, Exception):
        tell(RAISES, f"raises {type(outcome).__name__}: {outcome}")
        return None
    wrong = _contract(callback, outcome)
    if wrong is not None:
        tell(*wrong)
        return None
    return _outcome(outcome)


def _called(hook: Any, state: Any, event: Event) -> Any:
    try:
        return hook(state, event)
    except Exception as error:
        return error


def _outcome(out: Any) -> Outcome:
    return Outcome(out.state, out.effects) if type(out) is Emit else Outcome(out)


def _contract(callback: Callback[Any], out: Any) -> tuple[str, str] | None:
    """What is wrong with the kind of thing that a hook gave."""
    if type(out) is not Emit:
        return (RETURNS, "gives None. Return the state, or emit(state, ...)") if out is None else None
    if out.state is None:
        return RETURNS, "gives emit(None, ...). Write emit(state, ...)"
    if out.replaced:
        return RETURNS, f"replaces {', '.join(out.replaced)}, which only step hooks may"
    for effect in out.effects:
        if not isinstance(effect, Effect):
            return RETURNS, f"emits {effect!r}, which is no effect"
        if callback.emits is not None and type(effect) not in callback.emits:
            names = [kind.__name__ for kind in callback.emits]
            return DECLARED, f"emits {effect!r} and has emits={names}. Add its class"
    return None


def _derived(callback: Callback[Any], state: Any, event: Event, outcome: Outcome) -> Iterable[tuple[str, str]]:
    """Laws that can be told apart only where the hook itself is pure."""
    hook = getattr(callback, hook_name(type(event)))
    again = _called(hook, state, event)
    if isinstance(again, Exception):
        yield SAME, f"raises {again!r} when it is called again with the same state and event"
    elif differs := unlike(outcome, _outcome(again)):
        yield SAME, f"gives another result when it is called again with the same state and event: {differs[0]}"
    for effect in outcome.effects:
        try:
            notation = notation_of(type(effect))
            must_be_readable(notation, notation.take(effect))
        except Exception as error:
            yield RECORDED, f"emits {effect!r}, which no recording can hold: {error}"
    wrong = [*_of_state(callback, outcome.state)]
    yield from wrong
    if not wrong and (before := _through_json(callback, state)) is not None:
        resumed = _called(hook, before, event)
        told = None if isinstance(resumed, Exception) else _outcome(resumed)
        if told is None or unlike(outcome, told):
            yield RESUME, f"goes on otherwise from a state that was saved and loaded: {unlike(outcome, told)[:1]}"
    alone, effects = callback.transition(state, event)
    if unlike(compose(callback).transition({callback.key: state}, event), ({callback.key: alone}, effects)):
        yield COMPOSES, "does something else in a composition"


def _of_state(callback: Callback[Any], state: Any) -> Iterable[tuple[str, str]]:
    """What is wrong with a state as something to be saved."""
    mutable = next((record for record in _records(state) if not _is_frozen(record)), None)
    if mutable is not None:
        yield PLAIN, f"has a state that can be changed: {type(mutable).__name__} is not frozen. Use attrs.frozen"
        return
    try:
        state_dict(state)
    except TypeError as error:
        yield PLAIN, f"has a state that cannot be saved: {error}"
        return
    try:
        again = _through_json(callback, state)
    except (TypeError, ValueError) as error:
        yield SNAPSHOT, f"has a state that cannot be loaded: {error}"
        return
    differs = unlike(state, again) or _other_kinds(state, again)
    if differs:
        yield SNAPSHOT, f"has another state once it is saved and loaded: {differs[0]}"


def _records(tree: Any) -> Iterable[Any]:
    if attrs.has(type(tree)):
        yield tree
        inside: Iterable[Any] = [getattr(tree, field.name) for field in attrs.fields(type(tree))]
    elif isinstance(tree, Mapping):
        inside = tree.values()
    else:
        inside = tree if isinstance(tree, list | tuple) else ()
    for each in inside:
        yield from _records(each)


def _is_frozen(record: Any) -> bool:
    fields = attrs.fields(type(record))
    if not fields:
        return True
    try:
        setattr(copy.copy(record), fields[0].name, getattr(record, fields[0].name))
    except attrs.exceptions.FrozenError:
        return True
    return False


def _through_json(callback: Callback[Any], state: Any) -> Any:
    """A state as it comes back from a file; tensors, which go to a file as they are, are left out of the text."""
    data = state_dict(state)
    tensors = [leaf for _, leaf in leaves(data) if hasattr(leaf, "data_ptr")]
    if tensors:
        return load_state_dict(callback, map_leaves(lambda leaf: leaf, data))
    return load_state_dict(callback, json.loads(json.dumps(data)))


def _other_kinds(one: Any, other: Any) -> list[str]:
    """Where a list became a tuple, or the other way round, which are not equal."""
    kinds = [[(path, kind) for path, kind in _sequences(tree)] for tree in (one, other)]
    return [f"{path}: {kind} and not so before" for path, kind in kinds[1] if (path, kind) not in kinds[0]]


def _sequences(tree: Any, path: str = "") -> Iterable[tuple[str, str]]:
    if attrs.has(type(tree)):
        tree = {field.name: getattr(tree, field.name) for field in attrs.fields(type(tree))}
    if isinstance(tree, list | tuple):
        yield path, type(tree).__name__
        tree = dict(enumerate(tree))
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _sequences(item, f"{path}/{key}")
