"""Set more and more weights to zero for good."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, Any

from fncb.callback import Callback, Emit, EmptyState, StepHooks, compose, emit
from fncb.effects import Apply, Effect, Examine, Print, Transform
from fncb.events import AfterOptimizerStep, TrainEpochEnd, ValidationEnd

if TYPE_CHECKING:
    from torch import Tensor, nn

_METHODS = {
    "l1_unstructured": "L1Unstructured",
    "random_unstructured": "RandomUnstructured",
    "ln_structured": "LnStructured",
    "random_structured": "RandomStructured",
}


def prune(
    pruning_fn: str | type[Any],
    *,
    parameters_to_prune: str | Sequence[str] = (),
    parameter_names: str | Sequence[str] | None = None,
    use_global_unstructured: bool = True,
    amount: int | float | Callable[[int], int | float] = 0.5,
    apply_pruning: bool | Callable[[int], bool] = True,
    use_lottery_ticket_hypothesis: bool | Callable[[int], bool] = True,
    resample_parameters: bool = False,
    pruning_dim: int | None = None,
    pruning_norm: int | float | None = None,
    verbose: int = 0,
    prune_on_train_epoch_end: bool = True,
    key: str = "prune",
) -> Callback[Any]:
    """Prunes some of the weights that are left, again and again, and keeps them at zero.

    A weight that is pruned once stays so: after every optimizer step, inside the step, weights are set to zero where
    their mask says so. Each time, `amount` is of those that are left, so that pruning 0.5 twice leaves a quarter. Which
    ones go is chosen by the methods of `torch.nn.utils.prune`: those with the smallest absolute value
    ("l1_unstructured"), any ("random_unstructured"), or whole channels, those with the smallest norm
    ("ln_structured") or any ("random_structured"). Two of these callbacks on the same parameters know nothing of each
    other's zeros. A parameter that is frozen is not pruned meanwhile, and begins anew when it is trained again.

    Args:
      pruning_fn: the name of a method, or a subclass of `torch.nn.utils.prune.BasePruningMethod`, which is made with
        those of `amount`, `n` (the norm) and `dim` that it takes.
      parameters_to_prune: shell patterns of names of parameters, such as `encoder.*.weight`; none given are all that
        `parameter_names` leaves.
      parameter_names: the last parts of those names; None is `weight` and `bias`, or any where patterns are given. For
        structured methods, what has fewer than two dimensions is left out.
      use_global_unstructured: whether all are pruned as if they were one tensor; only for unstructured methods.
      amount: of the weights or channels that are left, a fraction in [0.0, 1.0], or how many (int, 0 or more); or a
        function of the 0-based epoch.
      apply_pruning: whether to prune, or a function of the epoch.
      use_lottery_ticket_hypothesis: whether the weights that are left are then set to what they were when training
        began, or a function of the epoch. Optimizers keep their state.
      resample_parameters: whether they are set to new ones instead, which their modules' `reset_parameters` draw.
      pruning_dim: the dimension of the channels, for structured methods, which need it.
      pruning_norm: p of the p-norm, for "ln_structured", which needs it.
      verbose: 1 prints how many are pruned, 2 also how many of each parameter.
      prune_on_train_epoch_end: whether to prune as each training epoch ends, or else after each validation, the sanity
        check left out.
      key: names the state.

    Returns:
      A `Callback` that remembers nothing on the host. Its step state maps each parameter's name to its mask, bool. With
      the lottery ticket hypothesis it is a composition with another, `<key>_initial`, whose step state is a copy of
      these parameters; that costs nothing inside the step.

    Raises:
      TypeError, ValueError: for arguments out of range, of the wrong kind, or that do not go together; when training
        begins, if nothing matches.

    Example:
      >>> import torch
      >>> halve = prune("l1_unstructured", use_lottery_ticket_hypothesis=False)
      >>> _, (effect,) = halve.transition(halve.init(), TrainEpochEnd(epoch=0, step=10))
      >>> weights = {"weight": torch.tensor([[4.0, -1.0], [2.0, 8.0]])}
      >>> effect.fn(weights, {"prune": halve.step.init(weights)})[0]
      {'weight': tensor([[4., 0.],
              [0., 8.]])}

    Reference:
      Han, Pool, Tran and Dally, "Learning both Weights and Connections for Efficient Neural Networks", 2015.
      Frankle and Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", 2019, appendix B,
      strategy 1.

    Known as:
      `ModelPruning` in Lightning.

    Lightning's `make_pruning_permanent` is left out: the model is not reparametrized, so that every checkpoint has the
    pruned weights under their own names.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    name, structured, make = _method(pruning_fn, pruning_dim, pruning_norm)
    if structured and use_global_unstructured:
        raise ValueError(
            f"prune: {name} must have use_global_unstructured=False, as it prunes channels of each parameter, got True."
        )
    if not callable(amount):
        _check_amount(amount)
    for flag in ("apply_pruning", "use_lottery_ticket_hypothesis"):
        if not callable(config[flag]) and not isinstance(config[flag], bool):
            raise TypeError(f"prune: {flag} must be True, False or a function of the epoch, got {config[flag]!r}.")
    if verbose not in (0, 1, 2):
        raise ValueError(f"prune: verbose must be 0, 1 or 2, got {verbose!r}.")
    patterns = _several(parameters_to_prune)
    lasts = _several(parameter_names or ()) or (("*",) if patterns else ("weight", "bias"))
    initial = f"{key}_initial"

    def is_chosen(full: str) -> bool:
        found = not patterns or any(fnmatchcase(full, each) for each in patterns)
        return found and any(fnmatchcase(full.rpartition(".")[2], each) for each in lasts)

    def chosen(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {full: p for full, p in params.items() if is_chosen(full) and not (structured and p.dim() < 2)}
        if not found and not any(map(is_chosen, getattr(params, "frozen", ()))):
            raise ValueError(f"prune: a parameter must match {patterns or lasts}, got none. There are {[*params]}.")
        return found

    def on_after_optimizer_step(state: dict[str, Tensor], event: AfterOptimizerStep) -> Emit[dict[str, Tensor]]:
        return emit(state, params={**event.params, **_masked(event.params, state)})

    def moment(state: EmptyState, event: TrainEpochEnd | ValidationEnd) -> EmptyState | Emit[EmptyState]:
        now = amount(event.epoch) if callable(amount) else amount
        # before the first step is a sanity check, or a run that does not train
        if event.step == 0 or not now or not _holds(apply_pruning, event.epoch):
            return state
        _check_amount(now)
        rewinds = _holds(use_lottery_ticket_hypothesis, event.epoch)

        def pruned(params: Mapping[str, Tensor], step_state: Mapping[str, Any]) -> Any:
            masks = step_state[key]
            if masks:  # not all of them are frozen
                masks = _pruned(make(now), {full: params[full] for full in masks}, masks, use_global_unstructured)
            left = step_state[initial] if rewinds else params
            return _masked(left, masks), {**step_state, key: masks}

        def resampled(model: nn.Module) -> None:
            _reset(model, is_chosen)

        def told(_: Any, __: Any, step_state: Mapping[str, Any]) -> list[Effect]:
            return [Print(f"prune: {line}") for line in _lines(name, step_state[key], verbose)]

        effects: list[Effect] = [Apply(f"{key}: {name}", pruned)]
        if rewinds and resample_parameters:
            effects.append(Transform(f"{key}: resample", resampled))
            effects.append(Apply(f"{key}: mask", lambda params, states: (_masked(params, states[key]), states)))
        return emit(state, *effects, *([Examine(f"{key}: count", told)] if verbose else []))

    def masks_of_ones(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import torch

        return {full: torch.ones_like(p, dtype=torch.bool) for full, p in chosen(params).items()}

    masks = Callback(
        constructor="prune",
        key=key,
        step=StepHooks(init=masks_of_ones, on_after_optimizer_step=on_after_optimizer_step),
        emits=(Apply, Examine, Print, Transform),
        config=config,
        on_train_epoch_end=moment if prune_on_train_epoch_end else None,
        on_validation_end=None if prune_on_train_epoch_end else moment,
    )
    if use_lottery_ticket_hypothesis is False:
        return masks
    return compose(masks, Callback(key=initial, step=StepHooks(init=chosen), emits=()))


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    found = (names,) if isinstance(names, str) else tuple(names)
    if not all(isinstance(each, str) for each in found):
        raise TypeError(f"prune: names must be text such as 'encoder.*.weight', got {names!r}.")
    return found


def _method(given: Any, dim: int | None, norm: float | None) -> tuple[str, bool, Callable[[Any], Any]]:
    """A method's name, whether it prunes channels, and what makes it for an amount."""
    if isinstance(given, str) and given not in _METHODS:
        raise ValueError(f"prune: pruning_fn must be one of {[*_METHODS]} or a class, got {given!r}.")
    from torch.nn.utils import prune as of_torch

    cls = getattr(of_torch, _METHODS[given]) if isinstance(given, str) else given
    if not isinstance(cls, type) or not issubclass(cls, of_torch.BasePruningMethod):
        raise TypeError(f"prune: pruning_fn must be the name of a method or a BasePruningMethod, got {given!r}.")
    kind = getattr(cls, "PRUNING_TYPE", None)
    if kind not in ("unstructured", "structured"):
        raise ValueError(
            f"prune: {cls.__name__} must have the PRUNING_TYPE 'unstructured' or 'structured', got {kind!r}."
        )
    takes = inspect.signature(cls.__init__).parameters
    if "dim" in takes and dim is None:
        raise ValueError(f"prune: {cls.__name__} needs pruning_dim, the dimension of its channels, got None.")
    if "n" in takes and norm is None:
        raise ValueError(f"prune: {cls.__name__} needs pruning_norm, p of the p-norm, got None.")

    def make(amount: int | float) -> Any:
        given = {"amount": amount, "n": norm, "dim": dim}
        return cls(**{name: value for name, value in given.items() if name in takes})

    return cls.__name__, kind == "structured", make


def _check_amount(amount: Any) -> None:
    is_count = isinstance(amount, int) and not isinstance(amount, bool) and amount >= 0
    if not is_count and not (isinstance(amount, float) and 0 <= amount <= 1):
        raise ValueError(f"prune: amount must be a fraction in [0.0, 1.0] or a number, 0 or more, got {amount!r}.")


def _holds(flag: bool | Callable[[int], bool], epoch: int) -> bool:
    return bool(flag(epoch)) if callable(flag) else flag


def _masked(params: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters that have a mask, zero where it is not set; also where they are not finite."""
    import torch

    return {name: torch.where(mask, params[name], 0) for name, mask in masks.items() if name in params}


def _pruned(method: Any, params: dict[str, Tensor], masks: Mapping[str, Tensor], at_once: bool) -> dict[str, Tensor]:
    """Masks with less of what they leave."""
    import torch
    from torch.nn.utils.prune import PruningContainer

    method._tensor_name = "weight"  # which a container compares, and is for modules otherwise
    container = PruningContainer(method)  # counts amounts by what the masks leave

    def less(tensor: Tensor, mask: Tensor) -> Tensor:
        return container.compute_mask(tensor, default_mask=mask.to(tensor.dtype)).bool()

    if not at_once:
        return {name: less(p, masks[name]) for name, p in params.items()}
    flat = [torch.cat([tensors[name].flatten() for name in params]) for tensors in (params, masks)]
    parts = less(*flat).split([prod(p.shape) for p in params.values()])
    return {name: part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}


def _reset(model: nn.Module, is_chosen: Callable[[str], bool]) -> None:
    """Draws chosen parameters of modules anew that know how to."""
    import torch

    for path, module in model.named_modules():
        own = dict(module.named_parameters(prefix=path, recurse=False))
        names = [name for name, p in own.items() if p.requires_grad and is_chosen(name)]
        if names and hasattr(module, "reset_parameters"):
            fresh: Any = copy.deepcopy(module)
            with torch.no_grad():
                fresh.reset_parameters()
                for name in names:
                    own[name].copy_(fresh.get_parameter(name.rpartition(".")[2]))


def _lines(method: str, masks: Mapping[str, Tensor], verbose: int) -> list[str]:
    counts = {name: (int((~mask).sum()), mask.numel()) for name, mask in masks.items()}  # waits for the device
    lines = [("", sum(n for n, _ in counts.values()), sum(of for _, of in counts.values()))]
    lines += [(f" in {name}", n, of) for name, (n, of) in counts.items()] if verbose == 2 else []
    return [f"{method} has pruned {n} of {of} weights ({n / max(of, 1):.2%}){where}" for where, n, of in lines]
