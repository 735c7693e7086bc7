"""Training from its first event to its last: the order of what `fit` does."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fncb import events as ev
from fncb.batch import to_device
from fncb.callback import note
from fncb.effects import Effect, Skip, Stop, StopEpoch, Validate
from fncb.evaluation import VALIDATION, Fire, eval_mode, evaluate
from fncb.interpret import Handler
from fncb.loaders import Loader, Loaders
from fncb.metrics import joined
from fncb.optimizer import named_groups
from fncb.position import Position, RandomState
from fncb.session import Session
from fncb.settings import Settings, validation_interval
from fncb.signals import Signals
from fncb.step import Step
from fncb.task import Task

log = logging.getLogger("fncb")

_END = object()
_IN_STEP = (ev.BeforeZeroGrad, ev.BeforeBackward, ev.AfterBackward, ev.BeforeOptimizerStep, ev.AfterOptimizerStep)
_OF_UPDATES = (ev.BeforeOptimizerStep, ev.AfterOptimizerStep)


class Training:
    """The loop of `fit`. `run` is the script; the methods below it are its steps, in the order in which they come.

    What a checkpoint needs so that the run goes on here is in `at` before an event is fired: `at.phase` tells which.
    """

    def __init__(
        self,
        task: Task,
        step: Step,
        schedules: Mapping[str, LRScheduler],
        train: Loaders,
        val: Loaders,
        where: torch.device,
        at: Position,
        randomness: RandomState,
        settings: Settings,
        signals: Signals,
    ):
        self.task, self.step, self.schedules, self.where = task, step, schedules, where
        self.train, self.val = train, val
        self.at, self.randomness, self.settings, self.signals = at, randomness, settings, signals
        self.session: Session
        self.fire: Fire
        self._told = False  # that a stop has to wait
        self._n_batches: int | None = None
        self._interval: int | None = None
        self._seconds = settings.validates_by_time
        if not train.is_function:
            self._take_count(train.at(None)[0])

    def asks(self) -> dict[type[Effect], Handler]:
        """The effects that the loop itself carries out, when their moment has come."""
        asked: dict[type[Effect], Handler] = {Skip: self._ask_to_skip, StopEpoch: self._ask_to_stop_epoch}
        return {**asked, Validate: self._ask} if self.val.wanted else asked

    def take_session(self, session: Session) -> None:
        """The session whose callbacks hear the events."""
        self.session, at = session, self.at
        wants = {kind: session.wants(kind) for kind in ev.HOOKS.values()}
        self._wants = wants
        self._in_step = [kind for kind in _IN_STEP if wants[kind]]

        def fire(kind: type[ev.Event], **fields: Any) -> None:
            if wants[kind]:
                session(kind(**{"epoch": at.epochs, "step": at.step, "seconds": session.seconds, **fields}))

        self.fire = fire

    def run(self, resumed: bool) -> None:
        """All of training; a run that goes on makes no sanity check."""
        self.fire(ev.FitStart)
        if not resumed:
            self.sanity_check()
        self.end_epoch()  # of a checkpoint that was written when one ended
        self.at.cut = False
        if not self.is_done() and self.train.wanted:
            self.loader()
            self.at.validated_at = self.at.validated_at or self.session.seconds
            self.fire(ev.TrainStart, metrics=self.lrs())
            while not self.is_done():
                self.epoch()
            self.fire(ev.TrainEnd, metrics=self.metrics())
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
        self.fire(ev.SanityCheckStart)
        with self.session.rehearsal():
            loaders = self.val.at(None)
            if n > 0:
                loaders = [Loader(each.who, each.name, each.batches, min(n, each.count or n)) for each in loaders]
            self.validate(loaders, training=False)
        self.fire(ev.SanityCheckEnd)
        self.randomness.put_back(now)
        self.signals.act()

    # An epoch.

    def epoch(self) -> None:
        """Trains an epoch, or what is left of it at the position and random state of a checkpoint."""
        at, now = self.at, self.randomness.now()
        goes_on = at.phase in ("TrainBatchEnd", "ValidationEnd", "Validated")
        at.cut = False
        loader = self.loader()
        sampler: Any = getattr(loader.batches, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(at.epoch)
        self.begin_epoch()
        fetch = self._fetching(loader, goes_on)
        upcoming, state = fetch()
        if goes_on:
            self.randomness.put_back(now)
            self.catch_up()
        while upcoming is not _END and not self.is_over() and not (at.asked and StopEpoch.__name__ in at.asked):
            batch = upcoming
            upcoming, state = fetch()
            at.epoch_is_over = upcoming is _END
            if not self.batch(batch, state):
                break
            if at.take(Validate) or self.validation_is_due():
                self.validation()
            self.signals.act()
        if at.take(StopEpoch) and not at.epoch_is_over:
            at.epoch_is_over = True
            self.advance_schedules("epoch")
        at.phase = "TrainEpochEnd"
        self.fire(ev.TrainEpochEnd, metrics=self.metrics_of_epoch())
        self.end_epoch()

    def begin_epoch(self) -> None:
        """The events before the first batch, as far as they have not been."""
        at = self.at
        if at.phase == "":
            at.batches, at.in_window, at.epoch_is_over, at.loader = 0, 0, False, None
            self.step.start_epoch(at.epoch)
            self.randomness.at_epoch = self.randomness.now()
            at.phase = "EpochStart"
            self.fire(ev.EpochStart)
        if at.phase == "EpochStart":
            at.phase = "TrainEpochStart"
            self.fire(ev.TrainEpochStart, batches=self._n_batches, metrics=self.lrs())

    def loader(self) -> Loader:
        """The loader of the epoch, made anew when that is due."""
        loader = self.train.at(self.at.epoch)[0]
        self._take_count(loader)
        return loader

    def _take_count(self, loader: Loader) -> None:
        self._n_batches = loader.count
        self._interval = validation_interval(self.settings, self._n_batches, self.val.wanted and self.train.wanted)

    def _fetching(self, loader: Loader, goes_on: bool) -> Callable[[], tuple[Any, Any]]:
        """What gives the next batch of the epoch, and with it the loader's state from before, if it keeps one."""
        at, given = self.at, loader.batches
        keeps_state = hasattr(given, "state_dict") and hasattr(given, "load_state_dict")
        if goes_on:
            self.randomness.put_back(self.randomness.at_epoch)
        if goes_on and keeps_state and at.loader is not None:
            given.load_state_dict(at.loader)
            batches = loader.first(iter(given), at.batches)
        else:
            batches = iter(loader)
            for _ in range(at.batches):
                next(batches, None)

        def fetch() -> tuple[Any, Any]:
            state = given.state_dict() if keeps_state else None
            return next(batches, _END), state

        return fetch

    def catch_up(self) -> None:
        """What came after the event at which a checkpoint was written, and before the next batch."""
        if self.at.phase == "ValidationEnd":
            self.after_validation()
        elif self.at.phase == "TrainBatchEnd" and (self.at.take(Validate) or self.validation_is_due()):
            self.validation()

    def end_epoch(self) -> None:
        """What comes after `TrainEpochEnd`, as far as it has not been; the next epoch's number counts from here."""
        at = self.at
        if at.phase == "TrainEpochEnd":
            at.phase = "EpochEnd"
            self.fire(ev.EpochEnd)
        if at.phase == "EpochEnd" and at.epoch_is_over:
            self.advance_plateau("epoch")
            at.epoch, at.phase = at.epoch + 1, ""
        elif at.phase == "EpochEnd":  # it was stopped, and a run that goes on does so in the middle
            at.cut, at.phase = True, "Validated"

    # A batch.

    def batch(self, batch: Any, state_after: Any) -> bool:
        """Trains on a batch; None, as Lightning has it, is one with nothing to train on. Gives whether it was made."""
        at, batch_idx = self.at, self.at.batches
        batch = to_device(batch, self.where)
        if batch is not None and self._wants[ev.TrainBatchStart]:
            self.fire(ev.TrainBatchStart, batch_idx=batch_idx, batch=batch, metrics=self.lrs())
        if at.asked and StopEpoch.__name__ in at.asked:
            at.asked = [StopEpoch.__name__]
            at.epoch_is_over = False  # so that what is left out is noticed
            return False
        at.latest = ev.Metrics()
        trained = batch is not None and not at.take(Skip)
        if trained:
            self.train_on(batch, batch_idx)
        at.batches += 1
        at.total_batches += 1
        at.loader = state_after
        if at.epoch_is_over:
            self.advance_schedules("epoch")
        at.phase = "TrainBatchEnd"
        if self._wants[ev.TrainBatchEnd]:
            counters = {"epoch": at.epoch, "step": at.step, "seconds": self.session.seconds}
            live = {"batch": batch, "outputs": _share_of_window(at.latest, at.window) if trained else None}
            self.session(ev.TrainBatchEnd(**counters, batch_idx=batch_idx, metrics=at.latest, **live))
        return True

    def train_on(self, batch: Any, batch_idx: int) -> None:
        """The compiled step, and the events of what happened in it."""
        at, step = self.at, self.step
        first = at.in_window == 0
        if first:
            at.window = at.accumulate
            step.set_accumulation(at.window)
        update = at.epoch_is_over or at.in_window + 1 >= at.window
        turns = step.turns_of_round(at.step)
        at.latest = step(batch, update, first, turns)
        at.in_window = 0 if update else at.in_window + 1
        if self._in_step:
            for i in turns:
                self._fire_in_step(i, batch_idx, first, update)
        if update:
            at.step += 1
            self.advance_schedules("step", turns)

    def _fire_in_step(self, turn: int, batch_idx: int, first: bool, update: bool) -> None:
        for kind in self._in_step:
            if (kind is ev.BeforeZeroGrad and not first) or (kind in _OF_UPDATES and not update):
                continue
            step = self.at.step + (kind is ev.AfterOptimizerStep)
            self.fire(kind, step=step, batch_idx=batch_idx, optimizer=self.step.turns[turn].name)

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
        self.validate(self.val.at(self.at.epoch), training=True)
        self.after_validation()

    def validate(self, loaders: list[Loader], training: bool) -> None:
        """The events of a validation; what it measured is kept while training."""
        at = self.at
        with eval_mode(self.task.model):
            with self.step.measures.set_aside():
                metrics = evaluate(VALIDATION, self.task, loaders, self.where, self.fire, self.signals.act)
            if training:
                at.validated, at.validated_in, at.validated_at = metrics, at.epoch, self.session.seconds
                at.phase = "ValidationEnd"
            self.fire(ev.ValidationEnd, metrics=metrics, epoch_is_over=training and at.epoch_is_over)

    def after_validation(self) -> None:
        """What comes after the event."""
        self.advance_plateau("step")
        self.at.phase = "Validated"

    # Schedules and metrics.

    def advance_schedules(self, interval: str, turns: tuple[int, ...] | None = None) -> None:
        """Advances the schedules of an interval, of some turns or all, but for those that wait for a metric."""
        if self.schedules and self.task.schedule_interval == interval:
            for i, turn in enumerate(self.step.turns):
                schedule = self.schedules.get(turn.name or "")
                if (turns is None or i in turns) and schedule and not isinstance(schedule, ReduceLROnPlateau):
                    schedule.step()
            self.step.check_settings()

    def advance_plateau(self, interval: str) -> None:
        """Gives each `ReduceLROnPlateau` its metric: after an epoch, or after each validation ("step")."""
        if self.task.schedule_interval != interval:
            return
        for schedule in self.schedules.values():
            if isinstance(schedule, ReduceLROnPlateau):
                metrics, monitor = self.metrics_of_epoch(), self.task.schedule_monitor
                metrics = metrics.with_values(self.session.logged)
                if monitor not in metrics and self.val.wanted and self.at.validated_in != self.at.epoch:
                    continue  # an epoch without validation
                try:
                    schedule.step(metrics[monitor])  # waits for the device, once a validation or an epoch
                except KeyError as error:
                    note(error, f"Task: schedule_monitor={monitor!r} must be a metric of the epoch.")
                    raise
                self.step.check_settings()

    def metrics(self) -> ev.Metrics:
        """The last batch's, the epoch's means, those of the last validation, the learning rates."""
        return joined(self.at.latest, self.step.means(), self.at.validated, self.lrs())

    def metrics_of_epoch(self) -> ev.Metrics:
        """The same, but for those of a validation in an earlier epoch."""
        validated = self.at.validated if self.at.validated_in == self.at.epoch else ev.Metrics()
        return joined(self.at.latest, self.step.means(), validated, self.lrs())

    def lrs(self) -> ev.Metrics:
        """Learning rates by name."""
        return ev.Metrics({name: float(group["lr"]) for name, group in named_groups(self.step.optimizers)})

    # What a checkpoint holds of this, and effects.

    def state_dict(self) -> dict[str, Any]:
        """The reason of a stop that still waits for `min_epochs` or `min_steps`; one that ends the run is not kept."""
        stop = self.session.stopped
        return {"stop": None if stop is None or self.may_stop() else stop.reason}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        if saved["stop"] is not None:
            self.session.stopped = Stop(saved["stop"])

    def _ask(self, effect: Effect, _: ev.Event) -> None:
        if type(effect).__name__ not in self.at.asked:
            self.at.asked.append(type(effect).__name__)

    def _ask_to_skip(self, effect: Skip, event: ev.Event) -> None:
        if type(event) is not ev.TrainBatchStart:
            raise ValueError(f"Skip: it must be asked for at on_train_batch_start, got it at {type(event).__name__}.")
        self._ask(effect, event)

    def _ask_to_stop_epoch(self, effect: StopEpoch, event: ev.Event) -> None:
        if self.at.phase not in ("EpochStart", "TrainEpochStart", "TrainBatchEnd", "ValidationEnd", "Validated"):
            raise ValueError(f"StopEpoch: an epoch must be under way, got it at {type(event).__name__}.")
        self._ask(effect, event)


def _share_of_window(metrics: ev.Metrics, n: int) -> ev.Metrics:
    """A batch's metrics with each loss as it entered the window of `n` batches; nothing is read."""
    if n == 1 or metrics.pending is None:
        return metrics
    vector = metrics.pending.clone()
    for i, name in enumerate(metrics):
        if name.split("/")[0] == "loss":
            vector[i].div_(n)
    return ev.Metrics(None, tuple(metrics), vector)
