"""The ends of training batches that nobody hears, on their way into a recording and out of it.

Most of a recording is these, so they are recorded together: one line has many, each of their fields as a column, as in
`["TrainBatchEnds",[0,[1,2],[0.5,0.6],[0,1],null,["loss"],[[0.9,0.8]]],"1a2b3c4d"]`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING

import attrs
import msgspec

from fncb.events import Metrics, TrainBatchEnd
from fncb.metrics import Unrecorded

if TYPE_CHECKING:
    from torch import Tensor

HEAD = b'["TrainBatchEnds"'
_MOST_VALUES = 10_000  # in a line


class _Columns(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What stands in a line; `kept` are the places of those that have metrics, null if all have."""

    epoch: int
    steps: list[int]
    seconds: list[float]
    batch_idxs: list[int]
    kept: list[int] | None
    names: list[str]
    values: list[list[float]]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Columns, strict=False).decode  # not strict: "nan" is read as a float


Row = tuple[int, float, int, "list[float] | Tensor | None"]
"""Step, seconds, batch_idx, and the values of the metrics; None where they are left out."""


@attrs.define(eq=False)
class BatchEnds:
    """Ends of batches of one epoch that come one after the other, with metrics of the same names.

    Values that were on the CPU are read when they come, as nobody has to wait for them, and to keep tensors costs more.
    Those on another device stay there as tensors, until all are moved in one go.
    """

    epoch: int
    names: tuple[str, ...]
    rows: list[Row] = attrs.field(factory=list)

    def on_device(self) -> list[Tensor]:
        """The values that are on a device still."""
        return [values for *_, values in self.rows if values is not None and not isinstance(values, list)]

    def lines(self, moved: Mapping[tuple[str, ...], Iterator[list[float]]]) -> list[bytes]:
        """Lines without the bracket that closes them; of what was moved for these names, the next rows are theirs."""
        n = max(_MOST_VALUES // max(len(self.names), 1), 1)  # or a line would be too long to be read
        return [self._line(self.rows[i : i + n], moved) for i in range(0, len(self.rows), n)]

    def _line(self, rows: list[Row], moved: Mapping[tuple[str, ...], Iterator[list[float]]]) -> bytes:
        steps, seconds, batch_idxs, values = zip(*rows, strict=True)
        known = [each if type(each) is list else next(moved[self.names]) for each in values if each is not None]
        if not all(map(isfinite, chain.from_iterable(known))):  # JSON has no other way for these
            known = [[value if isfinite(value) else str(value) for value in row] for row in known]
        kept = None if len(known) == len(values) else [i for i, each in enumerate(values) if each is not None]
        columns = [*zip(*known, strict=True)] or [()] * len(self.names)
        rounded = [*map(to_the_microsecond, seconds)]
        return _encode(("TrainBatchEnds", (self.epoch, steps, rounded, batch_idxs, kept, self.names, columns)))[:-1]


def to_the_microsecond(seconds: float) -> float:
    """Seconds, 0.0 or more, with at most six digits after the point; `round` takes thrice as long.

    Example:
      >>> to_the_microsecond(0.1234567), to_the_microsecond(12.0)
      (0.123457, 12.0)
    """
    return int(1e6 * seconds + 0.5) / 1e6


def moved(several: Iterable[BatchEnds]) -> dict[tuple[str, ...], Iterator[list[float]]]:
    """What is on a device still, row by row in order, by the names: moved in one go for each."""
    alike: dict[tuple[str, ...], list[Tensor]] = defaultdict(list)
    for each in several:
        alike[each.names] += each.on_device()
    return {names: iter(_moved(vectors)) for names, vectors in alike.items() if vectors}


def _moved(vectors: list[Tensor]) -> list[list[float]]:
    import torch  # is loaded already: it made the vectors

    return torch.stack(vectors).tolist()


def count(fields: bytes) -> int:
    """How many events a line has."""
    return len(_decode(fields).steps)


def read_batch_ends(fields: bytes) -> list[TrainBatchEnd]:
    """The events of a line.

    Raises:
      msgspec.DecodeError: for wrong types, and for columns that do not fit together.

    Example:
      >>> read_batch_ends(b'[0,[7],[0.5],[6],null,["loss"],[["inf"]]]')
      [TrainBatchEnd(epoch=0, step=7, seconds=0.5, batch_idx=6, dataloader_idx=0, metrics={'loss': inf})]
    """
    columns = _decode(fields)
    n, names = len(columns.steps), columns.names
    kept = range(n) if columns.kept is None else columns.kept
    if (
        not len(columns.seconds) == len(columns.batch_idxs) == n
        or len(columns.values) != len(names)
        or any(len(column) != len(kept) for column in columns.values)
        or [*kept] != sorted({*kept} & {*range(n)})
    ):
        raise msgspec.ValidationError("columns that do not fit together")
    rows = zip(*columns.values, strict=True) if names else iter([()] * len(kept))
    found = {place: Metrics(dict(zip(names, row, strict=True))) for place, row in zip(kept, rows, strict=True)}
    return [
        TrainBatchEnd(
            epoch=columns.epoch,
            step=step,
            seconds=seconds,
            batch_idx=batch_idx,
            metrics=found[i] if i in found else Unrecorded(f"TrainBatchEnd at step {step}"),
        )
        for i, (step, seconds, batch_idx) in enumerate(
            zip(columns.steps, columns.seconds, columns.batch_idxs, strict=True)
        )
    ]
