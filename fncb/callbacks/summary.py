"""What a model consists of, as summaries of it tell."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.effects import Examine, Print
from fncb.events import FitStart
from fncb.fields import must_be_int
from fncb.tree import map_leaves

if TYPE_CHECKING:
    from torch import Tensor, nn

OWN = "(own parameters)"
"""The name of the row for what a model holds outside of its submodules."""

NUMBERS = ("", "Params", "FLOPs")
"""Heads of the columns of numbers."""


@attrs.frozen
class Passed:
    """What a forward pass told of a submodule.

    Attributes:
      flops: floating-point operations that it took.
      inputs, outputs: the shapes that it was first called with, and gave.
    """

    flops: int
    inputs: str
    outputs: str


@attrs.frozen
class Row:
    """A submodule.

    Attributes:
      name: as `named_modules` has it.
      kind: its class.
      params: numbers in its parameters, one that it has twice counted once; 0 for what is not initialised yet.
      training: whether it is in the mode of training.
      passed: what a forward pass told; None if none went through it.
    """

    name: str
    kind: str
    params: int
    training: bool
    passed: Passed | None = None


@attrs.frozen
class Summary:
    """A model: its submodules, and totals over all of it.

    Attributes:
      rows: submodules in the order in which the model holds them.
      trainable, frozen: numbers in parameters, each parameter counted once.
      bytes: that they take.
      modes: how many submodules are in the mode of training, and of evaluation.
      flops: operations of a forward pass; None if none was made.
    """

    rows: tuple[Row, ...]
    trainable: int
    frozen: int
    bytes: int
    modes: tuple[int, int]
    flops: int | None = None

    def cells(self) -> list[list[str]]:
        """A table of text: the heads of its columns, then a row for each submodule."""
        heads = ["", "Name", "Type", "Params", "Mode"]
        rows = [
            [str(i), row.name, row.kind, f"{row.params:,}", "train" if row.training else "eval"]
            for i, row in enumerate(self.rows)
        ]
        if self.flops is not None:
            heads += ["FLOPs", "In sizes", "Out sizes"]
            for cells, row in zip(rows, self.rows, strict=True):
                of = row.passed
                unknown = "" if row.name == OWN else "?"
                cells += [unknown] * 3 if of is None else [in_short(of.flops), of.inputs, of.outputs]
        return [heads, *rows]

    def totals(self) -> list[tuple[str, str]]:
        """What there is in all: names and values."""
        found = [
            ("Trainable params", f"{self.trainable:,}"),
            ("Non-trainable params", f"{self.frozen:,}"),
            ("Total params", f"{self.trainable + self.frozen:,}"),
            ("Size of params", in_short(self.bytes, "B")),
            ("Modules in train mode", f"{self.modes[0]:,}"),
            ("Modules in eval mode", f"{self.modes[1]:,}"),
        ]
        return found if self.flops is None else [*found, ("Total FLOPs", in_short(self.flops))]


def summarizing(
    who: str,
    key: str,
    max_depth: int,
    example_input: Any,
    drawn: Callable[[Summary], Any] | None = None,
    **config: Any,
) -> Callback[EmptyState]:
    """The callback behind every summary; `drawn` makes of it what a terminal shows in place of the text."""
    must_be_int(who, "max_depth", max_depth, -1, "(all levels)")

    def look(model: nn.Module, event: FitStart, _: Mapping[str, Any]) -> Examine:
        modes = {name: module.training for name, module in model.named_modules()}

        def measure(model: nn.Module, event: FitStart, _: Mapping[str, Any]) -> Print:
            summary = summarize(model, modes, max_depth, example_input)
            return Print(as_text(summary), rich=drawn and drawn(summary))

        return Examine("summary", measure)  # in eval mode, which hides the modes

    def on_fit_start(state: EmptyState, event: FitStart) -> Emit[EmptyState]:
        return emit(state, Examine("modes", look, eval_mode=False))

    given = None if example_input is None else sizes(example_input)
    return Callback(
        constructor=who,
        key=key,
        emits=(Examine, Print),
        config={"max_depth": max_depth, "example_input": given, **config},
        on_fit_start=on_fit_start if max_depth else None,
    )


def summarize(model: nn.Module, modes: Mapping[str, bool], max_depth: int, example_input: Any = None) -> Summary:
    """Sums up a model that is in eval mode.

    Args:
      model: is called on the example input, if there is one.
      modes: of its modules by name, whether each is in the mode of training when it is trained.
      max_depth: levels of submodules that have a row; -1 for all.
      example_input: what to call it with: one argument, a tuple of them, or a mapping of arguments by name.
    """
    found = {name: part for name, part in model.named_modules() if name}
    found = {name: part for name, part in found.items() if name.count(".") < max_depth or max_depth < 0}
    total, passed = None, {}
    if example_input is not None:
        total, passed = _pass(model, found.values() if found else [model], example_input)
    rows = [
        Row(name, type(part).__name__, _count(part.parameters()), modes[name], passed.get(part))
        for name, part in found.items()
    ]
    own = [*model.parameters(recurse=False)]
    if own or not found:
        rows.insert(0, Row(OWN, type(model).__name__, _count(own), modes[""], passed.get(model)))
    params = [*model.parameters()]
    inside = [mode for name, mode in modes.items() if name] or [*modes.values()]
    return Summary(
        rows=tuple(rows),
        trainable=_count(p for p in params if p.requires_grad),
        frozen=_count(p for p in params if not p.requires_grad),
        bytes=sum(_count([p]) * p.dtype.itemsize for p in params),
        modes=(sum(inside), len(inside) - sum(inside)),
        flops=total,
    )


def as_text(summary: Summary) -> str:
    """A summary as a table of plain text, numbers at the right."""
    heads, *rows = summary.cells()
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        each = zip(heads, cells, widths, strict=True)
        return " │ ".join(f"{cell:>{w}}" if head in NUMBERS else f"{cell:<{w}}" for head, cell, w in each).rstrip()

    totals = summary.totals()
    name_width, value_width = (max(map(len, column)) for column in zip(*totals, strict=True))
    return "\n".join(
        [
            line(heads),
            "─┼─".join("─" * width for width in widths),
            *map(line, rows),
            "",
            *[f"{name:<{name_width}}  {value:>{value_width}}" for name, value in totals],
        ]
    )


def in_short(n: int, unit: str = "") -> str:
    """A large number in three digits or so.

    Example:
      >>> in_short(640), in_short(12_345), in_short(7_500_000, "B")
      ('640', '12.3 K', '7.5 MB')
    """
    value, prefix = float(n), ""
    for larger in "KMGTP":
        if value < 999.5:
            break
        value, prefix = value / 1000, larger
    return f"{value:.3g} {prefix}{unit}".rstrip()


def sizes(value: Any) -> str:
    """The shapes of the tensors in a value, nested as they are there; what holds none is left out.

    Example:
      >>> import torch
      >>> sizes((torch.ones(2, 3), None, {"mask": torch.ones(2), "name": "text"}))
      '[[2, 3], {mask: [2]}]'
    """
    if hasattr(value, "shape"):
        return str(list(value.shape))
    if isinstance(value, Mapping):
        within = ", ".join(f"{name}: {shapes}" for name, each in value.items() if (shapes := sizes(each)))
        return within and "{" + within + "}"
    if isinstance(value, list | tuple):
        within = ", ".join(filter(None, map(sizes, value)))
        return within and f"[{within}]"
    return ""


def _count(params: Iterable[Tensor]) -> int:
    from torch.nn.parameter import is_lazy

    return sum(0 if is_lazy(p) else p.numel() for p in params)


def _pass(model: nn.Module, parts: Iterable[nn.Module], example_input: Any) -> tuple[int, dict[nn.Module, Passed]]:
    """The operations of a forward pass in all, and what it tells of some modules."""
    from torch.utils.flop_counter import FlopCounterMode

    given = _like(model, example_input)
    counter = FlopCounterMode(display=False)
    begun: dict[nn.Module, int] = {}
    found: dict[nn.Module, Passed] = {}

    def before(module: nn.Module, _: Any) -> None:
        begun[module] = counter.get_total_flops()

    def after(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        inputs = [each for each in (*args, *named.values()) if sizes(each)]
        first = found.get(module) or Passed(0, sizes(inputs[0] if len(inputs) == 1 else inputs), sizes(output))
        found[module] = attrs.evolve(first, flops=first.flops + counter.get_total_flops() - begun[module])

    with ExitStack() as watching, _unfused(), counter:
        for part in parts:
            watching.callback(part.register_forward_pre_hook(before).remove)
            watching.callback(part.register_forward_hook(after, with_kwargs=True).remove)
        if isinstance(given, Mapping):
            model(**given)
        else:
            model(*given) if isinstance(given, tuple) else model(given)
    return counter.get_total_flops(), found


def _like(model: nn.Module, example_input: Any) -> Any:
    """The tensors of the input where the model is, those of floating point with the precision of its parameters."""
    import torch

    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if first is None:
        return example_input

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf.to(first.device, first.dtype if leaf.is_floating_point() else leaf.dtype)

    return map_leaves(moved, example_input)


@contextmanager
def _unfused() -> Generator[None]:
    """Has attention made in parts: in one piece, as torch may make it in eval mode, its operations are not counted."""
    from torch.backends import mha

    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)
