"""The recording of a session: which events it holds, begun with the first of them, gone on with after a resume."""

import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fncb import events as ev
from fncb import store
from fncb.callback import Callback
from fncb.effects import Effect
from fncb.expressions import written
from fncb.fields import must_be_int
from fncb.naming import stem_and_suffix
from fncb.notation import taken_from, write_all
from fncb.recorder import Recorder

_PER_BATCH = frozenset(
    kind
    for kind in ev.HOOKS.values()
    if (issubclass(kind, ev._Batch) and kind is not ev.TrainBatchEnd) or kind is ev.StepCompiled
)
"""Events that say nothing that `TrainBatchEnd` does not, or of the process and not the run: recorded where heard."""


class Journal:
    """Records what happens to callbacks, if there is a file to record to.

    Args:
      callbacks: whose events and effects these are.
      record: the file; None records nothing. A name that is taken gets the suffix `-v1`, `-v2`, ....
      metrics_every_n_steps: of which training batches the metrics are recorded, in optimizer steps.
      header: what the header says of the run beside.

    Attributes:
      recorder: what writes the file; None before the first event.
      path: the file; None before the first event.
    """

    def __init__(
        self,
        callbacks: Callback[Any],
        record: str | Path | None,
        metrics_every_n_steps: int = 1,
        header: Mapping[str, Any] | None = None,
    ):
        must_be_int("record", "record_metrics_every_n_steps", metrics_every_n_steps, 1, "steps")
        self._callbacks, self._record = callbacks, None if record is None else Path(record)
        self._every, self._header = metrics_every_n_steps, header or {}
        self.recorder: Recorder | None = None
        self.path: Path | None = None

    def wants(self, kind: type[ev.Event]) -> bool:
        """Whether events of a class are recorded."""
        return self._record is not None and (kind not in _PER_BATCH or self._callbacks.hears(kind))

    @property
    def lines(self) -> int:
        """Events and effects so far, those before a resume included."""
        return self.recorder.lines if self.recorder else 0

    def write(self, event: ev.Event, effects: tuple[Effect, ...]) -> None:
        """Records an event, if its class is, and what was asked for at it."""
        if self._record is None or not self.wants(type(event)):
            return
        recorder = self.recorder or self.begin()
        recorder.event(event)
        for effect in effects:
            recorder.effect(effect)

    def state_dict(self) -> dict[str, Any] | None:
        """What is needed to go on here. It holds once `sync` was called."""
        if self.recorder is None:
            return None
        self.recorder.flush()
        return {"name": self.recorder.path.name, "lines": self.lines, "crc": self.recorder.crc}

    def lines_of(self, moments: Iterable[tuple[ev.Event, tuple[Effect, ...]]]) -> list[str]:
        """What is recorded of events and of what was asked for at them, to be recorded again in a resumed run."""
        records = [record for event, effects in moments for record in (event, *effects)]
        taken = [taken_from(record) for record in records]
        return [line.decode() for line in write_all(taken)] if taken else []

    def load_state_dict(self, saved: Mapping[str, Any] | None) -> None:
        """Goes on in the file that the saved run wrote, if that is what `record=` means; else a new one is begun."""
        path = self._record
        if path and saved and (saved["name"] == path.name or saved["name"].startswith(f"{stem_and_suffix(path)[0]}-v")):
            self.recorder = self._open(path.with_name(saved["name"]), saved)

    def sync(self) -> None:
        """Waits until what was written is on the disk; may be called from another thread."""
        if self.recorder:
            self.recorder.sync()

    def close(self) -> None:
        """Writes what is held back and closes the file."""
        if self.recorder:
            self.recorder.close()

    def begin(self) -> Recorder:
        """Begins the recording, which must be wanted."""
        assert self._record is not None
        self.recorder = self._open(self._record)
        return self.recorder

    def _open(self, path: Path, saved: Mapping[str, Any] | None = None) -> Recorder:
        parts, torch = self._callbacks.parts or (), sys.modules.get("torch")
        header = {
            "fncb": store.version(),
            "python": platform.python_version(),
            **({} if torch is None else {"torch": str(torch.__version__)}),
            "keys": [part.key for part in parts],
            "configs": {part.key: dict(part.config) for part in parts},
            "callbacks": {part.key: written(part) for part in parts},
            "recorded": [kind.__name__ for kind in ev.HOOKS.values() if self.wants(kind)],
            **self._header,
        }
        at: dict[str, Any] = {}
        if saved is not None:
            at = {"resume_at": saved["lines"], "crc": saved.get("crc")}
            at["again"] = [line.encode() for line in saved.get("then", ())]
        recorder = Recorder(path, header, metrics_every_n_steps=self._every, **at)
        self.path = Path(recorder.path)
        return recorder
