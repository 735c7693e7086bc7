"""`fit`, `validate`, `test` and `predict`: what is asked for is checked, put together, run and summed up.

This file is long because its signatures are: each setting is described where it is given.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch

from fncb import events as ev
from fncb.callback import Callback, compose
from fncb.control import Control
from fncb.effects import KeepPredictions, Probe
from fncb.evaluation import PREDICTION, TEST, VALIDATION, Pass, evaluate, flat, predictions
from fncb.loaders import Loaders
from fncb.plugins import with_plugins
from fncb.position import Position, RandomState
from fncb.precision import PrecisionGiven, checked, needs_scale, with_precision
from fncb.probes import probing
from fncb.rates import Rates
from fncb.resume import Resumed as Resumed
from fncb.resume import step_states_in
from fncb.rewinding import Rewind
from fncb.run import Run as Run
from fncb.session import Session
from fncb.settings import (
    Interval,
    device_for,
    seed_everything,
    settings_of,
    torch_modes,
    with_sugar,
)
from fncb.sight import Sight
from fncb.signals import Signals
from fncb.sinks.sink import Sink
from fncb.staging import check_resume, go_on, guarded, limited, of_other_stages, set_up, with_progress
from fncb.step import Step
from fncb.task import Task, make_schedules, make_turns
from fncb.training import Training
from fncb.upkeep import Upkeep
from fncb.views import eval_mode

log: logging.Logger = logging.getLogger("fncb")

Callbacks = Callback[Any] | Iterable[Callback[Any]]
Batches = Iterable[Any] | Mapping[str, Iterable[Any]] | Callable[[], Any]


def fit(
    task: Task,
    train: Iterable[Any] | Callable[[], Iterable[Any]],
    val: Batches | None = None,
    *,
    callbacks: Callbacks = (),
    max_epochs: int | None = None,
    max_steps: int = -1,
    min_epochs: int | None = None,
    min_steps: int | None = None,
    max_time: str | timedelta | Mapping[str, float] | None = None,
    limit_train_batches: int | float | None = None,
    limit_val_batches: int | float | None = None,
    val_check_interval: Interval = 1.0,
    check_val_every_n_epoch: int | None = 1,
    num_sanity_val_steps: int = 2,
    overfit_batches: int | float = 0,
    fast_dev_run: bool | int = False,
    accumulate_grad_batches: int = 1,
    reload_dataloaders_every_n_epochs: int = 0,
    log_every_n_steps: int = 50,
    gradient_clip_val: float | None = None,
    precision: PrecisionGiven = "32",
    deterministic: bool | Literal["warn"] | None = None,
    detect_anomaly: bool = False,
    seed: int | None = None,
    device: str | torch.device | None = None,
    compile: bool = True,
    record: str | Path | None = None,
    record_metrics_every_n_steps: int = 1,
    resume: str | Path | None = None,
    weights_only: bool = False,
    strict: bool = True,
    allow_inexact_resume: bool = False,
    sinks: Iterable[Sink] = (),
    progress: bool | None = None,
    plugins: bool = True,
) -> Run:
    """Trains a task.

    Events come in the order of Lightning's hooks. The device is never waited for, unless a hook reads a metric, the
    progress bar draws one, or sinks and the recording read those of many steps at once. The model is trained in place;
    what is returned is a value. Ctrl-C and SIGTERM are acted on after the batch under way: `on_exception` and
    `teardown` fire, then `KeyboardInterrupt` or `SystemExit(143)` goes on to the caller.

    Args:
      task: the model, its loss and its optimizer.
      train: an iterable of batches, begun anew each epoch, or a function that makes one. A batch is a tensor or nested
        dicts, lists and tuples of tensors and anything else.
      val: likewise, or several: a mapping from name to iterable, or a list of loaders. Several are validated one
        after the other, and their metrics have the loader's name: `val_loss/<name>`, `val_loss/dataloader_idx_0`.
      callbacks: a composition, a callback or a list of them.
      max_epochs: epochs to train; None is 1000, or no limit if `max_steps` or `max_time` is given; -1 is no limit.
      max_steps: optimizer steps to make; -1 is no limit.
      min_epochs, min_steps: a callback's `Stop` waits until both are reached.
      max_time: as "DD:HH:MM:SS", a timedelta or its arguments in a mapping: stops after so much training.
      limit_train_batches, limit_val_batches: batches of an epoch, and of each validation loader, to take: a number
        (int) or a fraction (float in [0.0, 1.0]); 0 leaves the stage out; None is all.
      val_check_interval: validate every so many batches (int), every such fraction of an epoch (float in [0, 1]), or
        when so much time has passed since the last validation (as `max_time`).
      check_val_every_n_epoch: validate only in every n-th epoch; None counts an int interval across epochs.
      num_sanity_val_steps: validation batches of each loader to try before training; -1 is all, 0 none.
      overfit_batches: train and validate on the same first batches, so many or such a fraction, without shuffling.
      fast_dev_run: try everything on one batch, or on so many: one epoch, no sanity check, nothing goes to sinks or a
        recording, and `early_stop` and `checkpoint` rest.
      accumulate_grad_batches: batches per optimizer step; an epoch's last window may be shorter.
      reload_dataloaders_every_n_epochs: call the functions given as `train` and `val` again after so many epochs.
      log_every_n_steps: how often a batch's metrics go to the sinks, in optimizer steps.
      gradient_clip_val: short for the callback `clip_grad_norm(gradient_clip_val)`, put last.
      precision: "32"; "64" converts the model; "bf16-mixed" and "16-mixed" are autocast, the latter with a loss scale
        that grows, and halves where gradients overflow, whose update is then left out.
      deterministic: whether torch may use deterministic algorithms only; "warn" warns where there is none.
      detect_anomaly: name the operation whose gradient is NaN; runs eagerly and slowly.
      seed: for torch's, Python's and numpy's generators, set before anything is drawn; None leaves them.
      device: where to train; None is the accelerator if there is one, else the CPU.
      compile: whether to compile the step; what cannot be compiled runs eagerly, and one log line says why.
      record: the file of events and effects. A name that is taken gets the suffix `-v1`, `-v2`, ...; a resumed run goes
        on in the file that it had. One that ends in `.gz` or `.zst` (extra `zst`) is compressed.
      record_metrics_every_n_steps: of which training batches the metrics are recorded; of all others the events are.
      resume: a checkpoint; a directory, whose newest is taken; "last", the newest in the directories of all
        `checkpoint` callbacks, or the beginning when there is none; "best", the one with the best score of the first
        that has a `monitor`. Damaged files are passed over with a warning; one that is named is an error.
      weights_only: whether only the model's weights are taken from it, to be tuned from epoch 0 on.
      strict: whether all weights must fit; if not, which needs `weights_only`, those that do are taken and
        `run.resumed` names the others.
      allow_inexact_resume: whether a run may go on in the middle of an epoch of a shuffled `DataLoader`, by drawing
        its order again, which is exact unless something else draws too. Otherwise that is an error.
      sinks: where metrics go, for example `fncb.sinks.csv(path)`.
      progress: whether to show progress; None shows it on a terminal.
      plugins: whether callbacks that installed packages register under `fncb.callbacks` are added after yours; a log
        line names them. None are where the environment variable `FNCB_PLUGINS` is 0.

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
    settings = settings_of(locals())
    check_resume(resume, weights_only, strict)
    callbacks = compose(callbacks)
    own = len(callbacks.parts or ())
    callbacks, added = with_plugins("fit", with_sugar(settings, callbacks), plugins, own=own)
    is_dev_run, overfit = settings.fast_dev_run > 0, settings.overfit_batches > 0
    anew = settings.reload_dataloaders_every_n_epochs
    train_loaders = Loaders(
        "fit: train", train, settings.limit_train_batches, in_order=overfit, every=anew, several=False
    )
    val_loaders = Loaders("fit: val", val, settings.limit_val_batches, in_order=overfit, every=anew)
    if seed is not None:
        seed_everything(seed)
    device = device_for(device)
    callbacks = with_progress(callbacks, progress)
    if settings.detect_anomaly and compile:
        log.warning("fncb: the step runs as eager: detect_anomaly looks at each operation")
    task.model.to(device)
    task = with_precision(task, settings.precision, device)
    turns = make_turns(task)
    schedules = make_schedules(task, turns)
    eager = settings.detect_anomaly or not compile
    step = Step(task.model, turns, callbacks.step, device, not eager, needs_scale(settings.precision))
    at, signals = Position(accumulate=settings.accumulate_grad_batches), Signals()
    randomness = RandomState([*train_loaders.generators(), *val_loaders.generators()], at)
    control = Control(step, schedules, at)
    rates = Rates(task, step, schedules, at)
    sight, rewind = Sight(task.model, lambda: step.states), Rewind(step)
    half = settings.precision.endswith("mixed")
    upkeep = Upkeep(task, step, train_loaders, device, half, at, randomness, signals)
    loaders = train_loaders, val_loaders
    training = Training(task, step, rates, *loaders, device, at, randomness, settings, signals, sight, upkeep)
    carried_out = control.carries_out(validates=val_loaders.wanted) | rewind.carries_out() | sight.carries_out()
    session = Session(
        callbacks,
        objects={
            "model": task.model,
            "control": control,
            **{"optimizer" if t.name is None else f"optimizer/{t.name}": t.optimizer for t in turns},
            **{f"schedule/{name}" if name else "schedule": schedule for name, schedule in schedules.items()},
            "train_loaders": train_loaders,
            "val_loaders": val_loaders,
            "position": at,
            "training": training,
            "step_state": step,
            "remembered": rewind,
            "random": randomness,
        },
        record=None if is_dev_run else record,
        record_metrics_every_n_steps=record_metrics_every_n_steps,
        sinks=() if is_dev_run else sinks,
        log_every_n_steps=settings.log_every_n_steps,
        carries_out=of_other_stages("fit") | carried_out | upkeep.carries_out(),
        runs_step_hooks=True,
        header={"plugins": added},
    )
    training.take_session(session)
    fire = training.fire

    def run() -> Resumed | None:
        resumed = None  # before the first event, so that states and recording go on in one line
        if resume is not None:
            resumed = go_on("fit", resume, session, task.model, weights_only, strict)
            if weights_only:
                step.begin_states_anew()
        if resumed is not None and at.is_amid and not allow_inexact_resume:
            train_loaders.must_go_on_exactly(at.epoch, at.batches)
        set_up("fit", fire, session, resumed, signals, fast_dev_run=is_dev_run)
        training.run(resumed=resumed is not None and not weights_only)
        signals.act()
        return resumed

    with closing(step), session, signals, torch_modes(settings):
        if not is_dev_run:
            session.claim_folders()
        resumed = guarded("fit", fire, session, signals, run)
        metrics = {**training.metrics(), **session.logged}
        step.measures.reset()  # the metrics are the task's, and somebody else's turn comes
    return Run(
        metrics=metrics,
        stopped=session.stopped,
        state=session.state,
        step_state=step.states,
        epoch=at.epochs,
        step=at.step,
        seconds=session.seconds,
        compiled=step.level,
        recompilations=step.recompilations,
        resumed=resumed,
        recording=session.recording,
    )


