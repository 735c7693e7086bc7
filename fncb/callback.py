"""Callbacks: records of pure hooks, and their composition."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import attrs

from fncb import events as ev
from fncb.effects import Effect
from fncb.tree import leaves

if TYPE_CHECKING:
    from torch import Tensor

S = TypeVar("S")
E = TypeVar("E", bound=ev.Event)
Params: TypeAlias = "Mapping[str, Tensor]"


@attrs.frozen
class EmptyState:
    """The state of a callback that remembers nothing."""


@attrs.frozen
class Emit(Generic[S]):
    """What a hook returns when it wants something done: made by `emit`."""

    state: S
    effects: tuple[Effect, ...] = ()
    replaced: Mapping[str, Any] = attrs.field(factory=dict)


def emit(state: S, *effects: Effect, **replaced: Any) -> Emit[S]:
    """Returns new state together with what should be done.

    Args:
      state: the callback's new state.
      *effects: what a host hook asks for, in order.
      **replaced: what a step hook replaces or publishes: `batch`, `loss`, `grads` or `params` where its event has
        them, `metrics` (a mapping from name to 0-d tensor), and `skip`, a 0-d boolean tensor: where true, this batch
        leaves parameters, optimizer, buffers and every other callback's step state as they were.

    Example:
      >>> from fncb.effects import Stop
      >>> emit(3, Stop("enough"))
      Emit(state=3, effects=(Stop(reason='enough'),), replaced={})
    """
    return Emit(state, effects, replaced)


Hook: TypeAlias = "Callable[[S, E], S | Emit[S]] | None"


@attrs.frozen(kw_only=True)
class StepHooks(Generic[S]):
    """The half of a callback that runs inside the compiled step.

    A step hook has the signature of any hook, `(state, event) -> state` or `-> emit(state, ...)`. Its state is a tree
    of tensors whose shapes and dtypes never change; the event's counters are 0-d tensors. It may not branch on the
    value of a tensor (use `torch.where`), and it may draw from torch's default generator.

    Attributes:
      init: the first state, from the mapping of parameter name to tensor.
    """

    init: Callable[[Params], S]
    on_train_batch_start: Hook[S, ev.TrainBatchStart] = None
    on_before_backward: Hook[S, ev.BeforeBackward] = None
    on_after_backward: Hook[S, ev.AfterBackward] = None
    on_before_optimizer_step: Hook[S, ev.BeforeOptimizerStep] = None
    on_before_zero_grad: Hook[S, ev.BeforeZeroGrad] = None
    on_after_optimizer_step: Hook[S, ev.AfterOptimizerStep] = None
    on_train_batch_end: Hook[S, ev.TrainBatchEnd] = None

    def __new__(cls, **fields: Any) -> StepHooks[S]:
        _refuse_unknown(cls, "StepHooks", fields)
        return object.__new__(cls)

    def __attrs_post_init__(self) -> None:
        for name in ("init", *_hooks(self)):
            _must_be_callable("StepHooks", name, getattr(self, name))


@attrs.frozen(kw_only=True)
class Callback(Generic[S]):
    """An immutable record of pure hooks.

    A hook is `hook(state, event) -> state`, or `-> emit(state, *effects)`. It is given nothing else and changes
    nothing: no clock, no randomness, no files. One field per hook, each typed by the event that it hears.

    Attributes:
      key: names this callback's state in a composition and in a snapshot.
      init: gives the first state, a frozen record of plain data.
      step: the half that runs inside the compiled step.
      emits: the classes of effect that the hooks may return, checked when a run is set up and whenever one is
        returned; None leaves it open, and then only the run itself tells.
      config: the arguments it was made with, for logs and recordings; never restored.
      parts: the callbacks of a composition, None for a single callback.

    Raises:
      TypeError: for an unknown hook name or a hook that is not callable.

    Example:
      >>> count = Callback(key="count", init=int, on_train_batch_end=lambda state, event: state + 1)
      >>> count.transition(0, ev.TrainBatchEnd(step=1))
      (1, ())
      >>> Callback(key="typo", on_train_bacth_end=print)
      Traceback (most recent call last):
      TypeError: Callback 'typo': every field must be a hook, got on_train_bacth_end. Did you mean on_train_batch_end?
    """

    key: str
    init: Callable[[], S] = EmptyState  # type: ignore[assignment]
    step: StepHooks[Any] | None = None
    emits: tuple[type[Effect], ...] | None = None
    config: Mapping[str, Any] = attrs.field(factory=dict)
    parts: tuple[Callback[Any], ...] | None = attrs.field(default=None, repr=False)

    on_init_start: Hook[S, ev.InitStart] = None
    on_init_end: Hook[S, ev.InitEnd] = None
    setup: Hook[S, ev.Setup] = None
    on_configure_sharded_model: Hook[S, ev.ConfigureShardedModel] = None
    teardown: Hook[S, ev.Teardown] = None
    on_fit_start: Hook[S, ev.FitStart] = None
    on_fit_end: Hook[S, ev.FitEnd] = None
    on_sanity_check_start: Hook[S, ev.SanityCheckStart] = None
    on_sanity_check_end: Hook[S, ev.SanityCheckEnd] = None
    on_exception: Hook[S, ev.ExceptionRaised] = None
    on_keyboard_interrupt: Hook[S, ev.KeyboardInterrupted] = None
    on_stop_requested: Hook[S, ev.StopRequested] = None
    on_saved: Hook[S, ev.Saved] = None
    on_save_checkpoint: Hook[S, ev.SaveCheckpoint] = None
    on_load_checkpoint: Hook[S, ev.LoadCheckpoint] = None
    on_train_start: Hook[S, ev.TrainStart] = None
    on_train_end: Hook[S, ev.TrainEnd] = None
    on_epoch_start: Hook[S, ev.EpochStart] = None
    on_epoch_end: Hook[S, ev.EpochEnd] = None
    on_train_epoch_start: Hook[S, ev.TrainEpochStart] = None
    on_train_epoch_end: Hook[S, ev.TrainEpochEnd] = None
    on_train_batch_start: Hook[S, ev.TrainBatchStart] = None
    on_before_zero_grad: Hook[S, ev.BeforeZeroGrad] = None
    on_before_backward: Hook[S, ev.BeforeBackward] = None
    on_after_backward: Hook[S, ev.AfterBackward] = None
    on_before_optimizer_step: Hook[S, ev.BeforeOptimizerStep] = None
    on_after_optimizer_step: Hook[S, ev.AfterOptimizerStep] = None
    on_train_batch_end: Hook[S, ev.TrainBatchEnd] = None
    on_validation_start: Hook[S, ev.ValidationStart] = None
    on_validation_epoch_start: Hook[S, ev.ValidationEpochStart] = None
    on_validation_batch_start: Hook[S, ev.ValidationBatchStart] = None
    on_validation_batch_end: Hook[S, ev.ValidationBatchEnd] = None
    on_validation_epoch_end: Hook[S, ev.ValidationEpochEnd] = None
    on_validation_end: Hook[S, ev.ValidationEnd] = None
    on_test_start: Hook[S, ev.TestStart] = None
    on_test_epoch_start: Hook[S, ev.TestEpochStart] = None
    on_test_batch_start: Hook[S, ev.TestBatchStart] = None
    on_test_batch_end: Hook[S, ev.TestBatchEnd] = None
    on_test_epoch_end: Hook[S, ev.TestEpochEnd] = None
    on_test_end: Hook[S, ev.TestEnd] = None
    on_predict_start: Hook[S, ev.PredictStart] = None
    on_predict_epoch_start: Hook[S, ev.PredictEpochStart] = None
    on_predict_batch_start: Hook[S, ev.PredictBatchStart] = None
    on_predict_batch_end: Hook[S, ev.PredictBatchEnd] = None
    on_predict_epoch_end: Hook[S, ev.PredictEpochEnd] = None
    on_predict_end: Hook[S, ev.PredictEnd] = None

    _hooks: Mapping[type[ev.Event], Callable[[S, Any], Any]] = attrs.field(init=False, eq=False, repr=False)

    def __new__(cls, **fields: Any) -> Callback[S]:
        _refuse_unknown(cls, f"Callback {fields.get('key')!r}", fields)
        return object.__new__(cls)

    def __attrs_post_init__(self) -> None:
        who = f"Callback {self.key!r}"
        if not isinstance(self.key, str) or not self.key and self.parts is None:
            raise TypeError(f"{who}: key must be a name, got {self.key!r}. It names the saved state.")
        for name in ("init", *_hooks(self)):
            _must_be_callable(who, name, getattr(self, name))
        if self.step is not None and not isinstance(self.step, StepHooks):
            raise TypeError(f"{who}: step must be a StepHooks record, got {self.step!r}.")
        if self.parts is None:
            table = {ev.HOOKS[name]: partial(_heard, self, getattr(self, name)) for name in _hooks(self)}
        else:
            table = {ev.HOOKS[name]: partial(_fold, _listeners(self.parts, name)) for name in _hooks(self)}
        object.__setattr__(self, "_hooks", table)

    def __repr__(self) -> str:
        if self.parts is not None:
            return f"compose({', '.join(map(repr, self.parts))})"
        given = "".join(f", {name}={value!r}" for name, value in self.config.items())
        return f"Callback({self.key!r}{given})"

    def hears(self, event_type: type[ev.Event]) -> bool:
        """Whether any hook listens to an event."""
        return event_type in self._hooks

    def transition(self, state: S, event: ev.Event) -> tuple[S, tuple[Effect, ...]]:
        """The reducer: new state and the effects asked for, in order.

        An event that nobody hears returns the very same state object. When a hook raises, the exception goes on with
        a note that names callback, hook, epoch and step, and nothing of this event is kept.
        """
        hook = self._hooks.get(type(event))
        return (state, ()) if hook is None else hook(state, event)


def compose(*callbacks: Callback[Any] | Iterable[Callback[Any]]) -> Callback[Mapping[str, Any]]:
    """One callback made of many, run in the order given.

    Its state is a mapping from key to state. Nested compositions flatten, so `compose` is associative, and
    `compose()` is its identity.

    Args:
      *callbacks: callbacks, compositions or lists of them.

    Raises:
      ValueError: if two callbacks have the same key.
      TypeError: if something is not a callback.

    Example:
      >>> count = Callback(key="count", init=int, on_train_batch_end=lambda state, event: state + 1)
      >>> compose(count).transition({"count": 0}, ev.TrainBatchEnd(step=1))
      ({'count': 1}, ())
    """
    parts = tuple(part for callback in callbacks for part in _flat(callback))
    keys = [part.key for part in parts]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(
                f"compose: keys must be unique, got two callbacks with the key {key!r}. Keys name the saved state. "
                "Pass `key=` to one of them."
            )
    hooks = {name: _in_order(listeners) for name in ev.HOOKS if (listeners := _listeners(parts, name))}
    declared = [part.emits for part in parts]
    return Callback(
        key="compose",
        init=lambda: {part.key: part.init() for part in parts},
        step=_compose_steps([(part.key, part.step) for part in parts if part.step]),
        emits=None if None in declared else tuple(dict.fromkeys(effect for emits in declared for effect in emits or ())),
        parts=parts,
        **hooks,
    )


def _flat(callback: Callback[Any] | Iterable[Callback[Any]]) -> tuple[Callback[Any], ...]:
    if isinstance(callback, Callback):
        return (callback,) if callback.parts is None else callback.parts
    if isinstance(callback, list | tuple):
        return tuple(part for each in callback for part in _flat(each))
    hint = " It looks like a constructor that was not called: add `()`." if callable(callback) else ""
    raise TypeError(f"compose: everything must be a Callback, got {callback!r}.{hint}")


def _listeners(parts: tuple[Callback[Any], ...], name: str) -> tuple[tuple[Callback[Any], Any], ...]:
    return tuple((part, hook) for part in parts if (hook := getattr(part, name)))


def _in_order(listeners: tuple[tuple[Callback[Any], Any], ...]) -> Callable[[Any, Any], Emit[Any]]:
    return lambda states, event: Emit(*_fold(listeners, states, event))


def _fold(
    listeners: tuple[tuple[Callback[Any], Any], ...], states: Mapping[str, Any], event: ev.Event
) -> tuple[Mapping[str, Any], tuple[Effect, ...]]:
    after, effects = states, ()
    for part, hook in listeners:
        key = part.key
        state = states[key]
        new, asked = _heard(part, hook, state, event)
        if new is not state:
            if after is states:
                after = dict(states)
            after[key] = new
        if asked:
            effects += asked
    return after, effects


def _heard(part: Callback[Any], hook: Any, state: Any, event: ev.Event) -> tuple[Any, tuple[Effect, ...]]:
    try:
        out = hook(state, event)
        if type(out) is not Emit:
            if out is None:
                raise TypeError("a hook must return its state, got None. Return the state, or emit(state, ...).")
            return out, ()
        if out.state is None:
            raise TypeError("emit must be given the state first, got None. Write emit(state, ...).")
        if out.replaced:
            raise TypeError(f"a host hook must emit effects only, got {list(out.replaced)}. Those are for `step=`.")
        for effect in out.effects:
            if part.emits is not None and type(effect) not in part.emits:
                names = [kind.__name__ for kind in part.emits]
                raise TypeError(f"every effect must be declared, got {effect!r}. It has emits={names}. Add its class.")
            if not isinstance(effect, Effect):
                raise TypeError(f"emit must be given effects after the state, got {effect!r}.")
        return out.state, out.effects
    except BaseException as error:
        note(error, f"{part.key}: {ev.hook_name(type(event))} failed at epoch {event.epoch}, step {event.step}.")
        raise


def note(error: BaseException, text: str) -> None:
    """Adds a line to what an exception prints, as `BaseException.add_note` does since Python 3.11."""
    if sys.version_info >= (3, 11):
        error.add_note(text)
    else:
        error.__notes__ = [*getattr(error, "__notes__", ()), text]


def _compose_steps(parts: list[tuple[str, StepHooks[Any]]]) -> StepHooks[Any] | None:
    if not parts:
        return None
    hooks = {
        name: _in_step_order([(key, getattr(step, name)) for key, step in parts if getattr(step, name)], name)
        for name in map(ev.hook_name, ev.IN_STEP)
        if any(getattr(step, name) for _, step in parts)
    }

    def init(params: Params) -> dict[str, Any]:
        states = {key: step.init(params) for key, step in parts}
        for key, state in states.items():
            _must_be_tensors(key, "init", state)
        return states

    return StepHooks(init=init, **hooks)


def _in_step_order(listeners: list[tuple[str, Any]], name: str) -> Callable[[Any, Any], Emit[Any]]:
    """Runs step hooks in order: each sees what those before it replaced. `skip` is collected by key."""

    def hook(states: Mapping[str, Any], event: Any) -> Emit[Any]:
        states, replaced, metrics, skip = dict(states), {}, {}, {}
        for key, listener in listeners:
            who = f"{key}: step hook {name}"
            out = listener(states[key], event)
            out = out if type(out) is Emit else Emit(out)
            _same_tensors(who, states[key], out.state)
            if out.effects:
                raise TypeError(f"{who} must not return effects, got {out.effects[0]!r}. Publish a metric instead.")
            given = dict(out.replaced)
            published = given.pop("metrics", {})
            for metric, value in published.items():
                _must_be_tensors(who, f"metric {metric!r}", value)
                if metric in metrics or metric in event_metrics(event):
                    raise ValueError(f"{who} publishes {metric!r}, got that name twice. Give one of them another name.")
            metrics.update(published)
            if "skip" in given:
                skip[key] = given.pop("skip")
            for field, value in given.items():
                _replaceable(who, event, field, value)
            replaced.update(given)
            event = attrs.evolve(event, **given) if given else event
            states[key] = out.state
        return emit(states, metrics=metrics, skip=skip, **replaced)

    hook.__name__ = name
    return hook


def event_metrics(event: Any) -> Mapping[str, Any]:
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
    if field != "batch":
        _same_tensors(f"{who}, replacing {field},", getattr(event, field), value)


def _must_be_tensors(who: str, what: str, tree: Any) -> None:
    for path, leaf in leaves(tree):
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "data_ptr"):
            where = f" at {path!r}" if path else ""
            raise TypeError(f"{who}: {what} must hold tensors only, got {leaf!r}{where}. Make it a tensor, or keep it on the host.")


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


def _hooks(record: Callback[Any] | StepHooks[Any]) -> list[str]:
    return [name for name in ev.HOOKS if getattr(record, name, None) is not None]


def _must_be_callable(who: str, name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{who}: {name} must be a function, got {value!r}.")


def _refuse_unknown(cls: type, who: str, fields: Mapping[str, Any]) -> None:
    known = [field.name for field in attrs.fields(cls) if field.init]
    for name in fields:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else f" There are {', '.join(known)}."
            raise TypeError(f"{who}: every field must be a hook, got {name}.{hint}")
