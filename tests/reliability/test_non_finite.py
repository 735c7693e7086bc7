"""R12: values that are not finite reach no parameter, no statistic and no checkpoint."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import fncb
from fncb import store
from fncb.callback import Callback, StepHooks, emit
from fncb.callbacks import checkpoint, clip_grad_norm, early_stop, ema, skip_nonfinite
from fncb.recording import read
from tests.reliability.resuming import quick_folder

N, EPOCHS = 3, 2
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
STEPS = range(N * EPOCHS)
BAD = {"NaN": math.nan, "inf": math.inf, "-inf": -math.inf, "1e30": 1e30}


def data():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, generator=generator) for _ in range(N)]


def a_task(bad, value, where):
    """A task whose loss and gradients, or one of them alone, are bad at the batches whose number is among `bad`."""
    torch.manual_seed(1)
    model, seen = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), []

    def loss(model, batch):
        out, plain = model(batch).square().mean(), torch.tensor(0.0)
        if model.training:
            seen.append(len(seen))
            plain = torch.ones(())
            if seen[-1] in bad and where == "loss":
                return out * value, {"plain": plain}
            if seen[-1] in bad and where == "loss alone":
                return out + value, {"plain": plain}
            if seen[-1] in bad:
                out.register_hook(lambda grad: grad * value)
        return out, {"plain": plain}

    def validate(model, batch):
        return model(batch).square().mean()

    return fncb.Task(model, loss=loss, optimizer=SGD, validate=validate)


def train(task, folder, *callbacks, **given):
    given = {"max_epochs": EPOCHS, "compile": False, "progress": False, "num_sanity_val_steps": 0, **given}
    return fncb.fit(task, data(), data()[:1], callbacks=callbacks, record=folder / "events.jsonl", **given)


def finite(*trees):
    """Whether everything in trees of tensors and numbers is finite."""
    return all(
        finite(*each.values()) if isinstance(each, dict) else bool(torch.as_tensor(each).isfinite().all())
        for each in trees
    )


def parameters(model):
    """Those of a saved model, without buffers."""
    return {name: each for name, each in model.items() if name.endswith(("weight", "bias"))}


def leaves_out(epoch, batch_idx):
    """A callback that leaves out a batch."""

    def hook(state, event):
        return emit(state, fncb.Skip()) if (event.epoch, event.batch_idx) == (epoch, batch_idx) else state

    return Callback(key="leaves_out", emits=(fncb.Skip,), on_train_batch_start=hook)


def counts_good(model):
    """A callback that counts the batches after which a model's parameters are finite."""

    def hook(state, event):
        return state + finite(dict(model.named_parameters()))

    return Callback(key="good", init=int, emits=(), on_train_batch_end=hook)


def steps_in(folder):
    return sorted(store.read_header(path)["step"] for path in Path(folder).glob("*.safetensors"))


@pytest.mark.parametrize("where", ["loss", "loss alone", "gradient"])
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_bad_batch_is_skipped_at_every_step(value, where, record_property):
    found = {}
    guards = [skip_nonfinite(), clip_grad_norm(1.0), ema(0.5)]
    for step in STEPS:
        with quick_folder() as folder:
            task = a_task({step}, value, where)
            run = train(task, folder, *guards, checkpoint(folder, every_n_train_steps=1, save_top_k=-1))
            means = [event.metrics for event in read(folder / "events.jsonl").events if hasattr(event, "metrics")]
            saved = steps_in(folder)
        means = [{name: each[name] for name in each if name.endswith("_epoch") or "val" in name} for each in means]
        found[step] = {
            "model": finite(task.model.state_dict()),
            "averages": finite(run.step_state["ema"]),
            "means": finite(*means) and all(each.get("plain_epoch", 1.0) == 1.0 for each in means),
            "skipped": run.step_state["skip_nonfinite"]["skipped"].item(),
            "saved": saved,
        }

    skipped = 0 if math.isfinite(value) else 1
    good = {"model": True, "averages": True, "means": True, "skipped": skipped, "saved": [*range(1, len(STEPS) + 1)]}
    assert {step: each for step, each in found.items() if each != good} == {}
    record_property("count", f"R12: {value:g} in {where} at each of {len(found)} steps: all finite with skip_nonfinite")


