"""Files that grow by whole pieces, plain or compressed."""

import gzip
import subprocess
import sys
import zlib

import pytest

from fncb import frames
from fncb.frames import LARGEST, LONGEST_LINE, BrokenPiece, packer, pieces

SUFFIXES = ["jsonl", "jsonl.gz", "jsonl.zst"]
LINES = [b"one\ntwo\n", b"three\n", b"four\n" * 1000]


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    path = tmp_path / f"a.{request.param}"
    pack = packer(path)
    path.write_bytes(b"".join(map(pack, LINES)))
    return path


def found(path):
    """The whole pieces of a file, and where the last of them ends."""
    whole, end = [], 0
    with open(path, "rb") as file:
        for piece in pieces(file, path):
            if piece is None:
                return b"".join(whole), end
            whole.append(piece[0])
            end = piece[1]
    raise AssertionError


def test_all_pieces_come_back(path):
    assert found(path) == (b"".join(LINES), path.stat().st_size)


def test_every_truncation_gives_whole_pieces_only(path):
    data = path.read_bytes()
    ends = set()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole, end = found(path)
        assert b"".join(LINES).startswith(whole)
        assert whole[-1:] in (b"", b"\n")
        assert end <= size
        ends.add(end)
    assert len(ends) >= 3


def test_what_is_written_later_is_found_when_it_is_asked_again(path):
    data = path.read_bytes()
    path.write_bytes(b"")
    got = []
    with open(path, "rb") as file, open(path, "ab", buffering=0) as writer:
        reading = pieces(file, path)
        for start in range(0, len(data), 7):
            writer.write(data[start : start + 7])
            while (piece := next(reading)) is not None:
                got.append(piece[0])
    assert b"".join(got) == b"".join(LINES)


def test_damage_is_told_or_what_comes_before_it_is_given(path):
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            whole, _ = found(path)
        except BrokenPiece:
            continue
        if path.suffix == ".gz":  # which has checksums of its own
            assert b"".join(LINES).startswith(whole)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_piece_that_would_fill_the_memory_is_refused(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(packer(path)(bytes(64 << 20)))
    assert path.stat().st_size < 400_000

    with pytest.raises(BrokenPiece, match=f"must unpack to at most {LARGEST} bytes, got more"):
        found(path)


def test_a_line_without_an_end_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(bytes(4 << 20))

    with pytest.raises(BrokenPiece, match=f"must have at most {LONGEST_LINE} bytes, got more"):
        found(tmp_path / "a")


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
@pytest.mark.parametrize("content", [b"not compressed at all\n" * 9, b"\0" * 99])
def test_what_is_not_compressed_is_refused(suffix, content, tmp_path):
    (tmp_path / f"a.{suffix}").write_bytes(content)

    with pytest.raises(BrokenPiece, match="must be a piece that can be unpacked, got"):
        found(tmp_path / f"a.{suffix}")


def test_gzip_itself_reads_what_is_written(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(b"".join(map(packer(path), LINES)))

    assert gzip.decompress(path.read_bytes()) == b"".join(LINES)
    assert zlib.crc32(packer(path)(b"x")) == zlib.crc32(packer(path)(b"x"))  # no time in it


def test_without_zstandard_the_error_names_the_extra(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.modules['backports.zstd'] = sys.modules['compression.zstd'] = None\n"
        "from fncb.frames import packer; packer(Path('a.jsonl.gz')); packer(Path('a.jsonl.zst'))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (
        "ImportError: record: a name in .zst needs zstandard, which is not installed. Install fncb[zst]" in out.stderr
    )


def test_pieces_are_larger_than_what_is_read_at_once():
    assert frames._READ < LONGEST_LINE < LARGEST
