"""What a function does beside giving a result: clocks read, numbers drawn, files touched, memory kept in secret."""

import datetime
import enum
import functools
import gc
import io
import os
import random
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from fncb.testing.comparing import as_it_is

CLOCK, RANDOMNESS, OUTSIDE = "no clock", "no randomness", "no files, no printing"
"""Names of the laws that are broken by what is seen."""

_CLOCKS = ("time", "perf_counter", "monotonic", "process_time", "thread_time", "clock_gettime", "sleep")
_NOW = {getattr(time, name) for each in _CLOCKS for name in (each, f"{each}_ns") if hasattr(time, name)} | {
    *(time.localtime, time.gmtime, time.ctime, time.asctime, time.strftime)
}
_BARE = (os.fspath,)
_OS = os.open.__module__  # posix or nt
_PRINTS = (print, input, open, io.open, warnings.warn)
_QUIET = (io.StringIO, io.BytesIO)


def watched(fn: Callable[..., Any], *args: Any) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """Calls a function, and tells which of the laws above it breaks, each with a few words on how.

    It sees the calls of C functions that are made from Python, whatever they are called by. What an import does is not
    counted, nor what torch does by itself, but for saving and loading. A profiler that is running is halted meanwhile.

    Example:
      >>> watched(lambda: time.time() * 0.0)
      (0.0, (('no clock', 'calls time.time'),))
    """
    seen: dict[str, str] = {}
    passed_over: list[Any] = []

    def notice(frame: Any, what: str, arg: Any) -> None:
        if passed_over:
            if what == "return" and passed_over[-1] is frame:
                passed_over.pop()
        elif what == "call":
            module = frame.f_globals.get("__name__", "")
            if module == "logging":
                seen.setdefault(OUTSIDE, "logs")
            elif module == "torch.serialization" and frame.f_code.co_name in ("save", "load"):
                seen.setdefault(OUTSIDE, f"calls torch.{frame.f_code.co_name}")
            if frame.f_code.co_filename.startswith("<frozen importlib") or _is_torchs(module):
                passed_over.append(frame)
        elif what == "c_call" and OUTSIDE not in seen:
            law = _law_of(arg)
            if law is not None:
                seen.setdefault(law, f"calls {_called(arg)}")

    drawn_before = [*_generators()]
    halted, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # what is called when garbage is collected is not the function's doing
    sys.setprofile(notice)
    try:
        out = fn(*args)
    finally:
        sys.setprofile(halted)
        if collects:
            gc.enable()
    for (name, before), (_, after) in zip(drawn_before, _generators(), strict=False):
        if before != after:
            seen.setdefault(RANDOMNESS, f"draws from {name}")
    return out, tuple(seen.items())


def _is_torchs(module: str) -> bool:
    """Whether a function is torch's own, and not one that wraps a function, as `torch.no_grad` does."""
    return module.partition(".")[0] == "torch" and module != "torch.utils._contextlib"


def _law_of(called: Any) -> str | None:
    owner, name = getattr(called, "__self__", None), called.__name__
    module = getattr(called, "__module__", None)
    if called in _NOW or (isinstance(owner, type) and issubclass(owner, datetime.date) and name in _TODAY):
        return CLOCK
    if called is os.urandom or (isinstance(owner, random.Random) and name in ("random", "getrandbits", "seed")):
        return RANDOMNESS
    if called in _BARE:
        return None
    if called in _PRINTS or module in (_OS, "_socket", "_posixsubprocess"):
        return OUTSIDE
    if isinstance(owner, io.IOBase) and not isinstance(owner, _QUIET):
        return OUTSIDE
    return None


_TODAY = ("now", "utcnow", "today")


def _called(called: Any) -> str:
    owner = getattr(called, "__self__", None)
    if isinstance(owner, types.ModuleType):
        return called.__name__ if owner.__name__ == "builtins" else f"{owner.__name__}.{called.__name__}"
    kind = owner if isinstance(owner, type) else type(owner)
    return f"{kind.__name__}.{called.__name__}"


