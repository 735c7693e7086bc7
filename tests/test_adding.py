"""The table "I want to add" of CONTRIBUTING.md: what a row names is all that an addition takes, and none of it is idle.

One of each is added to a copy of the tree, in the files of its row and no others, is used there, and is left in with
lines missing. An edit is the text of a new file, or pairs: a piece of the file, which is there once, and what replaces
that.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COPIED = ("fncb", "tests", "docs", "pyproject.toml", "CONTRIBUTING.md", "README.md")

SAMPLE_COUNT = '''"""Log how many samples were trained on."""

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import Log
from fncb.events import TrainBatchEnd, TrainBatchStart
from fncb.fields import must_be_int


@attrs.frozen
class SampleCountState:
    """What `sample_count` remembers.

    Attributes:
      samples: of all batches so far, those that were left out too.
    """

    samples: int = 0


def sample_count(every_n_steps: int, *, key: str = "sample_count") -> Callback[SampleCountState]:
    """Logs how many samples there were so far, as `samples`, after so many steps.

    Args:
      every_n_steps: 1 or more.
      key: names the state.

    Returns:
      A `Callback` with `SampleCountState`.

    Raises:
      ValueError, TypeError: for a number of steps that is none.

    Example:
      >>> count, state = sample_count(1), SampleCountState()
      >>> state, _ = count.transition(state, TrainBatchStart(samples=4))
      >>> count.transition(state, TrainBatchEnd(step=1))
      (SampleCountState(samples=4), (Log(metrics={'samples': 4.0}),))

    Known as:
      nothing elsewhere.
    """
    must_be_int("sample_count", "every_n_steps", every_n_steps, 1, "step")

    def on_train_batch_start(state: SampleCountState, event: TrainBatchStart) -> SampleCountState:
        return SampleCountState(state.samples + event.samples)

    def on_train_batch_end(state: SampleCountState, event: TrainBatchEnd) -> SampleCountState | Emit[SampleCountState]:
        return state if event.step % every_n_steps else emit(state, Log({"samples": float(state.samples)}))

    return Callback(
        constructor="sample_count",
        key=key,
        init=SampleCountState,
        emits=(Log,),
        config={"every_n_steps": every_n_steps},
        on_train_batch_start=on_train_batch_start,
        on_train_batch_end=on_train_batch_end,
    )
'''

TEST_OF_SAMPLE_COUNT = """from fncb.callbacks import sample_count
from fncb.effects import Log
from fncb.events import TrainBatchEnd, TrainBatchStart
from tests.folding import fold


def test_samples_are_told_after_so_many_steps():
    events = [kind for step in (1, 2, 3) for kind in (TrainBatchStart(samples=4), TrainBatchEnd(step=step))]

    assert fold(sample_count(2), events).effects == (Log({"samples": 8.0}),)
"""

NPZ = '''"""Metrics as arrays of numpy."""

from pathlib import Path
from typing import Any

from fncb.sinks.bulk import Row
from fncb.sinks.sink import Sink
from fncb.sinks.vendor import package, sink_of_runs


def numpy(path: str | Path) -> Sink:
    """Writes metrics to an .npz file when the run ends, an array of `step` and value for each; needs `fncb[numpy]`.

    Args:
      path: of the file; its directory exists.

    Raises:
      ModuleNotFoundError: without numpy.

    Example:
      >>> import tempfile
      >>> from fncb.events import Metrics, ValidationEnd
      >>> sink = numpy(Path(tempfile.mkdtemp(), "metrics.npz"))
      >>> sink.log(Metrics({"val_loss": 0.5}), ValidationEnd(step=10))
      >>> sink.close()
    """
    vendor = package("numpy", "numpy")

    def write(found: dict[str, list[Any]], rows: list[Row]) -> None:
        for row in rows:
            for name, value in row.metrics.items():
                found.setdefault(name, []).append((row.step, value))

    def end(found: dict[str, list[Any]], _: bool) -> None:
        vendor.savez(path, **found)

    return sink_of_runs(dict, write, end)
'''

TEST_OF_NPZ = """import numpy as np

from fncb import sinks
from fncb.events import Metrics, ValidationEnd


