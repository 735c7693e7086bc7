"""Show how far a run has come, as tqdm draws it."""

from fncb.callback import Callback
from fncb.callbacks.progress_bar import ProgressBarState, bar_of
from fncb.fields import must_be_int


def tqdm_progress_bar(
    *,
    refresh_rate: int = 1,
    process_position: int = 0,
    leave: bool = False,
    metrics: str | tuple[str, ...] = "*",
    key: str = "progress_bar",
) -> Callback[ProgressBarState]:
    """Asks for the `Render` of `progress_bar` every few batches, drawn with tqdm.

    The n-th batch of a part is shown if n is a multiple of `refresh_rate` or the part has n batches. What is shown is
    as with `progress_bar`. The bar itself is drawn ten times a second at most, as tqdm has it, and only then waits for
    the metrics. When a part is over its bar goes and its line is printed in its place.

    Args:
      refresh_rate: in batches, 0 or more; 0 turns the bar off.
      process_position: lines to leave free above the bars, 0 or more, for those of other programs.
      leave: whether the bar of a part that is over stays on the terminal, in place of its line.
      metrics: which are shown: a shell pattern of their names, such as `*loss`, or several.
      key: names the state.

    Returns:
      A `Callback` with `ProgressBarState`.

    Raises:
      ValueError, TypeError: for a rate or a position that is negative, or no int.
      ModuleNotFoundError: when a bar is drawn without tqdm: `pip install 'fncb[tqdm]'`.

    Example:
      >>> from fncb.events import TrainBatchEnd, TrainEpochStart
      >>> bar = tqdm_progress_bar(refresh_rate=3)
      >>> state, _ = bar.transition(bar.init(), TrainEpochStart(batches=5))
      >>> [n for n in range(1, 6) if bar.transition(state, TrainBatchEnd(batch_idx=n - 1))[1]]
      [3, 5]

    Known as:
      `TQDMProgressBar` in Lightning.

    That Lightning goes by `TQDM_MINITERS` and draws less often in Colab is left out: what a callback does is said by
    its arguments.
    """
    must_be_int("tqdm_progress_bar", "refresh_rate", refresh_rate, 0, "batches")
    must_be_int("tqdm_progress_bar", "process_position", process_position, 0, "lines")
    options = {"process_position": process_position, "leave": leave}
    config = {"refresh_rate": refresh_rate, **options, "metrics": metrics}
    given = {name: value for name, value in options.items() if value}

    def due(_: ProgressBarState, event: object, completed: int, total: int | None) -> bool:
        return completed % refresh_rate == 0 or completed == total

    return bar_of("tqdm_progress_bar", key, due if refresh_rate else None, config, style="tqdm", options=given)
