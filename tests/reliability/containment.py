"""Paths that lead out of a folder, and whether anything gets there."""

import os
from collections.abc import Iterator
from pathlib import Path

from fncb import store
from fncb.packing import pack


def ways_out(inside: Path, outside: Path) -> Iterator[tuple[str, Path]]:
    (inside / "link").symlink_to(outside)
    (inside / "deep").mkdir()
    (inside / "deep" / "relative").symlink_to(Path("..", "..", outside.name))
    (inside / "file.safetensors").symlink_to(outside / "a.safetensors")
    (outside / "back").symlink_to(inside / "a.safetensors")
    yield "up", inside / ".." / outside.name / "a.safetensors"
    yield "up through a folder that is not there", inside / "none" / ".." / ".." / outside.name / "a.safetensors"
    yield "absolute", inside / outside / "a.safetensors"
    yield "a link", inside / "link" / "a.safetensors"
    yield "a new folder behind a link", inside / "link" / "new" / "a.safetensors"
    yield "a relative link", inside / "deep" / "relative" / "a.safetensors"
    yield "a file that is a link", inside / "file.safetensors"
    yield "a link that leads in", outside / "back"
    yield "the folder itself", inside
    yield "the folder above", inside / ".."
    yield "a name that begins alike", inside.with_name(inside.name + "-2") / "a.safetensors"


def escapes(root: Path) -> tuple[int, list[str]]:
    """How many ways out were tried, and which were not refused."""
    inside, outside = root / "run", root / "other"
    inside.mkdir(), outside.mkdir()
    store.write(outside / "a.safetensors", {"step": 1})
    tried, open_ways = 0, []
    for what, path in ways_out(inside, outside):
        for name, act in {
            "write": lambda path: store.write(path, {"step": 2}, within=inside, overwrite=True),
            "write_packed": lambda path: store.write_packed(path, pack({"step": 2}), within=inside),
            "delete": lambda path: store.delete(path, within=inside),
        }.items():
            tried += 1
            try:
                act(path)
            except ValueError as error:
                if not str(error).startswith(f"store.{name[:5]}"[:11]) or "must stay inside" not in str(error):
                    open_ways.append(f"{name}, {what}: {error}")
            except OSError as error:
                open_ways.append(f"{name}, {what}: {error}")
            else:
                open_ways.append(f"{name}, {what}")
    if not (outside / "a.safetensors").exists() or sorted(os.listdir(outside)) != ["a.safetensors", "back"]:
        open_ways.append(f"outside is now {os.listdir(outside)}")
    return tried, open_ways
