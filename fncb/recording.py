"""The event log: what happened and what was asked for, one line each, in a file that tells when it is damaged.

A line is a JSON array such as `["ValidationEnd",[0,12,3.5,{"val_loss":0.5},true],"1a2b3c4d"]`: the class of an event or
effect, its fields in order, and the crc32 of all before it in the line, seeded with the crc of the line before, so that
a line that was removed or moved shows too. The first line is a header, and so is the first line of each resume, which
says `after` how many events and effects it goes on. Ends of training batches may share a line: see `batch_ends`. A name
that ends in `.gz` or `.zst` has the file compressed.
"""

import logging
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import msgspec

from fncb import batch_ends
from fncb.effects import Effect
from fncb.events import Event, TrainBatchEnd
from fncb.frames import LONGEST_LINE, BrokenPiece, pieces
from fncb.notation import notation_named

FORMAT = 2
HEADER = b'["Header"'
"""How the line of a header begins."""

_AFTER_BODY = len(b',"01234567"]\n')
_DEEPEST = 32
_log = logging.getLogger("fncb")


class DamagedRecording(ValueError):
    """A recording of which more than the tail is not as it was written, or another kind of file."""


@attrs.frozen
class Foreign(Effect):
    """An effect of a package that is not loaded, as a recording has it: the name of its class and its fields."""

    name: str
    fields: Any = None


