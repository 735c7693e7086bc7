"""What a run came to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from fncb.cards import DRAWN, card, curve_of, kept_files
from fncb.effects import Stop
from fncb.recording import read
from fncb.resume import Resumed


@attrs.frozen(kw_only=True)
class Run:
    """The outcome of `fit`, `validate`, `test` or `predict`, a value. In a notebook it shows a card.

    Attributes:
      metrics: the last value of each metric by name.
      stopped: the `Stop` that ended it, or None.
      state: key to host state.
      step_state: key to the tensors that step hooks keep.
      epoch: epochs trained, the last one maybe in part.
      step: optimizer steps made.
      seconds: from the beginning, summed over resumes.
      compiled: how the step ran at last: "one graph", "two regions" or "eager".
      recompilations: graphs compiled beyond the first of each kind, for example for a smaller last batch.
      resumed: what the run went on from, as a `Resumed`, or None.
      recording: the file that holds its events, or None.
      predictions: what `predict` returned for each batch, in lists by loader where there are several; None otherwise.
    """

    metrics: Mapping[str, float]
    stopped: Stop | None = None
    state: Mapping[str, Any] = attrs.field(factory=dict)
    step_state: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    compiled: str = "eager"
    recompilations: int = 0
    resumed: Resumed | None = None
    recording: Path | None = None
    predictions: list[Any] | None = attrs.field(default=None, repr=False)

    def _repr_html_(self) -> str:
        entries = _recorded(self.recording)
        by = f" by {self.stopped.key}" if self.stopped is not None and self.stopped.key else ""
        headline = "all was done" if self.stopped is None else f"stopped{by}: {self.stopped.reason}"
        facts = [f"{self.epoch} epochs", f"{self.step:,} steps", f"{self.seconds:.1f} s", self.compiled]
        facts += [f"went on from {self.resumed.path}"] if self.resumed is not None else []
        monitors = [name.partition("(")[2].removesuffix(")") for name in self.state]
        monitor = next((name for name in monitors if name in self.metrics), None)
        return card(headline, curve_of(entries, monitor), self.metrics, kept_files(entries), facts)


def _recorded(path: Path | None) -> Sequence[Any]:
    """What a card needs of a recording; nothing if there is none, or none that can be read any more."""
    try:
        return () if path is None else read(path, only=DRAWN).entries
    except (OSError, ValueError):
        return ()
