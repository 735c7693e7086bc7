"""Save a run that something cut off, until one has come to its end."""

import os
from pathlib import PurePath

import attrs
from toolz import unique

from fncb.callback import Callback, Emit, emit
from fncb.callbacks.checkpoint import SUFFIX, CheckpointState, checkpoint
from fncb.callbacks.file_name import check_template, fields_of
from fncb.effects import Delete
from fncb.events import FitEnd


def on_exception_checkpoint(
    dirpath: str | os.PathLike[str], *, filename: str = "on_exception", key: str = "on_exception_checkpoint"
) -> Callback[CheckpointState]:
    """Asks for `Save` when anything raises, and for `Delete` once a fit ends well.

    It saves as `checkpoint(save_on_exception=True)` does, and nothing else: after any exception, Ctrl-C and SIGTERM
    included, but not in a sanity check or a `fast_dev_run`, nor where nothing is trained. The run goes on from
    the file exactly, with `resume="last"` or `resume=path`; without `resume` it begins anew. A second exception leaves
    the newer file only.

    When a fit ends without an exception, whether it went on from the file or began anew, the file is deleted: that
    which it went on from, and what is at `<dirpath>/<filename>.safetensors`.

    Args:
      dirpath: folder of the file.
      filename: its name without `.safetensors`; it may have the fields `{epoch}` and `{step}`. A name that is taken
        gets the suffix `-v1`, `-v2`, ...
      key: names the state.

    Returns:
      A `Callback` with `CheckpointState`, of which it uses `rescue_path`.

    Raises:
      ValueError, TypeError: for an empty `dirpath` or `filename`, or one that is no name of a file in a folder.

    Example:
      >>> from fncb.events import ExceptionRaised
      >>> saves = on_exception_checkpoint("runs/a")
      >>> saves.transition(saves.init(), ExceptionRaised(step=7, error="ValueError"))[1]
      (Save(path='runs/a/on_exception.safetensors', within='runs/a', background=False, weights_only=False),)

    Known as:
      `OnExceptionCheckpoint` in Lightning.
    """
    if not isinstance(dirpath, str | os.PathLike):
        raise TypeError(f"on_exception_checkpoint: dirpath must be a path, got {dirpath!r}.")
    for name, value in (("dirpath", os.fspath(dirpath)), ("filename", filename)):
        if not value:
            raise ValueError(f"on_exception_checkpoint: {name} must not be empty, got {value!r}.")
    check_template("on_exception_checkpoint", filename)
    if fields_of(filename) - {"epoch", "step"}:
        raise ValueError(
            f"on_exception_checkpoint: filename must have no fields but {{epoch}} and {{step}}, got {filename!r}."
        )
    saves = checkpoint(dirpath, every_n_epochs=0, rescue_filename=filename, save_on_exception=True, key=key)
    folder = saves.config["dirpath"]
    usual = None if fields_of(filename) else str(PurePath(folder, filename + SUFFIX))

    def on_fit_end(state: CheckpointState, event: FitEnd) -> CheckpointState | Emit[CheckpointState]:
        if state.paused:
            return state
        mine = [path for path in (state.rescue_path, usual) if path and PurePath(path).is_relative_to(folder)]
        return emit(attrs.evolve(state, rescue_path=None), *(Delete(path, within=folder) for path in unique(mine)))

    config = {"dirpath": folder, "filename": filename}
    return attrs.evolve(saves, constructor="on_exception_checkpoint", on_fit_end=on_fit_end, config=config)
