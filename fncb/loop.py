"""Training and validation, top to bottom: the one place that knows the order of events."""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fncb import data, store
from fncb import events as ev
from fncb.callback import Callback, compose, note
from fncb.callbacks import progress_bar
from fncb.effects import Effect, SetAccumulation, SetLR, Skip, Validate
from fncb.evaluation import evaluate
from fncb.position import Position, RandomState
from fncb.run import Run as Run
from fncb.session import Session
from fncb.settings import check_counts, device_for, epoch_limit, newest_checkpoint, seed_everything, validation_interval
from fncb.sinks.sink import Sink
from fncb.step import Step
from fncb.task import Task, make_optimizer, make_schedule

log = logging.getLogger("fncb")

T = TypeVar("T")
Callbacks = Callback[Any] | Iterable[Callback[Any]]


def fit(
    task: Task,
    train: Iterable[Any],
    val: Iterable[Any] | None = None,
    *,
    callbacks: Callbacks = (),
    max_epochs: int | None = None,
    max_steps: int = -1,
    accumulate_grad_batches: int = 1,
    val_check_interval: int | float = 1.0,
    check_val_every_n_epoch: int | None = 1,
    seed: int | None = None,
    device: str | torch.device | None = None,
    compile: bool = True,
    record: str | Path | None = None,
    resume: str | Path | None = None,
    sinks: Iterable[Sink] = (),
    log_every_n_steps: int = 50,
    progress: bool | None = None,
) -> Run:
    """Trains a task.

    Events come in the order of Lightning's hooks. The device is never waited for, unless a hook reads a metric or the
    progress bar draws one. The model is trained in place; what is returned is a value.

    Args:
      task: the model, its loss and its optimizer.
      train, val: iterables of batches, begun anew each epoch. A batch is a tensor or nested dicts, lists and tuples
        of tensors and anything else.
      callbacks: a composition, a callback or a list of them.
      max_epochs: epochs to train; None is 1000, or no limit if `max_steps` is given; -1 is no limit.
      max_steps: optimizer steps to make; -1 is no limit.
      accumulate_grad_batches: batches per optimizer step; an epoch's last window may be shorter.
      val_check_interval: validate every so many batches (int), or every such fraction of an epoch (float in [0, 1]).
      check_val_every_n_epoch: validate only in every n-th epoch; None counts an int interval across epochs.
      seed: for torch's, Python's and numpy's generators, set before anything is drawn; None leaves them.
      device: where to train; None is the accelerator if there is one, else the CPU.
      compile: whether to compile the step; what cannot be compiled runs eagerly, and one log line says why.
      record: the file to append events and effects to.
      resume: a checkpoint, a directory of them, or "last", the newest of the `checkpoint` callbacks' directories;
        "last" starts from the beginning when there is none.
      sinks: where metrics go, for example `fncb.sinks.csv(path)`.
      log_every_n_steps: how often a batch's metrics go to the sinks, in optimizer steps.
      progress: whether to show progress; None shows it on a terminal.

    Returns:
      A `Run`.

    Raises:
      TypeError, ValueError: for settings, batches or losses that cannot be, before training where that is possible.

    Example:
      >>> import torch
      >>> from functools import partial
      >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
      <torch...>
      >>> task = Task(torch.nn.Linear(2, 1), loss=lambda model, batch: model(batch).square().mean(),
      ...             optimizer=partial(torch.optim.SGD, lr=0.1))
      >>> run = fit(task, [torch.ones(4, 2)] * 3, max_epochs=2, compile=False, progress=False)
      >>> run.step, run.epoch, sorted(run.metrics)
      (6, 2, ['loss', 'loss_epoch', 'lr-SGD'])
    """
    max_epochs = epoch_limit(max_epochs, max_steps)
    check_counts(max_epochs, max_steps, accumulate_grad_batches, check_val_every_n_epoch, log_every_n_steps)
    if seed is not None:
        seed_everything(seed)
    where = device_for(device)
    model = task.model.to(where)
    optimizer = make_optimizer(task)
    schedule = make_schedule(task, optimizer)
    callbacks = _with_progress(compose(callbacks), progress)
    step = Step(model, task.loss, optimizer, callbacks.step, where, compile)
    at, randomness = Position(accumulate=accumulate_grad_batches), RandomState()
    n_batches = data.count(train)
    interval = validation_interval(val_check_interval, n_batches, check_val_every_n_epoch, val is not None)
    asked: dict[type[Effect], bool] = {}  # what an event's effects asked the loop for

    def set_lr(effect: SetLR, _: ev.Event) -> None:
        for i, group in enumerate(optimizer.param_groups):
            if effect.group in (None, i):
                group["lr"] = effect.lr

    def set_accumulation(effect: SetAccumulation, _: ev.Event) -> None:
        if effect.n < 1:
            raise ValueError(f"SetAccumulation: n must be 1 batch or more, got {effect.n}.")
        at.accumulate = effect.n

    def ask(effect: Effect, _: ev.Event) -> None:
        asked[type(effect)] = True

    objects = {"model": model, "optimizer": optimizer, "schedule": schedule, "position": at, "step_state": step}
    session = Session(
        callbacks,
        objects={name: thing for name, thing in {**objects, "random": randomness}.items() if thing is not None},
        record=record,
        sinks=sinks,
        log_every_n_steps=log_every_n_steps,
        carries_out={SetLR: set_lr, SetAccumulation: set_accumulation, Validate: ask, Skip: ask},
        runs_step_hooks=True,
    )
    wants = {kind: session.wants(kind) for kind in ev.HOOKS.values()}
    in_step = [kind for kind in _IN_STEP if wants[kind]]

    def fire(kind: type[ev.Event], **fields: Any) -> None:
        if wants[kind]:
            session(kind(epoch=at.epoch, step=at.step, seconds=session.seconds, **fields))

    def lrs() -> ev.Metrics:
        return ev.Metrics({name: float(group["lr"]) for name, group in _named_groups(optimizer)})

    def finished() -> bool:
        return session.stopped is not None or 0 <= max_steps <= at.step

    def advance_schedule(interval: str, metrics: Mapping[str, float] | None = None) -> None:
        if schedule is None or task.schedule_interval != interval:
            return
        if not isinstance(schedule, ReduceLROnPlateau):
            schedule.step()
        elif metrics is not None:
            schedule.step(metrics[task.schedule_monitor])  # waits for the device, once a validation
        step.check_settings()

    def validation() -> None:
        at.validated = evaluate("validate", task, val, where, fire)
        if isinstance(schedule, ReduceLROnPlateau):  # before hooks hear of it, so that a checkpoint has it
            advance_schedule(task.schedule_interval, at.validated)
        at.phase = "ValidationEnd"
        fire(ev.ValidationEnd, metrics=at.validated)

    def validation_is_due() -> bool:
        if val is None or (check_val_every_n_epoch and (at.epoch + 1) % check_val_every_n_epoch):
            return False
        if interval is None:
            return at.epoch_is_over
        return (at.total_batches if check_val_every_n_epoch is None else at.batches) % interval == 0

    def train_batch(batch: Any) -> None:
        batch, batch_idx = data.to_device(batch, where), at.batches
        if wants[ev.TrainBatchStart]:
            fire(ev.TrainBatchStart, batch_idx=batch_idx, batch=batch, metrics=lrs())
        at.latest = ev.Metrics()
        if not asked.pop(Skip, False):
            first = at.in_window == 0
            if first:
                step.set_accumulation(at.accumulate)
            update = at.epoch_is_over or at.in_window + 1 >= at.accumulate
            at.latest = step(batch, update, first)
            at.in_window = 0 if update else at.in_window + 1
            for kind in in_step:
                if (first or kind is not ev.BeforeZeroGrad) and (update or kind is not ev.BeforeOptimizerStep):
                    fire(kind, batch_idx=batch_idx)
            if update:
                at.step += 1
                fire(ev.AfterOptimizerStep, batch_idx=batch_idx)
                advance_schedule("step")
        at.batches += 1
        at.total_batches += 1
        if at.epoch_is_over:
            advance_schedule("epoch")
        at.phase = "TrainBatchEnd"
        if wants[ev.TrainBatchEnd]:
            counters = {"epoch": at.epoch, "step": at.step, "seconds": session.seconds}
            session(ev.TrainBatchEnd(**counters, batch_idx=batch_idx, batch=batch, metrics=at.latest))

    def train_epoch(goes_on: bool) -> None:
        """Trains an epoch; `goes_on` in the middle of one, at the position and random state of a checkpoint."""
        now = randomness.now()
        if goes_on:
            randomness.put_back(randomness.at_epoch)
        else:
            at.batches, at.in_window, at.validated, at.epoch_is_over = 0, 0, ev.Metrics(), False
            step.start_epoch(at.epoch)
            sampler: Any = getattr(train, "sampler", None)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(at.epoch)
            randomness.at_epoch = randomness.now()
            at.phase = "TrainEpochStart"
            fire(ev.EpochStart)
            fire(ev.TrainEpochStart, batches=n_batches, metrics=lrs())
        batches = data.at_least_one("fit: train", train)
        for _ in range(at.batches):
            next(batches, None)
        upcoming = next(batches, _END)
        if goes_on:
            randomness.put_back(now)
            if at.phase == "TrainBatchEnd" and validation_is_due():
                validation()
        while upcoming is not _END and not finished():
            batch, upcoming = upcoming, next(batches, _END)
            at.epoch_is_over = upcoming is _END
            train_batch(batch)
            if asked.pop(Validate, False) or validation_is_due():
                validation()

    def end_epoch() -> None:
        fire(ev.EpochEnd)
        if at.epoch_is_over:  # not so when the run was stopped in the middle of it
            at.epoch, at.phase = at.epoch + 1, ""

    def train_epochs() -> None:
        goes_on = at.phase != ""
        while not finished() and (max_epochs < 0 or at.epoch < max_epochs):
            train_epoch(goes_on)
            goes_on = False
            at.phase = "TrainEpochEnd"
            fire(ev.TrainEpochEnd, metrics=_joined(at.latest, step.means(), at.validated, lrs()))
            end_epoch()

    def run() -> Path | None:
        path = None if resume is None else newest_checkpoint(resume, callbacks)
        if path is not None:  # before the first event, so that states and recording go on in one line
            session.load(store.read(path))
            if at.phase == "TrainEpochEnd":
                end_epoch()
            log.info("fncb: going on from %s: epoch %d, step %d", path, at.epoch, at.step)
        fire(ev.InitStart)
        fire(ev.InitEnd)
        fire(ev.Setup, stage="fit")
        fire(ev.ConfigureShardedModel)
        if path is not None:
            fire(ev.LoadCheckpoint, path=str(path))
        fire(ev.FitStart)
        if not finished() and (max_epochs < 0 or at.epoch < max_epochs):
            fire(ev.TrainStart, metrics=lrs())
            train_epochs()
            fire(ev.TrainEnd)
        fire(ev.FitEnd)
        return path

    with session:
        resumed = _guarded("fit", fire, run)
        metrics = {**_joined(at.latest, step.means(), at.validated, lrs()), **session.logged}
    return Run(
        metrics=metrics,
        stopped=session.stopped,
        state=session.state,
        step_state=step.states,
        epoch=at.epoch,
        step=at.step,
        seconds=session.seconds,
        compiled=step.level,
        recompilations=step.recompilations,
        resumed=resumed,
        recording=session.recording,
    )


