"""Several images as one, in rows, for effects that show images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def image_grid(
    images: Tensor,
    *,
    nrow: int = 8,
    padding: int = 2,
    normalize: bool = False,
    value_range: tuple[float, float] | None = None,
    scale_each: bool = False,
    pad_value: float = 0.0,
) -> Tensor:
    """Lays images out row by row, with `padding` pixels around each.

    The values are in [0, 1] in the end: with `normalize`, the range goes to it linearly, and what is outside of that
    is cut off; without, what is outside of [0, 1] is. A pixel that is not a number is black. A range narrower than
    1e-5 counts as that wide, so that images of one value are black.

    Args:
      images: (images, channels, height, width), of any real dtype.
      nrow: images in a row, 1 or more; fewer where there are fewer.
      padding: pixels, 0 or more.
      normalize: whether the range goes to [0, 1].
      value_range: the least and the largest value of the range; None for those of the images.
      scale_each: whether each image has a range of its own, where none is given.
      pad_value: of the pixels between, in [0, 1].

    Returns:
      (channels, height, width), float32.

    Raises:
      ValueError: for images of another shape, or none.

    Example:
      >>> import torch
      >>> image_grid(torch.tensor([[[[0.25]]], [[[0.5]]]]), padding=1, pad_value=1.0)
      tensor([[[1.0000, 1.0000, 1.0000, 1.0000, 1.0000],
               [1.0000, 0.2500, 1.0000, 0.5000, 1.0000],
               [1.0000, 1.0000, 1.0000, 1.0000, 1.0000]]])
    """
    if images.dim() != 4 or not len(images):
        raise ValueError(f"image_grid: images must be (images, channels, height, width), got {tuple(images.shape)}.")
    images = images.detach().float()
    if normalize:
        if value_range is not None:
            low, high = images.new_tensor(value_range)
        else:
            dims = (1, 2, 3) if scale_each else (0, 1, 2, 3)
            low, high = images.amin(dims, keepdim=True), images.amax(dims, keepdim=True)
        images = (images - low) / (high - low).clamp(min=1e-5)
    images = images.clamp(0.0, 1.0).nan_to_num(0.0)

    n, channels, height, width = images.shape
    columns = min(nrow, n)
    rows = -(-n // columns)
    down, across = height + padding, width + padding
    grid = images.new_full((channels, rows * down + padding, columns * across + padding), pad_value)
    for i, image in enumerate(images):
        top, left = i // columns * down + padding, i % columns * across + padding
        grid[:, top : top + height, left : left + width] = image
    return grid


def as_images(who: str, given: Any, img_dim: tuple[int, int, int] | None = None) -> Tensor:
    """What a model returned as (images, channels, height, width): rows of pixels are shaped as `img_dim` says.

    Raises:
      TypeError, ValueError: for what is no tensor or has no such shape.
    """
    if not hasattr(given, "dim"):
        raise TypeError(f"{who}: images must be a tensor, got {type(given).__name__}. Pass decode=, which returns one.")
    if given.dim() == 2 and img_dim is not None:
        return given.reshape(len(given), *img_dim)
    if given.dim() != 4 or given.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"{who}: images must be (images, channels, height, width) with 1, 3 or 4 channels, or rows of pixels with "
            f"img_dim=(channels, height, width), got {tuple(given.shape)}."
        )
    return given


def checked_img_dim(who: str, img_dim: Sequence[int] | None) -> tuple[int, int, int] | None:
    """The shape of an image, if one is given.

    Raises:
      ValueError: unless it is three numbers, 1 or more.
    """
    if img_dim is None:
        return None
    if len(img_dim) != 3 or not all(type(size) is int and size > 0 for size in img_dim):
        raise ValueError(f"{who}: img_dim must be (channels, height, width), got {img_dim!r}.")
    channels, height, width = img_dim
    return channels, height, width
