"""The laws in pytest: `--fncb-laws PACKAGE`, a marker and a fixture. What they need is loaded when they are used."""

from __future__ import annotations

import sys
from collections.abc import Callable as Function
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fncb.testing.collecting import Made

_FOUND: pytest.StashKey[dict[str, list[Made]]] = pytest.StashKey()
"""By the name of a package, what it makes callbacks with."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--fncb-laws`."""
    parser.getgroup("fncb").addoption(
        "--fncb-laws",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="check each callback that a module, or a package, makes against fncb's laws; without other arguments, "
        "only that. Can be given several times.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tells of the marker, and looks into the packages that `--fncb-laws` names, those of this directory first.

    With that option alone nothing else is collected. What is wrong with it is told before anything is run.
    """
    config.addinivalue_line(
        "markers", "fncb_laws(**options): the function returns a callback, or several, to be checked with the options"
    )
    names = config.getoption("fncb_laws")
    if not names:
        return
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []
    here = str(config.invocation_params.dir)
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m pytest` does
    config.stash[_FOUND] = {name: _constructors(name) for name in names}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds an item for each constructor of the packages that `--fncb-laws` names."""
    for name, found in config.stash.get(_FOUND, {}).items():
        package = Package.from_parent(session, name=name, nodeid=name, found=found)
        report = session.ihook.pytest_make_collect_report(collector=package)
        session.ihook.pytest_collectreport(report=report)  # which counts them
        items += report.result


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Checks what a marked function returns."""
    marker = pyfuncitem.get_closest_marker("fncb_laws")
    if marker is None:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    given = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    _check_all(given, **marker.kwargs)
    return True


@pytest.fixture
def fncb_laws() -> Function[..., Any]:
    """`fncb.testing.check`: raises if a callback breaks a law, and gives a report if it keeps them all."""
    from fncb.testing.checking import check

    return check


def _constructors(name: str) -> list[Made]:
    from fncb.testing.collecting import constructors

    try:
        found = constructors(name)
    except (ImportError, ValueError) as error:
        raise pytest.UsageError(f"--fncb-laws {name}: {error}") from error
    if not found:
        raise pytest.UsageError(
            f"--fncb-laws {name}: there must be functions annotated to return Callback, got none. Annotate them, or "
            "name them in fncb_examples."
        )
    return found


class Package(pytest.Collector):
    """A module or package whose callbacks are checked."""

    def __init__(self, *, found: list[Made], **kwargs: Any):
        """Takes its constructors."""
        super().__init__(**kwargs)
        self.found = found

    def collect(self) -> list[pytest.Item]:
        """One item for each constructor."""
        return [Laws.from_parent(self, name=each.name, made=each) for each in self.found]


class Laws(pytest.Item):
    """The laws of what one constructor makes."""

    def __init__(self, *, made: Made, **kwargs: Any):
        """Takes the constructor."""
        super().__init__(**kwargs)
        self.made = made

    def runtest(self) -> None:
        """Checks each callback; skips a constructor without an example, and tells what to add."""
        if self.made.make is None:
            pytest.skip(self.made.missing)
        from fncb.testing.collecting import NeedsExample

        try:
            made = self.made.make()
        except NeedsExample as error:
            pytest.skip(str(error))
        _check_all(made)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """The broken laws alone, where they are what failed."""
        from fncb.testing.report import LawsBroken

        return str(excinfo.value) if isinstance(excinfo.value, LawsBroken) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the constructor is."""
        return Path(self.made.path), self.made.line - 1, f"laws of {self.name}"


def _check_all(given: Any, **options: Any) -> None:
    from fncb.callback import Callback
    from fncb.testing.checking import check

    callbacks = [given] if isinstance(given, Callback) else list(given)
    if not callbacks:
        raise TypeError("fncb_laws: there must be a callback to check, got none. Return one, or a list of them.")
    for callback in callbacks:
        check(callback, **options)
