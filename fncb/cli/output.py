"""Where the program writes to: text that is only text, tables, JSON."""

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from io import StringIO
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fncb.cli.plain import plain
from fncb.printable import printable

_ENDLESS = 1_000_000  # columns


def show(line: str = "") -> None:
    """Writes a line of text."""
    sys.stdout.write(f"{printable(line)}\n")


def show_text(text: object) -> None:
    """Writes what prints as several lines."""
    for line in str(text).split("\n"):
        show(line)


def show_json(value: Any) -> None:
    """Writes one line of JSON, of what `plain` makes of a value."""
    sys.stdout.write(json.dumps(plain(value), allow_nan=False) + "\n")


def show_table(heads: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[str] = ()) -> None:
    """Writes a table, a line for each row, however long: a terminal may wrap it, and nothing is cut.

    Args:
      heads: of the columns; bold in a terminal.
      rows: cells, which are shown as `str` shows them.
      right: heads of columns that stand to the right.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(Text(head), justify="right" if head in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*[Text(printable(cell)) for cell in row])
    if sys.stdout.isatty():
        console().print(table)
        return
    drawn = StringIO()
    console(drawn).print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in drawn.getvalue().splitlines()))


def console(file: TextIO | None = None) -> Console:
    """What draws with `rich`, on lines without an end; in colour only where the output is a terminal."""
    return Console(file=file or sys.stdout, width=_ENDLESS, force_terminal=sys.stdout.isatty(), soft_wrap=True)


def note(sentence: str) -> None:
    """Says what the reader should know beside the answer."""
    sys.stderr.write(f"fncb: note: {printable(sentence)}\n")
