"""A page about recorded runs: one file, with everything in it, that opens without a network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
import sys
from array import array
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from fncb.callback import note
from fncb.disk import make_directories
from fncb.hindsight import Callbacks
from fncb.page.story import story_of
from fncb.recording import Recording, read

SCRIPTS = ("elements", "data", "states", "plots", "moment", "page")
"""The page's own code, one file each, in the order in which it is read."""


def report(
    runs: str | Path | Recording | Sequence[str | Path | Recording],
    path: str | Path,
    *,
    callbacks: Callbacks[Any] | None = None,
    whatif: Mapping[str, Callbacks[Any]] | None = None,
) -> Path:
    """Writes a page that shows runs: metrics, what was asked for, and what each callback remembered at each event.

    The page is one file. It needs no network, and reaches for none; what a recording holds is shown as text, whatever
    it is. States are computed here, by folding the recording, and the page says whether the effects that come of it are
    those that were recorded.

    Args:
      runs: a recording or the path of one, or several, which are drawn over each other.
      path: the page's file; one that is there is replaced.
      callbacks: what the states are computed with; None makes the built-in ones again from what the recording says of
        them, and leaves out those that it can't tell.
      whatif: other callbacks by name, for a table of what they would have done; None tries other patience, if the run
        had an `early_stop`, and `{}` nothing.

    Returns:
      The page's path.

    Raises:
      ValueError: without a run, or if the page would replace a recording.
      DamagedRecording: as `fncb.recording.read`.
      ImportError: if plotly is not installed, which draws the curves.

    Example:
      >>> import tempfile
      >>> from fncb.events import ValidationEnd
      >>> run = Recording({}, (ValidationEnd(step=10, metrics={"val_loss": 0.5}),))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     page = report(run, Path(folder, "report.html"))
      ...     page.name, page.stat().st_size < 2_500_000
      ('report.html', True)
    """
    path = Path(path)
    given = [runs] if isinstance(runs, str | Path | Recording) else list(runs)
    if not given:
        raise ValueError("report: there must be a run or more, got none. Pass a recording or the path of one.")
    paths = [Path(run) for run in given if not isinstance(run, Recording)]
    if path.exists() and any(each.exists() and path.samefile(each) for each in paths):
        raise ValueError(f"report: the page must have a file of its own, got {path}, which is a recording of the runs.")
    plotly = _plotly()
    recordings = [run if isinstance(run, Recording) else read(run) for run in given]
    story = story_of(dict(zip(_names(given), recordings, strict=True)), callbacks=callbacks, alternatives=whatif)
    make_directories(path.parent)
    path.write_text(_page(story, plotly), encoding="utf-8", newline="\n")
    return path


def _names(runs: Sequence[str | Path | Recording]) -> list[str]:
    """A name for each run: the end of its path that tells it from the others."""
    names: list[str] = []
    for i, run in enumerate(runs, 1):
        name = f"run {i}" if isinstance(run, Recording) else "/".join(Path(run).absolute().parts[-2:])
        names.append(name if name not in names else f"{name} ({i})")
    return names


def _page(story: Mapping[str, Any], plotly: tuple[str, str]) -> str:
    data, numbers = _packed(story)
    script = "\n".join(["'use strict';", *(_asset(f"{name}.js") for name in SCRIPTS)])
    packed_plotly, plotly_digest = plotly
    parts = {
        "title": html.escape(", ".join(run["name"] for run in story["runs"])),
        "policy": f"script-src '{_digest(script)}' '{plotly_digest}'",
        "style": _asset("page.css"),
        "plotly": packed_plotly,
        "data": _blob(data),
        "numbers": _blob(numbers),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def _packed(story: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The story as JSON, in which `{"@": [type, offset, n]}` stands for numbers, and the bytes of those."""
    pieces: list[bytes] = []
    end = 0

    def placed(value: Any) -> Any:
        nonlocal end
        if not isinstance(value, array):
            raise TypeError(f"report: a story must be plain data and arrays, got {value!r}.")
        little = value if sys.byteorder == "little" else array(value.typecode, value)
        if little is not value:
            little.byteswap()
        raw = little.tobytes()
        # All first bytes, all second bytes and so on: bytes that are alike lie together, and take half the room.
        pieces.append(b"".join(raw[i :: value.itemsize] for i in range(value.itemsize)))
        place = {"@": [value.typecode, end, len(value)]}
        end += len(raw)
        return place

    data = json.dumps(story, default=placed, allow_nan=False, separators=(",", ":")).encode()
    return data, b"".join(pieces)


def _blob(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode()


def _digest(script: str) -> str:
    """The name by which a page's policy allows a script: no other one runs, wherever it came from."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _asset(name: str) -> str:
    return resources.files("fncb.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> tuple[str, str]:
    """The library that draws, packed, and its digest."""
    try:
        import plotly
    except ImportError as error:
        note(error, "report: curves are drawn by plotly. Run pip install 'fncb[plotly]'.")
        raise
    text = resources.files(plotly).joinpath("package_data").joinpath("plotly.min.js").read_text(encoding="utf-8")
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode(), _digest(text)
