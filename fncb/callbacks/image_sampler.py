"""Show images that a generator makes of random points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from fncb.callback import Callback, Emit, EmptyState, emit
from fncb.callbacks.image_grid import as_images, checked_img_dim, image_grid
from fncb.effects import Examine, LogImage
from fncb.events import TrainEpochEnd
from fncb.fields import must_be_callable, must_be_int, must_be_number


def image_sampler(
    latent_dim: int,
    *,
    num_samples: int = 3,
    nrow: int = 8,
    padding: int = 2,
    normalize: bool = False,
    norm_range: tuple[float, float] | None = None,
    scale_each: bool = False,
    pad_value: float = 0.0,
    img_dim: Sequence[int] | None = None,
    decode: Callable[[Any, Any], Any] | None = None,
    key: str = "image_sampler",
) -> Callback[EmptyState]:
    """Shows what the model makes of random points, as each training epoch ends.

    The points are drawn from the standard normal distribution, anew each time, in eval mode; the run's generators are
    left as they were. The images are laid out in one, which goes to the sinks as `<Model>_images`, `<Model>` being the
    model's class. Its values are in [0, 1]: scaled there with `normalize`, else cut off.

    Args:
      latent_dim: coordinates of a point, 1 or more.
      num_samples: images, 1 or more.
      nrow: images in a row, 1 or more.
      padding: pixels between images and around them, 0 or more.
      normalize: whether `norm_range` is scaled to [0, 1].
      norm_range: least and largest value, for example (-1, 1) after tanh; None for those of the images.
      scale_each: whether each image is scaled by its own least and largest value, where no range is given.
      pad_value: what the pixels between are, in [0, 1].
      img_dim: (channels, height, width), for a model that gives rows of pixels.
      decode: `decode(model, z)` gives the images for points (points, latent_dim); None calls the model.
      key: names the callback.

    Returns:
      A `Callback` that remembers nothing.

    Raises:
      ValueError, TypeError: for arguments out of range or of the wrong kind; at an epoch's end, for what are no images.

    Example:
      >>> sampler = image_sampler(16, decode=lambda model, z: model.decoder(z))
      >>> sampler.transition(sampler.init(), TrainEpochEnd())[1]
      (Examine(name='image_sampler'),)

    Known as:
      `TensorboardGenerativeModelImageSampler` in Lightning Bolts.
    """
    config = {name: value for name, value in locals().items() if name != "key"}
    who = "image_sampler"
    for name, least in (("latent_dim", 1), ("num_samples", 1), ("nrow", 1), ("padding", 0)):
        must_be_int(who, name, config[name], least)
    must_be_number(who, "pad_value", pad_value, "[0, 1]")
    if norm_range is not None and not (all(map(isfinite, norm_range)) and norm_range[0] < norm_range[1]):
        raise ValueError(f"{who}: norm_range must be (least, largest), got {norm_range!r}.")
    if decode is not None:
        must_be_callable(who, "decode", decode)
    shape = checked_img_dim(who, img_dim)

    def draw(model: Any, *_: Any) -> LogImage:
        import torch

        like = next(model.parameters())
        z = torch.randn(num_samples, latent_dim, device=like.device, dtype=like.dtype)
        images = as_images(who, model(z) if decode is None else decode(model, z), shape)
        grid = image_grid(
            images,
            nrow=nrow,
            padding=padding,
            normalize=normalize,
            value_range=norm_range,
            scale_each=scale_each,
            pad_value=pad_value,
        )
        return LogImage(f"{type(model).__name__}_images", grid)

    def on_train_epoch_end(state: EmptyState, event: TrainEpochEnd) -> Emit[EmptyState]:
        return emit(state, Examine(who, draw))

    return Callback(
        constructor="image_sampler",
        key=key,
        emits=(Examine, LogImage),
        config=config,
        on_train_epoch_end=on_train_epoch_end,
    )
