"""Batches as a function of (seed, epoch, position): a run goes on in the middle of an epoch at no cost."""

import random
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from hashlib import blake2b
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from fncb.fields import must_be_int
from fncb.permutation import BLOCK, permuted, round_keys


def batches(
    dataset: Any,
    batch_size: int = 1,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    pin_memory: bool = False,
    seed_samples: bool = True,
    prefetch_factor: int | None = None,
    worker_init_fn: Callable[[int], None] | None = None,
    multiprocessing_context: Any = None,
) -> "Batches":
    """A loader whose batches depend on the seed, the epoch and the position in it, and on nothing else.

    Each `iter` begins the next epoch: 0, 1, 2, ... Its order is a permutation keyed by (seed, epoch) that is computed
    position by position, so that going on anywhere costs the same and makes nothing anew. While `dataset[index]` runs,
    the CPU generators of torch, Python and numpy are seeded from (seed, epoch, index): an augmentation gives the same
    sample whatever the batch size, the workers or the place where a run was resumed. Outside they are untouched. This
    is exact for a dataset whose samples depend on the index and on these generators; one that keeps a state of its
    own, a generator of its own or a clock is not resumed. With workers, which are kept from epoch to epoch, what is
    done to the dataset after the first `iter` does not reach them.

    A `TensorDataset` or a single tensor, without `collate_fn`, is indexed a batch at a time and draws nothing.

    Args:
      dataset: has `__len__` and `__getitem__`, which is called with one index at a time; keeps its length.
      batch_size: samples in a batch, 1 or more; an epoch's last batch may be smaller.
      shuffle: whether each epoch has an order of its own; else it is that of the dataset.
      seed: any int.
      drop_last: whether a last batch that is smaller is left out.
      num_workers: processes of a `DataLoader` that make the batches; 0 makes them here. The batches are the same.
      collate_fn: makes a batch of a list of samples, and draws on from the last; None is torch's `default_collate`.
      pin_memory: whether tensors are put into pinned memory, as `DataLoader` does it.
      seed_samples: whether generators are seeded for each sample; False spares that for a dataset that draws nothing.
      prefetch_factor, worker_init_fn, multiprocessing_context: as for `DataLoader`, for workers only.

    Returns:
      A `Batches`: iterable, with `len`, `set_epoch`, `state_dict` and `load_state_dict`.

    Raises:
      TypeError: for a dataset without length or index, and arguments of the wrong kind.
      ValueError: for numbers out of range; when an epoch begins, for a dataset whose length has changed.

    Example:
      >>> loader = batches(torch.arange(10), batch_size=4, shuffle=True)
      >>> for batch in loader:
      ...     print(batch.tolist(), loader.state_dict()["position"])
      [7, 9, 6, 1] 1
      [8, 4, 3, 2] 2
      [5, 0] 3
      >>> again = batches(torch.arange(10), batch_size=4, shuffle=True)
      >>> again.load_state_dict({**again.state_dict(), "epoch": 0, "position": 2})
      >>> [batch.tolist() for batch in again]
      [[5, 0]]

    Reference:
      The order: see `fncb.permutation`.
    """
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            f"batches: dataset must have __len__ and __getitem__, got {type(dataset).__name__}. For a stream use "
            "torchdata's StatefulDataLoader, which `fit` resumes too."
        )
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("seed", seed, None)):
        must_be_int("batches", name, value, least)
    for name, function in (("collate_fn", collate_fn), ("worker_init_fn", worker_init_fn)):
        if function is not None and not callable(function):
            raise TypeError(f"batches: {name} must be a function, got {function!r}.")
    for name, value in (("prefetch_factor", prefetch_factor), ("multiprocessing_context", multiprocessing_context)):
        if value is not None and not num_workers:
            raise ValueError(f"batches: {name} is for workers, got {value!r} with num_workers=0.")
    if prefetch_factor is not None:
        must_be_int("batches", "prefetch_factor", prefetch_factor, 1)
    order = _Order(len(dataset), batch_size, bool(shuffle), seed, bool(drop_last))
    make = _Make(dataset, seed, collate_fn, seed_samples)
    if not num_workers and not pin_memory:
        return Batches(dataset, order, partial(map, make.__getitem__))
    todo = _Todo()
    loader = DataLoader(
        make,  # pyright: ignore[reportArgumentType] - a dataset of batches
        batch_size=None,
        sampler=todo,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        prefetch_factor=prefetch_factor,
        worker_init_fn=worker_init_fn,
        multiprocessing_context=multiprocessing_context,
        persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(seed % 2**63),  # so that it draws nothing from the global one
    )

    def made(keys: Iterable[tuple[int, Tensor]]) -> Iterator[Any]:
        todo.keys = keys
        return iter(loader)

    return Batches(dataset, order, made)


