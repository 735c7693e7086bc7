"""Functional callbacks for PyTorch: records of pure hooks, composed, compiled into the step, recorded and replayed."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fncb import callbacks as callbacks
    from fncb import effects as effects
    from fncb import events as events
    from fncb import sinks as sinks
    from fncb.alternatives import grid as grid
    from fncb.alternatives import whatif as whatif
    from fncb.batch_fit import BatchSizeFound as BatchSizeFound
    from fncb.batch_fit import batch_size_finder as batch_size_finder
    from fncb.callback import Callback as Callback
    from fncb.callback import EmptyState as EmptyState
    from fncb.callback import StepHooks as StepHooks
    from fncb.callback import compose as compose
    from fncb.callback import emit as emit
    from fncb.contents import inspect as inspect
    from fncb.data import batches as batches
    from fncb.differing import diff as diff
    from fncb.effects import Append as Append
    from fncb.effects import Apply as Apply
    from fncb.effects import Attach as Attach
    from fncb.effects import Call as Call
    from fncb.effects import CollectGarbage as CollectGarbage
    from fncb.effects import Delete as Delete
    from fncb.effects import Examine as Examine
    from fncb.effects import Freeze as Freeze
    from fncb.effects import HoldSchedules as HoldSchedules
    from fncb.effects import KeepPredictions as KeepPredictions
    from fncb.effects import Link as Link
    from fncb.effects import Log as Log
    from fncb.effects import LogHistogram as LogHistogram
    from fncb.effects import LogImage as LogImage
    from fncb.effects import Measure as Measure
    from fncb.effects import Print as Print
    from fncb.effects import Probe as Probe
    from fncb.effects import RefreshBatchNorm as RefreshBatchNorm
    from fncb.effects import Remember as Remember
    from fncb.effects import Render as Render
    from fncb.effects import Rollback as Rollback
    from fncb.effects import Save as Save
    from fncb.effects import ScaleLR as ScaleLR
    from fncb.effects import Set as Set
    from fncb.effects import SetAccumulation as SetAccumulation
    from fncb.effects import SetLR as SetLR
    from fncb.effects import Skip as Skip
    from fncb.effects import StartProfiler as StartProfiler
    from fncb.effects import Stop as Stop
    from fncb.effects import StopEpoch as StopEpoch
    from fncb.effects import StopProfiler as StopProfiler
    from fncb.effects import Transform as Transform
    from fncb.effects import Unfreeze as Unfreeze
    from fncb.effects import Validate as Validate
    from fncb.effects import View as View
    from fncb.explaining import explain as explain
    from fncb.hindsight import history as history
    from fncb.hindsight import replay as replay
    from fncb.loop import Resumed as Resumed
    from fncb.loop import Run as Run
    from fncb.loop import fit as fit
    from fncb.loop import predict as predict
    from fncb.loop import test as test
    from fncb.loop import validate as validate
    from fncb.lr_range import LRFound as LRFound
    from fncb.lr_range import lr_finder as lr_finder
    from fncb.masking import masked as masked
    from fncb.page.html import report as report
    from fncb.schedules import after as after
    from fncb.schedules import between as between
    from fncb.schedules import every as every
    from fncb.schedules import first as first
    from fncb.schedules import when as when
    from fncb.session import Session as Session
    from fncb.snapshot import load_state_dict as load_state_dict
    from fncb.snapshot import state_dict as state_dict
    from fncb.task import Task as Task
    from fncb.weights import load as load
    from fncb.weights import load_torch as load_torch

# Where each public name lives: loaded when it is used, so that replaying a recording never loads torch.
_ROOMS = {
    "alternatives": ("grid", "whatif"),
    "batch_fit": ("BatchSizeFound", "batch_size_finder"),
    "callback": ("Callback", "EmptyState", "StepHooks", "compose", "emit"),
    "contents": ("inspect",),
    "data": ("batches",),
    "differing": ("diff",),
    "effects": (
        *("Append", "Apply", "Attach", "Call", "CollectGarbage", "Delete", "Examine", "Freeze", "HoldSchedules"),
        *("KeepPredictions", "Link", "Log", "LogHistogram", "LogImage", "Measure", "Print", "Probe"),
        *("RefreshBatchNorm", "Remember", "Render", "Rollback", "Save", "ScaleLR", "Set", "SetAccumulation"),
        *("SetLR", "Skip", "StartProfiler", "Stop", "StopEpoch", "StopProfiler", "Transform", "Unfreeze"),
        *("Validate", "View"),
    ),
    "explaining": ("explain",),
    "loop": ("Resumed", "Run", "fit", "predict", "test", "validate"),
    "hindsight": ("history", "replay"),
    "lr_range": ("LRFound", "lr_finder"),
    "masking": ("masked",),
    "page.html": ("report",),
    "schedules": ("after", "between", "every", "first", "when"),
    "session": ("Session",),
    "snapshot": ("load_state_dict", "state_dict"),
    "task": ("Task",),
    "weights": ("load", "load_torch"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}
_MODULES = ("callbacks", "effects", "events", "sinks")

__all__ = [*sorted(_HOME), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fncb.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'fncb' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fncb.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
