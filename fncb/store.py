"""Files that survive: checkpoints written atomically, checked whenever they are read."""

import errno
import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import attrs

from fncb.disk import DISK, Disk, discard, explained, make_directories, temporary_in, write_all
from fncb.formats import CHUNK, FORGED, LARGE, Header, bytes_of, damaged, header_of, migrated, pieces_of, sha256
from fncb.formats import DamagedCheckpoint as DamagedCheckpoint
from fncb.formats import read_header as _read_header
from fncb.formats import version as version
from fncb.packing import Packed, pack, unpack

SUFFIX = ".safetensors"

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


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


def write(
    path: str | Path,
    tree: Any,
    *,
    overwrite: bool = False,
    within: str | Path | None = None,
    disk: Disk = DISK,
) -> int:
    """Writes a checkpoint, whole or not at all, and returns its size in bytes.

    It is written to a temporary file in the same directory (made if needed), flushed to the disk, given its name in
    one step, and the directory flushed too. Tensors are copied to the host one at a time; contiguous ones that are
    there are not copied. Tensors that are the same view of the same memory are stored once and read back as one
    tensor; other views are stored as copies.

    Args:
      path: where; `.safetensors` is what `checkpoints` looks for.
      tree: nested dicts (keys are strings or integers), lists, tuples, strings, numbers, booleans, None and dense
        tensors of any dtype, shape, memory layout and device.
      overwrite: whether a file of that name is replaced. It is whole at every moment, old or new.
      within: a folder that the path must stay in, symbolic links followed; None for any path.
      disk: what carries out all that changes the disk.

    Raises:
      FileExistsError: if the name is taken, also by somebody else in this very moment, and `overwrite` is False.
      TypeError: if the tree holds anything else, naming where.
      ValueError: if the path leaves `within`; if the tree is deeper or, but for its tensors, larger than can be read.
      OSError: from the disk, with the path; when it is full, with the bytes that were needed and free. The name is
        not taken then, unless the directory could not be flushed: a whole file has it, which may not outlast a power
        cut.
    """
    return write_packed(Path(path), pack(tree), overwrite=overwrite, within=within, disk=disk)


def write_packed(
    path: Path, packed: Packed, *, overwrite: bool = False, within: str | Path | None = None, disk: Disk = DISK
) -> int:
    """As `write`, of a tree that was taken apart before, for example when its tensors were copied."""
    _refuse_outside("store.write", path, within)
    begin = len(header_of(packed))
    size = begin + sum(tensor.nbytes for tensor in packed.tensors.values())
    with explained("store.write", path, size):
        make_directories(path.parent, disk)
        temporary = temporary_in(path.parent)
        try:
            handle = disk.create(temporary)
            try:
                _fill(handle, packed, begin, disk)
            finally:
                disk.close(handle)
            _commit(temporary, path, overwrite, disk)
        except BaseException:
            discard(temporary, disk)
            raise
    return size


def read(path: str | Path) -> Any:
    """The tree of a checkpoint, verified, its tensors on the CPU. One of an older format is made new.

    Raises:
      DamagedCheckpoint: if a single bit differs from what was written, or the file is something else.
      ValueError: if a newer fncb wrote it in a format unknown to this one.
      OSError: from the disk, with the path.
    """
    path = Path(path)
    with _opened(path) as (file, header):
        tensors = {name: entry.empty() for name, entry in header.entries.items()}
        _read_body(file, path, header, map(bytes_of, tensors.values()), header.end - header.begin)
    try:
        tree = unpack(header.found.tree, header.found.layouts, tensors)
        return migrated(tree, header.found.fncb_format)
    except FORGED as error:
        raise damaged(path, f"must hold a tree, got {type(error).__name__}: {error}") from error


def verify(path: str | Path) -> None:
    """Reads all of a checkpoint and raises as `read` does if a single bit is not as it was written."""
    path, buffer = Path(path), memoryview(bytearray(CHUNK))
    with _opened(path) as (file, header):
        left = range(header.end - header.begin, 0, -CHUNK)
        _read_body(file, path, header, (buffer[:size] for size in left))


