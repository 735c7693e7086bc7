"""Writes the tables of docs/callbacks.md from the code: `python docs/tables.py`. A test keeps the two the same."""

import inspect
import re
from collections.abc import Callable as Function
from pathlib import Path
from typing import Any

import attrs
import torch

import fncb
from fncb import callbacks, sinks
from fncb.callback import Callback, EmptyState
from fncb.fields import hook_names
from fncb.step_hooks import NamedParams
from fncb.tree import leaves

PAGE = Path(__file__).parent / "callbacks.md"

REQUIRED: dict[str, tuple[Any, ...]] = {
    "accumulation_schedule": ({0: 2},),
    "activation_stats": ("*",),
    "byol_ma_update": (100,),
    "clip_grad_norm": (1.0,),
    "clip_grad_value": (1.0,),
    "confused_logit": (3,),
    "deadline": ("2040-01-01T00:00:00Z",),
    "early_stop": ("val_loss",),
    "finetuning": ("encoder.*", str),
    "image_sampler": (16,),
    "knn_online_evaluator": ([], []),
    "latent_dim_interpolator": (16,),
    "notify": ("runs/a/notes.jsonl",),
    "on_exception_checkpoint": ("runs/a",),
    "prediction_writer": (print,),
    "profile": ("runs/a/{step}.json",),
    "prune": ("l1_unstructured",),
    "reduce_on_plateau": ("val_loss",),
    "restore_best": ("val_loss",),
    "schedule": ("lr", float),
    "skip_large_updates": (1.0,),
    "ssl_online_evaluator": (32, 10),
    "stop_file": ("runs/STOP",),
    "swa": (0.05,),
    "threshold_stop": ("val_loss", 0.1),
    "timer": ("00:12:00:00",),
}
"""Arguments that a callback cannot be made without, or would do nothing."""

COMBINATORS = ("when", "every", "after", "first", "between", "masked")
FINDERS = ("lr_finder", "batch_size_finder")


def built_ins() -> dict[str, Function[..., Any]]:
    """The constructors of `fncb.callbacks`, but for combinators, in order."""
    found = {name: each for name, each in vars(callbacks).items() if inspect.isfunction(each)}
    return {name: found[name] for name in sorted(found) if name not in COMBINATORS}


def made(name: str) -> Callback[Any]:
    """A callback made with the arguments that it needs."""
    hooks = {"train_end": print} if name == "on" else {}
    return built_ins()[name](*REQUIRED.get(name, ()), **hooks)


def row(name: str) -> list[str]:
    """A callback's row: what it does, what it asks for, which half it has, what it keeps, what it is known as."""
    callback = made(name)
    parts = callback.parts or (callback,)
    emits = sorted({kind.__name__ for part in parts for kind in part.emits or ()})
    return [
        f"`{name}`",
        summary(built_ins()[name]),
        ", ".join(f"`{kind}`" for kind in emits),
        " and ".join(halves(parts)),
        state_of(parts),
        known_as(built_ins()[name]),
    ]


def halves(parts: tuple[Callback[Any], ...]) -> list[str]:
    """Where the hooks are: on the host, in the compiled step, or both."""
    host = any(hook_names(part) for part in parts)
    step = any(part.step is not None for part in parts)
    return ["host"] * host + ["step"] * step


def state_of(parts: tuple[Callback[Any], ...]) -> str:
    """The fields of the host states, and a word on tensors that the step keeps."""
    kept: list[str] = []
    for part in parts:
        state = part.init()
        if attrs.has(type(state)) and not isinstance(state, EmptyState):
            kept += [f"`{field.name}`" for field in attrs.fields(type(state))]
        elif not isinstance(state, EmptyState):
            kept.append(f"`{state!r}`")
    tensors = any(map(_has_state, parts))
    return ", ".join(dict.fromkeys(kept)) + ("; " if kept and tensors else "") + ("tensors" if tensors else "")


def _has_state(part: Callback[Any]) -> bool:
    params = {name: torch.zeros(2, 2) for name in ("weight", "online_network.weight", "target_network.weight")}
    return part.step is not None and bool(list(leaves(part.step.init(NamedParams(params, {})))))


def summary(function: Function[..., Any]) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(function) or "").split("\n")[0].rstrip(".")


def known_as(function: Function[..., Any]) -> str:
    """What the section "Known as" of a docstring says, without its full stop."""
    found = re.search(r"^Known as:\n((?:  .*\n?)+)", inspect.getdoc(function) or "", re.MULTILINE)
    if found is None:
        raise ValueError(f"{function.__name__}: its docstring must have a section `Known as:`.")
    return " ".join(found[1].split()).rstrip(".")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tables() -> dict[str, str]:
    """The tables of the page, by the name of the mark that they stand after."""
    shown = [name for name, each in sorted(vars(sinks).items()) if inspect.isfunction(each)]
    return {
        "callbacks": table(
            ["callback", "what it does", "asks for", "half", "keeps", "known as"], [row(name) for name in built_ins()]
        ),
        "combinators": table(
            ["combinator", "what it does"], [[f"`{name}`", summary(vars(callbacks)[name])] for name in COMBINATORS]
        ),
        "finders": table(
            ["function", "what it does", "known as"],
            [[f"`{name}`", summary(getattr(fncb, name)), known_as(getattr(fncb, name))] for name in FINDERS],
        ),
        "sinks": table(["sink", "what it does"], [[f"`{name}`", summary(vars(sinks)[name])] for name in shown]),
    }


def filled(page: str) -> str:
    """A page with its tables as the code has them now: each between a mark and the next empty line."""
    for name, text in tables().items():
        page = re.sub(rf"(<!-- table: {name} -->\n)(?:\|.*\n)*", lambda found, text=text: found[1] + text + "\n", page)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
