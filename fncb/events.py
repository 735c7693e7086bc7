"""What happened: one frozen record per event.

Every hook hears one class of event, and the class is named for its hook: `on_validation_end` hears
`ValidationEnd`. Events are facts. They carry the counters of the run, the metrics measured at that moment, and
sometimes *live* fields: objects that exist only while training, are neither compared, printed nor recorded, and
raise an error that says so when they are touched later.

This file is long because there are many: it is one list, read by looking a name up.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import attrs

from fncb.live import LIVE
from fncb.metrics import Metrics as Metrics
from fncb.metrics import MissingMetric as MissingMetric
from fncb.metrics import StepMetrics as StepMetrics
from fncb.not_in_step import NotInStep

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
else:
    Tensor = Module = Any  # their names are looked up when a recording is read, which must not wait for torch

E = TypeVar("E")
T_co = TypeVar("T_co", covariant=True)
Tensors: TypeAlias = Mapping[str, Tensor]
"""Tensors by the names of parameters or buffers."""
Stage = Literal["fit", "validate", "test", "predict"]


def _metrics(values: Mapping[str, float]) -> Metrics:
    return values if isinstance(values, Metrics) else Metrics(values)


class LiveFieldError(LookupError):  # no AttributeError, which hasattr and getattr with a default pass over
    """A live field was touched where there is none: under replay, or in an event made by hand without it."""


class _Absent:
    def __repr__(self) -> str:
        return "<absent>"


_ABSENT: Any = _Absent()


class _Live(Protocol[T_co]):
    """What a live field is to a type checker: it can be read from an event, and not be written."""

    def __get__(self, event: Any, kind: Any = None, /) -> T_co: ...


def _reads(name: str) -> Any:
    slot = f"_{name}"

    def read(self: "Event") -> Any:
        value = getattr(self, slot)
        if value is _ABSENT:
            raise LiveFieldError(
                f"{type(self).__name__} at step {self.step}: `{name}` is a live field, got none. It exists while "
                f"training, not in a recording or an event made without it. Pass `{name}=` when making the event, or "
                "keep what the hook needs as a metric."
            )
        return value

    return property(read, doc=f"Live: `{name}`, as it is at this moment of the run.")


@attrs.frozen(kw_only=True, slots=False)
class Event:
    """Something that happened in a run.

    Attributes:
      epoch: 0-based.
      step: optimizer steps made so far (those that a callback skipped count too).
      seconds: since the run began, summed over its resumes.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0


@attrs.frozen(kw_only=True, slots=False)
class _Staged(Event):
    """An event of a whole run: `stage` is the function that was called."""

    stage: Stage = "fit"


@attrs.frozen(kw_only=True, slots=False)
class _Measured(Event):
    """An event that carries metrics: a mapping from name to float."""

    metrics: Mapping[str, float] = attrs.field(factory=Metrics, converter=_metrics)


@attrs.frozen(kw_only=True, slots=False)
class _Batch(Event):
    """An event of one batch: `batch_idx` counts from 0 in its epoch, `dataloader_idx` tells which loader gave it."""

    batch_idx: int = 0
    dataloader_idx: int = 0
    _batch: Any = attrs.field(default=_ABSENT, alias="batch", **LIVE)
    batch: ClassVar[_Live[Any]] = _reads("batch")


@attrs.frozen(kw_only=True, slots=False)
class _BatchStart(_Batch):
    """A batch that is about to be used; `samples` is how many it holds, the length of its first tensor."""

    samples: int = 0


@attrs.frozen(kw_only=True, slots=False)
class _Turn(_Batch):
    """An event of one optimizer's turn on a batch; `optimizer` is its name, None where there is only one."""

    optimizer: str | None = None


@attrs.frozen(kw_only=True, slots=False)
class _BatchEnd(_Batch):
    """The end of a batch, with what the model or the loss gave back."""

    metrics: Mapping[str, float] = attrs.field(factory=Metrics, converter=_metrics)
    _outputs: Any = attrs.field(default=_ABSENT, alias="outputs", **LIVE)
    outputs: ClassVar[_Live[Any]] = _reads("outputs")


# A run from end to end.


@attrs.frozen(kw_only=True, slots=False)
class InitStart(_Staged):
    """The first thing when a run is being set up."""


@attrs.frozen(kw_only=True, slots=False)
class InitEnd(_Staged):
    """The last thing when a run is being set up."""


@attrs.frozen(kw_only=True, slots=False)
class Setup(_Staged):
    """A stage begins. Hook: `setup`. In a `fast_dev_run`, stop early and save nothing.

    `time` is what the machine's clock says, in seconds since 1970 in UTC.
    """

    fast_dev_run: bool = False
    time: float = 0.0