def test_an_array_holds_steps_and_values(tmp_path):
    sink = sinks.numpy(tmp_path / "metrics.npz")
    for step, loss in ((1, 0.5), (2, 0.25)):
        sink.log(Metrics({"val_loss": loss}), ValidationEnd(step=step))
    sink.close()

    assert np.load(tmp_path / "metrics.npz")["val_loss"].tolist() == [[1.0, 0.5], [2.0, 0.25]]
"""

EDITS = {
    "a callback": {
        "fncb/callbacks/sample_count.py": SAMPLE_COUNT,
        "fncb/callbacks/__init__.py": [
            (
                "from fncb.callbacks.schedule import",
                "from fncb.callbacks.sample_count import sample_count as sample_count\n"
                "from fncb.callbacks.schedule import",
            )
        ],
        "tests/callbacks/test_sample_count.py": TEST_OF_SAMPLE_COUNT,
        "tests/built_ins.py": [
            ('    "schedule": st.', '    "sample_count": st.builds(cb.sample_count, FEW),\n    "schedule": st.')
        ],
        "tests/reliability/test_replays.py": [
            ("MORE = {\n", 'MORE = {\n    "sample_count": lambda folder: fncb.callbacks.sample_count(2),\n')
        ],
        "docs/tables.py": [('    "schedule": (', '    "sample_count": (100,),\n    "schedule": (')],
    },
    "a hook": {
        "fncb/events.py": [
            (
                "@attrs.frozen(kw_only=True, slots=False)\nclass ValidationEpochEnd(",
                "@attrs.frozen(kw_only=True, slots=False)\nclass ValidationLoaderEnd(Event):\n"
                '    """The batches of a validation loader are done. `dataloader_idx` tells which."""\n\n'
                "    dataloader_idx: int = 0\n\n\n"
                "@attrs.frozen(kw_only=True, slots=False)\nclass ValidationEpochEnd(",
            )
        ],
        "fncb/callback.py": [
            (
                "    on_validation_epoch_end: ",
                "    on_validation_loader_end: Hook[S, ev.ValidationLoaderEnd] = None\n    on_validation_epoch_end: ",
            )
        ],
        "fncb/evaluation.py": [
            (
                "            computed = measures.compute()\n",
                "            if the is VALIDATION:\n"
                "                fire(ev.ValidationLoaderEnd, dataloader_idx=dataloader_idx)\n"
                "            computed = measures.compute()\n",
            )
        ],
        "fncb/testing/runs.py": [
            (
                "[batch_start, batch_end] * batches, epoch_end",
                '[batch_start, batch_end] * batches, *[ev.ValidationLoaderEnd] * (stage == "Validation"), epoch_end',
            )
        ],
        "docs/hooks.md": [
            (
                "| `on_validation_epoch_end` |",
                "| `on_validation_loader_end` | `ValidationLoaderEnd` | The batches of a validation loader are done. "
                "| `dataloader_idx` |\n| `on_validation_epoch_end` |",
            ),
            *(
                (
                    "on_validation_batch_end\n    on_validation_epoch_end\n    on_epoch_end\n"
                    f"    on_validation_end{after}",
                    "on_validation_batch_end\n      on_validation_loader_end\n    on_validation_epoch_end\n"
                    f"    on_epoch_end\n    on_validation_end{after}",
                )
                for after in ("\n  on_sanity", "            the model")
            ),
        ],
        "docs/from_lightning.md": [
            ("New are `on_after_optimizer_step`", "New are `on_validation_loader_end`, `on_after_optimizer_step`")
        ],
        "tests/test_loop.py": [
            (
                '    "on_validation_epoch_end",\n    "on_epoch_end",\n    "on_validation_end",\n]',
                '    "on_validation_loader_end",\n    "on_validation_epoch_end",\n    "on_epoch_end",\n'
                '    "on_validation_end",\n]',
            )
        ],
        "tests/test_evaluation.py": [
            (
                '        f"on_{name}_epoch_end",\n',
                '        *["on_validation_loader_end"] * (stage == "validate"),\n        f"on_{name}_epoch_end",\n',
            )
        ],
        "tests/conformance/test_sequences.py": [
            (
                'validation = [name.format("validation") for name in EVALUATION]',
                'validation = [name.format("validation") for name in OF_VALIDATION]',
            ),
            (
                '("validate", [name.format("validation") for name in EVALUATION])',
                '("validate", [name.format("validation") for name in OF_VALIDATION])',
            ),
            (
                "\n\ndef test_the_full_order_of_fit",
                'OF_VALIDATION = [*EVALUATION[:-3], "on_validation_loader_end", *EVALUATION[-3:]]\n\n\n'
                "def test_the_full_order_of_fit",
            ),
        ],
        "tests/test_hooks.py": [('OWN = ("on_after', 'OWN = ("on_validation_loader_end", "on_after')],
    },
    "an effect": {
        "fncb/effects.py": [
            (
                "@attrs.frozen\nclass CollectGarbage(",
                "@attrs.frozen\nclass Touch(Effect):\n"
                '    """Have an empty file at `path`, for another program to see; one that is there stays."""\n\n'
                "    path: str = attrs.field(converter=_fspath)\n\n\n"
                "@attrs.frozen\nclass CollectGarbage(",
            )
        ],
        "fncb/__init__.py": [
            (
                "    from fncb.effects import Transform as",
                "    from fncb.effects import Touch as Touch\n    from fncb.effects import Transform as",
            ),
            ('"Transform", "Unfreeze"', '"Touch", "Transform", "Unfreeze"'),
        ],
        "fncb/interpret.py": [
            ("Link, Print, Render\n", "Link, Print, Render, Touch\n"),
            (
                "    return {Delete: delete,",
                "    def touch(effect: Touch, _: Event) -> None:\n"
                "        make_directories(Path(effect.path).parent)\n"
                "        Path(effect.path).touch()\n\n"
                "    return {Touch: touch, Delete: delete,",
            ),
        ],
        "docs/hooks.md": [("| `Delete`, `Link`, ", "| `Delete`, `Link`, `Touch`, ")],
        "fncb/testing/order.py": [("eff.Delete, eff.Append)", "eff.Delete, eff.Append, eff.Touch)")],
    },
    "a logger": {
        "fncb/sinks/numpy.py": NPZ,
        "fncb/sinks/__init__.py": [
            (
                "from fncb.sinks.sink import",
                "from fncb.sinks.numpy import numpy as numpy\nfrom fncb.sinks.sink import",
            )
        ],
        "pyproject.toml": [
            ('trackio = ["trackio', 'numpy = ["numpy>=2.0"]\ntrackio = ["trackio'),
            ('"fncb[tensorboard,', '"fncb[numpy,tensorboard,'),
        ],
        "tests/sinks/test_numpy.py": TEST_OF_NPZ,
    },
}
NAMES = {"a callback": "sample_count", "a logger": "numpy"}
"""What `<name>` and `<vendor>` stand for."""

USED = {
    "a callback": """