@pytest.mark.parametrize("where", ["loss", "loss alone", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["NaN", "inf"])
def test_a_skipped_batch_leaves_no_trace(value, where, tmp_path):
    """But for the counters: the run equals one whose bad batch was left out by `Skip`."""
    found = []
    for step in STEPS:
        left_out = leaves_out(*divmod(step, N))
        bad, never = a_task({step}, value, where), a_task((), value, where)
        means = []
        for i, (task, guard) in enumerate([(bad, skip_nonfinite()), (never, left_out)]):
            folder = tmp_path / f"{step}-{i}"
            run = train(task, folder, guard, ema(0.5))
            ends = [e for e in read(folder / "events.jsonl").events if type(e) is fncb.events.TrainEpochEnd]
            names = ("loss_epoch", "plain_epoch", "val_loss")
            means.append(
                (
                    [[e.metrics[name] for name in names] for e in ends],
                    [each.tolist() for each in run.step_state["ema"].values()],
                    [each.tolist() for name, each in task.model.state_dict().items()],
                )
            )
        if means[0] != means[1]:
            found.append(step)

    assert found == []


SAVING = {
    "newest": {"save_top_k": 1},
    "newest and last": {"save_top_k": 1, "save_last": True},
    "in the background": {"save_top_k": -1, "save": "async"},
    "best": {"monitor": "finite", "mode": "max", "save_top_k": 1, "save_last": True},
    "best two": {"monitor": "step", "mode": "max", "save_top_k": 2},
}
"""Ways to save after each step; `finite` is a metric that grows, whatever happens."""


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30], ids=["NaN", "inf", "1e30"])
def test_a_bad_state_never_replaces_a_good_one(value, where, record_property):
    """Without `skip_nonfinite`: what is there is finite, and `resume="last"` finds the last good one."""
    grows = StepHooks(init=lambda _: {}, on_train_batch_end=lambda s, e: emit(s, metrics={"finite": e.step.float()}))
    wrong, n = {}, 0
    for step in STEPS:
        with quick_folder() as folder:
            saves = [checkpoint(folder / n, every_n_train_steps=1, key=n, **SAVING[n]) for n in SAVING]
            grown, task = Callback(key="grows", step=grows), a_task({step}, value, where)
            good = train(task, folder, counts_good(task.model), grown, *saves).state["good"]  # the first so many
            for name in SAVING:
                paths = [*(folder / name).glob("*.safetensors")]
                is_good = all(finite(parameters(store.read(path)["model"])) for path in paths)
                n += len(paths)
                if not is_good or max(steps_in(folder / name), default=0) != good or bool(paths) != bool(good):
                    wrong[step, name] = (is_good, steps_in(folder / name), good)
            again = a_task((), value, where)
            run = train(again, folder, grown, *saves, resume="last")
            found = run.resumed.step if run.resumed else 0
            ends_well = value == 1e30 or finite(
                parameters(again.model.state_dict())
            )  # it may be huge, and overflow then
            if (found, run.step, ends_well) != (good, len(STEPS), True):
                wrong[step, "resumed"] = (found, run.step, good)
            assert good == step or (good > step and value == 1e30)  # which overflows later

    assert wrong == {}
    record_property(
        "count", f"R12: {value:g} in {where} at each of {len(STEPS)} steps: {n} checkpoints, finite, newest found"
    )


def test_a_rescue_of_bad_parameters_is_not_written(tmp_path):
    def fails(state, event):
        if event.step == 3:
            raise ZeroDivisionError("at three")
        return state

    task = a_task({1}, math.nan, "gradient")
    saves = checkpoint(tmp_path, every_n_train_steps=1, save_on_exception=True)

    with pytest.raises(ZeroDivisionError):
        train(task, tmp_path, saves, Callback(key="fails", init=int, on_train_batch_end=fails))

    assert steps_in(tmp_path) == [1]


def test_a_best_checkpoint_stays_when_the_metric_is_not_finite(tmp_path):
    task = a_task({N}, math.nan, "gradient")  # the first batch of the second epoch
    saves = checkpoint(tmp_path, monitor="val_loss", save_top_k=1, save_last=True)

    run = train(task, tmp_path, saves, early_stop("val_loss", check_finite=False), max_epochs=4)

    assert not finite(dict(task.model.named_parameters()))
    assert [path.name for path in sorted(tmp_path.glob("*.safetensors"))] == [
        f"epoch=0-step={N}.safetensors",
        f"last-epoch=0-step={N}.safetensors",
    ]
    assert run.state["checkpoint(val_loss)"].best_model_path.endswith(f"epoch=0-step={N}.safetensors")


def test_the_compiled_step_skips_too(tmp_path, record_property):
    """The batch itself is bad, as compiled code cannot ask which one it is."""
    torch.manual_seed(1)
    model, batches = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), data() * 4
    task = fncb.Task(model, loss=lambda model, x: model(x).square().mean(), optimizer=SGD)
    for i, value in ((2, math.nan), (5, math.inf), (9, -math.inf)):
        batches[i] = batches[i].clone().fill_(value)
    saves = checkpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)

    run = fncb.fit(task, batches, callbacks=[skip_nonfinite(), ema(0.5), saves], max_epochs=1, progress=False)

    assert run.compiled == "one graph"
    assert run.step_state["skip_nonfinite"]["skipped"].item() == 3
    assert finite(model.state_dict(), run.step_state["ema"], {"mean": run.metrics["loss_epoch"]})
    assert steps_in(tmp_path) == [*range(1, len(batches) + 1)]
    record_property("count", "R12: NaN, inf and -inf in batches of a compiled run: all finite with skip_nonfinite")
