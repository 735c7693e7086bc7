"""The phases of one training batch, as functions over tensors, traced and eager alike.

`held` is the tree of tensors that stay from batch to batch (parameters, buffers, optimizer states, carry, step
states): it is written in place, once everything of a batch is known. `Scratch` is what one batch hands from phase to
phase. A batch is one turn for each optimizer that takes part: backward, update, the next turn's backward, and so on.

A turn that a hook skips leaves no trace: buffers and states are put back, its gradients are not accumulated and its
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
from fncb.not_in_step import not_in_step
from fncb.tree import map_leaves

FIRST_SCALE = 2.0**16  # of a loss whose gradients are half precision; torch.amp's default

GROWTH_INTERVAL = 2000  # updates without overflow after which the loss scale doubles; torch.amp's default

LARGEST_SCALE = 2.0**127  # the next one would not be finite


@attrs.frozen
class Part:
    """What is fixed of an optimizer's turn in a kind of batch.

    Attributes:
      index: of the turn, among all optimizers of the task.
      name: of the optimizer; None where there is one.
      params: names of the parameters that it moves.
      update, first: whether the batch ends and begins a window of accumulated batches.
    """

    index: int
    name: str | None
    params: tuple[str, ...]
    update: bool
    first: bool

    def named(self, metric: str) -> str:
        """The name of a metric that belongs to this turn alone."""
        return metric if self.name is None else f"{metric}/{self.name}"


@attrs.define(kw_only=True)
class Scratch:
    """The values of one batch on their way through the phases, all tensors.

    Attributes:
      states: the step states by key, not yet written back.
      began: those with which the turn under way began.
      batch: the batch's tensors.
      metrics: 0-d each, of the turns that are over: the loss, then what it gave beside.
      published: 0-d each, what step hooks published.
      skips: 0-d bool each, of the turns that are over, whether they were left out.
      loss: 0-d, detached, not divided by the accumulated batches; this and what follows is of the turn under way.
      from_loss: 0-d each, what the loss returned beside the loss.
      grads: by parameter name.
      window: the window's gradients with this batch's, by parameter name; empty without accumulation.
      counted: 0-d, the batches of the window that were not skipped, with this one.
      buffers: as they were before the forward pass.
      skip: 0-d bool, whether this turn is left out; None when no hook can ask for it.
      stop: 0-d bool, whether the update is left out; None likewise.
      overflow: 0-d bool, whether scaled gradients of the window overflowed; None without a loss scale.
    """

    states: dict[str, Any]
    began: dict[str, Any]
    batch: list[Tensor] = attrs.field(factory=list)
    metrics: dict[str, Tensor] = attrs.field(factory=dict)
    published: dict[str, Tensor] = attrs.field(factory=dict)
    skips: list[Tensor] = attrs.field(factory=list)
    loss: Tensor | None = None
    from_loss: dict[str, Tensor] = attrs.field(factory=dict)
    grads: dict[str, Tensor] = attrs.field(factory=dict)
    window: dict[str, Tensor] = attrs.field(factory=dict)
    counted: Tensor | None = None
    buffers: dict[str, Tensor] = attrs.field(factory=dict)
    skip: Tensor | None = None
    stop: Tensor | None = None
    overflow: Tensor | None = None


def new_carry(turns: int, dtype: torch.dtype, device: torch.device, scaled: bool) -> dict[str, Any]:
    """What stays from batch to batch beside model, optimizers and step states.

    Args:
      turns: how many there are.
      dtype: of sums.
      device: where the model is.
      scaled: whether losses are scaled up.
    """
    number: dict[str, Any] = {"dtype": dtype, "device": device}
    whole: dict[str, Any] = {"dtype": torch.int64, "device": device}

    def of_turn() -> dict[str, Tensor]:
        means = {"sums": torch.zeros(1, **number), "weight": torch.zeros((), **number)}  # times batch size
        counted = {"counted": torch.zeros((), **whole)}  # batches of the window, skipped ones not
        if not scaled:
            return means | counted
        scale = {"scale": torch.full((), FIRST_SCALE, dtype=torch.float32, device=device)}
        calm = {"calm": torch.zeros((), **whole)}  # updates since the last overflow
        return means | counted | scale | calm | {"overflow": torch.zeros((), dtype=torch.bool, device=device)}

    return {
        "step": torch.zeros((), **whole),
        "epoch": torch.zeros((), **whole),
        "share": torch.ones((), **number),  # of a window's loss that one batch makes up
        "grads": {},  # the window's so far, by parameter name; empty without accumulation
        "turns": [of_turn() for _ in range(turns)],
    }


def heard(
    hooks: StepHooks[Any] | None,
    held: Any,
    scratch: Scratch,
    event_type: type[ev.Event],
    part: Part | None,
    **fields: Any,
) -> Mapping[str, Any]:
    """Runs the hooks of one event on the scratch; returns what they replaced. `part` is None between turns."""
    hook = getattr(hooks, ev.hook_name(event_type), None)
    if hook is None:
        return {}
    carry = held["carry"]
    if part is not None:
        fields["optimizer"] = part.name
    known = {"step": carry["step"], "epoch": carry["epoch"], **fields}
    out = hook(scratch.states, event_type(**{**not_in_step(event_type), **known}))
    replaced = dict(out.replaced)
    scratch.states = out.state
    published = {name if part is None else part.named(name): value for name, value in replaced.pop("metrics").items()}
    twice = scratch.published.keys() & published.keys()
    if twice:
        raise ValueError(f"step hooks: each metric must be published once, got {sorted(twice)} twice. Rename one.")
    scratch.published.update(published)
    return replaced


def before_backward(
    hooks: StepHooks[Any] | None, held: Any, scratch: Scratch, part: Part, loss: Tensor, batch: Any
) -> Tensor:
    """The loss to differentiate: a window's share of it, as hooks left it."""
    if part.first:
        heard(hooks, held, scratch, ev.BeforeZeroGrad, part)
    replaced = heard(hooks, held, scratch, ev.BeforeBackward, part, loss=loss, batch=batch)
    return replaced.get("loss", loss)


