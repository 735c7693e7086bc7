"""The recording of a session: which events it holds, begun with the first of them, gone on with after a resume."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fncb import events as ev
from fncb import store
from fncb.callback import Callback
from fncb.effects import Effect
from fncb.recording import Recorder

_PER_BATCH = frozenset(
    event_type
    for name, event_type in ev.HOOKS.items()
    if (issubclass(event_type, ev._Batch) and event_type is not ev.TrainBatchEnd) or event_type is ev.StepCompiled
)
"""Events that say nothing that `TrainBatchEnd` does not, or of the process and not the run: recorded where heard."""


class Journal:
    """Records what happens to callbacks, if there is a file to record to.

    Args:
      callbacks: whose events and effects these are.
      record: the file; None records nothing. A name that is taken gets the suffix `-v1`, `-v2`, ....

    Attributes:
      path: the file that is written; None before the first event.
    """

    def __init__(self, callbacks: Callback[Any], record: str | Path | None):
        self._callbacks, self._record = callbacks, None if record is None else Path(record)
        self._recorder: Recorder | None = None
        self.path: Path | None = None

    def wants(self, kind: type[ev.Event]) -> bool:
        """Whether events of a class are recorded."""
        return self._record is not None and (kind not in _PER_BATCH or self._callbacks.hears(kind))

    @property
    def lines(self) -> int:
        """Events and effects so far, those before a resume included."""
        return self._recorder.lines if self._recorder else 0

    def write(self, event: ev.Event, effects: tuple[Effect, ...]) -> None:
        """Records an event, if its class is, and what was asked for at it."""
        if self._record is None or not self.wants(type(event)):
            return
        recorder = self._recorder
        if recorder is None:
            recorder = self._recorder = self._open(self._record)
        recorder.event(event)
        for effect in effects:
            recorder.effect(effect)

    def state_dict(self) -> dict[str, Any] | None:
        """What is needed to go on here. It holds once `sync` was called."""
        if self._recorder is None:
            return None
        self._recorder.flush()
        return {"name": self._recorder.path.name, "lines": self.lines}

    def load_state_dict(self, saved: Mapping[str, Any] | None) -> None:
        """Goes on in the file that the saved run wrote, if that is what `record=` means; else a new one is begun."""
        path = self._record
        if path and saved and (saved["name"] == path.name or saved["name"].startswith(f"{path.stem}-v")):
            self._recorder = self._open(path.with_name(saved["name"]), saved["lines"])

    def sync(self) -> None:
        """Waits until what was written is on the disk; may be called from another thread."""
        if self._recorder:
            self._recorder.sync()

    def close(self) -> None:
        """Writes what is held back and closes the file."""
        if self._recorder:
            self._recorder.close()

    def _open(self, path: Path, resume_at: int | None = None) -> Recorder:
        parts = self._callbacks.parts or ()
        header = {
            "fncb": store.version(),
            "keys": [part.key for part in parts],
            "configs": {part.key: dict(part.config) for part in parts},
            "recorded": [kind.__name__ for kind in ev.HOOKS.values() if self.wants(kind)],
        }
        recorder = Recorder(path, header, resume_at=resume_at)
        self.path = Path(recorder.path)
        return recorder
