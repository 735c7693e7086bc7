"""Callbacks that installed packages add: factories registered as entry points of the group `fncb.callbacks`."""

import logging
import os
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fncb.callback import Callback, compose

log: logging.Logger = logging.getLogger("fncb")

GROUP = "fncb.callbacks"


def with_plugins(
    who: str, callbacks: Callback[Any], plugins: bool, *, own: int | None = None
) -> tuple[Callback[Any], Mapping[str, str]]:
    """The callbacks, and after the user's own those that installed packages add; one log line names them.

    Packages are taken by name, their entries likewise. A callback whose key is taken already is left out. Packages are
    looked up each time, which takes a few milliseconds, and only those that register something are imported.

    Args:
      who: the function that was called, for messages.
      callbacks: a composition.
      plugins: False adds none, as does 0 in the environment variable `FNCB_PLUGINS`.
      own: how many of the callbacks come first; None is all.

    Returns:
      The composition, and of each callback that was added key and package with its version.

    Raises:
      TypeError: if `plugins` is neither True nor False.
      ValueError: for another value of `FNCB_PLUGINS` than 0 and 1, and if two packages add the same key.
      RuntimeError: if a factory cannot be loaded, raises, returns anything but callbacks, or the same key twice.

    Example:
      >>> with_plugins("fit", compose(Callback(key="mine")), plugins=False)
      (compose(Callback('mine')), {})
    """
    if not _are_wanted(who, plugins):
        return callbacks, {}
    there = callbacks.parts or ()
    taken = {part.key for part in there}
    made = [
        (part, _package(entry))
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: (_package(entry), entry.name))
        for part in _made(who, entry)
    ]
    if not made:
        return callbacks, {}
    added: dict[str, str] = {}
    for part, package in made:
        if part.key in added:
            raise ValueError(
                f"{who}: keys of plugins must be unique, got {part.key!r} of package {added[part.key]!r} and of "
                f"package {package!r}. Uninstall one of them, pass a callback with this key, or pass plugins=False."
            )
        if part.key not in taken:
            added[part.key] = package
    left = ", ".join(f"{part.key} ({package})" for part, package in made if part.key in taken)
    log.info(
        "fncb: callbacks added by packages: %s%s",
        ", ".join(f"{key} ({package})" for key, package in added.items()) or "none",
        f"; left to yours of the same key: {left}" if left else "",
    )
    return compose(there[:own], [part for part, _ in made if part.key in added], there[len(there[:own]) :]), added


def _are_wanted(who: str, plugins: bool) -> bool:
    if not isinstance(plugins, bool):
        raise TypeError(f"{who}: plugins must be True or False, got {plugins!r}.")
    said = os.environ.get("FNCB_PLUGINS", "1")
    if said not in ("0", "1"):
        raise ValueError(f"{who}: the environment variable FNCB_PLUGINS must be 0 or 1, got {said!r}.")
    return plugins and said == "1"


def _package(entry: EntryPoint) -> str:
    """Name and version of the package that registers an entry."""
    return "an unknown package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _made(who: str, entry: EntryPoint) -> tuple[Callback[Any], ...]:
    """The callbacks that an entry's factory returns."""

    def wrong(must: str, got: str) -> RuntimeError:
        return RuntimeError(
            f"{who}: the plugin {entry.name!r} of package {_package(entry)!r} must {must}, got {got}. "
            "Uninstall it, or pass plugins=False."
        )

    try:
        factory = entry.load()
    except (Exception, SystemExit) as error:
        raise wrong(f"be found as {entry.value}", repr(error)) from error
    if not callable(factory):
        raise wrong("be a function without arguments", repr(factory))
    try:
        returned: Any = factory()
    except (Exception, SystemExit) as error:
        raise wrong("return callbacks", repr(error)) from error
    try:
        return compose(returned).parts or ()
    except TypeError as error:
        raise wrong("return a Callback or a list of them, which may be empty", repr(returned)) from error
    except ValueError as error:
        raise wrong("return callbacks with a key each", f"{returned!r}") from error
