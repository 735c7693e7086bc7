"""Every block of code in the README and under docs/ runs, from top to bottom, and prints what its page shows.

`python` is run, or written to a file where its first line is a comment with the file's name. `sh` is run by a shell in
the same directory. `output` is what the block before it prints, `...` standing for anything; in `output about` the
numbers are those of one machine, and any other will do. `text` and `toml` are no code.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from itertools import starmap
from pathlib import Path

import pytest
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser

import fncb

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_CODE = {"text", "toml", "{toctree}", "{eval-rst}", "{include} ../benchmarks/results.md"}
NEEDS_NETWORK = r"(pip install|make) .*"  # what `.ci/run` does


def python(example: Example) -> None:
    file = re.match(r"# (\w+\.py)\n", example.parsed)
    if file:
        Path(file[1]).write_text(str(example.parsed))
        return
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        PythonEvaluator()(example)
    example.document.namespace["printed"] = printed.getvalue()


def shell(example: Example) -> None:
    lines = [line.split(" #")[0].strip() for line in example.parsed.splitlines()]
    commands = [line for line in lines if not re.fullmatch(NEEDS_NETWORK, line)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-ec", "\n".join(commands)],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "160", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    example.document.namespace["printed"] = done.stdout


def output(example: Example, blurred: Callable[[str], str] = str) -> str | None:
    printed = example.document.namespace.pop("printed")
    if OutputChecker().check_output(blurred(example.parsed), blurred(printed), ELLIPSIS | NORMALIZE_WHITESPACE):
        return None
    return f"the page shows\n{example.parsed}\nand the code prints\n{printed}"


def output_about(example: Example) -> str | None:
    return output(example, lambda text: re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "0", text))


LANGUAGES = {"python": python, "sh": shell, "output": output, "output about": output_about}


def run(page: Path) -> int:
    """Runs a page's blocks, and gives their number."""
    examples = list(Document.parse(str(page), *starmap(CodeBlockParser, LANGUAGES.items())).examples())
    for example in examples:
        example.evaluate()
    return len(examples)


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(fncb.fit.__kwdefaults__, "compile", False)  # seconds a page instead of minutes
    yield
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", "")).startswith(f"{tmp_path}{os.sep}"):
            del sys.modules[name]  # another page may write a file of that name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page):
    languages = re.findall(r"^ *```(.*)\n(?:.*\n)*?^ *```$", page.read_text(), re.MULTILINE)

    assert set(languages) <= {*LANGUAGES, *NOT_CODE}
    assert run(page) == sum(language in LANGUAGES for language in languages)


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("```python\nprint(1)\n```\n\n```output\n2\n```\n", "the code prints\n1"),
        ("```python\nassert not 1\n```\n", None),
        ("```sh\nfalse\n```\n", None),
        ("```python\nprint(1.5, 'a')\n```\n\n```output about\n2.5 b\n```\n", "the code prints\n1.5 a"),
        ("```sh\necho one\n```\n\n```output\ntwo\n```\n", "the code prints\none"),
    ],
)
def test_a_page_that_says_what_is_not_so_is_noticed(page, says):
    Path("page.md").write_text(page)

    with pytest.raises(AssertionError, match=says):
        run(Path("page.md"))


def test_numbers_of_one_machine_may_be_others():
    Path("page.md").write_text("```python\nprint('loss', 1.25e-07, 3)\n```\n\n```output about\nloss 0.5 12\n```\n")

    assert run(Path("page.md")) == 2


def test_a_page_may_write_files_that_its_commands_run():
    Path("page.md").write_text(
        "```python\n# mine.py\nprint('mine')\n```\n\n```sh\npython mine.py\n```\n\n```output\nm...e\n```\n"
    )

    assert run(Path("page.md")) == 3
