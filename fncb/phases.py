"""The phases of one training batch, as functions over tensors, traced and eager alike.

`held` is the tree of tensors that stay from batch to batch (parameters, buffers, optimizer state, carry, step
states): it is written in place, once everything of a batch is known. `Scratch` is what one batch hands from phase to
phase.

A batch that a hook skips leaves no trace: buffers and states are put back, its gradients are not accumulated and its
metrics do not enter the means. A window all of whose batches were skipped, or that a hook skips as a whole, makes no
update. The state of a callback that asked to skip is kept, so that it can count.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from fncb import events as ev
from fncb.callback import StepHooks
from fncb.tree import map_leaves


@attrs.define(kw_only=True)
class Scratch:
    """The values of one batch on their way through the phases, all tensors.

    Attributes:
      states: the step states by key, not yet written back.
      batch: the batch's tensors.
      loss: 0-d, detached, not divided by the accumulated batches.
      from_loss: 0-d each, what the loss returned beside the loss.
      published: 0-d each, what step hooks published.
      grads: by parameter name.
      buffers: as they were before the forward pass.
      size: 0-d, samples in the batch.
      skip: 0-d bool, whether this batch is left out; None when no hook can ask for it.
      stop: 0-d bool, whether the update is left out; None likewise.
    """

    states: dict[str, Any]
    batch: list[Tensor] = attrs.field(factory=list)
    loss: Tensor | None = None
    from_loss: dict[str, Tensor] = attrs.field(factory=dict)
    published: dict[str, Tensor] = attrs.field(factory=dict)
    grads: dict[str, Tensor] = attrs.field(factory=dict)
    buffers: dict[str, Tensor] = attrs.field(factory=dict)
    skip: Tensor | None = None
    stop: Tensor | None = None


def heard(
    hooks: StepHooks[Any] | None, held: Any, scratch: Scratch, event_type: type[ev.Event], **live: Any
) -> Mapping[str, Any]:
    """Runs the hooks of one event on the scratch; returns what they replaced."""
    hook = getattr(hooks, ev.hook_name(event_type), None)
    if hook is None:
        return {}
    carry = held["carry"]
    event = event_type(step=carry["step"], epoch=carry["epoch"], **live)
    out = hook(scratch.states, event)
    replaced = dict(out.replaced)
    scratch.states = out.state
    twice = scratch.published.keys() & replaced["metrics"].keys()
    if twice:
        raise ValueError(f"step hooks: each metric must be published once, got {sorted(twice)} twice. Rename one.")
    scratch.published.update(replaced.pop("metrics"))
    return replaced


def before_backward(
    hooks: StepHooks[Any] | None, held: Any, scratch: Scratch, loss: Tensor, batch: Any, first: bool
) -> Tensor:
    """The loss to differentiate: a window's share of it, as hooks left it."""
    if first:
        heard(hooks, held, scratch, ev.BeforeZeroGrad)
    replaced = heard(hooks, held, scratch, ev.BeforeBackward, loss=loss, batch=batch)
    return replaced.get("loss", loss)


def after_backward(hooks: StepHooks[Any] | None, held: Any, scratch: Scratch, batch: Any, update: bool) -> None:
    """Settles which gradients the optimizer is given, if any."""
    carry, params = held["carry"], detached(held["params"])
    before = held["states"]
    replaced = heard(
        hooks, held, scratch, ev.AfterBackward, loss=scratch.loss, grads=scratch.grads, params=params, batch=batch
    )
    scratch.grads = replaced.get("grads", scratch.grads)
    asked = replaced.get("skip", {})
    scratch.skip = any_of(asked)
    scratch.states = put_back(scratch.skip, before, scratch.states, keep=asked)

    scratch.stop = scratch.skip
    if carry["grads"]:
        _accumulate(carry, scratch, update)
    if not update:
        return
    before = scratch.states
    replaced = heard(
        hooks, held, scratch, ev.BeforeOptimizerStep, loss=scratch.loss, grads=scratch.grads, params=params, batch=batch
    )
    scratch.grads = replaced.get("grads", scratch.grads)
    asked = replaced.get("skip", {})
    if asked:
        scratch.stop = any_of({**asked, "": scratch.stop} if scratch.stop is not None else asked)
        if not carry["grads"]:
            scratch.skip = scratch.stop
    scratch.states = put_back(scratch.stop, before, scratch.states, keep=asked)


