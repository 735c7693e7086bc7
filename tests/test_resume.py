"""Which checkpoint is gone on from, what is taken of it, and what is said about that."""

import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import fncb
from fncb import store
from fncb.callbacks import checkpoint, early_stop, ema
from fncb.effects import Save
from fncb.resume import Resumed, find, noted
from fncb.store import Rejected
from fncb.task import Task

run = partial(fncb.fit, compile=False, progress=False)


def task(model=None, **given):
    usual = {"loss": lambda model, x: model(x).square().mean(), "optimizer": partial(torch.optim.SGD, lr=0.1)}
    return Task(model or nn.Linear(2, 1), **{**usual, **given})


def data(n=3):
    return [torch.ones(4, 2)] * n


def written(directory, **metrics_of):
    """Checkpoints named and scored so, one a step, in a directory that a `checkpoint` callback may know."""
    for step, (name, loss) in enumerate(metrics_of.items(), 1):
        tree = {"epoch": 0, "step": step, "attempt": 0, "metrics": {} if loss is None else {"val_loss": loss}}
        store.write(directory / f"{name}.safetensors", tree)
    return directory


# Which file.


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("min", {"a": 2.0, "b": 1.0, "c": 3.0}, "b"),
        ("max", {"a": 2.0, "b": 1.0, "c": 3.0}, "c"),
        ("min", {"a": 1.0, "b": 1.0}, "a"),  # a tie is no better
        ("min", {"a": 2.0, "b": float("nan"), "c": None}, "a"),
        ("max", {"a": 2.0, "b": float("inf")}, "a"),
    ],
)
def test_best_is_the_file_with_the_best_finite_score(tmp_path, mode, scores, best):
    written(tmp_path, **scores)

    found = find("fit", "best", fncb.compose(checkpoint(tmp_path, monitor="val_loss", mode=mode)))

    assert found == store.Latest(tmp_path / f"{best}.safetensors")


def test_a_damaged_best_is_passed_over_for_the_next(tmp_path, caplog):
    written(tmp_path, a=2.0, b=1.0, c=3.0)
    path = tmp_path / "b.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    with caplog.at_level(logging.WARNING, "fncb"):
        found = find("fit", "best", fncb.compose(checkpoint(tmp_path, monitor="val_loss")))

    assert found.path == tmp_path / "a.safetensors"
    assert [each.path for each in found.rejected] == [path]
    assert "b.safetensors is passed over: " in caplog.text


@pytest.mark.parametrize(
    ("resume", "callbacks", "message"),
    [
        ("best", [], r'resume="best" needs a checkpoint\(..., monitor=...\) callback, got none'),
        ("best", ["plain"], r'resume="best" needs a checkpoint\(..., monitor=...\)'),
        ("best", ["scored"], "with a finite 'val_loss', got none in"),
        ("last", [], r'resume="last" needs a checkpoint\(...\) callback'),
        ("here", [], "must be a checkpoint or a directory with one, got '.*' without any"),
    ],
)
def test_where_there_is_none_it_is_told(tmp_path, resume, callbacks, message):
    known = {"plain": checkpoint(tmp_path), "scored": checkpoint(tmp_path, monitor="val_loss")}

    with pytest.raises(ValueError, match=message):
        find("fit", tmp_path if resume == "here" else resume, fncb.compose([known[name] for name in callbacks]))


def test_last_is_the_highest_step_of_all_directories_and_of_equals_the_later_attempt(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for directory, step, attempt in ((first, 3, 0), (second, 3, 1), (second, 2, 5)):
        store.write(directory / f"{step}.safetensors", {"epoch": 0, "step": step, "attempt": attempt})

    callbacks = fncb.compose(checkpoint(first), checkpoint(second, key="second"))
    assert find("fit", "last", callbacks).path == second / "3.safetensors"


def test_a_file_that_is_named_is_never_passed_over_for_another(tmp_path):
    run(task(), data(), callbacks=checkpoint(tmp_path, save_top_k=-1), max_epochs=2)
    path = tmp_path / "epoch=1-step=6.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(store.DamagedCheckpoint, match="epoch=1-step=6"):
        run(task(), data(), resume=path)


def test_a_path_that_is_not_there_says_what_would_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"""fit: resume must be .*"last" or "best", got 'lst', which is not"""):
        run(task(), data(), resume="lst")


