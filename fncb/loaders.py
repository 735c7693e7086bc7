"""Loaders: one or several, limited, in order, made anew every so many epochs."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import attrs
from torch import Generator, Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from fncb.batch import at_least_one, count
from fncb.data import Batches
from fncb.position import random_state, set_random_state

log: logging.Logger = logging.getLogger("fncb")

END = object()
"""What comes after the last batch."""


@attrs.frozen(eq=False)
class Loader:
    """An iterable of batches, maybe cut short.

    Attributes:
      who: names it in errors.
      name: among several; None where there is one.
      batches: as the user gave it.
      limit: as in `limit_train_batches`: a number of batches (int) or a fraction of them (float).
      length: how many batches it has; None when it does not know.
    """

    who: str
    name: str | None
    batches: Any
    limit: int | float = 1.0
    length: int | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "length", count(self.batches))
        if isinstance(self.limit, float) and self.limit not in (0.0, 1.0):
            if self.length is None:
                raise ValueError(
                    f"{self.who}: a limit must be an int where the loader has no length, got {self.limit}."
                )
            if self.length and not self.count:
                raise ValueError(
                    f"{self.who}: a limit must leave at least one batch, got {self.limit} of {self.length}. Raise it, "
                    "or pass 0 to leave the stage out."
                )

    @property
    def count(self) -> int | None:
        """How many batches are taken; None when that is not known."""
        if isinstance(self.limit, int):
            return self.limit if self.length is None else min(self.limit, self.length)
        return None if self.length is None else int(self.length * self.limit)

    def __iter__(self) -> Iterator[Any]:
        return self.first(at_least_one(self.who, self.batches))

    def set_epoch(self, epoch: int) -> None:
        """Tells loaders, and samplers, whose order depends on the epoch which one comes."""
        things: list[Any] = [self.batches, getattr(self.batches, "sampler", None)]
        for thing in things:
            if hasattr(thing, "set_epoch"):
                thing.set_epoch(epoch)

    @property
    def keeps_state(self) -> bool:
        """Whether it says itself where it is."""
        return hasattr(self.batches, "state_dict") and hasattr(self.batches, "load_state_dict")

    @property
    def is_shuffled(self) -> bool:
        """Whether it is a `DataLoader` whose order is drawn anew each time, and which does not say where it is."""
        loader = self.batches
        if self.keeps_state or not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return False
        plain = type(loader.batch_sampler) is BatchSampler or loader.batch_sampler is None
        return not (isinstance(loader.sampler, SequentialSampler) and plain)

    def fetching(self, state: Any = None, taken: int = 0) -> Callable[[], tuple[Any, Any]]:
        """What gives the next batch, or `END`, and with it the loader's state from before, if it keeps one.

        Args:
          state: from where it goes on; None for the beginning, whose first batches are then passed over.
          taken: how many batches were before.
        """
        given, keeps_state = self.batches, self.keeps_state
        if keeps_state and state is not None:
            given.load_state_dict(state)
            batches = self.first(iter(given), taken)
        else:
            batches = iter(self)
            for _ in range(taken):
                next(batches, None)

        def fetch() -> tuple[Any, Any]:
            before = given.state_dict() if keeps_state else None
            return next(batches, END), before

        return fetch

    def first(self, batches: Iterator[Any], taken: int = 0) -> Iterator[Any]:
        """So many of `batches` as the limit lets through when `taken` went through already."""
        if isinstance(self.limit, float) and self.limit == 1.0:
            return batches
        most = self.limit if isinstance(self.limit, int) else self.count or 0
        return islice(batches, max(0, most - taken))


class Loaders:
    """The loaders of a stage, from what the user gave: one, several, or a function that makes either.

    Args:
      who: names them in errors.
      given: an iterable of batches; a mapping from name to such; a list or tuple of them, if none of these is itself
        a tensor, mapping, list or tuple, which would make it a list of batches; or a function without arguments that
        makes one of these.
      limit: as in `limit_train_batches`; per loader.
      in_order: whether shuffling is taken out.
      every: makes them anew when so many epochs have passed since; 0 never.
      several: whether there may be more than one.
    """

    who: str
    given: Any
    limit: int | float
    in_order: bool
    every: int
    several: bool

    def __init__(
        self,
        who: str,
        given: Any,
        limit: int | float = 1.0,
        in_order: bool = False,
        every: int = 0,
        several: bool = True,
    ):
        self.who, self.given, self.limit, self.in_order = who, given, limit, in_order
        self.every, self.several = every, several
        if every and given is not None and not self.is_function:
            raise ValueError(
                f"{who} must be a function that makes a loader when reload_dataloaders_every_n_epochs is set, got a "
                f"{type(given).__name__}. Pass `lambda: loader`."
            )
        self._made: list[Loader] = []
        self._made_at: int | None = None
        if not self.is_function:
            self._made = self._make()

    @property
    def is_function(self) -> bool:
        """Whether they are made by calling a function."""
        return callable(self.given) and (isinstance(self.given, type) or not hasattr(self.given, "__iter__"))

    @property
    def wanted(self) -> bool:
        """Whether the limit lets any batch through."""
        return self.given is not None and self.limit != 0

    def at(self, epoch: int | None) -> list[Loader]:
        """The loaders for an epoch, made anew when that is due; None looks at them before the first one."""
        due = epoch is not None and (self._made_at is None or (self.every and epoch - self._made_at >= self.every))
        if self.is_function and due and (not self._made or self.every):
            self._made = self._make()
        elif self.is_function and not self._made:  # a run that goes on has not drawn what making them draws
            now = random_state()
            self._made = self._make()
            set_random_state(now)
        if due:
            self._made_at = epoch
        return self._made

    def generators(self) -> list[Generator]:
        """Those that `DataLoader`s were given to draw from. What a function makes has new ones each time."""
        of = [] if self.is_function else [each.batches for each in self._made]
        draw = [
            *((each, getattr(each, "sampler", None)) for each in of),
            *((getattr(getattr(each, "batch_sampler", None), "sampler", None),) for each in of),
        ]
        found = [getattr(owner, "generator", None) for owners in draw for owner in owners]
        return list({id(each): each for each in found if isinstance(each, Generator)}.values())

    def must_go_on_exactly(self, epoch: int, batches: int) -> None:
        """Raises if the order in the middle of an epoch would be lost."""
        if self.wanted and batches and any(loader.is_shuffled for loader in self.at(None)):
            raise ValueError(
                f"{self.who} must tell where it is to go on in the middle of an epoch, got a shuffled DataLoader and a "
                f"checkpoint of epoch {epoch} after {batches} batches. Use fncb.batches(dataset, ...) or torchdata's "
                "StatefulDataLoader, or pass allow_inexact_resume=True: then its order is drawn again."
            )

    def state_dict(self) -> dict[str, Any]:
        """The epoch for which they were made."""
        return {"made_at": self._made_at}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._made_at = saved["made_at"]

    def _make(self) -> list[Loader]:
        given = self.given() if self.is_function else self.given
        if given is None:
            return []
        named = _named(self.who, given)
        if not self.several and list(named) != [None]:
            raise ValueError(
                f"{self.who} must be one loader, got {len(named)}. Give batches of all: list(zip(one, other))."
            )
        return [
            Loader(self.who, name, _in_order(each) if self.in_order else each, self.limit)
            for name, each in named.items()
        ]


def _named(who: str, given: Any) -> dict[str | None, Any]:
    if isinstance(given, Mapping):
        if not given:
            raise ValueError(f"{who}: a mapping must name at least one loader, got none.")
        return dict(given)
    if isinstance(given, list | tuple) and given and all(map(_is_loader, given)):
        return {f"dataloader_idx_{i}": each for i, each in enumerate(given)}
    return {None: given}


def _is_loader(each: Any) -> bool:
    """Whether something in a list is rather a loader than a batch."""
    return isinstance(each, Iterable) and not isinstance(each, Tensor | Mapping | list | tuple | str)


def _in_order(loader: Any) -> Any:
    """A `DataLoader` or `Batches` over the same data without shuffling; anything else as it is."""
    if isinstance(loader, Batches):
        return loader.in_order()
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    plain = type(loader.batch_sampler) is BatchSampler or loader.batch_sampler is None
    if isinstance(loader.sampler, SequentialSampler) or not plain:
        return loader
    log.warning("fncb: overfit_batches takes the batches in order: %s is left out", type(loader.sampler).__name__)
    kept = ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context")
    kept += ("generator", "prefetch_factor", "persistent_workers")
    batched = (
        {"batch_size": loader.batch_size, "drop_last": loader.drop_last} if loader.batch_size else {"batch_size": None}
    )
    return DataLoader(loader.dataset, **batched, shuffle=False, **{name: getattr(loader, name) for name in kept})
