"""Whether two values are the same, bit by bit, and what a value was before somebody changed it."""

import math
import sys
import types
from collections.abc import Mapping
from typing import Any

import attrs


def unlike(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two trees differ, bit by bit; NaN equals NaN, and fields that are not compared are passed over.

    Example:
      >>> unlike({"a": (1.0, float("nan"))}, {"a": (2.0, float("nan"))})
      ['/a/0: 1.0 and 2.0']
    """
    if _is_tensor(one) and _is_tensor(other):
        same = one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
        return [] if same else [f"{at}: {one.tolist()} and {other.tolist()}"[:300]]
    if attrs.has(type(one)) and type(one) is type(other):
        fields = [field.name for field in attrs.fields(type(one)) if field.eq]
        one, other = ({name: getattr(each, name) for name in fields} for each in (one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if [*one] != [*other] and {*one} != {*other}:
            return [f"{at}: keys {sorted(map(str, {*one} ^ {*other}))}"]
        return [found for key in one for found in unlike(one[key], other[key], f"{at}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        found = [found for i, pair in enumerate(pairs) for found in unlike(*pair, f"{at}/{i}")]
        return found or ([] if len(one) == len(other) else [f"{at}: {len(one)} and {len(other)} of them"])
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return []
    return [] if one == other else [f"{at}: {one!r} and {other!r}"[:300]]


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "data_ptr") and hasattr(value, "dtype")


def _bits(tensor: Any) -> bytes:
    import torch  # is loaded already: it made the tensor

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


LARGEST = 100_000
"""Elements of a tensor or container beyond which it is taken to stay as it is, as copying it would take long."""


def as_it_is(value: Any) -> Any:
    """A picture of a value that does not change when the value does: plain data, of everything that may be changed.

    Two pictures are equal if the values are; what nobody can look into (an iterator, a model) is seen by its class.

    Example:
      >>> seen = [1]
      >>> before = as_it_is({"seen": seen})
      >>> seen.append(2)
      >>> before == as_it_is({"seen": seen})
      False
    """
    return _picture(value, {})


def _picture(value: Any, known: dict[int, tuple[int, Any]]) -> Any:
    if value is None or type(value) in (bool, int, str, bytes, complex):
        return value
    if isinstance(value, float):
        return value.hex()  # NaN equals itself so, and 0.0 is not -0.0
    if id(value) in known:
        return ("seen", known[id(value)][0])
    known[id(value)] = (len(known), value)  # held, so that its id is nobody else's
    kind = type(value).__name__
    if _is_tensor(value):
        return (kind, tuple(value.shape), _tensor_bits(value))
    if isinstance(value, Mapping):
        items = value.items() if len(value) <= LARGEST else ()
        return (kind, len(value), [(_picture(key, known), _picture(item, known)) for key, item in items])
    if isinstance(value, list | tuple | set | frozenset | bytearray) or kind == "deque":
        inside = [_picture(each, known) for each in value] if len(value) <= LARGEST else []
        return (kind, len(value), sorted(inside, key=repr) if isinstance(value, set | frozenset) else inside)
    if kind in ("count", "cycle", "repeat"):  # of itertools: the first tells its place
        return (kind, repr(value))
    if (place := _place(value)) is not None:
        return (kind, _picture(place, known))
    if attrs.has(type(value)):
        return (kind, [(f.name, _picture(getattr(value, f.name), known)) for f in attrs.fields(type(value))])
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):  # numpy's
        return (kind, value.shape, value.tobytes() if value.size <= LARGEST else "as it is")
    if isinstance(value, _NAMED) or not hasattr(value, "__dict__") or hasattr(value, "named_parameters"):
        return (kind, "as it is")
    return (kind, [(name, _picture(item, known)) for name, item in vars(value).items()])


_NAMED = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
"""What is known by its name; what a function keeps is looked at by `seeing.memory`."""


def _place(value: Any) -> Any:
    """Where a generator of random numbers is among them; None for anything else, and for torch's default one.

    Step hooks may draw from that, and it is looked at by `seeing.watched`.
    """
    if isinstance(value, type) or value is getattr(sys.modules.get("torch"), "default_generator", None):
        return None
    if hasattr(value, "getstate"):  # random.Random
        return value.getstate()
    if type(value).__module__.partition(".")[0] not in ("torch", "numpy"):
        return None
    if hasattr(value, "bit_generator"):  # numpy.random.Generator
        return value.bit_generator.state
    return value.get_state() if hasattr(value, "get_state") else None  # torch.Generator, numpy.random.RandomState


def _tensor_bits(value: Any) -> Any:
    if not hasattr(value, "numel") or value.numel() > LARGEST or value.device.type == "meta":
        return "as it is"
    try:
        return _bits(value)
    except Exception:  # it has none: left by a hook that was traced, which raises all sorts of things, or sparse
        return "as it is"
