"""The pages for those who come from elsewhere: what they set side by side is all there is."""

import inspect
import re
from pathlib import Path

import pytest

import fncb
from docs.tables import FINDERS, built_ins, known_as
from fncb import events as ev
from tests import test_hooks as hooks

DOCS = Path(__file__).parent.parent / "docs"
LIGHTNING, KERAS = (DOCS / "from_lightning.md").read_text(), (DOCS / "from_keras.md").read_text()

HOOKS_OF_LIGHTNING = {*hooks.LIGHTNING, "state_dict", "load_state_dict", "state_key"}
OLDER_HOOKS_OF_LIGHTNING = {
    *(*hooks.OLDER, "on_before_accelerator_backend_setup", "on_batch_start", "on_batch_end"),
    *("on_pretrain_routine_start", "on_pretrain_routine_end"),
}
HOOKS_OF_KERAS = {
    *(f"on_{of}_{at}" for of in ("train", "test", "predict", "epoch") for at in ("begin", "end")),
    *(f"on_{of}_batch_{at}" for of in ("train", "test", "predict") for at in ("begin", "end")),
    *("set_model", "set_params"),
}
ARGUMENTS_OF_TRAINER = {
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "logger", "callbacks", "fast_dev_run"),
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches", "limit_val_batches"),
    *("limit_test_batches", "limit_predict_batches", "overfit_batches", "val_check_interval"),
    *("check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "enable_checkpointing"),
    *("enable_progress_bar", "enable_model_summary", "accumulate_grad_batches", "gradient_clip_val"),
    *("gradient_clip_algorithm", "deterministic", "benchmark", "inference_mode", "use_distributed_sampler"),
    *("profiler", "detect_anomaly", "barebones", "plugins", "sync_batchnorm", "reload_dataloaders_every_n_epochs"),
    *("default_root_dir", "enable_autolog_hparams", "model_registry"),
}
ARGUMENTS_OF_TRAINER_FIT = {"model", "train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path", "weights_only"}


def table(page, head):
    """The rows of the table whose first head this is, each a list of cells."""
    lines = page.split(f"\n| {head} | ")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def column(page, head, i):
    return [name for row in table(page, head) for name in names(row[i])]


def answers(home):
    """What built-ins say they are known as in a home: pairs of the name there and here."""
    homes = r"[A-Za-z]\w+(?: Bolts| Addons)?"
    pairs = set()
    for here in (*built_ins(), *FINDERS):
        said = known_as(getattr(fncb.callbacks, here, None) or getattr(fncb, here))
        for found in re.finditer(
            rf"((?:`[^`]+`(?: and | with )?)+)(?: of losses)? in ({homes}(?:(?:, | and ){homes})*)", said
        ):
            if home in re.split(", | and ", found[2]):
                pairs |= {(there, here) for there in names(found[1])}
    return pairs


def pairs(page, head):
    return {(there, here) for row in table(page, head) for there in names(row[0]) for here in names(row[1])}


def test_every_hook_of_lightning_is_set_beside_ours_and_every_one_of_ours_is_named():
    assert set(column(LIGHTNING, "in Lightning", 0)) == HOOKS_OF_LIGHTNING
    assert set(column(LIGHTNING, "in Lightning 1.6", 0)) == OLDER_HOOKS_OF_LIGHTNING

    beside = {*column(LIGHTNING, "in Lightning", 1), *column(LIGHTNING, "in Lightning 1.6", 1)}
    new = set(names(re.search(r"^New are (.*)\.$", LIGHTNING, re.MULTILINE)[1]))
    assert {name for name in beside if name in ev.HOOKS} | new == set(ev.HOOKS)
    assert beside & new == set()


@pytest.mark.parametrize("head", ["in Lightning", "in Lightning 1.6"])
def test_a_hook_of_the_same_name_is_set_beside_itself(head):
    rows = [(names(row[0]), names(row[1])) for row in table(LIGHTNING, head)]

    assert [(there, here) for there, here in rows if set(there) & set(ev.HOOKS) and there != here] == []


def test_every_hook_of_keras_is_set_beside_ours():
    assert set(column(KERAS.split("## Hooks")[1], "in Keras", 0)) == HOOKS_OF_KERAS
    ours = [name for name in column(KERAS.split("## Hooks")[1], "in Keras", 1) if re.fullmatch(r"on_\w+", name)]
    assert set(ours) <= set(ev.HOOKS)


CALLBACKS = {
    "Lightning": pairs(LIGHTNING.split("## Callbacks\n")[1], "in Lightning"),
    "Lightning Bolts": pairs(LIGHTNING, "in Lightning Bolts"),
    "Keras": pairs(KERAS.split("## Callbacks\n")[1], "in Keras"),
}


@pytest.mark.parametrize("home", CALLBACKS)
def test_callbacks_are_set_beside_those_that_they_are_known_as(home):
    assert answers(home) - CALLBACKS[home] == set()
    further = {("TerminateOnNaN", "early_stop")} if home == "Keras" else set()
    assert CALLBACKS[home] - answers(home) == further


def test_every_argument_of_a_trainer_is_set_beside_ours():
    assert set(column(LIGHTNING, "argument of `Trainer`", 0)) == ARGUMENTS_OF_TRAINER
    assert set(column(LIGHTNING, "argument of `trainer.fit`", 0)) == ARGUMENTS_OF_TRAINER_FIT


@pytest.mark.parametrize("page", [LIGHTNING, KERAS], ids=["Lightning", "Keras"])
def test_arguments_and_names_that_the_pages_name_exist(page):
    named = re.findall(r"`(?:fncb\.)?(\w+)\((?:\"[^\"]*\", )?(\w+)=\)`", page)
    functions = {**vars(fncb), **built_ins()} | {name: getattr(fncb, name) for name in fncb.__all__}
    theirs = {"model"}
    for function, argument in named:
        if function not in theirs:
            assert argument in inspect.signature(functions[function]).parameters, f"{function}({argument}=)"
    assert len(named) > 0 or page is KERAS
    for name in re.findall(r"`(?:return )?fncb\.(\w+)", page):
        assert hasattr(fncb, name), name