def test_best_and_last_go_to_validate_too(tmp_path):
    losses = iter([1.0, 3.0])
    best = checkpoint(tmp_path, monitor="val_loss", save_top_k=2)
    model = nn.Linear(2, 1)
    scored = task(model, validate=lambda model, x: torch.tensor(next(losses)))
    run(scored, data(), data(1), callbacks=best, max_epochs=2, num_sanity_val_steps=0)

    for resume, step in (("best", 3), ("last", 6)):
        outcome = fncb.validate(task(), data(1), callbacks=best, resume=resume)
        assert outcome.resumed.step == step
        assert outcome.resumed.left_out == ()


# What is taken of it, and what is said.


def test_what_was_restored_from_where_and_what_was_rejected_is_one_line_and_a_value(tmp_path, caplog):
    run(task(), data(), data(1), callbacks=[checkpoint(tmp_path, save_top_k=-1), ema(0.9)], max_epochs=1)
    broken = tmp_path / "zzz.safetensors"
    broken.write_bytes(b"no")

    with caplog.at_level(logging.INFO, "fncb"):
        callbacks = [checkpoint(tmp_path, save_top_k=1), early_stop("val_loss")]
        again = run(task(), data(), data(1), callbacks=callbacks, resume="last", max_epochs=2).resumed

    assert again == Resumed(
        path=tmp_path / "epoch=0-step=3.safetensors",
        epoch=0,
        step=3,
        restored=(
            *("model", "control", "optimizer", "train_loaders", "val_loaders", "position", "training"),
            *("step_state", "remembered", "random", "callbacks"),
        ),
        added=("early_stop(val_loss)",),
        removed=("ema",),
        changed={"checkpoint": "save_top_k -1, now 1"},
        rejected=(Rejected(broken, again.rejected[0].reason),),
    )
    (line,) = [record.message for record in caplog.records if "going on from" in record.message]
    assert line == f"fncb: {again}"
    for part in ("epoch 0, step 3", "added: early_stop(val_loss)", "removed: ema", "save_top_k -1, now 1", "zzz"):
        assert part in line


def test_what_the_checkpoint_or_the_run_has_not_is_named(tmp_path):
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    run(task(schedule=schedule), data(), callbacks=checkpoint(tmp_path), max_epochs=1)

    assert run(task(), data(), resume=tmp_path, max_epochs=2).resumed.left_out == ("schedule",)


def test_another_model_is_refused_by_all_its_names_and_nothing_was_changed(tmp_path):
    run(task(), data(), callbacks=checkpoint(tmp_path), max_epochs=1)
    other = nn.Sequential(nn.Linear(2, 1))
    before = {name: each.clone() for name, each in other.state_dict().items()}

    message = "resume: the model must be the one that was saved, got missing 0.weight, 0.bias; unexpected weight, bias"
    with pytest.raises(ValueError, match=message):
        run(task(other), data(), resume=tmp_path)
    assert all(torch.equal(each, before[name]) for name, each in other.state_dict().items())


def test_another_optimizer_or_schedule_is_refused_by_its_kind(tmp_path):
    step = partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    run(task(schedule=step), data(), callbacks=checkpoint(tmp_path), max_epochs=1)
    adam = task(schedule=step, optimizer=partial(torch.optim.Adam, lr=0.1))
    constant = task(schedule=partial(torch.optim.lr_scheduler.ConstantLR))

    with pytest.raises(ValueError, match="resume: optimizer must be of the kind that was saved, SGD, got Adam"):
        run(adam, data(), resume=tmp_path)
    with pytest.raises(ValueError, match="resume: schedule must be of the kind that was saved, StepLR, got ConstantLR"):
        run(constant, data(), resume=tmp_path)


def test_weights_alone_are_tuned_from_the_beginning(tmp_path):
    trained = nn.Linear(2, 1)
    run(task(trained), data(), callbacks=checkpoint(tmp_path), max_epochs=2)

    tuned = nn.Linear(2, 1)
    outcome = run(task(tuned), data(), resume=tmp_path, weights_only=True, max_steps=0)

    assert (outcome.step, outcome.epoch, outcome.resumed.restored) == (0, 0, ("model",))
    assert torch.equal(tuned.weight, trained.weight)


def test_weights_that_fit_are_taken_and_the_others_named(tmp_path):
    run(task(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))), data(), callbacks=checkpoint(tmp_path), max_epochs=1)
    head = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))

    with pytest.raises(ValueError, match=r"fit: the model must be the one that was saved, got mis-shaped 1\.weight"):
        run(task(head), data(), resume=tmp_path, weights_only=True)
    outcome = run(task(head), data(), resume=tmp_path, weights_only=True, strict=False, max_steps=1)

    assert outcome.resumed.left_out == ("mis-shaped 1.weight [1, 2] for [3, 2]", "mis-shaped 1.bias [1] for [3]")
    assert outcome.step == 1


# Weights alone.


