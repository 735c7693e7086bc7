"""Keep an exponential moving average of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fncb.callback import Callback, EmptyState, StepHooks
from fncb.events import AfterOptimizerStep

if TYPE_CHECKING:
    from torch import Tensor


def ema(
    decay: float = 0.999,
    *,
    update_every_n_steps: int = 1,
    update_starting_at_step: int | None = None,
    key: str = "ema",
) -> Callback[EmptyState]:
    """Keeps an exponential moving average of the parameters.

    After step t, average_t = decay * average_{t-1} + (1 - decay) * params_t, with average_0 = params_0. With
    `update_every_n_steps` or `update_starting_at_step`, that happens after those steps only whose 0-based number is a
    multiple of the one and not less than the other. Where the start is put off, the first update copies the
    parameters, so that the average does not remember the untrained ones.

    The training parameters stay as they are: read the averages from `run.step_state[key]`.

    Args:
      decay: in [0, 1), dimensionless; 0.999 remembers about 1000 updates. In bfloat16, where 1 - decay is less than
        a parameter's precision, the average hardly moves: keep the parameters in float32.
      update_every_n_steps: optimizer steps, 1 or more.
      update_starting_at_step: 0-based optimizer step, 0 or more; None for the first.
      key: names the state.

    Returns:
      A `Callback` whose step state maps each parameter's name to a tensor of that parameter's shape, dtype and
      device. Costs one extra copy of the parameters.

    Raises:
      ValueError: for an argument out of range.

    Example:
      >>> import torch
      >>> average = ema(decay=0.75).step
      >>> state = average.init({"w": torch.tensor([4.0])})
      >>> after = AfterOptimizerStep(step=torch.tensor(1), params={"w": torch.tensor([0.0])})
      >>> average.on_after_optimizer_step(state, after)
      {'w': tensor([3.])}

    Reference:
      Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.
      Tarvainen and Valpola, "Mean teachers are better role models", 2017, equation 2.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"ema: decay must be in [0, 1), got {decay!r}.")
    if not isinstance(update_every_n_steps, int) or update_every_n_steps < 1:
        raise ValueError(f"ema: update_every_n_steps must be 1 step or more, got {update_every_n_steps!r}.")
    start = 0 if update_starting_at_step is None else update_starting_at_step
    if not isinstance(start, int) or start < 0:
        raise ValueError(f"ema: update_starting_at_step must be step 0 or a later one, got {start!r}.")
    first = -(-start // update_every_n_steps) * update_every_n_steps  # the first 0-based step that updates

    def init(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: param.detach().clone() for name, param in params.items()}

    def on_after_optimizer_step(state: dict[str, Tensor], event: AfterOptimizerStep) -> dict[str, Tensor]:
        import torch

        params = event.params  # those of one optimizer, where there are several
        mine = {name: average for name, average in state.items() if name in params}
        new = {name: decay * average + (1 - decay) * params[name] for name, average in mine.items()}
        if first > 0 or update_every_n_steps > 1:
            step: Any = event.step - 1  # a tensor, 0-based: the event counts this step too
            due = (step >= first) & (step % update_every_n_steps == 0)
            if first > 0:
                new = {name: torch.where(step == first, params[name], average) for name, average in new.items()}
            new = {name: torch.where(due, average, mine[name]) for name, average in new.items()}
        return {**state, **new}

    return Callback(
        key=key,
        step=StepHooks(init=init, on_after_optimizer_step=on_after_optimizer_step),
        emits=(),
        config={
            "decay": decay,
            "update_every_n_steps": update_every_n_steps,
            "update_starting_at_step": update_starting_at_step,
        },
    )