def _accumulate(carry: dict[str, Any], scratch: Scratch, update: bool) -> None:
    """Adds this batch's gradients to the window's; at its end, hands them out and starts the next window empty."""
    skip, window = scratch.skip, carry["grads"]
    mine = scratch.grads
    if skip is not None:
        mine = {name: torch.where(skip, torch.zeros_like(grad), grad) for name, grad in mine.items()}
    total = {name: window[name] + grad for name, grad in mine.items()}
    counted = carry["counted"] + (1 if skip is None else (~skip).to(carry["counted"].dtype))
    if update:
        scratch.grads = total
        scratch.stop = None if skip is None else counted == 0
    for name in total:
        if update:
            window[name].zero_()
        else:
            window[name].copy_(total[name])
    carry["counted"].copy_(torch.zeros_like(counted) if update else counted)


def move(scratch: Scratch, tensors: list[Tensor], update: Callable[[], None]) -> None:
    """Runs `update`, which moves `tensors` in place, and puts them back where the update is to be left out."""
    stop = scratch.stop
    old = [] if stop is None else [tensor.clone() for tensor in tensors]
    update()
    if stop is not None:
        for tensor, was in zip(tensors, old, strict=True):
            tensor.copy_(torch.where(stop, was, tensor))


def after_update(hooks: StepHooks[Any] | None, held: Any, scratch: Scratch, batch: Any, updated: bool) -> Tensor:
    """Runs the last hooks, writes back what stays, and packs the metrics: loss, what it gave beside, published."""
    carry, params = held["carry"], detached(held["params"])
    if updated:
        carry["step"].add_(1)
        before = scratch.states
        replaced = heard(hooks, held, scratch, ev.AfterOptimizerStep, params=params, grads=scratch.grads, batch=batch)
        scratch.states = put_back(scratch.stop, before, scratch.states, keep=())
        moved = put_back(scratch.stop, params, replaced.get("params", params), keep=())
        for name, value in moved.items():
            if value is not params[name]:
                params[name].copy_(value)
    before = scratch.states
    metrics = {"loss": scratch.loss, **scratch.from_loss, **scratch.published}
    heard(hooks, held, scratch, ev.TrainBatchEnd, params=params, batch=batch, metrics=metrics)
    scratch.states = put_back(scratch.skip, before, scratch.states, keep=())

    if scratch.skip is not None:
        for name, was in scratch.buffers.items():
            held["buffers"][name].copy_(torch.where(scratch.skip, was, held["buffers"][name]))
    map_leaves(lambda old, new: old.copy_(new), held["states"], scratch.states)
    dtype = carry["share"].dtype
    return torch.stack([value.to(dtype) for value in {**metrics, **scratch.published}.values()])


def add_to_means(carry: dict[str, Tensor], scratch: Scratch, metrics: Tensor, size: int) -> None:
    """Adds this batch's metrics to the epoch's sums, weighted by its size."""
    if scratch.skip is None:
        carry["sums"].add_(metrics * size)
        carry["weight"].add_(size)
    else:
        carry["sums"].add_(torch.where(scratch.skip, torch.zeros_like(metrics), metrics * size))
        carry["weight"].add_((~scratch.skip).to(carry["weight"].dtype) * size)


def put_back(flag: Tensor | None, before: Any, after: Any, keep: Any) -> Any:
    """States as they were where `flag` says so, but for the keys in `keep`."""
    if flag is None or after is before:
        return after
    where = partial(torch.where, flag)
    return {
        key: state if key in keep else map_leaves(lambda new, old: where(old, new), state, before[key])
        for key, state in after.items()
    }


def any_of(flags: Mapping[str, Tensor]) -> Tensor | None:
    """Whether any flag is set; None when there is none."""
    found = None
    for flag in flags.values():
        found = flag if found is None else found | flag
    return found


def detached(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters as plain tensors that share their memory."""
    return {name: p.detach() for name, p in params.items()}