def with_weights_alone(directory, whole_epochs=1):
    """A directory with a whole checkpoint of so many epochs, if any, and one of weights alone of an epoch more."""
    trained = nn.Linear(2, 1)
    if whole_epochs:
        run(task(trained), data(), callbacks=checkpoint(directory, filename="whole"), max_epochs=whole_epochs)
    light = checkpoint(directory, key="light", filename="light", save_weights_only=True)
    more = {"resume": directory / "whole.safetensors"} if whole_epochs else {}
    run(task(trained), data(), callbacks=light, max_epochs=whole_epochs + 1, **more)
    return directory / "light.safetensors", trained


def test_a_run_cannot_go_on_from_weights_alone_and_nothing_is_changed(tmp_path):
    path, _ = with_weights_alone(tmp_path)
    model, heard = nn.Linear(2, 1), []
    before = {name: each.clone() for name, each in model.state_dict().items()}
    hears = fncb.Callback(key="hears", init=int, on_init_start=lambda s, e: heard.append(e) or s)

    with pytest.raises(
        ValueError, match=r"must be a whole checkpoint, got .*light\.safetensors, which holds weights al"
    ):
        run(task(model), data(), callbacks=hears, resume=path)
    assert heard == []
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_a_session_cannot_go_on_from_weights_alone_either(tmp_path):
    path, _ = with_weights_alone(tmp_path, whole_epochs=0)

    with pytest.raises(ValueError, match="got a snapshot, which holds weights alone"):
        fncb.Session([], objects={"model": nn.Linear(2, 1)}).load(store.read(path))


@pytest.mark.parametrize("resume", ["last", "directory"])
def test_what_is_looked_for_to_go_on_from_is_whole(tmp_path, resume, caplog):
    with_weights_alone(tmp_path)
    callbacks = checkpoint(tmp_path, filename="more")

    with caplog.at_level(logging.WARNING, "fncb"):
        given = tmp_path if resume == "directory" else resume
        again = run(task(), data(), callbacks=callbacks, resume=given, max_epochs=1).resumed

    assert (again.path, again.step) == (tmp_path / "whole.safetensors", 3)
    assert [each.path for each in again.rejected] == [tmp_path / "light.safetensors"]
    assert "light.safetensors is passed over: " in caplog.text


def test_the_best_to_go_on_from_is_whole(tmp_path):
    written(tmp_path, a=2.0, b=3.0)
    store.write(tmp_path / "c.safetensors", {"epoch": 0, "step": 9, "weights_only": True, "metrics": {"val_loss": 1.0}})
    callbacks = fncb.compose(checkpoint(tmp_path, monitor="val_loss"))

    assert find("fit", "best", callbacks).path == tmp_path / "a.safetensors"
    assert find("fit", "best", callbacks, to_go_on=False).path == tmp_path / "c.safetensors"


def test_where_there_are_weights_alone_there_is_nothing_to_go_on_from(tmp_path, caplog):
    with_weights_alone(tmp_path, whole_epochs=0)

    with pytest.raises(ValueError, match=r"must be a checkpoint or a directory with one, got '.*' without any"):
        run(task(), data(), resume=tmp_path)
    assert run(task(), data(), callbacks=checkpoint(tmp_path), resume="last", max_epochs=1).resumed is None
    assert "starting from the beginning" in caplog.text


@pytest.mark.parametrize("resume", ["path", "directory", "last"])
def test_weights_alone_are_tuned_from(tmp_path, resume):
    path, trained = with_weights_alone(tmp_path)
    given = {"path": path, "directory": tmp_path, "last": "last"}[resume]
    tuned, callbacks = nn.Linear(2, 1), checkpoint(tmp_path)

    outcome = run(task(tuned), data(), callbacks=callbacks, resume=given, weights_only=True, max_steps=0)

    assert (outcome.step, outcome.resumed.path, outcome.resumed.restored) == (0, path, ("model",))
    assert torch.equal(tuned.weight, trained.weight)


def test_weights_alone_can_be_validated(tmp_path):
    path, trained = with_weights_alone(tmp_path)
    model = nn.Linear(2, 1)

    outcome = fncb.validate(task(model), data(1), resume=path, progress=False)

    assert (outcome.resumed.step, outcome.resumed.restored) == (6, ("model",))
    assert torch.equal(model.weight, trained.weight)
    with pytest.raises(ValueError, match=r"validate: the model must be the one that was saved, got mis-shaped weight"):
        fncb.validate(task(nn.Linear(2, 3)), data(1), resume=path, progress=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights_only": True}, "weights_only needs a checkpoint"),
        ({"resume": "a", "strict": False}, "strict=False needs weights_only=True"),
    ],
)
def test_arguments_that_make_no_sense_together_are_refused(given, message):
    with pytest.raises(ValueError, match=f"fit: {message}"):
        run(task(), data(), **given)


