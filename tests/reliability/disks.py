"""Disks that note what is done, that fail, and what a disk may hold after a power cut."""

import errno
import os
from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch

from fncb import store
from fncb.disk import Disk


def a_tree(step: int) -> dict[str, Any]:
    return {"step": step, "name": f"step {step}", "model": {"weight": torch.full((40,), float(step))}}


def is_tree(tree: Any, step: int) -> bool:
    return tree["step"] == step and tree["name"] == f"step {step}" and bool((tree["model"]["weight"] == step).all())


class Failing(Disk):
    """The k-th call fails, or it and all after it; a short write takes some of the bytes only."""

    def __init__(self, k: int, error: int, for_good: bool = False, links: bool = True):
        self.k, self.error, self.for_good, self.links = k, error, for_good, links
        self.calls, self.failed = 0, []

    def __getattribute__(self, name: str) -> Any:
        method = object.__getattribute__(self, name)
        return (lambda *given: self._call(name, method, given)) if name in OPERATIONS else method

    def _call(self, name: str, method: Callable[..., Any], given: tuple[Any, ...]) -> Any:
        self.calls += 1
        if self.calls == self.k or (self.for_good and self.calls > self.k):
            self.failed.append(name)
            if name == "close":
                method(*given)
            raise OSError(self.error, os.strerror(self.error))
        if name == "link" and not self.links:
            raise OSError(errno.EPERM, "no hard links here")
        return method(*given)


class Short(Disk):
    """Takes so many bytes at once."""

    def __init__(self, size: int):
        self.size = size

    def write(self, handle: int, data: memoryview | bytes, at: int) -> int:
        return super().write(handle, data[: self.size], at)


OPERATIONS = [name for name in vars(Disk) if not name.startswith("_")]


class Noting(Disk):
    """Does what it is told, except `without`, and notes it.

    Attributes:
      notes: operations as tuples, files by number, and what the test puts in between.
    """

    def __init__(self, without: str = "", links: bool = True):
        self.without, self.links = without, links
        self.notes: list[tuple[Any, ...]] = []
        self._file_of: dict[int, int] = {}
        self._files = 0

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, name)
        return (lambda *_: None) if name in OPERATIONS and name == self.without else own

    def create(self, path: Path) -> int:
        handle = super().create(path)
        self._files += 1
        self._file_of[handle] = self._files
        self.notes.append(("create", path, self._files))
        return handle

    def write(self, handle: int, data: memoryview | bytes, at: int) -> int:
        taken = super().write(handle, data, at)
        self.notes.append(("write", self._file_of[handle], bytes(data[:taken]), at))
        return taken

    def sync(self, handle: int) -> None:
        self.notes.append(("sync", self._file_of[handle]))

    def link(self, path: Path, new: Path) -> None:
        if not self.links:
            raise OSError(errno.EPERM, "no hard links here")
        super().link(path, new)
        self.notes.append(("link", path, new))

    def replace(self, path: Path, new: Path) -> None:
        super().replace(path, new)
        self.notes.append(("replace", path, new))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.notes.append(("remove", path))

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self.notes.append(("make_directory", path))

    def sync_directory(self, path: Path) -> None:
        self.notes.append(("sync_directory", path))


SECTOR = 64  # bytes: less than a real one, so that there are many

Contents = dict[str, bytes | None]
"""What a disk holds by path; None is a directory."""