def test_it_is_used():
    run = fit(fncb.callbacks.sample_count(3))

    assert run.state["sample_count"].samples == 12
    assert run.metrics["samples"] == 12.0
""",
    "a hook": """
def test_it_is_used(tmp_path):
    def on_validation_loader_end(state, event):
        return (*state, (event.step, event.dataloader_idx))

    hears = fncb.Callback(key="hears", init=tuple, on_validation_loader_end=on_validation_loader_end)
    run = fit(hears, record=tmp_path / "events.jsonl")

    assert run.state["hears"] == ((0, 0), (3, 0))  # of the sanity check, and of the epoch
    assert fncb.replay([hears], run.recording).state == run.state
""",
    "an effect": """
def test_it_is_used(tmp_path):
    def on_train_end(state, event):
        return fncb.emit(state, fncb.Touch(tmp_path / "done" / "flag"))

    tells = fncb.Callback(key="tells", emits=(fncb.Touch,), on_train_end=on_train_end)
    run = fit(tells, record=tmp_path / "events.jsonl")

    assert (tmp_path / "done" / "flag").read_bytes() == b""
    assert fncb.replay(tells, run.recording).effects == (fncb.Touch(tmp_path / "done" / "flag"),)
""",
    "a logger": """
def test_it_is_used(tmp_path):
    fit(sinks=[fncb.sinks.numpy(tmp_path / "metrics.npz")], log_every_n_steps=1)

    logged = numpy.load(tmp_path / "metrics.npz")
    assert logged["loss"][:3, 0].tolist() == [1.0, 2.0, 3.0]
    assert logged["val_loss"][:, 0].tolist() == [3.0]  # and not that of the end of the epoch, too
