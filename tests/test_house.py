"""What holds for the package as a whole: what importing it costs, what it ships, what its pages promise."""

import ast
import re
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


def test_the_code_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    code = "\n".join(blocks)
    assert "max_epochs=20" in code

    exec(code.replace("max_epochs=20", "max_epochs=2, compile=False"), {"__name__": "readme"})
