"""Show how a generator's images change over two dimensions of its latent space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.callbacks.image_grid import as_images, checked_img_dim, image_grid
from fncb.effects import Examine, LogImage
from fncb.events import TrainEpochEnd
from fncb.fields import must_be_callable, must_be_int, must_be_number


def latent_dim_interpolator(
    latent_dim: int,
    *,
    interpolate_epoch_interval: int = 20,
    range_start: float = -5,
    range_end: float = 5,
    steps: int = 11,
    num_samples: int = 2,
    normalize: bool = True,
    img_dim: Sequence[int] | None = None,
    decode: Callable[[Any, Any], Any] | None = None,
    key: str = "latent_dim_interpolator",
) -> Callback[EmptyState]:
    """Shows a walk through the first two latent dimensions, as every n-th training epoch ends.

    The points are 0 but for these two coordinates, each of which takes `steps` equidistant values from `range_start`
    to `range_end`: the first is the image's row, the second its column. So `steps` * `steps` images are laid out in
    one, in eval mode, which goes to the sinks as `<Model>_latent_space`, `<Model>` being the model's class. Its values
    are in [0, 1]: scaled there together with `normalize`, else cut off.

    Args:
      latent_dim: coordinates of a point, 2 or more.
      interpolate_epoch_interval: epochs, 1 or more: after epoch 20, 40, ... counted from 1.
      range_start, range_end: of a coordinate, in the unit of the latent space.
      steps: values of a coordinate, 1 or more.
      num_samples: copies of each point that are decoded, 1 or more, of which the first is shown; one row of points is
        decoded at once.
      normalize: whether the least value of all images becomes 0, and the largest 1.
      img_dim: (channels, height, width), for a model that gives rows of pixels.
      decode: `decode(model, z)` gives the images for points (points, latent_dim); None calls the model.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; at an epoch's end, for what are no images.

    Example:
      >>> walk = latent_dim_interpolator(16, decode=lambda model, z: model.decoder(z))
      >>> [len(walk.transition(walk.init(), TrainEpochEnd(epoch=epoch))[1]) for epoch in (18, 19, 20, 39)]
      [0, 1, 0, 1]

    Known as:
      `LatentDimInterpolator` in Lightning Bolts.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    who = "latent_dim_interpolator"
    for name, least in (("latent_dim", 2), ("interpolate_epoch_interval", 1), ("steps", 1), ("num_samples", 1)):
        must_be_int(who, name, config[name], least)
    for name in ("range_start", "range_end"):
        must_be_number(who, name, config[name], "(-inf, inf)")
    if decode is not None:
        must_be_callable(who, "decode", decode)
    shape = checked_img_dim(who, img_dim)

    def walk(model: Any, *_: Any) -> LogImage:
        import torch

        like = next(model.parameters())
        values = torch.linspace(range_start, range_end, steps, device=like.device, dtype=like.dtype)
        rows = []
        for first in values:
            z = values.new_zeros(steps, num_samples, latent_dim)
            z[:, :, 0], z[:, :, 1] = first, values[:, None]
            z = z.flatten(0, 1)
            images = as_images(who, model(z) if decode is None else decode(model, z), shape)
            rows.append(images[::num_samples])
        return LogImage(
            f"{type(model).__name__}_latent_space", image_grid(torch.cat(rows), nrow=steps, normalize=normalize)
        )

    def on_train_epoch_end(state: EmptyState, event: TrainEpochEnd) -> EmptyState | Emit[EmptyState]:
        due = (event.epoch + 1) % interpolate_epoch_interval == 0
        return emit(state, Examine(who, walk)) if due else state

    return Callback(
        constructor="latent_dim_interpolator",
        key=key,
        emits=(Examine, LogImage),
        config=config,
        on_train_epoch_end=on_train_epoch_end,
    )
