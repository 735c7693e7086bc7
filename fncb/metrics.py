"""Metric values that stay on the device until somebody reads one."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NoReturn


class MissingMetric(KeyError):
    """A metric that a hook asked for is not among those of the event."""

    def __str__(self) -> str:
        return str(self.args[0])


class Metrics(Mapping[str, float]):
    """Metric values by name, read from the device only when asked for.

    Values that are still on a device arrive as one packed vector for all names of a step, so reading any of them
    waits once for all of them. Iterating over names, `in` and `len` never wait. Two `Metrics` are equal when they
    hold the same names and floats; comparing them reads them.

    Example:
      >>> metrics = Metrics({"val_loss": 0.5})
      >>> metrics["val_loss"], "val_acc" in metrics
      (0.5, False)
      >>> metrics["val_acc"]
      Traceback (most recent call last):
      fncb.metrics.MissingMetric: no metric 'val_acc'. It has ['val_loss'].
    """

    __slots__ = ("_values", "_names", "_pending")

    def __init__(
        self, values: Mapping[str, float | None] | None = None, names: tuple[str, ...] = (), pending: Any = None
    ):
        """Takes host `values`, and `names` for a `pending` 1-d tensor of the same length that is read when needed.

        A name may stand in `values` too, to give its place in the order.
        """
        self._values: dict[str, Any] = {**values, **dict.fromkeys(names)} if values else dict.fromkeys(names)
        self._names = names
        self._pending = pending

    def resolve(self, host: list[float] | None = None) -> None:
        """Reads what is pending, or takes `host`, its values when somebody else has read them already."""
        if self._pending is None:
            return
        if host is None:
            values = self._pending.tolist()  # waits for the device: the only line in the loop that does
        else:
            values = host
        self._values.update(zip(self._names, values, strict=True))
        self._names, self._pending = (), None

    def as_dict(self) -> dict[str, Any]:
        """The values as they are kept, all read; not to be changed."""
        if self._pending is not None:
            self.resolve()
        return self._values

    def with_values(self, values: Mapping[str, float]) -> "Metrics":
        """These metrics and, where the names are not taken, `values`; reads nothing."""
        return Metrics(
            {**self._values, **{k: v for k, v in values.items() if k not in self}}, self._names, self._pending
        )

    @property
    def pending(self) -> Any:
        """The device vector that is not read yet, or None."""
        return self._pending

    @property
    def all_pending(self) -> tuple[tuple[str, ...], Any] | None:
        """All names and the vector of their values, if none is read yet; None otherwise."""
        return None if self._pending is None or len(self._names) != len(self._values) else (self._names, self._pending)

    def __getitem__(self, name: str) -> float:
        if self._pending is not None and name in self._names:
            self.resolve()
        try:
            return float(self._values[name])
        except KeyError:
            raise MissingMetric(f"no metric {name!r}. It has {list(self)}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        shown = (f"{name!r}: {'pending' if name in self._names else value}" for name, value in self._values.items())
        return "{" + ", ".join(shown) + "}"

    def __hash__(self) -> int:
        return hash(frozenset(self))

    def __eq__(self, other: object) -> bool:
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented


class StepMetrics(Metrics):
    """Metrics as a step hook is given them: 0-d tensors, and nobody waits for their values.

    Example:
      >>> import torch
      >>> StepMetrics({"loss": torch.tensor(0.5)})["loss"]
      tensor(0.5000)
    """

    __slots__ = ()

    def __init__(self, values: Mapping[str, Any]):
        """Takes tensors by name."""
        super().__init__(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name] if name in self._values else super().__getitem__(name)


class Unrecorded(Metrics):
    """Metrics that a recording left out: asking for any of them, or for their names, raises."""

    __slots__ = ("_of",)

    def __init__(self, of: str):
        """Takes a word on the event that they are of."""
        super().__init__()
        self._of = of

    def as_dict(self) -> NoReturn:
        """Raises, as all that would tell of the metrics does."""
        raise UnrecordedMetrics(
            f"{self._of}: metrics must be recorded to be read, got a recording that left them out. Record with "
            "record_metrics_every_n_steps=1, or leave the callback out that needs them."
        )

    def __getitem__(self, name: str) -> NoReturn:
        self.as_dict()

    def __iter__(self) -> NoReturn:
        self.as_dict()

    def __len__(self) -> NoReturn:
        self.as_dict()

    def __contains__(self, name: object) -> NoReturn:
        self.as_dict()

    def with_values(self, values: Mapping[str, float]) -> "Metrics":  # noqa: ARG002 - what was left out stays unknown
        """These, as they are: asking for what was logged beside raises too."""
        return self

    def __repr__(self) -> str:
        return "<not recorded>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unrecorded)

    __hash__: Callable[..., int] = object.__hash__


class UnrecordedMetrics(LookupError):
    """A hook asked for metrics that the recording left out."""


def read_pending(metrics: Iterable[Any]) -> None:
    """Moves what is pending from the device: one transfer for all vectors that are alike.

    What is no `Metrics` is passed over.
    """
    alike: dict[Any, list[Metrics]] = defaultdict(list)
    for each in metrics:
        if type(each) is Metrics and (vector := each._pending) is not None:
            alike[each._names, vector.dtype, vector.device].append(each)
    for (names, *_), group in alike.items():
        import torch  # is loaded already: it made the vectors

        rows = torch.stack([each.pending for each in group]).tolist()
        for each, row in zip(group, rows, strict=True):
            each._values.update(zip(names, row))  # noqa: B905 - of one length; strict takes twice as long
            each._pending = None
        for each in group:
            each._names = ()


def named(metrics: Mapping[str, float], patterns: tuple[str, ...]) -> Mapping[str, float]:
    """The metrics whose names match one of several shell patterns; reads nothing until one of them is read.

    Example:
      >>> dict(named(Metrics({"loss": 0.5, "val_loss": 0.25, "lr-SGD": 0.1}), ("*loss",)))
      {'loss': 0.5, 'val_loss': 0.25}
    """
    if patterns == ("*",):
        return metrics
    return chosen(metrics, [name for name in metrics if any(fnmatchcase(name, each) for each in patterns)])


def chosen(metrics: Mapping[str, float], names: Iterable[str]) -> "Renamed":
    """Those of the metrics that have these names; reads nothing until one of them is read."""
    return Renamed({name: (metrics, name) for name in names})


class Renamed(Metrics):
    """Metrics that are elsewhere, maybe under other names; a value is read when it is asked for.

    Example:
      >>> metrics = Metrics({"norm/head": 0.5, "loss": 0.25})
      >>> dict(Renamed({"norm": (metrics, "norm/head")}))
      {'norm': 0.5}
    """

    __slots__ = ("_where",)

    def __init__(self, where: Mapping[str, tuple[Mapping[str, float], str]]):
        """Takes for each name the metrics that have it, and its name there."""
        super().__init__()
        self._where = where

    def __getitem__(self, name: str) -> float:
        if name not in self._where:
            raise MissingMetric(f"no metric {name!r}. It has {list(self)}.")
        metrics, there = self._where[name]
        return metrics[there]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __repr__(self) -> str:
        return f"<metrics {', '.join(self)}>"  # their values may still be on the device

    def as_dict(self) -> dict[str, Any]:
        """The values by name, read."""
        return {name: self[name] for name in self}

    def with_values(self, values: Mapping[str, float]) -> Metrics:
        """These metrics and, where the names are not taken, `values`; reads nothing."""
        return Renamed({**{name: (values, name) for name in values}, **self._where})


def joined(*parts: Metrics) -> Metrics:
    """Metrics of several moments as one, later ones winning; what is on the device stays there."""
    values = {name: value for part in parts for name, value in part._values.items()}
    waiting = [part for part in parts if part.pending is not None]
    if not waiting:
        return Metrics(values)
    import torch

    pending = torch.cat([part.pending.to(waiting[0].pending.dtype) for part in waiting])
    return Metrics(values, tuple(name for part in waiting for name in part._names), pending)


def share_of_window(metrics: Metrics, n: int) -> Metrics:
    """A batch's metrics with each loss as it entered the window of `n` batches; nothing is read."""
    names = list(metrics)
    losses = [name.split("/")[0] == "loss" for name in names]
    if n == 1:
        return metrics
    if metrics.pending is None:  # of a run that goes on after this batch
        return Metrics({name: metrics[name] / (n if loss else 1) for name, loss in zip(names, losses, strict=True)})
    vector = metrics.pending.clone()
    for i, loss in enumerate(losses):
        if loss:
            vector[i].div_(n)
    return Metrics(None, tuple(metrics), vector)
