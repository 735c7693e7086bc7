"""The one mutable cell: it holds the composition's state, takes events, has effects carried out, and records.

This file is long because that is one class, so that what changes together is seen together; what stands alone, such as
recording, writing checkpoints and sinks, has rooms of its own.
"""

import logging
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import attrs
from toolz import isdistinct, merge
from torch import nn

from fncb import events as ev
from fncb import store
from fncb.batch_ends import to_the_microsecond
from fncb.callback import Callback, compose
from fncb.effects import Attach, Delete, Effect, Log, LogHistogram, LogImage, Probe, Save, Stop
from fncb.garbage import Garbage
from fncb.handling import Handler, must_be_asked_at
from fncb.interpret import Screen, handlers, refuse_what_nobody_does
from fncb.journal import Journal
from fncb.keeper import Keeper
from fncb.naming import free_name
from fncb.probes import probing
from fncb.profiling import Profiler
from fncb.resume import Resumed, differences, find, must_be_alike, noted, tell
from fncb.sinks.sink import Sink, Sinks, tell_what_nobody_shows
from fncb.snapshot import load_state_dict, state_dict
from fncb.tree import leaves
from fncb.weights import not_finite, weights_alone

log: logging.Logger = logging.getLogger("fncb")

_NO_TIME_TO_SAVE = frozenset((*ev.IN_STEP, ev.StepCompiled)) - {ev.TrainBatchStart, ev.TrainBatchEnd}
"""Events of a batch that is done and not over: they come with the counters from before it."""

_OF_THE_END = (ev.Saved, ev.SaveCheckpoint, ev.ExceptionRaised, ev.KeyboardInterrupted)
"""Events that a moment which is held takes part in: they are of the checkpoint, not of what comes after it."""

_OWN = frozenset(
    ("epoch", "step", "attempt", "heard", "seconds", "event", "metrics", "recorded", "logged", "saving", "attached")
) | {"callbacks", "configs", "kinds"}
"""Names in a snapshot that are no object's."""


@attrs.frozen
class _Moment:
    """What a session knows at a moment; `then` are the events since that belong to it, with what they asked for."""

    state: Mapping[str, Any]
    logged: Mapping[str, float]
    lines: int
    last: ev.Event
    heard: int
    then: tuple[tuple[ev.Event, tuple[Effect, ...]], ...] = ()


