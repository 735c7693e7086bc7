"""The half of a callback that runs inside the compiled step, and its composition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

import attrs

from fncb import events as ev
from fncb.emitting import Emit, Hook, S
from fncb.fields import hook_names, must_be_callable, refuse_unknown
from fncb.notes import note_hook
from fncb.tree import leaves

if TYPE_CHECKING:
    from torch import Tensor

Params: TypeAlias = "Mapping[str, Tensor]"
Gradient: TypeAlias = "Callable[[Params], Params]"
"""Given parameters by name, the gradients of the batch's loss at them, by name."""


class NamedParams(dict[str, Any]):
    """Parameters by name, as callbacks are given them.

    Attributes:
      buffers: the model's buffers by name.
      frozen: names of parameters that are not trained now, and not here.
    """

    buffers: Params
    frozen: tuple[str, ...]

    def __init__(self, params: Params, buffers: Params, frozen: tuple[str, ...] = ()):
        super().__init__(params)
        self.buffers, self.frozen = buffers, frozen


@attrs.frozen(kw_only=True)
class StepHooks(Generic[S]):
    """The half of a callback that runs inside the compiled step.

    A step hook has the signature of any hook, `(state, event) -> state` or `-> emit(state, ...)`. Its state is a tree
    of tensors whose shapes and dtypes never change; the event's counters are 0-d tensors. It may not branch on the
    value of a tensor (use `torch.where`), and it may draw from torch's default generator. What is kept for a parameter
    should be kept under its name: when `Freeze` or `Unfreeze` changes what is trained, `init` is called again, and what
    has the same path as before keeps its value.

    Attributes:
      init: the first state, from the mapping of parameter name to tensor, which has the buffers' as its attribute
        `buffers`.
      around_gradient: `around_gradient(gradient, params)` gives the gradients of the batch by name, as
        `gradient(params)` does by itself; it may call `gradient` at other parameters too. The loss and the metrics that
        are kept are those of the first call. Of several, the first one given is the outermost. It is traced by
        torch.compile as it stands: code over mappings of tensors.
      watch: shell patterns of the names of submodules whose outputs `on_after_backward` is given as `activations`.
      reads_model: whether `on_train_batch_end` is given the model, as `event.model`: in eval mode, with its weights as
        they are then, to be called and not to be changed. Frozen parameters become inputs of the graph then.
      lasts: whether the state stays as it is at a `Rollback`, as what the host half remembers does.
      resting: of a composition, the keys of those who only keep tensors: no hook of theirs is in the step.
      lasting: of a composition, the keys of those whose state lasts.
    """

    init: Callable[[Params], S]
    around_gradient: Callable[[Gradient, Params], Params] | None = None
    watch: tuple[str, ...] = ()
    reads_model: bool = False
    lasts: bool = False
    resting: frozenset[str] = frozenset()
    lasting: frozenset[str] = frozenset()
    on_train_batch_start: Hook[S, ev.TrainBatchStart] = None
    on_before_backward: Hook[S, ev.BeforeBackward] = None
    on_after_backward: Hook[S, ev.AfterBackward] = None
    on_before_optimizer_step: Hook[S, ev.BeforeOptimizerStep] = None
    on_before_zero_grad: Hook[S, ev.BeforeZeroGrad] = None
    on_after_optimizer_step: Hook[S, ev.AfterOptimizerStep] = None
    on_train_batch_end: Hook[S, ev.TrainBatchEnd] = None

    def __new__(cls, **fields: Any) -> StepHooks[S]:
        """Refuses unknown fields before `__init__` does, with a better message."""
        refuse_unknown(cls, "StepHooks", fields)
        return object.__new__(cls)

    def __attrs_post_init__(self) -> None:
        for name in ("init", *hook_names(self)):
            must_be_callable("StepHooks", name, getattr(self, name))
        if self.around_gradient is not None:
            must_be_callable("StepHooks", "around_gradient", self.around_gradient)
        if isinstance(self.watch, str):
            raise TypeError(
                f"StepHooks: watch must be a tuple of patterns, got {self.watch!r}. Write ({self.watch!r},)."
            )


def compose_step_hooks(parts: list[tuple[str, StepHooks[Any]]]) -> StepHooks[Any] | None:
    """The step hooks of several callbacks as one, their states by key; None if there are none."""
    if not parts:
        return None
    hooks: dict[str, Any] = {
        name: _in_step_order([(key, getattr(step, name)) for key, step in parts if getattr(step, name)], name)
        for name in map(ev.hook_name, ev.IN_STEP)
        if any(getattr(step, name) for _, step in parts)
    }

    def init(params: Params) -> dict[str, Any]:
        states = {key: step.init(params) for key, step in parts}
        for key, state in states.items():
            _must_be_tensors(key, "init", state)
        return states

    return StepHooks(
        init=init,
        around_gradient=_nested([(key, step.around_gradient) for key, step in parts if step.around_gradient]),
        watch=tuple(pattern for _, step in parts for pattern in step.watch),
        reads_model=any(step.reads_model for _, step in parts),
        resting=frozenset(key for key, step in parts if not hook_names(step)),
        lasting=frozenset(key for key, step in parts if step.lasts),
        **hooks,
    )


AroundGradient: TypeAlias = "Callable[[Gradient, Params], Params]"


def _nested(arounds: list[tuple[str, AroundGradient]]) -> AroundGradient | None:
    """Functions around the gradient as one, the first one outermost; None if there are none."""
    if not arounds:
        return None

    def around_gradient(gradient: Gradient, params: Params) -> Params:
        for key, around in reversed(arounds):
            gradient = partial(_around, f"{key}: around_gradient", around, gradient)
        return gradient(params)

    return around_gradient


