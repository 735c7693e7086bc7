"""The weights of a model: out of a checkpoint, into a model, and whether they are finite."""

import logging
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fncb import store
from fncb.events import Event, counters

log: logging.Logger = logging.getLogger("fncb")


def load(path: str | Path, averaged: str | None = None) -> dict[str, Tensor]:
    """The weights of the model in a checkpoint, verified, on the CPU.

    Args:
      path: a checkpoint, or a directory with some: then the newest that verifies, with a warning for each file that is
        passed over.
      averaged: the key of a callback that keeps other values of the weights, such as `ema`, `swa` or `restore_best`:
        those it keeps take the place of the model's own. None for the model's own.

    Returns:
      What `model.state_dict()` gave when it was saved.

    Raises:
      DamagedCheckpoint: if a single bit of the file differs from what was written.
      ValueError: if there is no checkpoint, or none of a model; if no callback of that key keeps any weights in it.
      FileNotFoundError: if the path is not there.

    Example:
      >>> import tempfile
      >>> model = nn.Linear(2, 1)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = store.write(Path(folder, "a.safetensors"), {"model": model.state_dict()})
      ...     model.load_state_dict(load(folder))
      <All keys matched successfully>
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"load: path must be a checkpoint or a directory, got {path}, which is not there.")
    if path.is_dir():
        found = store.latest(path)
        for rejected in found.rejected:
            log.warning("fncb: %s is passed over: %s", rejected.path, rejected.reason)
        if found.path is None:
            raise ValueError(f"load: path must be a checkpoint or a directory with one, got {str(path)!r} without any.")
        path = found.path
    snapshot = store.read(path)
    weights = weights_in(snapshot, path)
    return weights if averaged is None else _averaged(averaged, weights, snapshot, path)


def _averaged(key: str, weights: dict[str, Tensor], snapshot: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights, with those in their place that a callback keeps under their names, or under `average.<name>`."""
    states = snapshot.get("step_state", {}).get("states", {})
    kept = {each: found for each, state in states.items() if (found := _of_names(weights, state))}
    if key not in kept:
        raise ValueError(
            f"load: averaged must be the key of a callback that keeps weights, got {key!r}. In {path} there are "
            f"{sorted(kept)}."
        )
    by_tensor = {id(weights[name]): each for name, each in kept[key].items()}  # one of tied weights stands for all
    return {name: by_tensor.get(id(own), own) for name, own in weights.items()}


def _of_names(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a step state's tensors that may be values of weights, by their names."""
    found = [{name: state.get(prefix + name) for name in weights} for prefix in ("", "average.")]
    alike = [
        {name: value for name, value in named.items() if value is not None and value.shape == weights[name].shape}
        for named in found
    ]
    return max(alike, key=len)


def weights_in(snapshot: Any, path: Path) -> dict[str, Tensor]:
    """The model's part of what a checkpoint holds."""
    if not isinstance(snapshot, dict) or not isinstance(snapshot.get("model"), dict):
        there = [*snapshot] if isinstance(snapshot, dict) else type(snapshot).__name__
        raise ValueError(f"load: {path} must hold a model, got {there}. Name the model `model` among the objects.")
    return snapshot["model"]


def load_torch(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file that `torch.save` wrote, such as a `.pt` or a Lightning `.ckpt`, on the CPU.

    It is a pickle, of which only tensors and plain data are taken (`weights_only=True`): no code in it runs.

    Args:
      path: a file with a state dict, by itself or under `state_dict`, `model_state_dict` or `model`.

    Raises:
      ValueError: if there is none in it.
      pickle.UnpicklingError: if it holds more than tensors and plain data.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     torch.save({"state_dict": {"weight": torch.ones(2)}}, Path(folder, "a.ckpt"))
      ...     load_torch(Path(folder, "a.ckpt"))
      {'weight': tensor([1., 1.])}
    """
    held = torch.load(path, map_location="cpu", weights_only=True)
    for name in ("state_dict", "model_state_dict", "model", None):
        found = held.get(name) if name and isinstance(held, Mapping) else held
        if isinstance(found, Mapping) and found and all(isinstance(each, Tensor) for each in found.values()):
            return dict(found)
    there = [*held] if isinstance(held, Mapping) else type(held).__name__
    raise ValueError(f"load_torch: {path} must hold a state dict, got {there}. Load it with torch.load and pick it.")


def must_fit(who: str, model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Raises, naming all names and shapes that differ, unless the weights are those of such a model."""
    wrong = _misfits(model, weights)
    if wrong:
        what = "; ".join(f"{kind} {', '.join(names)}" for kind, names in wrong.items())
        raise ValueError(
            f"{who}: the model must be the one that was saved, got {what}. Resume with the same model, or take what "
            "fits with weights_only=True, strict=False."
        )


def take_what_fits(model: nn.Module, weights: Mapping[str, Any]) -> tuple[str, ...]:
    """Loads the weights whose names and shapes the model has, and says what else there was on either side."""
    wrong = _misfits(model, weights)
    out = {name.split(" ")[0] for names in wrong.values() for name in names}
    model.load_state_dict({name: each for name, each in weights.items() if name not in out}, strict=False)
    return tuple(f"{kind} {name}" for kind, names in wrong.items() for name in names)


def _misfits(model: nn.Module, weights: Mapping[str, Any]) -> dict[str, list[str]]:
    mine = model.state_dict()
    shapes = {
        name: (tuple(each.shape), tuple(weights[name].shape))
        for name, each in mine.items()
        if isinstance(each, Tensor) and isinstance(weights.get(name), Tensor)
    }
    wrong = {
        "missing": [name for name in mine if name not in weights],
        "unexpected": [name for name in weights if name not in mine],
        "mis-shaped": [f"{name} {list(b)} for {list(a)}" for name, (a, b) in shapes.items() if a != b],
    }
    return {kind: names for kind, names in wrong.items() if names}


def weights_alone(objects: Mapping[str, Any], event: Event) -> dict[str, Any]:
    """What a checkpoint of weights alone holds: the models among `objects`, and the event that they are of."""
    models = {name: thing.state_dict() for name, thing in objects.items() if isinstance(thing, nn.Module)}
    of = {**counters(event), "event": type(event).__name__}
    return {"weights_only": True, **of, "metrics": dict(getattr(event, "metrics", {})), **models}


def not_finite(model: nn.Module) -> list[str]:
    """Names of the trainable parameters in which a value is not finite; waits for the device.

    Example:
      >>> model = nn.Linear(2, 1)
      >>> _ = nn.init.constant_(model.bias, float("nan"))
      >>> not_finite(model)
      ['bias']
    """
    wide = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    params = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad and p.dtype in wide and p.numel()}
    if bool(nn.utils.get_total_norm(params.values(), norm_type=inf).isfinite()):  # one pass, no copies
        return []
    return [name for name, p in params.items() if not bool(p.isfinite().all())]
