"""What is trained: a model, its loss, its optimizer and its schedule."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import attrs
from toolz import isdistinct
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fncb.fields import must_be_int, must_be_one_of
from fncb.measures import Measured, keeps_state
from fncb.optimizer import keep_schedules_quiet, named_groups

LossOutput = Tensor | tuple[Tensor, Mapping[str, Any]]
Loss = Callable[[Any, Any], LossOutput]
MakesOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer] | Optimizer
MakesSchedule = Callable[[Any], LRScheduler]


@attrs.frozen
class Task:
    """A model and what to do with a batch.

    `loss` and `optimizer` may be mappings from the same names, as a GAN needs: for each batch the losses are taken in
    order, each followed by its optimizer, all in the one compiled step. Their metrics are `loss/<name>`, hooks tell
    them apart by `event.optimizer`, and `step` counts rounds. A function makes its optimizer over the parameters of
    the submodule of its name, or of the whole model when there is none.

    Attributes:
      model: trained in place, as everywhere in PyTorch.
      loss: `loss(model, batch)` gives a scalar tensor, or that and a mapping from name to scalar tensor. It is traced
        into the compiled step, so it is PyTorch code over the model and the batch. Beside tensors the mapping may hold
        torchmetrics' metrics, as `(metric, *what_to_update_it_with)`; these see batches that a step hook skips, too.
      optimizer: a function from the trainable parameters to an `Optimizer`, or an `Optimizer`.
      every: maps an optimizer's name to n, 1 or more: it steps in each n-th round only.
      schedule: a function from the optimizer to an `LRScheduler`, or a mapping from optimizers' names; None keeps the
        learning rates.
      schedule_interval: whether the schedule advances every `"epoch"` or every optimizer `"step"`.
      schedule_monitor: the validation metric that a `ReduceLROnPlateau` is given.
      validate, test: like `loss`, under `torch.no_grad()` and in eval mode; None takes `loss`.
      predict: `predict(model, batch)`; None takes the model's output on the batch's first element.

    Raises:
      TypeError: where something is not what it says above.

    Example:
      >>> import torch
      >>> task = Task(torch.nn.Linear(2, 1), loss=lambda model, batch: model(batch).square().mean())
      >>> task.loss(task.model, torch.zeros(4, 2)).shape
      torch.Size([])
    """

    model: nn.Module = attrs.field(repr=lambda model: type(model).__name__)
    loss: Loss | Mapping[str, Loss] = attrs.field(kw_only=True)
    optimizer: MakesOptimizer | Mapping[str, MakesOptimizer] | None = attrs.field(default=None, kw_only=True)
    every: Mapping[str, int] = attrs.field(factory=dict, kw_only=True)
    schedule: MakesSchedule | Mapping[str, MakesSchedule] | None = attrs.field(default=None, kw_only=True)
    schedule_interval: Literal["epoch", "step"] = attrs.field(default="epoch", kw_only=True)
    schedule_monitor: str = attrs.field(default="val_loss", kw_only=True)
    validate: Loss | None = attrs.field(default=None, kw_only=True)
    test: Loss | None = attrs.field(default=None, kw_only=True)
    predict: Callable[[Any, Any], Any] | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"Task: model must be a torch.nn.Module, got {self.model!r}.")
        for name in ("loss", "optimizer", "schedule", "validate", "test", "predict"):
            _must_be_functions(name, getattr(self, name))
        must_be_one_of("Task", "schedule_interval", self.schedule_interval, ("epoch", "step"))
        self._must_have_the_same_names()

    def _must_have_the_same_names(self) -> None:
        names = list(self.loss) if isinstance(self.loss, Mapping) else []
        optimizers = list(self.optimizer) if isinstance(self.optimizer, Mapping) else []
        if isinstance(self.loss, Mapping) and not names:
            raise ValueError("Task: loss must name at least one function, got none.")
        if "" in names:
            raise ValueError(f"Task: a loss's name must not be empty, got {names}.")
        if self.optimizer is not None and set(names) != set(optimizers):
            raise ValueError(f"Task: loss and optimizer must have the same names, got {names} and {optimizers}.")
        if names and self.schedule is not None and not isinstance(self.schedule, Mapping):
            raise TypeError("Task: schedule must map names of the optimizers, got a function for several of them.")
        if not isinstance(self.every, Mapping):
            raise TypeError(f"Task: every must map names of the optimizers to rounds, got {self.every!r}.")
        for field, given in (("every", self.every), ("schedule", self.schedule)):
            if isinstance(given, Mapping) and not given.keys() <= set(names):
                raise ValueError(
                    f"Task: {field} must use names of the optimizers, got {list(given)}. There are {names}."
                )
        for name, n in self.every.items():
            must_be_int("Task", f"every[{name!r}]", n, 1, "round")
        if names and self.every.keys() == set(names) and 1 not in self.every.values():
            raise ValueError(f"Task: every must leave an optimizer for each round, got {dict(self.every)}.")

    @property
    def predicts(self) -> Callable[[Any, Any], Any]:
        """`predict`, or the model on the first element of a batch."""
        return self.predict or _predict_first

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The losses by the names of their optimizers, "" where there is one."""
        return self.loss if isinstance(self.loss, Mapping) else {"": self.loss}


def _predict_first(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()))
    elif isinstance(batch, list | tuple):
        batch = batch[0]
    return model(batch)


def _must_be_functions(name: str, given: Any) -> None:
    """Raises unless a field holds a function, or, where there may be several, a mapping to such."""
    if given is None and name != "loss":
        return
    several = name in ("loss", "optimizer", "schedule")
    for each in given.values() if several and isinstance(given, Mapping) else [given]:
        if not callable(each) and not (name == "optimizer" and isinstance(each, Optimizer)):
            raise TypeError(f"Task: {name} must be a function, got {each!r}.")
        if name == "optimizer" and isinstance(each, type) and not issubclass(each, Optimizer):
            raise TypeError(f"Task: optimizer must make an Optimizer, got {each!r}.")


