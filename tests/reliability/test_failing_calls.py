"""R3: whichever call to the disk fails, a save raises or is there, and the save before it is whole."""

import errno
import os
from itertools import count
from pathlib import Path

import pytest

from fncb import store
from tests.reliability.disks import Failing, Short, a_tree, is_tree

ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EINTR]
WAYS = {
    "a new name": ("2.safetensors", False, True),
    "a new name in a new folder": ("a/b/2.safetensors", False, True),
    "a new name without links": ("2.safetensors", False, False),
    "the same name": ("1.safetensors", True, True),
}


def faults(folder: Path, name: str, overwrite: bool, disk: Failing) -> list[str]:
    """What is wrong after a save, of which a call may have failed."""
    before, path = folder / "1.safetensors", folder / name
    store.write(before, a_tree(1))
    wrong, raised = [], False
    try:
        store.write(path, a_tree(2), overwrite=overwrite, disk=disk)
    except OSError as error:
        raised = True
        if str(folder) not in str(error) or error.errno != disk.error:
            wrong.append(f"unclear error {error!r}")
    if not is_tree(store.read(before), 1) and not (overwrite and is_tree(store.read(before), 2)):
        wrong.append("the save before is gone")
    if not raised and not is_tree(store.read(path), 2):
        wrong.append("acknowledged, but not there")
    rejected = store.latest(folder).rejected
    left = [name for _, _, names in os.walk(folder) for name in names if name.endswith(".tmp")]
    if "remove" not in disk.failed and (left or rejected):
        wrong.append(f"left behind: {left}, {rejected}")
    return wrong


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("way", WAYS)
def test_a_failing_call_raises_or_does_no_harm(way, for_good, tmp_path, record_property):
    name, overwrite, links = WAYS[way]
    made = 0
    for error in ERRORS:
        for k in count(1):
            folder = tmp_path / f"{error}-{k}"
            disk = Failing(k, error, for_good, links)
            assert faults(folder, name, overwrite, disk) == [], (errno.errorcode[error], k, disk.failed)

            made += bool(disk.failed)
            if not disk.failed:
                break
        assert k > 5

    record_property(
        "count", f"R3: {way}{', for good' * for_good}: {made} failing calls, 0 unclear, 0 saves lost, 0 files left"
    )


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_writes_that_take_some_of_the_bytes_go_on(size, tmp_path):
    store.write(tmp_path / "a.safetensors", a_tree(2), disk=Short(size))

    assert is_tree(store.read(tmp_path / "a.safetensors"), 2)


def test_a_disk_that_takes_nothing_is_an_error_and_not_a_wait(tmp_path):
    with pytest.raises(
        OSError, match=r"store\.write: the disk must do what it is asked to, got the disk takes no more"
    ):
        store.write(tmp_path / "a.safetensors", a_tree(2), disk=Short(0))

    assert list(tmp_path.iterdir()) == []


def test_a_delete_that_fails_names_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    store.write(path, a_tree(1))
    with pytest.raises(PermissionError, match=r"store\.delete: user \d+ must have the permission") as error:
        store.delete(path, disk=Failing(1, errno.EACCES))

    assert str(path) in str(error.value)
    assert is_tree(store.read(path), 1)
