"""What a strict type checker makes of the public API: pyright accepts what is meant, and rejects what is a slip."""

import ast
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

import fncb
from fncb import callbacks, events, sinks, testing

HERE = Path(__file__).parent
ACCEPTED, REJECTED = HERE / "accepted.py", HERE / "rejected.py"


def pyright(*arguments: str | Path) -> dict:
    """What pyright says, run from the root, whose settings it takes; the first Python on the path has the package."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=HERE.parent.parent, env={**os.environ, "PATH": path}, capture_output=True)
    return json.loads(done.stdout)


def errors(said: Mapping, file: Path) -> dict[int, set[str]]:
    """The rules that are broken, by line; lines count from 1."""
    found = defaultdict(set)
    for each in said["generalDiagnostics"]:
        if each["severity"] == "error" and Path(each["file"]) == file:
            found[each["range"]["start"]["line"] + 1].add(each.get("rule", each["message"]))
    return dict(found)


def slips(text: str) -> dict[int, str]:
    """The rule that each marked line is said to break."""
    marked = [(i, re.search(r"# rejected: (\w+)$", line)) for i, line in enumerate(text.splitlines(), 1)]
    return {i: mark[1] for i, mark in marked if mark}


def accepted_slips(text: str, found: Mapping[int, set[str]]) -> dict[int, str]:
    """Marked lines without an error of their rule."""
    return {i: rule for i, rule in slips(text).items() if rule not in found.get(i, ())}


@pytest.fixture(scope="module")
def mended(tmp_path_factory) -> Path:
    """The slips, of which one is none any more."""
    file = tmp_path_factory.mktemp("types") / "mended.py"
    file.write_text(REJECTED.read_text().replace("    early_stop(3)  #", '    early_stop("val_loss")  #'))
    return file


@pytest.fixture(scope="module")
def said(mended) -> dict:
    """What pyright says of all files: it runs once."""
    return pyright(ACCEPTED, REJECTED, mended)


def test_what_users_write_is_accepted(said):
    assert errors(said, ACCEPTED) == {}
    assert "pyright: ignore" not in ACCEPTED.read_text()


def test_each_slip_is_rejected_by_its_rule(said):
    text = REJECTED.read_text()

    assert len(slips(text)) > 100
    assert accepted_slips(text, errors(said, REJECTED)) == {}


def test_nothing_but_the_slips_is_rejected(said):
    assert errors(said, REJECTED).keys() - slips(REJECTED.read_text()).keys() == set()


def test_a_slip_that_is_accepted_is_told(said, mended):
    text = REJECTED.read_text()
    line = text.splitlines().index("    early_stop(3)  # rejected: reportArgumentType") + 1

    told = accepted_slips(mended.read_text(), errors(said, mended)).items()
    assert told - accepted_slips(text, errors(said, REJECTED)).items() == {(line, "reportArgumentType")}


def made_by(room: object) -> set[str]:
    return {name for name, value in vars(room).items() if name[0] != "_" and callable(value)}


def test_every_public_name_is_in_what_is_accepted():
    tree = ast.walk(ast.parse(ACCEPTED.read_text()))
    used = {name for node in tree for name in (getattr(node, "attr", None), getattr(node, "id", None))}

    of_testing = {"runs" if name == "events" else name for name in testing.__all__}
    assert {*fncb.__all__, *made_by(callbacks), *made_by(sinks), *of_testing} - used == set()


def test_each_hook_has_the_type_of_its_event():
    hints = {field.name: field.type for field in attrs.fields(fncb.Callback)}

    assert {name: f"Hook[S, ev.{kind.__name__}]" for name, kind in events.HOOKS.items()} == {
        name: hint for name, hint in hints.items() if str(hint).startswith("Hook[")
    }


def test_every_public_symbol_has_a_known_type():
    told = pyright("--verifytypes", "fncb", "--ignoreexternal")["typeCompleteness"]

    unknown = [each["name"] for each in told["symbols"] if each["isExported"] and not each["isTypeKnown"]]
    assert unknown == []
    assert told["completenessScore"] == 1.0
