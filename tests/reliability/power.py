"""Saves on a disk that notes them, and whether a power cut at any moment would lose one."""

import shutil
from pathlib import Path

from fncb import store
from tests.reliability.disks import Cut, Noting, a_tree, put, steps_in

ENOUGH = 20  # losses: where an operation is left out there are thousands


def new_names(root: Path, disk: Noting) -> None:
    """As `checkpoint` does: each save has a name of its own, the one before it is deleted once it is on disk."""
    for step in (1, 2, 3):
        path = root / "run" / f"{step}.safetensors"
        store.write(path, a_tree(step), within=root, disk=disk)
        disk.notes.append(("saved", str(path.relative_to(root)), step))
        if step > 1:
            disk.notes.append(("deleting", f"run/{step - 1}.safetensors"))
            store.delete(root / "run" / f"{step - 1}.safetensors", disk=disk)


def one_name(root: Path, disk: Noting) -> None:
    for step in (1, 2, 3):
        store.write(root / "last.safetensors", a_tree(step), overwrite=True, disk=disk)
        disk.notes.append(("saved", "last.safetensors", step))


def losses(root: Path, disk: Noting, aside: Path) -> tuple[int, list[str]]:
    """How many disks there may be after a power cut at any moment, and what is lost on them, up to a few losses."""
    cut, saved, seen, wrong = Cut(root), {}, set(), []
    for i, note in enumerate([("begin",), *disk.notes]):
        if note[0] == "saved":
            saved[note[1]] = note[2]
        elif note[0] == "deleting":
            saved.pop(note[1])
        else:
            cut.apply(note)
        for contents in cut.outcomes():
            key = (tuple(sorted(contents.items())), tuple(sorted(saved.items())))
            if key in seen:
                continue
            seen.add(key)
            if len(wrong) >= ENOUGH:
                return len(seen), wrong
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            put(contents, aside)
            steps = steps_in(aside)
            when = f"power cut after call {i}, {note[:2]}"
            wrong += [
                f"{when}: {path} of step {step} is gone" for path, step in saved.items() if steps.get(path, -1) < step
            ]
            newest = store.latest(aside).path
            if newest is None and saved:
                wrong.append(f"{when}: nothing can be resumed from")
            elif newest is not None and steps[str(newest.relative_to(aside))] < max(saved.values(), default=0):
                wrong.append(f"{when}: resumed from {newest.name}, although {max(saved.values())} was saved")
    return len(seen), wrong
