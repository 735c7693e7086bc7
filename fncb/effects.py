"""What should be done: one frozen record per effect.

A hook does nothing itself: it returns effects, and they are carried out after all hooks of the event have run, in
order. Effects that have to name something live (a function, an image) hold it in a field that is not compared,
printed or recorded.

This file is long because there are many: it is one list, read by looking a name up.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from fncb.live import LIVE

Named: TypeAlias = Mapping[str, Any]
"""Tensors by name, or step states by key."""


def _fspath(path: str | os.PathLike[str]) -> str:
    return os.fspath(path)


def _live() -> Any:
    return attrs.field(default=None, **LIVE)


@attrs.frozen
class Effect:
    """Something that a callback asks for.

    `key` is the callback's, which is filled in; two effects that differ in nothing else are equal.
    """

    key: str | None = attrs.field(default=None, eq=False, repr=False, kw_only=True)


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
      weights_only: whether the file holds the model's weights and nothing to go on from.
      starting_version: the n of the first suffix `-v<n>`, where the name is taken.
    """

    path: str = attrs.field(converter=_fspath)
    within: str | None = attrs.field(default=None, converter=attrs.converters.optional(_fspath))
    background: bool = False
    weights_only: bool = False
    starting_version: int = attrs.field(default=1, repr=False)


@attrs.frozen
class Link(Effect):
    """Have the name `path` lead to the file `to`, both in the folder `within`: a convenience that nothing relies on.

    A link of that name is replaced in one step. Anything else that has the name stays, and one log line says so; where
    there are no symbolic links there is none, likewise.
    """

    path: str = attrs.field(converter=_fspath)
    to: str = attrs.field(converter=_fspath)
    within: str | None = None


@attrs.frozen
class Delete(Effect):
    """Delete the checkpoint at `path`, which must be in the folder `within`. One that is gone already is no error."""

    path: str = attrs.field(converter=_fspath)
    within: str | None = None


@attrs.frozen
class Log(Effect):
    """Send `metrics` to the sinks and add them to the metrics of the events that follow.

    With `only_to_sinks` they join no events: that is for many numbers that no callback decides by, as each event would
    carry and record them all.
    """

    metrics: Mapping[str, float]
    only_to_sinks: bool = attrs.field(default=False, repr=False)


@attrs.frozen
class Print(Effect):
    """Show text. `rich`, if there is one, is what a terminal that `rich` can draw on shows in its place."""

    text: str
    rich: Any = _live()


@attrs.frozen
class SetLR(Effect):
    """Set the learning rate of every parameter group, or of the one at index `group`, of every optimizer or of one.

    Indices count as Python's do: -1 is the last group.
    """

    lr: float
    group: int | None = None
    optimizer: str | None = None


@attrs.frozen
class ScaleLR(Effect):
    """Multiply the learning rate of every parameter group by `factor`, but not to less than `min_lr`.

    A rate that would change by `eps` or less stays, and so does one that is below `min_lr` already.
    """

    factor: float
    min_lr: float = 0.0
    eps: float = 0.0


@attrs.frozen
class HoldSchedules(Effect):
    """The task's schedules rest from now on, for good, so that somebody else sets the learning rates."""