class Batches:
    """What `batches` returns; see there."""

    dataset: Any

    def __init__(self, dataset: Any, order: "_Order", made: Callable[[Iterable[Any]], Iterator[Any]]):
        self.dataset, self._order, self._made = dataset, order, made
        self._relative_to = attrs.asdict(order)
        self._epoch, self._position = 0, 0
        self._begun: object | None = None  # the iteration that is under way or was left

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Any]:
        if len(self.dataset) != self._order.length:
            raise ValueError(
                f"batches: the dataset must keep its length of {self._order.length}, got {len(self.dataset)}. Make a "
                "new loader for it."
            )
        if self._begun is not None:
            self._epoch, self._position = self._epoch + 1, 0
        self._begun = this = object()
        # here and not at the first batch: workers begin at once, and an iteration of which nothing is taken counts
        made = self._made(self._order.keys(self._epoch, self._position))
        return self._giving(this, made, len(self) - self._position)

    def _giving(self, this: object, made: Iterator[Any], left: int) -> Iterator[Any]:
        for _ in range(left):
            if self._begun is not this:
                raise RuntimeError(
                    "batches: an iteration must be over before another begins or its place is set, got asked for the "
                    "next batch of one that was left. For two at once make two loaders."
                )
            batch = next(made)
            self._position += 1
            yield batch
        if self._begun is this:
            self.set_epoch(self._epoch + 1)

    def in_order(self) -> "Batches":
        """The same without shuffling, to be used instead of this one."""
        return Batches(self.dataset, attrs.evolve(self._order, shuffle=False), self._made)

    def set_epoch(self, epoch: int) -> None:
        """Lets the next `iter` begin this epoch, 0 or more; in one that was loaded in its middle it goes on there."""
        must_be_int("batches", "epoch", epoch, 0)
        if self._begun is not None or epoch != self._epoch:
            self._epoch, self._position, self._begun = epoch, 0, None

    def state_dict(self) -> dict[str, Any]:
        """The epoch, its batches that were given, and what these are relative to; of workers that are ahead nothing."""
        return {"epoch": self._epoch, "position": self._position, **self._relative_to}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets the next `iter` give what is left of an epoch, which is nothing after its last batch.

        Raises:
          ValueError: in the middle of an epoch, when what the position is relative to is not what it was.
        """
        missing = [name for name in self.state_dict() if name not in state]
        if missing:
            raise ValueError(f"batches: a state must be of `batches`, got one without {missing}.")
        epoch, position = state["epoch"], state["position"]
        was = {name: state[name] for name in self._relative_to}
        differs = [name for name in was if was[name] != self._relative_to[name]]
        if differs and 0 < position < len(_Order(**was)):
            raise ValueError(
                "batches: in the middle of an epoch the arguments must be those with which it began, got "
                + ", ".join(f"{name}={self._relative_to[name]} where it was {was[name]}" for name in differs)
                + f". Give those, or go on from the end of an epoch; here {position} batches of epoch {epoch} are done."
            )
        self._epoch, self._begun = epoch, None
        self._position = len(self) if differs and position else position


@attrs.frozen
class _Order:
    """Which samples are in which batch: what a position is relative to."""

    length: int
    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool

    def __len__(self) -> int:
        return (self.length if self.drop_last else self.length + self.batch_size - 1) // self.batch_size

    def keys(self, epoch: int, position: int) -> Iterator[tuple[int, Tensor]]:
        """The epoch and the indices of each batch from a position on."""
        size = self.batch_size
        end = min(len(self) * size, self.length)
        step = max(1, BLOCK // size) * size
        keys = round_keys(self.seed, epoch)
        for first in range(position * size, end, step):
            indices = torch.arange(first, min(first + step, end))
            if self.shuffle:
                indices = permuted(indices, self.length, keys)
            for part in indices.split(size):
                yield epoch, part


@attrs.frozen(eq=False)
class _Make:
    """Makes a batch of its indices, here or in a worker; for a `DataLoader` a dataset of batches."""

    dataset: Any
    seed: int
    collate_fn: Callable[[list[Any]], Any] | None
    seeded: bool

    def __getitem__(self, key: tuple[int, Tensor | list[int]]) -> Any:
        epoch, indices = key[0], torch.as_tensor(key[1])
        dataset, collate = self.dataset, self.collate_fn
        if collate is None and type(dataset) is TensorDataset:
            return [_rows(tensor, indices) for tensor in dataset.tensors]
        if collate is None and isinstance(dataset, Tensor):
            return _rows(dataset, indices)
        samples = []
        with _generators_kept() if self.seeded else nullcontext():
            for index in indices.tolist():
                if self.seeded:
                    _seed_generators(f"sample {self.seed} {epoch} {index}")
                samples.append(dataset[index])
            return (collate or default_collate)(samples)


def _rows(tensor: Tensor, indices: Tensor) -> Tensor:
    return tensor.index_select(0, indices.to(tensor.device))  # in half the time of tensor[indices]


def _seed_generators(name: str) -> None:
    digest = blake2b(name.encode(), digest_size=16).digest()
    torch.default_generator.manual_seed(int.from_bytes(digest[:4], "little"))  # it uses no more than 32 bits
    random.seed(int.from_bytes(digest[4:12], "little"))
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(int.from_bytes(digest[12:], "little"))


@contextmanager
def _generators_kept() -> Generator[None]:
    numpy = sys.modules.get("numpy")
    now = torch.default_generator.get_state(), random.getstate(), numpy and numpy.random.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(now[0])
        random.setstate(now[1])
        if numpy:
            numpy.random.set_state(now[2])


@attrs.define
class _Todo:
    """A sampler for `DataLoader`, which asks for its iterator when an epoch begins."""

    keys: Iterable[tuple[int, Tensor]] = ()

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return ((epoch, indices.tolist()) for epoch, indices in self.keys)  # a tensor would go through shared memory


def _as_it_is(batch: Any) -> Any:
    return batch
