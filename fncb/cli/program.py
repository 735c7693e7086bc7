"""What can be asked of the program, and how it says that it cannot."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from fncb import __version__
from fncb.cli.refusal import UNREADABLE, WRONG_USAGE, Refusal
from fncb.printable import printable

_ABOUT = """Looks at recordings of training runs and at checkpoints.

RUN is a recording, or a directory with exactly one recording in it. EXPR is an expression that makes a callback, such
as "early_stop('val_loss', patience=2)" or "compose(ema(0.9), checkpoint('runs'))".
"""
_STATUSES = """exit status:
  0  fine
  1  diff found differences
  2  wrong usage, or a wrong expression
  3  a file is missing, or cannot be read
  4  a file is damaged, or of another kind
"""
_WRONG = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, ImportError)
"""What comes of callbacks that do not fit a recording; other exceptions are faults of the program itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the arguments ask for and returns the exit status; those of the process by default."""
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know fewer characters than a log
    try:
        with _quiet_log():
            asked = _parser().parse_args(arguments)
            # only what is asked for is loaded, so that it starts at once
            status = importlib.import_module(f"fncb.cli.{asked.command}").run(asked)
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # who reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Refusal as refusal:
        return _told(str(refusal), refusal.status)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _told(f"{where}{error.strerror or error}", UNREADABLE)
    except _WRONG as error:
        return _told("; ".join([str(error), *getattr(error, "__notes__", ())]), WRONG_USAGE)


def _told(sentence: str, status: int) -> int:
    sys.stderr.write(f"fncb: {printable(sentence)}\n")
    return status


@contextmanager
def _quiet_log() -> Any:
    """What rooms would log is said in the program's own way."""
    handler, log = logging.NullHandler(), logging.getLogger("fncb")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refusal(f"{message}. See {self.prog} --help.", WRONG_USAGE)


def _parser() -> argparse.ArgumentParser:
    keep_lines = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="fncb", description=_ABOUT, epilog=_STATUSES, formatter_class=keep_lines)
    parser.add_argument("--version", action="version", version=f"fncb {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str, *arguments: tuple[Any, ...]) -> None:
        its = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=_STATUSES)
        its.formatter_class = keep_lines
        for *flags, settings in arguments:
            its.add_argument(*flags, **settings)
        its.add_argument("--json", action="store_true", help="print JSON; numbers that are not finite are strings")

    run = ("run", {"metavar": "RUN", "help": "a recording, or a directory with exactly one"})
    expressions = ("expressions", {"metavar": "EXPR", "nargs": "+", "help": "makes a callback: early_stop('val_loss')"})
    command("show", "what a run was: how it ended, how far it came, its metrics and checkpoints", run)
    command(
        "events",
        "the events of a run, one a line",
        run,
        ("--hook", {"action": "append", "metavar": "NAME", "help": "only what this hook hears; may be given again"}),
        ("--where", {"metavar": "CONDITION", "help": "only where it holds: val_loss < 0.3 and epoch > 2"}),
        ("--effects", {"action": "store_true", "help": "also what was asked for at these events"}),
        ("--limit", {"type": _count, "metavar": "N", "help": "the first N events"}),
    )
    command(
        "tail",
        "the last events of a run",
        run,
        ("-n", {"type": _count, "default": 10, "metavar": "N", "help": "how many; 10 by default"}),
        ("-f", "--follow", {"action": "store_true", "help": "then each new one as it comes, until the run ends"}),
    )
    command("replay", "the states of callbacks after a run, and what they ask for", run, expressions)
    command("whatif", "what other callbacks would have done in a run", run, expressions)
    command("explain", "why a run went as it did", run)
    command(
        "diff",
        "where two runs part, and how",
        ("run", {"metavar": "A", "help": "a RUN"}),
        ("other", {"metavar": "B", "help": "another RUN"}),
        ("--rtol", {"type": float, "default": 0.0, "help": "by how much numbers may differ; relative, 0 by default"}),
    )
    command(
        "inspect",
        "what a checkpoint holds",
        ("checkpoint", {"metavar": "CHECKPOINT", "help": "a file, or a directory, whose newest is taken"}),
    )
    command(
        "report",
        "a page about runs, for a browser",
        ("runs", {"metavar": "RUN", "nargs": "+", "help": "recordings, or directories with exactly one"}),
        ("-o", "--output", {"metavar": "FILE", "help": "the page; by default beside the first run, in .html"}),
        ("--whatif", {"action": "append", "metavar": "EXPR", "help": "a callback to try; may be given again"}),
        ("--force", {"action": "store_true", "help": "replace a file that exists"}),
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"it must be 0 or more, got {text!r}")
    return int(text)
