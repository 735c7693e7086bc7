"""The facts of facts.md on early stopping and checkpoints, with their numbers.

Files end with `.safetensors`, and an unknown metric in a name is an error (promises 5 and 12 of reliability.md).
"""

import pickle
from functools import partial
from math import nan

import pytest
import torch

import fncb
from fncb import store
from fncb.callbacks import checkpoint, early_stop
from fncb.callbacks.early_stop import EarlyStopState
from fncb.events import HOOKS, MissingMetric, ValidationEnd
from tests.conformance.runs import Clock, StepLR, batches, loss, raises_in, spy, task, train

EITHER, TRAINING, VALIDATION = None, True, False  # values of `check_on_train_epoch_end`
silent = {"num_sanity_val_steps": 0}


def validating(*losses, **beside):
    """A task whose validations measure these losses, one each, and the metrics beside them."""
    values = zip(losses, *beside.values(), strict=True)

    def validate(model, batch):
        first, *others = map(torch.tensor, next(values))
        return first, dict(zip(beside, others, strict=True))

    return task(validate=validate)


def measuring(**metrics):
    """A task whose training batches measure these metrics, one value each."""
    values = zip(*metrics.values(), strict=True)

    def measured(model, batch):
        return loss(model, batch), dict(zip(metrics, map(torch.tensor, next(values)), strict=True))

    return task(loss=measured, validate=loss)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))


# Early stopping.


@pytest.mark.parametrize(
    ("values", "patience", "last"),
    [([6, 5, 5, 5, 5, 5], 3, 4), ([6, 5, 4, 4, 3, 3], 1, 3), ([6, 5, 6, 5, 5, 5], 3, 4)],
)
@pytest.mark.parametrize(
    ("moment", "monitor", "val"),
    [
        (EITHER, "val_loss", True),
        (VALIDATION, "val_loss", True),
        (TRAINING, "val_loss", True),
        (EITHER, "abc", True),
        (EITHER, "abc", False),
        (TRAINING, "abc", True),
        (TRAINING, "abc", False),
    ],
)
def test_f1_patience_counts_checks(values, patience, last, moment, monitor, val):
    values = [float(value) for value in values]
    measured = validating(*values) if monitor == "val_loss" else measuring(abc=values)
    stop = early_stop(monitor, patience=patience, check_on_train_epoch_end=moment)

    run = train(measured, batches(1), batches(1) if val else None, callbacks=stop, max_epochs=len(values), **silent)

    assert run.epoch - 1 == last
    assert run.state[stop.key].reason == "patience"


@pytest.mark.parametrize(
    ("arguments", "values", "last"),
    [
        ({}, [8, 4, 2, 3, 4, 5, 8, 10], 5),
        ({"stopping_threshold": 2.9}, [9, 8, 7, 6, 5, 6, 4, 3, 2, 1], 8),
        ({"divergence_threshold": 15.9}, [9, 4, 2, 16, 32, 64], 3),
    ],
)
def test_f2_three_stale_checks_or_a_threshold_end_a_run(arguments, values, last):
    stop = early_stop("val_loss", **arguments)
    measured = validating(*map(float, values))

    run = train(measured, batches(1), batches(1), callbacks=stop, max_epochs=len(values), **silent)

    assert run.epoch - 1 == last


@pytest.mark.parametrize("moment", [EITHER, TRAINING, VALIDATION])
@pytest.mark.parametrize("swapped", [False, True])
def test_f4_the_first_of_two_to_stop_decides(moment, swapped):
    values = {"abc": [8.0, 4.0, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0], "cba": [0.0] * 8}
    both = [early_stop(f"val_{name}", patience=3, check_on_train_epoch_end=moment) for name in values]
    measured = validating(*[1.0] * 8, **values)

    run = train(measured, batches(1), batches(1), callbacks=both[:: -1 if swapped else 1], max_epochs=8, **silent)

    assert run.epoch - 1 == 3
    assert [run.state[f"early_stop(val_{name})"].reason for name in values] == [None, "patience"]