def _around(who: str, around: AroundGradient, gradient: Gradient, params: Params) -> Params:
    """One of them, what it gives checked; torch.compile traces this as it stands."""
    made: list[Params] = []

    def checked(there: Params) -> Params:
        _same_named(f"{who} must call gradient with the parameters", params, there)
        made.append(gradient(there))
        return made[-1]

    grads = around(checked, params)
    if not made:
        raise ValueError(f"{who} must call gradient, got no call. Return gradient(params) to change nothing.")
    _same_named(f"{who} must give the gradients", made[0], grads)
    return grads


def _same_named(who: str, like: Params, given: Params) -> None:
    if sorted(given) != sorted(like):
        raise ValueError(f"{who} of {list(like)}, got those of {list(given)}.")
    for name, tensor in like.items():
        was, now = (tuple(tensor.shape), tensor.dtype), (tuple(given[name].shape), given[name].dtype)
        if was != now:
            raise ValueError(f"{who} in their shapes and dtypes, got {now} instead of {was} for {name!r}.")


def _in_step_order(listeners: list[tuple[str, Any]], name: str) -> Callable[[Any, Any], Emit[Any]]:
    """Runs step hooks in order: each sees what those before it replaced. `skip` is collected by key."""

    def hook(states: Mapping[str, Any], event: Any) -> Emit[Any]:
        states, replaced, metrics, skip = dict(states), {}, {}, {}
        for key, listener in listeners:
            who = f"{key}: step hook {name}"
            try:
                out = listener(states[key], event)
            except BaseException as error:
                note_hook(error, key, f"step hook {name}", event)
                error.__dict__[_RAISED_IN] = (key, name)
                raise
            out = out if type(out) is Emit else Emit(out)
            _same_tensors(who, states[key], out.state)
            if out.effects:
                raise TypeError(f"{who} must not return effects, got {out.effects[0]!r}. Publish a metric instead.")
            given = dict(out.replaced)
            published = given.pop("metrics", {})
            for metric, value in published.items():
                _must_be_tensors(who, f"metric {metric!r}", value)
                if metric in metrics or metric in _event_metrics(event):
                    raise ValueError(f"{who} publishes {metric!r}, got that name twice. Give one of them another name.")
            metrics.update(published)
            if "skip" in given:
                if type(event) not in _SKIPPABLE:
                    raise TypeError(
                        f"{who} must not skip, got it. That is for on_after_backward and on_before_optimizer_step."
                    )
                skip[key] = given.pop("skip")
            for field, value in given.items():
                _replaceable(who, event, field, value)
            replaced.update(given)
            event = attrs.evolve(event, **given) if given else event
            states[key] = out.state
        return Emit(states, (), {"metrics": metrics, "skip": skip, **replaced})

    hook.__name__ = name
    return hook


def raised_in(error: BaseException) -> tuple[str, str] | None:
    """Key and name of the step hook that an exception came from, if it came from one."""
    return error.__dict__.get(_RAISED_IN)


_RAISED_IN = "fncb_step_hook"
"""Where an exception keeps that: what torch.compile raises instead of it still leads to it."""

_SKIPPABLE = (ev.AfterBackward, ev.BeforeOptimizerStep)
"""Events at which a batch or an update can be left out."""


def _event_metrics(event: Any) -> Mapping[str, Any]:
    """The metrics that an event carries, none for one without that field."""
    return getattr(event, "metrics", {})


_REPLACEABLE = {
    ev.TrainBatchStart: "batch",
    ev.BeforeBackward: "loss",
    ev.AfterBackward: "grads",
    ev.BeforeOptimizerStep: "grads",
    ev.AfterOptimizerStep: "params",
}


def _replaceable(who: str, event: Any, field: str, value: Any) -> None:
    allowed = _REPLACEABLE.get(type(event))
    if field != allowed:
        raise TypeError(f"{who} may replace {allowed or 'nothing'}, got {field!r}. It may also give metrics and skip.")
    if field == "batch":
        before, after = ([path for path, _ in leaves(batch)] for batch in (event.batch, value))
        if before != after:
            raise TypeError(f"{who}, replacing batch, must keep its structure {before}, got {after}.")
    else:
        _same_tensors(f"{who}, replacing {field},", getattr(event, field), value)


def _must_be_tensors(who: str, what: str, tree: Any) -> None:
    for path, leaf in leaves(tree):
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "data_ptr"):
            where = f" at {path!r}" if path else ""
            raise TypeError(
                f"{who}: {what} must hold tensors only, got {leaf!r}{where}. Make it a tensor, or keep it on the host."
            )


def _same_tensors(who: str, old: Any, new: Any) -> None:
    if new is None and old is not None:
        raise TypeError(f"{who} must return its state, got None. Return the state, or emit(state, ...).")
    _must_be_tensors(who, "what it returns", new)
    before, after = dict(leaves(old)), dict(leaves(new))
    if before.keys() != after.keys():
        raise TypeError(f"{who} must keep the structure {list(before)}, got {list(after)}.")
    for path, leaf in before.items():
        was, now = (tuple(leaf.shape), leaf.dtype), (tuple(after[path].shape), after[path].dtype)
        if was != now:
            where = f" of {path!r}" if path else ""
            raise TypeError(f"{who} must keep shape and dtype{where}, got {now} instead of {was}. Convert the result.")
