"""Trees as JSON and named tensors, and back, exactly.

What JSON has not is tagged by a key in `$`: a tensor (by its name), a tuple, a dict with keys that are no strings, a
float that is not finite. A dict whose own keys start with `$` is tagged too, so nothing can be taken for a tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

if TYPE_CHECKING:
    import torch

DTYPES: Mapping[str, tuple[str, int]] = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "C64": ("complex64", 8),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
}
"""The dtypes that safetensors knows, by the names that it gives them: torch's name, and bytes of a value.

Tensors of other dtypes are packed as bytes.
"""

_NAMES = {of_torch: name for name, (of_torch, _) in DTYPES.items()}

DEEPEST = 100
"""How many levels a tree may have: far more than any state, and far fewer than Python's stack."""


@attrs.frozen
class Packed:
    """A tree in two parts.

    Attributes:
      tree: JSON in which a tensor is a reference to its name.
      layouts: JSON, by name, of what a body of plain tensors does not tell: dtypes unknown to it, memory layouts.
      tensors: by unique dotted name, such as `model.conv.weight`; each view of memory once, dtypes of `DTYPES` only.
    """

    tree: str
    layouts: str
    tensors: Mapping[str, torch.Tensor]


def dtype_name(dtype: torch.dtype) -> str | None:
    """What safetensors calls a dtype; None for one that it does not know.

    Example:
      >>> import torch
      >>> dtype_name(torch.bfloat16), dtype_name(torch.complex128)
      ('BF16', None)
    """
    return _NAMES.get(str(dtype).removeprefix("torch."))


def pack(tree: Any) -> Packed:
    """Takes a tree apart.

    Args:
      tree: nested dicts (keys are strings or integers), lists, tuples, strings, numbers, booleans, None and dense
        tensors of any dtype, shape, memory layout and device. Other mappings become dicts, named tuples tuples.

    Raises:
      TypeError: if the tree holds anything else, naming where.
      ValueError: if it has more than `DEEPEST` levels.

    Example:
      >>> import torch
      >>> weight = torch.ones(2)
      >>> packed = pack({"model": {"embed": weight, "head": weight}, "betas": (0.9, float("inf"))})
      >>> packed.tensors
      {'model.embed': tensor([1., 1.])}
      >>> unpack(packed.tree, packed.layouts, packed.tensors)["betas"]
      (0.9, inf)
    """
    found = _Found()
    data = _packed(tree, "", found)
    return Packed(_json(data), _json(found.layouts), found.tensors)


def unpack(tree: str, layouts: str = "{}", tensors: Mapping[str, torch.Tensor] | None = None) -> Any:
    """Puts a tree together again. Without tensors, references stay dicts with the one key `$tensor`.

    Raises:
      ValueError, LookupError, TypeError, RuntimeError: if this is not what `pack` makes.
    """
    known = msgspec.json.decode(layouts, type=dict[str, _Layout])
    restored = {name: _restored(body, known.get(name, _Layout())) for name, body in (tensors or {}).items()}
    return _unpacked(msgspec.json.decode(tree), None if tensors is None else restored)


class _Layout(msgspec.Struct, forbid_unknown_fields=True):
    """What a body does not tell of a tensor."""

    dtype: str | None = None
    shape: list[int] | None = None
    order: list[int] | None = None


@attrs.frozen
class _Found:
    """The tensors met so far, and their names by the view of memory that each one is."""

    tensors: dict[str, torch.Tensor] = attrs.field(factory=dict)
    layouts: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    names: dict[tuple[Any, ...], str] = attrs.field(factory=dict)