def _generators() -> Iterator[tuple[str, Any]]:
    """The generators that are the process' own and draw where no call is seen."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        _, keys, *rest = numpy.random.get_state()
        yield "numpy.random", (keys.tobytes(), *rest)
    if torch is not None and hasattr(torch, "get_rng_state"):
        yield "torch's generator", torch.get_rng_state().numpy().tobytes()


def memory(fn: Callable[..., Any]) -> dict[str, Any]:
    """A picture of what a function could keep to itself: what its closure holds, globals that it names, attributes.

    Of classes that it reaches so, and of modules, what they hold is in it too, but for those of the standard library,
    torch, numpy and attrs.

    Example:
      >>> calls = []
      >>> def note():
      ...     calls.append(1)
      >>> before = memory(note)
      >>> note()
      >>> [name for name in before if before[name] != memory(note)[name]]
      ['global calls']
    """
    found: dict[str, Any] = {}
    _remember(fn, found, set())
    return found


def _remember(fn: Any, found: dict[str, Any], known: set[int]) -> None:
    if isinstance(fn, type):
        _of_class(fn, found, known)
        return
    if id(fn) in known:
        return
    known.add(id(fn))
    if isinstance(fn, functools.partial):
        for each in (fn.func, *fn.args, *fn.keywords.values()):
            _hold("argument", each, found, known)
    elif isinstance(fn, types.MethodType):
        _hold(f"{type(fn.__self__).__name__} object", fn.__self__, found, known)
        _remember(fn.__func__, found, known)
    elif isinstance(fn, types.FunctionType):
        if _is_of(fn.__globals__.get("__name__", "")):
            return
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            try:
                _hold(f"variable {name}", cell.cell_contents, found, known)
            except ValueError:  # it is empty still
                found[f"variable {name}"] = "empty"
        named = _named(fn.__code__)
        for name in named:
            if name in fn.__globals__:
                value = fn.__globals__[name]
                _hold(f"global {name}", value, found, known)
                if isinstance(value, types.ModuleType) and not _is_of(value.__name__):
                    _of_module(value, named, found, known)
        for name, value in (*vars(fn).items(), *(fn.__kwdefaults__ or {}).items()):
            _hold(f"attribute {name}", value, found, known)
        for i, value in enumerate(fn.__defaults__ or ()):
            _hold(f"default {i}", value, found, known)
    elif not isinstance(fn, types.ModuleType | types.BuiltinFunctionType):
        for name, value in getattr(fn, "__dict__", {}).items():
            _hold(f"attribute {name}", value, found, known)
        if not hasattr(fn, "__dict__"):
            _note(f"{type(fn).__name__} object", fn, found)
        if isinstance(type(fn).__call__, types.FunctionType):
            _remember(type(fn).__call__, found, known)
        _of_class(type(fn), found, known)


def _of_class(cls: type, found: dict[str, Any], known: set[int]) -> None:
    """What a class and those that it is derived from hold beside their methods."""
    if isinstance(cls, enum.EnumMeta):  # it keeps the combinations of flags that it was asked for
        return
    for each in cls.__mro__:
        if id(each) in known or _is_of(each.__module__):
            continue
        known.add(id(each))
        for name, value in vars(each).items():
            if not (name.startswith("__") or callable(value) or hasattr(type(value), "__get__")):
                _note(f"attribute {name} of {each.__name__}", value, found)


def _of_module(module: types.ModuleType, named: set[str], found: dict[str, Any], known: set[int]) -> None:
    for name in named & {*vars(module)}:
        value = vars(module)[name]
        if isinstance(value, type) or not callable(value):
            _hold(f"global {name} of {module.__name__}", value, found, known)


def _hold(name: str, value: Any, found: dict[str, Any], known: set[int]) -> None:
    if isinstance(value, types.ModuleType):
        return
    if callable(value):
        _remember(value, found, known)
        return
    _note(name, value, found)
    _of_class(type(value), found, known)


def _note(name: str, value: Any, found: dict[str, Any]) -> None:
    found[name if name not in found else f"{name}, {len(found)}"] = as_it_is(value)


def _named(code: types.CodeType) -> set[str]:
    """The globals that a function names, and those that functions inside it do."""
    inner = [_named(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return {*code.co_names}.union(*inner)


def _is_of(module: str) -> bool:
    """Whether a function is of a package whose globals are its own affair."""
    return module.split(".")[0] in {"torch", "numpy", "attr", "attrs", *sys.stdlib_module_names}
