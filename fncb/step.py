"""One training batch: forward, backward, step hooks and optimizer, as one compiled graph where torch can."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fncb import compiling, data, phases
from fncb import events as ev
from fncb import optimizer as opt
from fncb.callback import StepHooks
from fncb.phases import Scratch
from fncb.regions import Regions, regions
from fncb.tree import leaves, map_leaves

log = logging.getLogger("fncb")

ONE_GRAPH, TWO_REGIONS, EAGER = LEVELS = ("one graph", "two regions", "eager")
ANY_SHAPE = "any shape"
STATIC_SHAPES = 2  # so many batch shapes get a graph of their own; later ones share one with dynamic shapes


class Step:
    """What is on the device, and the function that moves it by one batch.

    The first optimizer step always runs eagerly: the optimizer makes its state, and what is wrong with a loss or a
    hook is said by Python and not by a tracer.

    Args:
      model, loss, optimizer: as in `Task`.
      hooks: the step hooks of a composition, or None.
      device: where the model is.
      compile: whether to try torch.compile.

    Attributes:
      level: "one graph", "two regions" (the optimizer outside the graph) or "eager".
      compilations: graphs compiled so far.
      averaged: the metrics that have a mean over the epoch: `loss` and what the loss returned beside it.
      states: the step hooks' states, key to tree of tensors.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Any],
        optimizer: Optimizer,
        hooks: StepHooks[Any] | None,
        device: torch.device,
        compile: bool = True,
    ):
        self.model, self.loss, self.optimizer, self.hooks = model, loss, optimizer, hooks
        self.level = ONE_GRAPH if compile else EAGER
        self.params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.buffers = {name: b for name, b in model.named_buffers() if b.numel()}
        # a state of its own: `init` may return the parameters themselves
        self.states: dict[str, Any] = (
            map_leaves(torch.clone, hooks.init(phases.detached(self.params))) if hooks is not None else {}
        )
        wide = any(p.dtype == torch.float64 for p in self.params.values())
        self.dtype = torch.float64 if wide else torch.float32
        number = {"dtype": self.dtype, "device": device}
        self.carry: dict[str, Any] = {
            "step": torch.zeros((), dtype=torch.int64, device=device),
            "epoch": torch.zeros((), dtype=torch.int64, device=device),
            "share": torch.ones((), **number),  # of a window's loss that one batch makes up
            "sums": torch.zeros(1, **number),  # of each metric over the epoch, times batch size
            "weight": torch.zeros((), **number),
            "grads": {},  # the window's so far, by parameter name; empty without accumulation
            "counted": torch.zeros((), dtype=torch.int64, device=device),  # batches of the window, skipped ones not
        }
        self.averaged: tuple[str, ...] = ("loss",)
        self.started = False  # whether the optimizer has made its state
        self.compilations = 0
        self._hears_zero_grad = hooks is not None and hooks.on_before_zero_grad is not None
        self._graphs: dict[Any, Callable[[Any], Tensor]] = {}
        self._kinds: set[Any] = set()
        self._lr_values = [group["lr"] for group in optimizer.param_groups]
        self._lrs = [torch.full((), float(lr), dtype=self.dtype) for lr in self._lr_values]
        self._settings = opt.settings(optimizer)
        self._found = self.averaged  # by the last trace
        self._names: dict[Any, tuple[str, ...]] = {}  # of all metrics, by kind of batch
        if compile:
            opt.set_capturable(optimizer, device)

    @property
    def recompilations(self) -> int:
        """Graphs compiled beyond the first of each kind: accumulating or updating, and each region."""
        return self.compilations - len(self._kinds)

    def set_accumulation(self, n: int) -> None:
        """From the next window on, each batch's loss counts for 1 / `n`."""
        self.carry["share"].fill_(1.0 / n)
        if n > 1 and not self.carry["grads"]:
            self.carry["grads"] = {name: torch.zeros_like(p.detach()) for name, p in self.params.items()}
            self._graphs.clear()

    def start_epoch(self, epoch: int) -> None:
        """Starts the epoch's means anew."""
        self.carry["epoch"].fill_(epoch)
        self.carry["sums"].zero_()
        self.carry["weight"].zero_()

    def means(self) -> ev.Metrics:
        """The means of `loss` and what the loss returned over the epoch so far, named `loss_epoch` and so on."""
        names = tuple(f"{name}_epoch" for name in self.averaged)
        return ev.Metrics(None, names, self.carry["sums"] / self.carry["weight"])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of a step beside model and optimizer."""
        return {
            "carry": self.carry,
            "states": {key: dict(leaves(state)) for key, state in self.states.items()},
            "averaged": self.averaged,
            "started": self.started,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. States of callbacks that are no longer there are left out."""
        self._found = tuple(saved["averaged"])
        self._make_room()
        self.started = saved["started"]
        if saved["carry"]["grads"]:
            self.set_accumulation(2)
        _copy_into("the step", self.carry, saved["carry"])
        for key in self.states.keys() & saved["states"].keys():
            _copy_into(key, self.states[key], saved["states"][key])
        self._settings = opt.settings(self.optimizer)

    def __call__(self, batch: Any, update: bool = True, first: bool = True) -> ev.Metrics:
        """Trains on one batch.

        Args:
          batch: on the device.
          update: whether the optimizer steps, which ends the window of accumulated batches.
          first: whether this batch begins a window.

        Returns:
          This batch's metrics, still on the device: `loss`, what the loss returned beside it, what hooks published.
        """
        for i, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self._lr_values[i]:
                self._lr_values[i] = group["lr"]
                self._lrs[i].fill_(group["lr"])
        if self.level == EAGER or not self.started:
            vector = self._eager(batch, update, first)
        else:
            first = first and self._hears_zero_grad
            vector = self._compiled(batch, update, first)
        return ev.Metrics(None, self._names[update, first], vector)

    def _compiled(self, batch: Any, update: bool, first: bool) -> Tensor:
        key = (data.signature(batch), update, first)
        graph = self._graphs.get(key)
        if graph is not None:
            try:
                return graph(batch)
            except Exception as error:
                if not compiling.is_tracing_error(error):
                    raise  # what is caught: a plain value in the model changed, and tracing anew needs its context
        return self._compile(key, batch, update, first)

    def check_settings(self) -> None:
        """Notices settings of the optimizer, other than its learning rate, that a schedule changed."""
        now = opt.settings(self.optimizer)
        if now != self._settings:
            self._settings = now
            if self.level == ONE_GRAPH and self._graphs:
                self._step_down("the schedule changes more of the optimizer than its learning rate")

    # The three levels.

    def _eager(self, batch: Any, update: bool, first: bool) -> Tensor:
        key = (data.signature(batch), update, first, EAGER)
        run = self._graphs.get(key)
        if run is None:
            run = self._graphs[key] = self._in_two(batch, update, first, region=lambda fn: fn, graph=lambda fn: fn)
        return run(batch)

    def _in_two(self, batch: Any, update: bool, first: bool, region: Any, graph: Any) -> Callable[[Any], Tensor]:
        """Up to the gradients, the optimizer's own step, then the rest."""
        parts = self._regions(batch, update, first, region, self._held())
        before, after = graph(parts.before), graph(parts.after)

        def run(batch: Any) -> Tensor:
            passed = before(batch)
            if update:
                self._own_update(parts.unpack(passed))
            return after(passed)

        return run

    def _held(self) -> dict[str, Any]:
        return {"params": self.params, "buffers": self.buffers, "carry": self.carry, "states": self.states}

    def _regions(self, batch: Any, update: bool, first: bool, region: Any, held: Any) -> Regions:
        def found(from_loss: tuple[str, ...], published: tuple[str, ...]) -> Tensor:
            self._names[update, first] = (*from_loss, *published)
            self._found = from_loss
            if from_loss != self.averaged and region is compiling.nonstrict:
                raise RuntimeError("the loss returns other metrics than before")
            self._make_room()
            return self.carry["sums"]

        return regions(self.model, self.loss, self.hooks, self.optimizer, held, batch, update, first, region, found)

    def _own_update(self, scratch: Scratch) -> None:
        stop = scratch.stop
        decided = stop is not None and (not self.started or stop.device.type == "cpu")
        if decided and bool(stop):
            return  # waits for a device only until the optimizer has made its state
        for name, p in self.params.items():
            p.grad = scratch.grads.get(name)
        if stop is None or decided:
            self.optimizer.step()
        else:
            moving = [p.detach() for p in self.params.values()]
            moving += [leaf for _, leaf in leaves(opt.state_tensors(self.optimizer))]
            with torch.no_grad():
                phases.move(scratch, moving, self.optimizer.step)
        for p in self.params.values():
            p.grad = None
        self.started = True

    def _compile(self, key: Any, batch: Any, update: bool, first: bool) -> Tensor:
        static = sum(kind == [update, first] for _, *kind in self._graphs) < STATIC_SHAPES
        shared = None if static else self._graphs.get((ANY_SHAPE, update, first))
        if shared is not None:
            self._graphs[key] = shared
            return shared(batch)

        def graph(fn: Any) -> Any:
            def counted() -> None:
                self.compilations += 1
                self._kinds.add((fn.__name__, update, first))

            return compiling.one_graph(fn, on_compile=counted, static=static)

        while self.level != EAGER:
            try:
                with compiling.tracing():
                    if self.level == ONE_GRAPH:
                        held = self._held() | {"optimizer": opt.state_tensors(self.optimizer), "lrs": self._lrs}
                        run = graph(self._regions(batch, update, first, compiling.nonstrict, held).whole)
                    else:
                        run = self._in_two(batch, update, first, compiling.nonstrict, graph)
                    metrics = run(batch)
            except Exception as error:
                if not self._make_room():
                    self._step_down(_reason(error))
                continue
            self._graphs[key] = run
            if not static:
                self._graphs[ANY_SHAPE, update, first] = run
            return metrics
        return self._eager(batch, update, first)

    def _step_down(self, reason: str) -> None:
        below = EAGER if "compiler" in reason.lower() and "C++" in reason else LEVELS[LEVELS.index(self.level) + 1]
        log.warning("fncb: the step runs as %s, not as %s: %s", below, self.level, reason)
        self.level = below
        self._graphs.clear()

    def _make_room(self) -> bool:
        """Makes room for the means of the metrics that the last trace found; False when there is."""
        if self._found == self.averaged:
            return False
        self.averaged = self._found
        self._graphs.clear()
        self.carry["sums"] = self.carry["sums"].new_zeros(len(self.averaged))
        return True


def _copy_into(who: str, tree: Any, saved: Any) -> None:
    have, given = dict(leaves(tree)), dict(leaves(saved))
    wrong = list(have.keys() ^ given.keys())
    wrong += [path for path in have.keys() & given.keys() if have[path].shape != given[path].shape]
    if wrong:
        raise ValueError(f"resume: what {who} keeps on the device must match, got differences at {sorted(wrong)}.")
    for path, tensor in have.items():
        tensor.copy_(given[path])


def _reason(error: BaseException) -> str:
    inner = getattr(error, "inner_exception", None) or error.__cause__
    while inner is not None:
        error, inner = inner, getattr(inner, "inner_exception", None) or inner.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
