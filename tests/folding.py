"""Folds events through a callback, with a pretend disk that answers `Save` as the real one does."""

from collections import deque
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
    """Folds events; carries out the effects of each in order, and then answers its saves with `Saved`.

    Args:
      callback: a callback or a composition.
      events: in order.
      state: the state to begin with; None for the first.
      files: what is on the disk already.

    Raises:
      FileNotFoundError: when a file is deleted that is not there.
    """
    state = callback.init() if state is None else state
    disk, done, queue = dict.fromkeys(files), [], deque(events)
    while queue:
        event = queue.popleft()
        state, effects = callback.transition(state, event)
        done += effects
        answers = []
        for effect in effects:
            if type(effect) is Save:
                path = _free_name(effect.path, disk)
                disk[path] = None
                answers.append(Saved(epoch=event.epoch, step=event.step, path=path, requested=effect.path))
            elif type(effect) is Delete:
                if effect.path not in disk:
                    raise FileNotFoundError(effect.path)
                del disk[effect.path]
        queue.extendleft(reversed(answers))  # they come before the next event of the loop
    return Folded(state, tuple(done), tuple(disk))


def _free_name(path: str, disk: Mapping[str, None]) -> str:
    stem, suffix, version = path.removesuffix(PurePath(path).suffix), PurePath(path).suffix, 0
    while path in disk:
        version += 1
        path = f"{stem}-v{version}{suffix}"
    return path
