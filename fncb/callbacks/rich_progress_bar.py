"""Show how far a run has come, as rich draws it."""

from collections.abc import Mapping
from typing import Any

from fncb.callback import Callback
from fncb.callbacks.progress_bar import ProgressBarState, bar_of, times_a_second

_STYLES = (
    *("description", "progress_bar", "progress_bar_finished", "progress_bar_pulse", "batch_progress", "time"),
    *("processing_speed", "metrics"),
)
_THEME = (*_STYLES, "metrics_text_delimiter", "metrics_format")


def rich_progress_bar(
    *,
    refresh_rate: float = 10.0,
    leave: bool = False,
    theme: Mapping[str, str] | None = None,
    console_kwargs: Mapping[str, Any] | None = None,
    metrics: str | tuple[str, ...] = "*",
    key: str = "progress_bar",
) -> Callback[ProgressBarState]:
    """Asks for the `Render` of `progress_bar`, drawn with rich and looking as you like.

    When something is shown, and what, is as with `progress_bar`. The metrics stand beside the bar, or below it once
    they do not fit there; a validation in training has a bar of its own below its epoch's. When a part is over its bar
    goes and its line is printed in its place.

    Args:
      refresh_rate: at most so many draws a second, 0 or more; 0 turns the bar off.
      leave: whether the bar of a part that is over stays on the terminal, in place of its line.
      theme: styles of rich by name, for `description`, `progress_bar`, `progress_bar_finished`, `progress_bar_pulse`,
        `batch_progress`, `time`, `processing_speed` and `metrics`; and `metrics_text_delimiter`, the text between two
        metrics, and `metrics_format`, the format of a value such as ".4g". What is left out is as usual.
      console_kwargs: arguments of a `rich.console.Console`, plain data, which is made for the bar; None draws on
        standard output.
      metrics: which are shown: a shell pattern of their names, such as `*loss`, or several.
      key: names the state.

    Returns:
      A `Callback` with `ProgressBarState`.

    Raises:
      ValueError: for a rate that is negative or not finite, and for a theme with an unknown name, style or format.
      TypeError: for arguments of the wrong kind.

    Example:
      >>> rich_progress_bar(theme={"progress_bar": "green1", "metrics": "italic"})
      Callback('progress_bar', refresh_rate=10.0, leave=False, metrics='*', theme={'progress_bar': 'green1', \
'metrics': 'italic'}, console_kwargs=None)

    Known as:
      `RichProgressBar` in Lightning, whose theme is the record `RichProgressBarTheme`.
    """
    config: dict[str, Any] = {"refresh_rate": refresh_rate, "leave": leave, "metrics": metrics}
    due = times_a_second("rich_progress_bar", refresh_rate)
    for name, value in {"theme": theme, "console_kwargs": console_kwargs}.items():
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"rich_progress_bar: {name} must be a mapping or None, got {value!r}.")
        config[name] = None if value is None else dict(value)
    _check_theme(theme or {})
    _check_console(console_kwargs or {})
    given = {name: value for name, value in config.items() if value and name not in ("refresh_rate", "metrics")}
    return bar_of("rich_progress_bar", key, due, config, style="rich", options=given)


def _check_theme(theme: Mapping[str, str]) -> None:
    from rich.default_styles import DEFAULT_STYLES
    from rich.errors import StyleSyntaxError
    from rich.style import Style

    for name, value in theme.items():
        if name not in _THEME:
            raise ValueError(f"rich_progress_bar: theme must be of {', '.join(_THEME)}, got {name!r}.")
        if not isinstance(value, str):
            raise TypeError(f"rich_progress_bar: theme[{name!r}] must be a string, got {value!r}.")
        try:
            if name == "metrics_format":
                format(0.5, value)
            elif name in _STYLES and value not in DEFAULT_STYLES:
                Style.parse(value)
        except (StyleSyntaxError, ValueError) as error:
            kind = "a format" if name == "metrics_format" else "a style of rich"
            raise ValueError(f"rich_progress_bar: theme[{name!r}] must be {kind}, got {value!r}: {error}.") from None


def _check_console(given: Mapping[str, Any]) -> None:
    from inspect import signature

    from rich.console import Console

    unknown = given.keys() - signature(Console).parameters.keys()
    if unknown:
        raise TypeError(
            f"rich_progress_bar: console_kwargs must be arguments of rich's Console, got {sorted(unknown)}."
        )
    for name, value in given.items():
        if value is not None and not isinstance(value, str | int | float):
            raise TypeError(
                f"rich_progress_bar: console_kwargs must be plain data, as they are recorded, got {name}={value!r}. "
                "For standard error there is stderr=True, for others progress_bar(fncb.bars.rich.RichBar(console))."
            )
