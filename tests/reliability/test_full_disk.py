"""R15: no room and no permission are said clearly, and lose nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def found():
    folder = Path(tempfile.mkdtemp(prefix="fncb-cramped-"))  # pytest's own may only be entered by its owner
    folder.chmod(0o755)
    try:
        made = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("cramped.py")), str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=True,
        )
        yield {"folder": str(folder), **json.loads(made.stdout)}
    finally:
        (folder / "denied").chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize(("way", "code", "size"), [("limit", "EFBIG", 1_000_000), ("full", "ENOSPC", 4_000_000)])
def test_a_full_disk_says_path_needed_and_free_and_loses_nothing(way, code, size, found, record_property):
    if way not in found:
        pytest.skip("a full tmpfs needs the right to mount one; the limit on file sizes is tested without it")
    end = found[way]
    told = re.search(r"the disk must have room for (\d+) bytes, got (\d+) free", end["error"])

    assert told is not None, end
    assert size < int(told[1]) < size + 1000
    assert end["code"] == code
    assert f"{found['folder']}/{way}/2.safetensors" in end["error"]
    assert (end["newest"], end["rejected"], end["left"]) == ("1.safetensors", 0, [])
    assert end.get("then", True)
    record_property("count", f"R15: {way} ({code}): {told[0]}; nothing lost, nothing left")


@pytest.mark.parametrize(
    ("what", "who", "path"),
    [
        ("denied", "store.write", "denied/2.safetensors"),
        ("made", "store.write", "denied/new/2.safetensors"),
        ("delete", "store.delete", "denied/1.safetensors"),
        ("lock", "fit", "denied/.fncb.lock"),
    ],
)
def test_no_permission_says_who_where_and_what_to_do(what, who, path, found, record_property):
    end = found[what]

    assert end["kind"] == "PermissionError"
    assert f"{who}: user {found['user']} must have the permission for this in {found['folder']}/denied" in end["error"]
    assert "Change the directory's owner or mode" in end["error"]
    assert f"{found['folder']}/{path}" in end["error"]
    assert (end["newest"], end["rejected"], end["left"]) == ("1.safetensors", 0, [])
    record_property("count", f"R15: no permission ({what}): a clear error, nothing lost")
