"""Take some probability from the labels and spread it over all classes."""

from __future__ import annotations

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.callbacks.labels import Place, check_labels, part, probabilities, with_parts
from fncb.events import TrainBatchStart
from fncb.fields import must_be_number


def label_smoothing(
    smoothing: float = 0.1, *, num_classes: int | None = None, labels: Place = 1, key: str = "label_smoothing"
) -> Callback[EmptyState]:
    """Trains with softer labels: (1 - smoothing) * label + smoothing / classes.

    Labels that are numbers of classes, (batch, ...), become probabilities first, (batch, classes, ...), which
    `torch.nn.functional.cross_entropy` takes as they are; what else a loss computes of labels has to take them too: the
    class is `labels.argmax(1)`. Probabilities stay what they are, so that it may come after `mixup` or `cutmix`. A
    label that is no class, such as -100, counts for nothing. It happens inside the step, so validation and host hooks
    see labels as they were; with `smoothing` 0 it makes probabilities and nothing more.

    Args:
      smoothing: in [0, 1), dimensionless.
      num_classes: how many classes there are; None where labels are probabilities already.
      labels: where a batch has them: an index of a tuple or list, or a key of a mapping.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; with the first batch, if it has no such
        part.

    Example:
      >>> import torch
      >>> event = TrainBatchStart(batch=(torch.zeros(2, 1), torch.tensor([0, 3])))
      >>> out = label_smoothing(0.5, num_classes=4).step.on_train_batch_start(EmptyState(), event)
      >>> out.replaced["batch"][1]
      tensor([[0.6250, 0.1250, 0.1250, 0.1250],
              [0.1250, 0.1250, 0.1250, 0.6250]])

    Reference:
      Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016, section 7.

    Known as:
      `LabelSmoothing` in Composer, `label_smoothing` of losses in PyTorch and Keras.
    """
    must_be_number("label_smoothing", "smoothing", smoothing, "[0, 1)")
    check_labels("label_smoothing", num_classes, labels=labels)

    def on_train_batch_start(state: EmptyState, event: TrainBatchStart) -> Emit[EmptyState]:
        y = probabilities("label_smoothing", part("label_smoothing", event.batch, "labels", labels), num_classes)
        if y.dim() < 2:
            raise ValueError(
                "label_smoothing: labels must be numbers of classes or their probabilities, got floating-point numbers "
                f"of shape {tuple(y.shape)}."
            )
        soft = (1 - smoothing) * y + smoothing / y.shape[1] * y.sum(1, keepdim=True)  # of no class, 0
        return emit(state, batch=with_parts(event.batch, {labels: soft}))

    return Callback(
        constructor="label_smoothing",
        key=key,
        step=StepHooks(init=lambda _: EmptyState(), on_train_batch_start=on_train_batch_start),
        emits=(),
        config={"smoothing": smoothing, "num_classes": num_classes, "labels": labels},
    )
