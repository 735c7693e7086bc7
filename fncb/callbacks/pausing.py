"""When what is measured counts for nothing: in a sanity check, in a `fast_dev_run`, and where nothing is trained."""

from collections.abc import Callable
from typing import Any

import attrs


def pausing() -> dict[str, Any]:
    """The hooks that keep the field `paused` of a callback's state, by name.

    It is true in a sanity check, in a `fast_dev_run` and in a run that does not train.

    Example:
      >>> from fncb.events import Setup
      >>> @attrs.frozen
      ... class State:
      ...     paused: bool = False
      >>> pausing()["setup"](State(), Setup(stage="validate"))
      State(paused=True)
    """

    def paused(now: Callable[[Any], bool]) -> Callable[[Any, Any], Any]:
        return lambda state, event: attrs.evolve(state, paused=now(event))

    return {
        "setup": paused(lambda event: event.stage != "fit" or event.fast_dev_run),
        "on_sanity_check_start": paused(lambda _: True),
        "on_sanity_check_end": paused(lambda _: False),
        "teardown": paused(lambda _: False),
    }
