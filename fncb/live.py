"""Live fields of events and effects: there while training, and in no recording."""

from typing import Any

import attrs

LIVE: Any = {"eq": False, "repr": False, "metadata": {"live": True}}
"""What makes a field live: it is not compared, printed or recorded."""


def is_live(field: "attrs.Attribute[Any]") -> bool:
    """Whether a field is live."""
    return "live" in field.metadata


def recorded_fields(cls: type) -> list["attrs.Attribute[Any]"]:
    """The fields of a class that a recording holds: all but the live ones.

    Example:
      >>> from fncb.effects import LogImage
      >>> [field.name for field in recorded_fields(LogImage)]
      ['key', 'name']
    """
    return [field for field in attrs.fields(cls) if not is_live(field)]
