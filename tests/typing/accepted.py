# pyright: strict
"""What users write, and a strict type checker accepts. Nothing here is run: `test_types.py` has it checked."""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import TensorDataset

import fncb
from fncb import Callback, EmptyState, StepHooks, callbacks, compose, effects, emit, events, sinks
from fncb.callbacks import checkpoint, early_stop, ema
from fncb.testing import Broken, LawsBroken, Order, Report, check, commutes, simulate
from fncb.testing import events as runs


def use(*values: object) -> None:
    """Takes whatever there is."""


@attrs.frozen
class SpikesState:
    """A state of one's own."""

    count: int = 0
    last: float | None = None


def spikes(above: float) -> Callback[SpikesState]:
    """A callback of one's own: hooks with all types written out."""

    def on_train_batch_end(state: SpikesState, event: events.TrainBatchEnd) -> SpikesState:
        loss = event.metrics["loss"]
        return SpikesState(state.count + 1, loss) if loss > above else state

    def on_validation_end(
        state: SpikesState, event: events.ValidationEnd
    ) -> SpikesState | fncb.callback.Emit[SpikesState]:
        if state.count < 10:
            return state
        return emit(SpikesState(), fncb.Log({"spikes": state.count}), fncb.Stop(f"too many at step {event.step}"))

    return Callback(
        key=f"spikes({above})",
        init=SpikesState,
        emits=(fncb.Stop, fncb.Log),
        on_train_batch_end=on_train_batch_end,
        on_validation_end=on_validation_end,
    )


def hooks_need_few_annotations() -> tuple[Callback[SpikesState], Callback[int], Callback[EmptyState]]:
    """What a hook returns is inferred, and so are the arguments of a lambda."""

    def on_saved(state: SpikesState, event: events.Saved):
        return emit(state, fncb.Print(event.path)) if event.bytes else state

    return (
        Callback(key="saved", init=SpikesState, on_saved=on_saved),
        Callback(key="count", init=int, on_train_batch_end=lambda n, event: n + (event.metrics["loss"] > 2.0)),
        Callback(key="talk", on_fit_start=lambda state, event: emit(state, fncb.Print(f"{event.max_epochs} epochs"))),
    )


@attrs.frozen
class Norms:
    """A state of tensors."""

    largest: Tensor
    average: Mapping[str, Tensor]


def norms() -> Callback[EmptyState]:
    """A step half whose state is a record, and a mapping of tensors in it."""

    def init(params: Mapping[str, Tensor]) -> Norms:
        return Norms(torch.zeros(()), {name: torch.zeros_like(p) for name, p in params.items()})

    def on_before_optimizer_step(state: Norms, event: events.BeforeOptimizerStep):
        norm = torch.stack([g.square().sum() for g in event.grads.values()]).sum().sqrt()
        largest = torch.maximum(state.largest, norm)
        grads = {name: g / norm.clamp(min=1.0) for name, g in event.grads.items()}
        return emit(Norms(largest, state.average), grads=grads, metrics={"grad_norm": norm}, skip=norm.isinf())

    def on_after_optimizer_step(state: Norms, event: events.AfterOptimizerStep) -> Norms:
        average = {name: 0.9 * state.average[name] + 0.1 * p for name, p in event.params.items()}
        return Norms(state.largest, average)

    step = StepHooks(
        init=init,
        on_before_optimizer_step=on_before_optimizer_step,
        on_after_optimizer_step=on_after_optimizer_step,
        on_before_backward=lambda state, event: emit(state, loss=event.loss * 2.0),
        on_train_batch_start=lambda state, event: emit(state, batch=event.batch),
    )
    return Callback(key="norms", step=step)


