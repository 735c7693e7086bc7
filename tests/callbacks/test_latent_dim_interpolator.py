import pytest
import torch
from torch import nn

from fncb.callbacks.image_grid import image_grid
from fncb.callbacks.latent_dim_interpolator import latent_dim_interpolator
from fncb.effects import Examine
from fncb.events import TrainEpochEnd
from tests.callbacks.digits import batches, keeps, train, vae_task
from tests.folding import fold


def walked(walk, model):
    """What it shows of a model."""
    ends = [TrainEpochEnd(epoch=epoch) for epoch in range(20)]
    return fold(walk, ends).of(Examine)[0].fn(model, TrainEpochEnd(), {})


@pytest.mark.parametrize(("every", "epochs"), [(20, [19, 39]), (1, list(range(40))), (7, [6, 13, 20, 27, 34])])
def test_it_looks_at_the_end_of_every_nth_epoch(every, epochs):
    walk = latent_dim_interpolator(2, interpolate_epoch_interval=every)
    looked = [epoch for epoch in range(40) if fold(walk, [TrainEpochEnd(epoch=epoch)]).effects]

    assert looked == epochs


def test_rows_are_the_first_coordinate_columns_the_second_and_all_others_are_0():
    given = []

    def decode(model, z):
        given.append(z)
        return z[:, :1, None, None] * 10 + z[:, 1:2, None, None]

    walk = latent_dim_interpolator(
        4, range_start=0, range_end=2, steps=3, num_samples=2, decode=decode, normalize=False
    )
    shown = walked(walk, nn.Linear(1, 1))

    points = torch.cat(given)
    assert points.shape == (3 * 3 * 2, 4)
    assert points[::2].tolist() == points[1::2].tolist() == [[a, b, 0, 0] for a in range(3) for b in range(3)]
    assert shown.name == "Linear_latent_space"
    expected = torch.tensor([0.0, 1, 2, 10, 11, 12, 20, 21, 22])[:, None, None, None]
    assert torch.equal(shown.image, image_grid(expected, nrow=3))


def test_a_rows_points_are_decoded_at_once_and_the_first_of_each_is_shown():
    sizes = []

    def decode(model, z):
        sizes.append(len(z))
        copy = torch.arange(len(z)) % 5
        return (copy / 4)[:, None, None, None]

    walk = latent_dim_interpolator(2, steps=4, num_samples=5, decode=decode, normalize=False)
    shown = walked(walk, nn.Linear(1, 1))

    assert sizes == [20] * 4
    assert shown.image.max() == 0


def test_it_goes_from_minus_5_to_5_in_11_steps_unless_told_otherwise():
    given = []
    walked(latent_dim_interpolator(2, decode=lambda _, z: given.append(z) or z[:, :1, None, None]), nn.Linear(1, 1))

    assert len(torch.cat(given)) == 2 * 121
    assert torch.cat(given)[:, 1].unique().tolist() == list(range(-5, 6))


def test_all_images_are_scaled_together():
    shown = walked(latent_dim_interpolator(2, decode=lambda _, z: z[:, :1, None, None]), nn.Linear(1, 1))

    assert shown.image[0, 2::3, 2].tolist() == pytest.approx([i / 10 for i in range(11)])


def test_a_vae_that_learned_digits_shows_its_latent_space():
    sink, shown = keeps()
    walk = latent_dim_interpolator(2, interpolate_epoch_interval=4, range_start=-2, range_end=2, img_dim=(1, 8, 8))

    task = vae_task()
    run = train(task, batches(0, 1024), callbacks=walk, sinks=[sink], max_epochs=10)

    assert [step for step, _ in shown["VAE_latent_space"]] == [4 * 16, 8 * 16]
    image = shown["VAE_latent_space"][-1][1]
    assert image.shape == (1, 112, 112)
    assert (image.min(), image.max()) == (0, 1)
    corners = image[:, 2:10, 2:10], image[:, 2:10, -10:-2], image[:, -10:-2, 2:10], image[:, -10:-2, -10:-2]
    assert all((one - other).abs().mean() > 0.05 for one in corners for other in corners if one is not other)
    assert run.step == 160


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 1}, "latent_dim must be 2 or more, got 1"),
        ({"interpolate_epoch_interval": 0}, "interpolate_epoch_interval must be 1 or more, got 0"),
        ({"steps": 1.0}, "steps must be an int, got 1.0"),
        ({"num_samples": 0}, "num_samples must be 1 or more, got 0"),
        ({"range_start": torch.nan}, r"range_start must be a number in \(-inf, inf\), got nan"),
        ({"range_end": torch.inf}, r"range_end must be a number in \(-inf, inf\), got inf"),
        ({"img_dim": (1, 8, 0)}, r"img_dim must be \(channels, height, width\), got \(1, 8, 0\)"),
        ({"decode": "model"}, "decode must be a function, got 'model'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"^latent_dim_interpolator: {message}"):
        latent_dim_interpolator(**{"latent_dim": 2, **arguments})