def _packed(value: Any, path: str, found: _Found, levels: int = DEEPEST) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if isfinite(value) else {"$float": str(float(value))}
    import torch

    if isinstance(value, torch.Tensor):
        return {"$tensor": _named(value.detach(), path or "tensor", found)}
    within = f"{path}." if path else ""
    if not levels and isinstance(value, list | tuple | Mapping):
        raise ValueError(
            f"store.write: a tree must have at most {DEEPEST} levels, got more at {path[:80]!r}. Make it flatter; it "
            "may hold itself."
        )
    if isinstance(value, list | tuple):
        items = [_packed(item, f"{within}{i}", found, levels - 1) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"store.write: keys must be strings or integers, got {key!r} at {path!r}.")
        pairs = [(key, _packed(item, f"{within}{key}", found, levels - 1)) for key, item in value.items()]
        tagged = any(type(key) is int or key.startswith("$") for key in value)
        return {"$dict": pairs} if tagged else dict(pairs)
    raise TypeError(
        f"store.write: a tree must hold plain data and tensors, got {value!r} of type {type(value).__name__} at "
        f"{path!r}. Make it plain first, for example with state_dict()."
    )


def _named(tensor: torch.Tensor, path: str, found: _Found) -> str:
    """The name of a tensor among those found: a known one if it is the same view of the same memory."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        raise TypeError(
            f"store.write: a tensor must be dense and hold values, got {tensor.layout} on {tensor.device} at {path!r}. "
            "Convert it, for example with to_dense()."
        )
    view = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
    view += (tensor.is_conj(), tensor.is_neg())
    if view in found.names:
        return found.names[view]
    name, clash = path, 0
    while name in found.tensors or name == "__metadata__":
        clash += 1
        name = f"{path}~{clash}"
    found.names[view] = name
    if layout := _layout(tensor):
        found.layouts[name] = layout
    known = dtype_name(tensor.dtype) is not None
    found.tensors[name] = tensor if known else tensor.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)
    return name


def _layout(tensor: torch.Tensor) -> dict[str, Any]:
    layout: dict[str, Any] = {}
    if dtype_name(tensor.dtype) is None:
        layout |= {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    order = sorted(range(tensor.dim()), key=lambda dim: -tensor.stride(dim))
    if not tensor.is_contiguous() and tensor.permute(order).is_contiguous():
        layout["order"] = order  # a transpose, channels last: sums over it must run in the same order after a resume
    return layout


def _restored(body: torch.Tensor, layout: _Layout) -> torch.Tensor:
    import torch

    tensor = body
    if layout.dtype is not None:
        tensor = body.view(_other_dtypes()[layout.dtype])
        if layout.shape is None or min(layout.shape, default=0) < 0:
            raise ValueError(f"a tensor of {layout.dtype} must have a shape, got {layout.shape}")
        tensor = tensor.reshape(layout.shape)
    if layout.order is None:
        return tensor
    return torch.empty_permuted(tensor.shape, layout.order, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


@cache
def _other_dtypes() -> dict[str, torch.dtype]:
    import torch

    return {
        name: kind
        for name, kind in vars(torch).items()
        if isinstance(kind, torch.dtype) and dtype_name(kind) is None and not name.startswith("q")  # as in quantized
    }


def _unpacked(value: Any, tensors: Mapping[str, torch.Tensor] | None, levels: int = DEEPEST) -> Any:
    if isinstance(value, dict):
        if "$float" in value:
            return float(value["$float"])
        if "$tensor" in value:
            return value if tensors is None else tensors[value["$tensor"]]
    elif not isinstance(value, list):
        return value
    if not levels:
        raise ValueError(f"a tree must have at most {DEEPEST} levels")
    levels -= 1
    if isinstance(value, list):
        return [_unpacked(item, tensors, levels) for item in value]
    if "$tuple" in value:
        return tuple([_unpacked(item, tensors, levels) for item in value["$tuple"]])
    if "$dict" in value:
        return {key: _unpacked(item, tensors, levels) for key, item in value["$dict"]}
    return {key: _unpacked(item, tensors, levels) for key, item in value.items()}


def _json(data: Any) -> str:
    return msgspec.json.encode(data).decode()
