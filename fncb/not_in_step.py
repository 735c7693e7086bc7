"""What a step hook's event holds in the place of what the compiled step does not know: using it raises."""

from collections.abc import Mapping
from functools import cache
from typing import Any, NoReturn

from fncb.live import recorded_fields

_USES = (
    *("bool", "int", "float", "index", "format", "array", "eq", "ne", "lt", "le", "gt", "ge", "hash"),
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "neg", "pos", "abs", "round"),
    *("radd", "rsub", "rmul", "rtruediv", "rfloordiv", "rmod", "rdivmod", "rpow"),
)


class NotInStepError(LookupError):
    """A step hook used a field of its event that is known outside of the compiled step only."""


class NotInStep:
    """Stands for a value that the step does not know: whatever uses it raises `NotInStepError`.

    Example:
      >>> from fncb.events import TrainBatchEnd
      >>> event = TrainBatchEnd(batch_idx=NotInStep("TrainBatchEnd", "batch_idx"))
      >>> event
      TrainBatchEnd(epoch=0, step=0, seconds=0.0, batch_idx=<not known>, dataloader_idx=0, metrics={})
      >>> event.batch_idx % 2
      Traceback (most recent call last):
      fncb.not_in_step.NotInStepError: TrainBatchEnd: 'batch_idx' is not known inside the step. Read it in a host \
hook, or keep a count in the hook's state.
    """

    def __init__(self, event: str, field: str):
        """Takes the names of the event's class and of the field."""
        self._event, self._field = event, field

    def __repr__(self) -> str:
        return "<not known>"

    def _use(self, *_: Any, **__: Any) -> NoReturn:
        raise NotInStepError(
            f"{self._event}: {self._field!r} is not known inside the step. Read it in a host hook, or keep a count in "
            "the hook's state."
        )


for _name in _USES:
    setattr(NotInStep, f"__{_name}__", vars(NotInStep)["_use"])


@cache
def not_in_step(kind: type[Any]) -> Mapping[str, Any]:
    """All fields of an event that are not live, but for `metrics`, as not known: the step gives those it knows.

    Example:
      >>> from fncb.events import BeforeZeroGrad
      >>> [*not_in_step(BeforeZeroGrad)]
      ['epoch', 'step', 'seconds', 'batch_idx', 'dataloader_idx', 'optimizer']
    """
    names = [field.name for field in recorded_fields(kind)]
    return {name: NotInStep(kind.__name__, name) for name in names if name != "metrics"}