def read_header(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself, without reading its tensors.

    Returns:
      `format`, `version`, `fncb` and `torch` (the versions that wrote it), and the tree's top-level strings, numbers,
      booleans and Nones, for example `step` and `epoch`.

    Raises:
      DamagedCheckpoint: if the header is not as it was written.
      ValueError: if the format is a newer one.
      OSError: from the disk, with the path.
    """
    path = Path(path)
    with explained("store.read", path), open(path, "rb") as file:
        found = _read_header(file, path).found
    try:
        tree = unpack(found.tree)
    except FORGED as error:
        raise damaged(path, f"must hold a tree, got {type(error).__name__}: {error}") from error
    top = tree.items() if isinstance(tree, dict) else ()
    plain = {key: value for key, value in top if value is None or isinstance(value, str | int | float)}
    versions = {"version": found.fncb_format, "fncb": found.fncb_version, "torch": found.torch_version}
    return {**plain, "format": "fncb", **versions}


def checkpoints(directory: str | Path) -> list[Path]:
    """The `.safetensors` files of a directory and those within whose headers are good, newest first."""
    return survey(directory)[0]


def survey(directory: str | Path) -> tuple[list[Path], list[Rejected]]:
    """The checkpoints of a directory whose headers are good, newest first by `age`, and the other `.safetensors`.

    A symbolic link to one of these files is left out, as nothing relies on where it leads.
    """
    known, rejected = [], []
    found = sorted(Path(directory).rglob(f"*{SUFFIX}"))
    files = {os.path.realpath(path) for path in found if not path.is_symlink()}
    for path in found:
        if path.is_symlink() and os.path.realpath(path) in files:
            continue
        try:
            known.append((age(read_header(path)), len(path.name), path))
        except (ValueError, OSError) as error:
            rejected.append(Rejected(path, str(error)))
    return [path for *_, path in sorted(known, reverse=True)], rejected


def age(header: Mapping[str, Any]) -> tuple[int, ...]:
    """How far a run had come when it wrote a checkpoint: by its header, never by the file's time.

    Example:
      >>> age({"step": 8, "attempt": 1, "heard": 90}) > age({"step": 8, "attempt": 0, "heard": 99})
      True
    """
    return tuple([n if isinstance(n := header.get(name), int) else 0 for name in ("step", "attempt", "heard")])


def latest(directory: str | Path, *, to_go_on: bool = False) -> Latest:
    """The newest checkpoint of a directory that verifies; each newer or unreadable file with its reason.

    With `to_go_on`, files that hold weights alone are passed over too.
    """
    paths, rejected = survey(directory)
    for path in paths:
        try:
            if to_go_on:
                must_be_whole(path, read_header(path))
            verify(path)
        except (ValueError, OSError) as error:
            rejected.append(Rejected(path, str(error)))
        else:
            return Latest(path, tuple(rejected))
    return Latest(None, tuple(rejected))


def must_be_whole(what: object, tree: Any) -> None:
    """Raises a ValueError if a checkpoint, or its header, is one of weights alone; `what` is its name."""
    if isinstance(tree, Mapping) and tree.get("weights_only") is True:
        raise ValueError(
            f"resume: what is gone on from must be a whole checkpoint, got {what}, which holds weights alone. "
            "Load them with fncb.load, or tune them with weights_only=True."
        )


def delete(path: str | Path, *, within: str | Path | None = None, disk: Disk = DISK) -> None:
    """Deletes a checkpoint. One that is gone already is no error.

    Raises:
      ValueError: if the path leaves `within`.
      OSError: from the disk, with the path.
    """
    path = Path(path)
    _refuse_outside("store.delete", path, within)
    try:
        with explained("store.delete", path):
            disk.remove(path)
    except FileNotFoundError:
        pass


def point(path: str | Path, to: str | Path, *, within: str | Path | None = None, disk: Disk = DISK) -> None:
    """Has a name lead to a file: a symbolic link, relative, which takes the place of one that was there in one step.

    Args:
      path: the name.
      to: the file.
      within: a folder that both must stay in.
      disk: what carries out all that changes the disk.

    Raises:
      FileExistsError: if something has the name that is no symbolic link.
      ValueError: if a path leaves `within`.
      OSError: from the disk, with the path; also where there are no symbolic links.
    """
    path, to = Path(path), Path(to)
    _refuse_outside("store.point", to, within)
    _refuse_outside(
        "store.point", path.parent / f"{path.name}.", within
    )  # where the name itself is, not what it leads to
    if os.path.lexists(path) and not path.is_symlink():
        raise FileExistsError(f"store.point: the name must be free or a symbolic link, got {path}, which is neither.")
    with explained("store.point", path):
        temporary = temporary_in(path.parent)
        disk.symlink(Path(os.path.relpath(to, path.parent)), temporary)
        try:
            disk.replace(temporary, path)
        except BaseException:
            discard(temporary, disk)
            raise
        disk.sync_directory(path.parent)


def _refuse_outside(who: str, path: Path, within: str | Path | None) -> None:
    if within is None:
        return
    folder = Path(os.path.realpath(within))
    # what would be changed is a name in the parent; what it leads to, where it exists, has to be inside as well
    for leads_to in (Path(os.path.realpath(path)), Path(os.path.realpath(path.parent), path.name)):
        if folder not in leads_to.parents or leads_to.name == "..":
            raise ValueError(
                f"{who}: the path must stay inside {folder}, got {path}, which is {leads_to}. Give a name in that "
                "folder, or take away the link that leads out of it."
            )


def _fill(handle: int, packed: Packed, begin: int, disk: Disk) -> None:
    at = begin
    size = sum(tensor.nbytes for tensor in packed.tensors.values())
    with sha256(size) as (digest, hash_next, wait):
        for piece in pieces_of(packed, wait):
            hash_next(piece)
            at = write_all(handle, piece, at, disk)
        if size >= LARGE:
            disk.sync(handle)  # what takes longest, while the rest is hashed
        wait()
    write_all(handle, header_of(packed, digest.hexdigest()), 0, disk)
    disk.sync(handle)


@contextmanager
def _opened(path: Path) -> Generator[tuple[BufferedReader, Header]]:
    """A file and its header, once it is known to be as long as that says."""
    with explained("store.read", path), open(path, "rb") as file:
        header = _read_header(file, path)
        size = os.fstat(file.fileno()).st_size
        if size != header.end:
            raise damaged(path, f"must have {header.end} bytes, got {size}")
        yield file, header


def _read_body(file: BufferedReader, path: Path, header: Header, buffers: Iterable[memoryview], size: int = 0) -> None:
    with sha256(size) as (digest, hash_next, wait):
        for buffer in buffers:
            for begin in range(0, len(buffer), CHUNK):
                piece = buffer[begin : begin + CHUNK]
                while got := file.readinto(piece):
                    hash_next(piece[:got])
                    piece = piece[got:]
        wait()
    if digest.hexdigest() != header.found.sha256_body:
        raise damaged(path, "must hold the tensors that were written, got others")


def _commit(temporary: Path, path: Path, overwrite: bool, disk: Disk) -> None:
    if overwrite:
        disk.replace(temporary, path)
    else:
        try:
            disk.link(temporary, path)  # unlike a rename, this fails if the name is taken
        except FileExistsError:
            raise _taken(path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _replace_nothing(temporary, path, disk)
        else:
            discard(temporary, disk)
    disk.sync_directory(path.parent)


def _replace_nothing(temporary: Path, path: Path, disk: Disk) -> None:
    """Where there are no hard links: takes the name for an empty file, which nobody takes for a checkpoint."""
    try:
        handle = disk.create(path)
    except FileExistsError:
        raise _taken(path) from None
    try:
        disk.close(handle)
        disk.replace(temporary, path)
    except BaseException:
        discard(path, disk)
        raise


def _taken(path: Path) -> FileExistsError:
    return FileExistsError(f"store.write: the name must be free, got {path}. Take naming.free_name(path).")
