"""The laws of the step half: what its hooks do to a tiny model, eagerly and compiled."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from fncb.callback import Callback, Emit, compose
from fncb.fields import hook_names
from fncb.step import EAGER, ONE_GRAPH, Step
from fncb.task import Turn
from fncb.testing.comparing import as_it_is, unlike
from fncb.testing.laws import HIDDEN, INPUTS, RETURNS
from fncb.testing.report import Broken
from fncb.testing.seeing import CLOCK, OUTSIDE, RANDOMNESS, memory, watched
from fncb.testing.tiny import Tiny, classifier_of_images
from fncb.tree import leaves

TENSORS, SHAPES = "step state holds tensors only", "shapes and dtypes stay"
RUNS, GRAPH, COMPILED = "no step hook raises", "one graph", "compiled equals eager"

LAWS = (RETURNS, RUNS, CLOCK, RANDOMNESS, OUTSIDE, INPUTS, HIDDEN, TENSORS, SHAPES, GRAPH, COMPILED)
"""Every law of the step half, in the order in which they are looked at. Drawing from torch's generator is allowed."""

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
"""How far compiled results may be from eager ones."""


class _LawBroken(Exception):
    def __init__(self, law: str, hook: str, sentence: str):
        super().__init__(sentence)
        self.law, self.hook, self.sentence = law, hook, sentence


def broken_laws(
    callback: Callback[Any], tiny: Tiny | None = None, *, compile: bool = True
) -> tuple[list[Broken], list[str]]:
    """The laws that the step half of one callback breaks on a tiny model, and notes on what could not be looked at.

    Example:
      >>> from fncb.callbacks import ema
      >>> broken_laws(ema(0.5), compile=False)
      ([], [])
    """
    given, tiny = tiny, classifier_of_images() if tiny is None else tiny
    hooks = callback.step
    assert hooks is not None  # the caller asked
    seen = attrs.evolve(
        hooks,
        init=partial(_first_state, hooks.init),
        **{name: partial(_looked_at, name, getattr(hooks, name)) for name in hook_names(hooks)},
    )
    before = torch.get_rng_state()
    try:
        try:
            eager, _ = trained(attrs.evolve(callback, step=seen), tiny, compile=False)
        except _LawBroken as broken:
            if given is None and isinstance(broken.__cause__, ValueError):  # it may want another model
                return [], [_not_looked_at(callback, broken.__cause__)]
            return [Broken(broken.law, broken.sentence, f"{callback.key}: step hook {broken.hook}")], []
        except Exception as error:
            return [], [_not_looked_at(callback, error)]
        draws = _draws(callback, tiny)
        return _compiled(callback, tiny, eager, draws) if compile else ([], [])
    finally:
        torch.set_rng_state(before)


def _not_looked_at(callback: Callback[Any], error: BaseException) -> str:
    return f"the step half of {callback.key} was not looked at, pass `tiny=` with a model for it: {_said(error)}"


def _compiled(callback: Callback[Any], tiny: Tiny, eager: Any, draws: bool) -> tuple[list[Broken], list[str]]:
    with _warnings() as said:
        compiled, level = trained(callback, tiny, compile=True)
    if level != ONE_GRAPH:
        with _warnings():
            _, possible = trained(Callback(key="nothing"), tiny, compile=True)
        why = said[-1] if said else level
        if possible != ONE_GRAPH:
            return [], [f"the step half of {callback.key} was not compiled: {why}"]
        if level == EAGER or level != possible:
            hint = "A hook may not branch on a tensor's value: use torch.where"
            return [Broken(GRAPH, f"cannot be compiled into one graph: {why}. {hint}", f"{callback.key}: step")], []
    if draws:
        return [], [f"{callback.key} draws numbers, which are others when compiled: results were not compared"]
    name = differing(compiled, eager, **TOLERANCE)
    if name is None:
        return [], []
    pair = f"{compiled[name].tolist()} and not {eager[name].tolist()}"[:300]
    return [Broken(COMPILED, f"gives another {name} when compiled: {pair}", f"{callback.key}: step")], []


