"""What a check found: laws that hold, and those that are broken, each with the smallest run that breaks it."""

import attrs

from fncb.events import Event


@attrs.frozen
class Broken:
    """A law that a callback breaks.

    Attributes:
      law: its name, one of `laws.LAWS` or `in_step.LAWS`.
      sentence: what was found.
      where: the callback's key and the hook.
      events: the smallest run that breaks it, by the events that the callback hears; empty where none is needed.
    """

    law: str
    sentence: str
    where: str
    events: tuple[Event, ...] = ()

    def __str__(self) -> str:
        if not self.events:
            return f"{self.law}: {self.where} {self.sentence}"
        lines = [f"{self.law}: {self.where} {self.sentence}, after:", *(f"  {event}" for event in self.events)]
        return "\n".join(lines)


@attrs.frozen
class Report:
    """What was checked of a callback. It is true if no law is broken.

    Attributes:
      key: the callback's.
      laws: names of the laws that were looked at.
      broken: those that do not hold.
      notes: what could not be looked at, and why.
      runs: how many runs were made up.
    """

    key: str
    laws: tuple[str, ...]
    broken: tuple[Broken, ...] = ()
    notes: tuple[str, ...] = ()
    runs: int = 0

    def __bool__(self) -> bool:
        return not self.broken

    def __str__(self) -> str:
        count = len(self.broken)
        told = f"breaks {count} law{'s' * (count != 1)}" if count else f"keeps {len(self.laws)} laws"
        head = f"{self.key} {told} in {self.runs} run{'s' * (self.runs != 1)}"
        return "\n".join([f"{head}{':' if count else '.'}", *map(str, self.broken), *self.notes])


class LawsBroken(AssertionError):
    """A callback breaks a law; `report` tells which, and its text names each with the smallest run that shows it."""

    def __init__(self, report: Report):
        """Takes the report of a check that found something."""
        super().__init__(str(report))
        self.report = report
