"""Show histograms of what goes into submodules and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.callbacks.batch_parts import as_the_model, first_input
from fncb.callbacks.data_monitor import named_tensors
from fncb.effects import Examine, LogHistogram
from fncb.events import TrainBatchStart, TrainStart
from fncb.fields import must_be_callable, must_be_int


def module_data_monitor(
    submodules: bool | Sequence[str] | None = None,
    *,
    log_every_n_steps: int = 50,
    forward: Callable[[Any, Any], Any] | None = None,
    key: str = "module_data_monitor",
) -> Callback[EmptyState]:
    """Shows histograms of the inputs and outputs of submodules, as every n-th batch of a training epoch starts.

    For that the model is called on the batch once more, in eval mode and with the weights that the batch's own forward
    pass has: the compiled step itself is not looked into. A tensor is named for where it is and for its shape:
    `input/layer1/[2, 12]` and `output/layer1/[2, 5]` for a submodule, `input/[2, 12]` for the model itself. Where
    several tensors go in or come out, their places follow the name: `input/layer1/0/[2, 12]`. Keyword arguments are
    not shown; a submodule that is called several times is shown each time.

    Args:
      submodules: names, as `named_modules` gives them; True for all, the model itself included; None for the model.
      log_every_n_steps: batches, 1 or more: before that of index n - 1, 2 n - 1, ... of the epoch.
      forward: `forward(model, batch)` calls the model; None calls it on the batch's first part.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; when training starts, for a name that the
        model has not.

    Example:
      >>> monitor = module_data_monitor(["layer1"], log_every_n_steps=2)
      >>> [len(monitor.transition(monitor.init(), TrainBatchStart(batch_idx=i))[1]) for i in range(5)]
      [0, 1, 0, 1, 0]

    Known as:
      `ModuleDataMonitor` in Lightning Bolts.
    """
    who = "module_data_monitor"
    must_be_int(who, "log_every_n_steps", log_every_n_steps, 1, "batch")
    names = [*submodules] if isinstance(submodules, list | tuple) else None
    if names == [] or not all(isinstance(name, str) for name in names or ()):
        raise TypeError(f"{who}: submodules must be names, got {submodules!r}. True takes all.")
    if names is None and submodules is not None and submodules is not True:
        raise TypeError(f"{who}: submodules must be names, True or None, got {submodules!r}.")
    if forward is not None:
        must_be_callable(who, "forward", forward)

    def watched(model: Any) -> dict[str, Any]:
        there = dict(model.named_modules())
        wanted = names if names is not None else [*there] if submodules else [""]
        unknown = [name for name in wanted if name not in there]
        if unknown:
            raise ValueError(f"{who}: submodules must be of the model, got {unknown}. It has {[*there]}.")
        return {name: there[name] for name in wanted}

    def check(model: Any, *_: Any) -> None:
        watched(model)

    def show(model: Any, event: TrainBatchStart, _: Any) -> list[LogHistogram]:
        found: list[LogHistogram] = []

        def note(group: str, data: Any) -> None:
            for name, tensor in named_tensors(group, data):
                found.append(LogHistogram(name, tensor.clone()))  # before something writes over it in place

        def watch(name: str, module: Any) -> None:
            place = f"/{name}" if name else ""

            def before(_: Any, inputs: tuple[Any, ...]) -> None:
                note(f"input{place}", inputs[0] if len(inputs) == 1 else inputs)

            def after(_: Any, __: Any, output: Any) -> None:
                note(f"output{place}", output)

            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after).remove)

        with ExitStack() as hooks:
            for name, module in watched(model).items():
                watch(name, module)
            batch = as_the_model(model, event.batch)
            model(first_input(batch)) if forward is None else forward(model, batch)
        return found

    def on_train_start(state: EmptyState, event: TrainStart) -> Emit[EmptyState]:
        return emit(state, Examine(f"{who}: submodules", check))

    def on_train_batch_start(state: EmptyState, event: TrainBatchStart) -> EmptyState | Emit[EmptyState]:
        due = (event.batch_idx + 1) % log_every_n_steps == 0
        return emit(state, Examine(who, show)) if due else state

    return Callback(
        constructor="module_data_monitor",
        key=key,
        emits=(Examine, LogHistogram),
        config={"submodules": submodules, "log_every_n_steps": log_every_n_steps, "forward": forward},
        on_train_start=on_train_start if names else None,
        on_train_batch_start=on_train_batch_start,
    )