def validate(
    task: Task,
    val: Iterable[Any],
    *,
    callbacks: Callbacks = (),
    device: str | torch.device | None = None,
    record: str | Path | None = None,
    sinks: Iterable[Sink] = (),
) -> Run:
    """Measures a task on validation batches: means weighted by batch size, named `val_loss` and so on.

    Args:
      task: its `validate` is called in eval mode without gradients; its `loss` if it has none.
      val: an iterable of batches.
      callbacks, device, record, sinks: as in `fit`.

    Returns:
      A `Run` with `metrics` and the callbacks' `state`.

    Example:
      >>> import torch
      >>> task = Task(torch.nn.Identity(), loss=lambda model, batch: model(batch).mean())
      >>> validate(task, [torch.ones(4), torch.zeros(2)]).metrics
      {'val_loss': 0.6666666865348816}
    """
    where = device_for(device)
    task.model.to(where)
    session = Session(callbacks, objects={"model": task.model}, record=record, sinks=sinks, runs_step_hooks=True)

    def fire(kind: type[ev.Event], **fields: Any) -> None:
        if session.wants(kind):
            session(kind(seconds=session.seconds, **fields))

    def measure() -> ev.Metrics:
        fire(ev.Setup, stage="validate")
        metrics = evaluate("validate", task, val, where, fire)
        fire(ev.ValidationEnd, metrics=metrics)
        return metrics

    with session:
        metrics = _guarded("validate", fire, measure)
        measured = dict(metrics)
    return Run(
        metrics={**measured, **session.logged},
        stopped=session.stopped,
        state=session.state,
        seconds=session.seconds,
        recording=session.recording,
    )


