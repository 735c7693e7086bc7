"""Training steps that are only tried: on copies, with nothing that belongs to the user changed by them."""

import copy
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch.utils.data import DataLoader

from fncb.batch import tensors
from fncb.callback import note
from fncb.data import Batches
from fncb.loaders import Loaders
from fncb.measures import keeps_state
from fncb.position import RandomState, random_state, set_random_state
from fncb.precision import Precision, needs_scale, with_precision
from fncb.settings import seed_everything
from fncb.step import Step
from fncb.task import Loss, Task, make_turns

_UNDER_WAY = {"_iterator", "next_iter_state", "_initial_iter_for_state_dict"}
"""Where `DataLoader` and torchdata's `StatefulDataLoader` keep what they are at."""


@contextmanager
def trying(who: str, task: Task, precision: Precision, device: torch.device, compile: bool) -> Generator[Step]:
    """A step over copies of a task's model and optimizers, in this block; no schedule moves its rates.

    An optimizer that is a function is called with the task's own parameters and copied with them, as it may go by more
    of the model than it is given.
    """
    turns = make_turns(task)
    beside = [each for module in task.model.modules() for each in tensors(vars(module)) if each.grad_fn is not None]
    kept = {id(each): each.detach().clone() for each in beside}  # activations, which can't be copied with their graph
    try:
        model, optimizers = copy.deepcopy((task.model, [turn.optimizer for turn in turns]), kept)
    except Exception as error:
        note(error, f"{who}: a copy is trained, so copy.deepcopy((model, optimizer)) must be possible.")
        raise
    losses = with_precision(attrs.evolve(task, model=model.to(device)), precision, device).losses
    for each in optimizers:
        if each.state:
            each.load_state_dict(each.state_dict())  # to where the parameters are now
    copies = [
        attrs.evolve(turn, loss=_alone(losses[turn.name or ""]), optimizer=optimizer)
        for turn, optimizer in zip(turns, optimizers, strict=True)
    ]
    step = Step(model, copies, None, device, compile, needs_scale(precision))
    step.set_accumulation(1)
    step.start_epoch(0)

    def refuse(*_: Any) -> None:
        raise ValueError(
            f"{who}: a loss must call the model that it is given, got a call of the task's own, of which a copy is "
            "trained here."
        )

    handle = task.model.register_forward_pre_hook(refuse)
    try:
        yield step
    finally:
        handle.remove()
        step.measures.reset()
        step.close()


@contextmanager
def borrowed(who: str, given: Any, seed: int | None = None) -> Generator[Any]:
    """A loader, or that which a function makes, to take batches from in this block.

    Afterwards the loader is where it was, and so are the generators that it draws from and those of the process, which
    may be seeded.
    """
    before = random_state()
    try:
        if seed is not None:
            seed_everything(seed)
        loaders = Loaders(who, given, several=False)
        if loaders.is_function:
            loaders = Loaders(who, given(), several=False)
        found = [each.batches for each in loaders.at(0)] or [None]
        if not isinstance(found[0], Iterable) and not hasattr(found[0], "__getitem__"):
            raise TypeError(f"{who} must be an iterable of batches, got {found[0]!r}.")
        with _left_as_it_is(found[0], RandomState(loaders.generators())) as own:
            yield own
    finally:
        set_random_state(before)


@contextmanager
def _left_as_it_is(loader: Any, randomness: RandomState) -> Generator[Any]:
    """A loader to be used instead of the one given, or that, which is then put back where it was."""
    own, now = loader, randomness.now()
    if isinstance(loader, Batches | DataLoader):
        own = copy.copy(loader)  # has a place, and workers, of its own
        vars(own).update(dict.fromkeys(vars(own).keys() & _UNDER_WAY))
    shared = [getattr(loader, name, None) for name in ("sampler", "batch_sampler", "dataset")]
    moving: list[Any] = [each for each in (*shared, loader if own is loader else None) if _keeps_state(each)]
    states = [copy.deepcopy(each.state_dict()) for each in moving]
    try:
        yield own
    finally:
        for each, state in zip(moving, states, strict=True):
            each.load_state_dict(state)
        randomness.put_back(now)


def _keeps_state(each: Any) -> bool:
    return hasattr(each, "state_dict") and hasattr(each, "load_state_dict")


def again(loader: Any) -> Iterator[Any]:
    """The batches of a loader without end; as many as there are if it can't be begun again."""
    given = True
    while given:
        given = False
        for batch in loader:
            given = True
            yield batch


def _alone(loss: Loss) -> Callable[[Any, Any], Any]:
    """A loss without what it returns beside, but for metrics that it has updated itself: the step resets those."""

    def alone(model: Any, batch: Any) -> Any:
        out = loss(model, batch)
        if not isinstance(out, tuple) or len(out) != 2 or not hasattr(out[1], "items"):
            return out
        return out[0], {name: value for name, value in out[1].items() if keeps_state(value)}

    return alone
