"""What a sink is."""

from collections.abc import Callable

import attrs

from fncb.events import Event, Metrics


@attrs.frozen(kw_only=True)
class Sink:
    """Two functions: one takes metrics, one is called at the end.

    Attributes:
      log: given the metrics and the event that they belong to (its `epoch`, `step` and `seconds`). The metrics may
        still be on the device: keep them and read them when many are written.
      close: writes what is left.
    """

    log: Callable[[Metrics, Event], None]
    close: Callable[[], None]
