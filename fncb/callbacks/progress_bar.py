"""Show how far a run has come."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Literal, TypeAlias

import attrs

from fncb import events as ev
from fncb.callback import Callback, Emit, emit
from fncb.effects import Render
from fncb.fields import is_number, must_be_patterns
from fncb.metrics import named


@attrs.frozen
class ProgressBarState:
    """What `progress_bar` remembers.

    Attributes:
      batches: training batches done in this epoch.
      total: training batches in this epoch; None when unknown.
      side_batches: batches done of the validation, test or prediction under way, or of the last one.
      side_total: batches that it has; None when unknown.
      shown: seconds since the run began, at the last `Render`; None before the first.
      during: what a validation is part of now; None when it is by itself.
      validated: metrics of the last validation that was no sanity check.
      means: means of the last epoch, the metrics named `*_epoch`.
    """

    batches: int = 0
    total: int | None = None
    side_batches: int = 0
    side_total: int | None = None
    shown: float | None = None
    during: Literal["sanity check", "epoch"] | None = None
    validated: Mapping[str, float] = attrs.field(factory=dict)
    means: Mapping[str, float] = attrs.field(factory=dict)


Due: TypeAlias = Callable[[ProgressBarState, Any, int, int | None], bool]
"""Whether to show a batch: given the state, its event, how many are done, and in all."""


def progress_bar(
    renderer: Any = None,
    *,
    refresh_rate: float = 10.0,
    metrics: str | tuple[str, ...] = "*",
    key: str = "progress_bar",
) -> Callback[ProgressBarState]:
    """Asks for `Render` a few times a second, and when a part of the run is over.

    The parts are an epoch, labelled with its 0-based number as in `epoch 3`, a `sanity check`, a `validation`, a `test`
    and a `prediction`. The first batch is shown at once, and so is the last one of a part; others when
    1 / `refresh_rate` seconds of the run have passed since the last `Render`. A validation in training is part of its
    epoch: where nothing is drawn it has no line of its own.

    What is shown are the event's own metrics, which go along unread, so that only a bar that is drawn waits for the
    device; and, where the event has none of the name, those of the last validation and the means of the last epoch
    (`*_epoch`). A sanity check shows its own when it is over, and is forgotten then.

    Args:
      renderer: what shows it, an object with `render(effect, event)` and `close()`: it is given every `Render` with its
        event, terminal or not, and closed when the run is over. None draws with rich on a terminal, and prints a line
        for each part elsewhere.
      refresh_rate: at most so many a second, 0 or more; 0 turns the bar off.
      metrics: which are shown: a shell pattern of their names, such as `*loss`, or several.
      key: names the state.

    Returns:
      A `Callback` with `ProgressBarState`.

    Raises:
      ValueError: if `refresh_rate` is negative or not finite.
      TypeError: if `renderer` has not the two methods.

    Example:
      >>> bar = progress_bar()
      >>> state, _ = bar.transition(bar.init(), ev.TrainEpochStart(epoch=3, batches=8))
      >>> _, (shown,) = bar.transition(state, ev.TrainBatchEnd(epoch=3, batch_idx=0, seconds=0.5))
      >>> shown.label, shown.completed, shown.total, shown.done
      ('epoch 3', 1, 8, False)

    Known as:
      `ProgressBar` in Lightning, `ProgbarLogger` in Keras.

    Lightning's `enable`, `disable` and `print` are left out: `progress=False` leaves the bar out, 0 turns it off, and
    `Print` shows text above it.
    """
    for name in ("render", "close") if renderer is not None else ():
        if not callable(getattr(renderer, name, None)):
            raise TypeError(
                f"progress_bar: renderer must have the methods render(effect, event) and close(), got {renderer!r}."
            )
    due = times_a_second("progress_bar", refresh_rate)
    config = {"renderer": renderer, "refresh_rate": refresh_rate, "metrics": metrics}
    return bar_of("progress_bar", key, due, config, renderer=renderer)


def times_a_second(who: str, refresh_rate: float) -> Due | None:
    """Shows a batch if enough time has passed; None for a rate of 0."""
    if not is_number(refresh_rate):
        raise TypeError(f"{who}: refresh_rate must be a number of draws a second, got {refresh_rate!r}.")
    if not isfinite(refresh_rate) or refresh_rate < 0:
        raise ValueError(f"{who}: refresh_rate must be 0 a second or more, got {refresh_rate!r}.")
    if not refresh_rate:
        return None

    def due(state: ProgressBarState, event: ev.Event, completed: int, total: int | None) -> bool:
        return completed == total or state.shown is None or event.seconds - state.shown >= 1 / refresh_rate

    return due


def bar_of(who: str, key: str, due: Due | None, config: Mapping[str, Any], **drawn: Any) -> Callback[ProgressBarState]:
    """The callback behind every bar.

    Args:
      who: names its constructor in errors.
      key: names the state.
      due: whether to show a batch; None for a bar that is off.
      config: the arguments of the constructor, `metrics` among them.
      **drawn: what each `Render` says of who draws it, and how.
    """
    patterns = must_be_patterns(who, "metrics", config["metrics"])
    record: dict[str, Any] = {
        "constructor": who,
        "key": key,
        "init": ProgressBarState,
        "emits": (Render,),
        "config": config,
    }
    if due is None:
        return Callback(**record)

    def render(
        state: ProgressBarState, event: Any, label: str, completed: int, total: int | None, **more: Any
    ) -> Emit[ProgressBarState]:
        metrics = getattr(event, "metrics", None)
        known = None
        if metrics is not None:  # reads none
            known = named(metrics.with_values({**state.validated, **state.means}), patterns)
        drawing = Render(label, completed, total, metrics=known, **more, **drawn)
        return emit(attrs.evolve(state, shown=event.seconds), drawing)

    def on_train_epoch_start(state: ProgressBarState, event: ev.TrainEpochStart) -> ProgressBarState:
        return attrs.evolve(state, batches=0, total=event.batches, during="epoch")

    def on_train_batch_end(state: ProgressBarState, event: ev.TrainBatchEnd) -> Any:
        done, side = event.batch_idx + 1, (state.side_batches, state.side_total)
        state = ProgressBarState(done, state.total, *side, state.shown, state.during, state.validated, state.means)
        if not due(state, event, done, state.total):
            return state
        return render(state, event, f"epoch {event.epoch}", done, state.total)

    def on_train_epoch_end(state: ProgressBarState, event: ev.TrainEpochEnd) -> Emit[ProgressBarState]:
        names = [name for name in event.metrics if name.endswith("_epoch")]
        means = {name: event.metrics[name] for name in names}  # waits for the device, once an epoch
        state = attrs.evolve(state, means=means, during=None)
        return render(state, event, f"epoch {event.epoch}", state.batches, state.total, done=True)

    def side_start(state: ProgressBarState, event: Any) -> ProgressBarState:
        return attrs.evolve(state, side_batches=0, side_total=event.batches)

    def render_side(state: ProgressBarState, event: Any, label: str, done: bool) -> Emit[ProgressBarState]:
        part_of = None
        if label == "validation" and state.during == "epoch":
            part_of = f"epoch {event.epoch}"
        elif label == "validation" and state.during is not None:
            label = state.during
        return render(state, event, label, state.side_batches, state.side_total, done=done, part_of=part_of)

    def side_batch_end(label: str) -> Any:
        def hook(state: ProgressBarState, event: Any) -> Any:
            state = attrs.evolve(state, side_batches=state.side_batches + 1)  # batch_idx restarts in each loader
            if not due(state, event, state.side_batches, state.side_total):
                return state
            return render_side(state, event, label, done=False)

        return hook

    def side_end(label: str) -> Any:
        return lambda state, event: render_side(state, event, label, done=True)

    def on_validation_end(state: ProgressBarState, event: ev.ValidationEnd) -> Emit[ProgressBarState]:
        if state.during != "sanity check":
            state = attrs.evolve(state, validated=dict(event.metrics))  # waits for the device, once a validation
        return render_side(state, event, "validation", done=True)

    def now(during: Literal["sanity check"] | None) -> Any:
        return lambda state, event: attrs.evolve(state, during=during)

    hooks: dict[str, Any] = {
        "setup": lambda state, event: state if event.stage == "fit" else ProgressBarState(),
        "on_sanity_check_start": now("sanity check"),
        "on_sanity_check_end": now(None),
        "on_train_epoch_start": on_train_epoch_start,
        "on_train_batch_end": on_train_batch_end,
        "on_train_epoch_end": on_train_epoch_end,
        "on_validation_start": side_start,
        "on_validation_batch_end": side_batch_end("validation"),
        "on_validation_end": on_validation_end,
        "on_test_start": side_start,
        "on_test_batch_end": side_batch_end("test"),
        "on_test_end": side_end("test"),
        "on_predict_start": side_start,
        "on_predict_batch_end": side_batch_end("prediction"),
        "on_predict_end": side_end("prediction"),
    }
    return Callback(**record, **hooks)
