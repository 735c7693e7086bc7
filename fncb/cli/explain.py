"""`fncb explain`: why a run went as it did."""

import argparse

from fncb.cli.output import show_json, show_text
from fncb.cli.runs import read_run
from fncb.explaining import explain


def run(asked: argparse.Namespace) -> int:
    """Prints the explanation."""
    found = explain(read_run(asked.run))
    show_json(found) if asked.json else show_text(found)
    return 0