@pytest.mark.parametrize(
    ("arguments", "values", "reason", "stopped", "message"),
    [
        ({"patience": 2}, [10, 10, 10, 10], "patience", 2, "val_loss has not improved on 10 in 2 checks"),
        ({"stopping_threshold": 0.6}, [5, 3, 1, 0.5, 0], "stopping_threshold", 3, "val_loss is 0.5: better than 0.6"),
        ({"divergence_threshold": 8.0}, [1, 2, 5, 10, 20], "divergence_threshold", 3, "val_loss is 10: worse than 8"),
        ({}, [1, 0.5, nan, 1], "non_finite", 2, "val_loss is not finite: nan"),
        ({}, [5, 4, 3], None, None, None),
    ],
)
def test_f5_the_reason_of_a_stop_is_a_value(arguments, values, reason, stopped, message):
    stop = early_stop("val_loss", **arguments)
    measured = validating(*map(float, values))

    run = train(measured, batches(1), batches(1), callbacks=stop, max_epochs=len(values), **silent)
    state = run.state["early_stop(val_loss)"]

    assert (state.reason, state.stopped_epoch, state.reason_message) == (reason, stopped, message)
    assert message == (run.stopped and run.stopped.reason)


def test_f5_a_state_from_before_there_were_reasons_has_none(tmp_path):
    saves, stop = checkpoint(tmp_path), early_stop("val_loss")
    train(validating(3.0, 2.0), batches(1), batches(1), callbacks=[saves, stop], max_epochs=2, **silent)
    (path,) = tmp_path.glob("*.safetensors")
    tree = store.read(path)
    for name in ("reason", "reason_message", "stopped_epoch"):
        del tree["callbacks"][stop.key][name]
    store.write(tmp_path / "old.safetensors", tree)

    again = {"callbacks": stop, "max_epochs": 3, "resume": tmp_path / "old.safetensors"}
    run = train(validating(4.0), batches(1), batches(1), **again)

    assert run.state[stop.key] == EarlyStopState(best=2.0, stale=1, validated=2)


def test_f8_what_it_says_is_printed_once_as_it_is(capsys):
    # which process prints is not the callback's to say: `log_rank_zero_only` is left out
    stop = early_stop("val_loss", verbose=True)
    train(validating(1.0, 2.0), batches(1), batches(1), callbacks=stop, max_epochs=2, **silent)

    assert capsys.readouterr().out == "early_stop: val_loss improved to 1\n"


def test_f9_its_key_names_the_metric_a_score_may_have_any_shape_and_its_state_pickles():
    def validate(model, batch):
        return torch.tensor(1.0), {"abc": torch.tensor([[[0.0]]])}

    stop = early_stop("val_abc")
    run = train(task(validate=validate), batches(1), batches(1), callbacks=stop, max_epochs=2, **silent)

    assert [*run.state] == ["early_stop(val_abc)"]  # of two on one metric, one is given a `key`
    assert run.state[stop.key] == EarlyStopState(best=0.0, stale=1, validated=1)
    assert pickle.loads(pickle.dumps(run.state)) == run.state  # the callback itself is made of functions


def test_a_metric_of_validations_is_no_error_in_epochs_without_one():
    stop = early_stop("val_loss", patience=2)
    settings = {"check_val_every_n_epoch": 2, "max_epochs": 9}

    run = train(validating(2.0, 2.0, 3.0), batches(1), batches(1), callbacks=stop, **settings, **silent)

    assert (run.epoch, run.state[stop.key].stopped_epoch) == (6, 5)


@pytest.mark.parametrize("val", [True, False])
def test_a_metric_that_never_comes_is_told(val, capsys):
    stop = early_stop("val_lss")
    trains = partial(train, task(), batches(2), batches(1) if val else None, callbacks=stop, max_epochs=2, **silent)

    if val:
        with pytest.raises(MissingMetric, match=r"no metric 'val_lss' in TrainEpochEnd at step 2. It has .*'val_loss'"):
            trains()
    else:
        trains()
        assert "early_stop: nothing was checked: no check was due at an event with 'val_lss'" in capsys.readouterr().out


# Checkpoints: names.