def after_backward(
    hooks: StepHooks[Any] | None,
    held: Any,
    scratch: Scratch,
    part: Part,
    batch: Any,
    activations: Mapping[str, Tensor],
) -> None:
    """Settles which gradients the optimizer is given, if any; `activations` are the outputs that hooks watch."""
    carry, turn, params = held["carry"], held["carry"]["turns"][part.index], detached(held["params"], part.params)
    live = {"loss": scratch.loss, "params": params, "batch": batch}
    if "scale" in turn:
        _unscale(turn, scratch, part)
    seen = {"grads": scratch.grads, "activations": activations}
    replaced = heard(hooks, held, scratch, ev.AfterBackward, part, **seen, **live)
    scratch.grads = replaced.get("grads", scratch.grads)
    asked = replaced.get("skip", {})
    scratch.skip = any_of(asked)
    scratch.states = put_back(scratch.skip, scratch.began, scratch.states, keep=asked)

    scratch.stop = scratch.skip
    if carry["grads"]:
        _accumulate(carry["grads"], turn, scratch, part.update)
    if not part.update:
        return
    before = scratch.states
    replaced = heard(hooks, held, scratch, ev.BeforeOptimizerStep, part, grads=scratch.grads, **live)
    scratch.grads = replaced.get("grads", scratch.grads)
    asked = replaced.get("skip", {})
    if asked:
        scratch.stop = any_of({**asked, "": scratch.stop})
        if not carry["grads"]:
            scratch.skip = scratch.stop
    scratch.stop = any_of({"asked": scratch.stop, "overflow": scratch.overflow})
    scratch.states = put_back(scratch.stop, before, scratch.states, keep=asked)


def _unscale(turn: dict[str, Tensor], scratch: Scratch, part: Part) -> None:
    """Divides gradients by the loss scale; a scale under which they overflow, anywhere in a window, is halved."""
    scratch.grads = {name: grad / turn["scale"].to(grad.dtype) for name, grad in scratch.grads.items()}
    finite = [torch.isfinite(grad).all() for grad in scratch.grads.values()]
    overflow = turn["overflow"] | ~torch.stack(finite).all()
    turn["overflow"].copy_(torch.zeros_like(overflow) if part.update else overflow)
    if part.update:
        scratch.overflow = overflow
        calm = torch.where(overflow, torch.zeros_like(turn["calm"]), turn["calm"] + 1)
        grown = torch.where(
            (calm == GROWTH_INTERVAL) & (turn["scale"] < LARGEST_SCALE), turn["scale"] * 2, turn["scale"]
        )
        turn["scale"].copy_(torch.where(overflow, turn["scale"] * 0.5, grown))
        turn["calm"].copy_(torch.where(calm == GROWTH_INTERVAL, torch.zeros_like(calm), calm))


def _accumulate(window: dict[str, Tensor], turn: dict[str, Tensor], scratch: Scratch, update: bool) -> None:
    """Adds this batch's gradients to the window's; at its end, hands them out."""
    skip = scratch.skip
    mine = scratch.grads
    if skip is not None:
        mine = {name: torch.where(skip, torch.zeros_like(grad), grad) for name, grad in mine.items()}
    scratch.window = {name: window[name] + grad for name, grad in mine.items()}
    scratch.counted = turn["counted"] + (1 if skip is None else (~skip).to(turn["counted"].dtype))
    if update:
        scratch.grads = scratch.window
        scratch.stop = None if skip is None else scratch.counted == 0


