"""The filesystem: one call each, and errors that say what to do."""

import errno
import os

import pytest

from fncb.disk import DISK, TEMPORARY, Disk, discard, explained, make_directories, temporary_in, write_all


def test_a_file_is_made_filled_and_named(tmp_path):
    temporary = temporary_in(tmp_path)
    handle = DISK.create(temporary)
    end = write_all(handle, b"body", 4)
    write_all(handle, b"head", 0)
    DISK.sync(handle)
    DISK.close(handle)
    DISK.link(temporary, tmp_path / "a")
    DISK.replace(temporary, tmp_path / "b")
    DISK.sync_directory(tmp_path)

    assert end == 8
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"headbody"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_name_that_is_taken_is_not_made_again(tmp_path):
    (tmp_path / "a").write_text("mine")
    for act in (lambda: DISK.create(tmp_path / "a"), lambda: DISK.link(tmp_path / "a", tmp_path / "a")):
        with pytest.raises(FileExistsError):
            act()

    assert (tmp_path / "a").read_text() == "mine"


def test_names_of_temporary_files_are_hidden_and_differ(tmp_path):
    names = {temporary_in(tmp_path).name for _ in range(100)}

    assert len(names) == 100
    assert all(TEMPORARY.fullmatch(name) for name in names)


@pytest.mark.parametrize("name", [".fncb-0123456789abcdeg.tmp", ".fncb-0.tmp", "x.fncb-0123456789abcdef.tmp", "a.tmp"])
def test_other_names_are_not_taken_for_temporary_ones(name):
    assert not TEMPORARY.fullmatch(name)


def test_directories_are_made_from_the_top_and_each_is_flushed(tmp_path):
    class Noting(Disk):
        def make_directory(self, path):
            notes.append(("make", path))
            super().make_directory(path)

        def sync_directory(self, path):
            notes.append(("sync", path))

    notes = []
    for _ in range(2):  # there is nothing to do again
        make_directories(tmp_path / "a" / "b", Noting())

    assert notes == [
        ("make", tmp_path / "a"),
        ("sync", tmp_path),
        ("make", tmp_path / "a" / "b"),
        ("sync", tmp_path / "a"),
    ]


def test_a_directory_that_somebody_else_makes_meanwhile_is_no_error(tmp_path):
    class Late(Disk):
        def make_directory(self, path):
            os.mkdir(path)
            super().make_directory(path)

    make_directories(tmp_path / "a", Late())

    assert (tmp_path / "a").is_dir()


def test_a_file_where_a_directory_should_be_is_an_error(tmp_path):
    (tmp_path / "a").write_text("")

    with pytest.raises(FileExistsError, match=r"a'$"):
        make_directories(tmp_path / "a")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_filesystem_that_flushes_no_directories_is_none(code, tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)

    DISK.sync_directory(tmp_path)


def test_discarding_what_is_not_there_is_no_error(tmp_path):
    discard(tmp_path / "a")


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (
            errno.ENOSPC,
            OSError,
            r"save: the disk must have room for 9 bytes, got \d+ free: No space left on device\. D",
        ),
        (
            errno.EDQUOT,
            OSError,
            r"save: the disk must have room for 9 bytes, got \d+ free: Disk quota exceeded\. Delete",
        ),
        (errno.EFBIG, OSError, r"Delete what is not needed or raise the limit of a file's size \(ulimit -f\), or use"),
        (
            errno.EACCES,
            PermissionError,
            r"save: user \d+ must have the permission for this in .*, got Permission denied",
        ),
        (errno.EROFS, OSError, r"got Read-only file system\. Change the directory's owner or mode"),
        (errno.EIO, OSError, r"save: the disk must do what it is asked to, got Input/output error\. Look at the disk"),
    ],
)
def test_errors_say_who_what_where_and_what_to_do(code, kind, message, tmp_path):
    with pytest.raises(kind, match=message) as error, explained("save", tmp_path / "a", 9):
        raise OSError(code, os.strerror(code))

    assert error.value.errno == code
    assert error.value.filename == str(tmp_path / "a")
    assert str(tmp_path / "a") in str(error.value)


@pytest.mark.parametrize("kind", [FileNotFoundError, FileExistsError, ValueError])
def test_other_errors_stay_as_they_are(kind, tmp_path):
    first = kind("as it was")

    with pytest.raises(kind) as error, explained("save", tmp_path):
        raise first
    assert error.value is first
