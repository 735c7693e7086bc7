"""Callbacks: records of pure hooks, and their composition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Generic

import attrs
from toolz import concat, frequencies, unique

from fncb import events as ev
from fncb.effects import Effect
from fncb.emitting import Emit as Emit
from fncb.emitting import EmptyState as EmptyState
from fncb.emitting import Hook, S
from fncb.emitting import emit as emit
from fncb.fields import hook_names, must_be_callable, refuse_unknown
from fncb.notes import note as note
from fncb.notes import note_hook
from fncb.step_hooks import StepHooks as StepHooks
from fncb.step_hooks import compose_step_hooks


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
      constructor: the name of the built-in that made it; empty for one made by hand.
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
    init: Callable[[], S] = EmptyState  # pyright: ignore[reportAssignmentType] - so that S is EmptyState without `init`
    step: StepHooks[Any] | None = None
    emits: tuple[type[Effect], ...] | None = None
    constructor: str = attrs.field(default="", repr=False)
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
    on_step_compiled: Hook[S, ev.StepCompiled] = None
    on_probed: Hook[S, ev.Probed] = None
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
        """Refuses unknown fields before `__init__` does, with a better message."""
        refuse_unknown(cls, f"Callback {fields.get('key')!r}", fields)
        return object.__new__(cls)

    def __attrs_post_init__(self) -> None:
        who = f"Callback {self.key!r}"
        if not isinstance(self.key, str) or (not self.key and self.parts is None):
            raise TypeError(f"{who}: key must be a name, got {self.key!r}. It names the saved state.")
        for name in ("init", *hook_names(self)):
            must_be_callable(who, name, getattr(self, name))
        if self.step is not None and not isinstance(self.step, StepHooks):
            raise TypeError(f"{who}: step must be a StepHooks record, got {self.step!r}.")
        if self.parts is None:
            table = {ev.HOOKS[name]: partial(_heard, self, getattr(self, name)) for name in hook_names(self)}
        else:
            table = {ev.HOOKS[name]: partial(_fold, _listeners(self.parts, name)) for name in hook_names(self)}
        object.__setattr__(self, "_hooks", table)

    def __repr__(self) -> str:
        if self.parts is not None:
            return f"compose({', '.join(map(repr, self.parts))})"
        given = "".join(f", {name}={value!r}" for name, value in self.config.items())
        return f"Callback({self.key!r}{given})"

    def hears(self, kind: type[ev.Event]) -> bool:
        """Whether any hook listens to an event."""
        return kind in self._hooks

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
    parts = tuple(concat(map(_flat, callbacks)))
    for key, times in frequencies(part.key for part in parts).items():
        if times > 1:
            raise ValueError(
                f"compose: keys must be unique, got two callbacks with the key {key!r}. Keys name the saved state. "
                "Pass `key=` to one of them."
            )
    hooks: dict[str, Any] = {name: _in_order(listeners) for name in ev.HOOKS if (listeners := _listeners(parts, name))}
    declared = [part.emits for part in parts]
    return Callback(
        key="compose",
        init=lambda: {part.key: part.init() for part in parts},
        step=compose_step_hooks([(part.key, part.step) for part in parts if part.step]),
        emits=None if None in declared else tuple(unique(concat(declared))),
        parts=parts,
        **hooks,
    )


def _flat(callback: Callback[Any] | Iterable[Callback[Any]]) -> tuple[Callback[Any], ...]:
    if isinstance(callback, Callback):
        return (callback,) if callback.parts is None else callback.parts
    if isinstance(callback, list | tuple):
        return tuple(concat(map(_flat, callback)))
    hint = " It looks like a constructor that was not called: add `()`." if callable(callback) else ""
    raise TypeError(f"compose: everything must be a Callback, got {callback!r}.{hint}")


def _listeners(parts: tuple[Callback[Any], ...], name: str) -> tuple[tuple[Callback[Any], Any], ...]:
    return tuple((part, hook) for part in parts if (hook := getattr(part, name)))


def _in_order(listeners: tuple[tuple[Callback[Any], Any], ...]) -> Callable[[Any, Any], Emit[Any]]:
    return lambda states, event: Emit(*_fold(listeners, states, event))


def _fold(
    listeners: tuple[tuple[Callback[Any], Any], ...], states: Mapping[str, Any], event: ev.Event
) -> tuple[Mapping[str, Any], tuple[Effect, ...]]:
    changed: dict[str, Any] | None = None
    effects: tuple[Effect, ...] = ()
    for part, hook in listeners:
        state = states[part.key]
        new, asked = _heard(part, hook, state, event)
        if new is not state:
            if changed is None:
                changed = dict(states)
            changed[part.key] = new
        if asked:
            effects += asked
    return (states if changed is None else changed), effects


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
        return out.state, tuple([attrs.evolve(effect, key=part.key) for effect in out.effects])
    except BaseException as error:
        note_hook(error, part.key, ev.hook_name(type(event)), event)
        raise
