"""Going on from a checkpoint: which file is meant, and what is as it was saved and what is not."""

import logging
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from fncb import store
from fncb.callback import Callback
from fncb.contents import contents_of
from fncb.step_hooks import NamedParams, StepHooks
from fncb.store import Latest, Rejected
from fncb.tree import copy_into, map_leaves
from fncb.weights import must_fit

log: logging.Logger = logging.getLogger("fncb")


@attrs.frozen(kw_only=True)
class Resumed:
    """What a run went on from. As text, it is one line that says all of this.

    Attributes:
      path: the checkpoint.
      epoch, step: where the run was.
      restored: names of what is as it was saved, such as `model`, `optimizer`, `callbacks`.
      left_out: what the checkpoint has and the run has not, or the run has and the checkpoint has not.
      added: keys of callbacks that start anew, as the checkpoint does not know them.
      removed: keys of callbacks that the checkpoint knows and the run has no longer.
      changed: what differs in the arguments of a callback, by key; the new ones count.
      rejected: files that were passed over for this one, and why.
    """

    path: Path
    epoch: int = 0
    step: int = 0
    restored: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: Mapping[str, str] = attrs.field(factory=dict)
    rejected: tuple[Rejected, ...] = ()

    def __str__(self) -> str:
        changed = [f"{key} ({what})" for key, what in self.changed.items()]
        rejected = [f"{each.path} ({each.reason})" for each in self.rejected]
        named = {
            "restored": self.restored,
            "left out": self.left_out,
            "callbacks added": self.added,
            "callbacks removed": self.removed,
            "callbacks changed": changed,
            "files passed over": rejected,
        }
        told = "".join(f"; {what}: {', '.join(names)}" for what, names in named.items() if names)
        return f"going on from {self.path}: epoch {self.epoch}, step {self.step}{told}"


def tell(resumed: Resumed) -> None:
    """Says in one log line what a run goes on from, as a warning if something is not as it was saved."""
    differs = resumed.left_out or resumed.added or resumed.removed or resumed.rejected
    log.log(logging.WARNING if differs else logging.INFO, "fncb: %s", resumed)


def find(who: str, resume: str | Path, callbacks: Callback[Any], to_go_on: bool = True) -> Latest:
    """The checkpoint that `resume` means, verified unless it is named, and those that were passed over for it.

    Args:
      who: names the caller in errors.
      resume: a checkpoint; a directory, whose newest is meant; "last", the newest in the directories of all
        `checkpoint` callbacks, or none; "best", the one with the best score in that of the first with a `monitor`.
      callbacks: where those are.
      to_go_on: whether files that hold weights alone will not do: they are passed over, unless one is named.

    Raises:
      ValueError: if there is none, unless "last" is meant; if one that is named will not do.
      FileNotFoundError: if a path is not there.
    """
    if resume not in ("last", "best"):
        path = Path(resume)
        if not path.exists():
            raise FileNotFoundError(
                f'{who}: resume must be a checkpoint, a directory, "last" or "best", got {str(resume)!r}, which is not '
                "there."
            )
        if to_go_on and not path.is_dir():
            store.must_be_whole(path, store.read_header(path))
        found = _warned(store.latest(path, to_go_on=to_go_on)) if path.is_dir() else Latest(path)
        if found.path is None:
            raise ValueError(
                f"{who}: resume must be a checkpoint or a directory with one, got {str(resume)!r} without any."
            )
        return found
    writing = [part for part in callbacks.parts or () if "dirpath" in part.config]
    if resume == "best":
        writing = [part for part in writing if part.config.get("monitor")]
    if not writing:
        needed = "checkpoint(...)" if resume == "last" else "checkpoint(..., monitor=...)"
        raise ValueError(f'{who}: resume="{resume}" needs a {needed} callback, got none. Pass a path.')
    if resume == "best":
        return _best(who, writing[0], to_go_on)
    directories = [Path(part.config["dirpath"]) for part in writing]
    found = [_warned(store.latest(directory, to_go_on=to_go_on)) for directory in dict.fromkeys(directories)]
    paths = [each.path for each in found if each.path is not None]
    if not paths:
        log.warning("fncb: no checkpoint yet in %s; starting from the beginning", ", ".join(map(str, directories)))
    newest = max(paths, key=lambda path: store.age(store.read_header(path)), default=None)
    return Latest(newest, tuple(rejected for each in found for rejected in each.rejected))


