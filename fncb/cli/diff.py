"""`fncb diff`: where two runs part, and how."""

import argparse

from fncb.cli.output import show_json, show_text
from fncb.cli.refusal import DIFFERENCES
from fncb.cli.runs import read_run
from fncb.differing import diff


def run(asked: argparse.Namespace) -> int:
    """Prints the first difference; the status tells whether there is any, of the callbacks too."""
    found = diff(read_run(asked.run), read_run(asked.other), rtol=asked.rtol)
    show_json(found) if asked.json else show_text(found)
    differs = found.parts or found.only_ours or found.only_theirs or found.configs
    return DIFFERENCES if differs else 0
