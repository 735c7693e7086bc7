"""What a page tells: recordings, and callbacks to fold them with, to plain data."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from fncb import events as ev
from fncb.account import account_of
from fncb.alternatives import Outcome, whatif
from fncb.callback import Callback
from fncb.callbacks import early_stop
from fncb.effects import Delete, Effect, Save, Stop
from fncb.events import Event
from fncb.hindsight import Callbacks
from fncb.page.curves import curves_of, spans_of
from fncb.page.plain import LONGEST_NAME, cut, plain
from fncb.page.shown import MOST_EVENTS, shown_of
from fncb.page.states import changes_of, sentence, told
from fncb.page.tables import numbers, table_of
from fncb.recalling import Recalled, recalled
from fncb.recording import Recording, asked_at

QUIET = frozenset(
    (
        *("Append", "Attach", "Call", "CollectGarbage", "Delete", "Examine", "KeepPredictions", "Link", "Log"),
        *("LogHistogram", "LogImage", "Measure", "Print", "Probe", "Render", "View"),
    )
)
"""Effects that show, measure or tidy up, and so get no mark on the curves."""

PATIENCE = (1, 2, 3, 5, 10)
"""What `early_stop` is tried with, beside its own."""


_YEAR_9999 = 253_370_764_800.0  # seconds since 1970: a damaged clock is no date


def story_of(
    runs: Mapping[str, Recording],
    *,
    callbacks: Callbacks[Any] | None = None,
    alternatives: Mapping[str, Callbacks[Any]] | None = None,
    most: int = MOST_EVENTS,
) -> dict[str, Any]:
    """All that a page shows of recorded runs, as plain data and arrays of numbers.

    Args:
      runs: recordings by the names that they are shown with.
      callbacks: what their states are computed with; None makes it again from what the recordings say of them.
      alternatives: for the table of what others would have done; None tries other patience, if the run had an
        `early_stop`.
      most: how many events of a run are shown, if it has more.
    """
    told = [_run(name, run, callbacks, alternatives, most) for name, run in runs.items()]
    return {"quiet": sorted(QUIET), "runs": told}


def _run(
    name: str,
    recording: Recording,
    callbacks: Callbacks[Any] | None,
    alternatives: Mapping[str, Callbacks[Any]] | None,
    most: int,
) -> dict[str, Any]:
    events = recording.events
    effects, asked_at = _effects(recording.entries)
    parts = recalled(recording.header, callbacks)
    made = [part.callback for part in parts if part.callback]
    curves, more_curves = curves_of(events)
    shown, resumed = list(range(len(events))), _resumed(recording)
    if len(events) > most:
        marked = [at for at, effect in zip(asked_at, effects, strict=True) if type(effect).__name__ not in QUIET]
        on_curves = [i for curve in curves for i in curve["at"]]
        changed = [i for callback in made for i in changes_of(callback, recording)]
        shown = shown_of(events, {*marked[:most], *on_curves, *resumed}, {*changed, *asked_at}, most)
    place = {number: i for i, number in enumerate(shown)}
    for curve in curves:
        curve["at"] = array("I", [place[i] for i in curve["at"]])
        curve["odd_at"] = place.get(curve["odd_at"])
    states = _states(parts, recording, effects, asked_at, shown)
    return {
        "name": cut(name, LONGEST_NAME),
        "facts": _facts(recording, events, effects),
        "resumed": [place[i] for i in resumed],
        "events": {**table_of([events[i] for i in shown]), **_counters([events[i] for i in shown])},
        "numbers": None if len(shown) == len(events) else array("I", shown),
        "spans": spans_of(events),
        "effects": _asked(effects, asked_at, events, place),
        "curves": curves,
        "more_curves": more_curves,
        "callbacks": states,
        "whatif": _whatif(recording, parts, states, alternatives),
    }


def _effects(entries: Sequence[Event | Effect]) -> tuple[list[Effect], list[int]]:
    """The effects, and for each the number of the event at which it was asked for."""
    asked = [(effect, number) for number, (_, effects) in enumerate(asked_at(entries)) for effect in effects]
    return [effect for effect, _ in asked], [number for _, number in asked]


def _resumed(recording: Recording) -> list[int]:
    """The numbers of the events with which the run went on, or of the last one if none came."""
    events_before = [0, *accumulate(isinstance(entry, Event) for entry in recording.entries)]
    last = events_before[-1] - 1
    return [min(events_before[place], last) for place in recording.resumed] if last >= 0 else []


def _facts(recording: Recording, events: Sequence[Event], effects: Sequence[Effect]) -> dict[str, Any]:
    account = account_of(recording)
    ending = account.ending
    starts = [event.time for event in events if isinstance(event, ev.Setup) and event.time]
    versions = {name: recording.header.get(name) for name in ("fncb", "torch", "python", "format")}
    return {
        "how": ending.how,
        "why": cut(ending.why, 600),
        "by": ending.key and cut(ending.key, LONGEST_NAME),
        "at": plain([ending.epoch, ending.step]),
        "stage": account.stage,
        "epochs": account.epochs,
        "steps": account.steps,
        "seconds": plain(account.seconds),
        "began": starts[0] if starts and abs(starts[0]) < _YEAR_9999 else None,
        "versions": [[name, cut(str(value), 40)] for name, value in versions.items() if value is not None],
        "events": len(events),
        "effects": len(effects),
        "torn": recording.torn,
        "left_out": [cut(sentence, 600) for sentence in account.skipped[:20]],
        "more_left_out": len(account.skipped[20:]),
    }


def _counters(events: Sequence[Event]) -> dict[str, Any]:
    return {
        "epoch": array("d", [event.epoch for event in events]),
        "step": array("d", [event.step for event in events]),
        "seconds": numbers(event.seconds for event in events),
    }


def _asked(
    effects: Sequence[Effect], at: Sequence[int], events: Sequence[Event], place: Mapping[int, int]
) -> dict[str, Any]:
    """The effects of events that are shown: at which, by whom, and for a save the event that answered it."""
    answers = _answers(effects, at, events)
    kept = [i for i, number in enumerate(at) if number in place]
    keys = {key: k for k, key in enumerate(dict.fromkeys(effect.key for effect in effects))}
    return {
        **table_of([effects[i] for i in kept]),
        "at": array("I", [place[at[i]] for i in kept]),
        "keys": [key and cut(key, LONGEST_NAME) for key in keys],
        "key": array("I", [keys[effects[i].key] for i in kept]),
        "answer": {i: place.get(answers[k]) for i, k in enumerate(kept) if k in answers},
        "left_out": len(effects) - len(kept),
    }


def _answers(effects: Sequence[Effect], at: Sequence[int], events: Sequence[Event]) -> dict[int, int]:
    """The number of the `Saved` event that answered each `Save`, by the place of the effect."""
    waiting: dict[str, deque[int]] = defaultdict(deque)
    found = {}
    saves = deque((at[i], i, effect.path) for i, effect in enumerate(effects) if isinstance(effect, Save))
    for number, event in enumerate(events):
        if isinstance(event, ev.Saved) and waiting[event.requested]:
            found[waiting[event.requested].popleft()] = number
        while saves and saves[0][0] <= number:
            _, i, path = saves.popleft()
            waiting[path].append(i)
    return found


def _states(
    parts: Sequence[Recalled], recording: Recording, effects: Sequence[Effect], at: Sequence[int], shown: Sequence[int]
) -> list[dict[str, Any]]:
    by_key: dict[str | None, dict[int, list[Effect]]] = defaultdict(lambda: defaultdict(list))
    for number, effect in zip(at, effects, strict=True):
        by_key[effect.key][number].append(effect)
    signed = not effects or any(key is not None for key in by_key)
    return [
        {
            "key": cut(part.key, LONGEST_NAME),
            "text": part.text and cut(part.text),
            "why": part.why,
            "recorded": sum(map(len, by_key[part.key].values())) if signed else None,
            "states": part.callback and told(part.callback, recording, by_key[part.key] if signed else None, shown),
        }
        for part in parts
    ]


def _whatif(
    recording: Recording,
    parts: Sequence[Recalled],
    states: Sequence[Mapping[str, Any]],
    alternatives: Mapping[str, Callbacks[Any]] | None,
) -> list[dict[str, Any]]:
    folded = [p.callback for p, s in zip(parts, states, strict=True) if p.callback and not s["states"]["failed"]]
    if alternatives is None:
        alternatives = _other_patience(folded)
    try:
        outcomes = whatif(recording, alternatives).outcomes
    except Exception:  # some of them can't be asked: one at a time, to tell which
        outcomes = {name: _asked_alone(recording, name, each) for name, each in alternatives.items()}
    return [{"name": cut(name, LONGEST_NAME), **_row(outcome)} for name, outcome in outcomes.items()]


def _asked_alone(recording: Recording, name: str, callbacks: Callbacks[Any]) -> Outcome | str:
    try:
        return whatif(recording, {name: callbacks})[name]
    except Exception as error:  # whatever a hook raises is told
        return sentence(error)


def _row(outcome: Outcome | str) -> dict[str, Any]:
    if isinstance(outcome, str):
        return {"error": outcome}
    return {
        "at": None if outcome.reason is None else [outcome.epoch, outcome.step],
        "reason": outcome.reason and cut(outcome.reason, 600),
        "epochs_saved": outcome.epochs_saved,
        "seconds_saved": plain(outcome.seconds_saved),
        "best": [[cut(name, LONGEST_NAME), plain(best.value), plain(best.lost)] for name, best in outcome.best.items()],
        "saved": len(outcome.saved),
        "kept": len(outcome.kept),
        "holds": "" if outcome.holds == "exact" else cut(outcome.holds, 600),
    }


def _other_patience(callbacks: Sequence[Callback[Any]]) -> dict[str, Callbacks[Any]]:
    """The run's own callbacks that save or stop, with the patience of its first `early_stop` changed."""
    of_early_stop = {*early_stop("loss").config}
    stops = [each for each in callbacks if each.constructor == "early_stop" and {*each.config} == of_early_stop]
    if not stops:
        return {}
    mine, own = stops[0], stops[0].config["patience"]
    decides = [each for each in callbacks if each.emits is None or {*each.emits} & {Stop, Save, Delete}]

    def with_patience(n: int) -> Callbacks[Any]:
        config: dict[str, Any] = {**mine.config, "patience": n}
        other = early_stop(**config, key=mine.key)
        return [other if each is mine else each for each in decides]

    return {f"patience={n}" + (" (as it ran)" if n == own else ""): with_patience(n) for n in sorted({own, *PATIENCE})}