def validate(
    task: Task,
    val: Batches,
    *,
    callbacks: Callbacks = (),
    limit_val_batches: int | float | None = None,
    precision: PrecisionGiven = "32",
    device: str | torch.device | None = None,
    resume: str | Path | None = None,
    record: str | Path | None = None,
    sinks: Iterable[Sink] = (),
    progress: bool | None = None,
    plugins: bool = True,
) -> Run:
    """Measures a task on validation batches: means weighted by batch size, named `val_loss` and so on.

    Args:
      task: its `validate` is called in eval mode without gradients; its `loss` if it has none.
      val: as in `fit`, one or several.
      limit_val_batches: batches to take of each, a number (int) or a fraction (float); 0 only sets up and tears down.
      resume: a checkpoint whose weights and callbacks' states are taken, or a directory or "last" as in `fit`.
      callbacks, precision, device, record, sinks, progress, plugins: as in `fit`.

    Returns:
      A `Run` with `metrics` and the callbacks' `state`.

    Raises:
      TypeError, ValueError: for settings, batches or losses that cannot be.

    Example:
      >>> import torch
      >>> task = Task(torch.nn.Identity(), loss=lambda model, batch: model(batch).mean())
      >>> validate(task, [torch.ones(4), torch.zeros(2)]).metrics
      {'val_loss': 0.6666666865348816}
    """
    loaders = limited("validate", "val", val, limit_val_batches)
    return _pass(VALIDATION, task, loaders, callbacks, precision, device, resume, record, sinks, progress, plugins)


