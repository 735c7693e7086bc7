"""`fncb whatif`: what other callbacks would have done in a run."""

import argparse

from fncb.alternatives import whatif
from fncb.cli.output import show_json, show_text
from fncb.cli.plain import plain
from fncb.cli.runs import read_run
from fncb.expressions import callback_of


def run(asked: argparse.Namespace) -> int:
    """Prints a table with a row for each expression."""
    alternatives = {text: callback_of(text) for text in asked.expressions}
    found = whatif(read_run(asked.run), alternatives)
    if asked.json:
        show_json({text: {**plain(outcome), "holds": outcome.holds} for text, outcome in found.outcomes.items()})
    else:
        show_text(found)
    return 0
