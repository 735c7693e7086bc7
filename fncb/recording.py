"""The event log: what happened and what was asked for, one line each, in a file that tells when it is damaged.

A line is a JSON array such as `["ValidationEnd",[0,12,3.5,{"val_loss":0.5},true],"1a2b3c4d"]`: the class of an event or
effect, its fields in order, and the crc32 of all before it in the line, seeded with the crc of the line before, so that
a line that was removed or moved shows too. The first line is a header, and so is the first line of each resume, which
says `after` how many events and effects it goes on. Ends of training batches may share a line: see `batch_ends`. A name
that ends in `.gz` or `.zst` has the file compressed.
"""

import logging
import os
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import attrs
import msgspec

from fncb import batch_ends
from fncb.batch_ends import BatchEnds, to_the_microsecond
from fncb.disk import make_directories
from fncb.effects import Effect
from fncb.events import Event, Metrics, TrainBatchEnd, TrainBatchStart
from fncb.frames import LARGEST, LONGEST_LINE, BrokenPiece, packer, pieces, stem_and_suffix
from fncb.metrics import read_pending
from fncb.notation import Notation, must_be_readable, notation_named, notation_of, write_all

FORMAT = 2
BUFFERED = 256
"""How many records are held back, to be encoded and written together."""

_THINNED = (TrainBatchStart, TrainBatchEnd)
"""Events whose metrics may be left out of most steps."""

_DEEPEST = 32
_AFTER_BODY = len(b',"01234567"]\n')
_HEADER = b'["Header"'
_noting = msgspec.json.Encoder(enc_hook=repr)  # a function in a config is noted, not kept
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
    for number, line in enumerate(_lines(path), 1):
        if line is None:
            break
        head, fields, _, end = line
        try:
            if head != _HEADER:
                entries += read_line(head, fields)
                continue
            headers.append(_header(path, fields, len(entries)))
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


def noted(value: Any) -> Any:
    """What a header keeps of a value: plain data as it is, the rest by its repr.

    Example:
      >>> noted({"patience": 3, "when": len})
      {'patience': 3, 'when': '<built-in function len>'}
    """
    return msgspec.json.decode(_noting.encode(value))


def follow(path: str | Path) -> Iterator[Event | Effect | None]:
    """What a recording holds, and then what is written to it; None each time that there is nothing new.

    A line that is not whole is not there yet. What a resume goes on without was given already, and stays so.

    Raises:
      DamagedRecording, ValueError: as `read`.
    """
    path = Path(path)
    read_line, number = _line_reader(None), 0
    for line in _lines(path):
        if line is None:
            yield None
            continue
        head, fields, _, _ = line
        number += 1
        try:
            found = read_line(head, fields) if head != _HEADER else []
            if head == _HEADER:
                _header(path, fields)
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