def test(
    task: Task,
    test: Batches,
    *,
    callbacks: Callbacks = (),
    limit_test_batches: int | float | None = None,
    precision: PrecisionGiven = "32",
    device: str | torch.device | None = None,
    resume: str | Path | None = None,
    record: str | Path | None = None,
    sinks: Iterable[Sink] = (),
    progress: bool | None = None,
    plugins: bool = True,
) -> Run:
    """Measures a task on test batches: means weighted by batch size, named `test_loss` and so on.

    Args:
      task: its `test` is called in eval mode without gradients; its `loss` if it has none.
      test: as `val` in `fit`, one or several.
      limit_test_batches: batches to take of each, a number (int) or a fraction (float); 0 only sets up and tears down.
      resume: a checkpoint whose weights and callbacks' states are taken, or a directory or "last" as in `fit`.
      callbacks, precision, device, record, sinks, progress, plugins: as in `fit`.

    Returns:
      A `Run` with `metrics` and the callbacks' `state`.

    Raises:
      TypeError, ValueError: for settings, batches or losses that cannot be.

    Example:
      >>> import torch
      >>> task = Task(torch.nn.Identity(), loss=lambda model, batch: model(batch).mean())
      >>> several = {"ones": [torch.ones(4)], "zeros": [torch.zeros(2)]}
      >>> test(task, several).metrics
      {'test_loss/ones': 1.0, 'test_loss/zeros': 0.0}
    """
    loaders = limited("test", "test", test, limit_test_batches)
    return _pass(TEST, task, loaders, callbacks, precision, device, resume, record, sinks, progress, plugins)


