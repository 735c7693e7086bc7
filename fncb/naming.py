"""Names of files beside names that are taken."""

import os
from collections.abc import Callable
from pathlib import Path


def stem_and_suffix(path: Path) -> tuple[str, str]:
    """A file's name in two, so that `-v1` can go between: what compresses it belongs to the suffix.

    Example:
      >>> stem_and_suffix(Path("runs/events.jsonl.gz")), stem_and_suffix(Path("runs/events.jsonl"))
      (('events', '.jsonl.gz'), ('events', '.jsonl'))
    """
    suffix = "".join(path.suffixes[-2:]) if path.suffix in (".gz", ".zst") else path.suffix
    return path.name.removesuffix(suffix), suffix


def numbered(path: Path, n: int) -> Path:
    """The path with `-v<n>` before its suffix."""
    stem, suffix = stem_and_suffix(path)
    return path.with_name(f"{stem}-v{n}{suffix}")


def free_name(path: str | Path, first: int = 1, is_taken: Callable[[Path], bool] = os.path.lexists) -> Path:
    """The path itself, or with `-v1`, `-v2`, ... before its suffix if the name is taken, from `first` on.

    Example:
      >>> free_name("runs/a.json.gz", is_taken=lambda path: path.name in ("a.json.gz", "a-v1.json.gz")).as_posix()
      'runs/a-v2.json.gz'
    """
    path = Path(path)
    free, attempt = path, first
    while is_taken(free):
        free, attempt = numbered(path, attempt), attempt + 1
    return free