def trained(
    callback: Callback[Any] | Iterable[Callback[Any]], tiny: Tiny, *, compile: bool
) -> tuple[dict[str, Tensor], str]:
    """Tensors after training on the batches: parameters, buffers, states and each batch's metrics; and the level."""
    torch.manual_seed(0)
    model = tiny.model()
    turn = Turn(None, tiny.loss, torch.optim.SGD(model.parameters(), lr=tiny.lr, momentum=0.9))
    step = Step(model, [turn], compose(callback).step, torch.device("cpu"), compile)
    found: dict[str, Tensor] = {}
    for i, batch in enumerate(tiny.batches):
        for name, value in dict(step(batch)).items():
            found[f"{name} of batch {i}"] = torch.tensor(value)
    held = {**step.params, **step.buffers, **dict(leaves(step.states))}
    found |= {name: value.detach().clone() for name, value in held.items()}
    level = step.level
    step.close()
    return found, level


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor], *, rtol: float, atol: float) -> str | None:
    """The name of the first tensor that is not close to its like; None if all are."""
    for name, tensor in one.items():
        there = other.get(name)
        if there is None or not torch.allclose(tensor, there, rtol=rtol, atol=atol, equal_nan=True):
            return name
    return None


def _draws(callback: Callback[Any], tiny: Tiny) -> bool:
    """Whether torch's generator moves more than it does without the callback."""
    after = []
    for each in (callback, Callback(key="nothing")):
        trained(each, tiny, compile=False)
        after.append(torch.get_rng_state())
    return not torch.equal(*after)


def _first_state(init: Callable[[Any], Any], params: Any) -> Any:
    state = init(params)
    _must_be_tensors("init", state)
    return state


def _looked_at(name: str, hook: Callable[..., Any], state: Any, event: Any) -> Any:
    """Calls a step hook as the step does, and raises `_LawBroken` for what it may not do."""
    fields = {each: getattr(event, f"_{each}") for each in _LIVE if hasattr(event, f"_{each}")}
    before, kept = as_it_is((state, fields)), memory(hook)
    generator = torch.get_rng_state()
    try:
        out, seen = watched(hook, state, event)
    except Exception as error:
        raise _LawBroken(RUNS, name, f"raises {_said(error)}") from error
    drawn = not torch.equal(generator, torch.get_rng_state())
    for law, how in seen:
        if not (law == RANDOMNESS and drawn and "torch" in how):
            raise _LawBroken(law, name, how)
    if kept != (now := memory(hook)):
        changed = [what for what in now if now[what] != kept.get(what)]
        raise _LawBroken(HIDDEN, name, f"keeps something outside of its state: {', '.join(changed)} changed")
    if before != as_it_is((state, fields)):
        raise _LawBroken(INPUTS, name, "changes tensors that it is given, in place. Return new ones")
    new = out.state if type(out) is Emit else out
    if new is None:
        raise _LawBroken(RETURNS, name, "gives None. Return the state, or emit(state, ...)")
    if type(out) is Emit and out.effects:
        raise _LawBroken(RETURNS, name, f"emits {out.effects[0]!r}, which only host hooks may. Publish a metric")
    _must_be_tensors(name, new)
    _must_stay(name, state, new)
    return out


_LIVE = ("batch", "loss", "grads", "params", "activations", "buffers", "outputs")


def _must_be_tensors(hook: str, state: Any) -> None:
    for path, leaf in leaves(state):
        if not isinstance(leaf, Tensor):
            raise _LawBroken(TENSORS, hook, f"has {leaf!r} at {path!r} of its state, which is no tensor")


def _must_stay(hook: str, state: Any, new: Any) -> None:
    one, other = (
        {path: f"{tuple(leaf.shape)} of {leaf.dtype}" for path, leaf in leaves(tree)} for tree in (state, new)
    )
    if differs := unlike(one, other):
        raise _LawBroken(SHAPES, hook, f"changes the shapes or dtypes of its state at {differs[0]}")


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the step says in its log about a level that it cannot keep, which then is not printed."""
    log, said = logging.getLogger("fncb"), []
    was = log.filters[:]
    log.addFilter(lambda record: bool(said.append(record.getMessage())))
    try:
        yield said
    finally:
        log.filters[:] = was
