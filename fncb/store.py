"""Files that survive: checkpoints written atomically, checked whenever they are read.

A checkpoint is a safetensors file. Its body holds the tensors, its metadata the rest of the tree as JSON.
`sha256_body` in the metadata covers the body and `sha256` the header, with its own 64 digits taken as zeros: so no bit
of the file is left out, and a header can be trusted without reading the tensors.
"""

import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import struct
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fncb.packing import DTYPES, Packed, pack, unpack

VERSION = 1
SUFFIX = ".safetensors"

_LONGEST_HEADER = 100_000_000  # bytes: what other readers of safetensors accept
_MARK = b'"sha256":"'  # is found once: inside JSON strings, quotes are escaped
_NOT_YET = "0" * 64
_FORGED = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError)


class DamagedCheckpoint(ValueError):
    """A file that is no whole checkpoint: truncated, altered, or something else altogether."""


@attrs.frozen
class Rejected:
    """A file that could not be used, and why."""

    path: Path
    reason: str


@attrs.frozen
class Latest:
    """The newest checkpoint that verifies, None if none does, and the files that were passed over for it."""

    path: Path | None
    rejected: tuple[Rejected, ...] = ()


def write(path: str | Path, tree: Any, *, overwrite: bool = False) -> int:
    """Writes a checkpoint, whole or not at all, and returns its size in bytes.

    It is written to a temporary file in the same directory (made if needed), flushed to the disk, given its name in
    one step, and the directory flushed too. Tensors are copied to the host one at a time. Tensors that are the same
    view of the same memory are stored once and read back as one tensor; other views are stored as copies.

    Args:
      path: where; `.safetensors` is what `checkpoints` looks for.
      tree: nested dicts (keys are strings or integers), lists, tuples, strings, numbers, booleans, None and dense
        tensors of any dtype, shape, memory layout and device.
      overwrite: whether a file of that name is replaced. It is whole at every moment, old or new.

    Raises:
      FileExistsError: if the name is taken, also by somebody else in this very moment, and `overwrite` is False.
      TypeError: if the tree holds anything else, naming where.
      OSError: from the disk; when it is full, with the bytes that were needed and free.
    """
    return write_packed(Path(path), pack(tree), overwrite=overwrite)


