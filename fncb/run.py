"""What a run came to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from fncb.effects import Stop
from fncb.resume import Resumed


@attrs.frozen(kw_only=True)
class Run:
    """The outcome of `fit`, `validate`, `test` or `predict`, a value.

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