class Cut:
    """A disk that is about to lose its power: what is on it for sure, and what may be."""

    def __init__(self, root: Path):
        self.root = root
        self.names: dict[Path, dict[str, int | Path]] = {root: {}}  # by directory, for sure
        self.pending: dict[Path, list[list[tuple[str, int | Path | None]]]] = {root: []}  # changes of names, in order
        self.now: dict[Path, dict[str, int | Path]] = {root: {}}
        self.sure: dict[int, bytes] = {}
        self.writes: dict[int, list[tuple[bytes, int]]] = {}

    def apply(self, note: tuple[Any, ...]) -> None:
        kind, *of = note
        if kind == "create":
            self.sure[of[1]], self.writes[of[1]] = b"", []
            self._change(of[0].parent, [(of[0].name, of[1])])
        elif kind == "write":
            self.writes[of[0]].append((of[1], of[2]))
        elif kind == "sync":
            self.sure[of[0]], self.writes[of[0]] = written(self.sure[of[0]], self.writes[of[0]]), []
        elif kind == "link":
            self._change(of[1].parent, [(of[1].name, self.now[of[0].parent][of[0].name])])
        elif kind == "replace":  # one step: never both names, never none
            self._change(of[1].parent, [(of[1].name, self.now[of[0].parent][of[0].name]), (of[0].name, None)])
        elif kind == "remove":
            self._change(of[0].parent, [(of[0].name, None)])
        elif kind == "make_directory":
            self.names[of[0]], self.pending[of[0]], self.now[of[0]] = {}, [], {}
            self._change(of[0].parent, [(of[0].name, of[0])])
        elif kind == "sync_directory" and of[0] in self.names:
            self.names[of[0]], self.pending[of[0]] = dict(self.now[of[0]]), []

    def _change(self, directory: Path, change: list[tuple[str, int | Path | None]]) -> None:
        self.pending[directory].append(change)
        change_names(self.now[directory], change)

    def outcomes(self) -> Iterator[Contents]:
        """What may be found: any of the pending changes of names, any part of what was not flushed."""
        directories, files = list(self.names), [file for file in self.writes if self.writes[file]]
        subsets = [
            [c for n in range(len(p) + 1) for c in combinations(p, n)] for p in map(self.pending.get, directories)
        ]
        bodies = [list(dict.fromkeys(parts(self.sure[file], self.writes[file]))) for file in files]
        for changes in product(*subsets):
            names = {directory: dict(self.names[directory]) for directory in directories}
            for directory, applied in zip(directories, changes, strict=True):
                for change in applied:
                    change_names(names[directory], change)
            for chosen in product(*bodies):
                yield dict(self._found(self.root, names, {**self.sure, **dict(zip(files, chosen, strict=True))}))

    def _found(self, directory: Path, names: Any, content: dict[int, bytes]) -> Iterator[tuple[str, bytes | None]]:
        for name, what in names[directory].items():
            path = str((directory / name).relative_to(self.root))
            yield path, None if isinstance(what, Path) else content[what]
            if isinstance(what, Path):
                yield from self._found(what, names, content)


def change_names(names: dict[str, Any], change: list[tuple[str, int | Path | None]]) -> None:
    for name, what in change:
        if what is None:
            names.pop(name, None)
        else:
            names[name] = what


def written(content: bytes, writes: list[tuple[bytes, int]]) -> bytes:
    data = bytearray(content)
    for piece, at in writes:
        data.extend(bytes(max(0, at + len(piece) - len(data))))
        data[at : at + len(piece)] = piece
    return bytes(data)


def parts(sure: bytes, writes: list[tuple[bytes, int]]) -> Iterator[bytes]:
    """What may be left of a file of which `writes` were not flushed."""
    whole = written(sure, writes)
    yield sure
    yield whole
    yield sure + bytes(len(whole) - len(sure))  # its length came through, its content did not
    for end in range(len(sure), len(whole), SECTOR):
        yield whole[:end]
    for begin in range(0, len(whole), SECTOR):  # one sector did not come through
        old = sure[begin : begin + SECTOR]
        yield written(whole, [(old + bytes(min(SECTOR, len(whole) - begin) - len(old)), begin)])
    for i in range(len(writes)):
        yield written(sure, writes[:i])
        yield written(sure, writes[i:])  # out of order
        yield written(sure, [*writes[:i], (bytes(len(writes[i][0])), writes[i][1]), *writes[i + 1 :]])


def put(contents: Contents, folder: Path) -> None:
    for path, content in contents.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def steps_in(folder: Path) -> dict[str, int]:
    """The steps of all checkpoints that load, by path; raises if one of them is not what was written."""
    steps = {}
    for path in store.checkpoints(folder):
        try:
            tree = store.read(path)
        except ValueError:
            continue
        assert is_tree(tree, tree["step"]), path
        steps[str(path.relative_to(folder))] = tree["step"]
    return steps
