"""What a hook returns when it wants something done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

import attrs

from fncb.effects import Effect
from fncb.events import Event, Tensors

if TYPE_CHECKING:
    from torch import Tensor

S = TypeVar("S")
E = TypeVar("E", bound=Event)


@attrs.frozen
class EmptyState:
    """The state of a callback that remembers nothing."""


@attrs.frozen
class Emit(Generic[S]):
    """What a hook returns when it wants something done: made by `emit`."""

    state: S
    effects: tuple[Effect, ...] = ()
    replaced: Mapping[str, Any] = attrs.field(factory=dict)


@overload
def emit(state: S, *effects: Effect) -> Emit[S]: ...
@overload
def emit(
    state: S,
    *,
    batch: Any = ...,
    loss: Tensor = ...,
    grads: Tensors = ...,
    params: Tensors = ...,
    metrics: Tensors = ...,
    skip: Tensor = ...,
) -> Emit[S]: ...
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
