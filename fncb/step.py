"""One training batch: forward, backward, step hooks and optimizers, as one compiled graph where torch can.

This file is long because what a step holds, tensors, graphs and states, is made, used and saved together; what is done
in it is in `phases.py`, how parts of it are run in `regions.py`.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from fncb import compiling, phases
from fncb import events as ev
from fncb import optimizer as opt
from fncb.batch import signature
from fncb.callback import StepHooks
from fncb.measures import Measured, Measures
from fncb.phases import Part, Scratch
from fncb.position import random_state, set_random_state
from fncb.regions import Found, Regions, regions
from fncb.step_hooks import NamedParams, raised_in
from fncb.task import Turn
from fncb.tree import copy_into, leaves, map_leaves
from fncb.watching import watching

log: logging.Logger = logging.getLogger("fncb")

ONE_GRAPH, TWO_REGIONS, EAGER = LEVELS = ("one graph", "two regions", "eager")
ANY_SHAPE = "any shape"
STATIC_SHAPES = 2  # so many batch shapes get a graph of their own; later ones share one with dynamic shapes

Kind = tuple[bool, bool, tuple[int, ...]]
"""What of a batch is fixed: whether it ends a window, whether it begins one, and the turns that take part."""


class Step:
    """What is on the device, and the function that moves it by one batch.

    The first step of an optimizer always runs eagerly: it makes its state, and what is wrong with a loss or a hook is
    said by Python and not by a tracer.

    Args:
      model: as in `Task`.
      turns: losses and their optimizers, in the order in which they run.
      hooks: the step hooks of a composition, or None.
      device: where the model is.
      compile: whether to try torch.compile.
      scaled: whether losses are scaled up, so that half-precision gradients do not underflow.

    Attributes:
      level: "one graph", "two regions" (the optimizer outside the graph) or "eager".
      compilations: graphs compiled so far.
      torn: whether a batch failed when its update had begun; what is held is then half moved, and not to be saved.
      averaged: for each turn the metrics that have a mean over the epoch: the loss and what it returned beside.
      states: the step hooks' states, key to tree of tensors.
      params: the trainable parameters by name.
    """

    model: nn.Module
    turns: tuple[Turn, ...]
    hooks: StepHooks[Any] | None
    optimizers: list[torch.optim.Optimizer]
    dtype: torch.dtype
    carry: dict[str, Any]
    torn: bool
    measures: Measures
    params: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]
    started: list[bool]

    def __init__(
        self,
        model: nn.Module,
        turns: Iterable[Turn],
        hooks: StepHooks[Any] | None,
        device: torch.device,
        compile: bool = True,
        scaled: bool = False,
    ):
        self.model, self.turns, self.hooks = model, tuple(turns), hooks
        self.optimizers = [turn.optimizer for turn in self.turns]
        self.level = ONE_GRAPH if compile else EAGER
        self._seen: dict[str, Tensor] = {}  # what watched submodules returned, while a batch is under way
        self._watching = watching(model, () if hooks is None else hooks.watch, self._seen)
        wide = any(p.dtype == torch.float64 for p in model.parameters())
        self.dtype = torch.float64 if wide else torch.float32
        self.carry = phases.new_carry(len(self.turns), self.dtype, device, scaled)
        self.averaged: list[tuple[str, ...]] = [("loss" if t.name is None else f"loss/{t.name}",) for t in self.turns]
        self.states: dict[str, Any] = {}
        self.compilations = 0
        self.torn = False
        self._window: int | None = None  # batches that share an update
        self._hears_zero_grad = hooks is not None and hooks.on_before_zero_grad is not None
        self._kinds: set[Any] = set()
        self._found = list(self.averaged)  # by the last trace
        self._names: dict[Kind, tuple[str, ...]] = {}  # of all metrics
        self._summed = [False] * len(self.turns)  # whether each turn was taken in this epoch
        self.measures = Measures(device)
        self._device = device
        self.take_up_parameters()

    def close(self) -> None:
        """Leaves the model without the hooks that watch it, and lets go of batches without waiting for a collection."""
        for handle in self._watching:
            handle.remove()
        self._graphs.clear()  # which hold the step itself

    @property
    def recompilations(self) -> int:
        """Graphs compiled beyond the first of each kind: accumulating or updating, which turns, and each region."""
        return self.compilations - len(self._kinds)

    def take_up_parameters(self) -> None:
        """Takes the parameters that are trainable now. Step states of those that stay are kept, by their paths."""
        named = dict(self.model.named_parameters())
        self.params = {name: p for name, p in named.items() if p.requires_grad}
        self.buffers = {name: b for name, b in self.model.named_buffers() if b.numel()}
        reads_model = self.hooks is not None and self.hooks.reads_model
        self._frozen = {name: p for name, p in named.items() if name not in self.params} if reads_model else {}
        held = [{id(p) for group in each.param_groups for p in group["params"]} for each in self.optimizers]
        self._params_of = [
            tuple(name for name, p in self.params.items() if len(held) == 1 or id(p) in ids) for ids in held
        ]
        self._awake = tuple(i for i, names in enumerate(self._params_of) if names)
        self._every_round = all(self.turns[i].every == 1 for i in self._awake)
        known = dict(leaves(self.states))
        if self.hooks is not None:
            # a state of its own: `init` may return the parameters themselves
            params = phases.detached(self.params, self.params)
            frozen = tuple(name for name in named if name not in params)
            every = self.hooks.init(NamedParams(params, self.buffers, frozen))
            self.states = map_leaves(torch.clone, every)
        for path, fresh in leaves(self.states):
            if path in known and known[path].shape == fresh.shape:
                fresh.copy_(known[path])
        if self.carry["grads"]:
            self.carry["grads"] = {
                name: self.carry["grads"].get(name, torch.zeros_like(p.detach())) for name, p in self.params.items()
            }
        self.started = [False] * len(self.turns)  # whether each optimizer has made its state
        self._lr_values = [[group["lr"] for group in each.param_groups] for each in self.optimizers]
        self._lrs = [[torch.full((), float(lr), dtype=self.dtype) for lr in lrs] for lrs in self._lr_values]
        if self.level != EAGER:
            for each in self.optimizers:
                opt.set_capturable(each, self._device)
        self._settings = list(map(opt.settings, self.optimizers))
        self._graphs: dict[Any, Callable[[Any], tuple[Tensor, Measured]]] = {}

    def begin_states_anew(self) -> None:
        """Has the step states begin with the weights as they are now, which were loaded after the step was made."""
        self.states = {}
        self.take_up_parameters()

    def turns_of_round(self, step: int) -> tuple[int, ...]:
        """Indices of the turns that take part in the round after so many; with nothing left to train, one rests."""
        if self._every_round:
            return self._awake
        return tuple(i for i in self._awake if (step + 1) % self.turns[i].every == 0)

    def set_accumulation(self, n: int) -> None:
        """From the next window on, each batch's loss counts for 1 / `n`."""
        if n == self._window:
            return
        self._window = n
        self.carry["share"].fill_(1.0 / n)
        if n > 1 and not self.carry["grads"]:
            self.carry["grads"] = {name: torch.zeros_like(p.detach()) for name, p in self.params.items()}
            self._graphs.clear()

    def start_epoch(self, epoch: int) -> None:
        """Starts the epoch's means anew, and the window of accumulated batches."""
        self.carry["epoch"].fill_(epoch)
        self.drop_window()
        for turn in self.carry["turns"]:
            turn["sums"].zero_()
            turn["weight"].zero_()
        self._summed = [False] * len(self.turns)
        self.measures.reset()

    def drop_window(self) -> None:
        """Forgets what the batches of the window under way have given."""
        for tensor in self.carry["grads"].values():
            tensor.zero_()
        for turn in self.carry["turns"]:
            turn["counted"].zero_()
            if "overflow" in turn:
                turn["overflow"].zero_()

    def means(self) -> ev.Metrics:
        """The means over the epoch so far of the losses and what they returned, named `loss_epoch` and so on."""
        taken = [i for i, summed in enumerate(self._summed) if summed]
        names = tuple(f"{name}_epoch" for i in taken for name in self.averaged[i])
        turns = self.carry["turns"]
        pending = torch.cat([turns[i]["sums"] / turns[i]["weight"] for i in taken]) if taken else None
        measured = {f"{name}_epoch": value for name, value in self.measures.compute().items()}
        return ev.Metrics(measured, names, pending)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of a step beside model and optimizers."""
        if self.torn:
            raise ValueError(
                "step: what is saved must be whole, got a batch that failed half way through its update. Resume from "
                "the checkpoint before it."
            )
        return {
            "carry": self.carry,
            "states": {key: dict(leaves(state)) for key, state in self.states.items()},
            "averaged": self.averaged,
            "summed": self._summed,
            "started": self.started,
            "measures": self.measures.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. States of callbacks that are no longer there are left out."""
        self.begin_states_anew()  # for callbacks that are new
        self._found = [tuple(names) for names in saved["averaged"]]
        self._make_room()
        self.started, self._summed = list(saved["started"]), list(saved["summed"])
        if saved["carry"]["grads"]:
            self.set_accumulation(2)
        copy_into("resume: the step", self.carry, saved["carry"])
        self._window = None
        for key in self.states.keys() & saved["states"].keys():
            copy_into(f"resume: {key}", self.states[key], saved["states"][key])
        self.measures.load_state_dict(saved["measures"])
        self._settings = list(map(opt.settings, self.optimizers))

    def __call__(
        self, batch: Any, update: bool = True, first: bool = True, turns: tuple[int, ...] | None = None
    ) -> ev.Metrics:
        """Trains on one batch.

        Args:
          batch: on the device.
          update: whether the optimizers step, which ends the window of accumulated batches.
          first: whether this batch begins a window.
          turns: indices of the turns that take part; None is all that have something to train.

        Returns:
          This batch's metrics, still on the device: losses, what they returned beside, what hooks published.
        """
        turns = self._awake if turns is None else turns
        if not turns:
            self.carry["step"].add_(update)
            return ev.Metrics()
        for i, optimizer in enumerate(self.optimizers):
            for j, group in enumerate(optimizer.param_groups):
                if group["lr"] != self._lr_values[i][j]:
                    self._lr_values[i][j] = group["lr"]
                    self._lrs[i][j].fill_(group["lr"])
        if self.level == EAGER or False in [self.started[i] for i in turns]:
            kind = (update, first, turns)
            vector, measured = self._eager(batch, kind)
        else:
            kind = (update, first and self._hears_zero_grad, turns)
            vector, measured = self._compiled(batch, kind)
        for i in turns:
            self._summed[i] = True
        if measured:
            self.measures.update(measured)
            updated = [name for name, (_, *values) in measured.items() if not values]
            if updated and self.level != EAGER:
                self._step_down(f"the loss updates {updated}; return (metric, *what_to_update_it_with)", EAGER)
        return ev.Metrics(None, self._names[kind], vector)

    def _compiled(self, batch: Any, kind: Kind) -> tuple[Tensor, Measured]:
        key = (signature(batch), kind)
        graph = self._graphs.get(key)
        if graph is not None:
            try:
                return graph(batch)
            except BaseException as error:
                if not compiling.is_tracing_error(error):
                    self.torn = True  # nobody knows how far it came
                    raise
            made = self._traced_again(graph, batch)
            if made is not None:
                return made
        return self._compile(key, batch)

    def _traced_again(self, graph: Any, batch: Any) -> tuple[Tensor, Measured] | None:
        """What a graph gives that has to be traced anew, as a plain value in the model changed; None if it cannot be.

        Torch keeps what it made before, for when the value changes back.
        """
        with compiling.tracing():
            try:
                return graph(batch)
            except BaseException as error:
                if not compiling.is_tracing_error(error):
                    self.torn = True
                    raise
        return None

    def check_settings(self) -> None:
        """Notices settings of an optimizer, other than its learning rate, that a schedule changed."""
        now = list(map(opt.settings, self.optimizers))
        if now != self._settings:
            self._settings = now
            if self.level == ONE_GRAPH and self._graphs:
                self._step_down("the schedule changes more of the optimizer than its learning rate")

    # The three levels.

    def _eager(self, batch: Any, kind: Kind) -> tuple[Tensor, Measured]:
        key = (signature(batch), kind, EAGER)
        run = self._graphs.get(key)
        if run is None:
            run = self._graphs[key] = self._in_two(batch, kind, region=lambda fn: fn, graph=lambda fn: fn)
        return run(batch)

    def _in_two(self, batch: Any, kind: Kind, region: Any, graph: Any) -> Callable[[Any], tuple[Tensor, Measured]]:
        """For each turn: up to the gradients, the optimizer's own step, then the rest."""
        parts = self._regions(batch, kind, region, self._held())
        update, _, turns = kind
        cut = [*zip(turns, map(graph, parts.before), map(graph, parts.after), strict=True)]

        def run(batch: Any) -> tuple[Tensor, Measured]:
            passed: Any = []
            measured: Measured = {}
            began = [] if region is compiling.nonstrict else self._changed_by_forward()
            for place, (i, before, after) in enumerate(cut):
                try:
                    passed, more = before(batch, passed)
                except BaseException:
                    if not self.torn:
                        for tensor, was in began:
                            tensor.copy_(was)
                    raise
                self.torn = True
                if measured.keys() & more.keys():
                    raise ValueError(f"loss: each metric must have a name of its own, got {[*more]} twice. Rename one.")
                measured |= more
                if update:
                    self._own_update(i, parts.unpack(place, passed))
                passed = after(passed)
            self.torn = False
            return passed, measured

        return run

    def _changed_by_forward(self) -> list[tuple[Tensor, Tensor]]:
        """What a turn writes before its gradients are settled, each with a copy."""
        changed = [*self.buffers.values(), *(each for turn in self.carry["turns"] for each in turn.values())]
        if self.hooks is not None and self.hooks.around_gradient is not None:
            changed += [p.detach() for p in self.params.values()]
        return [(tensor, tensor.detach().clone()) for tensor in changed]

    def _held(self) -> dict[str, Any]:
        resting = frozenset() if self.hooks is None else self.hooks.resting
        states = {key: state for key, state in self.states.items() if key not in resting}
        own = {"params": self.params, "frozen": self._frozen, "buffers": self.buffers}
        return {**own, "carry": self.carry, "states": states}

    def _held_in_one(self, turns: tuple[int, ...]) -> dict[str, Any]:
        states = {i: opt.state_tensors(self.optimizers[i]) for i in turns}
        return self._held() | {"optimizers": states, "lrs": {i: self._lrs[i] for i in turns}}

    def _regions(self, batch: Any, kind: Kind, region: Any, held: Any) -> Regions:
        update, first, turns = kind

        def averages(i: int, names: tuple[str, ...]) -> Tensor:
            self._found[i] = names
            if names != self.averaged[i] and region is compiling.nonstrict:
                raise RuntimeError("the loss returns other metrics than before")
            self._make_room()
            return self.carry["turns"][i]["sums"]

        def metrics(names: tuple[str, ...]) -> None:
            self._names[kind] = names

        taking = [(self.turns[i], Part(i, self.turns[i].name, self._params_of[i], update, first)) for i in turns]
        return regions(self.model, taking, self.hooks, held, batch, region, Found(averages, metrics), self._seen)

    def _own_update(self, i: int, scratch: Scratch) -> None:
        stop, optimizer, params = scratch.stop, self.optimizers[i], [self.params[name] for name in self._params_of[i]]
        decided = stop is not None and (not self.started[i] or stop.device.type == "cpu")
        if decided and bool(stop):
            return  # waits for a device only until the optimizer has made its state
        for name, p in zip(self._params_of[i], params, strict=True):
            p.grad = scratch.grads.get(name)
        if stop is None or decided:
            optimizer.step()
        else:
            moving = [p.detach() for p in params]
            moving += [leaf for _, leaf in leaves(opt.state_tensors(optimizer))]
            with torch.no_grad():
                phases.move(scratch, moving, optimizer.step)
        for p in params:
            p.grad = None
        self.started[i] = True

    def _compile(self, key: Any, batch: Any) -> tuple[Tensor, Measured]:
        kind: Kind = key[1]
        static = sum(each[1] == kind for each in self._graphs) < STATIC_SHAPES
        shared = None if static else self._graphs.get((ANY_SHAPE, kind, None))
        if shared is not None:
            made = self._traced_again(shared, batch)
            if made is not None:
                self._graphs[key] = shared
                return made

        def graph(fn: Any) -> Any:
            def counted() -> None:
                self.compilations += 1
                self._kinds.add((fn.__name__, kind))

            return compiling.one_graph(fn, on_compile=counted, static=static)

        falls: list[_Fall] = []
        while self.level != EAGER:
            # what runs before a later region fails to compile has moved everything
            before = self._copies() if self.level == TWO_REGIONS else None
            try:
                with compiling.tracing():
                    if self.level == ONE_GRAPH:
                        held = self._held_in_one(kind[2])
                        run = graph(self._regions(batch, kind, compiling.nonstrict, held).whole)
                    else:
                        run = self._in_two(batch, kind, compiling.nonstrict, graph)
                    made = run(batch)
            except Exception as error:
                if before is not None:
                    self._put_back(before)
                if not self._make_room():
                    falls.append(self._fall(error))
                continue
            self._tell(falls)
            self._graphs[key] = run
            if not static:
                self._graphs[ANY_SHAPE, kind, None] = run
            return made
        self._tell(falls)
        return self._eager(batch, kind)

    def _copies(self) -> tuple[Any, ...]:
        states = [copy.deepcopy(optimizer.state_dict()) for optimizer in self.optimizers]
        with torch.no_grad():
            return map_leaves(torch.clone, self._held()), states, random_state(), list(self.started)

    def _put_back(self, copies: tuple[Any, ...]) -> None:
        held, states, random, self.started = copies
        with torch.no_grad():
            map_leaves(lambda tensor, was: tensor.copy_(was), self._held(), held)
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        set_random_state(random)

    def _fall(self, error: Exception) -> "_Fall":
        """Takes the next level, or the last one without a compiler."""
        cause = next((each for each in compiling.behind(error) if raised_in(each)), error)
        reason = compiling.reason(cause)
        without = "compiler" in reason.lower() and "C++" in reason
        fell = _Fall(self.level, reason, raised_in(cause))
        self._run_as(EAGER if without else LEVELS[LEVELS.index(self.level) + 1])
        return fell

    def _step_down(self, reason: str, below: str = TWO_REGIONS) -> None:
        fell = _Fall(self.level, reason)
        self._run_as(below)
        self._tell([fell])

    def _tell(self, falls: list["_Fall"]) -> None:
        """Says once what became of it; what keeps it from two levels is not said twice."""
        told = [fell for fell in falls if fell is falls[0] or fell.kind != falls[0].kind]
        if told:
            log.warning("fncb: the step runs as %s, not as %s", self.level, "; nor as ".join(map(str, told)))

    def _run_as(self, level: str) -> None:
        self.level = level
        self._graphs.clear()

    def _make_room(self) -> bool:
        """Makes room for the means of the metrics that the last trace found; False when there is."""
        if self._found == self.averaged:
            return False
        for turn, names, found in zip(self.carry["turns"], self.averaged, self._found, strict=True):
            if names != found:
                turn["sums"] = turn["sums"].new_zeros(len(found))
        self.averaged = list(self._found)
        self._graphs.clear()
        return True


@attrs.frozen
class _Fall:
    """Why the step does not run as a level: the error in one line, and key and name of the step hook it came from."""

    level: str
    reason: str
    hook: tuple[str, str] | None = None

    @property
    def kind(self) -> tuple[Any, str]:
        """Whose fault it is and the class of the error; its text tells of the level too."""
        return self.hook, self.reason.split(":")[0]

    def __str__(self) -> str:
        because = "" if self.hook is None else ", because of the step hook `{1}` of {0!r}".format(*self.hook)
        return f"{self.level}{because}: {self.reason}"
