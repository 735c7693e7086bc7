"""What is trained: a model, its loss, its optimizer and its schedule."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

LossOutput = Tensor | tuple[Tensor, Mapping[str, Tensor]]


@attrs.frozen
class Task:
    """A model and what to do with a batch.

    Attributes:
      model: trained in place, as everywhere in PyTorch.
      loss: `loss(model, batch)` gives a scalar tensor, or that and a mapping from name to scalar tensor. It is traced
        into the compiled step, so it is PyTorch code over the model and the batch.
      optimizer: a function from the trainable parameters to an `Optimizer`, or an `Optimizer`.
      schedule: a function from the optimizer to an `LRScheduler`; None keeps the learning rate.
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
    loss: Callable[[Any, Any], LossOutput] = attrs.field(kw_only=True)
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | Optimizer | None = attrs.field(
        default=None, kw_only=True
    )
    schedule: Callable[[Any], LRScheduler] | None = attrs.field(default=None, kw_only=True)
    schedule_interval: str = attrs.field(default="epoch", kw_only=True)
    schedule_monitor: str = attrs.field(default="val_loss", kw_only=True)
    validate: Callable[[Any, Any], LossOutput] | None = attrs.field(default=None, kw_only=True)
    test: Callable[[Any, Any], LossOutput] | None = attrs.field(default=None, kw_only=True)
    predict: Callable[[Any, Any], Any] | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"Task: model must be a torch.nn.Module, got {self.model!r}.")
        for name in ("loss", "optimizer", "schedule", "validate", "test", "predict"):
            value = getattr(self, name)
            if value is None and name != "loss":
                continue
            if not callable(value) and not (name == "optimizer" and isinstance(value, Optimizer)):
                raise TypeError(f"Task: {name} must be a function, got {value!r}.")
        if isinstance(self.optimizer, type) and not issubclass(self.optimizer, Optimizer):
            raise TypeError(f"Task: optimizer must make an Optimizer, got {self.optimizer!r}.")
        if self.schedule_interval not in ("epoch", "step"):
            raise ValueError(f"Task: schedule_interval must be 'epoch' or 'step', got {self.schedule_interval!r}.")


def make_optimizer(task: Task) -> Optimizer:
    """The optimizer of a task, over the parameters that require gradients."""
    if task.optimizer is None:
        raise ValueError(
            "fit: the task must have an optimizer, got None. Pass optimizer=partial(torch.optim.AdamW, lr=1e-3)."
        )
    params = [p for p in task.model.parameters() if p.requires_grad]
    if not params:
        raise ValueError("fit: the model must have parameters that require gradients, got none.")
    made = task.optimizer if isinstance(task.optimizer, Optimizer) else task.optimizer(params)
    if not isinstance(made, Optimizer):
        raise TypeError(f"Task: optimizer must make a torch.optim.Optimizer, got {made!r}.")
    if isinstance(made, LBFGS):
        raise ValueError(
            "Task: the optimizer must step once on given gradients, got LBFGS, which evaluates the loss itself. "
            "Use a first-order optimizer."
        )
    strangers = {id(p) for group in made.param_groups for p in group["params"]} - {id(p) for p in params}
    if strangers:
        raise ValueError(
            f"Task: the optimizer must hold parameters of the model that require gradients, got {len(strangers)} "
            "others. Make it from model.parameters(), or pass a function."
        )
    return made


def make_schedule(task: Task, optimizer: Optimizer) -> LRScheduler | None:
    """The schedule of a task over its optimizer, if it has one."""
    if task.schedule is None:
        return None
    made = task.schedule(optimizer)
    if not isinstance(made, LRScheduler):
        raise TypeError(f"Task: schedule must make a torch.optim.lr_scheduler.LRScheduler, got {made!r}.")
    return made


def loss_and_metrics(who: str, out: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Splits what a loss returned, or says what is wrong with it."""
    loss, metrics = out if isinstance(out, tuple) and len(out) == 2 else (out, {})
    if not isinstance(loss, Tensor):
        raise TypeError(f"{who}: a loss must return a tensor, or (tensor, {{name: tensor}}), got {type(out).__name__}.")
    if loss.dim() != 0 and loss.numel() != 1:
        raise ValueError(f"{who}: a loss must be a scalar, got shape {tuple(loss.shape)}. Take .mean().")
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"{who}: what a loss returns beside the loss must map names to tensors, got {type(metrics).__name__}."
        )
    for name, value in metrics.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{who}: metric {name!r} must be a tensor, got {value!r}. Make it one: torch.tensor(...).")
        if value.numel() != 1:
            raise ValueError(f"{who}: metric {name!r} must be a scalar, got shape {tuple(value.shape)}. Take .mean().")
    return loss.reshape(()), {name: value.detach().reshape(()) for name, value in metrics.items()}
