"""A callback made of functions, each for the hook that it is named after."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from fncb.callback import Callback, EmptyState, emit
from fncb.effects import Effect
from fncb.events import Event
from fncb.fields import hook_called, must_be_callable


def on(
    *,
    init: Callable[[], Any] = EmptyState,
    emits: tuple[type[Effect], ...] | None = None,
    key: str = "on",
    **functions: Callable[[Any], Any] | Callable[[Any, Any], Any],
) -> Callback[Any]:
    """A callback made of functions, each for the hook that it is named after.

    A function with two parameters, `f(state, event)`, is a hook as any other and returns state or `emit(state, ...)`.
    One with a single parameter, or with any number of them such as `print`, is given the event and returns None, an
    effect or several; the state stays as it is. A parameter that has a default does not count. What was recorded of a
    run replays exactly only if the functions are pure.

    Args:
      init: gives the first state, for functions with two parameters; by default there is none.
      emits: the classes of effect that the functions may return, checked when a run is set up; None leaves it open.
      key: names the state.
      **functions: by the names of hooks, with or without `on_`: `train_end=f`, `on_train_end=f`, `setup=f`.

    Returns:
      A `Callback` with the state that `init` gives.

    Raises:
      ValueError: for a hook that does not exist, with the one that was probably meant, or one that is given twice.
      TypeError: for something that is no function, or one with more parameters; from a run, for a function of the event
        that returns something else than effects.

    Example:
      >>> from fncb.effects import Stop
      >>> from fncb.events import TrainBatchEnd
      >>> stop = on(train_batch_end=lambda event: Stop("enough") if event.step == 3 else None)
      >>> [stop.transition(stop.init(), TrainBatchEnd(step=step))[1] for step in (2, 3)]
      [(), (Stop(reason='enough'),)]
      >>> count = on(init=int, train_batch_end=lambda state, event: state + 1)
      >>> count.transition(0, TrainBatchEnd())
      (1, ())

    Known as:
      `LambdaCallback` in Lightning and Keras, `Lambda` in TorchTNT.
    """
    hooks: dict[str, Any] = {}
    config: dict[str, str] = {}
    for name, function in functions.items():
        hook = hook_called("on", name)
        must_be_callable("on", name, function)
        if hook in hooks:
            raise ValueError(f"on: each hook must be given once, got {hook} with and without `on_`.")
        hooks[hook] = function if _takes_state(name, function) else _of_event(name, function)
        config[hook] = getattr(function, "__qualname__", type(function).__name__)
    return Callback(constructor="on", key=key, init=init, emits=emits, config=config, **hooks)


def _takes_state(name: str, function: Callable[..., Any]) -> bool:
    """Whether it is a function of state and event, and not of the event alone."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of something written in C that does not tell
        return False
    required = [
        each
        for each in signature.parameters.values()
        if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) == 2:
        return True
    try:
        signature.bind(None)
    except TypeError:
        raise TypeError(f"on: {name} must have the parameters (state, event) or (event), got {signature}.") from None
    return False


def _of_event(name: str, function: Callable[..., Any]) -> Any:
    """A hook that asks for what a function of the event returns."""

    def hook(state: Any, event: Event) -> Any:
        asked = function(event)
        if asked is None:
            return state
        effects = tuple(asked) if isinstance(asked, Iterable) else (asked,)
        if not all(isinstance(each, Effect) for each in effects):
            raise TypeError(
                f"on: {name} must return None, an effect or several, got {asked!r}. Give it two parameters, "
                "(state, event), to return state."
            )
        return emit(state, *effects) if effects else state

    return hook
