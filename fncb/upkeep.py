"""What training is asked for beside: statistics of batch normalisation, and facts about its batches and optimizers."""

from itertools import islice
from typing import Any

import torch

from fncb import events as ev
from fncb.batch import to_device
from fncb.batch_norm import refresh
from fncb.effects import Effect, Probe, RefreshBatchNorm
from fncb.flops import peak_flops, training_flops
from fncb.handling import Handler, must_be_asked_at
from fncb.loaders import Loaders
from fncb.optimizer import other_rates
from fncb.position import Position, RandomState
from fncb.probes import probing
from fncb.signals import Signals
from fncb.step import Step
from fncb.task import Task


class Upkeep:
    """Carries out `RefreshBatchNorm` and `Probe`.

    Args:
      task, step: what is trained, and the step that trains it.
      train: the training loaders.
      device: that the run is on.
      half: whether losses are computed in half precision.
      at, randomness, signals: those of the run.
    """

    task: Task
    step: Step
    train: Loaders
    device: torch.device
    half: bool
    at: Position
    randomness: RandomState
    signals: Signals

    def __init__(
        self,
        task: Task,
        step: Step,
        train: Loaders,
        device: torch.device,
        half: bool,
        at: Position,
        randomness: RandomState,
        signals: Signals,
    ):
        self.task, self.step, self.train, self.device, self.half = task, step, train, device, half
        self.at, self.randomness, self.signals = at, randomness, signals

    def carries_out(self) -> dict[type[Effect], Handler]:
        """Effects and the functions that carry them out."""
        return {
            RefreshBatchNorm: self.refresh_batch_norm,
            Probe: probing(self.device, optimizer=lambda *_: other_rates(self.step.optimizers), flops=self.flops),
        }

    def flops(self, _: Any, event: Any) -> dict[str, float] | None:
        """The operations of a training step on the batch under way, and how many the device could make a second."""
        must_be_asked_at("Probe", event, ev.TrainBatchStart, what="flops")
        found = [training_flops(self.task.model, loss, event.batch) for loss in self.task.losses.values()]
        counted = [each for each in found if each is not None]
        if len(counted) < len(found):
            return None
        dtype = torch.float16 if self.half else next(self.task.model.parameters()).dtype
        peak = peak_flops(torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "", dtype)
        return {"flops": float(sum(counted)), **({} if peak is None else {"available_flops": peak})}

    def refresh_batch_norm(self, effect: RefreshBatchNorm, event: ev.Event) -> None:
        """Measures the running statistics anew; a run that was cut while it did so begins with it when it goes on."""
        must_be_asked_at("RefreshBatchNorm", event, ev.TrainEpochEnd, ev.TrainEnd)
        self.at.ask(effect)
        self._refresh(begun=True)

    def go_on(self) -> None:
        """Makes up for what was cut off when the checkpoint was written that a run goes on from."""
        if RefreshBatchNorm.__name__ in self.at.asked:
            self._refresh(begun=False)

    def _refresh(self, begun: bool) -> None:
        """One pass, which leaves loader and generators as they were; `begun` is whether the loader has been."""
        loader, now = self.train.at(self.at.epoch)[0], self.randomness.now()
        given: Any = loader.batches
        keeps_state = loader.keeps_state and begun  # asked for its state, a fresh one would begin
        state = given.state_dict() if keeps_state else None
        loader.set_epoch(self.at.epoch)

        def forward(batch: Any) -> None:
            for loss in self.task.losses.values() if batch is not None else ():
                loss(self.task.model, to_device(batch, self.device))
            self.signals.act()

        try:
            with self.step.measures.set_aside():
                refresh(self.task.model, forward, islice(loader, self.at.batches))  # as it may have no end
        finally:
            self.randomness.put_back(now)
        if keeps_state:
            given.load_state_dict(state)
            given.state_dict()  # a StatefulDataLoader takes it up when it is next asked, and draws: here and not later
            self.randomness.put_back(now)
        self.at.take(RefreshBatchNorm)
