"""One kind of batch, cut into functions that can be compiled: what Dynamo traces, and what runs while it does."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fncb import compiling, data, phases
from fncb import events as ev
from fncb import optimizer as opt
from fncb.callback import StepHooks
from fncb.phases import Scratch
from fncb.task import loss_and_metrics
from fncb.tree import leaves, map_leaves


@attrs.frozen
class Regions:
    """One kind of batch, cut into functions over tensors.

    Attributes:
      before: from a batch to the gradients that the optimizer is given, as a flat list.
      after: from that list to the metrics, when the optimizer has moved.
      whole: both, with the optimizer traced in between.
      unpack: what the flat list holds.
    """

    before: Callable[[Any], list[Tensor]]
    after: Callable[[list[Tensor]], Tensor]
    whole: Callable[[Any], Tensor]
    unpack: Callable[[list[Tensor]], Scratch]


def regions(
    model: nn.Module,
    user_loss: Callable[[Any, Any], Any],
    hooks: StepHooks[Any] | None,
    optimizer: Optimizer,
    tree: dict[str, Any],
    example: Any,
    update: bool,
    first: bool,
    region: Callable[[Any], Any],
    found: Callable[[tuple[str, ...], tuple[str, ...]], Tensor],
) -> Regions:
    """Writes the phases for batches like `example`.

    Args:
      model, user_loss, hooks, optimizer: as in `Step`.
      tree: the held tensors; with `optimizer` and `lrs` among them, `whole` may be called.
      example: a batch of this kind.
      update, first: whether it ends and begins a window of accumulated batches.
      region: marks a function that runs as plain Python while tracing: it is then given and gives flat lists of
        tensors, and what else it knows (structure, names) it has from here. Outside of the regions, Dynamo traces:
        the model, the loss and the gradient. The identity, for eager use, hands trees over as they are.
      found: told the names of the metrics, those of the loss and those that hooks published, gives where to add the
        means.
    """
    carry, traced = tree["carry"], region is compiling.nonstrict
    held = [leaf for _, leaf in leaves(tree)] if traced else tree
    like = map_leaves(lambda _: 0, tree)
    skeleton: dict[str, Any] = {}
    params, names = list(tree["params"].values()), list(tree["params"])
    skips = hooks is not None and (hooks.on_after_backward or hooks.on_before_optimizer_step) is not None
    buffers = list(tree["buffers"].values()) if skips else []
    ids = {name: id(p) for name, p in tree["params"].items()}
    accumulates, share = bool(carry["grads"]), carry["share"]
    replaces_batch = hooks is not None and hooks.on_train_batch_start is not None
    replaces_loss = hooks is not None and (
        hooks.on_before_backward is not None or (first and hooks.on_before_zero_grad is not None)
    )

    def pack(scratch: Scratch) -> Any:
        if not traced:
            return scratch
        skeleton["scratch"] = map_leaves(lambda _: 0, scratch)
        return [leaf for _, leaf in leaves(scratch)]

    def unpack(passed: Any) -> Scratch:
        return _fill(skeleton["scratch"], passed) if traced else passed

    def unheld(held: Any) -> dict[str, Any]:
        return _fill(like, held) if traced else held

    def taken_up(tree: Any, passed: list[Tensor]) -> Scratch:
        return unpack(passed) if passed else Scratch(states=tree["states"])

    @region
    def start(held: list[Tensor], batch: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        with torch.no_grad():
            tree = unheld(held)
            scratch = taken_up(tree, [])
            given, stays = data.refill(example, list(batch)), phases.detached(tree["params"])
            replaced = phases.heard(hooks, tree, scratch, ev.TrainBatchStart, batch=given, params=stays)
            return pack(scratch), data.tensors(replaced.get("batch", given))

    @region
    def weigh(
        held: list[Tensor], passed: list[Tensor], batch: list[Tensor], loss: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        tree = unheld(held)
        scratch = taken_up(tree, passed)
        weighed = phases.before_backward(hooks, tree, scratch, loss, data.refill(example, list(batch)), first)
        return pack(scratch), weighed

    def forward(batch: Any) -> Any:
        passed, inputs = [], data.tensors(batch)
        if replaces_batch:
            passed, inputs = start(held, inputs)
            batch = data.refill(batch, list(inputs))
        old = [buffer.clone() for buffer in buffers]
        loss, beside = loss_and_metrics("loss", user_loss(model, batch))
        if not loss.requires_grad:
            raise ValueError("loss: a loss must need gradients, got one that depends on no trainable parameter.")
        weighed = loss * share if accumulates else loss
        if replaces_loss:
            passed, weighed = weigh(held, passed, inputs, weighed)
        grads = torch.autograd.grad(weighed, params, allow_unused=True)
        used = {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}
        return passed, inputs, loss.detach(), beside, used, old

    def settled(tree: Any, passed: Any, inputs: Any, loss: Any, beside: Any, grads: Any, old: Any) -> Scratch:
        scratch = taken_up(tree, passed)
        scratch.batch, scratch.loss, scratch.from_loss, scratch.grads = list(inputs), loss, dict(beside), dict(grads)
        scratch.buffers = dict(zip(tree["buffers"], old, strict=False))
        phases.after_backward(hooks, tree, scratch, data.refill(example, list(inputs)), update)
        return scratch

    def concluded(tree: Any, scratch: Scratch) -> Tensor:
        batch = data.refill(example, list(scratch.batch))
        metrics = phases.after_update(hooks, tree, scratch, batch, update)
        averaged = ("loss", *scratch.from_loss)
        sums = found(averaged, tuple(scratch.published))
        if not traced:
            tree["carry"]["sums"] = sums  # which may have been made just now
        phases.add_to_means(tree["carry"], scratch, metrics[: len(averaged)], data.batch_size(batch))
        return metrics

    @region
    def settle(held: list[Tensor], *values: Any) -> list[Tensor]:
        with torch.no_grad():
            return pack(settled(unheld(held), *values))

    @region
    def conclude(held: list[Tensor], passed: list[Tensor]) -> Tensor:
        with torch.no_grad():
            return concluded(unheld(held), unpack(passed))

    @region
    def finish(held: list[Tensor], *values: Any) -> Tensor:
        with torch.no_grad():
            tree = unheld(held)
            scratch = settled(tree, *values)
            if update:
                given = {ids[name]: grad for name, grad in scratch.grads.items()}
                stays = {ids[name]: p for name, p in phases.detached(tree["params"]).items()}
                moving = [*stays.values(), *(leaf for _, leaf in leaves(tree["optimizer"]))]
                phases.move(
                    scratch, moving, lambda: opt.traced_update(optimizer, stays, given, tree["optimizer"], tree["lrs"])
                )
            return concluded(tree, scratch)

    def before(batch: Any) -> list[Tensor]:
        return settle(held, *forward(batch))

    def after(passed: list[Tensor]) -> Tensor:
        return conclude(held, passed)

    def whole(batch: Any) -> Tensor:
        return finish(held, *forward(batch))

    return Regions(before, after, whole, unpack)


def _fill(like: Any, flat: list[Tensor]) -> Any:
    new = iter(flat)
    return map_leaves(lambda _: next(new), like)
