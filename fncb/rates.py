"""The learning rates of a run: schedules advanced by step, by epoch and by a metric."""

from collections.abc import Callable, Mapping

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fncb import events as ev
from fncb.callback import note
from fncb.optimizer import named_groups
from fncb.position import Position
from fncb.step import Step
from fncb.task import Task


class Rates:
    """Advances schedules when their time has come.

    Args:
      task: says how often, and by which metric.
      step: whose optimizers they are of.
      schedules: by the optimizer's name, "" where there is one.
      at: tells whether they rest.
    """

    task: Task
    step: Step
    schedules: Mapping[str, LRScheduler]
    at: Position

    def __init__(self, task: Task, step: Step, schedules: Mapping[str, LRScheduler], at: Position):
        self.task, self.step, self.schedules, self.at = task, step, schedules, at

    def lrs(self) -> ev.Metrics:
        """Learning rates by name."""
        return ev.Metrics({name: float(group["lr"]) for name, group in named_groups(self.step.optimizers)})

    def advance(self, interval: str, turns: tuple[int, ...] | None = None) -> None:
        """Advances the schedules of an interval, of some turns or all, but for those that wait for a metric."""
        if not self.schedules or self.task.schedule_interval != interval or self.at.holds_schedules:
            return
        names = [turn.name or "" for i, turn in enumerate(self.step.turns) if turns is None or i in turns]
        due = [self.schedules[name] for name in names if name in self.schedules]
        due = [schedule for schedule in due if not isinstance(schedule, ReduceLROnPlateau)]
        before = [schedule.state_dict() for schedule in due]
        try:
            for schedule in due:
                schedule.step()
        except BaseException:  # it has counted the step before it asks for the rate
            for schedule, was in zip(due, before, strict=True):
                schedule.load_state_dict(was)
            raise
        self.step.check_settings()

    def advance_plateaus(self, interval: str, metrics: Callable[[], ev.Metrics], expected: bool) -> None:
        """Gives each `ReduceLROnPlateau` its metric: after an epoch, or after each validation ("step").

        Args:
          interval: "epoch" or "step".
          metrics: gives those of the epoch.
          expected: whether it is an error if the metric is not among them.

        Raises:
          MissingMetric: if it is.
        """
        if self.task.schedule_interval != interval or self.at.holds_schedules:
            return
        for schedule in self.schedules.values():
            if isinstance(schedule, ReduceLROnPlateau):
                known, monitor = metrics(), self.task.schedule_monitor
                if monitor not in known and not expected:
                    continue  # an epoch without validation
                try:
                    schedule.step(known[monitor])  # waits for the device, once a validation or an epoch
                except KeyError as error:
                    note(error, f"Task: schedule_monitor={monitor!r} must be a metric of the epoch.")
                    raise
                self.step.check_settings()
