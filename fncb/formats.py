"""What a checkpoint file looks like, byte by byte, and how the trees of older ones are made new.

A checkpoint is a safetensors file. Its body holds the tensors, its metadata the rest of the tree as JSON.
`sha256_body` in the metadata covers the body and `sha256` the header, with its own 64 digits taken as zeros: so no bit
of the file is left out, and a header can be trusted without reading the tensors.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import attrs
import msgspec

from fncb.packing import DTYPES, Packed, dtype_name

if TYPE_CHECKING:
    import torch

VERSION = 3
"""Of the tree. Whoever changes what is in it adds one, and a function to `MIGRATIONS`."""


def _to_2(tree: Any) -> Any:
    """Version 2 knows attempts, the arguments of callbacks, and places in the middle of a batch."""
    if not isinstance(tree, dict) or "callbacks" not in tree:
        return tree  # not of a run
    for state in tree["callbacks"].values():
        for asked in state.get("asked", ()) if isinstance(state, dict) else ():
            asked["kept_as"] = "last" if asked.pop("last") else "best"
    if "position" in tree:
        at = tree["position"]
        at |= {"loader_next": at["loader"], "made": (), "told": 0, "is_training": at["phase"] != "" and not at["cut"]}
        at["phase"] = "Cut" if at["cut"] else at["phase"]
    if "random" in tree:
        tree["random"] = {moment: {**state, "own": []} for moment, state in tree["random"].items()}
    return {**tree, "attempt": 0, "heard": 0, "kinds": {}, "configs": {}}


def _to_3(tree: Any) -> Any:
    """Version 3 knows what is remembered to go back to, layers that track no statistics, and functions of groups."""
    if isinstance(tree, dict) and "control" in tree:
        tree["control"] |= {"untracked": [], "functions": {}}
        return {**tree, "remembered": {}, "configs": {}}  # which had fewer arguments
    return tree


MIGRATIONS: dict[int, Callable[[Any], Any]] = {1: _to_2, 2: _to_3}
"""Entry n makes a tree of version n + 1 of one of version n, which it may change.

The counters that order files, `step`, `attempt` and `heard`, stay at the top of a tree under their names in every
version: they are read from the headers, without the tensors.
"""

FORGED = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError)
"""What comes of taking apart something that is not what it says."""

CHUNK = 4 << 20  # bytes that are hashed and written at once
LARGE = 4 << 20  # bytes of tensors from which on a second thread pays
_SMALL = 1 << 16  # bytes of a tensor that is gathered with others, so that it is not written alone
_LONGEST_HEADER = 100_000_000  # bytes: what other readers of safetensors accept
_MARK = b'"sha256":"'  # is found once: inside JSON strings, quotes are escaped
_NOT_YET = "0" * 64


class DamagedCheckpoint(ValueError):
    """A file that is no whole checkpoint: truncated, altered, or something else altogether."""


class Metadata(msgspec.Struct):
    """What a header says beside where the tensors are."""

    fncb_format: int
    fncb_version: str
    torch_version: str
    sha256_body: str
    tree: str
    layouts: str


_Size = Annotated[int, msgspec.Meta(ge=0)]


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One tensor: where in the body it is, and as what."""

    dtype: str
    shape: list[_Size]
    data_offsets: tuple[_Size, _Size]

    def empty(self) -> torch.Tensor:
        """A tensor of this kind on the host, whatever the default device is."""
        import torch

        return torch.empty(self.shape, dtype=getattr(torch, DTYPES[self.dtype][0]), device="cpu")


@attrs.frozen
class Header:
    """All before the body.

    Attributes:
      found: the metadata.
      entries: the tensors by name, in the order of the body, which they fill without a gap.
      begin: where the body begins.
      end: where the file must end.
    """

    found: Metadata
    entries: Mapping[str, Entry]
    begin: int
    end: int


