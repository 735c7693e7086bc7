"""Train a model for low precision: its layers compute as if they were quantized, and in the end they are."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.effects import Transform
from fncb.events import FitEnd, FitStart, TrainBatchStart, ValidationBatchStart

if TYPE_CHECKING:
    from torch import nn

BatchStart = TrainBatchStart | ValidationBatchStart


@attrs.frozen
class QuantizationAwareTrainingState:
    """What `quantization_aware_training` remembers.

    Attributes:
      quantized: batches computed with fake quantization so far; counted where `collect_quantization` is given.
      enabled: whether the layers compute with it now.
      fitting: whether a fit is under way, and so the layers are there.
    """

    quantized: int = 0
    enabled: bool = True
    fitting: bool = False


def quantization_aware_training(
    base_config: Any = None,
    *,
    collect_quantization: int | Callable[[BatchStart], Any] | None = None,
    quantize_on_fit_end: bool = True,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    key: str = "quantization_aware_training",
) -> Callback[QuantizationAwareTrainingState]:
    """Trains with fake quantization, and quantizes the model when the fit ends.

    When a fit starts, torchao puts a layer in place of each one that is meant, which rounds weights and inputs to what
    the low precision can hold, computes in the old one, and lets gradients pass as if nothing were rounded. Names and
    tensors of parameters stay, and so do checkpoints: they are those of the plain model, and of before the end. When
    the fit ends, the weights of these layers are quantized for good.

    A range is that of the tensor at hand, in validation too: nothing is observed for it. A batch that
    `collect_quantization` does not ask for is computed without any rounding; each switch compiles the step anew.

    Args:
      base_config: what the model is quantized to: a config of `torchao.quantization` that its `QATConfig` takes, such
        as `Int4WeightOnlyConfig(group_size=32)`. None is int8 weights with a range for each output, and int8 inputs
        with a range for each row.
      collect_quantization: which batches of the fit are computed so: None for all, an int for the first so many, or a
        pure function of the event with which a batch starts, such as `after(steps=1000)`. Batches of validation are
        asked about and counted as well, those of the sanity check included.
      quantize_on_fit_end: whether the model is quantized in the end; if not, fake quantization stays in it.
      filter_fn: given a module and its name, tells whether it is meant; None for all `nn.Linear`.
      key: names the state.

    Returns:
      A `Callback` with `QuantizationAwareTrainingState`.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; when a fit starts, if no layer is meant.
      ModuleNotFoundError: when a fit starts, without torchao: `pip install 'fncb[torchao]'`.

    Example:
      >>> qat = quantization_aware_training(collect_quantization=1)
      >>> state, prepare = qat.transition(qat.init(), FitStart())
      >>> state, first = qat.transition(state, TrainBatchStart(batch_idx=0))
      >>> state, second = qat.transition(state, TrainBatchStart(batch_idx=1))
      >>> [effect.name for effect in (*prepare, *first, *second)]
      ['prepare for quantization', 'switch fake quantization off']

    Reference:
      Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
      2018, section 3.

    Known as:
      `QuantizationAwareTraining` in Lightning before 2.0; `QATConfig` in torchao.

    Lightning's `qconfig` is `base_config`. Its `observer_type` and `observer_enabled_stages` are left out, as torchao
    observes nothing; `modules_to_fuse` and `input_compatible`, as the layers take and give floats.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    wants = _wants(collect_quantization)
    if filter_fn is not None and not callable(filter_fn):
        raise TypeError(
            "quantization_aware_training: filter_fn must be a function of a module and its name, or None, got "
            f"{filter_fn!r}."
        )

    def stops_fitting(state: QuantizationAwareTrainingState, event: Any) -> QuantizationAwareTrainingState:
        return attrs.evolve(state, fitting=False)

    def on_fit_start(state: QuantizationAwareTrainingState, event: FitStart) -> Emit[QuantizationAwareTrainingState]:
        prepare = partial(_prepare, base_config, filter_fn, quantize_on_fit_end, state.enabled)
        return emit(attrs.evolve(state, fitting=True), Transform("prepare for quantization", prepare))

    def on_fit_end(state: QuantizationAwareTrainingState, event: FitEnd) -> Emit[QuantizationAwareTrainingState]:
        return emit(state, Transform("quantize", partial(_quantize, base_config)))

    def on_batch_start(state: QuantizationAwareTrainingState, event: BatchStart) -> Any:
        if not state.fitting:
            return state
        wanted = wants(state, event)
        counted = attrs.evolve(state, quantized=state.quantized + wanted, enabled=wanted)
        switch = Transform(f"switch fake quantization {'on' if wanted else 'off'}", partial(_switch, wanted))
        return emit(counted, switch) if wanted != state.enabled else counted

    moments: dict[str, Any] = {}
    if collect_quantization is not None:
        moments = dict.fromkeys(("on_train_batch_start", "on_validation_batch_start"), on_batch_start)
    return Callback(
        constructor="quantization_aware_training",
        key=key,
        init=QuantizationAwareTrainingState,
        emits=(Transform,),
        config=config,
        setup=stops_fitting,
        on_fit_start=on_fit_start,
        on_fit_end=on_fit_end if quantize_on_fit_end else None,
        teardown=stops_fitting,
        **moments,
    )