@pytest.mark.parametrize(
    ("template", "values", "insert_names", "name"),
    [
        ("", {}, True, "epoch=3-step=2"),
        ("test-{epoch}-{step}", {}, True, "test-epoch=3-step=2"),  # Lightning puts a prefix before it
        ("{epoch:03d}-{acc}", {"acc": 0.03}, True, "epoch=003-acc=0.03"),
        ("{epoch:03d}-{epoch_test:03d}", {"epoch_test": 3.0}, True, "epoch=003-epoch_test=003"),
        ("test@{epoch},{acc:.5f}", {"acc": 0.03}, True, "test@epoch=3,acc=0.03000"),
        ("epoch:{epoch:03d}-acc:{acc}", {"acc": 0.03}, False, "epoch:003-acc:0.03"),  # in place of EQUALS
        ("{epoch}_{val/loss:.5f}", {"val/loss": 0.03}, True, "epoch=3_val/loss=0.03000"),
        ("epoch={epoch:03d}-val_acc={val/acc}", {"val/acc": 0.03}, False, "epoch=003-val_acc=0.03"),
        ("mAP@0.50={val/mAP@0.50:.4f}", {"val/mAP@0.50": 0.2}, False, "mAP@0.50=0.2000"),
    ],
)
def test_f24_fields_of_a_name_are_filled_in(tmp_path, template, values, insert_names, name):
    given = {"filename": template, "auto_insert_metric_name": insert_names, "save_on_train_epoch_end": False}

    with fncb.Session(checkpoint(tmp_path, **given), objects={"model": torch.nn.Linear(1, 1)}) as session:
        session(ValidationEnd(epoch=3, step=2, metrics=values))  # no run is at step 2 in its fourth epoch

    assert files(tmp_path) == [f"{name}.safetensors"]


def test_f24_a_name_that_is_taken_gets_a_version(tmp_path):
    for version in range(4):
        train(task(), batches(1), callbacks=checkpoint(tmp_path, filename="name"), max_epochs=1)
        assert (tmp_path / f"name{f'-v{version}' if version else ''}.safetensors").exists()


def test_f24_a_name_with_an_unknown_metric_is_an_error(tmp_path):  # Lightning writes missing=0
    with pytest.raises(MissingMetric, match=r"checkpoint: no metric 'missing' in TrainEpochEnd at step 1. It has"):
        train(task(), batches(1), callbacks=checkpoint(tmp_path, filename="{missing:d}"), max_epochs=1)


# Checkpoints: when.


@pytest.mark.parametrize(
    ("k", "epochs", "interval", "saves"), [(1, 1, 1.0, 1), (2, 2, 1.0, 2), (2, 1, 0.25, 4), (2, 2, 0.3, 6)]
)
@pytest.mark.parametrize(
    ("given", "times"),
    [
        ({"monitor": "val_loss"}, 1),
        ({"monitor": "val_loss", "save_last": True}, 2),
        ({"monitor": "val_loss", "save_last": "link"}, 1),
        ({}, 1),  # the default, whatever k is
    ],
)
def test_f25_how_often_a_run_that_gets_better_is_saved(tmp_path, k, epochs, interval, saves, given, times):
    settings = {"max_epochs": epochs, "val_check_interval": interval, "limit_val_batches": 1}
    best = checkpoint(tmp_path, **given, **({"save_top_k": k} if given else {}))
    counts, saved = spy("on_saved", lambda event: event.path)
    gets_better = validating(*[1 / 2**i for i in range(8)])

    train(gets_better, batches(), batches(), callbacks=[best, counts], **settings, **silent)

    assert len(saved) == saves * times


def test_f27_a_run_is_saved_every_so_many_steps(tmp_path):
    saves = checkpoint(tmp_path, every_n_train_steps=16, save_top_k=-1, filename="{step}")

    train(task(), batches(), callbacks=saves, max_epochs=2)

    assert files(tmp_path) == sorted(f"step={step}.safetensors" for step in range(16, 129, 16))


