"""A file that grows by whole pieces, as they are or compressed, and can be read up to the last one that is whole.

A name that ends in `.gz` has each piece as a member of gzip, one in `.zst` as a frame of zstandard, so that `zcat` and
`zstd -dc` print such a file. A piece consists of whole lines.
"""

import gzip
import importlib
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

LONGEST_LINE = 1 << 20  # bytes
LARGEST = 4 << 20  # bytes of a piece, before it is compressed
_READ = 1 << 16  # bytes at a time
_LEVEL = 3  # where larger files are not much larger: recording is to be quick

Piece = tuple[bytes, int]
"""Whole lines, and where in the file they end."""


class BrokenPiece(ValueError):
    """A piece of a file that is not as it was written."""


def packer(path: Path) -> Callable[[bytes], bytes]:
    """What makes of a piece what stands in the file with such a name.

    Raises:
      ImportError: for `.zst`, if nothing that compresses so is installed.
    """
    if path.suffix == ".gz":
        return partial(gzip.compress, compresslevel=_LEVEL, mtime=0)
    if path.suffix == ".zst":
        return partial(_zstd().compress, level=_LEVEL)
    return bytes


def pieces(file: BinaryIO, path: Path) -> Iterator[Piece | None]:
    """The pieces of a file that is open, from its beginning; None for one that is not whole, or not there yet.

    After a None it can be asked again, and goes on when more was written.

    Raises:
      BrokenPiece: for what is no piece, and what is larger than any that is written.
    """
    if path.suffix == ".gz":
        return _unpacked(file, partial(zlib.decompressobj, wbits=31), zlib.error)
    if path.suffix == ".zst":
        zstd = _zstd()
        return _unpacked(file, zstd.ZstdDecompressor, zstd.ZstdError)
    return _lines(file)


def _lines(file: BinaryIO) -> Iterator[Piece | None]:
    end, rest = 0, b""
    while True:
        block = file.read(_READ)
        data = rest + block
        whole = data.rfind(b"\n") + 1
        rest = data[whole:]
        if whole:
            end += whole
            yield data[:whole], end
        if len(rest) > LONGEST_LINE:
            raise BrokenPiece(f"must have at most {LONGEST_LINE} bytes, got more")
        if not block:
            file.seek(end)
            rest = b""
            yield None


def _unpacked(file: BinaryIO, begin: Callable[[], Any], error: type[Exception]) -> Iterator[Piece | None]:
    end, data = 0, b""
    while True:
        inflater, out = begin(), bytearray()
        for block in chain([data] if data else [], iter(partial(file.read, _READ), b"")):
            try:
                out += inflater.decompress(block, LARGEST + 1 - len(out))  # at most so many bytes
            except (error, EOFError) as reason:
                raise BrokenPiece(f"must be a piece that can be unpacked, got {reason}") from None
            if len(out) > LARGEST:
                raise BrokenPiece(f"must unpack to at most {LARGEST} bytes, got more")
            if inflater.eof:
                data = inflater.unused_data
                end = file.tell() - len(data)
                yield bytes(out), end
                break
        else:
            file.seek(end)
            data = b""
            yield None


def _zstd() -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(
            "record: a name in .zst needs zstandard, which is not installed. Install fncb[zst], or end the name in .gz."
        ) from None
