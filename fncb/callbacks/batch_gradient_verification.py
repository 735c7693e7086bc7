"""Check that a model does not mix the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.callbacks.batch_parts import as_the_model, first_input
from fncb.effects import Examine, Print
from fncb.events import TrainBatchStart, TrainStart
from fncb.fields import must_be_callable, must_be_int
from fncb.tree import leaves, map_leaves

if TYPE_CHECKING:
    from torch import Tensor


def batch_gradient_verification(
    example: Any = None,
    *,
    input_mapping: Callable[[Any], Sequence[Tensor]] | None = None,
    output_mapping: Callable[[Any], Tensor] | None = None,
    sample_idx: int = 0,
    warn: bool = True,
    error: bool = False,
    forward: Callable[[Any, Any], Any] | None = None,
    key: str = "batch_gradient_verification",
) -> Callback[EmptyState]:
    """Warns or raises if the output for a sample depends on the other samples of the batch.

    That is what a reshape or a permutation over the wrong dimensions does. A sum of the outputs for the sample
    `sample_idx` is differentiated with respect to all inputs: the gradient must be 0 for every other sample, exactly,
    and not be 0 for the sample itself, or there is nothing to tell by. Gradients that are not finite do not tell
    either, which is a failure too. The sum is weighted, each output with a weight of its own in [0.5, 1.5), as the
    plain one of a softmax, say, is 1 whatever goes in.

    It is done once: with the example when training starts, or else as the very first batch of the run starts. The model
    is in eval mode, so what batch normalisation mixes in training is not reported. It takes one forward and one
    backward pass; the parameters' gradients are left alone.

    Args:
      example: a batch of 2 samples or more, made as those of training are; None takes the first of these.
      input_mapping: gives the inputs of a batch, tensors of floating point whose first dimension is the batch's; None
        takes all of those in it whose first dimension is as long as that of the first.
      output_mapping: makes one tensor, (batch, ...), of what the model returned; None takes the tensors in it whose
        first dimension is the batch's.
      sample_idx: index of the sample in the batch, 0 or more.
      warn: whether to print what is wrong.
      error: whether to raise it, which ends the run.
      forward: `forward(model, batch)` calls the model; None calls it on the batch's first part.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; when it is checked, for a batch of one, or
        one that has no such sample or no such input.
      RuntimeError: when it is checked, if it fails and `error` is set.

    Example:
      >>> import torch
      >>> class Mixes(torch.nn.Linear):
      ...     def forward(self, x):
      ...         return super().forward(x.reshape(4, -1).T)  # from (2, 4) to (4, 2) and back: not sample by sample
      >>> verify = batch_gradient_verification(torch.rand(2, 4))
      >>> examine = verify.transition(verify.init(), TrainStart())[1][0]
      >>> examine.fn(Mixes(4, 3), TrainStart(), {})  # doctest: +ELLIPSIS
      Print(text="batch_gradient_verification: the output for sample 0 depends on 1 other sample too, ...")

    Known as:
      `BatchGradientVerificationCallback` in Lightning Bolts.
    """
    who = "batch_gradient_verification"
    functions = {"input_mapping": input_mapping, "output_mapping": output_mapping, "forward": forward}
    for name, function in functions.items():
        if function is not None:
            must_be_callable(who, name, function)
    must_be_int(who, "sample_idx", sample_idx, 0)
    if not warn and not error:
        raise ValueError(f"{who}: warn or error must be True, got neither. Leave the callback out.")

    def judge(sizes: list[float]) -> str | None:
        """What is wrong, given how large the gradient for each sample is."""
        others = {i: size for i, size in enumerate(sizes) if i != sample_idx and size != 0}
        mixed = [i for i, size in others.items() if isfinite(size)]
        if mixed:
            return (
                f"depends on {len(mixed)} other sample{'s' if len(mixed) > 1 else ''} too, such as sample {mixed[0]}. "
                "Look for a reshape or a permutation that takes the batch's dimension for another."
            )
        if others:
            return f"has gradients that are not finite, such as for sample {next(iter(others))}: nothing can be told."
        return "does not depend on its own input: nothing can be told." if sizes[sample_idx] == 0 else None

    def verify(model: Any, batch: Any) -> Print | None:
        import torch

        # cuDNN's recurrent layers have no backward pass in eval mode
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            batch = map_leaves(_on_its_own, as_the_model(model, batch))
            inputs = _batched(batch) if input_mapping is None else [*input_mapping(batch)]
            _check(inputs, sample_idx)
            output = model(first_input(batch)) if forward is None else forward(model, batch)
            outputs = _batched(output, len(inputs[0])) if output_mapping is None else [output_mapping(output)]
            if not outputs:
                raise ValueError(f"{who}: there must be an output for each sample, got none. Pass output_mapping=.")
            # the last term has a gradient, 0, also where outputs depend on no input
            total = sum(_weighted(each[sample_idx]) for each in outputs) + 0 * inputs[0].sum()
            gradients = torch.autograd.grad(total, inputs, allow_unused=True)
        found = [each.float().abs().reshape(len(each), -1).sum(1) for each in gradients if each is not None]
        wrong = judge(torch.stack(found).sum(0).tolist())  # waits for the device, once a run
        if wrong is None:
            return None
        told = f"{who}: the output for sample {sample_idx} {wrong}"
        if error:
            raise RuntimeError(told)
        return Print(told)

    def on_train_start(state: EmptyState, event: TrainStart) -> Emit[EmptyState]:
        return emit(state, Examine(who, lambda model, *_: verify(model, example)))

    def on_train_batch_start(state: EmptyState, event: TrainBatchStart) -> EmptyState | Emit[EmptyState]:
        first = event.epoch == 0 and event.batch_idx == 0
        return emit(state, Examine(who, lambda model, event, _: verify(model, event.batch))) if first else state

    return Callback(
        constructor="batch_gradient_verification",
        key=key,
        emits=(Examine, Print),
        config={**functions, "sample_idx": sample_idx, "warn": warn, "error": error},
        on_train_start=None if example is None else on_train_start,
        on_train_batch_start=on_train_batch_start if example is None else None,
    )


def _on_its_own(part: Any) -> Any:
    """A tensor of floating point as one to differentiate with respect to; anything else as it is."""
    differentiable = hasattr(part, "is_floating_point") and part.is_floating_point()
    return part.detach().clone().requires_grad_() if differentiable else part


def _batched(data: Any, size: int | None = None) -> list[Tensor]:
    """The tensors of floating point whose first dimension has that size, by default the size that the first one has."""
    found = [leaf for _, leaf in leaves(data) if hasattr(leaf, "dim") and leaf.is_floating_point() and leaf.dim()]
    return [each for each in found if len(each) == (len(found[0]) if size is None else size)]


def _weighted(outputs: Tensor) -> Tensor:
    """The sum of a sample's outputs, each with another weight."""
    import torch

    places = torch.arange(outputs.numel(), device=outputs.device)
    return (outputs.flatten().float() * (places * 0.618034 % 1 + 0.5)).sum()


def _check(inputs: list[Tensor], sample_idx: int) -> None:
    who = "batch_gradient_verification"
    if not inputs:
        raise ValueError(
            f"{who}: a batch must have inputs of floating point, got none. Give embeddings, and forward= from there."
        )
    if len(inputs[0]) < 2:
        raise ValueError(f"{who}: a batch must have 2 samples or more, got {len(inputs[0])}. Pass another as example.")
    if sample_idx >= len(inputs[0]):
        raise ValueError(f"{who}: sample_idx must be in the batch of {len(inputs[0])}, got {sample_idx}.")
