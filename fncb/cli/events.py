"""`fncb events`: what happened in a run, one line an event."""

import argparse
import difflib
from itertools import islice

from fncb.account import known_metrics
from fncb.cli.lines import HEADS, data_of, line_of
from fncb.cli.output import note, show, show_json
from fncb.cli.runs import read_run
from fncb.conditions import Condition, condition_of, has
from fncb.events import HOOKS
from fncb.fields import hook_called
from fncb.live import recorded_fields
from fncb.metrics import Unrecorded
from fncb.recording import Recording, asked_at

_FIELDS = {field.name for kind in HOOKS.values() for field in recorded_fields(kind)}


def run(asked: argparse.Namespace) -> int:
    """Prints events, and effects if they are wanted."""
    kinds = {HOOKS[hook_called("--hook", name)] for name in asked.hook or ()}
    condition = None if asked.where is None else condition_of(asked.where)
    recording = read_run(asked.run)
    for kind in kinds:
        if kind.__name__ not in recording.header.get("recorded", [kind.__name__]):
            note(f"this recording holds no {kind.__name__} events, since nobody heard them.")
    if condition is not None:
        _note_unknown_names(recording, condition)
    wanted = (
        (event, effects)
        for event, effects in asked_at(recording.entries)
        if (not kinds or type(event) in kinds) and (condition is None or condition(event))
    )
    if not asked.json:
        show(HEADS.rstrip())
    for event, effects in islice(wanted, asked.limit):
        for entry in (event, *(effects if asked.effects else ())):
            show_json(data_of(entry, event)) if asked.json else show(line_of(entry))
    return 0


def _note_unknown_names(recording: Recording, condition: Condition) -> None:
    unknown = [need for need in condition.needs if need[1] is not None or need[0] not in _FIELDS]
    metrics: set[str] = set()
    left_out = 0
    for event in recording.events if unknown else ():
        unknown = [need for need in unknown if not has(event, need)]
        metrics.update(known_metrics(event))
        left_out += isinstance(getattr(event, "metrics", None), Unrecorded)
    for name, key in unknown:
        asked_for = name if key is None else f"{name}[{key!r}]"
        close = difflib.get_close_matches(key or name, sorted({*metrics, *_FIELDS}), n=1)
        hint = (
            f"Did you mean {close[0]}?" if close else f"There are the metrics {', '.join(sorted(metrics)) or 'none'}."
        )
        hint += f" Those of {left_out:,} events were not recorded." if left_out else ""
        note(f"no event of this recording has {asked_for}, so the condition never holds. {hint}")
