"""What every stage begins and ends with: its set-up, its tear-down, and what goes wrong between them."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from fncb import events as ev
from fncb import store
from fncb.callback import Callback, compose, note
from fncb.callbacks import progress_bar
from fncb.effects import OF_TRAINING, Effect, KeepPredictions, Render
from fncb.evaluation import Fire
from fncb.handling import Handler
from fncb.loaders import Loaders
from fncb.resume import Resumed, find, tell
from fncb.session import Session
from fncb.settings import check_limit
from fncb.signals import Signals
from fncb.weights import must_fit, take_what_fits, weights_in

T = TypeVar("T")


def set_up(stage: str, fire: Fire, session: Session, resumed: Resumed | None, signals: Signals, **setup: Any) -> None:
    """The events of a stage before its own."""
    fire(ev.InitStart, stage=stage)
    fire(ev.InitEnd, stage=stage)
    fire(ev.Setup, stage=stage, time=time.time(), **setup)
    fire(ev.ConfigureShardedModel, stage=stage)
    if resumed is not None:
        fire(ev.LoadCheckpoint, path=str(resumed.path), attached=session.attached)
    signals.act()


def of_other_stages(stage: str) -> dict[type[Effect], Handler]:
    """Effects that a stage has no use for: a callback that may ask for them elsewhere can be there all the same."""

    def refuse(effect: Effect, event: ev.Event) -> None:
        raise ValueError(f"{stage}: there must be something to carry this out on, got {effect!r}.")

    return dict.fromkeys((KeepPredictions,) if stage == "fit" else (*OF_TRAINING, KeepPredictions), refuse)


def limited(stage: str, name: str, given: Any, limit: int | float | None) -> Loaders:
    """The loaders of a stage that does not train, with `limit_val_batches` and so on checked."""
    limit = 1.0 if limit is None else limit
    check_limit(stage, f"limit_{'val' if stage == 'validate' else stage}_batches", limit)
    return Loaders(f"{stage}: {name}", given, limit)


def with_progress(callbacks: Callback[Any], progress: bool | None) -> Callback[Any]:
    """The callbacks, and a progress bar where one is wanted: on a terminal, unless `progress` says it."""
    bars = [part.key for part in callbacks.parts or () if Render in (part.emits or ())]
    if len(bars) > 1:
        raise ValueError(f"callbacks: there must be one progress bar at most, got {bars}. Leave one out.")
    there = bool(bars)
    wanted = sys.stdout.isatty() if progress is None else progress
    return compose(callbacks, progress_bar()) if wanted and not there else callbacks


def check_resume(resume: str | Path | None, weights_only: bool, strict: bool) -> None:
    """Raises unless the arguments of `fit` that say how to resume make sense together."""
    if weights_only and resume is None:
        raise ValueError("fit: weights_only needs a checkpoint to take them from, got resume=None. Pass resume=path.")
    if not strict and not weights_only:
        raise ValueError(
            "fit: strict=False needs weights_only=True, as optimizers and schedules are of the parameters that were "
            "saved, got weights_only=False. Pass both to tune the weights that fit."
        )


def go_on(
    who: str,
    resume: str | Path,
    session: Session,
    model: nn.Module,
    weights_only: bool = False,
    strict: bool = True,
    also: Callable[[Mapping[str, Any]], object] = lambda _: None,
) -> Resumed | None:
    """Loads the checkpoint that `resume` means, and says in one log line what that came to; None if there is none.

    `also` is given what it holds, if it holds more than weights.
    """
    found = find(who, resume, session.callbacks, to_go_on=who == "fit" and not weights_only)
    if found.path is None:
        return None
    snapshot = store.read(found.path)
    told: dict[str, Any]
    if not weights_only and "weights_only" not in snapshot:
        # a recording is of one training: what a checkpoint is tested for is recorded by itself
        told = session.load(snapshot if who == "fit" else {**snapshot, "recorded": None})
        also(snapshot)
        if who != "fit":
            told["left_out"] = ()  # it wants no more
    else:
        weights = weights_in(snapshot, found.path)
        if strict:
            must_fit(who, model, weights)
        told = {"restored": ("model",), "left_out": take_what_fits(model, weights)}
        if not weights_only:
            told |= {name: snapshot[name] for name in ("epoch", "step")}
    resumed = Resumed(path=found.path, rejected=found.rejected, **told)
    tell(resumed)
    return resumed


_LONGEST_MESSAGE = 10_000  # characters


def _recordable(message: str) -> str:
    """A message as a recording can hold it: text, and of a length to be read."""
    text = message.encode(errors="replace").decode()  # half a surrogate pair is no text
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."


def guarded(stage: str, fire: Fire, session: Session, signals: Signals, body: Callable[[], T]) -> T:
    """Runs a stage: exceptions become events first and then go on, and `teardown` always fires."""
    torn_down = False
    try:
        result = body()
        session.settle()
        torn_down = True
        fire(ev.Teardown, stage=stage)
        return result
    except BaseException as error:
        said = {"error": type(error).__name__, "message": _recordable(str(error))}
        told: list[tuple[type[ev.Event], dict[str, Any]]] = [
            (ev.ExceptionRaised, {"exception": error, **said, "signal": signals.acted_on})
        ]
        if isinstance(error, KeyboardInterrupt):
            told.insert(0, (ev.KeyboardInterrupted, {}))
        if not torn_down:
            told.append((ev.Teardown, {"stage": stage}))
        for kind, fields in told:
            try:
                fire(kind, **fields)
                session.settle()
            except Exception as another:
                note(error, f"While that was handled, {ev.hook_name(kind)} raised {another!r}.")
        raise
