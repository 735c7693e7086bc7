"""The event log: what happened and what was asked for, one line each, in a file that tells when it is damaged.

A line is a JSON array such as `["ValidationEnd",{"step":12,"metrics":{"val_loss":0.5}},"1a2b3c4d"]`: the class of an
event or effect, its fields that differ from their defaults, and the crc32 of all before it in the line, seeded with the
crc of the line before, so that a line that was removed or moved shows too. The first line is a header, and so is the
first line of each resume, which says `after` how many events and effects it goes on.
"""

import logging
import os
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import msgspec

from fncb.disk import make_directories
from fncb.effects import Effect
from fncb.events import Event
from fncb.metrics import read_pending
from fncb.notation import Notation, notation_named, notation_of, write_all

FORMAT = 1
BUFFERED = 256
"""How many records are held back, to be encoded and written together."""

_LONGEST_LINE = 1 << 20  # bytes
_DEEPEST = 32
_AFTER_BODY = len(b',"01234567"]\n')
_HEADER = b'["Header"'
_noting = msgspec.json.Encoder(enc_hook=repr)  # a function in a config is noted, not kept
_log = logging.getLogger("fncb")


class DamagedRecording(ValueError):
    """A recording of which more than the tail is not as it was written, or another kind of file."""


@attrs.frozen
class Recording:
    """What a recording holds.

    Attributes:
      header: of the last run that wrote to the file; its `recorded` names the classes of event that all of them did.
      entries: events and effects in order.
      torn: bytes after the last whole line, which a crash left and which are not read.
    """

    header: Mapping[str, Any]
    entries: tuple[Event | Effect, ...] = attrs.field(repr=lambda entries: f"<{len(entries)}>")
    torn: int = 0

    @property
    def events(self) -> tuple[Event, ...]:
        """The events in order."""
        return tuple([entry for entry in self.entries if isinstance(entry, Event)])

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The effects in order."""
        return tuple([entry for entry in self.entries if isinstance(entry, Effect)])


def read(path: str | Path, only: Container[str] | None = None) -> Recording:
    """Reads a recording. A torn tail is left out, with a warning; everything before it must be as it was written.

    Args:
      path: the file.
      only: names of the classes of event and effect to read; the others are left out, which is faster.

    Raises:
      DamagedRecording: naming the first line that is not.
      ValueError: if a newer fncb wrote the file.
    """
    path = Path(path)
    headers: list[dict[str, Any]] = []
    entries: list[Any] = []
    readers: dict[bytes, Callable[[bytes], Any]] = {}
    end = 0
    for number, (head, fields, _, line_end) in enumerate(_lines(path), 1):
        try:
            if head == _HEADER:
                headers.append(_header(path, fields, len(entries)))
                del entries[headers[-1].get("after", 0) :]
            elif head in readers:
                entries.append(readers[head](fields))
            else:
                readers[head] = _reader(head, only)
                entries.append(readers[head](fields))
        except (msgspec.DecodeError, RecursionError, LookupError, TypeError) as error:
            raise _damaged(path, number, f"must be an event or effect, got {head[:80]!r}: {error}") from None
        end = line_end
    torn = path.stat().st_size - end
    if not headers:
        raise _damaged(path, 1, f"must be a header, got {torn} bytes of something else")
    if torn:
        _log.warning("recording %s: its last %d bytes are torn and left out", path, torn)
    recorded = [set(header["recorded"]) for header in headers if "recorded" in header]
    header = {**headers[-1], **({"recorded": sorted(set.intersection(*recorded))} if recorded else {})}
    return Recording(header, tuple(entries if only is None else filter(None, entries)), torn)


def _reader(head: bytes, only: Container[str] | None) -> Callable[[bytes], Any]:
    name = msgspec.json.decode(head + b"]", type=tuple[str])[0]
    notation = notation_named(name)
    return notation.read if only is None or name in only else lambda _: None


class Recorder:
    """Appends events and effects to a file, in bulk.

    They are held in memory until `flush`, which is called every `BUFFERED` records: only then are metrics read from
    the device, all that are pending at once. Live fields are let go of right away.

    Attributes:
      path: the file; `events-v1.jsonl` if `events.jsonl` was taken.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any], resume_at: int | None = None):
        """Opens a recording.

        Args:
          path: where; its directory is made if needed. An existing file is only touched to go on in it.
          header: plain data about the run: versions, keys and configs, and `recorded`, the names of the classes of
            event that will be recorded. What is not plain is noted by its repr.
          resume_at: go on in the existing file after so many events and effects; what it holds beyond them no longer
            counts. If there is no such file, a new one is begun.

        Raises:
          ValueError: if the existing file holds fewer events and effects, or is damaged.
        """
        path = Path(path)
        make_directories(path.parent)
        self._buffer: list[tuple[Notation, tuple[Any, ...]]] = []
        self._crc = self._end = self._written = 0
        if resume_at is not None and path.exists():
            self._go_on(path, resume_at)
            header = {**header, "after": resume_at}
            self.path, self._file = path, open(path, "r+b", buffering=0)  # noqa: SIM115 - `close` closes it
            self._cut()
        else:
            self.path, self._file = _create(path)
        self._append([_noting.encode(("Header", {**header, "format": FORMAT}))])

    @property
    def lines(self) -> int:
        """Events and effects so far, those before a resume included. As `resume_at` it goes on from here."""
        return self._written + len(self._buffer)

    def event(self, event: Event) -> None:
        """Records an event."""
        notation = notation_of(type(event))
        self._buffer.append((notation, notation.take(event.__dict__)))
        if len(self._buffer) >= BUFFERED:
            self.flush()

    def effect(self, effect: Effect) -> None:
        """Records an effect."""
        notation = notation_of(type(effect))
        self._buffer.append((notation, notation.take(effect)))
        if len(self._buffer) >= BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Writes what is held back."""
        read_pending(values[notation.metrics] for notation, values in self._buffer if notation.metrics is not None)
        self._append(write_all(self._buffer))
        self._written += len(self._buffer)
        self._buffer.clear()

    def sync(self) -> None:
        """Waits until what was written is on the disk; may be called from another thread."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the file. Closing again is no error."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()

    def _go_on(self, path: Path, resume_at: int) -> None:
        for head, fields, crc, end in _lines(path):
            self._crc, self._end = crc, end
            header = _header(path, fields, self._written) if head == _HEADER else None
            self._written = self._written + 1 if header is None else header.get("after", 0)
        if not 0 <= resume_at <= self._written:
            raise ValueError(
                f"record: {path} must hold the {resume_at} lines to go on after, got {self._written}. It is another "
                "run's or lost its tail: record to another file."
            )
        if torn := path.stat().st_size - self._end:
            _log.warning("recording %s: its last %d bytes are torn and cut off", path, torn)
        self._written = resume_at

    def _append(self, lines: Iterable[bytes]) -> None:
        """Writes lines such as `["Class",{...}]`, each with its checksum before the bracket that closes it."""
        crc, data = self._crc, bytearray()
        for line in lines:
            body = line[:-1]
            crc = zlib.crc32(body, crc)
            if len(body) > _LONGEST_LINE - _AFTER_BODY:
                raise ValueError(
                    f"record: a line must have at most {_LONGEST_LINE} bytes, got {len(body)} that begin {body[:40]!r}."
                )
            data += b'%s,"%08x"]\n' % (body, crc)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self._cut()  # so that a later flush does not go on after half a line
            raise
        self._crc, self._end = crc, self._end + len(data)

    def _cut(self) -> None:
        self._file.truncate(self._end)
        self._file.seek(self._end)


