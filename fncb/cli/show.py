"""`fncb show`: what a run was, on one screen."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import attrs

from fncb.account import Account, account_of, known_metrics
from fncb.cli.lines import number
from fncb.cli.output import show, show_json, show_table
from fncb.cli.plain import plain
from fncb.cli.runs import recording_at, telling_damage, when_written
from fncb.contents import in_bytes
from fncb.events import FitStart, outside_sanity_checks
from fncb.recording import Recording, read


@attrs.frozen
class Extreme:
    """A value of a metric, and of which epoch and step it is."""

    value: float
    epoch: int
    step: int


@attrs.frozen
class Course:
    """How a metric went: its last value, its least and greatest finite ones, and how many were not finite.

    Attributes:
      mode: "min" or "max" if a callback monitors it so, which tells the best from the worst; None otherwise.
    """

    last: Extreme
    lowest: Extreme | None = None
    highest: Extreme | None = None
    not_finite: int = 0
    mode: str | None = None

    @property
    def best(self) -> Extreme | None:
        """The best value, where it is known which is better."""
        return {"min": self.lowest, "max": self.highest}.get(self.mode or "")


def run(asked: argparse.Namespace) -> int:
    """Tells what a run was."""
    path = recording_at(asked.run)
    with telling_damage():
        recording = read(path)
    account, courses = account_of(recording), courses_of(recording)
    if asked.json:
        show_json(_data(path, recording, account, courses))
        return 0
    _show_summary(path, recording, account, courses)
    _show_callbacks(recording.header)
    if courses:
        show()
        rows = [_metric_row(name, course) for name, course in courses.items()]
        heads = ("metric", "last", "lowest", "epoch", "step", "highest", "epoch", "step", "not finite")
        show_table(heads, rows, right=heads[1:])
    if account.files:
        show()
        rows = [
            ("kept" if file.kept else "deleted", in_bytes(file.bytes), file.epoch, file.step, file.key or "", file.path)
            for file in account.files
        ]
        show_table(("checkpoint", "size", "epoch", "step", "by", "path"), rows, right=("size", "epoch", "step"))
    return 0


def courses_of(recording: Recording) -> dict[str, Course]:
    """How each metric went, those of a sanity check left out; monitored ones first.

    Example:
      >>> from fncb.events import ValidationEnd
      >>> events = [ValidationEnd(epoch=i, step=9 * i, metrics={"acc": x}) for i, x in enumerate((0.5, 0.75, 0.25))]
      >>> course = courses_of(Recording({"configs": {"stop": {"monitor": "acc", "mode": "max"}}}, tuple(events)))["acc"]
      >>> course.last.value, course.best
      (0.25, Extreme(value=0.75, epoch=1, step=9))
    """
    configs = recording.header.get("configs", {}).values()
    modes = {config.get("monitor"): config.get("mode") for config in configs if isinstance(config, Mapping)}
    found: dict[str, list[Any]] = {}  # what will be the fields of a `Course`
    for event in outside_sanity_checks(recording.events):
        for name, value in known_metrics(event).items():
            here = Extreme(value, event.epoch, event.step)
            fields = found.setdefault(name, [here, None, None, 0])
            fields[0] = here
            if not isfinite(value):
                fields[3] += 1
                continue
            if fields[1] is None or value < fields[1].value:
                fields[1] = here
            if fields[2] is None or value > fields[2].value:
                fields[2] = here
    courses = {name: Course(*fields, mode=modes.get(name)) for name, fields in found.items()}
    return dict(sorted(courses.items(), key=lambda named: named[1].mode is None))


def _data(path: Path, recording: Recording, account: Account, courses: Mapping[str, Course]) -> dict[str, Any]:
    return {
        "path": path,
        "bytes": path.stat().st_size,
        "written": when_written(path),
        "torn": recording.torn,
        "fncb": recording.header.get("fncb"),
        "format": recording.header.get("format"),
        "callbacks": dict(_expressions(recording.header)),
        **plain(account),
        "metrics": {name: {**plain(course), "best": plain(course.best)} for name, course in courses.items()},
    }


def _show_summary(path: Path, recording: Recording, account: Account, courses: Mapping[str, Course]) -> None:
    events, effects = len(recording.events), len(recording.entries) - len(recording.events)
    show(f"run      {path} ({in_bytes(path.stat().st_size)}, {events:,} events, {effects:,} effects)")
    show(f"ended    {account.ending}")
    if account.ending.how == "cut off":
        ago = _duration(max(time.time() - path.stat().st_mtime, 0.0))
        show(f"         the recording was last written to at {when_written(path)}, {ago} ago")
    limits = [event for event in recording.events if isinstance(event, FitStart)]
    of = f" of {limits[-1].max_epochs:,}" if limits and limits[-1].max_epochs >= 0 else ""
    show(f"made     {account.epochs:,}{of} epochs, {account.steps:,} steps in {_duration(account.seconds)}")
    for epoch, step in account.resumed:
        show(f"resumed  at epoch {epoch}, step {step}")
    for name, course in courses.items():
        if best := course.best:
            show(f"best     {name} {number(best.value)} ({course.mode}) at epoch {best.epoch}, step {best.step}")
    for sentence in account.skipped:
        show(f"left out {sentence}")
    if recording.torn:
        show(f"torn     the last {recording.torn:,} bytes, which are left out")


def _show_callbacks(header: Mapping[str, Any]) -> None:
    expressions, plugins = dict(_expressions(header)), header.get("plugins", {})
    if expressions:
        show()
        show("callbacks")
    for key, expression in expressions.items():
        config = header.get("configs", {}).get(key, {})
        settings = ", ".join(f"{name}={value!r}" for name, value in config.items())
        package = f"  (added by {plugins[key]})" if key in plugins else ""
        show(f"  {expression or ': '.join(filter(None, (key, settings)))}{package}")


def _expressions(header: Mapping[str, Any]) -> Iterable[tuple[str, str | None]]:
    known = header.get("callbacks", {})
    return ((key, known.get(key)) for key in header.get("keys", known))


def _metric_row(name: str, course: Course) -> tuple[object, ...]:
    extremes = [
        cell
        for each in (course.lowest, course.highest)
        for cell in (("", "", "") if each is None else (number(each.value), each.epoch, each.step))
    ]
    return (name, number(course.last.value), *extremes, course.not_finite or "")


def _duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
      >>> _duration(1.26), _duration(331.2), _duration(90061)
      ('1.3 s', '5 min 31 s', '25 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
