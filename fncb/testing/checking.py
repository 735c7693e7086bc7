"""Checks a callback against the laws, with runs made up by hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis.errors import HypothesisException, NoSuchExample

from fncb.callback import Callback
from fncb.events import Event
from fncb.hindsight import Events, heard_by, one
from fncb.metrics import Metrics
from fncb.recording import Recording, read
from fncb.testing.laws import LAWS, Notes, broken_laws
from fncb.testing.report import Broken, LawsBroken, Report
from fncb.testing.runs import METRICS, whole_run
from fncb.testing.runs import events as runs_of

if TYPE_CHECKING:
    from fncb.testing.tiny import Tiny

Runs: TypeAlias = "Events | st.SearchStrategy[Sequence[Event]] | None"
"""What to check with: events in order, a recording or its path, a hypothesis strategy; None makes up runs."""

EXAMPLES = 25
"""Runs that are made up for each callback, which take about a second."""

_MOST_METRICS = 100
QUIET: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}


SHRINKING = settings(max_examples=200, phases=[Phase.generate, Phase.shrink], **QUIET)
"""For looking for a smaller run that breaks a law."""


def check(
    callback: Callback[Any] | Iterable[Callback[Any]],
    events: Runs = None,
    *,
    tiny: Tiny | None = None,
    compile: bool = True,
) -> Report:
    """Raises `LawsBroken` if a callback breaks a law, and tells what was looked at if it keeps them all.

    Each hook is called with made-up events: what it does beside giving a result is seen, its result compared with
    that of a second call, its state saved and loaded. Each part of a composition is checked by itself. A broken law is
    told with the smallest run that breaks it, by the events that the callback hears. The same callback is always
    checked with the same runs.

    A step half runs for a few batches of a tiny model, eagerly and then compiled, which takes seconds the first time.
    Laws that were not looked at are not counted: those of a step half that wants another model, or is not compiled.

    Args:
      callback: one, a composition or a list.
      events: what to check it with: events in order, a recording or the path of one, or a hypothesis strategy of
        lists of events; None makes up runs, with the metrics that the callback asks for.
      tiny: the model and batches for the step half, see `fncb.testing.tiny.Tiny`; None takes a classifier of small
        images.
      compile: whether the step half is compiled, too.

    Returns:
      A `Report`; its notes tell what could not be looked at: hooks that need live fields, for example.

    Raises:
      LawsBroken: with the report, whose text names each broken law.

    Example:
      >>> from fncb.callbacks import early_stop
      >>> print(check(early_stop("val_loss")))
      early_stop(val_loss) keeps 15 laws in 25 runs.
      >>> forgetful = Callback(key="forgetful", on_train_end=lambda state, event: None)
      >>> check(forgetful)
      Traceback (most recent call last):
      fncb.testing.report.LawsBroken: forgetful breaks 1 law in 25 runs:
      returns state: forgetful: on_train_end gives None. Return the state, or emit(state, ...), after:
        TrainEnd(epoch=0, step=1, seconds=0.0, metrics={'loss': 0.0, 'val_loss': 0.0, 'lr-SGD': 0.5})
    """
    whole = one(callback)
    parts = (whole,) if whole.parts is None else whole.parts
    notes, broken, laws, runs = Notes(), [], LAWS, 0
    said: list[str] = []
    for part in parts:
        found, made = _of_host(part, events, notes)
        broken += found
        runs = max(runs, made)
        if part.step is not None:
            from fncb.testing import in_step  # loads torch, which host callbacks do not need

            wrong, more, looked_at = in_step.broken_laws(part, tiny, compile=compile)
            laws = tuple(dict.fromkeys((*laws, *looked_at)))
            broken += wrong
            said += more
    lacking = () if events is None else notes.raised
    report = Report(whole.key, laws, tuple(broken), (*said, *notes.live, *lacking), runs)
    if broken:
        raise LawsBroken(report)
    return report


def _of_host(part: Callback[Any], events: Any, notes: Notes) -> tuple[list[Broken], int]:
    given_runs = runs_given(events)
    if isinstance(given_runs, tuple):
        return _of_one_run(part, given_runs, notes), 1
    asked: dict[str, None] = dict.fromkeys(METRICS)
    first: dict[str, tuple[Any, tuple[Event, ...]]] = {}
    if given_runs is None:
        first = _first_looks(part, asked)
    strategy = runs_of(tuple(asked), kinds=heard_by(part)) if given_runs is None else given_runs
    made = 0

    def look(run: list[Event]) -> None:
        nonlocal made
        made += 1
        for found in broken_laws(part, run, notes):
            first.setdefault(found.law, (found, tuple(run)))

    settings(max_examples=EXAMPLES, phases=[Phase.generate], **QUIET)(given(strategy)(look))()
    told = []
    for law, (found, run) in first.items():
        smaller = _shrunk(strategy, partial(_breaks, part, law), list(run))
        told.append(_broken(part, law, found, smaller))
    return told, made


def _first_looks(part: Callback[Any], asked: dict[str, None]) -> dict[str, tuple[Any, tuple[Event, ...]]]:
    """What the same run shows, until no more metrics are asked for: their names are put into `asked`."""
    first: dict[str, tuple[Any, tuple[Event, ...]]] = {}
    names = -1
    while names < len(asked) < _MOST_METRICS:
        names = len(asked)
        run = whole_run(_Asking(asked))
        for found in broken_laws(part, run):
            first.setdefault(found.law, (found, tuple(run)))
    return first


def asked_for(callback: Callback[Any]) -> tuple[str, ...]:
    """Names of the metrics that a callback asks for, after those that every run has."""
    asked: dict[str, None] = dict.fromkeys(METRICS)
    for part in (callback,) if callback.parts is None else callback.parts:
        _first_looks(part, asked)
    return tuple(asked)


def runs_given(events: Any) -> Any:
    """What `check` is given: a strategy or None as it is, events and recordings as a tuple of events."""
    if isinstance(events, str | Path):
        events = read(events)
    if isinstance(events, Recording):
        return tuple(events.events)
    return events if events is None or isinstance(events, st.SearchStrategy) else tuple(events)


def _of_one_run(part: Callback[Any], run: tuple[Event, ...], notes: Notes) -> list[Broken]:
    return [_broken(part, found.law, found, list(run)) for found in broken_laws(part, run, notes)]


def _broken(part: Callback[Any], law: str, found: Any, run: list[Event]) -> Broken:
    smallest = _fewest(part, law, run, found)
    again = next((each for each in broken_laws(part, smallest) if each.law == law), found)
    return Broken(law, again.sentence, again.where, tuple(smallest))


def _breaks(part: Callback[Any], law: str, run: Iterable[Event]) -> bool:
    return any(found.law == law for found in broken_laws(part, run))


def _shrunk(strategy: Any, breaks: Callable[[list[Event]], bool], run: list[Event]) -> list[Event]:
    """A run as simple as hypothesis can make it; the one at hand if a law is not broken each time."""
    try:
        return find(strategy, breaks, settings=SHRINKING)
    except (NoSuchExample, HypothesisException):
        return run


def _fewest(part: Callback[Any], law: str, run: list[Event], found: Any) -> list[Event]:
    """Leaves out events, from the last to the first, as long as the rest breaks the law."""
    if found.at < 0:
        return []
    run = [event for event in run if part.hears(type(event)) or law.startswith("what is unheard")]
    for step in chain((len(run) // 2, len(run) // 4), (1, 1)):
        place = len(run)
        while step and place > 0:
            place -= step
            rest = [*run[: max(place, 0)], *run[max(place, 0) + step :]]
            if rest and _breaks(part, law, rest):
                run = rest
    return run


class _Asking(Metrics):
    """Metrics that note which names they are asked for."""

    __slots__ = ("asked",)

    def __init__(self, asked: dict[str, None]):
        super().__init__(dict.fromkeys(asked, 0.5))
        self.asked = asked

    def __getitem__(self, name: str) -> float:
        self.asked.setdefault(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str):
            self.asked.setdefault(name)
        return super().__contains__(name)
