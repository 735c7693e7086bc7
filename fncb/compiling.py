"""torch.compile's private and young parts, each behind one function that probes for it."""

import contextlib
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Unavailable(RuntimeError):
    """This torch has not what one graph needs; the next level down is taken."""


def nonstrict(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Has torch.compile run `fn` as plain Python while tracing, over its tensor arguments.

    Needed because Dynamo cannot trace the constructors of frozen attrs records, of which events are made.
    """
    found = getattr(torch.compiler, "nonstrict_trace", None) or getattr(torch._dynamo, "nonstrict_trace", None)
    if found is None:
        raise Unavailable("torch has no nonstrict_trace")
    return found(fn)


def tracing() -> contextlib.AbstractContextManager[Any]:
    """Allows `torch.autograd.grad` inside a graph, for what is compiled in this context."""
    from torch._dynamo import config

    if not hasattr(config, "trace_autograd_ops"):
        raise Unavailable("torch cannot trace torch.autograd.grad")
    return config.patch(trace_autograd_ops=True)


def is_tracing_error(error: BaseException) -> bool:
    """Whether Dynamo or the backend gave up, as opposed to the traced code raising."""
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


def reason(error: BaseException) -> str:
    """What went wrong at the bottom of it, in one line."""
    while (inner := _inner(error)) is not None:
        error = inner
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def behind(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was raised for, from the last one to the first."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        yield found
        found = _inner(found) or found.__context__


def _inner(error: BaseException) -> BaseException | None:
    return getattr(error, "inner_exception", None) or error.__cause__


_names = itertools.count()


def one_graph(fn: Callable[..., Any], *, on_compile: Callable[[], None], static: bool = True) -> Callable[..., Any]:
    """Compiles `fn` into one graph of its own.

    Args:
      fn: called with the same structure, shapes, strides and dtypes each time when `static`.
      on_compile: called whenever a graph is compiled.
      static: drops the guards that the caller checks itself, on tensors and types, which cost more than the hooks do.
        Guards on plain values (a float in the model, a flag) stay: changing one recompiles.
    """
    # Dynamo keeps what it compiled by code object. A copy of its own keeps variants with fewer guards apart.
    own = types.FunctionType(
        fn.__code__.replace(co_name=f"{fn.__name__}_{next(_names)}"),
        fn.__globals__,
        fn.__name__,
        fn.__defaults__,
        fn.__closure__,
    )

    def backend(graph: Any, inputs: Any, **_: Any) -> Any:
        made = inductor(graph, inputs, size_asserts=not static)
        on_compile()  # not before: Dynamo may begin a compilation anew
        return made

    options: dict[str, Any] = {"guard_filter_fn": _keep_plain_values} if static else {}
    return torch.compile(own, fullgraph=True, dynamic=not static, backend=backend, options=options)


def inductor(graph: Any, inputs: Any, **patches: Any) -> Any:
    """The default backend of torch.compile, with settings changed for this graph only."""
    from torch._inductor.compile_fx import compile_fx

    return compile_fx(graph, inputs, config_patches=patches)


PLAIN = (bool, int, float, str, type(None))
"""Kinds of values that a graph looks at before it runs: changing one of them compiles anew."""


def _keep_plain_values(guards: Any) -> list[bool]:
    return [
        guard.has_value
        and isinstance(guard.value, PLAIN)
        and guard.guard_type in ("CONSTANT_MATCH", "EQUALS_MATCH", "ID_MATCH")
        and "__import_torch" not in guard.name
        for guard in guards
    ]
