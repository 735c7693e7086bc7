"""What should be done: one frozen record per effect.

A hook does nothing itself: it returns effects, and they are carried out after all hooks of the event have run, in
order. Effects that have to name something live (a function, an image) hold it in a field that is not compared,
printed or recorded.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs


def _live() -> Any:
    return attrs.field(default=None, eq=False, repr=False, metadata={"live": True})


@attrs.frozen
class Effect:
    """Something that a callback asks for."""


@attrs.frozen
class Stop(Effect):
    """End the run after the batch under way, if `min_epochs` and `min_steps` are met, else as soon as they are.

    The first one wins; `reason` is a sentence for people.
    """

    reason: str


@attrs.frozen
class Save(Effect):
    """Write a checkpoint to `path`; answered by `Saved` once it is on disk.

    A name that is taken is never overwritten: the file gets the suffix `-v1`, `-v2`, ..., and `Saved.path` tells. A
    model with a parameter that is not finite is not written, and there is no answer. Asked for in the middle of a
    validation, the checkpoint is of the moment before it.

    Attributes:
      path: the file.
      within: a folder that the file must be in, symbolic links followed; None for anywhere.
      background: whether training goes on while it is written, from a copy in memory; `Saved` comes later then.
    """

    path: str
    within: str | None = None
    background: bool = False


@attrs.frozen
class Delete(Effect):
    """Delete the checkpoint at `path`, which must be in the folder `within`. One that is gone already is no error."""

    path: str
    within: str | None = None


@attrs.frozen
class Log(Effect):
    """Send `metrics` to the sinks and add them to the metrics of the events that follow."""

    metrics: Mapping[str, float]


@attrs.frozen
class Print(Effect):
    """Show one line of text."""

    text: str


@attrs.frozen
class SetLR(Effect):
    """Set the learning rate of every parameter group, or of the one at index `group`, of every optimizer or of one."""

    lr: float
    group: int | None = None
    optimizer: str | None = None


@attrs.frozen
class SetAccumulation(Effect):
    """Accumulate the gradients of `n` batches per optimizer step, from the next window on."""

    n: int


@attrs.frozen
class Validate(Effect):
    """Validate after the batch under way, or after the next one."""


@attrs.frozen
class Skip(Effect):
    """Leave out the batch that is about to start; it still gets its `on_train_batch_end`.

    To be asked for at `on_train_batch_start`.
    """


@attrs.frozen
class StopEpoch(Effect):
    """Leave out what is left of the training epoch; the next one begins as usual.

    At `on_train_batch_start` the batch is left out too. Schedules by epoch advance, and there is no validation but
    one that is due for the batches made.
    """


@attrs.frozen
class Attach(Effect):
    """Put plain data into the checkpoint that is about to be written, for `on_load_checkpoint`.

    To be asked for at `on_save_checkpoint`. `key` is the callback's, which is filled in.
    """

    data: Any
    key: str | None = None


@attrs.frozen
class Freeze(Effect):
    """Stop training the parameters whose names match `pattern`, a shell pattern such as `encoder.*`.

    The step states of callbacks are taken up anew without them; they keep their place in the optimizer.
    """

    pattern: str


@attrs.frozen
class Unfreeze(Effect):
    """Train the parameters whose names match `pattern` again.

    With `lr` they get a parameter group of their own; without, they go back to theirs, or, where they have none, to a
    new one with the rate of the first.
    """

    pattern: str
    lr: float | None = None


@attrs.frozen
class Apply(Effect):
    """Replace parameters and step state by what a pure function makes of them.

    `fn(params, step_state)` is given a mapping from every parameter's name to its tensor and one from callback key to
    its step state, and returns both as a tuple, names and shapes unchanged. `name` is for the record.
    """

    name: str
    fn: Callable[..., Any] | None = _live()


@attrs.frozen
class Render(Effect):
    """Show progress.

    Attributes:
      label: what is under way, for example `epoch 3`.
      completed: batches done.
      total: batches in all; None when unknown.
      done: whether this part is over, so that where there is no terminal its line is printed.
      metrics: live, so that a value is read only if it is shown.
    """

    label: str
    completed: int = 0
    total: int | None = None
    done: bool = False
    metrics: Mapping[str, float] | None = _live()


@attrs.frozen
class LogImage(Effect):
    """Send an image, (channels, height, width) with values in [0, 1], to the sinks that show images."""

    name: str
    image: Any = _live()


@attrs.frozen
class LogHistogram(Effect):
    """Send the values of a tensor of any shape to the sinks that show histograms."""

    name: str
    values: Any = _live()
