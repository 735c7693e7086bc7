"""`fncb report`: a page about runs."""

import argparse
from pathlib import Path

from fncb.cli.output import show, show_json
from fncb.cli.refusal import WRONG_USAGE, Refusal
from fncb.cli.runs import recording_at, telling_damage
from fncb.expressions import callback_of
from fncb.naming import stem_and_suffix
from fncb.page.html import report


def run(asked: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    alternatives = {text: callback_of(text) for text in asked.whatif} if asked.whatif else None
    paths = [recording_at(given) for given in asked.runs]
    page = Path(asked.output) if asked.output else paths[0].with_name(f"{stem_and_suffix(paths[0])[0]}.html")
    if page.exists() and not asked.force:
        raise Refusal(f"the page must not exist, got {page}, which does. Pass --force to replace it.", WRONG_USAGE)
    with telling_damage():
        written = report(paths, page, whatif=alternatives)
    show_json({"path": written}) if asked.json else show(str(written))
    return 0
