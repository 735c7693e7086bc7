"""Train a classifier on a model's features while the model learns without labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import log
from typing import TYPE_CHECKING, Any

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.callbacks.batch_parts import as_the_model, checked_features, features_and_labels
from fncb.effects import Measure
from fncb.events import TrainBatchEnd, ValidationBatchEnd
from fncb.fields import must_be_callable, must_be_int, must_be_number

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Any]


def ssl_online_evaluator(
    z_dim: int,
    num_classes: int,
    *,
    features: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    drop_p: float = 0.2,
    hidden_dim: int | None = None,
    lr: float = 1e-4,
    seed: int = 0,
    name: str = "online",
    key: str | None = None,
) -> Callback[EmptyState]:
    """Trains a small classifier on the model's features, which tells how much they know of the labels.

    After each training batch the features of that batch are computed by the model as it is then, in eval mode and
    without gradients, and the classifier makes one step of Adam on its cross-entropy. All of that is part of the
    compiled step. The model learns nothing from it: no gradient reaches it.

    The classifier is dropout and a linear layer; with `hidden_dim`, dropout, a linear layer without bias, batch
    normalisation, ReLU, dropout and a linear layer. Its first weights are uniform within 1 / sqrt(inputs), as torch's
    are. They and its dropout come from `seed` and a count, and from none of the run's generators.

    Publishes the metrics `online_train_loss` and `online_train_acc`, of each batch before the classifier's update and
    with dropout. A validation in the fit measures `val_online_loss` and `val_online_acc`, without dropout; one outside
    of a fit has no classifier, and measures neither.

    Args:
      z_dim: features of a sample, 1 or more.
      num_classes: 1 or more.
      features: `features(model, batch)` gives (features, labels), of shapes (batch, z_dim) and (batch,), the labels
        being indices of classes. None takes a batch of (inputs, labels) and the model's output for the inputs,
        flattened; where the inputs are views of the same samples, ((view 1, view 2), labels), for the last of them.
      drop_p: share of the features that is dropped, in [0, 1).
      hidden_dim: units of the hidden layer, 1 or more; None for none.
      lr: Adam's learning rate, more than 0.
      seed: of the first weights and the dropout.
      name: what the metrics' names begin with.
      key: names the step state; `ssl_online_evaluator(<name>)` by default.

    Returns:
      A `Callback` whose step state is the classifier's `weights` by name, Adam's `mean` and `square` of the gradients,
      the running `norm` of batch normalisation, and `count`, the steps made. Costs a forward pass a batch.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; at a batch, for features or labels of
        another shape.

    Example:
      >>> import torch
      >>> probe = ssl_online_evaluator(2, num_classes=3, drop_p=0.0)
      >>> state = probe.step.init({"w": torch.zeros(1)})
      >>> batch = (torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
      >>> end = TrainBatchEnd(model=torch.nn.Identity(), batch=batch)
      >>> out = probe.step.on_train_batch_end(state, end)
      >>> list(out.replaced["metrics"]), list(out.state["weights"]), out.state["count"]
      (['online_train_loss', 'online_train_acc'], ['weight', 'bias'], tensor(1))

    Reference:
      Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016.
      Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1, with beta_1 = 0.9, beta_2 = 0.999
      and epsilon = 1e-8.

    Known as:
      `SSLOnlineEvaluator` in Lightning Bolts.

    Bolts' `dataset` is left out: `features` says what the batches hold.
    """
    config = {argument: value for argument, value in locals().items() if argument != "key"}
    who = "ssl_online_evaluator"
    for argument, least in (("z_dim", 1), ("num_classes", 1), ("seed", 0)):
        must_be_int(who, argument, config[argument], least)
    if hidden_dim is not None:
        must_be_int(who, "hidden_dim", hidden_dim, 1)
    must_be_number(who, "drop_p", drop_p, "[0, 1)")
    must_be_number(who, "lr", lr, "(0, inf)")
    if features is not None:
        must_be_callable(who, "features", features)
    if not isinstance(name, str) or not name:
        raise TypeError(f"{who}: name must be a name, got {name!r}.")
    key = key or f"{who}({name})"

    def known(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return checked_features(who, (features or features_and_labels)(model, as_the_model(model, batch)), z_dim)

    def init(params: Mapping[str, Tensor]) -> State:
        import torch

        device = next((param.device for param in params.values()), None)
        weights = _first_weights(z_dim, num_classes, hidden_dim, seed)
        norm = {} if hidden_dim is None else {"mean": torch.zeros(hidden_dim), "variance": torch.ones(hidden_dim)}
        zeros = {each: torch.zeros_like(weight) for each, weight in weights.items()}
        state = {"weights": weights, "mean": zeros, "square": zeros, "norm": norm}
        return {
            part: {each: tensor.to(device, copy=True) for each, tensor in of_part.items()}
            for part, of_part in state.items()
        } | {"count": torch.zeros((), dtype=torch.int64, device=device)}

    def on_train_batch_end(state: State, event: TrainBatchEnd) -> Emit[State]:
        import torch

        x, labels = known(event.model, event.batch)
        drop = partial(_dropped, p=drop_p, count=state["count"], seed=seed)
        with torch.enable_grad():
            weights = {each: weight.detach().clone().requires_grad_() for each, weight in state["weights"].items()}
            logits, norm = _logits(weights, state["norm"], x.float(), drop)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            grads = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        metrics = {f"{name}_train_loss": loss.detach(), f"{name}_train_acc": _accuracy(logits, labels)}
        return emit({**_adam(state, grads, lr), "norm": norm}, metrics=metrics)

    def measure(model: Any, event: ValidationBatchEnd, step_state: Mapping[str, Any]) -> dict[str, Tensor]:
        import torch

        if key not in step_state:
            return {}
        x, labels = known(model, event.batch)
        logits, _ = _logits(step_state[key]["weights"], step_state[key]["norm"], x.float(), None)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return {f"{name}_loss": loss, f"{name}_acc": _accuracy(logits, labels)}

    def on_validation_batch_end(state: EmptyState, event: ValidationBatchEnd) -> Emit[EmptyState]:
        return emit(state, Measure(key, measure))

    return Callback(
        constructor="ssl_online_evaluator",
        key=key,
        step=StepHooks(init=init, reads_model=True, on_train_batch_end=on_train_batch_end),
        emits=(Measure,),
        config=config,
        on_validation_batch_end=on_validation_batch_end,
    )


def _first_weights(z_dim: int, num_classes: int, hidden_dim: int | None, seed: int) -> dict[str, Tensor]:
    import torch

    generator = torch.Generator().manual_seed(seed)

    def uniform(inputs: int, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) / inputs**0.5

    if hidden_dim is None:
        return {"weight": uniform(z_dim, num_classes, z_dim), "bias": uniform(z_dim, num_classes)}
    return {
        "hidden_weight": uniform(z_dim, hidden_dim, z_dim),
        "norm_weight": torch.ones(hidden_dim),
        "norm_bias": torch.zeros(hidden_dim),
        "weight": uniform(hidden_dim, num_classes, hidden_dim),
        "bias": uniform(hidden_dim, num_classes),
    }


def _logits(
    weights: Mapping[str, Tensor], norm: Mapping[str, Tensor], x: Tensor, drop: Callable[..., Tensor] | None
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The classifier's logits, and the running mean and variance after that; `drop` is None outside of training."""
    from torch.nn.functional import linear, relu

    x = x if drop is None else drop(x, place=0)
    if "hidden_weight" in weights:
        x = linear(x, weights["hidden_weight"])
        mean, variance = norm["mean"], norm["variance"]
        if drop is not None:
            mean, variance = x.mean(0), x.var(0, correction=0)
            unbiased = variance * x.shape[0] / max(x.shape[0] - 1, 1)
            norm = {
                "mean": 0.9 * norm["mean"] + 0.1 * mean.detach(),
                "variance": 0.9 * norm["variance"] + 0.1 * unbiased.detach(),
            }
        x = relu((x - mean) * (variance + 1e-5).rsqrt() * weights["norm_weight"] + weights["norm_bias"])
        x = x if drop is None else drop(x, place=1)
    return linear(x, weights["weight"], weights["bias"]), norm


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float().mean()


def _adam(state: State, grads: Mapping[str, Tensor], lr: float) -> State:
    """The state with weights moved by Adam, and with its moments and count."""
    import torch

    count = state["count"] + 1
    # 1 - beta ** count, without the digits that are lost where that is small
    of_mean, of_square = (-torch.expm1(count.float() * log(beta)) for beta in (0.9, 0.999))
    mean = {each: 0.9 * state["mean"][each] + 0.1 * grad for each, grad in grads.items()}
    square = {each: 0.999 * state["square"][each] + 0.001 * grad * grad for each, grad in grads.items()}
    weights = {
        each: weight - lr / of_mean * mean[each] / ((square[each] / of_square).sqrt() + 1e-8)
        for each, weight in state["weights"].items()
    }
    return {**state, "weights": weights, "mean": mean, "square": square, "count": count}


def _dropped(x: Tensor, *, p: float, count: Tensor, seed: int, place: int) -> Tensor:
    """Dropout whose mask is a function of seed, count and place: no generator is drawn from."""
    import torch

    if p == 0:
        return x
    mask_of = _mixed(_mixed(count * 2 + place) ^ (seed & _LOW_32))
    bits = _mixed(_mixed(torch.arange(x.numel(), device=x.device)) ^ mask_of)
    return torch.where(bits.reshape(x.shape) < p * 2**32, torch.zeros_like(x), x / (1 - p))


_LOW_32 = 2**32 - 1


def _mixed(bits: Tensor) -> Tensor:
    """A hash of 32 bits to 32, in int64: all products are below 2**59."""
    for _ in range(2):
        bits = ((bits ^ (bits >> 16)) * 0x45D9F3B) & _LOW_32
    return bits ^ (bits >> 16)