class Session:
    """Runs callbacks from any training loop.

    Call it with events; read `stopped`. Use it in a `with` block, which closes what it opened.

    Args:
      callbacks: a composition, a callback or a list of them.
      objects: what `Save` writes beside the callbacks' state, by name: anything with `state_dict`.
      record: the file to record to; a name that is taken gets the suffix `-v1`, `-v2`, ...; one that ends in `.gz` or
        `.zst` has it compressed.
      record_metrics_every_n_steps: of which training batches the metrics are recorded.
      sinks: where metrics go.
      log_every_n_steps: how often a batch's metrics go to the sinks, in optimizer steps.
      carries_out: effects that the loop around can carry out, and the functions that do.
      runs_step_hooks: whether the loop around runs step hooks, as `fit` does.
      screen: where `Print` and `Render` are shown.
      header: plain data about the run, noted in the header of the recording.

    Attributes:
      state: the composition's state, key to host state.
      stopped: the first `Stop` that was asked for, or None.
      logged: the last value of each metric that `Log` gave.
      attached: what callbacks had attached to the checkpoint that was loaded, by their keys.
      attempt: how often the run has gone on from a checkpoint.
      heard: how many events the loop has sent, those before a resume included.

    Raises:
      ValueError: if a callback may ask for an effect that nobody here can carry out, or has step hooks that nobody
        would run.

    Example:
      >>> from fncb.callbacks import early_stop
      >>> with Session(early_stop("val_loss", patience=0)) as session:
      ...     session(ev.ValidationEnd(epoch=0, metrics={"val_loss": 1.0}))
      ...     session(ev.ValidationEnd(epoch=1, metrics={"val_loss": 2.0}))
      ...     session.stopped is not None
      True
    """

    callbacks: Callback[Mapping[str, Any]]
    objects: dict[str, Any]
    attempt: int
    heard: int

    def __init__(
        self,
        callbacks: Callback[Any] | Iterable[Callback[Any]] = (),
        *,
        objects: Mapping[str, Any] | None = None,
        record: str | Path | None = None,
        record_metrics_every_n_steps: int = 1,
        sinks: Iterable[Sink] = (),
        log_every_n_steps: int = 50,
        carries_out: Mapping[type[Effect], Handler] | None = None,
        runs_step_hooks: bool = False,
        screen: Screen | None = None,
        header: Mapping[str, Any] | None = None,
    ):
        self.callbacks = compose(callbacks)
        self.state: Mapping[str, Any] = self.callbacks.init()
        self.stopped: Stop | None = None
        self.logged: dict[str, float] = {}
        self.attached: Mapping[str, Any] = {}
        self.attempt = self.heard = 0
        self.objects = dict(objects or {})
        self._journal = Journal(self.callbacks, record, record_metrics_every_n_steps, header)
        self._sinks = Sinks(sinks, log_every_n_steps)
        self._screen = screen or Screen()
        own: dict[type[Effect], Handler] = {Stop: self._stop, Log: self._log, Attach: self._attach}
        own |= {LogImage: self._sinks.image, LogHistogram: self._sinks.histogram, Probe: probing()}
        self._garbage, self._profiler = Garbage(), Profiler()
        own |= self._garbage.carries_out() | self._profiler.carries_out()
        self._handlers = merge(own, handlers(self._screen), carries_out or {})
        self._saving: list[dict[str, str]] = []
        self._unheard: list[dict[str, str]] = []  # what is on disk and no hook has heard of yet
        self._keeper = Keeper()
        self._held: _Moment | None = None
        self._attached: dict[str, Any] = {}
        self._began, self._before = time.perf_counter(), 0.0
        self._busy = False
        self._last: ev.Event = ev.Event()
        self._at = (0, 0)  # epoch and step of what came last, events that were only recorded among it
        refuse_what_nobody_does(self.callbacks, [*self._handlers, Save], runs_step_hooks)
        tell_what_nobody_shows(self.callbacks, self._sinks)

    def __enter__(self) -> "Session":
        self._sinks.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self._sinks.failed = error is not None
        self.close()

    def close(self) -> None:
        """Writes what is buffered, closes sinks and recording, and leaves the terminal as it was.

        Waits for the checkpoint that is being written, and raises what went wrong with it.
        """
        with ExitStack() as closing:  # all of them, whatever one raises; the last one first
            closing.callback(self._keeper.close)
            closing.callback(self._journal.close)
            closing.callback(self._sinks.close)
            closing.callback(self.settle)
            closing.callback(self._profiler.close)
            closing.callback(self._garbage.close)
            closing.callback(self._screen.close)

    @property
    def recording(self) -> Path | None:
        """The file that is recorded to; None before the first event, and if none is."""
        return self._journal.path

    @property
    def seconds(self) -> float:
        """Seconds since the run began, summed over its resumes, to the microsecond."""
        return to_the_microsecond(self._before + time.perf_counter() - self._began)

    def wants(self, *kinds: type[ev.Event]) -> bool:
        """Whether anybody would notice one of these events: a hook, the recording or a sink."""
        return any(self.hears(kind) or self._journal.wants(kind) for kind in kinds)

    def hears(self, kind: type[ev.Event]) -> bool:
        """Whether a hook or a sink would notice one of these events."""
        return self.callbacks.hears(kind) or (bool(self._sinks) and kind in Sinks.HEAR)

    def record_batch_end(self, epoch: int, step: int, batch_idx: int, metrics: ev.Metrics) -> None:
        """Records a `TrainBatchEnd` that is wanted and that nobody hears, without making it: a fifth of the time."""
        if self._keeper.in_background is not None:
            self.settle(wait=False)
        self.heard, self._at = self.heard + 1, (epoch, step)
        if self.logged:
            metrics = metrics.with_values(self.logged)
        seconds = self._before + time.perf_counter() - self._began
        (self._journal.recorder or self._journal.begin()).batch_end(epoch, step, seconds, batch_idx, metrics)

    def __call__(self, event: ev.Event) -> None:
        """Takes an event: all hooks, then the effects that they asked for, then the events that answer those.

        Raises:
          RuntimeError: when called from inside a hook.
        """
        if self._busy:
            raise RuntimeError("Session: a hook must not send events, got one from inside a hook. Return an effect.")
        if self._keeper.in_background is not None:
            self.settle(wait=False)
        self._busy = True
        try:
            effects = self._hear(event, sent=True)
            if effects:
                self._answer(self._carry_out(effects, self._last))
        finally:
            self._busy = False

    def _answer(self, events: Iterable[ev.Event]) -> None:
        answers = deque(events)
        while answers:
            answers.extend(self._carry_out(self._hear(answers.popleft()), self._last))

    def _hear(self, event: Any, sent: bool = False) -> tuple[Effect, ...]:
        kind = type(event)
        if event.seconds == 0.0:
            event = attrs.evolve(event, seconds=self.seconds)
        measured = getattr(event, "metrics", None)
        if self.logged and measured is not None:
            event = attrs.evolve(event, metrics=event.metrics.with_values(self.logged))
        self.state, effects = self.callbacks.transition(self.state, event)
        self._last, self._at = event, (event.epoch, event.step)
        self.heard += sent
        if kind is ev.Saved:
            self._unheard = [saving for saving in self._unheard if saving["path"] != event.path]
        if self._held is not None and kind in _OF_THE_END:
            self._held = attrs.evolve(self._held, then=(*self._held.then, (event, effects)))
        self._journal.write(event, effects)
        if self._sinks and measured is not None:
            self._sinks.hear(event, measured)  # what was logged is there already
        return effects

    def _carry_out(self, effects: tuple[Effect, ...], event: ev.Event) -> list[ev.Event]:
        answers: list[ev.Event] = []
        saves = [effect for effect in effects if type(effect) is Save]
        names = [effect.path for effect in saves]
        if not isdistinct(names):
            raise ValueError(
                f"Save: the files of one event must have names of their own, got {names}. Give one of the callbacks "
                "another `filename=` or `dirpath`."
            )
        if names and type(event) in _NO_TIME_TO_SAVE:
            raise ValueError(
                f"Save: a checkpoint must be of a moment between batches, got {ev.hook_name(type(event))}, when one is "
                "under way. Ask for it at on_train_batch_end."
            )
        for effect in effects:
            if type(effect) is Save:
                continue
            handler = self._handlers.get(type(effect))
            if handler is None:
                known = sorted(kind.__name__ for kind in self._handlers)
                raise ValueError(f"{effect!r}: nobody here carries it out. There are {known}. Declare it in `emits`.")
            answer = handler(effect, event)
            if isinstance(answer, ev.Event):
                answers.append(answer)
            elif answer:
                answers += self._carry_out(tuple(answer), event)
        if saves:  # last, so that a checkpoint holds what the other effects changed, and their answers
            self._answer(answers)
            answers = self._save(saves, event)
        return answers

    def _save(self, saves: list[Save], event: ev.Event) -> list[ev.Event]:
        wrong = [name for thing in self.objects.values() if isinstance(thing, nn.Module) for name in not_finite(thing)]
        if wrong:
            log.warning(
                "fncb: no checkpoint at epoch %d, step %d: parameters must be finite to be saved, got others in %s",
                *(event.epoch, event.step, wrong),
            )
            return []
        answers: list[ev.Event] = []
        free = [free_name(save.path, save.starting_version) for save in saves]
        named = [{"path": str(path), "requested": save.path} for path, save in zip(free, saves, strict=True)]
        for save, saving in zip(saves, named, strict=True):
            self.settle()  # one at a time
            self._saving = named
            answers += self._prepare_checkpoint(saving["path"], event)
            tree = weights_alone(self.objects, event) if save.weights_only else self.snapshot(event)
            # what the checkpoint goes on after must outlive it
            written = self._keeper.write(save, saving, tree, before=self._journal.sync)
            if written is not None:
                self._unheard.append(saving)
                answers.append(ev.Saved(**ev.counters(event), **written))
        self._saving = []
        return answers

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._keeper.in_background is not None

    def settle(self, wait: bool = True) -> None:
        """Answers the save in the background, if there is one, with `Saved` as soon as it is on disk.

        Args:
          wait: whether to wait until it is.

        Raises:
          Exception: what went wrong with it.
        """
        written = self._keeper.finished(wait) if self.is_writing else None
        if written is None:
            return
        self._unheard.append({name: written[name] for name in ("path", "requested")})
        epoch, step = self._at
        busy, self._busy = self._busy, True
        try:
            self._answer([ev.Saved(epoch=epoch, step=step, seconds=self.seconds, **written)])
        finally:
            self._busy = busy

    def claim_folders(self) -> None:
        """Takes the folders that callbacks write to for this run, before anything is trained for them.

        Raises:
          DirectoryTaken: if another run has one.
          OSError: if files cannot be written there.
        """
        for part in self.callbacks.parts or ():
            if "dirpath" in part.config:
                self._keeper.claim(part.config["dirpath"])

    def hold(self, epoch: int, step: int) -> None:
        """What is saved from now on is of this moment, until `release`; for what cannot be gone on with half done."""
        last = attrs.evolve(self._last, epoch=epoch, step=step, seconds=self.seconds)
        self._held = _Moment(self.state, dict(self.logged), self._journal.lines, last, self.heard)

    def release(self) -> None:
        """What is saved is of the moment that it is asked for again."""
        self._held = None

    def _prepare_checkpoint(self, path: str, event: ev.Event) -> list[ev.Event]:
        self._attached = {}
        if not self.wants(ev.SaveCheckpoint):
            return []
        effects = self._hear(ev.SaveCheckpoint(**ev.counters(event), path=path))
        again = [effect for effect in effects if type(effect) is Save]
        if again:
            raise ValueError(f"on_save_checkpoint must not save, got {again[0]!r}.")
        return self._carry_out(effects, self._last)

    def _attach(self, effect: Attach, event: ev.Event) -> None:
        must_be_asked_at("Attach", event, ev.SaveCheckpoint)
        data = state_dict(effect.data)
        if any(hasattr(leaf, "data_ptr") for _, leaf in leaves(data)):
            raise TypeError(f"Attach: data must be plain, got a tensor from {effect.key}. Give it as a list.")
        self._attached[effect.key or ""] = data

    def _stop(self, effect: Stop, event: ev.Event) -> ev.Event | None:
        if self.stopped is not None:
            return None
        self.stopped = effect
        return ev.StopRequested(**ev.counters(event), reason=effect.reason)

    def _log(self, effect: Log, event: ev.Event) -> None:
        if not effect.only_to_sinks:
            self.logged.update(effect.metrics)
        self._sinks.log(ev.Metrics(effect.metrics), event)

    @contextmanager
    def sanity_check(self) -> Generator[None]:
        """What is logged in this block reaches no sink and is forgotten, as in a sanity check."""
        logged, self._sinks.resting = dict(self.logged), True
        try:
            yield
        finally:
            self.logged, self._sinks.resting = logged, False

    # Saving and resuming.

    def snapshot(self, last: ev.Event | None = None) -> dict[str, Any]:
        """Everything that a checkpoint holds, as nested plain data and tensors; `last` is the event that it is of."""
        recorded, of = self._journal.state_dict(), self._held
        if of is None:
            of = _Moment(self.state, self.logged, self._journal.lines, last or self._last, self.heard)
        state = reduce(lambda state, then: self.callbacks.transition(state, then[0])[0], of.then, of.state)
        return {
            "epoch": of.last.epoch,
            "step": of.last.step,
            "attempt": self.attempt,
            "heard": of.heard,
            "seconds": of.last.seconds,
            "event": type(of.last).__name__,
            "metrics": dict(getattr(of.last, "metrics", {})),
            "recorded": recorded and {**recorded, "lines": of.lines, "then": self._journal.lines_of(of.then)},
            "logged": dict(of.logged),
            "saving": [*self._unheard, *(saving for saving in self._saving if saving not in self._unheard)],
            "attached": dict(self._attached),
            **{name: thing.state_dict() for name, thing in self.objects.items()},
            "callbacks": state_dict(state),
            "kinds": {name: type(thing).__qualname__ for name, thing in self.objects.items()},
            "configs": {part.key: noted(part.config) for part in self.callbacks.parts or ()},
        }

    def resume(self, where: str | Path = "last") -> Resumed | None:
        """Goes on from a checkpoint: callbacks' states, objects and the recording are as they were.

        Call it before the first event. Where the loop goes on is its own affair: `epoch` and `step` of what is returned
        are those of the event that the checkpoint was written at.

        Args:
          where: a checkpoint; a directory, whose newest that verifies is meant; "last", the newest in the directories
            of all `checkpoint` callbacks, if there is one yet; "best", the best by the first of them with a `monitor`.

        Returns:
          What is as it was saved and what is not, which the log says too; None where "last" finds none.

        Raises:
          ValueError: if there is none, or if what it holds does not fit, as for `load`.
          FileNotFoundError: if a path is not there.

        Example:
          >>> import tempfile
          >>> from fncb.callbacks import checkpoint
          >>> with tempfile.TemporaryDirectory() as folder:
          ...     for end in (2, 4):
          ...         with Session(checkpoint(folder)) as session:
          ...             resumed = session.resume()
          ...             for epoch in range(resumed.epoch + 1 if resumed else 0, end):
          ...                 session(ev.TrainEpochEnd(epoch=epoch, step=10 * (epoch + 1)))
          ...     resumed.epoch, resumed.step
          (1, 20)
        """
        found = find("Session.resume", where, self.callbacks)
        if found.path is None:
            return None
        resumed = Resumed(path=found.path, rejected=found.rejected, **self.load(store.read(found.path)))
        tell(resumed)
        return resumed

    def load(self, snapshot: Mapping[str, Any]) -> dict[str, Any]:
        """Takes back what `snapshot` gave: callbacks' states by key, then the objects in the order given.

        A callback that the snapshot does not know starts anew, one that is no longer there is left out. The files that
        the snapshot was about to become are acknowledged by `Saved` if they exist. What that acknowledgement would
        delete stays: by now the name may belong to another run's file.

        Returns:
          What is as it was saved and what is not, under the names of `Resumed`.

        Raises:
          ValueError: if a model, a callback's state or the kind of another object does not fit, naming all that does
            not; nothing was changed then.
        """
        store.must_be_whole("a snapshot", snapshot)
        saved = snapshot["callbacks"]
        state = load_state_dict(self.callbacks, saved, strict=False)
        there = [name for name in self.objects if name in snapshot]
        must_be_alike({name: self.objects[name] for name in there}, snapshot)
        self.state = state
        self.logged, self.attached = dict(snapshot["logged"]), snapshot["attached"]
        self.attempt, self.heard = snapshot["attempt"] + 1, snapshot["heard"]
        for name in there:
            self.objects[name].load_state_dict(snapshot[name])
        self._before, self._began = snapshot["seconds"], time.perf_counter()
        self._journal.load_state_dict(snapshot["recorded"])
        for saving in snapshot["saving"]:
            if Path(saving["path"]).exists():
                counters = {name: snapshot[name] for name in ("epoch", "step", "seconds")}
                size = Path(saving["path"]).stat().st_size
                effects = self._hear(ev.Saved(**counters, **saving, bytes=size))
                self._carry_out(tuple(effect for effect in effects if type(effect) is not Delete), self._last)
        others = (self.objects.keys() ^ snapshot.keys()) - _OWN
        return {
            "epoch": snapshot["epoch"],
            "step": snapshot["step"],
            "restored": (*there, "callbacks"),
            "left_out": tuple(sorted(others)),
            **differences(self.callbacks, saved, snapshot["configs"]),
        }
