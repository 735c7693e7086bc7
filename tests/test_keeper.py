import threading

import pytest
import torch

from fncb import saving, store
from fncb.effects import Save
from fncb.keeper import Keeper
from fncb.lock import DirectoryTaken

TREE = {"step": 1, "weight": torch.ones(2)}


def asked(path, **how):
    return Save(str(path), **how), {"path": str(path), "requested": str(path)}


def nothing():
    pass


def held_back(monkeypatch):
    """An event until which nothing is written in the background."""
    go, write = threading.Event(), store.write_packed
    monkeypatch.setattr(saving.store, "write_packed", lambda *given, **more: go.wait(20) and write(*given, **more))
    return go


def test_at_once_it_is_on_disk_when_write_returns(tmp_path):
    keeper, path = Keeper(), tmp_path / "a.safetensors"

    written = keeper.write(*asked(path), TREE, nothing)

    took = written.pop("took")
    assert written == {"path": str(path), "requested": str(path), "bytes": path.stat().st_size}
    assert 0 < took < 10  # seconds
    assert keeper.in_background is None
    keeper.close()


def test_in_the_background_it_is_told_once_when_it_is_on_disk(tmp_path, monkeypatch):
    keeper, path, go = Keeper(), tmp_path / "a.safetensors", held_back(monkeypatch)

    assert keeper.write(*asked(path, background=True), TREE, nothing) is None
    assert keeper.finished(wait=False) is None
    assert keeper.in_background is not None
    go.set()
    written = keeper.finished(wait=True)

    took = written.pop("took")
    assert written == {"path": str(path), "requested": str(path), "bytes": path.stat().st_size}
    assert 0 < took < 10  # seconds
    assert keeper.in_background is None
    assert keeper.finished(wait=True) is None
    keeper.close()


@pytest.mark.parametrize("background", [False, True])
def test_what_must_be_on_disk_before_is_seen_to_first(tmp_path, background):
    keeper, path = Keeper(), tmp_path / "a.safetensors"
    seen = []

    keeper.write(*asked(path, background=background), TREE, lambda: seen.append(path.exists()))
    keeper.close()

    assert seen == [False]


def test_an_error_in_the_background_is_raised_once_and_the_next_is_written(tmp_path):
    keeper, path = Keeper(), tmp_path / "a.safetensors"
    path.write_bytes(b"mine")

    keeper.write(*asked(path, background=True), TREE, nothing)
    with pytest.raises(FileExistsError, match="the name must be free"):
        keeper.finished(wait=True)

    assert keeper.in_background is None
    keeper.write(*asked(tmp_path / "b.safetensors", background=True), TREE, nothing)
    assert keeper.finished(wait=True)["path"] == str(tmp_path / "b.safetensors")
    assert path.read_bytes() == b"mine"
    keeper.close()


def test_an_error_that_nobody_has_heard_of_is_raised_at_the_end_and_the_folder_is_free(tmp_path):
    keeper, path = Keeper(), tmp_path / "a.safetensors"
    path.write_bytes(b"mine")

    keeper.write(*asked(path, background=True), TREE, nothing)
    with pytest.raises(FileExistsError):
        keeper.close()

    other = Keeper()
    other.claim(tmp_path)
    other.close()


def test_a_folder_is_claimed_by_the_first_write_with_those_in_it_and_let_go_at_the_end(tmp_path):
    keeper, other = Keeper(), Keeper()

    keeper.write(*asked(tmp_path / "in" / "a.safetensors", within=str(tmp_path)), TREE, nothing)
    keeper.claim(tmp_path / "in")
    with pytest.raises(DirectoryTaken):
        other.claim(tmp_path)
    keeper.close()
    other.claim(tmp_path)
    other.close()

    assert not (tmp_path / "in" / ".fncb.lock").exists()


@pytest.mark.parametrize("background", [False, True])
def test_nothing_is_written_outside_of_the_folder(tmp_path, background):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link").symlink_to(tmp_path)
    keeper = Keeper()

    save = asked(tmp_path / "mine/link/a.safetensors", within=str(tmp_path / "mine"), background=background)
    with pytest.raises(ValueError, match="inside"):
        keeper.write(*save, TREE, nothing) or keeper.finished(wait=True)

    assert not (tmp_path / "a.safetensors").exists()
    keeper.close()
