"""Where a run is: what is saved beside the model so that it goes on exactly there."""

import random
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import torch

from fncb.effects import Effect
from fncb.events import Metrics

# The phases of an epoch, in order. Most are the event that was heard last.
BEFORE_BATCHES = ("", "EpochStart", "TrainEpochStart")
TRAINED = ("Stepped", "Scheduled")  # a batch is, and its last event has not been: hooks, then schedules, then that
UNDER_WAY = ("TrainBatchStart", *TRAINED)
BATCHES = (*UNDER_WAY, "TrainBatchEnd", "Validating", "Measured", "ValidationEnd", "Validated")
AFTER_BATCHES = ("BatchesDone", "TrainEpochEnd", "EpochEnd")
# and "Cut": it has ended for callbacks though batches are left, which a run that may train longer goes on with


@attrs.define
class Position:
    """Where in the run the loop is; saved, so that a run goes on from there.

    Attributes:
      epoch: 0-based, the one under way.
      step: optimizer steps made.
      batches: batches of this epoch that are done.
      in_window: batches of the accumulation window that are done.
      total_batches: batches of the whole run that are done.
      accumulate: batches per optimizer step, from the next window on.
      window: batches of the window under way.
      epoch_is_over: whether the last batch of the epoch is done or under way.
      latest: the metrics of the last batch.
      validated: the metrics of the last validation.
      validated_in: the epoch that it was in; None before the first.
      validated_at: seconds since the run began, when the last validation ended or training began.
      phase: the moment of the epoch that is reached, "" between epochs.
      is_training: whether training has begun for callbacks, and not ended.
      cut: whether the epoch under way has ended for the callbacks though batches are left, as the run was stopped.
      asked: class names of effects that are still to be carried out.
      loader: the state of the training loader, if it keeps one, before the last batch that was trained on.
      loader_next: the same, before the batch that comes after it.
      made: of the batch under way, once it has been trained on: whether it began a window, whether it ended one, and
        the indices of the turns that took part; empty if it was left out.
      told: how many of the events inside the step have been heard of that batch.
      holds_schedules: whether the task's schedules rest.
    """

    epoch: int = 0
    step: int = 0
    batches: int = 0
    in_window: int = 0
    total_batches: int = 0
    accumulate: int = 1
    window: int = 1
    epoch_is_over: bool = False
    latest: Metrics = attrs.field(factory=Metrics)
    validated: Metrics = attrs.field(factory=Metrics)
    validated_in: int | None = None
    validated_at: float = 0.0
    phase: str = ""
    is_training: bool = False
    cut: bool = False
    asked: list[str] = attrs.field(factory=list)
    loader: Any = None
    loader_next: Any = None
    made: tuple[Any, ...] = ()
    told: int = 0
    holds_schedules: bool = False

    @property
    def epochs(self) -> int:
        """Epochs that have begun and ended, the last one maybe in part."""
        return self.epoch + self.cut

    @property
    def before_next(self) -> tuple[Any, int]:
        """Before the batch that comes next, or the one whose events are not over: the loader's state, batches done."""
        return (self.loader, self.batches - 1) if self.phase in TRAINED else (self.loader_next, self.batches)

    @property
    def is_amid(self) -> bool:
        """Whether an epoch is under way of which there are more batches, or a batch whose events are not over."""
        return self.phase in UNDER_WAY or (self.phase in (*BATCHES, "Cut") and not self.epoch_is_over)

    def ask(self, effect: Effect) -> None:
        """Keeps in mind what is to be carried out when its moment has come."""
        if type(effect).__name__ not in self.asked:
            self.asked.append(type(effect).__name__)

    def take(self, effect: type[Effect]) -> bool:
        """Whether an effect was asked for, which it is then no longer."""
        asked = effect.__name__ in self.asked
        if asked:
            self.asked.remove(effect.__name__)
        return asked

    def state_dict(self) -> dict[str, Any]:
        """Plain data; reads the metrics."""
        plain = {field.name: getattr(self, field.name) for field in attrs.fields(Position)}
        return {**plain, "latest": dict(self.latest), "validated": dict(self.validated), "asked": list(self.asked)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        for name, value in saved.items():
            setattr(self, name, value)
        self.latest, self.validated = Metrics(saved["latest"]), Metrics(saved["validated"])
        self.asked, self.made = list(saved["asked"]), tuple(saved["made"])
        self.cut = False  # the run goes on in the middle of that epoch


class RandomState:
    """The random state of torch, Python and numpy, now and as it was when the epoch's batches began.

    Args:
      generators: others that belong to the run, such as those of its loaders.
      at: where the run is.

    Attributes:
      at_epoch: as it was then.
    """

    at_epoch: dict[str, Any]

    def __init__(self, generators: Iterable[torch.Generator] = (), at: Position | None = None) -> None:
        self._generators, self._at = list(generators), at or Position()
        self.at_epoch = self.now()
        self._held: tuple[str, Mapping[str, Any]] | None = None

    def now(self) -> dict[str, Any]:
        """The state of every generator that is in use."""
        return {**random_state(), "own": [each.get_state() for each in self._generators]}

    def put_back(self, state: Mapping[str, Any]) -> None:
        """Sets every generator to what `now` gave."""
        set_random_state(state)
        for generator, was in zip(self._generators, state["own"], strict=False):
            generator.set_state(was)

    def hold(self, state: Mapping[str, Any] | None = None) -> None:
        """What is saved in this phase is as it is now, or as it is given: a run that goes on does anew what comes."""
        self._held = self._at.phase, state or self.now()

    def release(self) -> None:
        """What is saved is as it is then."""
        self._held = None

    def state_dict(self) -> dict[str, Any]:
        """Both moments."""
        phase, held = self._held or ("", None)
        now = held if held is not None and phase == self._at.phase else self.now()
        return {"now": _compact(now), "at_epoch": _compact(self.at_epoch)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; to be done last, as loading other things may draw."""
        self.at_epoch = saved["at_epoch"]
        self.put_back(saved["now"])


def random_state() -> dict[str, Any]:
    """The state of the generators that belong to the process."""
    numpy = sys.modules.get("numpy")
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": numpy and _numpy_state(numpy),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Sets those generators to what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist() if isinstance(internal, torch.Tensor) else internal), gauss))
    if state["numpy"] is not None:
        import numpy

        kind, key, *rest = state["numpy"]
        numpy.random.set_state((kind, key.numpy(), *rest))


def _compact(state: Mapping[str, Any]) -> dict[str, Any]:
    """For a checkpoint: Python's hundreds of numbers as a tensor."""
    version, internal, gauss = state["python"]
    return {**state, "python": (version, torch.as_tensor(internal), gauss)}


def _numpy_state(numpy: Any) -> tuple[Any, ...]:
    kind, key, *rest = numpy.random.get_state()
    return kind, torch.from_numpy(key.copy()), *rest
