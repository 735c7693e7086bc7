import pytest
import torch

from fncb.callbacks.image_grid import as_images, image_grid


def images(*values, size=1):
    """Images of one channel, each of one value."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 1, size, size)


def test_images_are_laid_out_row_by_row_and_what_is_left_is_padding():
    grid = image_grid(images(0.25, 0.5, 0.75), nrow=2, padding=1, pad_value=1.0)

    assert grid.tolist() == [
        [
            [1, 1, 1, 1, 1],
            [1, 0.25, 1, 0.5, 1],
            [1, 1, 1, 1, 1],
            [1, 0.75, 1, 1, 1],
            [1, 1, 1, 1, 1],
        ]
    ]


@pytest.mark.parametrize(
    ("n", "nrow", "padding", "shape"),
    [
        (3, 8, 2, (4 + 2 + 2, 3 * (5 + 2) + 2)),  # fewer images than fit into a row
        (3, 2, 2, (2 * (4 + 2) + 2, 2 * (5 + 2) + 2)),
        (3, 1, 0, (12, 5)),
        (1, 8, 2, (8, 9)),
    ],
)
def test_how_large_it_is(n, nrow, padding, shape):
    assert image_grid(torch.zeros(n, 3, 4, 5), nrow=nrow, padding=padding).shape == (3, *shape)


def test_height_and_width_stay_apart_and_channels_too():
    given = torch.rand(3, 3, 2, 4)
    grid = image_grid(given, nrow=2, padding=1)

    assert torch.equal(grid[:, 1:3, 1:5], given[0])
    assert torch.equal(grid[:, 1:3, 6:10], given[1])
    assert torch.equal(grid[:, 4:6, 1:5], given[2])


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, [0, 0.5, 1, 1]),  # cut off
        ({"normalize": True}, [0, 0.375, 0.75, 1]),  # (value + 1) / 4
        ({"normalize": True, "value_range": (-1, 1)}, [0, 0.75, 1, 1]),
        ({"normalize": True, "scale_each": True}, [0, 0, 0, 0]),  # each of one value
        ({"normalize": False, "value_range": (-1, 1)}, [0, 0.5, 1, 1]),  # a range alone scales nothing
    ],
)
def test_values_are_in_0_to_1(settings, found):
    assert image_grid(images(-1.0, 0.5, 2.0, 3.0), nrow=4, padding=0, **settings).flatten().tolist() == found


def test_each_image_can_have_a_range_of_its_own():
    given = torch.tensor([[0.0, 1.0, 2.0], [10.0, 20.0, 30.0]])[:, None, None, :]
    grid = image_grid(given, nrow=1, padding=0, normalize=True, scale_each=True)

    assert grid.tolist() == [[[0, 0.5, 1], [0, 0.5, 1]]]


def test_a_pixel_that_is_no_number_is_black():
    assert image_grid(images(torch.nan, torch.inf, -torch.inf), padding=0, pad_value=1.0).tolist() == [[[0, 1, 0]]]


def test_the_images_are_left_as_they_were():
    given = torch.tensor([-1.0, 2.0])[:, None, None, None]
    image_grid(given, normalize=True)

    assert given.flatten().tolist() == [-1.0, 2.0]


def test_half_precision_and_integers_become_float32():
    for dtype in (torch.bfloat16, torch.uint8):
        assert image_grid(torch.ones(2, 1, 2, 2, dtype=dtype)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 4), (1, 8, 8), (0, 1, 8, 8)])
def test_what_are_no_images_is_refused(shape):
    with pytest.raises(ValueError, match=r"^image_grid: images must be \(images, channels, height, width\), got"):
        image_grid(torch.zeros(shape))


def test_rows_of_pixels_become_images():
    pixels = torch.arange(24.0).reshape(2, 12)

    assert torch.equal(as_images("it", pixels, (3, 2, 2)), pixels.reshape(2, 3, 2, 2))
    assert as_images("it", torch.zeros(2, 1, 5, 5), (3, 2, 2)).shape == (2, 1, 5, 5)  # has a shape already
    with pytest.raises(ValueError, match=r"^it: images must be .* or rows of pixels with img_dim=.*, got \(2, 12\)"):
        as_images("it", pixels)
    with pytest.raises(ValueError, match="with 1, 3 or 4 channels"):
        as_images("it", torch.zeros(2, 2, 8, 8))
    with pytest.raises(TypeError, match=r"^it: images must be a tensor, got tuple. Pass decode="):
        as_images("it", (pixels,))