def around_gradient() -> StepHooks[Mapping[str, Tensor]]:
    """What stands around the gradient."""

    def twice(gradient: fncb.step_hooks.Gradient, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        grads = gradient(params)
        return gradient({name: p + 0.1 * grads[name] for name, p in params.items()})

    def init(params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {}

    return StepHooks(init=init, around_gradient=twice, watch=("encoder.*",), reads_model=True)


def the_fields_of_events(state: EmptyState, event: events.Event) -> Iterator[object]:
    """Fields have types, live ones too."""
    yield event.epoch + event.step + event.seconds
    if isinstance(event, events.Setup):
        yield (event.stage == "predict", event.fast_dev_run, event.time + 1.0)
    if isinstance(event, events.ExceptionRaised):
        yield (event.error.upper(), event.message.upper(), event.signal, event.exception.__traceback__)
    if isinstance(event, events.AfterBackward):
        yield (event.loss.item(), event.grads["w"].abs(), event.params["w"].shape, [*event.activations])
        yield (event.batch_idx + event.dataloader_idx, event.batch, event.optimizer)
    if isinstance(event, events.AfterOptimizerStep):
        yield event.buffers["running_mean"].dtype
    if isinstance(event, events.TrainBatchEnd):
        yield (event.metrics["loss"] + 1.0, event.outputs, event.model.training)
    if isinstance(event, events.TrainBatchStart):
        yield event.samples / (event.waited or 1.0)
    if isinstance(event, events.PredictEpochEnd):
        yield len(event.predictions)
    if isinstance(event, events.Probed):
        yield (event.what, event.key, event.at, event.metrics.get("used", 0.0))
    if isinstance(event, events.Saved):
        yield (event.path, event.requested, event.bytes + 1, event.took)
    yield events.hook_name(events.ValidationEnd)
    yield state


def a_model(model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
    """A loss with a metric beside it."""
    loss: Tensor = model(batch[0]).square().mean()
    return loss, {"half": loss / 2}


def a_task() -> fncb.Task:
    """A task, with a function for everything."""
    return fncb.Task(
        nn.Linear(2, 1),
        loss=a_model,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        schedule=partial(StepLR, step_size=1),
        schedule_interval="step",
        validate=lambda model, batch: model(batch[0]).mean(),
        predict=lambda model, batch: model(batch[0]),
    )


def two_optimizers(gan: nn.ModuleDict) -> fncb.Task:
    """Losses and optimizers by name."""
    adam = partial(torch.optim.Adam, lr=1e-3)
    return fncb.Task(gan, loss={"d": a_model, "g": a_model}, optimizer={"d": adam, "g": adam}, every={"g": 2})


def every_effect(state: EmptyState, found: Tensor) -> fncb.callback.Emit[EmptyState]:
    """All effects, as hooks ask for them."""
    weights: Mapping[str, Tensor] = {}

    def average(params: Mapping[str, Tensor], states: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], Any]:
        return {name: p * 0.5 for name, p in params.items()}, states

    def look(model: nn.Module, event: events.ValidationEnd, states: Mapping[str, Any]) -> Iterable[effects.Effect]:
        yield fncb.Log({"step": event.step})

    return emit(
        state,
        *(fncb.Stop("enough"), fncb.StopEpoch(), fncb.Skip(), fncb.Validate()),
        *(fncb.Save("a.safetensors", background=True), fncb.Delete(Path("b"), within="."), fncb.Link("c", to="a")),
        *(fncb.Log({"lr": 0.1}, only_to_sinks=True), fncb.LogImage("x", found), fncb.LogHistogram("y", found)),
        *(fncb.Print("text"), fncb.Render("epoch 1", completed=1, total=2, style="tqdm"), fncb.Append("log", "line")),
        *(fncb.SetLR(0.1, group=-1), fncb.ScaleLR(0.5, min_lr=1e-6), fncb.HoldSchedules(), fncb.SetAccumulation(2)),
        *(fncb.Set("optimizer.momentum", 0.9), fncb.Freeze("body.*", train_bn=False), fncb.Unfreeze("*", lr=0.1)),
        *(fncb.Apply("average", average), fncb.View("average", lambda params, states: weights), fncb.Remember()),
        *(fncb.Rollback(), fncb.Transform("eval", lambda model: model.eval()), fncb.RefreshBatchNorm()),
        *(fncb.Examine("look", look), fncb.Measure("m", lambda model, event, states: {"m": model(event.batch)})),
        *(fncb.Call("tell", lambda event: use(event)), fncb.KeepPredictions(), fncb.Attach({"plain": [1]})),
        *(fncb.Probe("file", "stop"), fncb.CollectGarbage(2), fncb.StartProfiler("t.json"), fncb.StopProfiler()),
    )


def every_built_in(loader: Iterable[Tensor]) -> Callback[Mapping[str, Any]]:
    """All built-ins, with what they need and a few settings."""

    def unfreeze_at(epoch: int) -> str | None:
        return "body.*" if epoch == 3 else None

    c = callbacks
    return compose(
        [c.accumulation_schedule({0: 1, 4: 2}), c.activation_stats("layers.*"), c.adaptive_clip()],
        [c.backbone_finetuning(), c.batch_gradient_verification(), c.byol_ma_update(1000), c.checkpoint("runs/a")],
        [c.clip_grad_norm(1.0), c.clip_grad_value(0.5), c.confused_logit(3), c.cutmix(num_classes=10)],
        [c.data_monitor(), c.data_wait(), c.deadline("2030-01-01T06:00"), c.device_stats_monitor(cpu_stats=True)],
        [c.early_stop("val_acc", mode="max", patience=3), c.ema(0.99), c.finetuning("body.*", unfreeze_at)],
        [c.garbage_collect(), c.grad_noise(), c.grad_norms(), c.history(), c.image_sampler(16), c.lookahead()],
        [c.knn_online_evaluator(loader, loader), c.label_smoothing(num_classes=10), c.latent_dim_interpolator(16)],
        [c.lr_monitor(logging_interval="step"), c.mixup(0.2), c.model_summary(), c.module_data_monitor()],
        [c.notify(use, on=["train_end"]), c.on(train_end=lambda event: fncb.Print(f"{event}")), c.prediction_writer()],
        [c.on(init=int, train_end=lambda state, event: state + 1, key="ends"), c.print_table_metrics()],
        [c.on_exception_checkpoint("runs/a"), c.profile("trace.json"), c.progress_bar(metrics=("*loss", "lr*"))],
        [c.prune("l1_unstructured", amount=0.5), c.quantization_aware_training(), c.recompile_monitor()],
        [c.reduce_on_plateau("val_loss", factor=0.5), c.restore_best("val_loss"), c.rich_model_summary()],
        [c.rich_progress_bar(), c.rollback_on_spike(), c.sam(0.05), c.schedule("lr", lambda epoch: 0.1 * 0.9**epoch)],
        [c.skip_large_updates(), c.skip_nonfinite(), c.spike_detection(), c.ssl_online_evaluator(16, 10)],
        [c.stop_file("stop"), c.swa(0.01), c.threshold_stop("val_loss", 0.1), c.throughput_monitor(), c.timer()],
        [c.tqdm_progress_bar(), c.weight_averaging(lambda step_idx=None, epoch_idx=None: step_idx == 100)],
    )


def when_and_for_which_parameters() -> Callback[SpikesState]:
    """A restricted callback has the state that it had."""
    soon = fncb.first(steps=10) | fncb.between(epochs=(2, 4))
    clip: Callback[EmptyState] = fncb.masked(callbacks.clip_grad_norm(1.0), "encoder.*")
    both: Callback[Mapping[str, Any]] = fncb.when(fncb.after(seconds=60.0), [clip, ema()])
    own: Callback[SpikesState] = fncb.when(lambda event: event.step > 3, spikes(1.0))
    assert both.parts is not None
    return fncb.when(fncb.every(steps=100) & ~soon, own)


def folding() -> SpikesState:
    """A state goes in and comes out with its type."""
    mine = spikes(2.0)
    state, asked = mine.transition(mine.init(), events.TrainBatchEnd(step=1, metrics={"loss": 2.5}))
    assert [effect.key for effect in asked] == ["spikes(2.0)"]
    made = simulate({"loss": [3.0, 1.0], "val_loss": [1.0]}, val_every=2)
    folded = fncb.replay(mine, made, state)
    several = fncb.replay([mine, early_stop("val_loss")], "events.jsonl")
    assert several.state["spikes(2.0)"] == folded.state
    for moment in fncb.history(mine, Path("events.jsonl")):
        use(moment.event.step, moment.state.count, len(moment.effects))
    for kind in fncb.history(compose(mine), made):
        use(kind.state["spikes(2.0)"])
    assert mine.hears(events.ValidationEnd)
    return fncb.load_state_dict(mine, fncb.state_dict(folded.state), strict=True)


def training(task: fncb.Task, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """All stages, and what they give back."""
    train = fncb.batches(TensorDataset(images, labels), 64, shuffle=True, drop_last=True)
    keep = checkpoint("runs/a", monitor="val_loss", save_top_k=2, save="async")
    run = fncb.fit(
        task,
        train,
        {"a": [images], "b": [images]},
        callbacks=compose(keep, [spikes(2.0), norms()]),
        max_epochs=3,
        max_time=datetime.timedelta(hours=1),
        limit_train_batches=0.5,
        val_check_interval=100,
        precision="bf16-mixed",
        deterministic="warn",
        record="events.jsonl",
        sinks=[sinks.csv("metrics.csv"), a_sink()],
        resume="last",
    )
    use(run.metrics["loss"] + 1.0, run.stopped.reason if run.stopped else "", run.state["spikes(2.0)"])
    use(run.epoch + run.step, run.seconds, run.compiled.upper(), run.recompilations, run.step_state["norms"])
    resumed: fncb.Resumed | None = run.resumed
    assert resumed is None or resumed.path.exists()
    told: list[fncb.Run] = [
        fncb.validate(task, [images], callbacks=[ema()]),
        fncb.test(task, lambda: [images], limit_test_batches=2),
        fncb.predict(task, [images], return_predictions=True),
    ]
    assert told[-1].predictions is not None
    return fncb.load("runs/a", averaged="ema") | fncb.load_torch(Path("old.pt"))


def settings_to_begin_with(task: fncb.Task, images: Tensor) -> float:
    """Finders give records."""
    rates: fncb.LRFound = fncb.lr_finder(task, [images], mode="linear", num_training_steps=50)
    sizes: fncb.BatchSizeFound = fncb.batch_size_finder(task, lambda size: [images[:size]], mode="binsearch")
    fastest = max(sizes.trials, key=lambda trial: trial.samples_per_second or 0.0)
    return (rates.suggestion() or rates.lrs[0]) * fastest.batch_size


def looking_back(run: fncb.Run) -> Path:
    """What a recording answers."""
    assert run.recording is not None
    answers = fncb.whatif(run.recording, fncb.grid(early_stop, "val_loss", patience=[1, 2, 5]))
    for name, outcome in answers.outcomes.items():
        use(name, outcome.epochs_saved + 1, outcome.reason, answers[name].kept)
    difference = fncb.diff(run.recording, "other.jsonl", rtol=1e-6)
    assert difference.parts or difference.same
    for changes in fncb.explain(run.recording, [spikes(2.0)]).changes:
        use(changes.key, changes.fields)
    fncb.inspect("runs/a")
    return fncb.report([run.recording, "other.jsonl"], "page.html", callbacks=[spikes(2.0)], whatif={"x": spikes(1.0)})


def a_loop_of_ones_own(model: nn.Module, losses: Iterable[float]) -> str:
    """Any loop will do."""
    with fncb.Session(compose(spikes(2.0)), objects={"model": model}, record="events.jsonl") as session:
        for epoch, loss in enumerate(losses):
            session(events.ValidationEnd(epoch=epoch, metrics={"val_loss": loss}))
            if session.stopped:
                return session.stopped.reason
    return str(session.logged.get("spikes", 0.0) + session.seconds)


def a_sink() -> sinks.Sink:
    """A sink of one's own, and those that there are."""

    def log(metrics: Mapping[str, float], event: events.Event) -> None:
        use(event.step, dict(metrics))

    others: list[sinks.Sink] = [sinks.jsonl("a.jsonl"), sinks.tensorboard("tb"), sinks.wandb("p", mode="offline")]
    others += [sinks.mlflow("e", run_name="a"), sinks.trackio("p", resume="allow"), sinks.csv(Path("a.csv"))]
    return sinks.Sink(log=log, close=lambda: None, image=lambda name, image, event: others.clear())


def the_laws() -> tuple[Report, Order]:
    """Callbacks of one's own are held to them."""
    try:
        kept: Report = check(spikes(2.0), runs(["loss"], max_epochs=2), compile=False)
    except LawsBroken as error:
        broken: tuple[Broken, ...] = error.report.broken
        raise SystemExit([each.law for each in broken]) from error
    order = commutes(spikes(2.0), early_stop("val_loss"), simulate({"val_loss": [1.0]}))
    use(kept.laws, order.matters, order.sentence)
    return kept, order