@attrs.frozen(eq=False)
class Turn:
    """A loss and the optimizer that steps on it, for a batch in every so many rounds.

    Attributes:
      name: as in the task's mappings; None where there is one optimizer.
      loss: as in `Task`.
      optimizer: made, over the parameters that it moves.
      every: takes part in each so-manieth round of the run.
    """

    name: str | None
    loss: Loss
    optimizer: Optimizer
    every: int = 1


def make_turns(task: Task) -> tuple[Turn, ...]:
    """A task's losses with their optimizers made, in order."""
    if task.optimizer is None:
        raise ValueError(
            "fit: the task must have an optimizer, got None. Pass optimizer=partial(torch.optim.AdamW, lr=1e-3)."
        )
    if not any(p.requires_grad for p in task.model.parameters()):
        raise ValueError("fit: the model must have parameters that require gradients, got none.")
    if not isinstance(task.optimizer, Mapping):
        assert not isinstance(task.loss, Mapping)  # which the task checks
        return (Turn(None, task.loss, _made(task.optimizer, task.model, task.model)),)
    modules = dict(task.model.named_modules())
    turns = []
    for name, loss in task.losses.items():
        made = _made(task.optimizer[name], modules.get(name, task.model), task.model)
        turns.append(Turn(name, loss, made, task.every.get(name, 1)))
    owners: dict[int, str | None] = {}
    for turn in turns:
        for p in (p for group in turn.optimizer.param_groups for p in group["params"]):
            if owners.setdefault(id(p), turn.name) != turn.name:
                raise ValueError(
                    f"Task: each parameter must belong to one optimizer, got some in {owners[id(p)]!r} and in "
                    f"{turn.name!r}. Name each optimizer as the submodule that it moves, or pass made optimizers."
                )
    return tuple(turns)


def _made(optimizer: Any, moved: nn.Module, model: nn.Module) -> Optimizer:
    """The optimizer, made over the parameters of `moved` that require gradients if it is a function."""
    made = optimizer
    if not isinstance(optimizer, Optimizer):
        made = optimizer([p for p in moved.parameters() if p.requires_grad])
    if not isinstance(made, Optimizer):
        raise TypeError(f"Task: optimizer must make a torch.optim.Optimizer, got {made!r}.")
    if isinstance(made, LBFGS):
        raise ValueError(
            "Task: the optimizer must step once on given gradients, got LBFGS, which evaluates the loss itself. "
            "Use a first-order optimizer."
        )
    groups = [group for group, _ in named_groups([made])]
    if not isdistinct(groups):
        raise ValueError(
            f"Task: each parameter group must have a name of its own, got {groups}. Give the groups other names."
        )
    strangers = {id(p) for group in made.param_groups for p in group["params"]} - {id(p) for p in model.parameters()}
    if strangers:
        raise ValueError(
            f"Task: the optimizer must hold parameters of the model, got {len(strangers)} others. Make it from "
            "model.parameters(), or pass a function."
        )
    return made


def make_schedules(task: Task, turns: tuple[Turn, ...]) -> dict[str, LRScheduler]:
    """The schedules of a task over its optimizers, by the optimizer's name, "" where there is one."""
    if task.schedule is None:
        return {}
    given = task.schedule if isinstance(task.schedule, Mapping) else {"": task.schedule}
    made = {turn.name or "": given[turn.name or ""](turn.optimizer) for turn in turns if (turn.name or "") in given}
    for turn in turns:
        keep_schedules_quiet(turn.optimizer)
    for schedule in made.values():
        if not isinstance(schedule, LRScheduler):
            raise TypeError(f"Task: schedule must make a torch.optim.lr_scheduler.LRScheduler, got {schedule!r}.")
    return made


def loss_and_metrics(who: str, out: Any) -> tuple[Tensor, dict[str, Tensor], Measured]:
    """Splits what a loss returned: itself, scalars beside it, and what metrics with a state are to be updated with."""
    loss, beside = out if isinstance(out, tuple) and len(out) == 2 else (out, {})
    if not isinstance(loss, Tensor):
        raise TypeError(f"{who}: a loss must return a tensor, or (tensor, {{name: tensor}}), got {type(out).__name__}.")
    if loss.dim() != 0 and loss.numel() != 1:
        raise ValueError(f"{who}: a loss must be a scalar, got shape {tuple(loss.shape)}. Take .mean().")
    if not isinstance(beside, Mapping):
        raise TypeError(
            f"{who}: what a loss returns beside the loss must map names to tensors, got {type(beside).__name__}."
        )
    metrics, measured = {}, {}
    for name, value in beside.items():
        if name == "loss":
            raise ValueError(f"{who}: a metric beside the loss must not be named 'loss', got one. Rename it.")
        if keeps_state(value):
            measured[name] = (value,)
        elif isinstance(value, tuple) and value and keeps_state(value[0]):
            measured[name] = (value[0], *[part.detach() if isinstance(part, Tensor) else part for part in value[1:]])
        elif not isinstance(value, Tensor):
            raise TypeError(f"{who}: metric {name!r} must be a tensor, got {value!r}. Make it one: torch.tensor(...).")
        elif value.numel() != 1:
            raise ValueError(f"{who}: metric {name!r} must be a scalar, got shape {tuple(value.shape)}. Take .mean().")
        else:
            metrics[name] = value.detach().reshape(())
    return loss.reshape(()), metrics, measured
