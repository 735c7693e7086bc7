"""The filesystem, as keeping files needs it: its operations, the names it is given, what is said when it fails."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = re.compile(r"\.fncb-[0-9a-f]{16}\.tmp")
"""What files are called until they are whole. Those of a run that was killed stay behind."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class Disk:
    """Everything that changes the disk when files are kept, one call each.

    This is the real one. Others can take its place: to note what was done, to fail, to be slow.
    """

    def create(self, path: Path) -> int:
        """Makes an empty file, whose name must be free, and opens it for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)

    def write(self, handle: int, data: memoryview | bytes, at: int) -> int:
        """Writes at an offset; says how many bytes of the data it took."""
        os.lseek(handle, at, os.SEEK_SET)
        return os.write(handle, data)

    def sync(self, handle: int) -> None:
        """Returns when a file's content is on the disk. Its name may not be."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """Closes a file."""
        os.close(handle)

    def link(self, path: Path, new: Path) -> None:
        """Gives a file a second name, which must be free."""
        os.link(path, new)

    def symlink(self, to: Path, new: Path) -> None:
        """Makes a name, which must be free, that leads to another."""
        os.symlink(to, new)

    def replace(self, path: Path, new: Path) -> None:
        """Gives a file another name and takes that from the file that had it, in one step."""
        os.replace(path, new)

    def remove(self, path: Path) -> None:
        """Takes a file's name."""
        os.unlink(path)

    def make_directory(self, path: Path) -> None:
        """Makes a directory in one that exists."""
        os.mkdir(path)

    def sync_directory(self, path: Path) -> None:
        """Returns when the names in a directory are on the disk."""
        if os.name == "nt":  # knows no such thing
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a filesystem that knows no such thing either
                raise
        finally:
            os.close(handle)


DISK = Disk()


def temporary_in(directory: Path) -> Path:
    """A name for a file that is not whole yet."""
    return directory / f".fncb-{secrets.token_hex(8)}.tmp"


def make_directories(directory: Path, disk: Disk = DISK) -> None:
    """Makes a directory and those above it, as far as they are missing, so that they survive a power cut."""
    if directory.is_dir():
        return
    make_directories(directory.parent, disk)
    try:
        disk.make_directory(directory)
    except FileExistsError:
        if not directory.is_dir():  # otherwise somebody else has just made it
            raise
    disk.sync_directory(directory.parent)


def write_all(handle: int, data: Any, at: int, disk: Disk = DISK) -> int:
    """Writes all of the data at an offset, and says where it ends."""
    rest = memoryview(data)
    while rest:
        taken = disk.write(handle, rest, at)
        if taken == 0:
            raise OSError(errno.EIO, "the disk takes no more bytes")
        rest, at = rest[taken:], at + taken
    return at


def discard(path: Path, disk: Disk = DISK) -> None:
    """Removes a file that is of no use, if that is possible: a leftover does no harm, and hides no other error."""
    with suppress(OSError):
        disk.remove(path)


@contextmanager
def explained(who: str, path: Path, size: int | None = None) -> Generator[None]:
    """Errors of the disk say who failed with which file, why and what to do. `size` is what the file takes."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise  # they name what is missing, or in the way
    except OSError as error:
        raise OSError(error.errno, _told(who, path, size, error), str(path)) from error


def _told(who: str, path: Path, size: int | None, error: OSError) -> str:
    if size is not None and error.errno in _FULL:
        try:
            free = f"{shutil.disk_usage(path.parent).free} free"
        except OSError:
            free = "an unknown number free"
        limit = " or raise the limit of a file's size (ulimit -f)" if error.errno == errno.EFBIG else ""
        return (
            f"{who}: the disk must have room for {size} bytes, got {free}: {error.strerror}. Delete what is not "
            f"needed{limit}, or use another directory."
        )
    if error.errno in _DENIED:
        user = f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"
        return (
            f"{who}: {user} must have the permission for this in {path.parent}, got {error.strerror}. Change the "
            "directory's owner or mode (chown, chmod, mount), or use another directory."
        )
    return f"{who}: the disk must do what it is asked to, got {error.strerror or error}. Look at the disk or try again."