vars(test)["__test__"] = False  # or pytest takes it for a test wherever it is imported


def predict(
    task: Task,
    batches: Batches,
    *,
    callbacks: Callbacks = (),
    return_predictions: bool = True,
    limit_predict_batches: int | float | None = None,
    precision: PrecisionGiven = "32",
    device: str | torch.device | None = None,
    resume: str | Path | None = None,
    record: str | Path | None = None,
    sinks: Iterable[Sink] = (),
    progress: bool | None = None,
    plugins: bool = True,
) -> Run:
    """Predicts batches: in eval mode, without gradients, one after the other.

    Args:
      task: its `predict(model, batch)` is called; without one, the model on the batch's first element.
      batches: as `val` in `fit`, one or several.
      return_predictions: whether to keep all. If not, each goes to `on_predict_batch_end` as `event.outputs` and is
        then forgotten, so that a stream may be longer than memory.
      limit_predict_batches: batches to take of each, a number (int) or a fraction (float).
      resume: a checkpoint whose weights and callbacks' states are taken, or a directory or "last" as in `fit`.
      callbacks, precision, device, record, sinks, progress, plugins: as in `fit`.

    Returns:
      A `Run` with `predictions`: what was predicted for each batch, in a list for each loader where there are several.

    Raises:
      TypeError, ValueError: for settings or batches that cannot be.

    Example:
      >>> import torch
      >>> task = Task(torch.nn.Identity(), loss=lambda model, batch: model(batch).mean())
      >>> predict(task, [torch.ones(2), torch.zeros(1)]).predictions
      [tensor([1., 1.]), tensor([0.])]
    """
    loaders = limited("predict", "batches", batches, limit_predict_batches)
    keep = return_predictions
    return _pass(
        PREDICTION, task, loaders, callbacks, precision, device, resume, record, sinks, progress, plugins, keep
    )


def _pass(
    the: Pass,
    task: Task,
    loaders: Loaders,
    callbacks: Callbacks,
    precision: PrecisionGiven,
    device: str | torch.device | None,
    resume: str | Path | None,
    record: str | Path | None,
    sinks: Iterable[Sink],
    progress: bool | None,
    plugins: bool,
    keep: bool = False,
) -> Run:
    """A stage that does not train."""
    composed, added = with_plugins(the.stage, compose(callbacks), plugins)
    composed, device, signals = with_progress(composed, progress), device_for(device), Signals()
    task.model.to(device)
    task = with_precision(task, checked(the.stage, precision), device)
    objects, at, states = {"model": task.model}, {"epoch": 0, "step": 0}, {}
    sight, keepers = Sight(task.model, lambda: states), [keep]
    carried_out = of_other_stages(the.stage) | sight.carries_out() | {Probe: probing(device)}
    if the is PREDICTION:
        carried_out[KeepPredictions] = lambda _, event: keepers.append(True)
    session = Session(
        composed,
        objects=objects,
        record=record,
        sinks=sinks,
        carries_out=carried_out,
        runs_step_hooks=True,
        header={"plugins": added},
    )

    def fire(kind: type[ev.Event], **fields: Any) -> None:
        if session.wants(kind):
            session(kind(**at, seconds=session.seconds, **fields))

    def also(snapshot: Mapping[str, Any]) -> None:
        at.update({name: snapshot[name] for name in at})
        states.update(step_states_in(snapshot, composed.step, task.model))

    def body() -> tuple[Resumed | None, ev.Metrics, list[list[Any]]]:
        resumed = None if resume is None else go_on(the.stage, resume, session, task.model, also=also)
        set_up(the.stage, fire, session, resumed, signals)
        metrics, made = ev.Metrics(), []
        if loaders.wanted:
            with eval_mode(task.model):
                if the is PREDICTION:
                    made = predictions(task, loaders.at(0), device, fire, signals.act, sight, lambda: any(keepers))
                    fire(ev.PredictEnd)
                else:
                    metrics = evaluate(the, task, loaders.at(0), device, fire, signals.act, sight)
                    fire(the.end, metrics=metrics)
        signals.act()
        return resumed, metrics, made

    with session, signals:
        resumed, metrics, made = guarded(the.stage, fire, session, signals, body)
        measured = dict(metrics)
    return Run(
        metrics={**measured, **session.logged},
        stopped=session.stopped,
        state=session.state,
        seconds=session.seconds,
        resumed=resumed,
        recording=session.recording,
        predictions=flat(made) if keep else None,
    )
