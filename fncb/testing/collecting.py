"""The callbacks of somebody's package: its constructors, called with nothing or as its examples say."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable as Function
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_origin

import attrs

from fncb.callback import Callback

EXAMPLES = "fncb_examples"
"""The name of a mapping in a module: from a constructor's name to a list of callbacks, or a function that gives one."""


class NeedsExample(ValueError):
    """A constructor refuses to be called without arguments, though its signature allows it."""


@attrs.frozen
class Made:
    """What a package has under a name.

    Attributes:
      name: of the constructor, or of the callback.
      path: file that it is written in; line: where, from 1.
      make: gives callbacks to be checked; None if that cannot be known.
      missing: then what to add.
    """

    name: str
    path: str
    line: int
    make: Function[[], list[Callback[Any]]] | None
    missing: str = ""


def constructors(name: str) -> list[Made]:
    """Everything in a module, or in a package and its modules, that makes a callback or is one.

    A constructor is a public function that is annotated to return `Callback`, or that `fncb_examples` names.

    Raises:
      ImportError: if there is no such module, or one of its modules cannot be imported.

    Example:
      >>> [(each.name, each.missing) for each in constructors("fncb.callbacks.lookahead")]
      [('lookahead', '')]
    """
    found: dict[int, Made] = {}
    for module in _modules(name):
        examples = getattr(module, EXAMPLES, {})
        unknown = [each for each in examples if not hasattr(module, each)]
        if unknown:
            raise ValueError(
                f"{module.__name__}.{EXAMPLES}: names must be those of the module, got {', '.join(unknown)}. "
                "Write them as they are there."
            )
        for public, value in vars(module).items():
            if public in examples:
                found[id(value)] = _made(public, module, value, lambda given=examples[public]: _listed(given))
            elif id(value) not in found and not public.startswith("_") and _is_of(name, module, value):
                found[id(value)] = _without_example(public, module, value)
    return list(found.values())


def _modules(name: str) -> Iterator[ModuleType]:
    module = importlib.import_module(name)
    yield module
    for each in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{name}."):
        if not each.name.endswith("__main__"):
            yield importlib.import_module(each.name)


def _is_of(package: str, module: ModuleType, value: Any) -> bool:
    if isinstance(value, Callback):
        return True
    if not inspect.isfunction(value):
        return False
    home = value.__module__
    return (home == module.__name__ or home.startswith(f"{package}.")) and _gives_callback(value)


def _gives_callback(function: Function[..., Any]) -> bool:
    given = inspect.signature(function).return_annotation
    if isinstance(given, str):
        return given.split("[")[0].split(".")[-1].strip() == "Callback"
    return given is Callback or get_origin(given) is Callback


def _without_example(name: str, module: ModuleType, value: Any) -> Made:
    if isinstance(value, Callback):
        return _made(name, module, value, lambda: [value])
    needed = [
        each.name
        for each in inspect.signature(value).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    told = f'add {EXAMPLES} = {{"{name}": lambda: {name}(...)}} to {module.__name__}'
    if needed:
        missing = f"it must be given {', '.join(needed)}: {told}"
        return attrs.evolve(_made(name, module, value, list), make=None, missing=missing)

    def called() -> list[Callback[Any]]:
        try:
            return _listed(value)
        except (TypeError, ValueError) as error:
            raise NeedsExample(f"it cannot be called without arguments ({error}): {told}") from error

    return _made(name, module, value, called)


def _made(name: str, module: ModuleType, value: Any, make: Function[[], list[Callback[Any]]]) -> Made:
    path, line = module.__file__ or module.__name__, 1
    if inspect.isfunction(value):
        path, line = value.__code__.co_filename, value.__code__.co_firstlineno
    return Made(name, path, line, make)


def _listed(given: Any) -> list[Callback[Any]]:
    """Callbacks as a list, given as one, as several or by a function."""
    given = given() if callable(given) else given
    return [given] if isinstance(given, Callback) else list(given)
