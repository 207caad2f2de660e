"""The embedded rooms generator keeps its promises."""

from pathlib import Path

import pytest
import torch

import gandid
from gandid.generators import NAMED, load_discriminator
from gandid.interventions import find_sites
from lab.first.quality import evaluate_generator

PACKAGE = Path(gandid.__file__).parent


def test_everything_embedded_fits_into_ten_megabytes():
    weights = list(PACKAGE.rglob("*.safetensors"))
    assert len(weights) >= 3
    assert sum(path.stat().st_size for path in weights) <= 10_000_000
    for path in weights:
        assert path.with_suffix(".md").is_file(), f"{path.name} has no model card"


@pytest.mark.parametrize("name", ["rooms", "rooms-twin"])
def test_the_rooms_generators_meet_their_bars(name):
    """On 500 of the 2,000 samples that the model cards report."""
    quality = evaluate_generator(gandid.load_generator(name), gandid.load_segmenter("rooms"), samples=500)
    assert quality["area_ok"].dropna().all() and quality["presence_ok"].dropna().all(), quality.to_string()
    assert quality.loc["unknown", "area"] < 0.02


def test_of_the_twin_only_the_latents_are_normalized():
    generator, twin = gandid.load_generator("rooms"), gandid.load_generator(NAMED["rooms"].twin)
    assert len(find_sites(generator)) == len(generator.layers) + 1
    assert list(find_sites(twin)) == ["layer1.norm"]  # of the latents
    assert twin.layers == generator.layers


def test_the_discriminator_prefers_samples_to_noise():
    generator, discriminator = gandid.load_generator("rooms"), load_discriminator("rooms")
    z = torch.randn(16, generator.latent_dim, generator=torch.Generator().manual_seed(0))
    images = generator(z)
    noisy = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    assert discriminator(images).mean() > discriminator(noisy).mean() + 1
