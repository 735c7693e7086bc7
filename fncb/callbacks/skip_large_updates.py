"""Leave out updates whose gradients are unusually large."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any

from fncb.callback import Callback, StepHooks, emit
from fncb.callbacks.norms import total_norm
from fncb.events import BeforeOptimizerStep
from fncb.fields import must_be_int, must_be_number

if TYPE_CHECKING:
    from torch import Tensor


def skip_large_updates(
    max_norm: float | None = None,
    *,
    factor: float | None = None,
    warmup: int = 100,
    decay: float = 0.99,
    key: str = "skip_large_updates",
) -> Callback[Any]:
    """Skips updates whose total gradient norm is over a limit, fixed or relative to its running mean.

    The norm is the Euclidean one of all gradients of a window together. An update is skipped if the norm is more than
    `max_norm`, or if it is more than `factor` times the running mean of the norms before it, or if it is not finite; a
    tie is not over the limit. A skipped update leaves parameters, optimizer and the step state of every other callback
    as they were. The running mean is exponential: that of n norms is the sum of (1 - decay) * decay ** (n - i) * norm_i
    over i from 1 to n, divided by 1 - decay ** n. Norms of skipped updates stay out of it, and it counts once it holds
    `warmup` norms. So where norms grow for good, all updates are skipped from then on: keep an eye on the metric
    `skipped_updates`, the number of updates skipped so far, and give `factor` some room.

    Give it before `clip_grad_norm`, which bounds what this judges. Several optimizers share one mean: for one each, use
    `masked(skip_large_updates(..., key="..."), "generator.*")`.

    Args:
      max_norm: in the gradients' unit, more than 0; None for no fixed limit.
      factor: dimensionless, more than 1; None for no relative limit. One limit at least must be given.
      warmup: norms, 1 or more.
      decay: in [0, 1), dimensionless; 0.99 remembers about 100 norms.
      key: names the state.

    Returns:
      A `Callback` whose step state has three 0-d tensors: `skipped` updates, norms `seen` by the mean, and `sum`, those
      norms with their weights.

    Raises:
      ValueError, TypeError: for an argument out of range or of the wrong kind.

    Example:
      >>> import torch
      >>> guard = skip_large_updates(4.0).step
      >>> event = BeforeOptimizerStep(grads={"w": torch.tensor([3.0, 4.0])})
      >>> out = guard.on_before_optimizer_step(guard.init({}), event)
      >>> out.replaced["skip"], out.replaced["metrics"]
      (tensor(True), {'skipped_updates': tensor(1)})

    Known as:
      `skip_large_updates` in optax, with a fixed limit.
    """
    if max_norm is None and factor is None:
        raise ValueError("skip_large_updates: a limit must be given, got none. Pass max_norm=10.0 or factor=5.0.")
    if max_norm is not None:
        must_be_number("skip_large_updates", "max_norm", max_norm, "(0, inf]")
    if factor is not None:
        must_be_number("skip_large_updates", "factor", factor, "(1, inf]")
    must_be_int("skip_large_updates", "warmup", warmup, 1, "norm")
    must_be_number("skip_large_updates", "decay", decay, "[0, 1)")

    def init(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import torch

        device = next((param.device for param in params.values()), None)
        counts = {name: torch.zeros((), dtype=torch.int64, device=device) for name in ("skipped", "seen")}
        return {**counts, "sum": torch.zeros((), device=device)}

    def on_before_optimizer_step(state: dict[str, Tensor], event: BeforeOptimizerStep) -> Any:
        import torch

        if not event.grads:
            return state
        norm = total_norm(event.grads.values()).float()
        limit = torch.full_like(norm, inf if max_norm is None else max_norm)
        if factor is not None:
            mean = state["sum"] / (1 - decay ** state["seen"].float())  # 0 / 0 before the first, which does not count
            limit = torch.where(state["seen"] >= warmup, torch.minimum(limit, factor * mean), limit)
        skip = ~(torch.isfinite(norm) & (norm <= limit))
        new = {
            "skipped": state["skipped"] + skip,
            "seen": state["seen"] + ~skip,
            "sum": torch.where(skip, state["sum"], decay * state["sum"] + (1 - decay) * norm),
        }
        return emit(new, skip=skip, metrics={"skipped_updates": new["skipped"]})

    return Callback(
        constructor="skip_large_updates",
        key=key,
        step=StepHooks(init=init, on_before_optimizer_step=on_before_optimizer_step),
        emits=(),
        config={"max_norm": max_norm, "factor": factor, "warmup": warmup, "decay": decay},
    )
