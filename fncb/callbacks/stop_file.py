"""Stop training once a file appears."""

import os

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.effects import Probe, Stop
from fncb.events import Probed, TrainBatchEnd
from fncb.fields import must_be_int


def stop_file(path: str | os.PathLike[str], *, every_n_steps: int = 10, key: str = "stop_file") -> Callback[EmptyState]:
    """Asks for `Stop` once there is a file of a name, for whoever can reach the disk and not the process.

    It is looked for after each training batch whose number of optimizer steps is a multiple of `every_n_steps`. What is
    in the file does not matter, and it stays: as long as it is there, further runs stop too.

    Args:
      path: the file, or directory; `~` is the home.
      every_n_steps: optimizer steps, 1 or more.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind.

    Example:
      >>> stop = stop_file("runs/a/STOP", every_n_steps=1)
      >>> stop.transition(stop.init(), TrainBatchEnd(step=1))[1]
      (Probe(what='file', argument='runs/a/STOP'),)
      >>> stop.transition(stop.init(), Probed(what="file", key="stop_file"))[1]
      (Stop(reason='there is a file runs/a/STOP'),)

    Known as:
      nothing elsewhere.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise TypeError(f"stop_file: path must be that of a file, got {path!r}.")
    must_be_int("stop_file", "every_n_steps", every_n_steps, 1, "step")
    file = os.path.expanduser(os.fspath(path))

    def on_train_batch_end(state: EmptyState, event: TrainBatchEnd) -> EmptyState | Emit[EmptyState]:
        return state if event.step % every_n_steps else emit(state, Probe("file", file))

    def on_probed(state: EmptyState, event: Probed) -> EmptyState | Emit[EmptyState]:
        mine = event.what == "file" and event.key == key
        return emit(state, Stop(f"there is a file {file}")) if mine else state

    return Callback(
        constructor="stop_file",
        key=key,
        emits=(Probe, Stop),
        config={"path": file, "every_n_steps": every_n_steps},
        on_train_batch_end=on_train_batch_end,
        on_probed=on_probed,
    )