@attrs.frozen
class Recording:
    """What a recording holds.

    Attributes:
      header: of the last run that wrote to the file; its `recorded` names the classes of event that all of them did.
      entries: events and effects in order.
      torn: bytes after the last whole line, which a crash left and which are not read.
      resumed: where among the entries a run went on that had been cut.
    """

    header: Mapping[str, Any]
    entries: tuple[Event | Effect, ...] = attrs.field(repr=lambda entries: f"<{len(entries)}>")
    torn: int = 0
    resumed: tuple[int, ...] = ()

    @property
    def events(self) -> tuple[Event, ...]:
        """The events in order."""
        return tuple([entry for entry in self.entries if isinstance(entry, Event)])

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The effects in order."""
        return tuple([entry for entry in self.entries if isinstance(entry, Effect)])


def asked_at(entries: Iterable[Event | Effect]) -> Iterator[tuple[Event, tuple[Effect, ...]]]:
    """Each event with the effects that were asked for at it."""
    event: Event | None = None
    effects: list[Effect] = []
    for entry in entries:
        if isinstance(entry, Effect):
            effects.append(entry)
            continue
        if event is not None:
            yield event, tuple(effects)
        event, effects = entry, []
    if event is not None:
        yield event, tuple(effects)


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
    resumed: list[int] = []
    entries: list[Any] = []
    read_line = _line_reader(only)
    end = 0
    for number, line in enumerate(lines_of(path), 1):
        if line is None:
            break
        head, fields, _, end = line
        try:
            if head != HEADER:
                entries += read_line(head, fields)
                continue
            headers.append(header_of(path, fields, len(entries)))
            if "after" in headers[-1]:
                after = headers[-1]["after"]
                del entries[after:]
                resumed = [*[place for place in resumed if place < after], after]
        except _NOT_AS_WRITTEN as error:
            raise _damaged(path, number, f"must be an event or effect, got {head[:80]!r}: {error}") from None
    torn = path.stat().st_size - end
    if not headers:
        raise _damaged(path, 1, f"must be a header, got {torn} bytes of something else")
    if torn:
        _log.warning("recording %s: its last %d bytes are torn and left out", path, torn)
    recorded = [set(header["recorded"]) for header in headers if "recorded" in header]
    header = {**headers[-1], **({"recorded": sorted(set.intersection(*recorded))} if recorded else {})}
    if only is not None:
        resumed = [sum(entry is not None for entry in entries[:place]) for place in resumed]
        entries = [entry for entry in entries if entry is not None]
    return Recording(header, tuple(entries), torn, tuple(resumed))


encode_noted: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=repr).encode
"""JSON of what a header is given: a function in a config is noted by its repr, not kept."""


def noted(value: Any) -> Any:
    """What a header keeps of a value: plain data as it is, the rest by its repr.

    Example:
      >>> noted({"patience": 3, "when": len})
      {'patience': 3, 'when': '<built-in function len>'}
    """
    return msgspec.json.decode(encode_noted(value))


def follow(path: str | Path) -> Iterator[Event | Effect | None]:
    """What a recording holds, and then what is written to it; None each time that there is nothing new.

    A line that is not whole is not there yet. What a resume goes on without was given already, and stays so.

    Raises:
      DamagedRecording, ValueError: as `read`.
    """
    path = Path(path)
    read_line, number = _line_reader(None), 0
    for line in lines_of(path):
        if line is None:
            yield None
            continue
        head, fields, _, _ = line
        number += 1
        try:
            found = read_line(head, fields) if head != HEADER else []
            if head == HEADER:
                header_of(path, fields)
        except _NOT_AS_WRITTEN as error:
            raise _damaged(path, number, f"must be an event or effect, got {head[:80]!r}: {error}") from None
        yield from found


_NOT_AS_WRITTEN = (msgspec.DecodeError, RecursionError, LookupError, TypeError)


def _line_reader(only: Container[str] | None) -> Callable[[bytes, bytes], list[Any]]:
    """Reads fields of the class that a head names, mostly of one; gives None for each that is not wanted."""
    readers: dict[bytes, Callable[[bytes], list[Any]]] = {}

    def is_wanted(name: str) -> bool:
        return only is None or name in only

    def reader(head: bytes) -> Callable[[bytes], list[Any]]:
        if head == batch_ends.HEAD:
            wanted = is_wanted(TrainBatchEnd.__name__)
            return lambda fields: [event if wanted else None for event in batch_ends.read_batch_ends(fields)]
        name = msgspec.json.decode(head + b"]", type=tuple[str])[0]
        if not is_wanted(name):
            return lambda _: [None]
        notation = notation_named(name)
        read_one = partial(_foreign, name) if notation is None else notation.read
        return lambda fields: [read_one(fields)]

    def read_line(head: bytes, fields: bytes) -> list[Any]:
        if head not in readers:
            readers[head] = reader(head)
        return readers[head](fields)

    return read_line


def _foreign(name: str, fields: bytes) -> Foreign:
    data = msgspec.json.decode(fields)
    if _depth(data) > _DEEPEST:
        raise msgspec.ValidationError(f"nested deeper than {_DEEPEST}")
    key = data[0] if isinstance(data, list) and data and isinstance(data[0], str) else None
    return Foreign(name, data, key=key)


def lines_of(path: Path) -> Iterator[tuple[bytes, bytes, int, int] | None]:
    """Head (`["Class"`) and fields of each whole line, its checksum, which is right, and where its piece ends.

    None where there is no more: asked again, it goes on if more was written.
    """
    crc = number = 0
    with open(path, "rb") as file:
        found = pieces(file, path)
        while True:
            try:
                piece = next(found)
            except BrokenPiece as error:
                raise _damaged(path, number + 1, str(error)) from None
            if piece is None:
                yield None
                continue
            whole, end = piece
            lines = whole.split(b"\n")[:-1]
            if len(whole) > LONGEST_LINE and len(max(lines, key=len)) >= LONGEST_LINE:
                raise _damaged(path, number + 1, f"must have at most {LONGEST_LINE} bytes, it or one after it has more")
            for line in lines:
                number += 1
                body = line[: 1 - _AFTER_BODY]
                crc = zlib.crc32(body, crc)
                if line[1 - _AFTER_BODY :] != b',"%08x"]' % crc:
                    raise _damaged(path, number, f"must have the checksum {crc:08x}, got {line[-60:]!r}")
                head, _, fields = body.partition(b",")
                if number == 1 and head != HEADER:
                    raise _damaged(path, number, f"must be a header, got {line[:60]!r}")
                yield head, fields, crc, end


def header_of(path: Path, fields: bytes, entries: int | None = None) -> dict[str, Any]:
    """A header, checked; `entries` is how many events and effects stand before it, if that is known."""
    header = msgspec.json.decode(fields, type=dict[str, Any])
    known = msgspec.convert({name: header[name] for name in _Header.__struct_fields__ if name in header}, _Header)
    if known.format > FORMAT:
        raise ValueError(
            f"read: {path} must be of format {FORMAT} or older, got format {known.format}, written by fncb "
            f"{header.get('fncb')}. Install that version or a newer one."
        )
    if entries is not None and not 0 <= known.after <= entries:
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