@attrs.frozen
class Set(Effect):
    """Set a number by its name.

    A checkpoint has it, but for an attribute of the model: ask again at `on_train_start`, which a resumed run hears.

    Attributes:
      setting: `lr`, `accumulate_grad_batches`, `optimizer.<name>` (a setting of every parameter group, such as
        `optimizer.weight_decay` or `optimizer.betas.0`), `model.<path>` (an attribute of a submodule, such as
        `model.dropout.p`), or `step_state.<key>.<path>`, a 0-d tensor that a callback keeps.
      value: what it is set to: as an int where an int was and it is a whole number.
    """

    setting: str
    value: float


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

    To be asked for at `on_save_checkpoint`.
    """

    data: Any


@attrs.frozen
class Freeze(Effect):
    """Stop training the parameters whose names match `pattern`, a shell pattern such as `encoder.*`.

    The step states of callbacks are taken up anew without them; they keep their place in the optimizer.

    Attributes:
      pattern: matches names of parameters.
      train_bn: True leaves those of batch normalisation out, which go on training; False has these layers stop
        tracking running statistics too, until they are unfrozen; None treats them as all others.
      leave_optimizer: whether they also leave their parameter groups, to come back to a new one.
    """

    pattern: str
    train_bn: bool | None = None
    leave_optimizer: bool = False


@attrs.frozen
class Unfreeze(Effect):
    """Train the parameters whose names match `pattern` again.

    With `lr` they get a parameter group of their own; without, they go back to theirs, or, where they have none, to a
    new one with the rate of the first. Those that are trained already stay in their group. With `train_bn` False, the
    parameters of batch normalisation stay as they are.
    """

    pattern: str
    lr: float | None = None
    train_bn: bool | None = None


@attrs.frozen
class Apply(Effect):
    """Replace parameters, buffers and step state by what a pure function makes of them.

    `fn(params, step_state)` is given a mapping from every parameter's name to its tensor (which has the buffers' as its
    attribute `buffers`) and one from callback key to its step state, and returns both as a tuple. What it returns in
    place of the first may leave names out, and may name buffers; names and shapes of step states stay. `name` is for
    the record.
    """

    name: str
    fn: Callable[[Named, Named], tuple[Named, Named]] | None = _live()


@attrs.frozen
class Transform(Effect):
    """Change the model in place: `fn(model)` swaps submodules or sets attributes of them. The step is compiled anew.

    The names and tensors of what is trained stay; at `on_fit_end`, when nothing is trained any more, they may go.
    `name` is for the record.
    """

    name: str
    fn: Callable[[Any], object] | None = _live()


@attrs.frozen
class RefreshBatchNorm(Effect):
    """Measure the running statistics of batch normalisation anew: one pass over the training batches, forward only.

    It takes as many batches as the last epoch had. To be asked for at `on_train_epoch_end` or `on_train_end`; without
    such layers nothing happens.
    """


@attrs.frozen
class Remember(Effect):
    """Keep a copy of parameters, buffers, optimizers and step states in memory, in place of the one before."""


@attrs.frozen
class Rollback(Effect):
    """Put back what `Remember` kept; counters, schedules and data go on from where they are."""


@attrs.frozen
class View(Effect):
    """Evaluate with other weights: the validation, test or prediction that starts is made on a view of the model.

    `fn(params, step_state)`, with arguments as for `Apply`, gives tensors by the names of parameters and buffers; the
    others are the model's own. No weight of the model is touched, and nothing is copied. Of several the last one
    counts. To be asked for at `on_validation_start`, `on_test_start` or `on_predict_start`; `name` is for the record.
    """

    name: str
    fn: Callable[[Named, Named], Named] | None = _live()


@attrs.frozen
class Measure(Effect):
    """Have a function measure a batch of a validation or test: its values join the means of the metrics.

    `fn(model, event, step_state)` is given the model in eval mode (the view, if there is one), without gradients, the
    event with its batch and outputs, and the step states by key; it returns a mapping from name to 0-d tensor. To be
    asked for at each `on_validation_batch_end` or `on_test_batch_end`; `name` is for the record.
    """

    name: str
    fn: Callable[[Any, Any, Named], Named] | None = _live()


@attrs.frozen
class Examine(Effect):
    """Have a function look at the model: what it returns, effects such as `Log` and `LogImage`, is carried out.

    `fn(model, event, step_state)` is given arguments as for `Measure`. What it draws from generators leaves those of
    the run as they were. `name` is for the record. With `eval_mode` False each module is in the mode that it is in.
    """

    name: str
    fn: Callable[[Any, Any, Named], Effect | Iterable[Effect] | None] | None = _live()
    eval_mode: bool = attrs.field(default=True, repr=False)


@attrs.frozen
class Call(Effect):
    """Call `fn(event)`, for what happens outside of the run; what it returns counts for nothing.

    `name` is for the record.
    """

    name: str
    fn: Callable[[Any], object] | None = _live()


@attrs.frozen
class KeepPredictions(Effect):
    """Have `on_predict_epoch_end` given all predictions, also where the caller wants none; at `on_predict_start`."""


@attrs.frozen
class Probe(Effect):
    """Find out something about the world; answered by `Probed`, for the same `key`.

    Attributes:
      what: "device" (memory and use of the accelerator; of the CPU with the argument True), "optimizer" (momentum and
        weight decay of the parameter groups), "file" (whether the path that is the argument exists: answered if it
        does) or "flops" (floating-point operations of a training step on the batch under way, answered if they can be
        counted, and as "available_flops" how many the device could make a second, if it is known).
      argument: plain data.
    """

    what: Literal["device", "optimizer", "file", "flops"]
    argument: str | bool | None = None


@attrs.frozen
class Append(Effect):
    """Add a line to the text file at `path`, which is made if needed, and its directory; what it holds stays."""

    path: str = attrs.field(converter=_fspath)
    line: str


@attrs.frozen
class CollectGarbage(Effect):
    """Collect Python's garbage up to a generation, 0 to 2; from the first time on, only then, until the run ends."""

    generation: int = 1


@attrs.frozen
class StartProfiler(Effect):
    """Profile what comes, with `torch.profiler`, into a trace at `path` (`-v1`, ... if taken) that Chrome can show.

    Attributes:
      path: the file, `.json` or `.json.gz`.
      record_shapes, profile_memory, with_stack: as of `torch.profiler.profile`.
    """

    path: str = attrs.field(converter=_fspath)
    record_shapes: bool = False
    profile_memory: bool = False
    with_stack: bool = False


@attrs.frozen
class StopProfiler(Effect):
    """End the profile that is under way and write its trace."""


@attrs.frozen
class Render(Effect):
    """Show progress.

    Attributes:
      label: what is under way, for example `epoch 3`.
      completed: batches done.
      total: batches in all; None when unknown.
      done: whether this part is over, so that where there is no terminal its line is printed.
      style: what draws it: "rich" or "tqdm".
      options: for that, by name.
      part_of: the label of what it is a part of, such as a validation of its epoch; a part has no line of its own.
      metrics: live, so that a value is read only if it is shown.
      renderer: live, what draws it instead: an object with `render(effect, event)` and `close()`.
    """

    label: str
    completed: int = 0
    total: int | None = None
    done: bool = False
    style: Literal["rich", "tqdm"] = "rich"
    options: Mapping[str, Any] = attrs.field(factory=dict)
    part_of: str | None = None
    metrics: Mapping[str, float] | None = _live()
    renderer: Any = _live()


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


OF_TRAINING: tuple[type[Effect], ...] = (
    *(SetLR, ScaleLR, HoldSchedules, Set, SetAccumulation, Validate, Skip, StopEpoch, Freeze, Unfreeze),
    *(Apply, Transform, RefreshBatchNorm, Remember, Rollback),
)
"""Effects that only a training can carry out."""

CHANGE_NUMBERS: frozenset[type[Effect]] = frozenset((*OF_TRAINING, View, Measure)) - {Remember}
"""Effects after which the numbers of a run are others; `Stop` ends it, and what came before stays true."""
