"""Mix pairs of training samples and their labels."""

from __future__ import annotations

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.callbacks.labels import Place, check_labels, part, probabilities, random_pairs, with_parts
from fncb.events import TrainBatchStart
from fncb.fields import must_be_number


def mixup(
    alpha: float = 0.2,
    *,
    num_classes: int | None = None,
    probability: float = 1.0,
    inputs: Place = 0,
    labels: Place = 1,
    key: str = "mixup",
) -> Callback[EmptyState]:
    """Trains on mixtures of samples: each is mixed with another one of its batch, and their labels likewise.

    For each batch a coefficient is drawn from Beta(alpha, alpha), and for each sample a partner: a permutation of the
    batch. Inputs become coefficient * input + (1 - coefficient) * partner's input, and so do labels. Labels that are
    numbers of classes become probabilities first, of shape (batch, classes), which `torch.nn.functional.cross_entropy`
    takes as they are; what else a loss computes of labels has to take them too: the class is `labels.argmax(1)`. Labels
    that are floating-point numbers already, such as probabilities, are mixed as they are. A label that is no class,
    such as -100, counts for nothing.

    It happens inside the step, so validation and host hooks see batches as they were. Publishes the metric
    `mixup_lambda`, the coefficient. To be combined with `when`, which cannot change shapes, the labels must be
    probabilities already: give `label_smoothing(0.0, num_classes=...)` before it.

    Args:
      alpha: 0.01 or more, dimensionless: the smaller it is, the more often the coefficient is near 0 or 1.
      num_classes: how many classes there are; None where labels are floating-point numbers already.
      probability: in [0, 1], that a batch is mixed at all.
      inputs, labels: where a batch has them: indices of a tuple or list, or keys of a mapping.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; with the first batch, if it has no such
        parts.

    Example:
      >>> import torch
      >>> _ = torch.manual_seed(0)
      >>> batch = (torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
      >>> out = mixup(1.0, num_classes=2).step.on_train_batch_start(EmptyState(), TrainBatchStart(batch=batch))
      >>> weight, (x, y) = out.replaced["metrics"]["mixup_lambda"], out.replaced["batch"]
      >>> x.shape, y.shape, torch.equal(x[:, 0], y[:, 1])
      (torch.Size([2, 1]), torch.Size([2, 2]), True)

    Reference:
      Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2018, section 2.

    Known as:
      `MixUp` in torchvision, Keras, fastai and Composer.
    """
    must_be_number("mixup", "alpha", alpha, "[0.01, inf)")
    must_be_number("mixup", "probability", probability, "[0, 1]")
    check_labels("mixup", num_classes, inputs=inputs, labels=labels)

    def on_train_batch_start(state: EmptyState, event: TrainBatchStart) -> Emit[EmptyState]:
        x = part("mixup", event.batch, "inputs", inputs)
        y = probabilities("mixup", part("mixup", event.batch, "labels", labels), num_classes)
        if not x.is_floating_point():
            raise TypeError(
                f"mixup: inputs must be floating-point numbers, got {x.dtype}. Convert them, or use cutmix."
            )
        coefficient, partner = random_pairs(x, alpha, probability)
        mixed = {place: coefficient * v + (1 - coefficient) * v[partner] for place, v in ((inputs, x), (labels, y))}
        return emit(state, batch=with_parts(event.batch, mixed), metrics={"mixup_lambda": coefficient})

    return Callback(
        constructor="mixup",
        key=key,
        step=StepHooks(init=lambda _: EmptyState(), on_train_batch_start=on_train_batch_start),
        emits=(),
        config={
            "alpha": alpha,
            "num_classes": num_classes,
            "probability": probability,
            "inputs": inputs,
            "labels": labels,
        },
    )
