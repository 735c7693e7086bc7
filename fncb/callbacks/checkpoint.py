"""Save the best and the last states of a run."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import inf, isfinite
from pathlib import PurePath
from typing import Any, Literal

import attrs

from fncb import events as ev
from fncb.callback import Callback, Emit, emit
from fncb.callbacks.file_name import check_template, fields_of, file_name
from fncb.callbacks.pausing import pausing
from fncb.durations import seconds_of
from fncb.effects import Delete, Link, Print, Save
from fncb.fields import must_be_int, must_be_metric, must_be_one_of

SUFFIX = ".safetensors"


@attrs.frozen
class Asked:
    """A save that was asked for and is not on disk yet: its name, its score, and what it is kept as."""

    path: str
    score: float | None = None
    kept_as: Literal["best", "last", "rescue"] = "best"


@attrs.frozen
class CheckpointState:
    """What `checkpoint` remembers. Scores are in the metric's unit, None for one that was not finite.

    Attributes:
      best_model_path: file with the best score; without a metric, the newest. None before the first.
      best_model_score: its score.
      best_k_models: score of each file kept for its score, by path.
      last_model_path: file that `save_last` keeps.
      rescue_path: file that was saved when the run was cut off; it goes when the next one to go on from is on disk.
      current_score: score at the last check.
      epoch: of the last check, None before the first.
      step: of the last check, None before the first.
      seconds: with `train_time_interval`, the run's seconds at the last check, 0.0 before the first.
      validated: epoch of the last check at a validation, None before the first.
      asked: saves that are not on disk yet, in order.
      paused: whether nothing is a check now: in a sanity check, a `fast_dev_run` or a run that does not train.
    """

    best_model_path: str | None = None
    best_model_score: float | None = None
    best_k_models: Mapping[str, float | None] = attrs.field(factory=dict)
    last_model_path: str | None = None
    rescue_path: str | None = None
    current_score: float | None = None
    epoch: int | None = None
    step: int | None = None
    seconds: float = 0.0
    validated: int | None = None
    asked: tuple[Asked, ...] = ()
    paused: bool = False


def checkpoint(
    dirpath: str | os.PathLike[str] = "checkpoints",
    *,
    monitor: str | None = None,
    mode: Literal["min", "max"] = "min",
    save_top_k: int = 1,
    save_last: bool | Literal["link"] = False,
    save_weights_only: bool = False,
    every_n_epochs: int | None = None,
    every_n_train_steps: int | None = None,
    train_time_interval: str | timedelta | Mapping[str, float] | None = None,
    filename: str = "{epoch}-{step}",
    last_filename: str = "last-{epoch}-{step}",
    rescue_filename: str = "rescue-{epoch}-{step}",
    auto_insert_metric_name: bool = True,
    starting_version: int = 1,
    save_on_train_epoch_end: bool | None = None,
    save_on_train_end: bool = False,
    save: Literal["sync", "async"] = "sync",
    save_on_exception: bool = False,
    save_on_signal: bool = False,
    verbose: bool = False,
    key: str | None = None,
) -> Callback[CheckpointState]:
    """Asks for `Save` of the best `save_top_k` states, and for `Delete` of those that they replace.

    A check is due every `every_n_epochs` epochs: with `monitor`, when a validation ends; without, when a validation
    in the middle of an epoch ends or, where there was none or one at the end, when the epoch ends. With
    `every_n_train_steps` one is due every so many steps, with `train_time_interval` once so much time has passed since
    the last one, or since the run began: when the batch ends if the metric is known then (or there is none), otherwise
    when the next validation ends.

    A state is kept if there are fewer than `save_top_k`, or if its score is strictly better than the worst of them: a
    tie is not. A score that is not finite is worse than any that is. A file is deleted once the one that replaces it
    is on disk, and only if this callback saved it, in `dirpath`.

    Args:
      dirpath: folder of the files, `<filename>.safetensors`, or `-v1`, `-v2`, ... before the suffix if that is taken;
        `checkpoints`, in the working directory, by default.
      monitor: a metric's name, `epoch` or `step`; None keeps the newest instead of the best.
      mode: whether less ("min") or more ("max") is better.
      save_top_k: files to keep, 0 or more, or -1 for all; without `monitor` -1, 0 or 1.
      save_last: True keeps the state of the newest check too, in a file of its own, and saves when training ends if no
        check was ever due. A check whose score is not finite is left out: it never replaces a good one. "link" keeps a
        symbolic link `last.safetensors` that leads to the newest file instead: a convenience for people, as
        `resume="last"` looks at what is in the files.
      save_weights_only: whether the files hold the model's weights alone, for `fncb.load` and for
        `resume=..., weights_only=True`: a run cannot go on from them. What is rescued is whole all the same.
      every_n_epochs: epochs; 0 for never; 1 if none of the three triggers is given, of which one may be at most.
      every_n_train_steps: optimizer steps; 0 for never.
      train_time_interval: "DD:HH:MM:SS", a timedelta, or a mapping of its arguments.
      filename: text with fields `{name}` or `{name:format}`, a name being `epoch`, `step` or a metric's, a format a
        number's, such as `03d` or `.2f`. A `/` makes a folder.
      last_filename: likewise, of the file that `save_last=True` keeps.
      rescue_filename: likewise, of what `save_on_exception` and `save_on_signal` save; with `epoch` and `step` only.
      auto_insert_metric_name: whether `{epoch}` becomes `epoch=3` and not `3`.
      starting_version: the number of the first `-v<number>`, 0 or more.
      save_on_train_epoch_end: True makes checks due when an epoch ends, as for a metric that is known only then, such
        as `loss_epoch`; False, when a validation ends; None, as above.
      save_on_train_end: whether to save when training ends, whatever ended it, unless a check kept that very state: in
        the file of `save_last`, which goes on like any other. Otherwise what came after the last check is lost where a
        `Stop`, of `deadline` for example, ends the run between two of them.
      save: whether training waits until a file is on disk ("sync"), or only for a copy in memory, from which it is
        written in the background ("async").
      save_on_exception: whether to save when anything raises, Ctrl-C and SIGTERM included: the run goes on from there
        exactly, unless the very update of a batch failed half way, of which nothing is saved. Keeps the random state of
        every batch until it is over, about 20 microseconds each.
      save_on_signal: whether to save, likewise, when Ctrl-C or SIGTERM is acted on.
      verbose: whether to print what was saved and what was not good enough.
      key: names the state; `checkpoint(<monitor>)`, or `checkpoint`, by default.

    Returns:
      A `Callback` with `CheckpointState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind, also for a malformed name of files or one
        that leaves `dirpath`.
      MissingMetric: from a check, if `monitor` or a field of a name is a metric that is not there.

    Example:
      >>> best = checkpoint("runs/a", monitor="val_loss")
      >>> end = ev.ValidationEnd(epoch=0, step=5, metrics={"val_loss": 0.5})
      >>> state, effects = best.transition(best.init(), end)
      >>> effects
      (Save(path='runs/a/epoch=0-step=5.safetensors', within='runs/a', background=False, weights_only=False),)

    Lightning's `enable_version_counter` is left out, as nothing is ever overwritten.

    Known as:
      `ModelCheckpoint` in Lightning and Keras.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    if not isinstance(dirpath, str | os.PathLike):
        raise TypeError(f"checkpoint: dirpath must be a path, got {dirpath!r}.")
    if monitor is not None:
        must_be_metric("checkpoint", monitor)
    must_be_one_of("checkpoint", "mode", mode, ("min", "max"))
    must_be_one_of("checkpoint", "save", save, ("sync", "async"))
    if not isinstance(save_last, bool) and save_last != "link":
        raise ValueError(f"checkpoint: save_last must be True, False or 'link', got {save_last!r}.")
    for name in ("save_weights_only", "save_on_train_end", "save_on_exception", "save_on_signal"):
        if not isinstance(config[name], bool):
            raise ValueError(f"checkpoint: {name} must be True or False, got {config[name]!r}.")
    must_be_int("checkpoint", "save_top_k", save_top_k, -1)
    must_be_int("checkpoint", "starting_version", starting_version, 0)
    for name in ("every_n_epochs", "every_n_train_steps"):
        if config[name] is not None:
            must_be_int("checkpoint", name, config[name], 0)
    if monitor is None and save_top_k > 1:
        raise ValueError(f"checkpoint: save_top_k must be -1, 0 or 1, got {save_top_k}. Pass `monitor=` to keep more.")
    if save_last == "link" and (save_top_k == 0 or filename == "last"):
        given = "save_top_k=0" if save_top_k == 0 else "filename='last'"
        raise ValueError(
            f"checkpoint: save_last='link' must have files of other names to lead to, got {given}. Pass True."
        )
    config["filename"] = filename = filename or "{epoch}-{step}"
    for name in ("filename", "last_filename", "rescue_filename"):
        check_template("checkpoint", config[name], auto_insert_metric_name, what=name)
    if fields_of(rescue_filename) - {"epoch", "step"}:
        raise ValueError(
            f"checkpoint: rescue_filename must have no fields but {{epoch}} and {{step}}, got {rescue_filename!r}."
        )
    triggers = ("every_n_epochs", "every_n_train_steps", "train_time_interval")
    there = [name for name in triggers if config[name] not in (None, 0)]
    if there not in ([], ["every_n_epochs"]) and save_on_train_epoch_end is not None:
        there.append("save_on_train_epoch_end")
    if len(there) > 1:
        raise ValueError(f"checkpoint: there must be one trigger, got {' and '.join(there)}. Drop one.")
    interval = None
    if train_time_interval is not None:
        interval = seconds_of("checkpoint: train_time_interval", train_time_interval)
    steps = every_n_train_steps or 0
    epochs = 1 if all(config[name] is None for name in triggers) else every_n_epochs or 0

    folder = os.path.expanduser(os.fspath(dirpath))
    who = key or (f"checkpoint({monitor})" if monitor else "checkpoint")
    sign = 1.0 if mode == "min" else -1.0

    def badness(score: float | None) -> float:
        return inf if score is None else sign * score

    def belongs(state: CheckpointState, score: float | None) -> bool:
        kept = state.best_k_models.values()
        if monitor is None or save_top_k < 1 or len(kept) < save_top_k:
            return save_top_k != 0
        return badness(score) < max(map(badness, kept))  # a tie is not saved

    def check(state: CheckpointState, event: Any) -> Emit[CheckpointState]:
        value = 0.0 if monitor is None else float(_value_of(monitor, event))  # waits for the device, once a check
        score = value if monitor is not None and isfinite(value) else None
        saves: list[Asked] = []
        told: list[Print] = []
        if belongs(state, score):
            saves.append(asked(event, filename, "best", score))
        elif verbose and save_top_k:
            told.append(Print(f"{who}: {monitor} {value:g} at step {event.step} is not among the best {save_top_k}"))
        if save_last is True and isfinite(value):
            saves.append(asked(event, last_filename, "last", score))
        elapsed = {} if interval is None else {"seconds": event.seconds}
        state = attrs.evolve(state, current_score=score, epoch=event.epoch, step=event.step, **elapsed)
        return ask(state, *saves, told=told)

    def asked(event: Any, template: str, kept_as: Any, score: float | None = None) -> Asked:
        name = file_name(template, lambda name: _value_of(name, event), auto_insert_metric_name)
        return Asked(str(PurePath(folder, name + SUFFIX)), score, kept_as)

    def ask(
        state: CheckpointState, *saves: Asked, told: Sequence[Print] = (), at_once: bool = False
    ) -> Emit[CheckpointState]:
        how: dict[str, Any] = {"within": folder, "background": save == "async" and not at_once}
        how["starting_version"] = starting_version
        effects = [
            Save(each.path, weights_only=save_weights_only and each.kept_as != "rescue", **how) for each in saves
        ]
        return emit(attrs.evolve(state, asked=(*state.asked, *saves)), *told, *effects)

    def is_time(state: CheckpointState, event: ev.Event) -> bool:
        return interval is not None and event.seconds - state.seconds >= interval

    def on_train_batch_end(state: CheckpointState, event: ev.TrainBatchEnd) -> Any:
        # batches that accumulate share a step, and the first of them made it
        due = is_time(state, event) or (steps > 0 and event.step % steps == 0)
        due = due and event.step > 0 and event.step != state.step and not state.paused
        return check(state, event) if due and monitor in (None, "epoch", "step", *event.metrics) else state

    def on_validation_end(state: CheckpointState, event: ev.ValidationEnd) -> Any:
        if steps:  # due since a step whose batch did not know the metric
            due = event.step // steps > (state.step or 0) // steps
        elif epochs:
            due = (event.epoch + 1) % epochs == 0 and (event.epoch, event.step) != (state.epoch, state.step)
        else:
            due = is_time(state, event)
        if monitor is None and save_on_train_epoch_end is None and event.epoch_is_over:
            return attrs.evolve(state, validated=None)  # the epoch's end comes next
        due = due and not state.paused
        return check(attrs.evolve(state, validated=event.epoch), event) if due else state

    def on_train_epoch_end(state: CheckpointState, event: ev.TrainEpochEnd) -> Any:
        # unless a validation of this epoch was a check; a run that was cut short and goes on ends an epoch twice
        checked = event.epoch == state.validated or (event.epoch, event.step) == (state.epoch, state.step)
        return state if checked or state.paused or (event.epoch + 1) % epochs else check(state, event)

    def keep(state: CheckpointState, saved: Asked, path: str) -> tuple[CheckpointState, list[str | None]]:
        """The state with a file that is on disk, and the paths of those that it replaces."""
        if saved.kept_as == "rescue":
            return attrs.evolve(state, rescue_path=path), []
        if saved.kept_as == "last":
            return attrs.evolve(state, last_model_path=path), [state.last_model_path]
        if monitor is None:
            return attrs.evolve(state, best_model_path=path), [state.best_model_path] if save_top_k == 1 else []
        kept = {**state.best_k_models, path: saved.score}
        worst_first = sorted(kept, key=lambda each: badness(kept[each]), reverse=True)  # of equals, the oldest
        gone = worst_first[: len(kept) - save_top_k] if 0 < save_top_k < len(kept) else []
        kept = {each: score for each, score in kept.items() if each not in gone}
        best = min(kept, key=lambda each: badness(kept[each]))
        return attrs.evolve(state, best_k_models=kept, best_model_path=best, best_model_score=kept[best]), [*gone]

    def on_saved(state: CheckpointState, event: ev.Saved) -> Any:
        for i, saved in enumerate(state.asked):
            if saved.path != event.requested:
                continue
            later = state.asked[i + 1 :]  # saves are answered in order: an earlier one has failed
            state, gone = attrs.evolve(state, asked=later), []
            if saved.kept_as == "rescue" or not save_weights_only:  # weights alone are nothing to go on from
                state, gone = attrs.evolve(state, rescue_path=None), [state.rescue_path]
            state, replaced = keep(state, saved, event.path)
            told = [Print(f"{who}: saved {event.path}")] if verbose else []
            mine = [
                path
                for path in (*replaced, *gone)
                if path and path != event.path and PurePath(path).is_relative_to(folder)
            ]
            links = [Link(str(PurePath(folder, "last" + SUFFIX)), event.path, folder)] if save_last == "link" else []
            return emit(state, *told, *links, *(Delete(path, within=folder) for path in mine))
        return state

    def on_exception(state: CheckpointState, event: ev.ExceptionRaised) -> Any:
        # a second Ctrl-C comes in the middle of something
        whole = event.signal is not None or event.error != "KeyboardInterrupt"
        if state.paused or not whole or not (save_on_exception or event.signal is not None):
            return state
        return ask(state, asked(event, rescue_filename, "rescue"), at_once=True)

    def on_train_end(state: CheckpointState, event: ev.TrainEnd) -> Any:
        if state.paused:
            return state
        kept = state.step == event.step and (save_last is True or (monitor is None and save_top_k != 0))
        wanted = not kept if save_on_train_end else save_last is True and state.step is None
        if wanted and event.step > 0:
            return ask(state, asked(event, last_filename, "last"))
        if state.step is not None or monitor is None or not (steps or epochs or interval is not None):
            return state
        return emit(state, Print(f"{who}: nothing was saved: no check was due at an event with {monitor!r}"))

    within_epoch = steps > 0 or interval is not None
    at_validation = monitor is not None if within_epoch else epochs > 0 and save_on_train_epoch_end is not True
    at_epoch_end = monitor is None if save_on_train_epoch_end is None else save_on_train_epoch_end
    return Callback(
        constructor="checkpoint",
        key=who,
        init=CheckpointState,
        emits=(Save, Delete, Print, Link) if save_last == "link" else (Save, Delete, Print),
        config=config | {"dirpath": folder},
        on_train_batch_end=on_train_batch_end if within_epoch else None,
        on_validation_end=on_validation_end if at_validation else None,
        on_train_epoch_end=on_train_epoch_end if at_epoch_end and epochs else None,
        on_train_end=on_train_end,
        on_saved=on_saved,
        on_exception=on_exception if save_on_exception or save_on_signal else None,
        **pausing(),
    )


def _value_of(name: str, event: Any) -> float:
    if name in ("epoch", "step"):
        return getattr(event, name)
    if name in event.metrics:
        return event.metrics[name]
    raise ev.MissingMetric(
        f"checkpoint: no metric {name!r} in {type(event).__name__} at step {event.step}. It has {list(event.metrics)}. "
        "`save_on_train_epoch_end=` chooses between two events."
    )