def write_packed(path: Path, packed: Packed, *, overwrite: bool = False) -> int:
    """As `write`, of a tree that was taken apart before, for example when its tensors were copied."""
    size = len(_header(packed, _NOT_YET)) + sum(tensor.nbytes for tensor in packed.tensors.values())
    _make_directory(path.parent)
    temporary = path.parent / f".fncb-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            _fill(file, packed)
            file.flush()
            os.fsync(file.fileno())
        _commit(temporary, path, overwrite)
    except FileExistsError:
        raise FileExistsError(f"store.write: the name must be free, got {path}. Take free_name(path).") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(path.parent).free
        message = f"store.write: the disk must have room for {size} bytes, got {free} free"
        raise OSError(error.errno, message, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return size


def read(path: str | Path) -> Any:
    """The tree of a checkpoint, verified, its tensors on the CPU.

    Raises:
      DamagedCheckpoint: if a single bit differs from what was written, or the file is something else.
      ValueError: if a newer fncb wrote it in a format unknown to this one.
    """
    path = Path(path)
    found = _verified(path)
    try:
        return unpack(found.tree, found.layouts, load_file(path, backend="pread"))
    except _FORGED as error:
        raise _damaged(path, f"must hold a tree, got {type(error).__name__}: {error}") from error


def verify(path: str | Path) -> None:
    """Reads all of a checkpoint and raises as `read` does if a single bit is not as it was written."""
    _verified(Path(path))


def read_header(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself, without reading its tensors.

    Returns:
      `format`, `version`, `fncb` and `torch` (the versions that wrote it), and the tree's top-level strings, numbers,
      booleans and Nones, for example `step` and `epoch`.

    Raises:
      DamagedCheckpoint: if the header is not as it was written.
      ValueError: if the format is a newer one.
    """
    path = Path(path)
    with open(path, "rb") as file:
        found, _ = _read_header(file, path)
    try:
        tree = unpack(found.tree)
    except _FORGED as error:
        raise _damaged(path, f"must hold a tree, got {type(error).__name__}: {error}") from error
    top = tree.items() if isinstance(tree, dict) else ()
    plain = {key: value for key, value in top if value is None or isinstance(value, str | int | float)}
    versions = {"version": found.fncb_format, "fncb": found.fncb_version, "torch": found.torch_version}
    return {**plain, "format": "fncb", **versions}


def free_name(path: str | Path) -> Path:
    """The path itself, or with `-v1`, `-v2`, ... before its suffix if the name is taken."""
    path = Path(path)
    free, attempt = path, 0
    while os.path.lexists(free):
        attempt += 1
        free = path.with_name(f"{path.stem}-v{attempt}{path.suffix}")
    return free


def checkpoints(directory: str | Path) -> list[Path]:
    """The `.safetensors` files of a directory and those within whose headers are good, newest first.

    Newest is by `step`, then `attempt`, both of the header (0 if absent), then the longer and later name: never by
    the file's time.
    """
    return _sorted(Path(directory))[0]


def latest(directory: str | Path) -> Latest:
    """The newest checkpoint of a directory that verifies; each newer or unreadable file with its reason."""
    paths, rejected = _sorted(Path(directory))
    for path in paths:
        try:
            verify(path)
        except (ValueError, OSError) as error:
            rejected.append(Rejected(path, str(error)))
        else:
            return Latest(path, tuple(rejected))
    return Latest(None, tuple(rejected))


def delete(path: str | Path) -> None:
    """Deletes a checkpoint. One that is gone already is no error."""
    Path(path).unlink(missing_ok=True)


def _sorted(directory: Path) -> tuple[list[Path], list[Rejected]]:
    known, rejected = [], []
    for path in sorted(directory.rglob(f"*{SUFFIX}")):
        try:
            header = read_header(path)
        except (ValueError, OSError) as error:
            rejected.append(Rejected(path, str(error)))
        else:
            step, attempt = (n if isinstance(n := header.get(name), int) else 0 for name in ("step", "attempt"))
            known.append((step, attempt, len(path.name), path))
    return [path for *_, path in sorted(known, reverse=True)], rejected


def _fill(file: BinaryIO, packed: Packed) -> None:
    file.seek(len(_header(packed, _NOT_YET)))
    digest = hashlib.sha256()
    for tensor in _in_order(packed.tensors).values():
        host = tensor.resolve_conj().resolve_neg().contiguous().cpu()  # waits for the device
        digest.update(_bytes(host))
        file.write(_bytes(host))
    file.seek(0)
    file.write(_header(packed, digest.hexdigest()))


def _in_order(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Widest items first, so that each tensor is aligned for those who map the file into memory."""
    return dict(sorted(tensors.items(), key=lambda named: -named[1].itemsize))


def _bytes(tensor: torch.Tensor) -> Any:
    """A contiguous host tensor's memory, without a copy."""
    return (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()) if tensor.nbytes else b""


def _header(packed: Packed, body_digest: str) -> bytes:
    """All before the body: 8 bytes of length, then JSON padded with spaces to a multiple of 8."""
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
    for name, tensor in _in_order(packed.tensors).items():
        offsets = [end, end := end + tensor.nbytes]
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    blank = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(blank).hexdigest()
    return blank.replace(_MARK + _NOT_YET.encode(), _MARK + digest.encode(), 1)


def version() -> str:
    """The version of fncb that is installed."""
    try:
        return metadata.version("fncb")
    except metadata.PackageNotFoundError:
        return "unknown"


@attrs.frozen
class _Metadata:
    fncb_format: int
    fncb_version: str
    torch_version: str
    sha256_body: str
    tree: str
    layouts: str


def _verified(path: Path) -> _Metadata:
    with open(path, "rb") as file:
        found, end = _read_header(file, path)
        size = os.fstat(file.fileno()).st_size
        if size != end:
            raise _damaged(path, f"must have {end} bytes, got {size}")
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != found.sha256_body:
        raise _damaged(path, "must hold the tensors that were written, got others")
    return found


def _read_header(file: BinaryIO, path: Path) -> tuple[_Metadata, int]:
    """The verified metadata, and where the file must end; `file` is left where the body begins."""
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or size < 8 + length <= 8 + _LONGEST_HEADER:
        raise _damaged(path, f"must have more than {8 + length if len(prefix) == 8 else 8} bytes, got {size}")
    raw = prefix + file.read(min(length, _LONGEST_HEADER))
    start = raw.find(_MARK) + len(_MARK)
    if length > _LONGEST_HEADER or _MARK not in raw:
        raise _damaged(path, f"must be a checkpoint of fncb, got no checksum in its header, which begins {raw[:16]!r}")
    blank = raw[:start] + _NOT_YET.encode() + raw[start + 64 :]
    if hashlib.sha256(blank).hexdigest().encode() != raw[start : start + 64]:
        raise _damaged(path, "must have the header that was written, got another")
    try:
        header = msgspec.json.decode(raw[8:], type=dict[str, dict[str, Any]])
        found = msgspec.convert(header.pop("__metadata__"), _Metadata, strict=False)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except _FORGED as error:
        raise _damaged(path, f"must have a header of fncb, got {type(error).__name__}: {error}") from error
    if found.fncb_format > VERSION:
        raise ValueError(
            f"store.read: {path} must be of format {VERSION} or older, got format {found.fncb_format}, written by "
            f"fncb {found.fncb_version}. Install that version or a newer one."
        )
    return found, end


def _damaged(path: Path, what: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"store.read: {path} {what}. It is damaged, or no checkpoint. Use another one; `latest(directory)` finds it."
    )


def _commit(temporary: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(temporary, path)
    else:
        try:
            os.link(temporary, path)  # unlike a rename, this fails if the name is taken
            temporary.unlink()
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # no hard links here: take the name, then replace it
            os.replace(temporary, path)
    _sync_directory(path.parent)


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # knows no such thing
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