""",
}
FIT = """
import functools
import numpy
import torch
import fncb


def fit(*callbacks, **settings):
    loss = lambda model, x: model(x).square().mean()
    task = fncb.Task(torch.nn.Linear(2, 1), loss=loss, optimizer=functools.partial(torch.optim.SGD, lr=0.1))
    given = {"max_epochs": 1, "compile": False, "progress": False, **settings}
    return fncb.fit(task, [torch.ones(4, 2)] * 3, [torch.ones(4, 2)], callbacks=callbacks, **given)

"""

NOTICES = {
    "a callback": {
        "fncb/callbacks/__init__.py": "tests/test_pages.py::test_every_built_in_is_listed",
        "tests/callbacks/test_sample_count.py": "tests/test_house.py::test_every_callback_and_every_sink_is_public_and_"
        "has_a_test_of_its_own[callbacks-Callback]",
        "tests/built_ins.py": "tests/reliability/test_laws.py::test_every_built_in_has_a_row",
        "tests/reliability/test_replays.py": "tests/reliability/test_replays.py::"
        "test_every_built_in_with_a_host_half_has_a_row",
        "docs/tables.py": "tests/test_pages.py::test_every_built_in_can_be_made_with_little",
        "docs/callbacks.md": "tests/test_pages.py::test_the_tables_are_as_the_code_has_them",
    },
    "a hook": {
        "fncb/callback.py": "tests/test_hooks.py::test_fields_of_a_callback_and_classes_of_events_are_the_same_list",
        "fncb/evaluation.py": "tests/test_hooks.py::test_the_page_shows_the_order_of_a_run",
        "fncb/testing/runs.py": "tests/testing/test_runs.py::test_every_hook_is_heard_in_some_run",
        "docs/hooks.md": "tests/test_hooks.py::"
        "test_the_page_lists_every_hook_with_its_event_its_moment_and_what_it_carries",
        "docs/from_lightning.md": "tests/test_migration.py::"
        "test_every_hook_of_lightning_is_set_beside_ours_and_every_one_of_ours_is_named",
        "tests/test_hooks.py": "tests/test_hooks.py::"
        "test_every_hook_of_lightning_is_there_and_the_older_ones_and_our_own",
        "tests/test_loop.py": "tests/test_loop.py::test_events_come_in_the_order_of_lightning",
        "tests/test_evaluation.py": "tests/test_evaluation.py::"
        "test_events_come_in_the_order_of_lightning[validate-True]",
        "tests/conformance/test_sequences.py": "tests/conformance/test_sequences.py::test_the_full_order_of_fit",
    },
    "an effect": {
        "fncb/__init__.py": "tests/test_house.py::test_every_effect_is_at_the_top_level",
        "fncb/interpret.py": "tests/test_hooks.py::"
        "test_no_stage_refuses_a_callback_for_an_effect_that_some_stage_carries_out[fit]",
        "docs/hooks.md": "tests/test_hooks.py::test_the_page_lists_every_effect",
        "fncb/testing/order.py": "tests/testing/test_order.py::"
        "test_every_effect_has_a_row_or_is_known_to_leave_others_alone",
    },
    "a logger": {
        "fncb/sinks/__init__.py": "tests/test_house.py::test_every_callback_and_every_sink_is_public_and_"
        "has_a_test_of_its_own[sinks-Sink]",
        "pyproject.toml": "tests/sinks/test_vendor.py::test_every_package_is_an_extra_and_there_to_be_tested_against",
        "tests/sinks/test_numpy.py": "tests/test_house.py::test_every_callback_and_every_sink_is_public_and_"
        "has_a_test_of_its_own[sinks-Sink]",
        "docs/callbacks.md": "tests/test_pages.py::test_the_tables_are_as_the_code_has_them",
    },
}
"""The test that fails where a file of an addition is left out; without the others there is no addition."""

ALSO = (
    "fncb/callbacks/sample_count.py",
    "fncb/sinks/numpy.py",
    "tests/callbacks/test_sample_count.py",
    "tests/sinks/test_numpy.py",
    "tests/reliability/test_laws.py::test_each_built_in_obeys_the_laws_of_the_host[sample_count]",
    "tests/reliability/test_replays.py::test_a_run_replays_exactly[sample_count]",
    "tests/test_events.py",
    "tests/test_house.py::test_names_for_type_checkers_are_those_that_are_loaded",
    "tests/test_layers.py",
)
"""What holds such additions to the rules of the house beside."""

MISSING = {
    "what makes it public": {
        "a callback": {"fncb/callbacks/__init__.py"},
        "a hook": {"fncb/callback.py"},
        "a logger": {"fncb/sinks/__init__.py"},
    },
    "what has it done": {
        "a callback": {"docs/tables.py"},
        "a hook": {"fncb/evaluation.py"},
        "an effect": {"fncb/interpret.py"},
    },
}
MISSING["all else"] = {
    row: NOTICES[row].keys() - set().union(*(of.get(row, ()) for of in MISSING.values())) for row in EDITS
}
"""Files that are left out at once: more than one where each is missed by itself."""


def copied(folder):
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def add(tree, row, leave_out=()):
    """Makes the edits of an addition."""
    for name in EDITS[row].keys() - leave_out:
        file, edits = tree / name, EDITS[row][name]
        if isinstance(edits, str):
            file.write_text(edits)
            continue
        text = file.read_text()
        for old, new in edits:
            assert text.count(old) == 1, f"{name} must have once: {old!r}"
            text = text.replace(old, new)
        file.write_text(text)


def python(tree, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


def fill_tables(tree):
    ran = python(tree, "docs/tables.py")
    assert ran.returncode == 0, ran.stderr


def failing(tree, *tests):
    """Those of some tests that fail in a tree, and what pytest said."""
    ran = python(tree, "-m", "pytest", "-q", "-rfE", "--tb=short", "-p", "no:cacheprovider", *dict.fromkeys(tests))
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", ran.stdout, re.MULTILINE)), ran.stdout


def cells(row):
    """What its row says to write, and what else."""
    (line,) = re.findall(rf"^\| {row} \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return line.split(" | ")


def files_of(clause, row):
    """The files that a part of a row names."""
    tokens = re.findall(r"`([\w/<>.]+\.(?:py|md|toml))`", re.sub("<name>|<vendor>", NAMES.get(row, ""), clause))
    return {token if token.startswith(("tests/", "docs/", "pyproject")) else f"fncb/{token}" for token in tokens}


def changed(tree):
    """The files of a tree that are not as they were."""
    files = [path.relative_to(tree) for path in tree.rglob("*") if path.is_file()]
    return {
        str(file)
        for file in files
        if not (ROOT / file).exists() or (ROOT / file).read_bytes() != (tree / file).read_bytes()
    }


@pytest.mark.parametrize("row", EDITS)
def test_an_addition_takes_the_files_of_its_row_and_no_others(tmp_path, row):
    tree, (writes, beside) = copied(tmp_path), cells(row)

    add(tree, row)
    if "`python docs/tables.py`" in beside:
        fill_tables(tree)
    found = changed(tree)

    assert found - files_of(f"{writes}; {beside}", row) == set()
    for clause in [*writes.split("; "), *beside.split("; ")]:
        files = files_of(clause, row)
        if not clause.startswith("if "):  # such files some additions take
            assert (files & found) if " or " in clause else files <= found, clause
    assert found - files_of(writes, row) - NOTICES[row].keys() == set()


def test_what_is_added_is_used_and_keeps_the_rules_of_the_house(tmp_path):
    tree = copied(tmp_path)
    for row in EDITS:
        add(tree, row)
    fill_tables(tree)
    uses = [tree / f"test_{row.split()[1]}.py" for row in EDITS]
    for row, file in zip(EDITS, uses, strict=True):
        file.write_text(FIT + USED[row])

    failed, said = failing(tree, *map(str, uses), *ALSO, *(test for row in EDITS for test in NOTICES[row].values()))

    assert not failed, said


@pytest.mark.parametrize("what", MISSING)
def test_a_line_that_is_left_out_is_noticed(tmp_path, what):
    tree, notice = copied(tmp_path), set()
    for row in EDITS:
        left_out = MISSING[what].get(row, set())
        add(tree, row, left_out)
        notice |= {NOTICES[row][name] for name in left_out}

    failed, said = failing(tree, *notice)

    assert failed == notice, said