@attrs.frozen(kw_only=True, slots=False)
class ConfigureShardedModel(_Staged):
    """After `setup`, before optimizers exist: where a model would be sharded."""


@attrs.frozen(kw_only=True, slots=False)
class Teardown(_Staged):
    """A stage ends, also after an exception. Hook: `teardown`."""


@attrs.frozen(kw_only=True, slots=False)
class FitStart(Event):
    """Optimizers exist, weights and callback states are loaded. `max_epochs` and `max_steps` are -1 without a limit."""

    max_epochs: int = -1
    max_steps: int = -1


@attrs.frozen(kw_only=True, slots=False)
class FitEnd(Event):
    """Training and everything around it is over."""


@attrs.frozen(kw_only=True, slots=False)
class SanityCheckStart(Event):
    """A few validation batches are about to be tried before training."""


@attrs.frozen(kw_only=True, slots=False)
class SanityCheckEnd(Event):
    """The validation batches before training went through; what was measured is forgotten."""


@attrs.frozen(kw_only=True, slots=False)
class ExceptionRaised(Event):
    """Something raised. `error` is its type's name, `message` its text. Hook: `on_exception`.

    `signal` is `SIGINT` or `SIGTERM` if that was acted on, which is done between batches; None otherwise.
    """

    error: str = ""
    message: str = ""
    signal: str | None = None
    _exception: BaseException = attrs.field(default=_ABSENT, alias="exception", **LIVE)
    exception: ClassVar[_Live[BaseException]] = _reads("exception")


@attrs.frozen(kw_only=True, slots=False)
class KeyboardInterrupted(Event):
    """Ctrl-C was pressed. Hook: `on_keyboard_interrupt`."""


@attrs.frozen(kw_only=True, slots=False)
class StopRequested(Event):
    """A callback asked to stop, or the loop was told to."""

    reason: str = ""


@attrs.frozen(kw_only=True, slots=False)
class StepCompiled(Event):
    """The training step was compiled, for a kind of batch that it had no graph for.

    `graphs` is how many were compiled so far, `recompilations` those of them beyond the first of each kind, `level` how
    the step runs, and `batch` a word on the batch: shapes and dtypes of its tensors.
    """

    graphs: int = 0
    recompilations: int = 0
    level: str = ""
    batch: str = ""


@attrs.frozen(kw_only=True, slots=False)
class Probed(Event):
    """A `Probe` is answered: `what` was asked for by the callback `key`, and `metrics` is what was found.

    `at` is the hook at which it was asked for, whose event came right before.
    """

    what: str = ""
    key: str = ""
    at: str = ""
    metrics: Mapping[str, float] = attrs.field(factory=Metrics, converter=_metrics)


# Checkpoints.


@attrs.frozen(kw_only=True, slots=False)
class Saved(Event):
    """A `Save` is on disk. `path` is the file's real name, `requested` the name that was asked for.

    `bytes` is its size; `took` for how many seconds it was written, in the background too, 0.0 if that is not known.
    """

    path: str = ""
    requested: str = ""
    bytes: int = 0
    took: float = 0.0


@attrs.frozen(kw_only=True, slots=False)
class SaveCheckpoint(Event):
    """A checkpoint is about to be written to `path`; `emit(state, Attach(data))` puts plain data into it."""

    path: str = ""


@attrs.frozen(kw_only=True, slots=False)
class LoadCheckpoint(Event):
    """A checkpoint was read. `path` is its file, `attached` maps a callback's key to what it attached when saving."""

    path: str = ""
    attached: Mapping[str, Any] = attrs.field(factory=dict)


# Training.


@attrs.frozen(kw_only=True, slots=False)
class TrainStart(_Measured):
    """Before the first epoch. `metrics` holds the learning rates in use."""


@attrs.frozen(kw_only=True, slots=False)
class TrainEnd(_Measured):
    """After the last epoch."""


@attrs.frozen(kw_only=True, slots=False)
class EpochStart(Event):
    """An epoch of training, validation or test begins, just before that stage's own event."""


@attrs.frozen(kw_only=True, slots=False)
class EpochEnd(Event):
    """An epoch of training, validation or test ends, just after that stage's own event."""


@attrs.frozen(kw_only=True, slots=False)
class TrainEpochStart(_Measured):
    """An epoch begins. `batches` is how many it has, None when the loader does not know."""

    batches: int | None = None


@attrs.frozen(kw_only=True, slots=False)
class TrainEpochEnd(_Measured):
    """An epoch is over, validation included. `metrics` holds its means and those of its last validation."""


