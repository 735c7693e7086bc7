"""A run's checkpoints on their way to the disk, in folders that no other run writes to."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from fncb import store
from fncb.effects import Save
from fncb.lock import Lock, take
from fncb.saving import Saver


class Keeper:
    """Writes checkpoints, at once or in the background, one at a time.

    Attributes:
      in_background: `path` and `requested` of the one that is being written there, or was and nobody has asked since.
    """

    def __init__(self) -> None:
        self._saver: Saver | None = None  # has a thread, which most runs do not need
        self._locks: dict[Path, Lock] = {}
        self.in_background: dict[str, str] | None = None

    def claim(self, directory: str | Path) -> None:
        """Takes a folder, and those in it, for this run until `close`.

        Raises:
          DirectoryTaken: if another run has it.
          OSError: if files cannot be written there.
        """
        path = Path(directory).resolve()
        if not any(path.is_relative_to(mine) for mine in self._locks):
            self._locks[path] = take(directory)

    def write(
        self, save: Save, saving: dict[str, str], tree: Any, before: Callable[[], object]
    ) -> dict[str, Any] | None:
        """Writes a checkpoint.

        Args:
          save: how it was asked for.
          saving: `path`, its name, and `requested`, the one that was asked for.
          tree: what it holds.
          before: called before it is written, in the background too.

        Returns:
          `saving`, its size in bytes as `bytes` and for how many seconds it was written as `took`, once it is on disk;
          None if that is in the background.
        """
        self.claim(save.within or Path(save.path).parent)
        if save.background:
            self._saver = self._saver or Saver()
            self._saver.save_async(saving["path"], tree, before=before, within=save.within)
            self.in_background = saving
            return None
        before()
        began = perf_counter()
        size = store.write(saving["path"], tree, within=save.within)
        return {**saving, "bytes": size, "took": round(perf_counter() - began, 6)}

    def finished(self, wait: bool) -> dict[str, Any] | None:
        """What `write` gives, once, of the checkpoint in the background; None while it is not on disk.

        Raises:
          Exception: what went wrong with it, once.
        """
        saving, self.in_background = self.in_background, None
        if saving is None or self._saver is None:
            return None
        written = self._saver.finished(wait=wait)
        if written is None:
            self.in_background = saving
            return None
        return {**saving, "bytes": written.size, "took": written.took}

    def close(self) -> None:
        """Waits for what is being written, raises what went wrong with it, and lets go of the folders."""
        with ExitStack() as closing:
            for lock in self._locks.values():
                closing.callback(lock.close)
            if self._saver:
                closing.callback(self._saver.close)
        self._locks = {}
