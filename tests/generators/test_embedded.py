"""The embedded rooms generator keeps its promises."""

from pathlib import Path

import pytest

import gandid
from gandid.generators import NAMED, load_discriminator
from gandid.generators.distilled import AGREEMENT, KINDS, read_distilled
from gandid.interventions import Runner, find_sites
from gandid.latents import latents
from lab.discriminator import told_apart
from lab.quality import missed, quality

PACKAGE = Path(gandid.__file__).parent


def test_everything_embedded_fits_into_sixteen_megabytes():
    weights = list(PACKAGE.rglob("*.safetensors"))
    assert len(weights) >= 3
    assert sum(path.stat().st_size for path in weights) <= 16_000_000
    for path in weights:
        cards = path.with_suffix(".md"), path.parent.with_suffix(".md")  # a folder of networks has one
        assert any(card.is_file() for card in cards), f"{path.name} has no model card"


ROOMS = [name for name in NAMED if name.startswith("rooms")]


@pytest.mark.parametrize("name", ROOMS)
def test_the_rooms_generators_meet_their_bars(name):
    """On 500 of the 2,000 latents that the model cards report."""
    table = quality(gandid.load_generator(name), gandid.load_segmenter("rooms"), scenes=500)
    assert not missed(table), table.to_string()


def test_there_are_three_seeds_a_twin_and_two_networks_on_the_way():
    assert {"rooms", "rooms-1", "rooms-2", "rooms-twin", "rooms-early", "rooms-half"} == set(ROOMS)
    generators = {name: gandid.load_generator(name) for name in ROOMS}
    assert [name for name, generator in generators.items() if not generator.pixel_norm] == ["rooms-twin"]
    z = latents(0, range(8), 64)
    images = {name: generator(z) for name, generator in generators.items()}
    for name in ROOMS[1:]:  # the same scenes of the same latents, by other weights
        assert 0 < float((images[name] - images["rooms"]).abs().mean()) < 0.2


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


def test_the_discriminator_prefers_unedited_images():
    generator, discriminator = gandid.load_generator("rooms"), load_discriminator("rooms")
    assert told_apart(discriminator, generator, count=30) > 0.6
