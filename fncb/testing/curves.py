"""A run's events from plain curves, for quick tests."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fncb import events as ev


def simulate(
    curves: Mapping[str, Sequence[float]],
    *,
    val_every: int = 1,
    epoch_length: int | None = None,
    seconds_per_step: float = 1.0,
) -> list[ev.Event]:
    """The events of a run in which metrics went so, in the order in which `fit` makes them.

    A curve whose name begins with `val_` has one value a validation, any other one value a step. There is a validation
    after every `val_every` steps, in the middle of an epoch or at its end, as long as there are values for it. Without
    a curve of training there are as many steps as the validations need. Curves end where they end: a metric is missing
    from the events after that.

    Args:
      curves: values by metric name.
      val_every: steps, 1 or more.
      epoch_length: steps of an epoch, 1 or more; None makes an epoch of `val_every` steps.
      seconds_per_step: time that passes in each step.

    Raises:
      ValueError: for numbers below 1, or a validation curve that is longer than the run.

    Example:
      >>> from fncb.callbacks import early_stop
      >>> from fncb.hindsight import replay
      >>> run = simulate({"val_loss": [0.5, 0.25, 0.5, 0.75]}, val_every=10)
      >>> replay(early_stop("val_loss", patience=2), run).effects
      (Stop(reason='val_loss has not improved on 0.25 in 2 checks'),)
      >>> run[-1].step, run[-1].epoch, run[-1].seconds
      (40, 3, 40.0)
    """
    epoch_length = val_every if epoch_length is None else epoch_length
    for name, value in (("val_every", val_every), ("epoch_length", epoch_length)):
        if value < 1:
            raise ValueError(f"simulate: {name} must be 1 step or more, got {value}.")
    at_steps = {name: values for name, values in curves.items() if not name.startswith("val_")}
    at_checks = {name: values for name, values in curves.items() if name.startswith("val_")}
    checks = max(map(len, at_checks.values()), default=0)
    steps = max(map(len, at_steps.values()), default=checks * val_every)
    if checks > steps // val_every:
        raise ValueError(
            f"simulate: there must be {val_every} steps for each value of a validation curve, got {checks} values and "
            f"{steps} steps. Shorten it, or give the curves of training {checks * val_every} values."
        )
    return [*_run(at_steps, at_checks, steps, checks * val_every, val_every, epoch_length, seconds_per_step)]


def _run(
    at_steps: Mapping[str, Sequence[float]],
    at_checks: Mapping[str, Sequence[float]],
    steps: int,
    checked: int,
    val_every: int,
    length: int,
    pace: float,
) -> Iterator[ev.Event]:
    epochs = -(-steps // length)
    yield from (ev.Setup(), ev.FitStart(max_epochs=epochs), ev.TrainStart())
    step = 0
    now: dict[str, Any]
    validated: dict[str, float]
    for epoch in range(epochs):
        last, validated = min(steps, step + length), {}
        batches, now = last - step, {"epoch": epoch, "step": step, "seconds": step * pace}
        yield from (ev.EpochStart(**now), ev.TrainEpochStart(**now, batches=batches))
        for batch_idx in range(batches):
            metrics = _at(at_steps, step)
            yield ev.TrainBatchStart(**now, batch_idx=batch_idx)
            step += 1
            now = {"epoch": epoch, "step": step, "seconds": step * pace}
            yield ev.TrainBatchEnd(**now, batch_idx=batch_idx, metrics=metrics)
            if step % val_every == 0 and step <= checked:
                validated = _at(at_checks, step // val_every - 1)
                yield ev.ValidationStart(**now)
                yield ev.ValidationEnd(**now, metrics=validated, epoch_is_over=step == last)
        means = {f"{name}_epoch": mean for name, mean in _means(at_steps, last - batches, last).items()}
        yield from (ev.TrainEpochEnd(**now, metrics=means | validated), ev.EpochEnd(**now))
    end: dict[str, Any] = {"epoch": max(epochs - 1, 0), "step": step, "seconds": step * pace}
    yield from (ev.TrainEnd(**end), ev.FitEnd(**end), ev.Teardown(**end))


def _at(curves: Mapping[str, Sequence[float]], place: int) -> dict[str, float]:
    return {name: values[place] for name, values in curves.items() if place < len(values)}


def _means(curves: Mapping[str, Sequence[float]], start: int, end: int) -> dict[str, float]:
    parts = {name: values[start:end] for name, values in curves.items()}
    return {name: sum(values) / len(values) for name, values in parts.items() if values}
