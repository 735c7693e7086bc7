"""`fncb tail`: the last lines of a run, and those that come."""

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from fncb.cli.lines import HEADS, data_of, line_of
from fncb.cli.output import show, show_json
from fncb.cli.runs import recording_at, telling_damage
from fncb.effects import Effect
from fncb.events import Event, Teardown
from fncb.recording import follow, read

PAUSE = 0.5  # seconds between looks at a file that grows

Line: TypeAlias = "tuple[Event | Effect, Event | None]"
"""An event or effect, and the event that it is, or at which it was asked for."""


def run(asked: argparse.Namespace) -> int:
    """Prints the last events and effects and, if it is to follow, each new one until the run ends or Ctrl-C."""
    path = recording_at(asked.run)
    if not asked.json:
        show(HEADS.rstrip())
    with telling_damage():
        if not asked.follow:
            lines = deque(_lines(read(path).entries), maxlen=asked.n)
            _show(lines, asked.json)
            return 0
        with suppress(KeyboardInterrupt):  # it is how one stops looking
            _show(_followed(path, asked.n), asked.json)
    return 0


def _show(lines: Iterable[Line], as_json: bool) -> None:
    for entry, event in lines:
        show_json(data_of(entry, event)) if as_json else show(line_of(entry))


def _lines(entries: Iterable[Event | Effect]) -> Iterator[Line]:
    event = None
    for entry in entries:
        event = entry if isinstance(entry, Event) else event
        yield entry, event


def _followed(path: Path, n: int) -> Iterator[Line]:
    """The last lines that there are, then each that comes, until the run is over."""
    held: deque[Line] = deque(maxlen=n)
    event, is_live = None, False
    for entry in follow(path):
        if entry is None:
            yield from held
            held.clear()
            if isinstance(event, Teardown):
                return
            is_live = True
            sys.stdout.flush()
            time.sleep(PAUSE)  # another process writes the file, and tells nobody
            continue
        event = entry if isinstance(entry, Event) else event
        if is_live:
            yield entry, event
        else:
            held.append((entry, event))