def _create(path: Path) -> tuple[Path, Any]:
    for attempt in count():
        free = path.with_name(f"{path.stem}-v{attempt}{path.suffix}") if attempt else path
        try:
            return free, open(free, "xb", buffering=0)
        except FileExistsError:
            continue
    raise AssertionError("count() does not end")


def _lines(path: Path) -> Iterator[tuple[bytes, bytes, int, int]]:
    """Head (`["Class"`) and fields of each whole line, its checksum, which is right, and where it ends."""
    crc = end = 0
    with open(path, "rb") as file:
        for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE + 1), b""), 1):
            body = line[:-_AFTER_BODY]
            crc = zlib.crc32(body, crc)
            if line[-_AFTER_BODY:] != b',"%08x"]\n' % crc:
                if len(line) > _LONGEST_LINE:
                    raise _damaged(path, number, f"must have at most {_LONGEST_LINE} bytes, got more")
                if line[-1:] != b"\n":
                    return  # torn
                raise _damaged(path, number, f"must have the checksum {crc:08x}, got {line[-60:]!r}")
            end += len(line)
            head, _, fields = body.partition(b",")
            if number == 1 and head != _HEADER:
                raise _damaged(path, number, f"must be a header, got {line[:60]!r}")
            yield head, fields, crc, end


def _header(path: Path, fields: bytes, entries: int) -> dict[str, Any]:
    header = msgspec.json.decode(fields, type=dict[str, Any])
    known = msgspec.convert({name: header[name] for name in _Header.__struct_fields__ if name in header}, _Header)
    if known.format > FORMAT:
        raise ValueError(
            f"read: {path} must be of format {FORMAT} or older, got format {known.format}, written by fncb "
            f"{header.get('fncb')}. Install that version or a newer one."
        )
    if not 0 <= known.after <= entries:
        raise msgspec.ValidationError(f"after must be one of the {entries} lines before, got {known.after}")
    if _depth(header) > _DEEPEST:
        raise msgspec.ValidationError(f"nested deeper than {_DEEPEST}")
    return header


class _Header(msgspec.Struct):
    format: int
    recorded: list[str] = []
    after: int = 0


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _damaged(path: Path, number: int, what: str) -> DamagedRecording:
    return DamagedRecording(
        f"read: {path}, line {number}: {what}. The file is damaged, or no recording; the lines before can be trusted."
    )
