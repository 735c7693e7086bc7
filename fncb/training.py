"""Training from its first event to its last: the order of what `fit` does.

This file is long because that order is one story, and stands in one place.
"""

import logging
import time
from collections.abc import Mapping
from itertools import product
from typing import Any

import torch

from fncb import events as ev
from fncb.batch import batch_size, tensors, to_device
from fncb.effects import Save, Skip, Stop, StopEpoch, Validate
from fncb.evaluation import VALIDATION, Fire, evaluate
from fncb.loaders import END, Loader, Loaders
from fncb.metrics import joined, share_of_window
from fncb.position import BATCHES, BEFORE_BATCHES, TRAINED, UNDER_WAY, Position, RandomState
from fncb.rates import Rates
from fncb.session import Session
from fncb.settings import Settings, validation_interval
from fncb.sight import Sight
from fncb.signals import Signals
from fncb.step import Step
from fncb.task import Task
from fncb.upkeep import Upkeep
from fncb.views import eval_mode

log: logging.Logger = logging.getLogger("fncb")

_IN_STEP = (ev.BeforeZeroGrad, ev.BeforeBackward, ev.AfterBackward, ev.BeforeOptimizerStep, ev.AfterOptimizerStep)
_OF_UPDATES = (ev.BeforeOptimizerStep, ev.AfterOptimizerStep)


