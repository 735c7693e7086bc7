"""What a checkpoint holds, without loading its tensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from fncb import store
from fncb.packing import unpack


@attrs.frozen(kw_only=True)
class Contents:
    """What a checkpoint says of itself.

    Attributes:
      path: the file.
      size: in bytes.
      header: as `store.read_header` gives it: versions, `epoch`, `step` and other plain values at the top.
      tree: what was saved; a tensor is a dict with the one key `$tensor`, its name.
      tensors: shape and dtype by name, as safetensors calls them.
    """

    path: Path
    size: int
    header: Mapping[str, Any]
    tree: Any
    tensors: Mapping[str, tuple[tuple[int, ...], str]]


def contents_of(path: str | Path) -> Contents:
    """Reads a checkpoint's header; of its tensors only names, shapes and dtypes.

    Raises:
      DamagedCheckpoint: if the header is not as it was written. What the tensors hold is not looked at.
      ValueError: if the format is a newer one.
    """
    path = Path(path)
    header = store.read_header(path)
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {}
        for name in file.keys():  # noqa: SIM118 - it cannot be iterated over
            part = file.get_slice(name)
            tensors[name] = tuple(part.get_shape()), part.get_dtype()
    return Contents(path=path, size=path.stat().st_size, header=header, tree=unpack(metadata["tree"]), tensors=tensors)


def inspect(path: str | Path, console: Console | None = None) -> None:
    """Prints what a checkpoint holds: step, metrics, callbacks' states, and the sizes of its parts.

    Tensors are not loaded, so it takes no time and no memory. They are not verified either: resuming and `load` do.

    Args:
      path: a checkpoint, or a directory, of which it is the newest whose header is good.
      console: where to print; standard output by default.

    Raises:
      DamagedCheckpoint, ValueError: as `load`.

    Example:
      >>> import tempfile, torch
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "a.safetensors")
      ...     _ = store.write(path, {"step": 3, "metrics": {"loss": 0.5}, "model": {"weight": torch.ones(2, 3)}})
      ...     inspect(path, Console(width=80))  # doctest: +ELLIPSIS
      a.safetensors: ..., written by fncb ..., torch ...
      step 3
      metrics: loss 0.5
      model   1 tensor   6 values   24 B
    """
    path = Path(path)
    if path.is_dir():
        there = store.checkpoints(path)
        if not there:
            raise ValueError(f"inspect: path must be a checkpoint or a directory with one, got {path} without any.")
        path = there[0]
    out, found = console or Console(soft_wrap=True), contents_of(path)
    tree = found.tree if isinstance(found.tree, dict) else {"": found.tree}
    written_by = f"written by fncb {found.header['fncb']}, torch {found.header['torch']}"
    out.print(f"{found.path.name}: {_bytes(found.size)}, {written_by}", highlight=False, markup=False)
    counters = [f"{name} {tree[name]}" for name in ("epoch", "step", "seconds", "event") if name in tree]
    if counters:
        out.print(", ".join(counters), highlight=False, markup=False)
    for name in ("metrics", "logged"):
        if tree.get(name):
            values = ", ".join(f"{metric} {value:.6g}" for metric, value in tree[name].items())
            out.print(f"{name}: {values}", highlight=False, markup=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    for _ in range(3):
        table.add_column(justify="right" if table.columns else "left")
    table.add_column(justify="right")
    for part in tree:
        mine = {name: each for name, each in found.tensors.items() if name == part or name.startswith(f"{part}.")}
        if mine:
            values = sum(map(_count, mine.values()))
            size = sum(_count(each) * _WIDTH.get(each[1], 1) for each in mine.values())
            tensors = "1 tensor" if len(mine) == 1 else f"{len(mine)} tensors"
            table.add_row(part, tensors, f"{values:,} values", _bytes(size))
    out.print(table, highlight=False)
    for key, state in (tree.get("callbacks") or {}).items():
        out.print(f"{key}: {_short(state)}".removesuffix(": "), highlight=False, markup=False)


_WIDTH = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


def _count(tensor: tuple[tuple[int, ...], str]) -> int:
    count = 1
    for length in tensor[0]:
        count *= length
    return count


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("units end with GB")


def _short(state: Any) -> str:
    if not isinstance(state, dict):
        return _json(state)
    return ", ".join(f"{name} {_json(value)}" for name, value in state.items())


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."
