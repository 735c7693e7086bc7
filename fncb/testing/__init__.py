"""Laws for callbacks: whether one keeps them, and the smallest run in which it does not."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fncb.testing.checking import check as check
    from fncb.testing.curves import simulate as simulate
    from fncb.testing.order import Order as Order
    from fncb.testing.order import commutes as commutes
    from fncb.testing.report import Broken as Broken
    from fncb.testing.report import LawsBroken as LawsBroken
    from fncb.testing.report import Report as Report
    from fncb.testing.runs import events as events

# Loaded when used: pytest imports this room at each start, for its plugin, and should not wait for hypothesis.
_ROOMS = {
    "checking": ("check",),
    "curves": ("simulate",),
    "order": ("Order", "commutes"),
    "report": ("Broken", "LawsBroken", "Report"),
    "runs": ("events",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fncb.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fncb.testing.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
