"""`fncb inspect`: what a checkpoint holds."""

import argparse
from pathlib import Path

from fncb.cli.output import console, show_json
from fncb.cli.refusal import DAMAGED, UNREADABLE, Refusal
from fncb.cli.runs import must_exist
from fncb.contents import contents_of, inspect, newest


def run(asked: argparse.Namespace) -> int:
    """Prints what `fncb.inspect` prints."""
    must_exist("CHECKPOINT", Path(asked.checkpoint))
    try:
        path = newest(asked.checkpoint)
    except ValueError as error:
        raise Refusal(str(error), UNREADABLE) from error
    try:
        if asked.json:
            show_json(contents_of(path))
        else:
            inspect(path, console())
    except ValueError as error:
        raise Refusal(str(error), DAMAGED) from error
    return 0
