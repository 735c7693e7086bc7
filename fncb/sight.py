"""What callbacks see of the model: as it is, or for the length of a pass with other weights."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fncb import events as ev
from fncb.effects import Effect, Examine, Measure, View
from fncb.handling import Handler, called, must_be_asked_at
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

    model: nn.Module

    def __init__(self, trained: nn.Module, step_states: Callable[[], Mapping[str, Any]] = dict):
        self.model = self._trained = trained
        self._step_states = step_states
        self._measured: dict[str, Tensor] = {}

    def carries_out(self) -> dict[type[Effect], Handler]:
        """Effects and the functions that carry them out."""
        return {View: self.view, Measure: self.measure, Examine: self.examine}

    @contextmanager
    def of_a_pass(self) -> Generator[None]:
        """For the length of this block a view may take the model's place."""
        try:
            yield
        finally:
            self.model = self._trained

    def view(self, effect: View, event: ev.Event) -> None:
        """Has the pass that starts made with other weights."""
        must_be_asked_at("View", event, ev.ValidationStart, ev.TestStart, ev.PredictStart)
        named = {name: p.detach() for name, p in self._trained.named_parameters()}
        buffers = dict(self._trained.named_buffers())
        given = called(effect, NamedParams(named, buffers), self._step_states())
        unknown = given.keys() - named.keys() - buffers.keys()
        if unknown:
            raise ValueError(f"View {effect.name!r}: names must be of parameters or buffers, got {sorted(unknown)}.")
        if given:
            self.model = view_of(self._trained, given)

    def measure(self, effect: Measure, event: ev.Event) -> None:
        """Measures a batch."""
        must_be_asked_at("Measure", event, ev.ValidationBatchEnd, ev.TestBatchEnd)
        with torch.no_grad():
            given = called(effect, self.model, event, self._step_states())
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
                found = called(effect, self.model, event, self._step_states())
                return (found,) if isinstance(found, Effect) else tuple(found or ())  # a generator runs in here too
        finally:
            set_random_state(before)
