"""Folds events through a callback, with a pretend disk that answers `Save` as the real one does."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import attrs

from fncb.callback import Callback
from fncb.effects import Delete, Effect, Save
from fncb.events import Event, Saved


@attrs.frozen
class Folded:
    """The last state, all effects in order, and the files left on the pretend disk, oldest first."""

    state: Any
    effects: tuple[Effect, ...]
    files: tuple[str, ...]

    def of(self, kind: type[Effect]) -> tuple[Any, ...]:
        """The effects of one class."""
        return tuple(effect for effect in self.effects if type(effect) is kind)


def fold(callback: Callback[Any], events: Iterable[Event], state: Any = None, files: Iterable[str] = ()) -> Folded:
    """Folds events; after each, carries out its effects in order, and those that `Saved` brings.

    Args:
      callback: a callback or a composition.
      events: in order.
      state: the state to begin with; None for the first.
      files: what is on the disk already.

    Raises:
      FileNotFoundError: when a file is deleted that is not there.
    """
    state = callback.init() if state is None else state
    disk, done = dict.fromkeys(files), []
    for event in events:
        state, asked = callback.transition(state, event)
        waiting = list(asked)
        while waiting:
            effect = waiting.pop(0)
            done.append(effect)
            if type(effect) is Save:
                path = _free_name(effect.path, disk)
                disk[path] = None
                saved = Saved(epoch=event.epoch, step=event.step, path=path, requested=effect.path)
                state, asked = callback.transition(state, saved)
                waiting += asked
            elif type(effect) is Delete:
                if effect.path not in disk:
                    raise FileNotFoundError(effect.path)
                del disk[effect.path]
    return Folded(state, tuple(done), tuple(disk))


def _free_name(path: str, disk: Mapping[str, None]) -> str:
    stem, suffix, version = path.removesuffix(PurePath(path).suffix), PurePath(path).suffix, 0
    while path in disk:
        version += 1
        path = f"{stem}-v{version}{suffix}"
    return path
