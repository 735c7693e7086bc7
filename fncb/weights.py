"""The weights of a model: out of a checkpoint, into a model, and whether they are finite."""

import logging
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fncb import store
from fncb.events import Event

log = logging.getLogger("fncb")


def load(path: str | Path) -> dict[str, Tensor]:
    """The weights of the model in a checkpoint, verified, on the CPU.

    Args:
      path: a checkpoint, or a directory with some: then the newest that verifies, with a warning for each file that is
        passed over.

    Returns:
      What `model.state_dict()` gave when it was saved.

    Raises:
      DamagedCheckpoint: if a single bit of the file differs from what was written.
      ValueError: if there is no checkpoint, or none of a model.
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
    return weights_in(store.read(path), path)


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
    counters = {"epoch": event.epoch, "step": event.step, "seconds": event.seconds, "event": type(event).__name__}
    return {"weights_only": True, **counters, "metrics": dict(getattr(event, "metrics", {})), **models}


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
