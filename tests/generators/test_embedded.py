"""The embedded rooms generator keeps its promises."""

from pathlib import Path

import pytest
import torch

import gandid
from gandid.generators import NAMED, load_discriminator
from gandid.generators.distilled import AGREEMENT, KINDS, read_distilled
from gandid.interventions import Runner, find_sites
from gandid.latents import latents
from lab.first.quality import evaluate_generator

PACKAGE = Path(gandid.__file__).parent


def test_everything_embedded_fits_into_sixteen_megabytes():
    weights = list(PACKAGE.rglob("*.safetensors"))
    assert len(weights) >= 3
    assert sum(path.stat().st_size for path in weights) <= 16_000_000
    for path in weights:
        cards = path.with_suffix(".md"), path.parent.with_suffix(".md")  # a folder of networks has one
        assert any(card.is_file() for card in cards), f"{path.name} has no model card"


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


def test_the_distilled_networks_make_the_same_images():
    """On 64 of the 512 latents that their card reports."""
    generator, segmenter, model = gandid.load_generator("rooms"), gandid.load_segmenter("rooms"), NAMED["rooms"]
    z = latents(0, range(64), generator.latent_dim)
    wanted, found = generator(z), set()
    for path in model.distilled:
        name, network = read_distilled(path, generator, model.default_layer)
        made = network(z)
        assert float((segmenter(made) == segmenter(wanted)).float().mean()) > AGREEMENT, name
        responds = Runner(network, model.default_layer).responds
        assert len(responds) == 7 and set(responds.values()) == {name.startswith("placebo")}
        found.add(name)
    assert found == {f"{kind}-{seed}" for kind in KINDS for seed in (1, 2, 3)}


def test_the_discriminator_prefers_samples_to_noise():
    generator, discriminator = gandid.load_generator("rooms"), load_discriminator("rooms")
    z = torch.randn(16, generator.latent_dim, generator=torch.Generator().manual_seed(0))
    images = generator(z)
    noisy = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    assert discriminator(images).mean() > discriminator(noisy).mean() + 1
