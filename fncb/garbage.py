"""Python's garbage, collected when a callback says so and not whenever Python likes."""

import gc

from fncb.effects import CollectGarbage, Effect
from fncb.events import Event
from fncb.fields import must_be_one_of
from fncb.handling import Handler


class Garbage:
    """Carries out `CollectGarbage`; from the first on Python collects none by itself, until `close`."""

    def __init__(self) -> None:
        self._was_enabled: bool | None = None

    def carries_out(self) -> dict[type[Effect], Handler]:
        """The effect and the function that carries it out."""
        return {CollectGarbage: self.collect}

    def collect(self, effect: CollectGarbage, _: Event) -> None:
        """Collects what is in generations up to that of the effect."""
        must_be_one_of("CollectGarbage", "generation", effect.generation, (0, 1, 2))
        if self._was_enabled is None:
            self._was_enabled = gc.isenabled()
            gc.disable()
        gc.collect(effect.generation)

    def close(self) -> None:
        """Has Python collect as it did before."""
        if self._was_enabled:
            gc.enable()
        self._was_enabled = None
