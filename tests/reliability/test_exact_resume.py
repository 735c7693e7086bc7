"""R8: a run that was cut anywhere and goes on equals one that was never cut, bit for bit."""

import itertools
import random
from pathlib import Path

import pytest

from fncb import store
from fncb.callbacks import checkpoint
from fncb.effects import Skip, StopEpoch
from tests.reliability.resuming import (
    MUCH,
    OTHERS,
    RICH,
    SET_UP,
    a_case,
    cuts,
    differences,
    may_go_on,
    quick_folder,
    resumed_elsewhere,
    saves_at,
    straight,
)

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # which torchdata calls

EARLY = tuple(name for name in SET_UP if name != "on_load_checkpoint")
COMPILED = 50
COMPARED = "parameters, optimizer, schedule, random state, states, metrics, events"

FULL = {
    **RICH,
    "batches": 4,
    "callbacks": MUCH,
    "asks": {},
}
"""A run with much in it; settings are to be added."""

CUT_SHORT = {"on_train_batch_start": {(0, 2): StopEpoch(), (1, 1): Skip()}, "on_train_batch_end": {(1, 2): StopEpoch()}}


def drawn(rng):
    """A case, the places at which it is saved, and the set-up hooks at which it is."""
    case = a_case(rng)
    return case, {n for n in range(300) if rng.random() < 0.15}, [name for name in EARLY if rng.random() < 0.05]


def of_random_cuts(n, seed):
    """How each of so many random cuts goes on: what is cut, and what differs."""
    found = []
    for i in itertools.count():
        case, places, early = drawn(random.Random(f"{seed} {i}"))
        with quick_folder() as folder:
            of = straight(case, folder, saves_at(folder / "cuts", places, early))
            for path in cuts(folder):
                if may_go_on(store.read(path), of["entries"]):
                    found.append((f"{seed} {i} {path.name}", differences(case, folder, of, path, saves_at())))
                if len(found) == n:
                    return found, i + 1


@pytest.mark.parametrize("seed", range(4))
def test_a_run_cut_at_random_goes_on_exactly(seed, record_property, capfd):
    found, runs = of_random_cuts(250, seed)

    assert [each for each in found if each[1]] == []
    record_property(
        "count", f"R8: {len(found)} random cuts of {runs} random runs, part {seed + 1} of 4: equal {COMPARED}"
    )


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({"accumulate_grad_batches": 3, "val_check_interval": 2, "num_sanity_val_steps": 1}, {}),
        ({"max_steps": 5}, {"loader": "shuffled", "schedule": "plateau by validation", "optimizer": "sgd"}),
        ({"accumulate_grad_batches": 2, "num_sanity_val_steps": 0}, {"callbacks": OTHERS}),
        ({}, {"loader": "shuffled", "callbacks": ["tally", "on_exception_checkpoint"], "asks": CUT_SHORT}),
    ],
    ids=["much of it", "a shuffled DataLoader, max_steps", "the other callbacks", "epochs cut short, rescues"],
)
def test_every_cut_of_a_run_goes_on_exactly(settings, given, record_property, capfd):
    case = {**FULL, **given, "seed": 3, "settings": {"max_epochs": 2, "max_steps": -1, **settings}}
    with quick_folder() as folder:
        of = straight(case, folder, saves_at(folder / "cuts", range(1000), EARLY))
        paths = cuts(folder)
        going_on = [path for path in paths if may_go_on(store.read(path), of["entries"])]
        found = [(path.name, differences(case, folder, of, path, saves_at())) for path in going_on]

    assert [each for each in found if each[1]] == []
    assert {path.stem.split("-")[1] for path in paths} >= {*EARLY, "on_train_batch_end", "on_validation_batch_end"}
    record_property("count", f"R8: {len(found)} cuts of one run, at every hook and occurrence: equal {COMPARED}")


def test_a_cut_after_the_last_batch_ends_as_the_run_that_was_never_cut(capfd):
    found = []
    for settings in ({"max_epochs": 1, "max_steps": -1}, {"max_epochs": 2, "max_steps": 3}):
        case = {**FULL, "seed": 3, "settings": {**settings, "num_sanity_val_steps": 0}}
        with quick_folder() as folder:
            of = straight(case, folder, saves_at(folder / "cuts", range(1000)))
            over = [
                path
                for path in cuts(folder)
                if store.read(path)["position"]["epoch_is_over"] or store.read(path)["step"] == 3
            ]
            over = [path for path in over if may_go_on(store.read(path), of["entries"])]
            found += [(path.name, differences(case, folder, of, path, saves_at())) for path in over]

    assert len(found) > 4
    assert [each for each in found if each[1]] == []


@pytest.mark.parametrize("monitor", [None, "val_loss"])
def test_what_checkpoint_saves_goes_on_exactly(monitor, record_property, capfd):
    def saves(folder):
        return checkpoint(folder / "kept", monitor=monitor, every_n_train_steps=1, save_top_k=-1, key="saves files")

    case = {**FULL, "seed": 4, "settings": {"max_epochs": 3, "max_steps": -1, "val_check_interval": 2}}
    case["callbacks"] = [name for name in case["callbacks"] if name not in ("checkpoint", "early_stop")]
    with quick_folder() as folder:
        of = straight(case, folder, saves(folder))
        kept = [path.read_bytes() for path in sorted((folder / "kept").glob("*.safetensors"))]
        found = []
        for saved in kept:
            path = Path(folder, "cut.safetensors")
            path.write_bytes(saved)
            if may_go_on(store.read(path), of["entries"]):
                found.append(differences(case, folder, of, path, saves(folder)))

    assert len(found) > 4
    assert [each for each in found if each] == []
    record_property("count", f"R8: {len(found)} cuts by checkpoint(monitor={monitor}): equal {COMPARED}")


@pytest.mark.parametrize("given", [{}, {"callbacks": OTHERS, "batches": 6}], ids=["much of it", "the other callbacks"])
def test_a_run_goes_on_exactly_in_a_new_process(given, record_property):
    settings = {
        "max_epochs": 2,
        "max_steps": -1,
        "accumulate_grad_batches": 2,
        "num_sanity_val_steps": 0 if given else 2,
    }
    case = {**FULL, **given, "seed": 5, "settings": settings}
    with quick_folder() as folder:
        of = straight(case, folder, saves_at(folder / "cuts", range(1000)))
        paths = [path for path in cuts(folder) if may_go_on(store.read(path), of["entries"])]
        found = resumed_elsewhere(case, folder, of, random.Random(0).sample(paths, 50))

    assert len(found) == 50
    assert [each for each in found if each[1]] == []
    record_property("count", f"R8: {len(found)} cuts that go on in a new process: equal {COMPARED}")


def test_a_compiled_run_goes_on_exactly(record_property):
    small = {"callbacks": ["tally", "ema"], "optimizer": "sgd", "loader": "batches", "draws": False, "batches": 26}
    settings = {"max_epochs": 2, "max_steps": -1, "compile": True}
    case = {**FULL, **small, "seed": 6, "settings": settings}
    with quick_folder() as folder:
        of = straight(case, folder, saves_at(folder / "cuts", range(1000)))
        paths = [path for path in cuts(folder) if may_go_on(store.read(path), of["entries"])]
        chosen = random.Random(0).sample(paths, COMPILED)
        found = [(path.name, differences(case, folder, of, path, saves_at())) for path in chosen]

    assert of["whole"]["compiled"] == "one graph"
    assert [each for each in found if each[1]] == []
    record_property("count", f"R8: {len(found)} cuts of a compiled run: equal {COMPARED}")
