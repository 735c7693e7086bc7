"""R16: without any one of the precautions, the check that is meant for it finds something."""

import hashlib
import random
from pathlib import Path

import pytest

from fncb import formats, store
from fncb.disk import Disk
from tests.reliability.containment import escapes
from tests.reliability.corruption import a_small_tree, flips, passes, splices
from tests.reliability.disks import Noting
from tests.reliability.power import losses, new_names, one_name


@pytest.mark.parametrize(
    ("without", "saves", "links", "found"),
    [
        ("sync", new_names, True, "is gone"),
        ("sync", one_name, True, "is gone"),
        ("sync_directory", new_names, True, "is gone"),
        ("sync_directory", one_name, True, "is gone"),
        ("link", new_names, True, "is gone"),
        ("replace", new_names, False, "is gone"),
        ("replace", one_name, True, "is gone"),
    ],
)
def test_a_power_cut_tells_what_the_disk_was_not_asked_for(without, saves, links, found, tmp_path, record_property):
    (tmp_path / "disk").mkdir()
    disk = Noting(without, links=links)
    saves(tmp_path / "disk", disk)
    _, wrong = losses(tmp_path / "disk", disk, tmp_path / "after")

    assert any(found in each for each in wrong)
    record_property(
        "count", f"R16: without {without} ({saves.__name__}): {len(wrong)} losses found before it was enough"
    )


@pytest.mark.parametrize("flushed", [1, 2, 3])
def test_each_flush_of_a_large_file_but_the_first_is_needed(flushed, tmp_path, monkeypatch):
    class Lazy(Noting):
        def sync(self, handle):
            self.notes.append(("left out",)) if len(self.syncs()) % 3 == flushed - 1 else super().sync(handle)

        def syncs(self):
            return [note for note in self.notes if note[0] in ("sync", "left out", "sync_directory")]

    monkeypatch.setattr(store, "LARGE", 1)
    (tmp_path / "disk").mkdir()
    disk = Lazy()
    one_name(tmp_path / "disk", disk)
    _, wrong = losses(tmp_path / "disk", disk, tmp_path / "after")

    assert bool(wrong) == (flushed == 2)  # the first only saves time; the third is the directory's


class SameForAll:
    """A digest that is the same for everything."""

    def __init__(self, data=b""):
        pass

    def update(self, data):
        pass

    def hexdigest(self):
        return "0" * 64


@pytest.mark.parametrize("part", ["header and body", "body"])
def test_without_the_digests_damage_passes(part, tmp_path, monkeypatch, record_property):
    real, path = hashlib.sha256, tmp_path / "a.safetensors"

    def sha256(data=b""):  # only the header's is made of data that are there at once
        return real(data) if data and part == "body" else SameForAll()

    monkeypatch.setattr(formats.hashlib, "sha256", sha256)
    store.write(path, a_small_tree())
    whole = path.read_bytes()
    some = random.Random(0).sample(list(flips(whole)), 500)
    tried, wrong = passes(path, [*some, *splices(whole, whole[::-1], 100)])

    assert len([each for each in wrong if each.endswith("was read")]) > 20
    record_property("count", f"R16: without the digest of {part}: {len(wrong)} of {tried} damages pass")


def test_without_the_containment_check_paths_lead_out(tmp_path, monkeypatch, record_property):
    monkeypatch.setattr(store, "_refuse_outside", lambda *_: None)
    tried, open_ways = escapes(tmp_path)

    assert len(open_ways) > tried // 2
    record_property("count", f"R16: without the containment check: {len(open_ways)} ways lead out")


def test_a_disk_that_writes_in_place_is_found_by_a_kill(tmp_path):
    class Killed(Exception):
        pass

    class InPlace(Disk):
        def replace(self, path: Path, new: Path) -> None:
            new.write_bytes(path.read_bytes()[:100])
            raise Killed

    store.write(tmp_path / "a.safetensors", {"step": 1})
    with pytest.raises(Killed):
        store.write(tmp_path / "a.safetensors", {"step": 2}, overwrite=True, disk=InPlace())

    assert store.latest(tmp_path).path is None
