"""When a callback is to be heard: pure predicates on events, and what restricts a callback to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import attrs

from fncb import events as ev
from fncb.callback import Callback, Emit, StepHooks, compose
from fncb.emitting import S
from fncb.fields import hook_names
from fncb.tree import map_leaves

_UNITS = {"steps": "step", "epochs": "epoch", "seconds": "seconds"}

_ALWAYS = frozenset(
    (
        *(ev.InitStart, ev.InitEnd, ev.Setup, ev.ConfigureShardedModel, ev.Teardown, ev.FitStart, ev.FitEnd),
        *(ev.SanityCheckStart, ev.SanityCheckEnd, ev.ExceptionRaised, ev.KeyboardInterrupted, ev.StopRequested),
        *(ev.StepCompiled, ev.Probed, ev.Saved, ev.SaveCheckpoint, ev.LoadCheckpoint, ev.TrainStart, ev.TrainEnd),
    )
)
"""Events of a run as a whole, and answers: a callback that missed them would not know where it is."""


@attrs.frozen
class Predicate:
    """A question about an event; combined with `&`, `|` and `~`.

    Attributes:
      name: the expression that made it.
      holds: the answer for an event, whose `step` and `epoch` are tensors inside the compiled step.
      in_step: whether it can be asked there, where no time is known.
    """

    name: str
    holds: Callable[[Any], Any] = attrs.field(repr=False, eq=False)
    in_step: bool = True

    def __call__(self, event: Any) -> Any:
        """Whether it holds for an event."""
        return self.holds(event)

    def __and__(self, other: Predicate) -> Predicate:
        return _both(self, other, "&", lambda event: self.holds(event) & other.holds(event))

    def __or__(self, other: Predicate) -> Predicate:
        return _both(self, other, "|", lambda event: self.holds(event) | other.holds(event))

    def __invert__(self) -> Predicate:
        return Predicate(f"~{self.name}", lambda event: self.holds(event) ^ True, self.in_step)  # `not` takes no tensor

    def __bool__(self) -> bool:
        raise TypeError(f"{self.name}: it must be combined with &, | or ~, got and, or, not, or a condition.")

    def __repr__(self) -> str:
        return self.name


def _both(one: Predicate, other: Any, sign: str, holds: Callable[[Any], Any]) -> Predicate:
    if not isinstance(other, Predicate):
        raise TypeError(
            f"{one!r} {sign}: it must be combined with a predicate such as every(steps=100), got {other!r}."
        )
    return Predicate(f"({one.name} {sign} {other.name})", holds, one.in_step and other.in_step)


def every(*, steps: int | None = None, epochs: int | None = None) -> Predicate:
    """Holds for every n-th step or epoch.

    Args:
      steps: 1 or more: holds when the number of optimizer steps made is a multiple of it, and not 0.
      epochs: 1 or more: holds in each n-th epoch: of `epochs=2`, in those with the 0-based numbers 1, 3, 5, ....

    Raises:
      TypeError: unless exactly one of them is given.
      ValueError: if it is out of range.

    Example:
      >>> from fncb.events import TrainBatchEnd
      >>> [step for step in range(7) if every(steps=3)(TrainBatchEnd(step=step))]
      [3, 6]
    """
    unit, n = _one("every", steps=steps, epochs=epochs)
    if type(n) is not int or n < 1:
        raise ValueError(f"every: {unit} must be 1 or more, got {n!r}.")
    if unit == "epochs":
        return Predicate(f"every(epochs={n})", lambda event: (event.epoch + 1) % n == 0)
    return Predicate(f"every(steps={n})", lambda event: (event.step % n == 0) & (event.step > 0))


def after(*, steps: int | None = None, epochs: int | None = None, seconds: float | None = None) -> Predicate:
    """Holds once so much is done.

    Args:
      steps: 0 or more: once so many optimizer steps are made.
      epochs: 0 or more: once so many epochs are over.
      seconds: 0 or more: once the run has taken so long, its resumes summed up; not inside the compiled step.

    Raises:
      TypeError: unless exactly one of them is given.
      ValueError: if it is out of range.

    Example:
      >>> from fncb.events import ValidationEnd
      >>> [epoch for epoch in range(5) if after(epochs=3)(ValidationEnd(epoch=epoch))]
      [3, 4]
    """
    unit, n = _one("after", steps=steps, epochs=epochs, seconds=seconds)
    return _from("after", unit, n)


def first(*, steps: int | None = None, epochs: int | None = None, seconds: float | None = None) -> Predicate:
    """Holds as long as less than that is done: the opposite of `after`, with its arguments and errors.

    Example:
      >>> from fncb.events import TrainBatchStart
      >>> [step for step in range(5) if first(steps=2)(TrainBatchStart(step=step))]
      [0, 1]
    """
    unit, n = _one("first", steps=steps, epochs=epochs, seconds=seconds)
    later = _from("first", unit, n)
    return Predicate(f"first({unit}={n})", (~later).holds, later.in_step)


def between(
    *,
    steps: tuple[int, int] | None = None,
    epochs: tuple[int, int] | None = None,
    seconds: tuple[float, float] | None = None,
) -> Predicate:
    """Holds from the first of two numbers on, and no longer once the second is reached, as with `range`.

    Args:
      steps, epochs, seconds: two numbers, 0 or more, the second not less than the first; units as for `after`.

    Raises:
      TypeError: unless exactly one of them is given, as a pair.
      ValueError: if it is out of range.

    Example:
      >>> from fncb.events import TrainBatchStart
      >>> [step for step in range(9) if between(steps=(2, 5))(TrainBatchStart(step=step))]
      [2, 3, 4]
    """
    unit, pair = _one("between", steps=steps, epochs=epochs, seconds=seconds)
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise TypeError(f"between: {unit} must be a pair such as (10, 20), got {pair!r}.")
    begin, end = pair
    inside = _from("between", unit, begin) & ~_from("between", unit, end)
    if end < begin:
        raise ValueError(f"between: {unit} must not end before they begin, got {pair!r}.")
    return Predicate(f"between({unit}={(begin, end)})", inside.holds, inside.in_step)


def _one(who: str, **given: Any) -> tuple[str, Any]:
    """The one argument that is not None, with its name."""
    there = [(unit, n) for unit, n in given.items() if n is not None]
    if len(there) != 1:
        names = " or ".join(given)
        raise TypeError(f"{who}: exactly one of {names} must be given, got {[unit for unit, _ in there]}.")
    return there[0]


def _from(who: str, unit: str, n: Any) -> Predicate:
    kinds = (int, float) if unit == "seconds" else (int,)
    if isinstance(n, bool) or not isinstance(n, kinds) or not n >= 0:
        raise ValueError(f"{who}: {unit} must be 0 or more, got {n!r}.")
    field = _UNITS[unit]
    return Predicate(f"after({unit}={n})", lambda event: getattr(event, field) >= n, unit != "seconds")


@overload
def when(predicate: Callable[[Any], Any], callback: Callback[S]) -> Callback[S]: ...
@overload
def when(predicate: Callable[[Any], Any], callback: Iterable[Callback[Any]]) -> Callback[Mapping[str, Any]]: ...
def when(predicate: Callable[[Any], Any], callback: Callback[Any] | Iterable[Callback[Any]]) -> Callback[Any]:
    """The callback, heard only at the events for which a predicate holds.

    Events of a run as a whole, such as `setup`, `on_train_start` and `on_exception`, and answers such as `on_saved` are
    heard regardless. Inside the compiled step nothing branches: a hook always runs, and its state and what it replaces
    stay as they were where the predicate does not hold; what it publishes is published all the same.

    Args:
      predicate: `every(...)`, `after(...)`, `first(...)`, `between(...)`, these combined with `&`, `|` and `~`, or any
        pure function of an event.
      callback: a callback, or several, each of which is restricted.

    Returns:
      A `Callback` with the same key, state and effects.

    Raises:
      TypeError: if the predicate is not callable.
      ValueError: if the callback's step half cannot be left out of some steps: for a predicate on seconds, or around
        the gradient; with the first batch, if it replaces something by what has another shape or dtype.

    Example:
      >>> from fncb.events import TrainBatchEnd
      >>> count = Callback(key="count", init=int, on_train_batch_end=lambda state, event: state + 1)
      >>> rarely = when(every(steps=100) & ~first(steps=200), count)
      >>> rarely.transition(0, TrainBatchEnd(step=100)), rarely.transition(0, TrainBatchEnd(step=200))
      ((0, ()), (1, ()))
    """
    if not callable(predicate):
        raise TypeError(f"when: predicate must be a function such as every(steps=100), got {predicate!r}.")
    parts = compose(callback).parts or ()
    restricted = [_restricted(predicate, part) for part in parts]
    return restricted[0] if isinstance(callback, Callback) and callback.parts is None else compose(*restricted)


def _restricted(predicate: Callable[[Any], Any], callback: Callback[Any]) -> Callback[Any]:
    def guarded(hook: Any) -> Any:
        return lambda state, event: hook(state, event) if predicate(event) else state

    hooks = {name: getattr(callback, name) for name in hook_names(callback) if ev.HOOKS[name] not in _ALWAYS}
    shown = predicate.name if isinstance(predicate, Predicate) else getattr(predicate, "__qualname__", repr(predicate))
    inner = callback.config.get("when")
    config = {**callback.config, "when": shown if inner is None else f"{shown} & {inner}"}
    step = callback.step and _restricted_step(predicate, callback.key, callback.step)
    return attrs.evolve(callback, config=config, step=step, **{name: guarded(hook) for name, hook in hooks.items()})


def _restricted_step(predicate: Any, key: str, step: StepHooks[Any]) -> StepHooks[Any]:
    if isinstance(predicate, Predicate) and not predicate.in_step:
        raise ValueError(f"when: no time is known inside the step, got {predicate!r} for {key}. Use steps or epochs.")
    if step.around_gradient is not None:
        raise ValueError(f"when: what is around the gradient cannot be left out of some steps, got {key}.")

    def guarded(hook: Any) -> Any:
        def restricted(state: Any, event: Any) -> Emit[Any]:
            import torch

            out, holds = hook(state, event), predicate(event)
            out = out if type(out) is Emit else Emit(out)

            def chosen(new: Any, old: Any) -> Any:
                if not hasattr(old, "dtype"):
                    return old  # a batch may hold more than tensors
                was, now = (tuple(old.shape), old.dtype), (tuple(new.shape), new.dtype)
                if was != now:
                    raise ValueError(
                        f"when: what {key} changes must keep shape and dtype, got {now} instead of {was}. The step "
                        "is one function for all batches: give them their new form in a callback before it."
                    )
                return torch.where(torch.as_tensor(holds, device=old.device), new, old)

            replaced = dict(out.replaced)
            for name in replaced.keys() - {"metrics", "skip"}:
                replaced[name] = map_leaves(chosen, replaced[name], getattr(event, name))
            if "skip" in replaced:
                replaced["skip"] = replaced["skip"] & holds
            return Emit(map_leaves(chosen, out.state, state), out.effects, replaced)

        return restricted

    return attrs.evolve(step, **{name: guarded(getattr(step, name)) for name in hook_names(step)})