# In the middle of an epoch.


def shuffled(**given):
    return DataLoader(TensorDataset(torch.randn(12, 2)), batch_size=4, **given)


def cut(directory, loader, at=4):
    """Trains with a checkpoint in the middle of an epoch and gives its path."""
    path = directory / "cut.safetensors"
    saves = fncb.Callback(
        key="saves",
        init=int,
        on_train_batch_end=lambda s, e: fncb.emit(s, Save(str(path))) if e.step == at else s,
    )
    first = task(loss=lambda model, batch: model(batch[0]).square().mean())
    run(first, loader, callbacks=saves, max_epochs=2)
    return path


def go_on(path, loader, **given):
    return run(task(loss=lambda model, batch: model(batch[0]).square().mean()), loader, resume=path, **given)


@pytest.mark.parametrize(
    "given",
    [{"shuffle": True}, {"sampler": torch.utils.data.SubsetRandomSampler(range(12))}],
    ids=["shuffle", "sampler"],
)
def test_a_shuffled_loader_that_cannot_say_where_it_is_is_refused(tmp_path, given):
    path = cut(tmp_path, shuffled(**given))

    message = "got a shuffled DataLoader and a checkpoint of epoch 1 after 1 batches. Use fncb.batches"
    with pytest.raises(ValueError, match=message):
        go_on(path, shuffled(**given), max_epochs=2)
    with pytest.raises(ValueError, match=message):
        go_on(path, lambda: shuffled(**given), max_epochs=2)
    assert go_on(path, shuffled(**given), max_epochs=2, allow_inexact_resume=True).step == 6


def test_at_the_end_of_an_epoch_and_in_order_there_is_nothing_to_refuse(tmp_path):
    assert go_on(cut(tmp_path, shuffled(), at=4), shuffled(), max_epochs=2).step == 6
    (tmp_path / "cut.safetensors").unlink()
    run(
        task(loss=lambda model, batch: model(batch[0]).square().mean()),
        shuffled(shuffle=True),
        callbacks=checkpoint(tmp_path / "ends"),
        max_epochs=1,
    )
    assert go_on(tmp_path / "ends", shuffled(shuffle=True), max_epochs=2).step == 6


def test_of_an_epoch_whose_batches_are_done_none_is_taken_again(tmp_path):
    taken = []

    class Counted(TensorDataset):
        def __getitem__(self, index):
            taken.append(index)
            return super().__getitem__(index)

    def loader():
        return DataLoader(Counted(torch.randn(12, 2)), batch_size=4, shuffle=True)

    ends = checkpoint(tmp_path, monitor="val_loss")  # at the validation, when the epoch is not over
    first = task(loss=lambda model, batch: model(batch[0]).square().mean())
    run(first, loader(), shuffled(), callbacks=ends, max_epochs=1, num_sanity_val_steps=0)
    taken.clear()

    again = task(loss=lambda model, batch: model(batch[0]).square().mean())
    assert run(again, loader(), shuffled(), callbacks=ends, max_epochs=2, resume="last").step == 6
    assert len(taken) == 12


@pytest.mark.parametrize("in_batch_sampler", [False, True])
def test_a_generator_that_a_loader_was_given_goes_on_too(in_batch_sampler, tmp_path):
    data = TensorDataset(torch.randn(12, 2))
    seen = []

    def batches(seed):
        own = torch.Generator().manual_seed(seed)
        if in_batch_sampler:
            return DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data, generator=own), 4, drop_last=False))
        return DataLoader(data, batch_size=4, shuffle=True, generator=own)

    def train(loader, **given):
        seen.clear()
        noting = task(loss=lambda model, batch: seen.append(batch[0].tolist()) or model(batch[0]).square().mean())
        run(noting, loader, callbacks=checkpoint(tmp_path, save_top_k=-1), max_epochs=3, **given)
        return list(seen)

    whole = train(batches(3))

    assert train(batches(4), resume=tmp_path / "epoch=1-step=6.safetensors") == whole[6:]
    assert train(batches(5), resume=tmp_path / "epoch=0-step=3.safetensors") == whole[3:]


def test_arguments_are_noted_as_plain_data():
    given = {"a": (1, None), "b": {"c": nn.Linear}, "d": partial(max, 1), "e": torch.float32}

    assert noted(given) == {"a": [1, None], "b": {"c": "Linear"}, "d": "partial", "e": "torch.float32"}
