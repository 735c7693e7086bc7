"""One run per directory."""

import json
import os
import socket
import subprocess
import sys

import pytest

from fncb.disk import Disk
from fncb.lock import HOLDER, LOCK, DirectoryTaken, take

HERE = f"this process ({os.getpid()}), by another run that is not closed"
LEFTOVER = ".fncb-0123456789abcdef.tmp"


def test_a_directory_is_made_and_taken_and_let_go(tmp_path):
    held = take(tmp_path / "runs" / "a")
    names = sorted(os.listdir(tmp_path / "runs" / "a"))
    holder = json.loads((tmp_path / "runs" / "a" / HOLDER).read_text())
    held.close()
    held.close()

    assert names == [HOLDER, LOCK]
    assert holder == {"pid": os.getpid(), "host": socket.gethostname()}
    assert os.listdir(tmp_path / "runs" / "a") == [LOCK]
    with take(tmp_path / "runs" / "a"):
        pass


def test_a_second_run_is_told_which_directory_who_has_it_and_what_to_do(tmp_path):
    with take(tmp_path), pytest.raises(DirectoryTaken) as error:
        take(tmp_path, who="Session")

    assert str(error.value) == (
        f"Session: a directory must have one run at a time, got {tmp_path}, which is held by {HERE}. Wait for that run "
        "or end it, or use another directory."
    )


def test_a_lock_is_the_directorys_whatever_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    with take("run"):
        for name in (tmp_path / "run", "link", "run/../run"):
            with pytest.raises(DirectoryTaken):
                take(name)


def test_the_first_holders_lock_outlasts_a_second_try(tmp_path):
    with take(tmp_path):
        for _ in range(2):
            with pytest.raises(DirectoryTaken, match="this process"):
                take(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"pid":7,"host":"far"}', "held by process 7 on host 'far'."),
        ('{"pid":7,"host":"' + "a" * 500 + '"}', "on host '" + "a" * 80 + "'."),
        ('{"pid":7,"host":"\\u001b[31m\\n"}', r"on host '\x1b[31m\n'."),
        ('{"pid":"x","host":"far"}', "held by an unknown process."),
        ("[" * 5000, "held by an unknown process."),
        ("", "held by an unknown process."),
        (None, "held by an unknown process."),
    ],
)
def test_what_is_said_of_the_holder_is_not_trusted(text, told, tmp_path):
    with take(tmp_path):
        (tmp_path / HOLDER).unlink()
        if text is not None:
            (tmp_path / HOLDER).write_text(text)
        with pytest.raises(DirectoryTaken) as error:
            take(tmp_path)

    assert told in str(error.value)


def test_a_holder_that_is_only_written_down_holds_nothing(tmp_path):
    (tmp_path / HOLDER).write_text('{"pid":1,"host":"far"}')
    (tmp_path / LOCK).write_text("")

    take(tmp_path).close()


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "epochs").mkdir()
    (tmp_path / "other").mkdir()
    kept = [".fncb-0123.tmp", "a.tmp", "a.safetensors", "x" + LEFTOVER]
    for name in [*kept, LEFTOVER]:
        (tmp_path / name).write_text("")
        (tmp_path / "epochs" / name).write_text("")
        (tmp_path / "other" / name).write_text("")
    with take(tmp_path / "other"):
        (tmp_path / "other" / LEFTOVER).write_text("")  # another run is writing it
        with take(tmp_path):
            pass

    assert sorted(os.listdir(tmp_path)) == sorted([*kept, LOCK, "epochs", "other"])
    assert sorted(os.listdir(tmp_path / "epochs")) == sorted(kept)
    assert sorted(os.listdir(tmp_path / "other")) == sorted([*kept, LOCK, LEFTOVER])


def test_a_directory_where_nothing_can_be_written_is_found_out_at_once(tmp_path):
    class Denied(Disk):
        def create(self, _path):
            raise PermissionError(13, "Permission denied")

    with pytest.raises(
        PermissionError, match=r"fit: user \d+ must have the permission for this in .*Change the"
    ) as error:
        take(tmp_path, disk=Denied())

    assert str(tmp_path) in str(error.value)
    take(tmp_path).close()  # the lock was let go


def test_locks_need_no_torch():
    code = (
        "import sys, tempfile\n"
        "from fncb.lock import take\n"
        "take(tempfile.mkdtemp()).close()\n"
        "assert 'torch' not in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
