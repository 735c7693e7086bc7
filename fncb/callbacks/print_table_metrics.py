"""Print the metrics as a table that grows by a row each epoch."""

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import Print
from fncb.events import TrainEpochEnd
from fncb.fields import must_be_patterns
from fncb.metrics import named

_LEAST = len("-1.2346e-05")  # characters of a column
_EVERY = 20  # epochs, so that heads are never far from their rows


@attrs.frozen
class PrintTableMetricsState:
    """What `print_table_metrics` remembers.

    Attributes:
      columns: names of the metrics in the table that it goes on with; None before its first row.
    """

    columns: tuple[str, ...] | None = None


def print_table_metrics(
    *, metrics: str | tuple[str, ...] = "*", key: str = "print_table_metrics"
) -> Callback[PrintTableMetricsState]:
    """Asks for `Print` of a row of metrics at the end of each training epoch.

    The columns are the 0-based epoch and the metrics that the epoch ends with, in their order. Their heads are printed
    before the first row, and again when there is a metric that the table has not, and at every 20th epoch. A column
    whose metric is not there stays empty. Values have five digits.

    Args:
      metrics: which are columns: a shell pattern of their names, such as `*loss`, or several.
      key: names the state.

    Returns:
      A `Callback` with `PrintTableMetricsState`.

    Raises:
      TypeError: if `metrics` is no pattern.

    Example:
      >>> table = print_table_metrics()
      >>> ends = [TrainEpochEnd(epoch=i, metrics={"loss": 0.5 / (i + 1), "val_loss": 0.75}) for i in range(2)]
      >>> state, (first,) = table.transition(table.init(), ends[0])
      >>> _, (second,) = table.transition(state, ends[1])
      >>> print(first.text)
      epoch │        loss │    val_loss
      ──────┼─────────────┼────────────
          0 │         0.5 │        0.75
      >>> print(second.text)
          1 │        0.25 │        0.75

    Known as:
      `PrintTableMetricsCallback` in Lightning Bolts.

    Bolts prints all of the table each time; here a row is added to it.
    """
    patterns = must_be_patterns("print_table_metrics", "metrics", metrics)

    def on_train_epoch_end(state: PrintTableMetricsState, event: TrainEpochEnd) -> Emit[PrintTableMetricsState]:
        values = dict(named(event.metrics, patterns))  # waits for the device, once an epoch
        begun = state.columns if values.keys() <= {*(state.columns or ())} else None
        columns = tuple(values) if begun is None else begun
        widths = [max(len(name), _LEAST) for name in columns]

        def line(epoch: object, cells: list[str]) -> str:
            each = zip(cells, widths, strict=True)
            return " │ ".join([f"{epoch:>5}", *(f"{cell:>{width}}" for cell, width in each)])

        row = line(event.epoch, [f"{values[name]:.5g}" if name in values else "" for name in columns])
        heads = [line("epoch", [*columns]), "─┼─".join("─" * width for width in (5, *widths))]
        shown = [*heads, row] if begun is None or event.epoch % _EVERY == 0 else [row]
        return emit(PrintTableMetricsState(columns), Print("\n".join(shown)))

    return Callback(
        constructor="print_table_metrics",
        key=key,
        init=PrintTableMetricsState,
        emits=(Print,),
        config={"metrics": metrics},
        on_train_epoch_end=on_train_epoch_end,
    )