def in_order(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Widest items first, so that each tensor is aligned for those who map the file into memory."""
    return dict(sorted(tensors.items(), key=lambda named: -named[1].itemsize))


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """A contiguous host tensor's memory, without a copy."""
    if not tensor.nbytes:
        return memoryview(b"")
    view: Any = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    view.owner = tensor  # which lives as long as the view
    return memoryview(view).cast("B")


def header_of(packed: Packed, body_digest: str = _NOT_YET) -> bytes:
    """All before the body: 8 bytes of length, then JSON padded with spaces to a multiple of 8.

    Raises:
      ValueError: if it were longer than what can be read.
    """
    import torch

    header: dict[str, Any] = {
        "__metadata__": {
            "format": "pt",  # what other readers of safetensors look for
            "fncb_format": str(VERSION),
            "fncb_version": version(),
            "torch_version": str(torch.__version__),
            "sha256": _NOT_YET,
            "sha256_body": body_digest,
            "tree": packed.tree,
            "layouts": packed.layouts,
        }
    }
    end = 0
    for name, tensor in in_order(packed.tensors).items():
        offsets = [end, end := end + tensor.nbytes]
        header[name] = {"dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape), "data_offsets": offsets}
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST_HEADER:
        raise ValueError(
            f"store.write: all but the tensors must take at most {_LONGEST_HEADER} bytes as JSON, got {len(text)}. "
            "Keep large data in tensors."
        )
    blank = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(blank).hexdigest()
    return blank.replace(_MARK + _NOT_YET.encode(), _MARK + digest.encode(), 1)


def pieces_of(packed: Packed, wait: Callable[[], None]) -> Iterator[memoryview]:
    """The body in pieces. Small tensors are gathered in one; of copies only one is held at a time."""
    gathered = bytearray()
    for tensor in in_order(packed.tensors).values():
        host = tensor.resolve_conj().resolve_neg().contiguous().cpu()  # waits for the device
        data = bytes_of(host)
        if len(data) < _SMALL:
            gathered += data
            if len(gathered) < CHUNK:
                continue
            data = memoryview(b"")
        if gathered:
            yield memoryview(gathered)
            gathered = bytearray()
        for begin in range(0, len(data), CHUNK):
            yield data[begin : begin + CHUNK]
        if host.data_ptr() != tensor.data_ptr():
            wait()
    yield memoryview(gathered)


@contextmanager
def sha256(size: int) -> Generator[tuple[Any, Callable[[Any], object], Callable[[], None]]]:
    """A digest, what takes its next piece, and what waits for all of them: in a second thread if that pays.

    Neither hashing nor writing holds the interpreter, so the two go on side by side.
    """
    digest, pieces = hashlib.sha256(), Queue()

    def work() -> None:
        while (piece := pieces.get()) is not None:
            digest.update(piece)
            del piece  # may be all that keeps a copy
            pieces.task_done()

    thread = Thread(target=work, name="fncb-sha256", daemon=True) if size >= LARGE else None
    try:
        if thread:
            thread.start()
    except RuntimeError:  # there are no new threads when the interpreter shuts down
        thread = None
    if thread is None:
        yield digest, digest.update, lambda: None
        return
    try:
        yield digest, pieces.put, pieces.join
    finally:
        pieces.put(None)
        thread.join()


def version() -> str:
    """The version of fncb that is installed."""
    global _version
    if _version is None:
        try:
            _version = metadata.version("fncb")
        except metadata.PackageNotFoundError:
            _version = "unknown"
    return _version


_version: str | None = None  # looking it up takes as long as writing a small checkpoint


def read_header(file: BinaryIO, path: Path) -> Header:
    """The verified header of a file, which is left where the body begins.

    Nothing is allocated for sizes that the file only claims.
    """
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or size < 8 + length <= 8 + _LONGEST_HEADER:
        least = 8 + length if len(prefix) == 8 else 8
        raise damaged(path, f"must have more than {least} bytes, got {size}")
    raw = prefix + (file.read(length) if length <= _LONGEST_HEADER else file.read(8))
    start = raw.find(_MARK) + len(_MARK)
    if length > _LONGEST_HEADER or _MARK not in raw:
        raise damaged(path, f"must be a checkpoint of fncb, got no checksum in its header, which begins {raw[:16]!r}")
    blank = raw[:start] + _NOT_YET.encode() + raw[start + 64 :]
    if hashlib.sha256(blank).hexdigest().encode() != raw[start : start + 64]:
        raise damaged(path, "must have the header that was written, got another")
    try:
        parts = msgspec.json.decode(raw[8:], type=dict[str, msgspec.Raw])
        found = msgspec.json.decode(parts.pop("__metadata__"), type=Metadata, strict=False)
    except FORGED as error:
        raise damaged(path, f"must have a header of fncb, got {type(error).__name__}: {error}") from error
    if found.fncb_format > VERSION:
        raise ValueError(
            f"store.read: {path} must be of format {VERSION} or older, got format {found.fncb_format}, written by "
            f"fncb {found.fncb_version}. Install that version or a newer one."
        )
    try:
        entries = _entries(parts)
        if found.fncb_format < 1:
            raise ValueError(f"format {found.fncb_format}")
    except FORGED as error:
        raise damaged(path, f"must have a header of fncb, got {type(error).__name__}: {error}") from error
    body = sum(entry.data_offsets[1] - entry.data_offsets[0] for entry in entries.values())
    return Header(found, entries, 8 + length, 8 + length + body)


def _entries(parts: Mapping[str, msgspec.Raw]) -> dict[str, Entry]:
    entries = [(name, msgspec.json.decode(raw, type=Entry)) for name, raw in parts.items()]
    entries.sort(key=lambda named: named[1].data_offsets)
    end = 0
    for name, entry in entries:
        start, stop = entry.data_offsets
        _, size = DTYPES[entry.dtype]
        for dim in entry.shape:
            size *= dim or 1
            if size >= 1 << 63:  # no tensor, and soon a number as long as the header
                raise ValueError(f"tensor {name!r} of shape {entry.shape[:8]}")
        if start != end or stop - start != (0 if 0 in entry.shape else size):
            raise ValueError(f"tensor {name!r} of shape {entry.shape[:8]} at {entry.data_offsets}")
        end = stop
    return dict(entries)


def migrated(tree: Any, since: int) -> Any:
    """A tree of an older version as one of today's."""
    for older in range(since, VERSION):
        tree = MIGRATIONS[older](tree)
    return tree


def damaged(path: Path, what: str) -> DamagedCheckpoint:
    """The error for a file that cannot be trusted."""
    return DamagedCheckpoint(
        f"store.read: {path} {what}. It is damaged, or no checkpoint. Use another one; `latest(directory)` finds it."
    )