def _best(who: str, part: Callback[Any], to_go_on: bool) -> Latest:
    directory, monitor = Path(part.config["dirpath"]), part.config["monitor"]
    sign = 1.0 if part.config.get("mode", "min") == "min" else -1.0
    paths, rejected = store.survey(directory)
    scored = []
    for path in reversed(paths):  # of equals the oldest, as when they were saved
        tree = contents_of(path).tree
        score = {**tree.get("metrics", {}), "epoch": tree.get("epoch"), "step": tree.get("step")}.get(monitor)
        if isinstance(score, int | float) and isfinite(score):
            scored.append((sign * score, path))
    for _, path in sorted(scored, key=lambda each: each[0]):
        try:
            if to_go_on:
                store.must_be_whole(path, store.read_header(path))
            store.verify(path)
        except (ValueError, OSError) as error:
            rejected.append(Rejected(path, str(error)))
        else:
            return _warned(Latest(path, tuple(rejected)))
    raise ValueError(
        f'{who}: resume="best" needs a checkpoint with a finite {monitor!r}, got none in {str(directory)!r}. '
        'Pass a path, or "last".'
    )


def _warned(found: Latest) -> Latest:
    for rejected in found.rejected:
        log.warning("fncb: %s is passed over: %s", rejected.path, rejected.reason)
    return found


def must_be_alike(objects: Mapping[str, Any], snapshot: Mapping[str, Any]) -> None:
    """Raises unless each model has the weights that were saved, and each other object is of the kind that was."""
    for name, thing in objects.items():
        kind = type(thing).__qualname__
        saved = snapshot["kinds"].get(name, kind)
        if isinstance(thing, nn.Module):
            must_fit("resume", thing, snapshot[name])
        elif kind != saved:
            raise ValueError(
                f"resume: {name} must be of the kind that was saved, {saved}, got {kind}. Resume with that, or take "
                "the weights alone with weights_only=True."
            )


def step_states_in(snapshot: Mapping[str, Any], hooks: StepHooks[Any] | None, model: nn.Module) -> dict[str, Any]:
    """The step states that a checkpoint holds of callbacks that are still there, by key, for a run without a step.

    Raises:
      ValueError: if one does not fit.
    """
    saved = snapshot.get("step_state", {}).get("states", {})
    if hooks is None or not saved:
        return {}
    frozen = snapshot.get("control", {}).get("frozen", ())
    params = {name: p.detach() for name, p in model.named_parameters() if name not in frozen}
    states = hooks.init(NamedParams(params, dict(model.named_buffers()), tuple(frozen)))
    known = {key: map_leaves(torch.clone, state) for key, state in states.items() if key in saved}
    for key, state in known.items():
        copy_into(f"resume: {key}", state, saved[key])
    return known


def noted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a callback as plain data, to be compared later: what is not plain is told by its name.

    Example:
      >>> noted({"patience": 3, "names": ("a", "b"), "when": len})
      {'patience': 3, 'names': ['a', 'b'], 'when': 'len'}
    """
    return {str(name): _noted(value) for name, value in config.items()}


def _noted(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return noted(value)
    if isinstance(value, list | tuple):
        return [_noted(each) for each in value]
    if isinstance(value, Callable):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return type(value).__qualname__ if type(value).__repr__ is object.__repr__ else repr(value)


def differences(callbacks: Callback[Any], saved: Mapping[str, Any], configs: Mapping[str, Any]) -> dict[str, Any]:
    """`added`, `removed` and `changed` of `Resumed`: callbacks compared with the states and arguments that were saved.

    Example:
      >>> wait = Callback(key="wait", config={"patience": 5})
      >>> from fncb.callback import compose
      >>> differences(compose(wait), {"wait": {}, "ema": {}}, {"wait": {"patience": 3}, "ema": {}})
      {'added': (), 'removed': ('ema',), 'changed': {'wait': 'patience 3, now 5'}}
    """
    now = {part.key: noted(part.config) for part in callbacks.parts or ()}
    changed = {}
    for key in now.keys() & configs.keys():
        was, names = configs[key], {**configs[key], **now[key]}
        pairs = [(name, repr(was.get(name)), repr(now[key].get(name))) for name in names]
        told = [f"{name} {before}, now {after}" for name, before, after in pairs if before != after]
        if told:
            changed[key] = "; ".join(told)
    added, removed = sorted(now.keys() - saved.keys()), sorted(saved.keys() - now.keys())
    return {"added": tuple(added), "removed": tuple(removed), "changed": changed}