def test_f28_a_run_is_saved_every_so_many_seconds(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("fncb.session.time", clock)
    saves = checkpoint(tmp_path, train_time_interval={"minutes": 1}, save_top_k=-1, filename="{step}")

    train(task(), batches(), callbacks=[clock.passes(on_train_batch_start=7), saves], max_epochs=2)

    # after 63 s, the first multiple of 7 s that is a minute or more
    assert files(tmp_path) == sorted(f"step={step}.safetensors" for step in range(9, 129, 9))
    assert len(files(tmp_path)) == 14


# Checkpoints: which.


def test_f31_by_default_the_newest_is_kept(tmp_path):
    names, saved = spy("on_saved", lambda event: event.path.rsplit("/", 1)[1])

    train(task(), batches(5), callbacks=[checkpoint(tmp_path), names], max_epochs=3)

    assert saved == [f"epoch={epoch}-step={5 * (epoch + 1)}.safetensors" for epoch in range(3)]
    assert files(tmp_path) == saved[-1:]


@pytest.mark.parametrize("save_last", [True, "link"])
def test_f32_the_last_one_has_a_name_of_its_own_and_is_a_link_if_asked_for(tmp_path, save_last):
    saves = checkpoint(tmp_path, save_top_k=-1, save_last=save_last, last_filename="last-{epoch}")

    train(task(), batches(10), callbacks=saves, max_epochs=3)

    each = [f"epoch={epoch}-step={10 * (epoch + 1)}.safetensors" for epoch in range(3)]
    last = tmp_path / ("last.safetensors" if save_last == "link" else "last-epoch=2.safetensors")
    assert files(tmp_path) == [*each, last.name]
    assert last.is_symlink() == (save_last == "link")
    assert store.read_header(last)["step"] == 30
    assert train(task(), batches(10), callbacks=saves, max_epochs=3, resume="last").resumed.step == 30
    assert train(task(), batches(10), max_epochs=3, resume=last).resumed.step == 30


def test_f33_the_last_one_alone_is_a_file_and_that_of_another_run_stays(tmp_path):
    saves = checkpoint(tmp_path, save_top_k=0, save_last=True, last_filename="last")
    for expected in (["last.safetensors"], ["last-v1.safetensors", "last.safetensors"]):
        train(task(), batches(2), callbacks=saves, max_epochs=1)

        assert files(tmp_path) == expected
    assert not any(path.is_symlink() for path in tmp_path.iterdir())


def test_f34_the_epoch_can_be_monitored(tmp_path):
    best = checkpoint(tmp_path, monitor="epoch", mode="max", save_top_k=-1)

    run = train(task(), batches(2), batches(1), callbacks=best, max_epochs=3)
    state = run.state["checkpoint(epoch)"]

    assert files(tmp_path) == [f"epoch={epoch}-step={2 * epoch + 2}.safetensors" for epoch in range(3)]
    assert (state.best_model_path, state.best_model_score) == (str(tmp_path / "epoch=2-step=6.safetensors"), 2)
    assert min(state.best_k_models, key=state.best_k_models.get) == str(tmp_path / "epoch=0-step=2.safetensors")


def test_f36_each_file_knows_its_score(tmp_path):
    best = checkpoint(tmp_path, monitor="val_foo", save_top_k=3, filename="{epoch}")
    values = [0.125, 0.25, 0.5]  # in place of .1, .2, .3, which float32 does not have

    run = train(validating(1.0, 1.0, 1.0, foo=values), batches(1), batches(1), callbacks=best, max_epochs=3, **silent)

    paths = [tmp_path / f"epoch={epoch}.safetensors" for epoch in range(3)]
    in_files = [store.read(path)["callbacks"]["checkpoint(val_foo)"]["current_score"] for path in paths]
    state = run.state["checkpoint(val_foo)"]
    assert in_files == values
    assert state.current_score == 0.5
    assert state.best_k_models == dict(zip(map(str, paths), values, strict=True))


def test_f38_another_run_overwrites_nothing(tmp_path):  # nor can it be told to
    for suffix in ("", "-v1"):
        train(task(), batches(1), callbacks=checkpoint(tmp_path, save_top_k=-1, filename="{epoch}"), max_epochs=2)

        assert {f"epoch={epoch}{suffix}.safetensors" for epoch in range(2)} <= {*files(tmp_path)}
    assert len(files(tmp_path)) == 4


def test_f38_the_first_version_can_be_chosen(tmp_path):
    saves = checkpoint(tmp_path, save_top_k=-1, filename="test", starting_version=9)

    train(task(), batches(1), callbacks=saves, max_epochs=4)

    assert files(tmp_path) == sorted(f"test{version}.safetensors" for version in ("", "-v9", "-v10", "-v11"))


def test_f40_the_best_and_the_last_are_two_files(tmp_path):
    losses = [1 - 0.1 * epoch if epoch % 2 == 0 else 1 + 0.1 * epoch for epoch in range(4)]
    best = checkpoint(tmp_path, monitor="val_loss", save_last=True)

    train(validating(*losses), batches(1), batches(1), callbacks=best, max_epochs=4, **silent)

    assert files(tmp_path) == ["epoch=2-step=3.safetensors", "last-epoch=3-step=4.safetensors"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"save_top_k": -3}, "save_top_k must be -1 or more, got -3"),
        ({"every_n_epochs": -3}, "every_n_epochs must be 0 or more, got -3"),
        ({"every_n_train_steps": -3}, "every_n_train_steps must be 0 or more, got -3"),
        ({"save_top_k": 3}, "save_top_k must be -1, 0 or 1, got 3"),
        ({"every_n_train_steps": 1, "every_n_epochs": 1}, "there must be one trigger"),
        ({"every_n_train_steps": 1, "train_time_interval": {"hours": 1}}, "there must be one trigger"),
        ({"monitor": "x", "mode": "unknown_option"}, "mode must be 'min' or 'max', got 'unknown_option'"),
        ({"save_last": "link", "save_top_k": 0}, "save_last='link' must have files"),
    ],
)
def test_f42_arguments_that_cannot_be_are_refused(given, message):  # any `dirpath` is one that can have links
    with pytest.raises(ValueError, match=f"^checkpoint: {message}"):
        checkpoint("d", **given)


