"""Which recording is meant."""

from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from fncb.cli.output import note
from fncb.cli.refusal import DAMAGED, UNREADABLE, WRONG_USAGE, Refusal
from fncb.recording import DamagedRecording, Recording, follow, read

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
"""What the names of recordings end with in a directory; a recording that is named itself may be called anything."""

_MOST = 10  # names that are told


def recording_at(given: str) -> Path:
    """The path of a recording: it itself, or the only one in a directory. Its header was looked at.

    Raises:
      Refusal: if there is none, or several, saying what there is; if it is no recording, or of a newer format.
    """
    path = Path(given)
    must_exist("RUN", path)
    if path.is_dir():
        path = _only_one_in(path)
    if path.suffix == ".safetensors":
        raise Refusal(f"RUN must be a recording, got {path}, a checkpoint. Look into it with fncb inspect.", DAMAGED)
    try:
        _look_at(path)
    except ImportError as error:
        raise Refusal(str(error), UNREADABLE) from error
    except ValueError as error:
        raise Refusal(str(error), DAMAGED) from error
    return path


def read_run(given: str) -> Recording:
    """A whole recording; what is torn off its end is noted."""
    path = recording_at(given)
    with telling_damage():
        recording = read(path)
    if recording.torn:
        note(f"the last {recording.torn} bytes of {path} are torn and left out")
    return recording


def must_exist(what: str, path: Path) -> None:
    """Refuses a path that does not exist, saying what there is where it would be."""
    if path.exists():
        return
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    raise Refusal(f"{what} must exist, got {path}, which does not. {parent}/ has {_names(parent)}.", UNREADABLE)


@contextmanager
def telling_damage() -> Generator[None]:
    """Has a recording that turns out to be damaged give the status for that."""
    try:
        yield
    except DamagedRecording as error:
        raise Refusal(str(error), DAMAGED) from error


def when_written(path: Path) -> str:
    """When a file was last written to, in local time.

    Example:
      >>> len(when_written(Path(__file__)))
      19
    """
    return datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "seconds")


def _look_at(path: Path) -> None:
    entries: Any = follow(path)
    next(entries)
    entries.close()


def _only_one_in(folder: Path) -> Path:
    named = [path for path in sorted(folder.iterdir()) if path.name.endswith(SUFFIXES) and path.is_file()]
    found = list(filter(_is_recording, named))
    if len(found) == 1:
        return found[0]
    if found:
        raise Refusal(
            f"RUN must be one recording, got {folder} with {len(found)}: {_listed(found)}. Name one of them.",
            WRONG_USAGE,
        )
    below = islice((path for path in folder.rglob("*") if path.name.endswith(SUFFIXES)), 1000)
    deeper = [path for path in below if path.parent != folder and path.is_file() and _is_recording(path)]
    there = f"Below it there are {_listed(deeper)}" if deeper else f"It has {_names(folder)}"
    raise Refusal(f"RUN must be a recording or a directory with one, got {folder} without any. {there}.", UNREADABLE)


def _is_recording(path: Path) -> bool:
    try:
        _look_at(path)
    except DamagedRecording:
        return False
    except (ValueError, ImportError):  # a newer one, or one that cannot be unpacked here
        return True
    return True


def _listed(paths: list[Path]) -> str:
    newest = sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
    told = [f"{path} ({when_written(path)})" for path in newest[:_MOST]]
    return ", ".join([*told, *([f"and {len(paths) - _MOST} older ones"] if len(paths) > _MOST else [])])


def _names(folder: Path) -> str:
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in paths]
    more = [f"and {len(names) - _MOST} more"] if len(names) > _MOST else []
    return ", ".join([*names[:_MOST], *more]) or "nothing in it"
