"""Classify by the nearest neighbours among a model's features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from fncb.callback import Callback, Emit, emit
from fncb.callbacks.batch_parts import as_the_model, checked_features, features_and_labels
from fncb.effects import Examine, Log
from fncb.events import SanityCheckEnd, SanityCheckStart, ValidationEpochEnd
from fncb.fields import must_be_callable, must_be_int, must_be_number

if TYPE_CHECKING:
    from torch import Tensor

Batches = Iterable[Any] | Callable[[], Iterable[Any]]

CHUNK = 2**24
"""At most so many similarities or votes are held at once: 64 MiB in float32, unless one sample alone has more."""


@attrs.frozen
class KnnOnlineEvaluatorState:
    """What `knn_online_evaluator` remembers.

    Attributes:
      paused: whether the validation under way is a sanity check.
    """

    paused: bool = False


def knn_online_evaluator(
    train: Batches,
    val: Batches,
    *,
    k: int = 200,
    temperature: float = 0.07,
    features: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    num_classes: int | None = None,
    key: str = "knn_online_evaluator",
) -> Callback[KnnOnlineEvaluatorState]:
    """Logs how many of `val` their neighbours in `train` classify rightly, at the end of each validation.

    Features are computed by the model that is validated, in eval mode, and divided by their length. The `k` samples of
    `train` whose features f_i have the largest inner product with the feature f of a sample of `val` (any of those that
    tie for the last place) vote, each for its own label with the weight exp(f . f_i / temperature); the label with the
    largest sum wins, of equals the least. The share that is right is logged as `online_knn_val_acc`, before
    `on_validation_end`, which has it among its metrics. It is not computed in a sanity check.

    Args:
      train: batches with labels to learn from, gone through once at each validation: an iterable, or a function that
        makes one. Let it be no loader that is trained on: going through that would draw from its generator.
      val: batches with labels to classify, likewise.
      k: neighbours, 1 or more; all of `train` where there are fewer.
      temperature: in the unit of the inner product, more than 0.
      features: `features(model, batch)` gives (features, labels), of shapes (batch, any) and (batch,), the labels being
        indices of classes. None takes a batch of (inputs, labels) and the model's output for the inputs, flattened;
        where the inputs are views of the same samples, ((view 1, view 2), labels), for the last of them.
      num_classes: 1 or more; None for one more than the largest label in `train`.
      key: names the state.

    Returns:
      A `Callback` with `KnnOnlineEvaluatorState`. Holds the features of `train` where the model is while it computes.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; at a validation, for features or labels of
        another shape, or no batches.

    Example:
      >>> import torch
      >>> known = [(torch.tensor([[0.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 1]))]
      >>> asked = [(torch.tensor([[1.0, 9.0], [9.0, 1.0], [7.0, 1.0]]), torch.tensor([0, 1, 0]))]
      >>> knn = knn_online_evaluator(known, asked, k=1)
      >>> examine = knn.transition(knn.init(), ValidationEpochEnd())[1][0]
      >>> examine.fn(torch.nn.Identity(), ValidationEpochEnd(), {})
      Log(metrics={'online_knn_val_acc': 0.6666666666666666})

    Reference:
      Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018, section 3.4.

    Known as:
      `KNNOnlineEvaluator` in Lightning Bolts.
    """
    config = {"k": k, "temperature": temperature, "features": features, "num_classes": num_classes}
    who = "knn_online_evaluator"
    must_be_int(who, "k", k, 1, "neighbour")
    must_be_number(who, "temperature", temperature, "(0, inf)")
    if num_classes is not None:
        must_be_int(who, "num_classes", num_classes, 1)
    if features is not None:
        must_be_callable(who, "features", features)
    for argument, given in (("train", train), ("val", val)):
        if hasattr(given, "__next__") or not (callable(given) or hasattr(given, "__iter__")):
            raise TypeError(
                f"{who}: {argument} must be batches that can be gone through again, got {given!r}. Pass a list, a "
                "loader or a function that makes one."
            )

    def evaluate(model: Any, *_: Any) -> Log:
        import torch

        def known(given: Any) -> Iterator[tuple[Tensor, Tensor]]:
            for batch in given if hasattr(given, "__iter__") else given():
                found = (features or features_and_labels)(model, as_the_model(model, batch))
                vectors, labels = checked_features(who, found)
                yield torch.nn.functional.normalize(vectors.float(), dim=1), labels

        learned, asked, right = [*known(train)], 0, 0
        if not learned:
            raise ValueError(f"{who}: train must give at least one batch, got none.")
        bank, labels = (torch.cat(parts) for parts in zip(*learned, strict=True))
        classes = int(labels.max()) + 1 if num_classes is None else num_classes
        near = min(k, len(bank))
        rows = max(1, CHUNK // max(len(bank), near * classes))  # of `val` at once
        for vectors, wanted in known(val):
            for part, truth in zip(vectors.split(rows), wanted.split(rows), strict=True):
                similarity, place = (part @ bank.T).topk(near, dim=1)
                weight = ((similarity - 1) / temperature).exp()  # of 1 at most, all by the same factor
                votes = torch.nn.functional.one_hot(labels[place], classes) * weight[:, :, None]
                right = right + (votes.sum(1).argmax(1) == truth).sum()
            asked += len(wanted)
        if not asked:
            raise ValueError(f"{who}: val must give at least one batch, got none.")
        return Log({"online_knn_val_acc": int(right) / asked})  # waits for the device, once a validation

    def on_validation_epoch_end(
        state: KnnOnlineEvaluatorState, event: ValidationEpochEnd
    ) -> KnnOnlineEvaluatorState | Emit[KnnOnlineEvaluatorState]:
        return state if state.paused else emit(state, Examine(who, evaluate))

    return Callback(
        constructor="knn_online_evaluator",
        key=key,
        init=KnnOnlineEvaluatorState,
        emits=(Examine, Log),
        config=config,
        on_sanity_check_start=_pauses(True),
        on_sanity_check_end=_pauses(False),
        on_validation_epoch_end=on_validation_epoch_end,
    )


def _pauses(paused: bool) -> Callable[..., KnnOnlineEvaluatorState]:
    def pause(state: KnnOnlineEvaluatorState, _: SanityCheckStart | SanityCheckEnd) -> KnnOnlineEvaluatorState:
        return attrs.evolve(state, paused=paused)

    return pause
