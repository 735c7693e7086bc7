"""What callbacks see of the model: as it is, or for the length of a pass with other weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fncb import events as ev
from fncb.effects import Effect, Examine, Measure, View
from fncb.position import random_state, set_random_state
from fncb.step_hooks import NamedParams
from fncb.views import eval_mode, view_of


class Sight:
    """Carries out the effects that look at the model.

    Args:
      trained: the model itself.
      step_states: gives the step states by key.

    Attributes:
      model: what is evaluated and looked at: the model, or a view of it.
    """

    def __init__(self, trained: nn.Module, step_states: Callable[[], Mapping[str, Any]] = dict):
        self.model = self._trained = trained
        self._step_states = step_states
        self._measured: dict[str, Tensor] = {}

    def carries_out(self) -> dict[type[Effect], Any]:
        """Effects and the functions that carry them out."""
        return {View: self.view, Measure: self.measure, Examine: self.examine}

    @contextmanager
    def of_a_pass(self) -> Iterator[None]:
        """For the length of this block a view may take the model's place."""
        try:
            yield
        finally:
            self.model = self._trained

    def view(self, effect: View, event: ev.Event) -> None:
        """Has the pass that starts made with other weights."""
        if not isinstance(event, ev.ValidationStart | ev.TestStart | ev.PredictStart):
            kind = type(event).__name__
            moments = "on_validation_start, on_test_start or on_predict_start"
            raise ValueError(f"View: it must be asked for at {moments}, got it at {kind}.")
        named = {name: p.detach() for name, p in self._trained.named_parameters()}
        buffers = dict(self._trained.named_buffers())
        given = _called(effect, NamedParams(named, buffers), self._step_states())
        unknown = given.keys() - named.keys() - buffers.keys()
        if unknown:
            raise ValueError(f"View {effect.name!r}: names must be of parameters or buffers, got {sorted(unknown)}.")
        if given:
            self.model = view_of(self._trained, given)

    def measure(self, effect: Measure, event: ev.Event) -> None:
        """Measures a batch."""
        if not isinstance(event, ev.ValidationBatchEnd | ev.TestBatchEnd):
            kind = type(event).__name__
            raise ValueError(
                f"Measure: it must be asked for at on_validation_batch_end or on_test_batch_end, got it at {kind}."
            )
        with torch.no_grad():
            given = _called(effect, self.model, event, self._step_states())
        if not isinstance(given, Mapping):
            raise TypeError(f"Measure {effect.name!r}: fn must return a mapping from name to tensor, got {given!r}.")
        for name, value in given.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise TypeError(f"Measure {effect.name!r}: {name!r} must be a 0-d tensor, got {value!r}.")
        twice = self._measured.keys() & given.keys()
        if twice:
            raise ValueError(f"Measure {effect.name!r}: each metric must have a name of its own, got {sorted(twice)}.")
        self._measured.update({name: value.reshape(()) for name, value in given.items()})

    def measured(self) -> dict[str, Tensor]:
        """What was measured since this was last called."""
        measured, self._measured = self._measured, {}
        return measured

    def examine(self, effect: Examine, event: ev.Event) -> Iterable[Effect]:
        """Has a function look at the model; gives the effects that it returned."""
        before = random_state()
        try:
            with torch.no_grad(), eval_mode(self.model) if effect.eval_mode else nullcontext():
                found = _called(effect, self.model, event, self._step_states())
                return (found,) if isinstance(found, Effect) else tuple(found or ())  # a generator runs in here too
        finally:
            set_random_state(before)


def _called(effect: Any, *given: Any) -> Any:
    if effect.fn is None:
        raise ValueError(f"{type(effect).__name__} {effect.name!r}: fn must be a function, got None.")
    return effect.fn(*given)
