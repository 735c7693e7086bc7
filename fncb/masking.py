"""A step hook that sees and moves some parameters only."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import attrs

from fncb.callback import Callback, Emit, StepHooks
from fncb.emitting import S
from fncb.events import HOOKS, Metrics
from fncb.fields import hook_names
from fncb.metrics import Renamed
from fncb.step_hooks import Gradient, NamedParams, Params

_BY_NAME = ("params", "grads", "buffers")


def masked(callback: Callback[S], pattern: str | tuple[str, ...]) -> Callback[S]:
    """The callback, whose step half is given the matching parameters only, as if there were no others.

    Of parameters, gradients and buffers it sees those whose names match; all others stay as they are. What it publishes
    gets the pattern after a slash: `grad_norm/encoder.*`; its host half finds that under the name without the pattern
    too. Loss, batch and the host half are as before otherwise. Where several optimizers take turns, it is not heard in
    the turn of one that moves none of them; nor while all are frozen. To use the same callback for several patterns,
    give each a `key`.

    Args:
      callback: one with a step half, such as `clip_grad_norm`, `ema` or `grad_noise`.
      pattern: a shell pattern of names of parameters, such as `encoder.*`, or several of them.

    Returns:
      A `Callback` with the same key and effects, whose step state is that of the matching parameters.

    Raises:
      TypeError: for something else than a callback and patterns.
      ValueError: if the callback has no step half; when training begins, if nothing matches.

    Example:
      >>> import torch
      >>> from fncb.callbacks import clip_grad_norm
      >>> from fncb.events import BeforeOptimizerStep
      >>> clip = masked(clip_grad_norm(1.0), "encoder.*").step
      >>> grads = {"encoder.w": torch.tensor([3.0, 4.0]), "head.w": torch.tensor([9.0])}
      >>> out = clip.on_before_optimizer_step(clip.init(grads), BeforeOptimizerStep(grads=grads))
      >>> out.replaced["grads"]
      {'encoder.w': tensor([0.6000, 0.8000]), 'head.w': tensor([9.])}
    """
    if not isinstance(callback, Callback):
        raise TypeError(f"masked: callback must be a Callback, got {callback!r}.")
    patterns = (pattern,) if isinstance(pattern, str) else tuple(pattern)
    if not patterns or not all(isinstance(each, str) for each in patterns):
        raise TypeError(f"masked: pattern must be text such as 'encoder.*', or several, got {pattern!r}.")
    if callback.parts is not None or callback.step is None:
        raise ValueError(
            f"masked: callback must be one with a step half, got {callback!r}. Nothing else sees parameters."
        )
    inner = callback.config.get("masked")
    config = {**callback.config, "masked": [*patterns] if inner is None else [[*patterns], inner]}
    suffix = "/" + ",".join(patterns)
    host = {name: _seeing_its_own(suffix, getattr(callback, name)) for name in hook_names(callback) if _measures(name)}
    step = _masked_step(callback.key, patterns, suffix, callback.step)
    return attrs.evolve(callback, config=config, step=step, **host)


def _measures(hook: str) -> bool:
    return "metrics" in attrs.fields_dict(HOOKS[hook])


def _seeing_its_own(suffix: str, hook: Any) -> Any:
    return lambda state, event: hook(state, attrs.evolve(event, metrics=_with_own(event.metrics, suffix)))


def _with_own(of: Mapping[str, float], suffix: str) -> Metrics:
    """An event's metrics, in which those that were published with a suffix have their names without it too.

    The name of an optimizer, where there is one, comes after the suffix: `clipped/encoder.*/SGD` is `clipped/SGD`. What
    has the suffix wins over another callback's metric of the plain name.
    """
    plain = {f"{name}/".replace(f"{suffix}/", "/").removesuffix("/"): name for name in of}
    return Renamed({name: (of, there) for name, there in {**{name: name for name in of}, **plain}.items()})


def _masked_step(key: str, patterns: tuple[str, ...], suffix: str, step: StepHooks[Any]) -> StepHooks[Any]:
    def mine(named: Mapping[str, Any]) -> dict[str, Any]:
        return {name: each for name, each in named.items() if any(fnmatchcase(name, p) for p in patterns)}

    def init(params: Params) -> Any:
        found, frozen = mine(params), tuple(mine(dict.fromkeys(getattr(params, "frozen", ()))))
        if not found and not frozen:
            raise ValueError(
                f"masked: {patterns} must match a parameter for {key}, got none. There are {list(params)}."
            )
        return step.init(NamedParams(found, mine(getattr(params, "buffers", {})), frozen))

    def around_gradient(gradient: Gradient, params: Params) -> Params:
        assert step.around_gradient is not None
        if not mine(params):
            return gradient(params)
        made: list[Params] = []

        def of_mine(there: Params) -> Params:
            made.append(gradient({**params, **there}))
            return mine(made[-1])

        out = step.around_gradient(of_mine, mine(params))
        return {**made[0], **out}

    def guarded(hook: Any) -> Any:
        def restricted(state: Any, event: Any) -> Emit[Any]:
            given = {name: getattr(event, f"_{name}", None) for name in _BY_NAME}
            given = {name: value for name, value in given.items() if isinstance(value, Mapping)}
            if "params" in given and not mine(given["params"]):
                return Emit(state)
            out = hook(state, attrs.evolve(event, **{name: mine(value) for name, value in given.items()}))
            out = out if type(out) is Emit else Emit(out)
            replaced = dict(out.replaced)
            for name in replaced.keys() & given.keys():
                replaced[name] = {**given[name], **replaced[name]}
            if "metrics" in replaced:
                replaced["metrics"] = {f"{name}{suffix}": value for name, value in replaced["metrics"].items()}
            return Emit(out.state, out.effects, replaced)

        return restricted

    around = around_gradient if step.around_gradient else None
    hooks = {name: guarded(getattr(step, name)) for name in hook_names(step)}
    return attrs.evolve(step, init=init, around_gradient=around, **hooks)
