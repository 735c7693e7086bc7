"""What a checkpoint holds, without loading its tensors."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fncb import store
from fncb.disk import explained
from fncb.formats import read_header
from fncb.packing import DTYPES, unpack
from fncb.printable import printable


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
    with explained("inspect", path), open(path, "rb") as file:
        raw = read_header(file, path)
    tensors = {name: (tuple(entry.shape), entry.dtype) for name, entry in raw.entries.items()}
    return Contents(path=path, size=path.stat().st_size, header=header, tree=unpack(raw.found.tree), tensors=tensors)


def newest(path: str | Path) -> Path:
    """The path itself, or the newest checkpoint of a directory whose header is good.

    Raises:
      ValueError: for a directory without any.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    there = store.checkpoints(path)
    if not there:
        raise ValueError(f"inspect: path must be a checkpoint or a directory with one, got {path} without any.")
    return there[0]


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
    out, found = console or Console(soft_wrap=True), contents_of(newest(path))
    tree = found.tree if isinstance(found.tree, dict) else {"": found.tree}

    def show(text: str) -> None:
        out.print(printable(text), highlight=False, markup=False, emoji=False)

    show(
        f"{found.path.name}: {in_bytes(found.size)}, written by fncb {found.header['fncb']}, "
        f"torch {found.header['torch']}"
    )
    counters = [f"{name} {tree[name]}" for name in ("epoch", "step", "seconds", "event") if name in tree]
    if counters:
        show(", ".join(counters))
    for name in ("metrics", "logged"):
        if tree.get(name):
            show(f"{name}: {_short(tree[name])}")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    for _ in range(3):
        table.add_column(justify="right" if table.columns else "left")
    table.add_column(justify="right")
    for part in tree:
        mine = {name: each for name, each in found.tensors.items() if name == part or name.startswith(f"{part}.")}
        if mine:
            values = sum(prod(shape) for shape, _ in mine.values())
            size = sum(prod(shape) * DTYPES[dtype][1] for shape, dtype in mine.values())
            tensors = "1 tensor" if len(mine) == 1 else f"{len(mine)} tensors"
            table.add_row(Text(printable(part)), tensors, f"{values:,} values", in_bytes(size))
    out.print(table, highlight=False)
    callbacks = tree.get("callbacks")
    for key, state in callbacks.items() if isinstance(callbacks, dict) else ():
        show(f"{key}: {_short(state)}".removesuffix(": "))


def in_bytes(size: float) -> str:
    """A size in bytes as people read it, in powers of 1000.

    Example:
      >>> in_bytes(120), in_bytes(4_200_000)
      ('120 B', '4.2 MB')
    """
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
    if isinstance(value, float):
        return f"{value:.6g}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."