def move(scratch: Scratch, tensors: list[Tensor], update: Callable[[], None]) -> None:
    """Runs `update`, which moves `tensors` in place, and puts them back where the update is to be left out."""
    stop = scratch.stop
    old = [] if stop is None else [tensor.clone() for tensor in tensors]
    update()
    if stop is not None:
        for tensor, was in zip(tensors, old, strict=True):
            tensor.copy_(torch.where(stop, was, tensor))


def after_update(
    hooks: StepHooks[Any] | None, held: Any, scratch: Scratch, part: Part, batch: Any, sums: Tensor, size: int
) -> None:
    """Ends a turn: the hooks after the update, the means, and what it skipped is put back."""
    turn, skip = held["carry"]["turns"][part.index], scratch.skip
    if skip is not None:  # before a hook sees buffers of a window whose last batch is left out
        for name, was in scratch.buffers.items():
            held["buffers"][name].copy_(torch.where(skip, was, held["buffers"][name]))
    for name, total in scratch.window.items():
        held["carry"]["grads"][name].copy_(torch.zeros_like(total) if part.update else total)
    if scratch.counted is not None:
        turn["counted"].copy_(torch.zeros_like(scratch.counted) if part.update else scratch.counted)
        scratch.window, scratch.counted = {}, None
    if part.update:
        params, before = detached(held["params"], part.params), scratch.states
        live = {"params": params, "buffers": held["buffers"], "grads": scratch.grads, "batch": batch}
        replaced = heard(hooks, held, scratch, ev.AfterOptimizerStep, part, step=held["carry"]["step"] + 1, **live)
        scratch.states = put_back(scratch.stop, before, scratch.states, keep=())
        moved = put_back(scratch.stop, params, replaced.get("params", params), keep=())
        for name, value in moved.items():
            if value is not params[name]:
                params[name].copy_(value)
    metrics: dict[str, Any] = {part.named("loss"): scratch.loss, **scratch.from_loss}
    twice = metrics.keys() & scratch.metrics.keys()
    if twice:
        raise ValueError(f"loss: each metric must have a name of its own, got {sorted(twice)} twice. Rename one.")
    scratch.metrics.update(metrics)

    values = torch.stack([value.to(sums.dtype) for value in metrics.values()]) * size
    weight: Any = size
    if skip is not None:
        values = torch.where(skip, torch.zeros_like(values), values)
        weight = (~skip).to(turn["weight"].dtype) * size
        scratch.skips.append(skip)
    sums.add_(values)
    turn["weight"].add_(weight)
    scratch.began = scratch.states


def conclude(
    hooks: StepHooks[Any] | None,
    held: Any,
    scratch: Scratch,
    turns: int,
    batch: Any,
    update: bool,
    model: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Ends a batch of so many turns: runs the last hooks and writes back what stays; gives all metrics by name.

    Where hooks read the model, it is in `model`, under that name.
    """
    carry = held["carry"]
    if update:
        carry["step"].add_(1)
    before, metrics = scratch.states, {**scratch.metrics, **scratch.published}
    params = detached(held["params"], held["params"])
    live = {"params": params, "batch": batch, **model}
    heard(hooks, held, scratch, ev.TrainBatchEnd, None, metrics=ev.StepMetrics(metrics), **live)
    taken = scratch.metrics.keys() & scratch.published.keys()
    if taken:
        raise ValueError(
            f"step hooks: each metric must have a name of its own, got the loss's {sorted(taken)}. Rename it."
        )
    left_out = torch.stack(scratch.skips).all() if len(scratch.skips) == turns else None
    scratch.states = put_back(left_out, before, scratch.states, keep=())
    map_leaves(lambda old, new: old.copy_(new), held["states"], scratch.states)
    return {**metrics, **scratch.published}


def put_back(flag: Tensor | None, before: Any, after: Any, keep: Any) -> Any:
    """States as they were where `flag` says so, but for the keys in `keep`."""
    if flag is None or after is before:
        return after
    where = partial(torch.where, flag)
    return {
        key: state if key in keep else map_leaves(lambda new, old: where(old, new), state, before[key])
        for key, state in after.items()
    }


def any_of(flags: Mapping[str, Tensor | None]) -> Tensor | None:
    """Whether any flag is set; None when there is none."""
    found = None
    for flag in flags.values():
        if flag is not None:
            found = flag if found is None else found | flag
    return found


def detached(params: Mapping[str, Tensor], names: Any) -> dict[str, Tensor]:
    """Some parameters as plain tensors that share their memory."""
    return {name: params[name].detach() for name in names}
