"""Trees: nested records, mappings and sequences whose leaves are tensors or plain values."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import attrs


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted path, records by field, mappings by key, sequences by index; None has no leaf.

    Example:
      >>> list(leaves({"a": (1, 2), "b": None}))
      [('a.0', 1), ('a.1', 2)]
    """
    parts = children(tree)
    if parts is not None:
        for key, child in parts:
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    elif tree is not None:
        yield path, tree


def children(tree: Any) -> list[tuple[Any, Any]] | None:
    """The named parts of a container, or None for a leaf."""
    kind = _kind(type(tree))
    return kind and kind(tree)


@cache
def _kind(cls: type) -> Callable[[Any], list[tuple[Any, Any]]] | None:
    if issubclass(cls, Mapping):
        return lambda tree: list(tree.items())
    if issubclass(cls, list | tuple):
        return lambda tree: list(enumerate(tree))
    if attrs.has(cls):
        names = [field.name for field in attrs.fields(cls)]
        return lambda tree: [(name, getattr(tree, name)) for name in names]
    return None


def rebuild(tree: Any, values: list[Any]) -> Any:
    """A tree with the containers of `tree`, given by the same classes, and new children.

    Example:
      >>> rebuild({"a": 1, "b": 2}, [3, 4])
      {'a': 3, 'b': 4}
    """
    if isinstance(tree, Mapping):
        return dict(zip(tree, values, strict=True))
    if isinstance(tree, list):
        return values
    if isinstance(tree, tuple):
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    fields = [field.alias or field.name for field in attrs.fields(type(tree))]
    return type(tree)(**dict(zip(fields, values, strict=True)))


def map_leaves(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Applies `fn` to each leaf of `tree` and the leaves at the same place of `others`.

    Example:
      >>> map_leaves(lambda a, b: a + b, {"x": (1, 2)}, {"x": (10, 20)})
      {'x': (11, 22)}
    """
    if tree is None:
        return None
    parts = children(tree)
    if parts is None:
        return fn(tree, *others)
    siblings = [[child for _, child in children(other) or ()] for other in others]
    return rebuild(tree, [map_leaves(fn, child, *rest) for (_, child), *rest in zip(parts, *siblings, strict=True)])


def copy_into(who: str, tree: Any, saved: Any) -> None:
    """Copies tensors into those at the same places of `tree`; `who` is for the error when they are not the same."""
    have, given = dict(leaves(tree)), dict(leaves(saved))
    wrong = list(have.keys() ^ given.keys())
    wrong += [path for path in have.keys() & given.keys() if have[path].shape != given[path].shape]
    if wrong:
        raise ValueError(f"{who}: names and shapes of tensors must stay, got differences at {sorted(wrong)}.")
    for path, tensor in have.items():
        tensor.copy_(given[path])
