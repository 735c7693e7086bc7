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

N, EPOCHS = 4, 2
STEPS = range(N * EPOCHS)
BAD = {"NaN": math.nan, "inf": math.inf, "-inf": -math.inf, "1e30": 1e30}


def data():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, generator=generator) for _ in range(N)]


def a_task(bad, value, where):
    """A task whose loss, or the gradients alone, are bad at the batches whose number is among `bad`."""
    torch.manual_seed(1)
    model, seen = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), []

    def loss(model, batch):
        out, plain = model(batch).square().mean(), torch.tensor(0.0)
        if model.training:
            seen.append(len(seen))
            wrong = out * value if math.isfinite(value) else out + value - out.detach() * 0
            plain = torch.ones(())
            if seen[-1] in bad and where == "loss":
                return wrong, {"plain": plain}
            if seen[-1] in bad:
                out.register_hook(lambda grad: grad * value)
        return out, {"plain": plain}

    validate = lambda model, batch: model(batch).square().mean()  # noqa: E731
    return fncb.Task(model, loss, partial(torch.optim.SGD, lr=0.01, momentum=0.9), validate=validate)


def train(task, folder, *callbacks, **given):
    given = {"max_epochs": EPOCHS, "compile": False, "progress": False, "num_sanity_val_steps": 0, **given}
    return fncb.fit(task, data(), data()[:1], callbacks=callbacks, record=folder / "events.jsonl", **given)


def finite(*trees):
    """Whether everything in trees of tensors and numbers is finite."""
    return all(
        finite(*each.values()) if isinstance(each, dict) else bool(torch.as_tensor(each).isfinite().all())
        for each in trees
    )


def steps_in(folder):
    return sorted(store.read_header(path)["step"] for path in Path(folder).glob("*.safetensors"))


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_bad_batch_is_skipped_at_every_step(value, where, tmp_path, record_property):
    found = {}
    guards = [skip_nonfinite(), clip_grad_norm(1.0), ema(0.5)]
    for step in STEPS:
        task, folder = a_task({step}, value, where), tmp_path / str(step)
        run = train(task, folder, *guards, checkpoint(folder, every_n_train_steps=1, save_top_k=-1))
        means = [event.metrics for event in read(folder / "events.jsonl").events if hasattr(event, "metrics")]
        means = [{name: each[name] for name in each if name.endswith("_epoch") or "val" in name} for each in means]
        found[step] = {
            "model": finite(task.model.state_dict()),
            "averages": finite(run.step_state["ema"]),
            "means": finite(*means) and all(each.get("plain_epoch", 1.0) == 1.0 for each in means),
            "skipped": run.step_state["skip_nonfinite"]["skipped"].item(),
            "saved": steps_in(folder),
        }

    skipped = 0 if math.isfinite(value) else 1
    good = {"model": True, "averages": True, "means": True, "skipped": skipped, "saved": [*range(1, len(STEPS) + 1)]}
    assert {step: each for step, each in found.items() if each != good} == {}
    record_property("count", f"R12: {value:g} in {where} at each of {len(found)} steps: all finite with skip_nonfinite")


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["NaN", "inf"])
def test_a_skipped_batch_leaves_no_trace(value, where, tmp_path):
    """But for the counters: the run equals one whose bad batch was left out by `Skip`."""
    found = []
    for step in STEPS:
        left_out = Callback(
            key="left_out",
            emits=(fncb.Skip,),
            on_train_batch_start=lambda s, e, at=divmod(step, N): (
                emit(s, fncb.Skip()) if (e.epoch, e.batch_idx) == at else s
            ),
        )
        bad, never = a_task({step}, value, where), a_task((), value, where)
        means = []
        for i, (task, guard) in enumerate([(bad, skip_nonfinite()), (never, left_out)]):
            folder = tmp_path / f"{step}-{i}"
            run = train(task, folder, guard, ema(0.5))
            ends = [e for e in read(folder / "events.jsonl").events if type(e) is fncb.events.TrainEpochEnd]
            names = ("loss_epoch", "plain_epoch", "val_loss")
            means.append((
                [[e.metrics[name] for name in names] for e in ends],
                [each.tolist() for each in run.step_state["ema"].values()],
                [each.tolist() for name, each in task.model.state_dict().items()],
            ))
        if means[0] != means[1]:
            found.append(step)

    assert found == []


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30], ids=["NaN", "inf", "1e30"])
@pytest.mark.parametrize(
    "saving",
    [
        {"every_n_train_steps": 1, "save_top_k": 1},
        {"every_n_train_steps": 1, "save_top_k": 1, "save_last": True},
        {"every_n_train_steps": 1, "save_top_k": -1, "save": "async"},
        {"monitor": "finite", "mode": "max", "every_n_train_steps": 1, "save_top_k": 1, "save_last": True},
        {"monitor": "step", "mode": "max", "every_n_train_steps": 1, "save_top_k": 2},
    ],
    ids=lambda saving: " ".join(f"{name}={value}" for name, value in saving.items()),
)
def test_a_bad_state_never_replaces_a_good_one(saving, value, where, tmp_path, record_property, caplog):
    """Without `skip_nonfinite`: what is there is finite, and `resume="last"` finds the last good one."""
    found = {}
    # a metric of the step that is finite whatever happens, and grows
    grows = StepHooks(init=lambda _: {}, on_train_batch_end=lambda s, e: emit(s, metrics={"finite": e.step.float()}))
    for step in STEPS:
        folder = tmp_path / str(step)
        callbacks = [Callback(key="grows", step=grows), checkpoint(folder, **saving)]
        train(a_task({step}, value, where), folder, *callbacks)
        good = [store.read(path)["model"] for path in folder.glob("*.safetensors")]
        newest = max(steps_in(folder), default=None)
        again = a_task((), value, where)
        run = train(again, folder, *callbacks, resume="last")
        found[step] = {
            "finite": finite(*({n: t for n, t in each.items() if "running" not in n} for each in good)),
            "newest": newest,
            "resumed": run.resumed and run.resumed.step,
            "ends": (run.step, finite(dict(again.model.named_parameters()))),
        }

    # the step that was bad made the parameters so: nothing is saved from then on. 1e30 is finite until it is squared
    wrong = {}
    for step, each in found.items():
        newest = each["newest"] if value == 1e30 else (step or None)
        good = {"finite": True, "newest": newest, "resumed": newest, "ends": (len(STEPS), True)}
        if each != good and not (value == 1e30 and {**each, "ends": good["ends"]} == good):
            wrong[step] = each
    assert wrong == {}
    if value == 1e30:
        assert all((each["newest"] or 0) >= step for step, each in found.items())


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


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["NaN", "inf"])
def test_the_compiled_step_skips_too(value, tmp_path, record_property):
    """The batch itself is bad, as compiled code cannot ask which one it is."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    task = fncb.Task(model, lambda model, x: model(x).square().mean(), partial(torch.optim.SGD, lr=0.01, momentum=0.9))
    batches = data() * 3
    for i in (2, 5, 9):
        batches[i] = batches[i].clone().fill_(value)
    saves = checkpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)

    run = fncb.fit(task, batches, callbacks=[skip_nonfinite(), ema(0.5), saves], max_epochs=1, progress=False)

    assert run.compiled == "one graph"
    assert run.step_state["skip_nonfinite"]["skipped"].item() == 3
    assert finite(model.state_dict(), run.step_state["ema"], {"mean": run.metrics["loss_epoch"]})
    assert steps_in(tmp_path) == [*range(1, len(batches) + 1)]
    record_property("count", f"R12: {value:g} in 3 batches of a compiled run: all finite with skip_nonfinite")
