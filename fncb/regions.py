"""One kind of batch, cut into functions that can be compiled: what Dynamo traces, and what runs while it does."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from fncb import compiling, phases
from fncb import events as ev
from fncb import optimizer as opt
from fncb.batch import batch_size, refill, tensors
from fncb.callback import StepHooks
from fncb.measures import Measured
from fncb.phases import Part, Scratch
from fncb.task import Turn, loss_and_metrics
from fncb.tree import leaves, map_leaves
from fncb.views import view_of


@attrs.frozen
class Regions:
    """One kind of batch, cut into functions over tensors. What is passed on is a flat list.

    Attributes:
      before: one a turn, from the batch and what the turn before it passed on to the gradients for the optimizer.
      after: one a turn, from that when the optimizer has moved to what is passed on; the last one's are the metrics.
      whole: all, with the optimizers traced in between.
      unpack: what the list that a turn's `before` passes on holds.
    """

    before: list[Callable[[Any, list[Tensor]], tuple[list[Tensor], Measured]]]
    after: list[Callable[[list[Tensor]], Any]]
    whole: Callable[[Any], tuple[Tensor, Measured]]
    unpack: Callable[[int, list[Tensor]], Scratch]


@attrs.frozen
class Found:
    """Told what a trace finds out.

    Attributes:
      averages: given a turn's index and the names of the metrics of its loss, gives where to add up their means.
      metrics: given the names of all metrics, in order.
    """

    averages: Callable[[int, tuple[str, ...]], Tensor]
    metrics: Callable[[tuple[str, ...]], None]


def regions(
    model: nn.Module,
    turns: list[tuple[Turn, Part]],
    hooks: StepHooks[Any] | None,
    tree: dict[str, Any],
    example: Any,
    region: Callable[[Any], Any],
    found: Found,
    seen: dict[str, Tensor],
) -> Regions:
    """Writes the phases for batches like `example`.

    Args:
      model, hooks: as in `Step`.
      turns: those that take part in this kind of batch, in order.
      tree: the held tensors; with `optimizers` and `lrs` among them, `whole` may be called.
      example: a batch of this kind.
      region: marks a function that runs as plain Python while tracing: it is then given and gives flat lists of
        tensors, and what else it knows (structure, names) it has from here. Outside of the regions, Dynamo traces:
        the model, the losses and their gradients. The identity, for eager use, hands trees over as they are.
      found: what the trace tells.
      seen: where the submodules that are watched put what they return.
    """
    carry, traced = tree["carry"], region is compiling.nonstrict
    held = [leaf for _, leaf in leaves(tree)] if traced else tree
    like = map_leaves(lambda _: 0, tree)
    skeletons: dict[str, Any] = {}
    skips = hooks is not None and (hooks.on_after_backward or hooks.on_before_optimizer_step) is not None
    around = None if hooks is None else hooks.around_gradient
    buffers = list(tree["buffers"].values()) if skips else []
    update = turns[0][1].update
    replaces_batch = hooks is not None and hooks.on_train_batch_start is not None
    replaces_loss = hooks is not None and (
        hooks.on_before_backward is not None or (turns[0][1].first and hooks.on_before_zero_grad is not None)
    )

    def pack(where: str, scratch: Scratch) -> Any:
        if not traced:
            return scratch
        skeletons[where] = map_leaves(lambda _: 0, scratch)
        return [leaf for _, leaf in leaves(scratch)]

    def unpack(where: str, passed: Any) -> Scratch:
        return _fill(skeletons[where], passed) if traced else passed

    def unheld(held: Any) -> dict[str, Any]:
        return _fill(like, held) if traced else held

    def begun(tree: Any) -> Scratch:
        return Scratch(states=tree["states"], began=tree["states"])

    def concluded(tree: Any, scratch: Scratch) -> Tensor:
        batch = refill(example, list(scratch.batch))
        metrics = phases.conclude(hooks, tree, scratch, len(turns), batch, update, model_in(tree))
        found.metrics(tuple(metrics))
        return torch.stack([value.to(carry["share"].dtype) for value in metrics.values()])

    def model_in(tree: Any) -> dict[str, nn.Module]:
        """The model with the tensors of the tree, for hooks that read it."""
        if hooks is None or not hooks.reads_model:
            return {}
        params = {name: p.detach() for name, p in {**tree["params"], **tree["frozen"]}.items()}
        return {"model": view_of(model, {**params, **tree["buffers"]}).eval()}

    @region
    def start(held: list[Tensor], batch: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        with torch.no_grad():
            tree = unheld(held)
            scratch = begun(tree)
            given, stays = refill(example, list(batch)), phases.detached(tree["params"], tree["params"])
            replaced = phases.heard(hooks, tree, scratch, ev.TrainBatchStart, None, batch=given, params=stays)
            scratch.batch = tensors(replaced.get("batch", given))
            if len(turns) > 1:
                scratch.began = scratch.states  # the batch is more than its first turn
            return pack("start", scratch), scratch.batch

    def turn(i: int) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
        """A turn up to its gradients, from there without the optimizer, and from there with it."""
        of_task, part = turns[i]
        params = [tree["params"][name] for name in part.params]
        ids = {name: id(p) for name, p in zip(part.params, params, strict=True)}
        mine, last = carry["turns"][part.index], i == len(turns) - 1
        came = f"after {i - 1}" if i else "start"

        def taken_up(tree: Any, where: str, passed: list[Tensor]) -> Scratch:
            return unpack(where, passed) if passed else begun(tree)

        @region
        def inputs_of(passed: list[Tensor]) -> list[Tensor]:
            return unpack(came, passed).batch

        @region
        def weigh(
            held: list[Tensor], passed: list[Tensor], batch: list[Tensor], loss: Tensor
        ) -> tuple[list[Tensor], Tensor]:
            tree = unheld(held)
            scratch = taken_up(tree, came, passed)
            if around is not None:  # which may have this done several times, each time from the same beginning
                scratch = attrs.evolve(scratch, published=dict(scratch.published))
            weighed = phases.before_backward(hooks, tree, scratch, part, loss, refill(example, list(batch)))
            return pack(f"weigh {i}", scratch), weighed

        def forward(batch: Any, passed: Any) -> Any:
            inputs = tensors(batch)
            if replaces_batch:
                if i:
                    inputs = inputs_of(passed)
                else:
                    passed, inputs = start(held, inputs)
                batch = refill(batch, list(inputs))
            old = [buffer.clone() for buffer in buffers]
            if around is None:
                (*values, grads), measured = backward(batch, passed, inputs)
            else:
                (*values, grads), measured = around_backward(around, batch, passed, inputs)
            return (*values, grads, old), measured

        def backward(batch: Any, passed: Any, inputs: Any) -> tuple[tuple[Any, ...], Measured]:
            """What comes of a batch, its gradients last: by place, as Dynamo would guard every name in every call."""
            seen.clear()
            loss, beside, measured = loss_and_metrics("loss", of_task.loss(model, batch))
            if not loss.requires_grad:
                raise ValueError("loss: a loss must need gradients, got one that depends on no trainable parameter.")
            activations = {name: value.detach() for name, value in seen.items()}
            seen.clear()
            weighed = loss * carry["share"] if carry["grads"] else loss
            if replaces_loss:
                passed, weighed = weigh(held, passed, inputs, weighed)
            scaled = weighed * mine["scale"] if "scale" in mine else weighed
            grads = torch.autograd.grad(scaled, params, allow_unused=True)
            used = {place: grad for place, grad in enumerate(grads) if grad is not None}
            return (passed, inputs, loss.detach(), beside, activations, used), measured

        def around_backward(around: Any, batch: Any, passed: Any, inputs: Any) -> tuple[tuple[Any, ...], Measured]:
            """The same, with gradients as a hook makes them of those at these and other parameters."""
            made: list[Any] = []
            here = {name: p.detach().clone() for name, p in zip(part.params, params, strict=True)}
            kept = [buffer.clone() for buffer in tree["buffers"].values()]

            def gradient(there: Any) -> dict[str, Tensor]:
                with torch.no_grad():
                    for name, p in zip(part.params, params, strict=True):
                        p.copy_(there[name])
                found = backward(batch, passed, inputs)
                if not made:
                    made.append(found)
                    for buffer, now in zip(kept, tree["buffers"].values(), strict=True):
                        buffer.copy_(now)
                grads = {part.params[place]: grad for place, grad in found[0][-1].items()}
                if "scale" in mine:  # a power of two: nothing is lost
                    grads = {name: grad / mine["scale"] for name, grad in grads.items()}
                return grads

            grads = around(gradient, dict(here))
            if "scale" in mine:
                grads = {name: grad * mine["scale"] for name, grad in grads.items()}
            with torch.no_grad():
                for name, p in zip(part.params, params, strict=True):
                    p.copy_(here[name])
                for buffer, was in zip(tree["buffers"].values(), kept, strict=True):
                    buffer.copy_(was)
            (*values, used), measured = made[0]
            return (*values, {place: grads[part.params[place]] for place in used}), measured

        def settled(
            tree: Any, passed: Any, inputs: Any, loss: Any, beside: Any, activations: Any, grads: Any, old: Any
        ) -> Scratch:
            scratch = taken_up(tree, f"weigh {i}" if replaces_loss else came, passed)
            scratch.batch, scratch.loss, scratch.from_loss = list(inputs), loss, dict(beside)
            scratch.grads = {part.params[place]: grad for place, grad in grads.items()}
            scratch.buffers = dict(zip(tree["buffers"], old, strict=False))
            phases.after_backward(hooks, tree, scratch, part, refill(example, list(inputs)), activations)
            return scratch

        def ended(tree: Any, scratch: Scratch) -> Any:
            batch = refill(example, list(scratch.batch))
            of_turn = tree["carry"]["turns"][part.index]
            sums = found.averages(part.index, (part.named("loss"), *scratch.from_loss))
            if traced:
                sums = of_turn["sums"]  # as the trace knows it; in eager use it may have been made just now
            phases.after_update(hooks, tree, scratch, part, batch, sums, batch_size(batch))
            return concluded(tree, scratch) if last else pack(f"after {i}", scratch)

        @region
        def settle(held: list[Tensor], *values: Any) -> list[Tensor]:
            with torch.no_grad():
                return pack(f"before {i}", settled(unheld(held), *values))

        @region
        def end(held: list[Tensor], passed: list[Tensor]) -> Any:
            with torch.no_grad():
                return ended(unheld(held), unpack(f"before {i}", passed))

        @region
        def finish(held: list[Tensor], *values: Any) -> Any:
            with torch.no_grad():
                tree = unheld(held)
                scratch = settled(tree, *values)
                if update:
                    states, lrs = tree["optimizers"][part.index], tree["lrs"][part.index]
                    given = {ids[name]: grad for name, grad in scratch.grads.items()}
                    stays = {ids[name]: p for name, p in phases.detached(tree["params"], part.params).items()}
                    moving = [*stays.values(), *(leaf for _, leaf in leaves(states))]
                    phases.move(
                        scratch, moving, lambda: opt.traced_update(of_task.optimizer, stays, given, states, lrs)
                    )
                return ended(tree, scratch)

        def before(batch: Any, passed: list[Tensor]) -> tuple[list[Tensor], Measured]:
            values, measured = forward(batch, passed)
            return settle(held, *values), measured

        def after(passed: list[Tensor]) -> Any:
            return end(held, passed)

        def both(batch: Any, passed: list[Tensor]) -> tuple[Any, Measured]:
            values, measured = forward(batch, passed)
            return finish(held, *values), measured

        before.__name__, after.__name__ = f"before_{i}", f"after_{i}"
        return before, after, both

    cut = [turn(i) for i in range(len(turns))]

    def whole(batch: Any) -> tuple[Tensor, Measured]:
        passed, measured = cut[0][2](batch, [])
        for _, _, both in cut[1:]:
            passed, more = both(batch, passed)
            measured = {**measured, **more}
        return passed, measured

    return Regions(
        before=[before for before, _, _ in cut],
        after=[after for _, after, _ in cut],
        whole=whole,
        unpack=lambda i, passed: unpack(f"before {i}", passed),
    )


def _fill(like: Any, flat: list[Tensor]) -> Any:
    new = iter(flat)
    return map_leaves(lambda _: next(new), like)
