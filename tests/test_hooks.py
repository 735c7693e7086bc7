"""The list of hooks is the same as fields of `Callback`, as classes of events, and as `docs/hooks.md`."""

import re
from functools import partial
from pathlib import Path

import attrs
import pytest
import torch

from fncb import effects
from fncb import events as ev
from fncb.callback import Callback, StepHooks
from fncb.callbacks import checkpoint
from fncb.fields import hook_names
from fncb.live import is_live
from fncb.loop import fit, predict, test, validate
from fncb.task import Task

EFFECTS = tuple(
    kind
    for kind in vars(effects).values()
    if isinstance(kind, type) and issubclass(kind, effects.Effect) and kind is not effects.Effect
)
PAGE = (Path(__file__).parent.parent / "docs" / "hooks.md").read_text()

# Those of Lightning 2.6, and of 1.6 where the later one has them no more; then fncb's own.
LIGHTNING = (
    *("setup", "teardown", "on_fit_start", "on_fit_end", "on_sanity_check_start", "on_sanity_check_end"),
    *("on_train_start", "on_train_end", "on_train_epoch_start", "on_train_epoch_end"),
    *("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_exception", "on_save_checkpoint", "on_load_checkpoint"),
    *(
        f"on_{stage}_{moment}"
        for stage in ("validation", "test", "predict")
        for moment in ("start", "end", "epoch_start", "epoch_end", "batch_start", "batch_end")
    ),
)
OLDER = ("on_init_start", "on_init_end", "on_configure_sharded_model")
OLDER += ("on_epoch_start", "on_epoch_end", "on_keyboard_interrupt")
OWN = ("on_after_optimizer_step", "on_saved", "on_stop_requested", "on_step_compiled", "on_probed")


def test_every_hook_of_lightning_is_there_and_the_older_ones_and_our_own():
    assert set(ev.HOOKS) == {*LIGHTNING, *OLDER, *OWN}


def test_fields_of_a_callback_and_classes_of_events_are_the_same_list():
    fields = [field.name for field in attrs.fields(Callback) if re.match("on_|setup|teardown", field.name)]

    assert fields == list(ev.HOOKS)
    assert set(hook_names(Callback(key="all", **dict.fromkeys(fields, max)))) == set(ev.HOOKS)


def test_step_hooks_are_those_of_the_events_in_the_step():
    fields = {field.name for field in attrs.fields(StepHooks) if field.name.startswith("on_")}

    assert fields == {ev.hook_name(kind) for kind in ev.IN_STEP}


def table(title):
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in re.findall(r"^\| *`.*\|$", section, re.M)]


def first_sentence(kind):
    return " ".join(kind.__doc__.split()).split(". ")[0].rstrip(".") + "."


def carried(kind):
    own = [field for field in attrs.fields(kind) if field.name not in ("epoch", "step", "seconds")]
    return ", ".join(f"`{field.alias}`" + "*" * is_live(field) for field in own)


def test_the_page_lists_every_hook_with_its_event_its_moment_and_what_it_carries():
    rows = [[cell.strip("|").strip() for cell in row] for row in table("Every hook")]

    assert rows == [
        [f"`{name}`", f"`{kind.__name__}`", first_sentence(kind), carried(kind)] for name, kind in ev.HOOKS.items()
    ]


def test_the_page_shows_the_order_of_a_run(tmp_path):
    shown = [line.split()[0] for line in PAGE.split("```text\n")[1].split("```")[0].splitlines()]
    seen = []
    spy = Callback(key="spy", init=int, **dict.fromkeys(ev.HOOKS, lambda s, e: seen.append(ev.hook_name(type(e))) or s))
    task = Task(
        torch.nn.Linear(2, 1),
        loss=lambda model, x: model(x).square().mean(),
        optimizer=partial(torch.optim.SGD, lr=0.1),
    )
    batch = [torch.ones(4, 2)]

    fit(task, batch, batch, callbacks=[spy, checkpoint(tmp_path)], max_epochs=1, compile=False, progress=False)

    assert seen == shown


def test_the_page_lists_every_effect():
    listed = {name for row in table("What a hook may ask for, and when") for name in re.findall(r"`(\w+)", row[0])}

    assert listed == {kind.__name__ for kind in EFFECTS}


TINY = Task(torch.nn.Linear(2, 1), loss=lambda model, x: model(x).mean(), optimizer=partial(torch.optim.SGD, lr=0.1))
BATCH = [torch.ones(4, 2)]
STAGES = {
    "fit": partial(fit, TINY, BATCH, BATCH, max_epochs=0, compile=False),
    "validate": partial(validate, TINY, BATCH),
    "test": partial(test, TINY, BATCH),
    "predict": partial(predict, TINY, BATCH),
}


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_refuses_a_callback_for_an_effect_that_some_stage_carries_out(stage):
    asks = Callback(key="asks", init=int, emits=EFFECTS, setup=lambda state, event: state + 1)

    assert STAGES[stage](callbacks=asks, progress=False).state == {"asks": 1}
