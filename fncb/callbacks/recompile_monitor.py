"""Tell when the training step is compiled again."""

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.effects import Effect, Log, Print, Stop
from fncb.events import StepCompiled
from fncb.fields import must_be_int


def recompile_monitor(
    *, max_recompilations: int = 2, stop: bool = False, verbose: bool = False, key: str = "recompile_monitor"
) -> Callback[EmptyState]:
    """Logs how many graphs the step has, and says so when it is compiled again and again.

    Whenever the step was compiled it logs `step_graphs`, the graphs compiled since the run began or was resumed, and
    `step_recompilations`, those of them beyond the first of each kind: accumulating or updating, which optimizers take
    part, and each region. Compiling takes seconds. An epoch's last batch, if it is smaller, costs one recompilation; a
    third shape costs one more, and that graph serves all further shapes. What else costs one is a number in the model
    that is changed, a batch of another dtype or structure, and what is frozen, unfrozen or transformed.

    Args:
      max_recompilations: 0 or more: beyond so many, each prints the batch at which it came, its shapes and dtypes.
      stop: whether the run is stopped then.
      verbose: whether every compilation is printed.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for a number of recompilations that is none.

    Example:
      >>> monitor = recompile_monitor()
      >>> event = StepCompiled(step=9, graphs=4, recompilations=3, level="one graph", batch="float32[7, 2]")
      >>> for effect in monitor.transition(monitor.init(), event)[1]:
      ...     print(effect)
      Log(metrics={'step_graphs': 4, 'step_recompilations': 3})
      Print(text='recompile_monitor: step 9 compiled graph 4 (one graph, 3 recompilations) for float32[7, 2]')

    Known as:
      nothing elsewhere.
    """
    must_be_int("recompile_monitor", "max_recompilations", max_recompilations, 0)

    def on_step_compiled(state: EmptyState, event: StepCompiled) -> Emit[EmptyState]:
        counted = {"step_graphs": event.graphs, "step_recompilations": event.recompilations}
        what = f"{event.level}, {event.recompilations} recompilation{'s' if event.recompilations != 1 else ''}"
        text = f"step {event.step} compiled graph {event.graphs} ({what}) for {event.batch}"
        told: list[Effect] = [Log(counted)]
        excess = event.recompilations > max_recompilations
        if verbose or excess:
            told.append(Print(f"recompile_monitor: {text}"))
        if stop and excess:
            told.append(Stop(f"{text}: more than max_recompilations={max_recompilations}"))
        return emit(state, *told)

    return Callback(
        constructor="recompile_monitor",
        key=key,
        emits=(Log, Print, Stop) if stop else (Log, Print),
        config={"max_recompilations": max_recompilations, "stop": stop, "verbose": verbose},
        on_step_compiled=on_step_compiled,
    )
