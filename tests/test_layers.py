"""Imports point strictly downward, and each room has its floor."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fncb"

FLOORS = (
    ("durations", "live", "metrics", "naming", "printable", "tree"),
    ("not_in_step",),
    ("effects", "events"),
    # floor 1 in three, of which users know the last
    ("emitting", "fields", "notes"),
    ("handling", "step_hooks"),
    ("callback",),
    ("masking", "schedules"),
    ("callbacks",),
    # floor 3 in six: rooms that stand alone, what puts them together, what is made of those
    (
        *(
            "bars",
            "batch",
            "compiling",
            "disk",
            "frames",
            "garbage",
            "groups",
            "measures",
            "notation",
            "optimizer",
            "packing",
        ),
        *("permutation", "phases", "plots", "position", "signals", "sinks", "snapshot", "views"),
    ),
    ("data", "expressions", "batch_ends", "cards"),
    ("conditions", "formats", "loaders", "lock", "recording", "sight", "task"),
    ("recorder", "store"),
    (
        *("contents", "evaluation", "hindsight", "interpret", "journal", "precision", "regions", "saving", "watching"),
        *("account", "batch_norm", "flops", "weights"),
    ),
    ("alternatives", "differing", "recalling"),
    ("explaining",),
    ("keeper", "page", "plugins", "probes", "profiling", "resume", "settings", "step"),
    # and 4 in three: `fit` puts together what `Training` runs on a `Session`
    ("control", "rates", "rewinding", "run", "session", "trials", "upkeep"),
    ("batch_fit", "lr_range", "staging", "training"),
    ("loop",),
    ("adapters", "testing"),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
CORE = {"fncb", "torch", "attrs", "toolz", "msgspec", "safetensors", "rich", "filelock", *sys.stdlib_module_names}
CORE |= {"numpy"}  # where it is installed its random state belongs to a run


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


FILES = [pytest.param(file, id=str(file.relative_to(PACKAGE))) for file in sorted(PACKAGE.rglob("*.py"))]
LOW_FILES = [param for param in FILES if FLOOR_OF.get(room(param.values[0]), 0) <= FLOOR_OF["callbacks"]]


class WithoutLazyCode(ast.NodeTransformer):
    """Leaves what runs when a module is imported: no functions, nothing for type checkers only."""

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = lambda *_: None

    def visit_If(self, node):
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imported(tree: ast.AST) -> Iterator[list[str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "fncb":
            yield from (["fncb", alias.name if alias.name in FLOOR_OF else "__init__"] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or ".").split(".")


@pytest.mark.parametrize("file", FILES)
def test_imports_point_strictly_downward(file):
    here = room(file)
    assert here in FLOOR_OF, f"{here} has no floor: give it one in FLOORS"

    rooms = [[*name, "__init__"][1] for name in imported(ast.parse(file.read_text())) if name[0] == "fncb"]
    assert [other for other in rooms if other != here and FLOOR_OF[other] >= FLOOR_OF[here]] == []


@pytest.mark.parametrize("file", LOW_FILES)
def test_callbacks_load_no_torch_before_a_step_is_made(file):
    now = WithoutLazyCode().visit(ast.parse(file.read_text()))

    assert "torch" not in [name[0] for name in imported(now)]


VENDORS = {"bars": {"tqdm"}, "callbacks": {"torchao"}, "page": {"plotly"}, "plots": {"plotly"}, "probes": {"psutil"}}
VENDORS["testing"] = {"hypothesis", "pytest"}


@pytest.mark.parametrize("file", FILES)
def test_only_rooms_made_for_it_know_vendors(file):
    if room(file) in ("sinks", "adapters"):
        return
    assert {name[0] for name in imported(ast.parse(file.read_text()))} <= CORE | VENDORS.get(room(file), set())


def test_no_room_is_named_for_nothing_in_particular():
    names = {path.stem for path in PACKAGE.rglob("*")}

    assert not names & {"base", "core", "helpers", "registry", "trainer", "utils"}
