"""How a recording is written: in bulk, without waiting for the device, and gone on with after a resume."""

import logging
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from fncb import batch_ends
from fncb.batch_ends import BatchEnds, to_the_microsecond
from fncb.disk import make_directories
from fncb.effects import Effect
from fncb.events import Event, Metrics, TrainBatchEnd, TrainBatchStart
from fncb.frames import LARGEST, LONGEST_LINE, packer
from fncb.metrics import read_pending
from fncb.naming import numbered
from fncb.notation import Notation, must_be_readable, notation_of, write_all
from fncb.recording import FORMAT, HEADER, encode_noted, header_of, lines_of

BUFFERED = 256
"""How many records are held back, to be encoded and written together."""

_THINNED = (TrainBatchStart, TrainBatchEnd)
"""Events whose metrics may be left out of most steps."""

_log = logging.getLogger("fncb")


class Recorder:
    """Appends events and effects to a file, in bulk.

    They are held in memory until `flush`, which is called every `BUFFERED` records: only then are metrics read from
    the device, all that are pending at once. Live fields are let go of right away.

    Attributes:
      path: the file; `events-v1.jsonl` if `events.jsonl` was taken.
    """

    path: Path

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
        self._append([encode_noted(("Header", {**header, "format": FORMAT}))[:-1], *again])
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
        for line in lines_of(path):
            if line is None:
                break
            head, fields, self._crc, self._end = line
            if head == HEADER:
                self._written = header_of(path, fields, self._written).get("after", 0)
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
    for attempt in count():
        free = numbered(path, attempt) if attempt else path
        try:
            return free, open(free, "xb", buffering=0)
        except FileExistsError:
            continue
    raise AssertionError("count() does not end")