class Training:
    """The loop of `fit`. `run` is the script; the methods below it are its steps, in the order in which they come.

    What a checkpoint needs so that the run goes on here is in `at` before an event is fired: `at.phase` tells which.
    """

    task: Task
    step: Step
    rates: Rates
    device: torch.device
    train: Loaders
    val: Loaders
    at: Position
    randomness: RandomState
    settings: Settings
    signals: Signals
    sight: Sight
    upkeep: Upkeep

    def __init__(
        self,
        task: Task,
        step: Step,
        rates: Rates,
        train: Loaders,
        val: Loaders,
        device: torch.device,
        at: Position,
        randomness: RandomState,
        settings: Settings,
        signals: Signals,
        sight: Sight,
        upkeep: Upkeep,
    ):
        self.task, self.step, self.rates, self.device = task, step, rates, device
        self.train, self.val = train, val
        self.at, self.randomness, self.settings, self.signals = at, randomness, settings, signals
        self.sight, self.upkeep = sight, upkeep
        self.session: Session
        self.fire: Fire
        self._told = False  # that a stop has to wait
        self._n_batches: int | None = None
        self._interval: int | None = None
        self._seconds = settings.validates_by_time
        self._graphs, self._kind_of_batch = 0, ""  # that callbacks have heard of, and of the last one
        self._waited = 0.0  # seconds, for the batch under way
        if not train.is_function:
            self._take_count(train.at(None)[0])

    def take_session(self, session: Session) -> None:
        """The session whose callbacks hear the events."""
        self.session, at = session, self.at
        wants = {kind: session.wants(kind) for kind in ev.HOOKS.values()}
        self._wants, self._hears_batches = wants, session.hears(ev.TrainBatchEnd)
        self._in_step = any(wants[kind] for kind in _IN_STEP)
        saves = [part for part in session.callbacks.parts or () if part.emits is None or Save in part.emits]
        self._saves_on_exception = any(part.hears(ev.ExceptionRaised) for part in saves)

        def fire(kind: type[ev.Event], **fields: Any) -> None:
            if wants[kind]:
                given: dict[str, Any] = {"epoch": at.epochs, "step": at.step, "seconds": session.seconds, **fields}
                session(kind(**given))

        self.fire = fire

    def reach(self, kind: type[ev.Event], at: str, is_now: Any, **fields: Any) -> None:
        """Fires an event after which the run has come to where `at` says: unless a hook raises, then it has not."""
        before, heard = getattr(self.at, at), self.session.heard
        setattr(self.at, at, is_now)
        try:
            self.fire(kind, **fields)
        except BaseException:
            if self.session.heard == heard:
                setattr(self.at, at, before)
            raise

    def run(self, resumed: bool) -> None:
        """All of training; a run that goes on makes no sanity check."""
        self.fire(ev.FitStart, max_epochs=self.settings.max_epochs, max_steps=self.settings.max_steps)
        if not resumed:
            self.sanity_check()
        self.upkeep.go_on()
        self.end_epoch()  # of a checkpoint that was written when one ended
        self.at.cut = False
        more = not self.is_done()
        self.at.cut = self.at.phase == "Cut" and not more
        if (self.at.is_training or more) and self.train.wanted:
            self.loader()
            self.at.validated_at = self.at.validated_at or self.session.seconds
            self.reach(ev.TrainStart, "is_training", True, metrics=self.rates.lrs())
            while self.at.phase in BATCHES or not self.is_done():
                self.epoch()
            self.session.settle()
            self.reach(ev.TrainEnd, "is_training", False, metrics=self.metrics())
        self.fire(ev.FitEnd)

    def is_done(self) -> bool:
        """Whether there is no further epoch."""
        at, settings = self.at, self.settings
        return self.is_over() or 0 <= settings.max_epochs <= at.epochs

    def is_over(self) -> bool:
        """Whether there is no further batch."""
        return 0 <= self.settings.max_steps <= self.at.step or self.may_stop()

    def may_stop(self) -> bool:
        """Whether a callback asked to stop and the run is long enough for it."""
        stop = self.session.stopped
        if stop is None:
            return False
        at, settings = self.at, self.settings
        met = at.epochs >= settings.min_epochs and at.step >= settings.min_steps
        if not met and not self._told:
            self._told = True
            log.warning(
                "fncb: asked to stop at epoch %d, step %d (%s); going on until min_epochs=%d and min_steps=%d are met",
                *(at.epoch, at.step, stop.reason, settings.min_epochs, settings.min_steps),
            )
        return met

    # Before training.

    def sanity_check(self) -> None:
        """Tries a few validation batches; leaves no trace in metrics and random state."""
        n = self.settings.num_sanity_val_steps
        if n == 0 or not self.val.wanted:
            return
        now = self.randomness.now()
        self.hold()
        self.fire(ev.SanityCheckStart)
        with self.session.sanity_check():
            loaders = self.val.at(None)
            if n > 0:
                loaders = [Loader(each.who, each.name, each.batches, min(n, each.count or n)) for each in loaders]
            with eval_mode(self.task.model):
                metrics = self.measure(loaders)
                self.fire(ev.ValidationEnd, metrics=metrics)
        self.fire(ev.SanityCheckEnd)
        self.randomness.put_back(now)
        self.release()
        self.signals.act()

    # An epoch.

    def epoch(self) -> None:
        """Trains an epoch, or what is left of it at the position and random state of a checkpoint."""
        at, now = self.at, self.randomness.now()
        goes_on = at.phase in BATCHES or at.phase == "Cut"
        at.cut = False
        loader = self.loader()
        loader.set_epoch(at.epoch)
        self.begin_epoch()
        self._hold_random(now if goes_on else None)
        if goes_on:
            self.randomness.put_back(self.randomness.at_epoch)  # what drew the batches that were done draws them again
        done = goes_on and not at.is_amid and not loader.keeps_state
        fetch = loader.fetching(*at.before_next) if not done else lambda: (END, None)
        upcoming, state, waited = self._timed(fetch)
        if goes_on and (at.phase not in UNDER_WAY or not self.takes_batch()):
            self.randomness.put_back(now)
            self.catch_up()
        while upcoming is not END and self.takes_batch():
            if at.phase not in BEFORE_BATCHES:
                self._hold_random(now if at.phase in UNDER_WAY else None)
            batch, self._waited = upcoming, waited
            upcoming, state, waited = self._timed(fetch)
            at.epoch_is_over = upcoming is END
            if at.phase in UNDER_WAY:
                self.randomness.put_back(now)
            if not self.batch(batch, state):
                break
            if at.take(Validate) or self.validation_is_due():
                self.validation()
            self.signals.act()
            if self.session.is_writing:
                self.session.settle(wait=False)
        self.randomness.release()
        if StopEpoch.__name__ in at.asked:
            at.asked.clear()
            if not at.epoch_is_over:
                at.epoch_is_over = True
                self.rates.advance("epoch")
        at.phase = "BatchesDone"
        self.end_epoch()

    def _timed(self, fetch: Any) -> tuple[Any, Any, float]:
        """What the loader gives, and how many seconds that took, to the microsecond."""
        began = time.perf_counter()
        return *fetch(), round(time.perf_counter() - began, 6)

    def takes_batch(self) -> bool:
        """Whether there is a batch to finish, or one to begin if the loader has any."""
        at = self.at
        if at.phase in TRAINED:
            return True
        stopped = at.asked and StopEpoch.__name__ in at.asked
        return not stopped and (at.phase == "TrainBatchStart" or not self.is_over())

    def _hold_random(self, random: Any) -> None:
        """Keeps the random state, or the one given, if a checkpoint may be written when what is next fails."""
        if self._saves_on_exception:
            self.randomness.hold(random)

    def begin_epoch(self) -> None:
        """The events before the first batch, as far as they have not been."""
        at = self.at
        if at.phase == "":
            at.batches, at.in_window, at.epoch_is_over, at.loader, at.loader_next = 0, 0, False, None, None
            self.step.start_epoch(at.epoch)
            self.randomness.at_epoch = self.randomness.now()
            self.reach(ev.EpochStart, "phase", "EpochStart")
        if at.phase == "EpochStart":
            given = {"batches": self._n_batches, "metrics": self.rates.lrs()}
            self.reach(ev.TrainEpochStart, "phase", "TrainEpochStart", **given)

    def loader(self) -> Loader:
        """The loader of the epoch, made anew when that is due."""
        loader = self.train.at(self.at.epoch)[0]
        self._take_count(loader)
        return loader

    def _take_count(self, loader: Loader) -> None:
        self._n_batches = loader.count
        self._interval = validation_interval(self.settings, self._n_batches, self.val.wanted and self.train.wanted)

    def catch_up(self) -> None:
        """What came after the event at which a checkpoint was written, and before the next batch."""
        phase = self.at.phase
        if phase in ("Measured", "ValidationEnd"):
            self.end_validation()
        due = phase == "TrainBatchEnd" and (self.at.take(Validate) or self.validation_is_due())
        if due or phase == "Validating":
            self.validation()

    def end_epoch(self) -> None:
        """What comes after the batches, as far as it has not been; the next epoch's number counts from here."""
        at = self.at
        if at.phase == "BatchesDone":
            self.reach(ev.TrainEpochEnd, "phase", "TrainEpochEnd", metrics=self.metrics_of_epoch())
        if at.phase == "TrainEpochEnd":
            self.reach(ev.EpochEnd, "phase", "EpochEnd")
        if at.phase == "EpochEnd" and at.epoch_is_over:
            self.advance_plateaus("epoch")
            at.epoch, at.phase = at.epoch + 1, ""
        elif at.phase == "EpochEnd":  # it was stopped, and a run that goes on does so in the middle
            at.cut, at.phase = True, "Cut"

    # A batch.

    def batch(self, batch: Any, state_after: Any) -> bool:
        """Trains on a batch; None, as Lightning has it, is one with nothing to train on. Gives whether it was made.

        A batch that a run goes on with in its middle is taken up where it was left.
        """
        at = self.at
        batch = to_device(batch, self.device)
        if at.phase not in UNDER_WAY and batch is not None and self._wants[ev.TrainBatchStart]:
            told = {"samples": batch_size(batch), "waited": self._waited, "batch": batch, "metrics": self.rates.lrs()}
            self.reach(ev.TrainBatchStart, "phase", "TrainBatchStart", batch_idx=at.batches, **told)
            self._hold_random(None)
        if at.phase not in TRAINED:
            if at.asked and StopEpoch.__name__ in at.asked:
                return False
            self.train_on(batch, state_after)
        self.randomness.release()
        if at.phase == "Stepped":
            self.end_step()
        if self._hears_batches:
            outputs = share_of_window(at.latest, at.window) if at.made else None
            live = {"batch": batch, "outputs": outputs, "metrics": at.latest}
            self.reach(ev.TrainBatchEnd, "phase", "TrainBatchEnd", batch_idx=at.batches - 1, **live)
        else:
            at.phase = "TrainBatchEnd"
            if self._wants[ev.TrainBatchEnd]:
                self.session.record_batch_end(at.epochs, at.step, at.batches - 1, at.latest)
        return True

    def train_on(self, batch: Any, state_after: Any) -> None:
        """The compiled step. What counts batches changes when it is over, and all at once."""
        at, step = self.at, self.step
        latest, made = ev.Metrics(), ()
        if batch is not None and not at.take(Skip):
            first = at.in_window == 0
            if first:
                at.window = at.accumulate
                step.set_accumulation(at.window)
            update = at.epoch_is_over or at.in_window + 1 >= at.window
            turns = step.turns_of_round(at.step)
            latest, made = step(batch, update, first, turns), (first, update, turns)
            if step.compilations != self._graphs:
                shapes = [f"{str(each.dtype).removeprefix('torch.')}{list(each.shape)}" for each in tensors(batch)]
                self._kind_of_batch = " ".join(shapes)
            at.in_window = 0 if update else at.in_window + 1
            at.step += update
        at.latest, at.made, at.told = latest, made, 0
        at.batches += 1
        at.total_batches += 1
        at.loader, at.loader_next = at.loader_next, state_after
        at.phase = "Stepped"

    def end_step(self) -> None:
        """The events of what happened in the step, and what is advanced by it."""
        at = self.at
        if self.step.compilations != self._graphs:
            self._tell_of_graphs()
        if at.made:
            first, update, turns = at.made
            if self._in_step:
                self._tell_of_step(first, update, turns)
            if update:
                self.rates.advance("step", turns)
        if at.epoch_is_over:
            self.rates.advance("epoch")
        at.phase = "Scheduled"

    def _tell_of_graphs(self) -> None:
        self._graphs = self.step.compilations
        counted = {"graphs": self._graphs, "recompilations": self.step.recompilations, "level": self.step.level}
        self.fire(ev.StepCompiled, batch=self._kind_of_batch, **counted)

    def _tell_of_step(self, first: bool, update: bool, turns: tuple[int, ...]) -> None:
        for place, (turn, kind) in enumerate(product(turns, _IN_STEP), 1):
            passes = (kind is not ev.BeforeZeroGrad or first) and (kind not in _OF_UPDATES or update)
            if place > self.at.told and passes and self._wants[kind]:
                of_turn = {"batch_idx": self.at.batches - 1, "optimizer": self.step.turns[turn].name}
                step = self.at.step - (update and kind is not ev.AfterOptimizerStep)
                self.reach(kind, "told", place, step=step, **of_turn)

    # Validation.

    def validation_is_due(self) -> bool:
        """Whether to validate now, after a batch."""
        at, every = self.at, self.settings.check_val_every_n_epoch
        if not self.val.wanted or (every and (at.epoch + 1) % every):
            return False
        if self.may_stop():
            return True
        if self._seconds is not None:
            return self.session.seconds - at.validated_at >= self._seconds
        if self._interval is None:
            return at.epoch_is_over
        return (at.total_batches if every is None else at.batches) % self._interval == 0

    def validation(self) -> None:
        """Validates in the middle of training."""
        at = self.at
        at.phase = "Validating"
        self.hold()
        with eval_mode(self.task.model):
            loaders = self.val.at(at.epoch)
            for loader in loaders:
                loader.set_epoch(at.epoch)
            at.validated = self.measure(loaders)
        at.validated_in, at.validated_at, at.phase = at.epoch, self.session.seconds, "Measured"
        self.release()
        self.end_validation()

    def measure(self, loaders: list[Loader]) -> ev.Metrics:
        """The events of a validation but for its last."""
        with self.step.measures.set_aside():
            return evaluate(VALIDATION, self.task, loaders, self.device, self.fire, self.signals.act, self.sight)

    def end_validation(self) -> None:
        """What comes after the measuring, as far as it has not been."""
        at = self.at
        if at.phase == "Measured":
            last = {"metrics": at.validated, "epoch_is_over": at.epoch_is_over}
            with eval_mode(self.task.model):
                self.reach(ev.ValidationEnd, "phase", "ValidationEnd", **last)
        self.advance_plateaus("step")
        at.phase = "Validated"

    def hold(self) -> None:
        """Until `release`, or for good if what is next fails, checkpoints are of this moment."""
        self.session.hold(self.at.epochs, self.at.step)
        self.randomness.hold()

    def release(self) -> None:
        """Checkpoints are of the moment that they are asked for again."""
        self.session.release()
        self.randomness.release()

    def advance_plateaus(self, interval: str) -> None:
        """Gives schedules that wait for a metric those of the epoch."""
        expected = not self.val.wanted or self.at.validated_in == self.at.epoch
        self.rates.advance_plateaus(
            interval, lambda: self.metrics_of_epoch().with_values(self.session.logged), expected
        )

    def metrics(self) -> ev.Metrics:
        """The last batch's, the epoch's means, those of the last validation, the learning rates."""
        return joined(self.at.latest, self.step.means(), self.at.validated, self.rates.lrs())

    def metrics_of_epoch(self) -> ev.Metrics:
        """The same, but for those of a validation in an earlier epoch."""
        validated = self.at.validated if self.at.validated_in == self.at.epoch else ev.Metrics()
        return joined(self.at.latest, self.step.means(), validated, self.rates.lrs())

    def state_dict(self) -> dict[str, Any]:
        """The reason of a stop that still waits for `min_epochs` or `min_steps`; one that ends the run is not kept."""
        stop = self.session.stopped
        return {"stop": None if stop is None or self.may_stop() else stop.reason}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        if saved["stop"] is not None:
            self.session.stopped = Stop(saved["stop"])
