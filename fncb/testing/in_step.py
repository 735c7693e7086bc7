"""The laws of the step half: what its hooks do to a tiny model, eagerly and compiled."""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
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

_EAGER_LAWS = LAWS[:-2]

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
"""How far compiled results may be from eager ones."""


class _DoesNotFit(Exception):
    """What the callback and the tiny model do not agree on; its cause is what was raised."""


class _LawBroken(Exception):
    def __init__(self, law: str, hook: str, sentence: str):
        super().__init__(sentence)
        self.law, self.hook, self.sentence = law, hook, sentence


def broken_laws(
    callback: Callback[Any], tiny: Tiny | None = None, *, compile: bool = True
) -> tuple[list[Broken], list[str], tuple[str, ...]]:
    """The laws that the step half of one callback breaks on a tiny model, notes, and the laws that were looked at.

    What is raised is taken apart by where it comes from. The callback's own functions: a law is broken, unless another
    model may be wanted. The model's loss, or the step before any hook was heard: the two do not fit, and nothing was
    looked at. Anything after that: the step cannot do what a hook asks for, and a law is broken.

    Example:
      >>> from fncb.callbacks import ema
      >>> broken_laws(ema(0.5), compile=False)[:2]
      ([], [])
    """
    before = torch.get_rng_state()
    try:
        fits = classifier_of_images() if tiny is None else tiny
        heard: list[str] = []
        try:
            eager, _ = trained(_looked_into(callback, heard), _telling(fits), compile=False)
        except _LawBroken as broken:
            cause = broken.__cause__
            if tiny is None and isinstance(cause, _MAY_WANT_ANOTHER):
                return _not_looked_at(callback, tiny, cause)
            where, sentence = f"{callback.key}: step hook {broken.hook}", broken.sentence
            if tiny is None and cause is not None:
                sentence = f"{sentence.rstrip('.')}. If it wants another model, pass `tiny=`"
            return [Broken(broken.law, sentence, where)], [], _EAGER_LAWS
        except Exception as error:
            if isinstance(error, _DoesNotFit) or not heard or not _can_be_trained(fits):
                return _not_looked_at(callback, tiny, error.__cause__ or error)
            where = f"{callback.key}: step hook {heard[-1]}"
            return [Broken(RETURNS, f"gives what no run can carry out: {_said(error)}", where)], [], _EAGER_LAWS
        return _compiled(callback, fits, eager, _draws(callback, fits)) if compile else ([], [], _EAGER_LAWS)
    finally:
        torch.set_rng_state(before)


_MAY_WANT_ANOTHER = (ValueError, LookupError)
"""Raised by hooks that refuse a model or batch, or look for a name that it does not have."""


def _not_looked_at(
    callback: Callback[Any], tiny: Tiny | None, error: BaseException
) -> tuple[list[Broken], list[str], tuple[str, ...]]:
    why, other = _said(error).rstrip("."), "" if tiny is None else "another "
    note = f"the step half of {callback.key} was not looked at: {why}; pass {other}`tiny=` with a model for it"
    return [], [note], ()


def _telling(tiny: Tiny) -> Tiny:
    """The same, but what its loss raises can be told from what the step does."""

    def loss(model: Any, batch: Any) -> Any:
        try:
            return tiny.loss(model, batch)
        except Exception as error:
            raise _DoesNotFit from error

    return attrs.evolve(tiny, loss=loss)


def _can_be_trained(tiny: Tiny) -> bool:
    try:
        trained(Callback(key="nothing"), tiny, compile=False)
    except Exception:  # whatever it is, it is not the callback's
        return False
    return True


def _compiled(
    callback: Callback[Any], tiny: Tiny, eager: Any, draws: bool
) -> tuple[list[Broken], list[str], tuple[str, ...]]:
    with _warnings() as said:
        compiled, level = trained(callback, tiny, compile=True)
    if level != ONE_GRAPH:
        with _warnings():
            _, possible = trained(Callback(key="nothing"), tiny, compile=True)
        why = said[-1] if said else level
        if possible != ONE_GRAPH:
            return [], [f"the step half of {callback.key} was not compiled: {why}"], _EAGER_LAWS
        if level == EAGER or level != possible:
            hint = "A hook may not branch on a tensor's value: use torch.where"
            sentence = f"cannot be compiled into one graph: {why}. {hint}"
            return [Broken(GRAPH, sentence, f"{callback.key}: step")], [], (*_EAGER_LAWS, GRAPH)
    if draws:
        note = f"{callback.key} draws numbers, which are others when compiled: results were not compared"
        return [], [note], (*_EAGER_LAWS, GRAPH)
    name = differing(compiled, eager, **TOLERANCE)
    if name is None:
        return [], [], LAWS
    pair = f"{compiled[name].tolist()} and not {eager[name].tolist()}"[:300]
    return [Broken(COMPILED, f"gives another {name} when compiled: {pair}", f"{callback.key}: step")], [], LAWS


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


def _looked_into(callback: Callback[Any], heard: list[str]) -> Callback[Any]:
    """The same, but what its step half does is looked at; names of its hooks are put into `heard` as they are called.

    Its functions raise `_LawBroken` for what they may not do.
    """
    hooks = callback.step
    assert hooks is not None  # the caller asked
    seen: dict[str, Any] = {name: partial(_looked_at, heard, name, getattr(hooks, name)) for name in hook_names(hooks)}
    if hooks.around_gradient is not None:
        seen["around_gradient"] = partial(_around, heard, hooks.around_gradient)
    return attrs.evolve(callback, step=attrs.evolve(hooks, init=partial(_first_state, hooks.init), **seen))


def _first_state(init: Callable[[Any], Any], params: Any) -> Any:
    try:
        state = init(params)
    except _MAY_WANT_ANOTHER as error:
        raise _DoesNotFit from error
    except Exception as error:
        raise _LawBroken(RUNS, "init", f"raises {_said(error)}") from error
    _must_be_tensors("init", state)
    return state


def _around(heard: list[str], around: Callable[..., Any], gradient: Any, params: Any) -> Any:
    heard.append("around_gradient")
    kept, of_step = memory(around), []

    def inner(there: Any) -> Any:
        try:
            return gradient(there)
        except Exception as error:
            of_step.append(error)
            raise

    try:
        grads = around(inner, params)
    except Exception as error:
        if any(error is each for each in of_step):
            raise
        raise _LawBroken(RUNS, "around_gradient", f"raises {_said(error)}") from error
    _must_not_remember("around_gradient", kept, memory(around))
    return grads


def _looked_at(heard: list[str], name: str, hook: Callable[..., Any], state: Any, event: Any) -> Any:
    heard.append(name)
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
    _must_not_remember(name, kept, memory(hook))
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


def _must_not_remember(hook: str, kept: dict[str, Any], now: dict[str, Any]) -> None:
    if kept != now:
        changed = [what for what in now if now[what] != kept.get(what)]
        raise _LawBroken(HIDDEN, hook, f"keeps something outside of its state: {', '.join(changed)} changed")


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
def _warnings() -> Generator[list[str]]:
    """What the step says in its log about a level that it cannot keep, which then is not printed."""
    log, said = logging.getLogger("fncb"), []
    was = log.filters[:]
    log.addFilter(lambda record: bool(said.append(record.getMessage())))
    try:
        yield said
    finally:
        log.filters[:] = was
