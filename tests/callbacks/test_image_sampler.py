import pytest
import torch
from torch import nn

from fncb.callbacks.image_grid import image_grid
from fncb.callbacks.image_sampler import image_sampler
from fncb.effects import Examine
from fncb.events import TrainEpochEnd
from tests.callbacks.digits import batches, keeps, train, vae_task
from tests.folding import fold


def drawn(sampler, model):
    """What it shows of a model."""
    return fold(sampler, [TrainEpochEnd()]).effects[0].fn(model, TrainEpochEnd(), {})


def test_it_looks_at_the_end_of_each_training_epoch():
    ends = [TrainEpochEnd(epoch=epoch) for epoch in range(3)]

    assert fold(image_sampler(2), ends).effects == (Examine("image_sampler"),) * 3


def test_it_decodes_standard_normal_points_into_one_image_named_for_the_model():
    model = nn.Linear(2, 9)
    torch.manual_seed(1)
    shown = drawn(image_sampler(2, num_samples=5, nrow=3, padding=1, pad_value=0.5, img_dim=(1, 3, 3)), model)
    torch.manual_seed(1)
    expected = model(torch.randn(5, 2)).reshape(5, 1, 3, 3)

    assert shown.name == "Linear_images"
    assert torch.equal(shown.image, image_grid(expected, nrow=3, padding=1, pad_value=0.5))


def test_ranges_are_scaled_as_asked():
    model = nn.Tanh()
    model.register_parameter("p", nn.Parameter(torch.zeros(1)))
    torch.manual_seed(1)
    shown = drawn(image_sampler(4, normalize=True, norm_range=(-1, 1), img_dim=(1, 2, 2)), model)
    torch.manual_seed(1)
    expected = (torch.randn(3, 4).tanh() + 1) / 2

    torch.testing.assert_close(shown.image, image_grid(expected.reshape(3, 1, 2, 2)))
    each = drawn(image_sampler(4, normalize=True, scale_each=True, img_dim=(1, 2, 2), padding=0), model).image
    assert [(part.min(), part.max()) for part in each.split(2, dim=2)] == [(0, 1)] * 3


def test_points_are_of_the_format_of_the_model():
    model = nn.Linear(4, 4).double()

    assert drawn(image_sampler(4, img_dim=(1, 2, 2)), model).image.dtype == torch.float32
    assert drawn(image_sampler(4, decode=lambda model, z: model(z).reshape(-1, 1, 2, 2)), model).image.dim() == 3


def test_a_vae_that_learned_digits_shows_some_and_is_trained_as_without():
    """Its own draws, which depend on the run's, leave the run's as they were."""
    sink, shown = keeps()
    sampler = image_sampler(2, num_samples=6, nrow=3, img_dim=(1, 8, 8))

    with_images, without = vae_task(), vae_task()
    train(with_images, batches(0, 512), callbacks=sampler, sinks=[sink], max_epochs=3, seed=0)
    train(without, batches(0, 512), max_epochs=3, seed=0)

    assert all(map(torch.equal, with_images.model.parameters(), without.model.parameters()))
    assert [step for step, _ in shown["VAE_images"]] == [8, 16, 24]
    last = shown["VAE_images"][-1][1]
    assert last.shape == (1, 2 * 10 + 2, 3 * 10 + 2)
    assert 0 <= last.min() < 0.2 < 0.7 < last.max() <= 1  # ink and paper


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be 1 or more, got 0"),
        ({"num_samples": True}, "num_samples must be an int, got True"),
        ({"nrow": 0}, "nrow must be 1 or more, got 0"),
        ({"padding": -1}, "padding must be 0 or more, got -1"),
        ({"norm_range": (1, -1)}, r"norm_range must be \(least, largest\), got \(1, -1\)"),
        ({"norm_range": (0, torch.nan)}, r"norm_range must be \(least, largest\), got \(0, nan\)"),
        ({"pad_value": 2}, r"pad_value must be a number in \[0, 1\], got 2"),
        ({"pad_value": torch.nan}, r"pad_value must be a number in \[0, 1\], got nan"),
        ({"img_dim": (8, 8)}, r"img_dim must be \(channels, height, width\), got \(8, 8\)"),
        ({"decode": 1}, "decode must be a function, got 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"^image_sampler: {message}"):
        image_sampler(**{"latent_dim": 2, **arguments})