class Recorder:
    """Appends events and effects to a file, in bulk.

    They are held in memory until `flush`, which is called every `BUFFERED` records: only then are metrics read from
    the device, all that are pending at once. Live fields are let go of right away.

    Attributes:
      path: the file; `events-v1.jsonl` if `events.jsonl` was taken.
    """

    def __init__(
        self,
        path: str | Path,
        header: Mapping[str, Any],
        resume_at: int | None = None,
        metrics_every_n_steps: int = 1,
        crc: int | None = None,
        again: Sequence[bytes] = (),
    ):
        """Opens a recording.

        Args:
          path: where; its directory is made if needed. An existing file is only touched to go on in it.
          header: plain data about the run: versions, keys and configs, and `recorded`, the names of the classes of
            event that will be recorded. What is not plain is noted by its repr.
          resume_at: go on in the existing file after so many events and effects; what it holds beyond them no longer
            counts. If there is no such file, a new one is begun.
          metrics_every_n_steps: of which training batches the metrics are recorded, in optimizer steps.
          crc: the checksum of what was written when the run was saved that goes on; None does not look.
          again: lines, as `write_all` gives them, that came later and that it goes on after too.

        Raises:
          ValueError: if the existing file holds fewer events and effects or those of another run, or is damaged.
          ImportError: for a name in `.zst`, if nothing that compresses so is installed.
        """
        path = Path(path)
        self._packed, self._every = packer(path), metrics_every_n_steps
        make_directories(path.parent)
        self._buffer: list[tuple[Notation, tuple[Any, ...]] | BatchEnds] = []
        self._ends: BatchEnds | None = None  # the last of the buffer, if it is that
        self._held = 0  # records in the buffer
        self._crc = self._end = self._written = 0
        if resume_at is not None and path.exists():
            self._go_on(path, resume_at, crc)
            header = {**header, "after": resume_at}
            self.path, self._file = path, open(path, "r+b", buffering=0)  # noqa: SIM115 - `close` closes it
            self._cut()
        else:
            self.path, self._file = _create(path)
            again = ()
        self._append([_noting.encode(("Header", {**header, "format": FORMAT}))[:-1], *again])
        self._written += len(again)

    @property
    def crc(self) -> int:
        """The checksum of what is written so far."""
        return self._crc

    @property
    def lines(self) -> int:
        """Events and effects so far, those before a resume included. As `resume_at` it goes on from here."""
        return self._written + self._held

    def event(self, event: Event) -> None:
        """Records an event."""
        notation = notation_of(type(event))
        values = notation.take(event.__dict__)
        if self._every > 1 and type(event) in _THINNED and event.step % self._every:
            values = tuple([None if i == notation.metrics else value for i, value in enumerate(values)])
        self._hold(notation, values)

    def effect(self, effect: Effect) -> None:
        """Records an effect.

        Raises:
          TypeError: for a field that is not of its type, or not plain.
        """
        notation = notation_of(type(effect))
        values = notation.take(effect)
        must_be_readable(notation, values)  # here, where it can be told whose it is
        self._hold(notation, values)

    def batch_end(self, epoch: int, step: int, seconds: float, batch_idx: int, metrics: Metrics) -> None:
        """Records a `TrainBatchEnd` that was not made. In one function: what is looked up in each step is slow."""
        pending = metrics.all_pending
        if pending is None:  # some are known already
            at = to_the_microsecond(seconds)
            self.event(TrainBatchEnd(epoch=epoch, step=step, seconds=at, batch_idx=batch_idx, metrics=metrics))
            return
        names, vector = pending
        ends = self._ends
        if ends is None or ends.names != names or ends.epoch != epoch:
            ends = self._ends = BatchEnds(epoch, names)
            self._buffer.append(ends)
        if step % self._every:
            ends.rows.append((step, seconds, batch_idx, None))
        else:  # reading from the CPU waits for nothing
            ends.rows.append((step, seconds, batch_idx, vector.tolist() if vector.is_cpu else vector))
        self._held += 1
        if self._held >= BUFFERED:
            self.flush()

    def _hold(self, notation: Notation, values: tuple[Any, ...]) -> None:
        self._ends = None
        self._buffer.append((notation, values))
        self._held += 1
        if self._held >= BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Writes what is held back."""
        if not self._buffer:
            return
        together = batch_ends.moved(held for held in self._buffer if isinstance(held, BatchEnds))
        records = [held for held in self._buffer if not isinstance(held, BatchEnds)]
        read_pending([values[at] for notation, values in records if (at := notation.metrics) is not None])
        lines = iter(write_all(records))
        self._append(
            chain.from_iterable(
                held.lines(together) if isinstance(held, BatchEnds) else (next(lines),) for held in self._buffer
            )
        )
        self._written += self._held
        self._held, self._ends = 0, None
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

    def _go_on(self, path: Path, resume_at: int, crc: int | None) -> None:
        is_there = crc is None
        for line in _lines(path):
            if line is None:
                break
            head, fields, self._crc, self._end = line
            if head == _HEADER:
                self._written = _header(path, fields, self._written).get("after", 0)
            else:
                self._written += batch_ends.count(fields) if head == batch_ends.HEAD else 1
            is_there = crc in (None, self._crc) or (is_there and self._written >= resume_at)
        if not 0 <= resume_at <= self._written or not is_there:
            got = self._written if is_there else f"{self._written} of which some were replaced since"
            raise ValueError(
                f"record: {path} must hold the {resume_at} lines to go on after, got {got}. It is another run's "
                "or lost its tail: record to another file."
            )
        if torn := path.stat().st_size - self._end:
            _log.warning("recording %s: its last %d bytes are torn and cut off", path, torn)
        self._written = resume_at

    def _append(self, bodies: Iterable[bytes]) -> None:
        """Writes lines: what each is without the bracket that closes it gets its checksum, and the bracket."""
        crc, lines = self._crc, []
        for body in bodies:
            crc = zlib.crc32(body, crc)
            lines.append(b'%s,"%08x"]\n' % (body, crc))
        data = b"".join(lines)
        if len(data) > LONGEST_LINE and len(longest := max(lines, key=len)) > LONGEST_LINE:
            raise ValueError(
                f"record: a line must have at most {LONGEST_LINE} bytes, got {len(longest)} that begin "
                f"{longest[:40]!r}."
            )
        packed = b"".join(map(self._packed, [data] if len(data) <= LARGEST else lines))
        view = memoryview(packed)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self._cut()  # so that a later flush does not go on after half a line
            raise
        self._crc, self._end = crc, self._end + len(packed)

    def _cut(self) -> None:
        self._file.truncate(self._end)
        self._file.seek(self._end)


def _create(path: Path) -> tuple[Path, Any]:
    stem, suffix = stem_and_suffix(path)
    for attempt in count():
        free = path.with_name(f"{stem}-v{attempt}{suffix}") if attempt else path
        try:
            return free, open(free, "xb", buffering=0)
        except FileExistsError:
            continue
    raise AssertionError("count() does not end")


def _lines(path: Path) -> Iterator[tuple[bytes, bytes, int, int] | None]:
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
                if number == 1 and head != _HEADER:
                    raise _damaged(path, number, f"must be a header, got {line[:60]!r}")
                yield head, fields, crc, end


def _header(path: Path, fields: bytes, entries: int | None = None) -> dict[str, Any]:
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