@attrs.frozen(kw_only=True, slots=False)
class TrainBatchStart(_BatchStart):
    """A batch is on the device; `metrics` holds the learning rates. In the step, a hook may replace `batch`.

    `waited` is for how many seconds training waited for its loader since the batch before.
    """

    waited: float = 0.0
    metrics: Mapping[str, float] = attrs.field(factory=Metrics, converter=_metrics)
    _params: Tensors = attrs.field(default=_ABSENT, alias="params", **LIVE)
    params: ClassVar[_Live[Tensors]] = _reads("params")


@attrs.frozen(kw_only=True, slots=False)
class BeforeZeroGrad(_Turn):
    """Gradients of the last update are about to be dropped."""


@attrs.frozen(kw_only=True, slots=False)
class BeforeBackward(_Turn):
    """The loss is known, divided by the accumulated batches. In the step, a hook may replace `loss`."""

    _loss: Tensor = attrs.field(default=_ABSENT, alias="loss", **LIVE)
    loss: ClassVar[_Live[Tensor]] = _reads("loss")


@attrs.frozen(kw_only=True, slots=False)
class AfterBackward(_Turn):
    """This batch's gradients are known. In the step, a hook may replace `grads`, a mapping from name to tensor.

    `activations` maps the names of submodules that `StepHooks.watch` asks for to what they returned, detached.
    """

    _loss: Tensor = attrs.field(default=_ABSENT, alias="loss", **LIVE)
    _grads: Tensors = attrs.field(default=_ABSENT, alias="grads", **LIVE)
    _params: Tensors = attrs.field(default=_ABSENT, alias="params", **LIVE)
    _activations: Mapping[str, Any] = attrs.field(default=_ABSENT, alias="activations", **LIVE)
    loss: ClassVar[_Live[Tensor]] = _reads("loss")
    grads: ClassVar[_Live[Tensors]] = _reads("grads")
    params: ClassVar[_Live[Tensors]] = _reads("params")
    activations: ClassVar[_Live[Mapping[str, Any]]] = _reads("activations")


@attrs.frozen(kw_only=True, slots=False)
class BeforeOptimizerStep(_Turn):
    """The gradients of the whole window are known. In the step, a hook may replace `grads`."""

    _loss: Tensor = attrs.field(default=_ABSENT, alias="loss", **LIVE)
    _grads: Tensors = attrs.field(default=_ABSENT, alias="grads", **LIVE)
    _params: Tensors = attrs.field(default=_ABSENT, alias="params", **LIVE)
    loss: ClassVar[_Live[Tensor]] = _reads("loss")
    grads: ClassVar[_Live[Tensors]] = _reads("grads")
    params: ClassVar[_Live[Tensors]] = _reads("params")


@attrs.frozen(kw_only=True, slots=False)
class AfterOptimizerStep(_Turn):
    """The parameters moved. In the step, a hook may replace `params`, a mapping from name to tensor."""

    _grads: Tensors = attrs.field(default=_ABSENT, alias="grads", **LIVE)
    _params: Tensors = attrs.field(default=_ABSENT, alias="params", **LIVE)
    _buffers: Tensors = attrs.field(default=_ABSENT, alias="buffers", **LIVE)
    grads: ClassVar[_Live[Tensors]] = _reads("grads")
    params: ClassVar[_Live[Tensors]] = _reads("params")
    buffers: ClassVar[_Live[Tensors]] = _reads("buffers")


@attrs.frozen(kw_only=True, slots=False)
class TrainBatchEnd(_BatchEnd):
    """A batch is done. `metrics` holds `loss`, what the loss returned beside it and what step hooks published.

    In the step, `model` is what `StepHooks.reads_model` asks for.
    """

    _params: Tensors = attrs.field(default=_ABSENT, alias="params", **LIVE)
    _model: Module = attrs.field(default=_ABSENT, alias="model", **LIVE)
    params: ClassVar[_Live[Tensors]] = _reads("params")
    model: ClassVar[_Live[Module]] = _reads("model")


# Validation, test, prediction.


@attrs.frozen(kw_only=True, slots=False)
class ValidationStart(Event):
    """Validation begins; the model is in eval mode. `batches` is how many it has, None when unknown."""

    batches: int | None = None


@attrs.frozen(kw_only=True, slots=False)
class ValidationEpochStart(Event):
    """The pass over the validation batches begins."""


@attrs.frozen(kw_only=True, slots=False)
class ValidationBatchStart(_BatchStart):
    """A validation batch is on the device."""


@attrs.frozen(kw_only=True, slots=False)
class ValidationBatchEnd(_BatchEnd):
    """A validation batch is done."""


@attrs.frozen(kw_only=True, slots=False)
class ValidationEpochEnd(Event):
    """The pass over the validation batches is over."""


