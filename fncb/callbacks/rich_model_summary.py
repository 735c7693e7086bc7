"""Say what a model consists of, in a table that rich draws."""

from typing import Any

from fncb.callback import Callback, EmptyState
from fncb.callbacks.summary import NUMBERS, Summary, summarizing


def rich_model_summary(
    max_depth: int = 1,
    *,
    example_input: Any = None,
    header_style: str = "bold magenta",
    key: str = "model_summary",
) -> Callback[EmptyState]:
    """Asks for the table of `model_summary`, which a terminal shows as rich draws it.

    Args:
      max_depth, example_input: as for `model_summary`.
      header_style: the style of rich for the heads of the columns.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: if `max_depth` is below -1, or no int; for a style that is none.

    Example:
      >>> rich_model_summary(max_depth=-1).config
      {'max_depth': -1, 'example_input': None, 'header_style': 'bold magenta'}

    Known as:
      `RichModelSummary` in Lightning.
    """
    from rich.errors import StyleSyntaxError
    from rich.style import Style

    try:
        Style.parse(header_style)
    except (StyleSyntaxError, AttributeError) as error:
        raise ValueError(
            f"rich_model_summary: header_style must be a style of rich, got {header_style!r}: {error}."
        ) from None

    def drawn(summary: Summary) -> Any:
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        heads, *rows = summary.cells()
        table = Table(header_style=header_style, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for head, *cells in zip(heads, *rows, strict=True):
            if head in NUMBERS or head == "Mode":  # which a narrow terminal does not cut
                table.add_column(head, justify="right" if head in NUMBERS else "left", min_width=max(map(len, cells)))
            else:
                table.add_column(head, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))  # plain: no cell is markup
        totals = Table.grid(padding=(0, 2))
        totals.add_column()
        totals.add_column(justify="right")
        for name, value in summary.totals():
            totals.add_row(name, value, style="bold" if name.startswith("Total") else None)
        return Group(table, totals)

    return summarizing("rich_model_summary", key, max_depth, example_input, drawn, header_style=header_style)
