"""The laws in pytest, in a process of its own."""

import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = """
from fncb.callback import Callback

def patient() -> Callback[int]:
    return Callback(key="patient", init=int, on_train_end=lambda state, event: state + 1)

def forgetful() -> "Callback":
    return Callback(key="forgetful", init=int, on_train_end=lambda state, event: None)

def bounded(limit: int) -> Callback:
    return Callback(key="bounded", init=int, on_train_end=lambda state, event: min(state + 1, limit))

def choosy(*limits: int) -> Callback:
    if not limits:
        raise ValueError("choosy: there must be limits, got none.")
    return bounded(min(limits))

def lazy(limit):
    return bounded(limit)

def helper(limit):
    raise AssertionError("nobody asked for it")

def _private() -> Callback:
    raise AssertionError("nobody asked for it")

fncb_examples = {"lazy": lambda: [lazy(3), lazy(4)]}
"""
TESTS = """
import pytest
from mine.callbacks import forgetful, patient

@pytest.fixture
def made():
    return [patient()]

@pytest.mark.fncb_laws
def test_patient(made):
    return made

@pytest.mark.fncb_laws
def test_forgetful():
    return forgetful()

def test_by_hand(fncb_laws):
    assert fncb_laws(patient()).key == "patient"
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("from mine.callbacks import patient\n")
    (tmp_path / "mine" / "callbacks.py").write_text(PACKAGE)
    (tmp_path / "test_mine.py").write_text(TESTS)

    def run(*args):
        env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
        pytest = "import sys; sys.path.pop(0); import pytest; sys.exit(pytest.main())"  # as the command `pytest`
        command = [sys.executable, "-c", pytest, "-p", "fncb.testing.plugin", "-rA", "-p", "no:cacheprovider", *args]
        found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        outcomes = dict(re.findall(r"^(\S+::\S+) (PASSED|FAILED|SKIPPED)", found.stdout, re.M))
        outcomes |= {name: outcome for outcome, name in re.findall(r"^(PASSED|FAILED) (\S+::\S+)", found.stdout, re.M)}
        return found.stdout + found.stderr, outcomes

    return run


def test_each_constructor_of_a_package_is_checked_and_nothing_else(run):
    printed, outcomes = run("--fncb-laws", "mine")

    assert outcomes == {"mine::patient": "PASSED", "mine::lazy": "PASSED", "mine::forgetful": "FAILED"}
    assert "1 failed, 2 passed, 2 skipped" in printed
    assert "collected 5 items" in printed
    assert "returns state: forgetful: on_train_end gives None. Return the state, or emit(state, ...)" in printed
    assert "it cannot be called without arguments (choosy: there must be limits, got none.): add fncb_ex" in printed
    assert 'it must be given limit: add fncb_examples = {"bounded": lambda: bounded(...)} to mine.callbacks' in printed


def test_with_files_both_are_run(run):
    _, outcomes = run("--fncb-laws", "mine.callbacks", "test_mine.py")

    assert outcomes["test_mine.py::test_by_hand"] == outcomes["mine.callbacks::patient"] == "PASSED"


def test_a_marked_function_gives_what_is_checked(run):
    _, outcomes = run()

    assert outcomes == {
        "test_mine.py::test_patient": "PASSED",
        "test_mine.py::test_forgetful": "FAILED",
        "test_mine.py::test_by_hand": "PASSED",
    }


def test_a_package_that_is_not_there_or_makes_nothing_is_told_of_and_nothing_else(run):
    assert run("--fncb-laws", "nowhere")[0].split() == [
        "ERROR:",
        "--fncb-laws",
        "nowhere:",
        "No",
        "module",
        "named",
        "'nowhere'",
    ]
    assert run("--fncb-laws", "json")[0].startswith(
        "ERROR: --fncb-laws json: there must be functions annotated to return Callback, got none."
    )


def test_it_costs_no_import_of_torch_or_hypothesis_when_it_is_not_used():
    code = "import sys, fncb.testing.plugin\nsys.exit(bool({'torch', 'hypothesis', 'attrs'} & {*sys.modules}))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_entry_point_is_the_plugin():
    text = (ROOT / "pyproject.toml").read_text()
    named = re.search(r'entry-points.pytest11]\nfncb = "(.*)"', text)

    assert named is not None
    assert hasattr(EntryPoint("fncb", named[1], "pytest11").load(), "pytest_addoption")
