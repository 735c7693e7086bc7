"""R2: a power cut loses no save that was acknowledged, whatever of the unflushed came through."""

import pytest

from fncb import formats, store
from tests.reliability.disks import Noting
from tests.reliability.power import losses, new_names, one_name


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize(
    ("saves", "links"),
    [(new_names, True), (new_names, False), (one_name, True)],
    ids=["new names", "new names without links", "one name"],
)
def test_no_acknowledged_save_is_lost_in_a_power_cut(saves, links, large, tmp_path, monkeypatch, record_property):
    if large:  # the body is flushed before the header is written
        monkeypatch.setattr(store, "LARGE", 1)
        monkeypatch.setattr(formats, "LARGE", 1)
    (tmp_path / "disk").mkdir()
    disk = Noting(links=links)
    saves(tmp_path / "disk", disk)
    disks, wrong = losses(tmp_path / "disk", disk, tmp_path / "after")

    assert wrong == []
    assert disks > 60
    calls = len([note for note in disk.notes if note[0] not in ("saved", "deleting")])
    what = f"{saves.__name__}{'' if links else ' without links'}{', large' * large}"
    record_property("count", f"R2: {what}, {calls} calls: {disks} disks after a power cut, 0 saves lost")
