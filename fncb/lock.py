"""One run per directory: a lock that a dead run cannot keep."""

import os
import socket
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from fncb.disk import DISK, TEMPORARY, Disk, discard, explained, make_directories, temporary_in, write_all

LOCK = ".fncb.lock"
HOLDER = ".fncb.holder"
"""Who holds the lock, for the error message of somebody else. It may be wrong: only the lock itself counts."""


class DirectoryTaken(RuntimeError):
    """Another run works in the directory."""


class _Holder(msgspec.Struct):
    pid: int
    host: str


class Lock:
    """The lock of a directory. It is let go by `close`, by the end of a `with` block, and when its process ends.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder, take(folder):
      ...     sorted(os.listdir(folder))
      ['.fncb.holder', '.fncb.lock']
    """

    def __init__(self, directory: Path, lock: Any):
        """Wraps a lock that is held."""
        self.directory = directory
        self._lock, self._pid = lock, os.getpid()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the lock. Closing again is no error; in a process that was forked it does nothing."""
        if self._lock.is_locked and self._pid == os.getpid():
            discard(self.directory / HOLDER)
            self._lock.release()


def take(directory: str | Path, *, who: str = "fit", disk: Disk = DISK) -> Lock:
    """Takes the lock of a directory at once, and removes what a run that was killed left half written in it.

    The directory is made if needed, and it is tried whether files can be written in it. The lock is the operating
    system's, on a file that stays: it ends with the process that holds it, however that ends, and processes that it
    forked or started do not have it. To read what is in a directory, no lock is needed.

    Args:
      directory: where the run keeps its files.
      who: who says so in an error.
      disk: what carries out what changes the disk, but for the lock itself.

    Raises:
      DirectoryTaken: if another run has it, or another one of this process.
      OSError: if files cannot be written there.
    """
    directory = Path(directory)
    with explained(who, directory / LOCK):
        make_directories(directory, disk)
        lock = FileLock(directory / LOCK, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise DirectoryTaken(
                f"{who}: a directory must have one run at a time, got {directory}, which is held by "
                f"{_told(directory)}. Wait for that run or end it, or use another directory."
            ) from None
        try:
            _note_holder(directory, disk)
            _remove_leftovers(directory, disk)
        except BaseException:
            lock.release()
            raise
    return Lock(directory, lock)


def _note_holder(directory: Path, disk: Disk) -> None:
    """Says who has the lock; and so tries whether files can be made, filled and named."""
    temporary = temporary_in(directory)
    try:
        handle = disk.create(temporary)
        try:
            write_all(handle, msgspec.json.encode(_Holder(os.getpid(), socket.gethostname())), 0, disk)
        finally:
            disk.close(handle)
        disk.replace(temporary, directory / HOLDER)
    except BaseException:
        discard(temporary, disk)
        raise


def _told(directory: Path) -> str:
    try:
        with open(directory / HOLDER, "rb") as file:
            holder = msgspec.json.decode(file.read(1000), type=_Holder)
    except (OSError, ValueError, RecursionError):
        return "an unknown process"
    if (holder.pid, holder.host) == (os.getpid(), socket.gethostname()):
        return f"this process ({holder.pid}), by another run that is not closed"
    return f"process {holder.pid} on host {holder.host[:80]!r}"


def _remove_leftovers(directory: Path, disk: Disk) -> None:
    for folder, inner, names in os.walk(directory):
        # another run may be at work in a folder with a lock of its own
        inner[:] = [name for name in inner if not os.path.lexists(os.path.join(folder, name, LOCK))]
        for name in names:
            if TEMPORARY.fullmatch(name):
                discard(Path(folder, name), disk)