_END = object()
_IN_STEP = (ev.BeforeZeroGrad, ev.BeforeBackward, ev.AfterBackward, ev.BeforeOptimizerStep)


def _guarded(stage: str, fire: Any, body: Callable[[], T]) -> T:
    """Runs a stage: exceptions become events first and then go on, and `teardown` always fires."""
    try:
        result = body()
    except BaseException as error:
        told: list[tuple[type[ev.Event], dict[str, Any]]] = [
            (ev.ExceptionRaised, {"exception": error, "error": type(error).__name__, "message": str(error)})
        ]
        if isinstance(error, KeyboardInterrupt):
            told.insert(0, (ev.KeyboardInterrupted, {}))
        for kind, fields in [*told, (ev.Teardown, {"stage": stage})]:
            try:
                fire(kind, **fields)
            except Exception as another:
                note(error, f"While that was handled, {ev.hook_name(kind)} raised {another!r}.")
        raise
    fire(ev.Teardown, stage=stage)
    return result


def _joined(*parts: ev.Metrics) -> ev.Metrics:
    """Metrics of several moments as one; what is on the device stays there."""
    values = {name: part[name] if part.pending is None else None for part in parts for name in part}
    waiting = [part for part in parts if part.pending is not None]
    names = tuple(name for part in waiting for name in part)
    pending = torch.cat([part.pending.to(waiting[0].pending.dtype) for part in waiting]) if waiting else None
    return ev.Metrics(values, names, pending)


def _named_groups(optimizer: Optimizer) -> list[tuple[str, dict[str, Any]]]:
    """Parameter groups as `lr-AdamW`, or `lr-AdamW/pg1`, `lr-AdamW/pg2`, ... where there are several."""
    name, groups = f"lr-{type(optimizer).__name__}", optimizer.param_groups
    if len(groups) == 1:
        return [(name, groups[0])]
    return [(f"{name}/{group.get('name', f'pg{i}')}", group) for i, group in enumerate(groups, 1)]


def _with_progress(callbacks: Callback[Any], progress: bool | None) -> Callback[Any]:
    there = any(part.key == "progress_bar" for part in callbacks.parts or ())
    wanted = sys.stdout.isatty() if progress is None else progress
    return compose(callbacks, progress_bar()) if wanted and not there else callbacks
