# pyright: strict
"""What a strict type checker rejects, one slip a line, with the rule that it breaks. Nothing here is run."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

import fncb
from fncb import Callback, StepHooks, compose, emit, events
from fncb.callbacks import clip_grad_norm, early_stop, ema, mixup, on, schedule, swa
from fncb.testing import check, simulate


def use(*values: object) -> None: ...


@attrs.frozen
class MineState:
    n: int = 0


def fine(state: MineState, event: events.ValidationEnd) -> MineState:
    return state


def of_another_event(state: MineState, event: events.TrainBatchEnd) -> MineState:
    return state


def of_another_state(state: int, event: events.Saved) -> int:
    return state


def gives_another_state(state: MineState, event: events.ValidationEnd) -> int:
    return state.n


def gives_none(state: MineState, event: events.ValidationEnd) -> None: ...


def gives_an_effect(state: MineState, event: events.ValidationEnd) -> fncb.Stop:
    return fncb.Stop("enough")


def gives_a_tuple(state: MineState, event: events.ValidationEnd) -> tuple[MineState, fncb.Stop]:
    return state, fncb.Stop("enough")


def emits_another_state(state: MineState, event: events.ValidationEnd):
    return emit(state.n, fncb.Stop("enough"))


def takes_too_few(state: MineState) -> MineState:
    return state


def takes_a_trainer(state: MineState, event: events.ValidationEnd, trainer: object) -> MineState:
    return state


async def waits(state: MineState, event: events.ValidationEnd) -> MineState:
    return state


def hooks_and_states() -> None:
    Callback(key="a", init=MineState, on_train_batch_end=fine)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=of_another_event)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=gives_another_state)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=gives_none)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=gives_an_effect)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=gives_a_tuple)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=emits_another_state)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=takes_too_few)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=takes_a_trainer)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=waits)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=MineState())  # rejected: reportArgumentType
    Callback(key="a", init=MineState, setup=lambda state, event: state.m)  # rejected: reportAttributeAccessIssue
    Callback(key="a", init=MineState, setup=lambda state, event: state.n)  # rejected: reportAttributeAccessIssue
    Callback(key="a", setup=lambda state, event: emit(state, event.loss))  # rejected: reportAttributeAccessIssue
    Callback(key="a", init=int, on_validation_end=fine)  # rejected: reportArgumentType
    Callback(key="a", init=MineState(), on_validation_end=fine)  # rejected: reportArgumentType
    Callback(key="a", on_validation_end=fine)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_validation_end=fine, on_saved=of_another_state)  # rejected: reportArgumentType
    Callback(key="a", init=MineState, on_vlidation_end=fine)  # rejected: reportCallIssue
    Callback(init=MineState, on_validation_end=fine)  # rejected: reportCallIssue
    Callback("a", init=MineState, on_validation_end=fine)  # rejected: reportCallIssue
    Callback(key=3, init=MineState)  # rejected: reportArgumentType
    Callback(key="a", emits=fncb.Stop)  # rejected: reportArgumentType
    Callback(key="a", emits=(MineState,))  # rejected: reportArgumentType
    Callback(key="a", every=3)  # rejected: reportCallIssue


def a_lambda_gives_none() -> Callback[MineState]:
    return Callback(key="a", init=MineState, setup=lambda state, event: None)  # rejected: reportReturnType


def another_state_than_is_declared() -> Callback[MineState]:
    return Callback(key="a", init=int)  # rejected: reportReturnType


def what_is_emitted(state: MineState, tensor: Tensor) -> None:
    emit(state, "stop")  # rejected: reportArgumentType
    emit(state, fncb.Stop)  # rejected: reportArgumentType
    emit(state, [fncb.Stop("enough")])  # rejected: reportArgumentType
    emit()  # rejected: reportCallIssue
    emit(state, gradients={"w": tensor})  # rejected: reportCallIssue
    emit(state, grads=tensor)  # rejected: reportArgumentType
    emit(state, loss=1.0)  # rejected: reportArgumentType
    emit(state, metrics={"norm": 1.0})  # rejected: reportArgumentType
    emit(state, skip=True)  # rejected: reportArgumentType
    fncb.Stop()  # rejected: reportCallIssue
    fncb.Log({"lr": "high"})  # rejected: reportArgumentType
    fncb.Probe("weather")  # rejected: reportArgumentType
    fncb.SetLR("0.1")  # rejected: reportArgumentType
    fncb.Call("tell", lambda: None)  # rejected: reportArgumentType
    fncb.Apply("halve", lambda params: params)  # rejected: reportArgumentType


def records_are_frozen(event: events.AfterBackward, task: fncb.Task, tensor: Tensor) -> None:
    mine = Callback(key="a", init=MineState, on_validation_end=fine)
    mine.key = "b"  # rejected: reportAttributeAccessIssue
    event.step = 3  # rejected: reportAttributeAccessIssue
    event.grads["w"] = tensor  # rejected: reportIndexIssue
    event.grads = {"w": tensor}  # rejected: reportAttributeAccessIssue
    task.loss = lambda model, batch: tensor  # rejected: reportAttributeAccessIssue
    fncb.Stop("enough").reason = "more"  # rejected: reportAttributeAccessIssue
    MineState().n = 3  # rejected: reportAttributeAccessIssue


def fields_of_events(start: events.ValidationStart, end: events.ValidationEnd, backward: events.AfterBackward) -> None:
    use(start.metrics)  # rejected: reportAttributeAccessIssue
    use(end.losses)  # rejected: reportAttributeAccessIssue
    use(end.metrics.val_loss)  # rejected: reportAttributeAccessIssue
    backward.grads.norm()  # rejected: reportAttributeAccessIssue
    events.ValidationEnd(metric={"val_loss": 1.0})  # rejected: reportCallIssue
    events.ValidationEnd(metrics={"val_loss": "low"})  # rejected: reportArgumentType
    events.ValidationEnd(step="3")  # rejected: reportArgumentType
    events.ValidationEnd(3)  # rejected: reportCallIssue
    events.Setup(stage="train")  # rejected: reportArgumentType
    events.AfterBackward(grads=[1.0])  # rejected: reportArgumentType


def init(params: Mapping[str, Tensor]) -> Tensor:
    return torch.zeros(())


def in_step(state: Tensor, event: events.BeforeOptimizerStep):
    return emit(state, grads=event.grads)


def on_the_host(state: Tensor, event: events.ValidationEnd) -> Tensor:
    return state


def of_a_float(state: float, event: events.BeforeOptimizerStep) -> float:
    return state


def step_hooks() -> None:
    StepHooks(init=init, on_after_backward=in_step)  # rejected: reportArgumentType
    StepHooks(init=init, on_validation_end=on_the_host)  # rejected: reportCallIssue
    StepHooks(init=init, on_before_optimizer_step=of_a_float)  # rejected: reportArgumentType
    StepHooks(init=lambda params: params.largest)  # rejected: reportAttributeAccessIssue
    StepHooks(init=lambda: torch.zeros(()), on_before_optimizer_step=in_step)  # rejected: reportArgumentType
    StepHooks(on_before_optimizer_step=in_step)  # rejected: reportCallIssue
    StepHooks(init=init, watch=3)  # rejected: reportArgumentType
    StepHooks(init=init, around_gradient=lambda params: params)  # rejected: reportArgumentType
    Callback(key="a", step=in_step)  # rejected: reportArgumentType


def composed_and_folded() -> None:
    mine = Callback(key="a", init=MineState, on_validation_end=fine)
    compose("early_stop")  # rejected: reportArgumentType
    compose(early_stop)  # rejected: reportArgumentType
    compose([mine, 3])  # rejected: reportArgumentType
    mine.transition(3, events.ValidationEnd())  # rejected: reportArgumentType
    mine.transition(MineState(), fncb.Stop("enough"))  # rejected: reportArgumentType
    mine.transition(MineState())  # rejected: reportCallIssue
    fncb.replay(mine, [events.ValidationEnd()], 3)  # rejected: reportCallIssue
    fncb.replay(mine, [fncb.Stop("enough")])  # rejected: reportCallIssue
    use(fncb.replay(mine, []).state.m)  # rejected: reportAttributeAccessIssue
    fncb.load_state_dict(MineState, {})  # rejected: reportArgumentType
    fncb.when("every 3 steps", mine)  # rejected: reportCallIssue
    fncb.when(fncb.every(steps=3), early_stop)  # rejected: reportCallIssue
    fncb.every(3)  # rejected: reportCallIssue
    use(fncb.every(steps=3) & 3)  # rejected: reportOperatorIssue
    fncb.masked(mine, 3)  # rejected: reportArgumentType
    fncb.whatif("events.jsonl", [mine])  # rejected: reportArgumentType
    check(mine, 3)  # rejected: reportArgumentType
    simulate({"loss": 3.0})  # rejected: reportArgumentType


def built_ins() -> None:
    early_stop(3)  # rejected: reportArgumentType
    early_stop("val_loss", mode="lowest")  # rejected: reportArgumentType
    early_stop("val_loss", 3)  # rejected: reportCallIssue
    early_stop("val_loss", patience="3")  # rejected: reportArgumentType
    early_stop(monitors="val_loss")  # rejected: reportCallIssue
    clip_grad_norm()  # rejected: reportCallIssue
    ema(decay="0.99")  # rejected: reportArgumentType
    mixup(inputs=0.5)  # rejected: reportArgumentType
    schedule("lr", 0.1)  # rejected: reportArgumentType
    swa(0.01, annealing_strategy="cosine")  # rejected: reportArgumentType
    on(train_end=3)  # rejected: reportArgumentType


def runs(task: fncb.Task, model: nn.Module, batches: list[Tensor], run: fncb.Run) -> None:
    fncb.fit(model, batches)  # rejected: reportArgumentType
    fncb.fit(task)  # rejected: reportCallIssue
    fncb.fit(task, 3)  # rejected: reportArgumentType
    fncb.fit(task, batches, callbacks=early_stop)  # rejected: reportArgumentType
    fncb.fit(task, batches, max_epoch=3)  # rejected: reportCallIssue
    fncb.fit(task, batches, precision="8")  # rejected: reportArgumentType
    fncb.fit(task, batches, deterministic="error")  # rejected: reportArgumentType
    fncb.fit(task, batches, sinks=["metrics.csv"])  # rejected: reportArgumentType
    fncb.validate(task)  # rejected: reportCallIssue
    fncb.predict(batches, task)  # rejected: reportArgumentType
    fncb.Task(model, loss=lambda model: model)  # rejected: reportArgumentType
    fncb.Task(model, loss=lambda model, batch: 1.0)  # rejected: reportArgumentType
    fncb.Task(model)  # rejected: reportCallIssue
    fncb.Task(model, loss=lambda model, batch: model(batch), schedule_interval="steps")  # rejected: reportArgumentType
    fncb.Task(model, loss=lambda model, batch: model(batch), optimizer="adam")  # rejected: reportArgumentType
    fncb.Session("early_stop")  # rejected: reportArgumentType
    fncb.Session(early_stop("val_loss"))(fncb.Stop("enough"))  # rejected: reportArgumentType
    fncb.lr_finder(task, batches, mode="log")  # rejected: reportArgumentType
    fncb.load(3)  # rejected: reportArgumentType
    run.metrics["loss"] = 1.0  # rejected: reportIndexIssue
    use(run.stopped.reason)  # rejected: reportOptionalMemberAccess
    use(run.losses)  # rejected: reportAttributeAccessIssue