@attrs.frozen(kw_only=True, slots=False)
class ValidationEnd(_Measured):
    """Validation is over. `metrics` holds its means, prefixed `val_`; with `epoch_is_over`, `TrainEpochEnd` is next."""

    epoch_is_over: bool = False


@attrs.frozen(kw_only=True, slots=False)
class TestStart(Event):
    """Testing begins; the model is in eval mode."""

    __test__ = False
    batches: int | None = None


@attrs.frozen(kw_only=True, slots=False)
class TestEpochStart(Event):
    """The pass over the test batches begins."""

    __test__ = False


@attrs.frozen(kw_only=True, slots=False)
class TestBatchStart(_BatchStart):
    """A test batch is on the device."""

    __test__ = False


@attrs.frozen(kw_only=True, slots=False)
class TestBatchEnd(_BatchEnd):
    """A test batch is done."""

    __test__ = False


@attrs.frozen(kw_only=True, slots=False)
class TestEpochEnd(Event):
    """The pass over the test batches is over."""

    __test__ = False


@attrs.frozen(kw_only=True, slots=False)
class TestEnd(_Measured):
    """Testing is over. `metrics` holds its means, prefixed `test_`."""

    __test__ = False


@attrs.frozen(kw_only=True, slots=False)
class PredictStart(Event):
    """Prediction begins; the model is in eval mode."""

    batches: int | None = None


@attrs.frozen(kw_only=True, slots=False)
class PredictEpochStart(Event):
    """The pass over the batches to predict begins."""


@attrs.frozen(kw_only=True, slots=False)
class PredictBatchStart(_BatchStart):
    """A batch to predict is on the device."""


@attrs.frozen(kw_only=True, slots=False)
class PredictBatchEnd(_BatchEnd):
    """A batch is predicted; `outputs` is the prediction."""


@attrs.frozen(kw_only=True, slots=False)
class PredictEpochEnd(Event):
    """The pass over the batches to predict is over; `predictions` are its results, where they are kept."""

    _predictions: list[Any] = attrs.field(default=_ABSENT, alias="predictions", **LIVE)
    predictions: ClassVar[_Live[list[Any]]] = _reads("predictions")


@attrs.frozen(kw_only=True, slots=False)
class PredictEnd(Event):
    """Prediction is over."""


_HOOKS_NAMED_OTHERWISE = {
    "Setup": "setup",
    "Teardown": "teardown",
    "ExceptionRaised": "on_exception",
    "KeyboardInterrupted": "on_keyboard_interrupt",
}


def hook_name(kind: type[Event]) -> str:
    """The name of the hook that hears an event.

    Example:
      >>> hook_name(ValidationEnd), hook_name(Setup)
      ('on_validation_end', 'setup')
    """
    name = kind.__name__
    return _HOOKS_NAMED_OTHERWISE.get(name) or "on" + re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name)


HOOKS: dict[str, type[Event]] = {
    hook_name(value): value
    for value in vars(sys.modules[__name__]).values()
    if isinstance(value, type) and issubclass(value, Event) and value is not Event and value.__name__[0] != "_"
}
"""Every hook's name and the event that it hears, in the order of this file."""

IN_STEP: tuple[type[Event], ...] = (
    TrainBatchStart,
    BeforeBackward,
    AfterBackward,
    BeforeOptimizerStep,
    BeforeZeroGrad,
    AfterOptimizerStep,
    TrainBatchEnd,
)
"""The events that step hooks hear, inside the compiled step."""


def counters(event: Event) -> dict[str, Any]:
    """An event's counters by name, as other events and records have them."""
    return {"epoch": event.epoch, "step": event.step, "seconds": event.seconds}


def known_fields(event: Event) -> list[str]:
    """The names of the fields that an event has a value for.

    Example:
      >>> known_fields(TrainBatchEnd(outputs=0.5))
      ['epoch', 'step', 'seconds', 'batch_idx', 'dataloader_idx', 'metrics', 'outputs']
    """
    values = {field.alias or field.name: getattr(event, field.name) for field in attrs.fields(type(event))}
    return [name for name, value in values.items() if not isinstance(value, _Absent | NotInStep)]


def outside_sanity_checks(events: Iterable[E]) -> Iterator[E]:
    """Those events of a run that are not of a sanity check, whose metrics are forgotten.

    Example:
      >>> sanity_check = [SanityCheckStart(), ValidationEnd(step=0), SanityCheckEnd()]
      >>> [*outside_sanity_checks([*sanity_check, ValidationEnd(step=9)])]
      [ValidationEnd(epoch=0, step=9, seconds=0.0, metrics={}, epoch_is_over=False)]
    """
    trying = False
    for event in events:
        kind = type(event)
        if trying or kind is SanityCheckStart:
            trying = kind is not SanityCheckEnd
        else:
            yield event
