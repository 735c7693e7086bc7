"""Whether the order of two callbacks matters, and at which event."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import find
from hypothesis.errors import NoSuchExample

from fncb import effects as eff
from fncb.callback import Callback, compose
from fncb.effects import Effect
from fncb.emitting import Emit
from fncb.events import HOOKS, Event, LiveFieldError, MissingMetric, hook_name
from fncb.fields import hook_names
from fncb.hindsight import heard_by
from fncb.testing.checking import SHRINKING, Runs, asked_for, runs_given
from fncb.testing.runs import events as runs_of
from fncb.tree import leaves

if TYPE_CHECKING:
    from fncb.testing.tiny import Tiny

_WEIGHTS, _LR, _OUTSIDE = "the weights", "the learning rate", "what is outside"

_WRITES: dict[type[Effect], tuple[str, ...]] = {
    eff.Stop: ("the reason to stop",),
    **dict.fromkeys((eff.Save, eff.Link, eff.Delete, eff.Append), ("{effect.path}",)),
    eff.LogImage: ("the image {effect.name}",),
    eff.LogHistogram: ("the histogram {effect.name}",),
    **dict.fromkeys((eff.SetLR, eff.ScaleLR, eff.HoldSchedules), (_LR,)),
    eff.Set: ("{effect.setting}",),
    eff.SetAccumulation: ("the accumulated batches",),
    **dict.fromkeys((eff.Freeze, eff.Unfreeze, eff.Rollback), (_WEIGHTS, _LR)),
    **dict.fromkeys((eff.Apply, eff.Transform, eff.RefreshBatchNorm), (_WEIGHTS,)),
    eff.Remember: ("what is remembered",),
    eff.Call: (_OUTSIDE,),
    **dict.fromkeys((eff.StartProfiler, eff.StopProfiler), ("the profiler",)),
}
_READS: dict[type[Effect], tuple[str, ...]] = {
    **dict.fromkeys((eff.Save, eff.Remember, eff.Call), (_WEIGHTS, _LR)),
    eff.Rollback: ("what is remembered",),
    eff.Link: ("{effect.to}",),
    **dict.fromkeys((eff.View, eff.Measure, eff.Examine), (_WEIGHTS,)),
}


@attrs.frozen
class Order:
    """Whether the order of two callbacks matters. It is true if they commute.

    Attributes:
      matters: whether the one before the other does something else than the other way round.
      sentence: what differs.
      event: where it does; None if it does not.
      events: the smallest run that ends with that event; empty for one of the step half.
    """

    matters: bool
    sentence: str
    event: Event | None = None
    events: tuple[Event, ...] = ()

    def __bool__(self) -> bool:
        return not self.matters

    def __str__(self) -> str:
        return "\n".join([self.sentence, *(f"  {event}" for event in self.events)])


def commutes(a: Callback[Any], b: Callback[Any], events: Runs = None, *, tiny: Tiny | None = None) -> Order:
    """Whether two callbacks do the same in either order, and at which event they do not.

    What host hooks remember never depends on the order, as they see events only; what they ask for at one event is done
    in order, which matters if both ask for something about the same thing: a learning rate, the weights, a file or a
    metric's name. Effects that are equal commute. Step hooks are run in both orders on a tiny model, eagerly: the order
    matters if parameters, states or metrics differ then. Two that draw random numbers do not commute.

    Args:
      a, b: callbacks of different keys.
      events, tiny: as of `check`.

    Returns:
      An `Order`, which is true if they commute.

    Example:
      >>> from fncb.callbacks import early_stop, lr_monitor
      >>> bool(commutes(early_stop("val_loss"), lr_monitor()))
      True
      >>> from fncb.callbacks import checkpoint, reduce_on_plateau
      >>> print(commutes(checkpoint(monitor="val_loss"), reduce_on_plateau("val_loss", patience=0)).sentence)
      checkpoint(val_loss) and reduce_on_plateau(val_loss) both ask about the learning rate at on_validation_end
    """
    compose(a, b)  # refuses two of one key
    found = _in_events(a, b, events)
    if found is None and a.step is not None and b.step is not None:
        found = _in_step(a, b, tiny)
    return Order(False, f"{a.key} and {b.key} commute") if found is None else found


def _in_events(a: Callback[Any], b: Callback[Any], events: Any) -> Order | None:
    given, both = runs_given(events), heard_by(a) & heard_by(b)
    if not both:
        return None
    if isinstance(given, tuple):
        run: list[Event] | None = list(given)
    else:
        metrics = dict.fromkeys((*asked_for(a), *asked_for(b)))
        strategy = runs_of(tuple(metrics), kinds=heard_by(a) | heard_by(b)) if given is None else given
        try:
            run = find(strategy, lambda run: _shared(a, b, run) is not None, settings=SHRINKING)
        except NoSuchExample:
            return None
    shared = _shared(a, b, run)
    if shared is None:
        return None
    run = run[: shared[0] + 1]
    for place in reversed(range(len(run) - 1)):  # what is before it may be needed or not
        rest = [*run[:place], *run[place + 1 :]]
        if (again := _shared(a, b, rest)) is not None and again[0] == len(rest) - 1:
            run, shared = rest, again
    event = run[-1]
    what = f"{a.key} and {b.key} both ask about {shared[1]} at {hook_name(type(event))}"
    return Order(True, what, event, tuple(run))


def _shared(a: Callback[Any], b: Callback[Any], events: Iterable[Event]) -> tuple[int, str] | None:
    """The first event at which both ask for something about the same thing, and the thing."""
    states = [a.init(), b.init()]
    for place, event in enumerate(events):
        asked: list[tuple[Effect, ...]] = []
        for i, callback in enumerate((a, b)):
            try:
                states[i], effects = callback.transition(states[i], event)
            except (LiveFieldError, MissingMetric):
                effects = ()
            asked.append(effects)
        for one in asked[0]:
            for other in asked[1]:
                things = _things(_WRITES, one) & (_things(_WRITES, other) | _things(_READS, other))
                things |= _things(_READS, one) & _things(_WRITES, other)
                if things and not _same(one, other):
                    return place, min(things)
    return None


def _things(table: dict[type[Effect], tuple[str, ...]], effect: Effect) -> set[str]:
    """What an effect changes, or looks at, in words."""
    if isinstance(effect, eff.Log) and table is _WRITES:
        return {f"the metric {name}" for name in effect.metrics}
    return {words.format(effect=effect) for words in table.get(type(effect), ())}


def _same(one: Effect, other: Effect) -> bool:
    """Whether two effects are equal, and nothing in them is left out of that."""
    hidden = [field.name for field in attrs.fields(type(one)) if not field.eq and field.name != "key"]
    return one == other and all(getattr(one, name) is getattr(other, name) for name in hidden)


def _noting(callback: Callback[Any], log: dict[str, dict[str, Any]]) -> Callback[Any]:
    """The same, but what its step hooks give is noted: of what all of a hook replace, what the last one gives."""
    assert callback.step is not None

    def noted(name: str, hook: Any, state: Any, event: Any) -> Any:
        out = hook(state, event)
        given = out if type(out) is Emit else Emit(out)
        entry = log.setdefault(f"{name} {int(event.step)}", {})
        metrics = given.replaced.get("metrics", {})
        replaced = {each: value for each, value in given.replaced.items() if each != "metrics"}
        own = {f"{callback.key} {path}": leaf for path, leaf in leaves({"state": given.state, "metrics": metrics})}
        entry |= {path: leaf.detach().clone() for path, leaf in (*own.items(), *leaves(replaced))}
        return out

    hooks = {name: partial(noted, name, getattr(callback.step, name)) for name in hook_names(callback.step)}
    return attrs.evolve(callback, step=attrs.evolve(callback.step, **hooks))


def _in_step(a: Callback[Any], b: Callback[Any], tiny: Tiny | None) -> Order | None:
    import torch  # loaded for step halves only

    from fncb.testing.in_step import TOLERANCE, differing, trained
    from fncb.testing.tiny import classifier_of_images

    tiny = classifier_of_images() if tiny is None else tiny
    generator, found, logs = torch.get_rng_state(), [], []
    for order in ((a, b), (b, a)):
        log: dict[str, dict[str, Any]] = {}
        noted = [_noting(each, log) for each in order]
        found.append(trained(noted, tiny, compile=False)[0])
        logs.append(log)
    torch.set_rng_state(generator)
    what = differing(*found, **TOLERANCE)
    if what is None:
        return None
    at = next((key for key in logs[0] if differing(logs[0][key], logs[1].get(key, {}), **TOLERANCE)), "")
    hook = at.split(" ")[0]
    kind = None if not hook else HOOKS[hook]()
    return Order(True, f"{a.key} and {b.key} give another {what} the other way round, first at {hook}", kind)