# Checkpoints: of what failed.

OF_TRAINING = ("on_fit", "on_train", "on_epoch", "on_before", "on_after", "on_validation")
AMID = [name for name in HOOKS if name.startswith(OF_TRAINING)]


def rescuing(folder):
    return checkpoint(folder, every_n_epochs=0, save_on_exception=True)


@pytest.mark.parametrize("hook", AMID)
def test_f43_an_exception_in_a_callbacks_hook_saves_one_file(tmp_path, hook):  # also before the first step
    callbacks = [rescuing(tmp_path), raises_in(hook, RuntimeError("no"))]
    with pytest.raises(RuntimeError, match="no"):
        train(task(schedule=StepLR), batches(2), batches(1), callbacks=callbacks, max_epochs=2, **silent)

    (name,) = files(tmp_path)
    assert name.startswith("rescue-epoch=")


def fails(at, fn=lambda *given: given[-1]):
    """The function, which raises when it is called for so many times."""
    calls = []

    def failing(*given):
        calls.append(1)
        if len(calls) == at:
            raise RuntimeError("no")
        return fn(*given)

    return failing


def loading(at):
    """Batches, of which loading the last raises."""
    return map(fails(at), batches(at))


class Failing(torch.optim.lr_scheduler.StepLR):
    """Raises in the middle of training."""

    def step(self, *given):
        if self.last_epoch == 0:  # otherwise it is being made
            raise RuntimeError("no")
        super().step(*given)


@pytest.mark.parametrize(
    ("given", "loaders", "step"),
    [
        ({"loss": fails(2, loss)}, (batches(3), batches(1)), 1),
        ({"validate": fails(2, loss)}, (batches(3), batches(2)), 3),
        ({"schedule": partial(Failing, step_size=1), "schedule_interval": "step"}, (batches(3), batches(1)), 1),
        ({}, (lambda: loading(3), batches(1)), 1),  # one batch ahead of the training
        ({}, (batches(3), lambda: loading(2)), 3),
    ],
    ids=["loss", "validate", "schedule", "train loader", "val loader"],
)
def test_f43_an_exception_in_what_a_task_is_made_of_saves_one_file(tmp_path, given, loaders, step):
    with pytest.raises(RuntimeError, match="no"):
        train(task(**given), *loaders, callbacks=rescuing(tmp_path), max_epochs=2, **silent)

    assert files(tmp_path) == [f"rescue-epoch=0-step={step}.safetensors"]


def test_f43_nothing_is_saved_of_a_sanity_check_or_a_trial(tmp_path):
    for hook, settings in (("on_validation_batch_end", {}), ("on_train_batch_end", {"fast_dev_run": True})):
        callbacks = [rescuing(tmp_path), raises_in(hook, RuntimeError("no"))]
        with pytest.raises(RuntimeError, match="no"):
            train(task(), batches(2), batches(1), callbacks=callbacks, **settings)

    assert files(tmp_path) == []


def test_f43_failing_twice_at_one_step_leaves_one_file(tmp_path):
    # Lightning saves nothing at a step that has been saved; here it is of a later moment of that step, and the older
    # one goes
    callbacks = [rescuing(tmp_path), raises_in("on_train_epoch_end", RuntimeError("no"))]
    for resume in (None, "last", "last"):
        with pytest.raises(RuntimeError, match="no"):
            train(task(), batches(2), callbacks=callbacks, max_epochs=2, resume=resume)

        (path,) = tmp_path.glob("*.safetensors")
        assert store.read_header(path)["step"] == 2
    run = train(task(), batches(2), callbacks=rescuing(tmp_path), max_epochs=2, resume="last")
    assert run.step == 4
