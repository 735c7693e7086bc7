"""Add noise to the gradients that dies away."""

from fncb.callback import Callback, Emit, EmptyState, StepHooks, emit
from fncb.events import BeforeOptimizerStep
from fncb.fields import must_be_number


def grad_noise(eta: float = 0.3, *, gamma: float = 0.55, key: str = "grad_noise") -> Callback[EmptyState]:
    """Adds Gaussian noise to the gradients, with a variance that decays from step to step.

    To each element of the gradients of a whole window, before the optimizer steps, noise of mean 0 and variance
    eta / (1 + t) ** gamma is added, t being the number of optimizer steps made. It is drawn from torch's default
    generator, whose state a checkpoint holds. Clipping that comes before it in a composition does not see it.

    Args:
      eta: in the gradients' unit, squared, 0 or more; the paper takes 0.01, 0.3 or 1.
      gamma: dimensionless, 0 or more; 0 keeps the variance.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for an argument out of range or of the wrong kind.

    Example:
      >>> import torch
      >>> _ = torch.manual_seed(0)
      >>> step, grads = torch.tensor(3), {"w": torch.zeros(100000)}
      >>> out = grad_noise(1.0, gamma=1.0).step.on_before_optimizer_step(
      ...     EmptyState(), BeforeOptimizerStep(step=step, grads=grads)
      ... )
      >>> round(out.replaced["grads"]["w"].var().item(), 2)
      0.25

    Reference:
      Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks", 2015, section 3.

    Known as:
      `add_noise` in optax.
    """
    must_be_number("grad_noise", "eta", eta, "[0, inf)")
    must_be_number("grad_noise", "gamma", gamma, "[0, inf)")

    def on_before_optimizer_step(state: EmptyState, event: BeforeOptimizerStep) -> Emit[EmptyState]:
        import torch

        deviation = (eta / (1.0 + event.step) ** gamma) ** 0.5
        noisy = {name: (grad + deviation * torch.randn_like(grad)).to(grad.dtype) for name, grad in event.grads.items()}
        return emit(state, grads=noisy)

    return Callback(
        constructor="grad_noise",
        key=key,
        step=StepHooks(init=lambda _: EmptyState(), on_before_optimizer_step=on_before_optimizer_step),
        emits=(),
        config={"eta": eta, "gamma": gamma},
    )