def _wants(collect_quantization: Any) -> Callable[[QuantizationAwareTrainingState, BatchStart], bool]:
    if collect_quantization is None:
        return lambda state, event: True
    if callable(collect_quantization):
        return lambda state, event: bool(collect_quantization(event))
    if not isinstance(collect_quantization, int) or isinstance(collect_quantization, bool):
        raise TypeError(
            "quantization_aware_training: collect_quantization must be a number of batches, a function of an event or "
            f"None, got {collect_quantization!r}."
        )
    if collect_quantization < 0:
        raise ValueError(
            f"quantization_aware_training: collect_quantization must be 0 batches or more, got {collect_quantization}."
        )
    return lambda state, event: state.quantized < collect_quantization


def _prepare(base_config: Any, filter_fn: Any, quantizes: bool, enabled: bool, model: nn.Module) -> None:
    from torch.nn import Sequential

    swapped = _swap(model, base_config, "prepare", filter_fn)
    if not swapped:
        raise ValueError(
            f"quantization_aware_training: the model must have a submodule that is meant, got {type(model).__name__} "
            "without. Pass another `filter_fn`, or put a model that is one itself into a Sequential."
        )
    for module in swapped if quantizes else ():  # what cannot be quantized here fails now, and not when all is done
        _swap(Sequential(deepcopy(module)), base_config, "convert", _may_be_prepared)
    _switch(enabled, model)


def _quantize(base_config: Any, model: nn.Module) -> None:
    _swap(model, base_config, "convert", _may_be_prepared)


def _switch(enabled: bool, model: nn.Module) -> None:
    for module in model.modules():
        for name in ("activation_fake_quantizer", "weight_fake_quantizer"):
            if getattr(module, name, None) is not None:
                getattr(module, name).enabled = enabled


def _may_be_prepared(module: nn.Module, _: str) -> bool:
    from torch.nn import Embedding, Linear

    return isinstance(module, Linear | Embedding)  # of these, torchao leaves those alone that are not


def _swap(model: nn.Module, base_config: Any, step: Any, filter_fn: Any) -> list[nn.Module]:
    """Has torchao put other modules in place of some, and gives those that are new."""
    import torch

    try:
        from torchao import quantization as ao
        from torchao.quantization.qat import QATConfig
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "quantization_aware_training: torchao must be installed, got none. Run `pip install 'fncb[torchao]'`."
        ) from error

    if base_config is None:
        base_config = ao.Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int8, weight_granularity=ao.PerAxis(0)
        )
    before = dict(model.named_modules())
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices):  # new modules draw weights, before they are given the old ones
        ao.quantize_(model, QATConfig(base_config, step=step), filter_fn)
    swapped = {name: each for name, each in model.named_modules() if name in before and each is not before[name]}
    for name, module in swapped.items():
        kept = {each: value for each, value in vars(before[name]).items() if each == "training" or "hook" in each}
        vars(module).update(kept)
    return list(swapped.values())
