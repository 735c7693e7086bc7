"""What holds for the package as a whole: what importing it costs, what it ships, what its pages promise."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fncb

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "use", ["", "fncb.replay", "fncb.compose", "fncb.callbacks.early_stop", "fncb.callbacks.checkpoint", "fncb.events"]
)
def test_host_callbacks_and_replay_never_load_torch(use):
    code = f"import sys, fncb\n{use}\nsys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there():
    assert [name for name in fncb.__all__ if getattr(fncb, name, None) is None] == []
    assert set(fncb.__all__) <= set(dir(fncb))


def test_names_for_type_checkers_are_those_that_are_loaded():
    tree = ast.parse(Path(fncb.__file__).read_text())
    (lazy,) = [node.body for node in tree.body if isinstance(node, ast.If)]

    shown = {name.name: node.module for node in lazy for name in node.names}
    rooms = {name: f"fncb.{room}" for name, room in fncb._HOME.items()}
    assert shown == {**rooms, **dict.fromkeys(fncb._MODULES, "fncb")}


def test_every_effect_is_at_the_top_level():
    kinds = [kind for kind in vars(fncb.effects).values() if isinstance(kind, type)]

    assert {kind.__name__ for kind in kinds if issubclass(kind, fncb.effects.Effect)} - {"Effect"} <= set(fncb.__all__)


@pytest.mark.parametrize(("folder", "gives"), [("callbacks", "Callback"), ("sinks", "Sink")])
def test_every_callback_and_every_sink_is_public_and_has_a_test_of_its_own(folder, gives):
    trees = {path.stem: ast.parse(path.read_text()) for path in (ROOT / "fncb" / folder).glob("*.py")}
    functions = {
        name: [each for each in tree.body if isinstance(each, ast.FunctionDef)] for name, tree in trees.items()
    }
    made = {
        name
        for name, those in functions.items()
        if any(each.name == name and each.returns and ast.unparse(each.returns).startswith(gives) for each in those)
    }

    assert len(made) > 5
    assert [name for name in sorted(made) if not callable(vars(getattr(fncb, folder)).get(name))] == []
    assert made - {path.stem.removeprefix("test_") for path in (ROOT / "tests" / folder).glob("*.py")} == set()


def test_no_public_name_is_that_of_a_room():
    # importing a room makes it an attribute of the package, where it would hide the name
    rooms = {path.stem for path in Path(fncb.__file__).parent.iterdir()}

    assert rooms & set(fncb.__all__) <= {"callbacks", "effects", "events", "sinks"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fncb.no_such_name


def test_a_file_of_over_400_lines_says_why():
    files = {path: path.read_text() for path in (ROOT / "fncb").rglob("*.py")}
    long = {path: ast.get_docstring(ast.parse(text)) for path, text in files.items() if text.count("\n") > 400}

    assert [path for path, first in long.items() if "This file is long because" not in first] == []
    assert len(long) < 10


def test_types_are_shipped():
    assert (Path(fncb.__file__).parent / "py.typed").exists()
