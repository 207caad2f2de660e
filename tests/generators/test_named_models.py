"""The registry of named models says what is true, and `gandid models` says it."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

import gandid
from gandid.cli import app
from gandid.config import StudyConfig
from gandid.generators import NAMED, load_discriminator
from gandid.generators.download import cached_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "liu2020.yaml"
EMBEDDED = [model for model in NAMED.values() if model.weights]
PUBLIC = [model for model in NAMED.values() if model.url]


def parameters(resolution: int) -> int:
    """Of the generator of Karras et al. 2018, counted by hand: 16384 / resolution channels, 512 at most."""
    widths = [512] + [min(512, 16384 // (4 << level)) for level in range((resolution // 4).bit_length())]
    count = 16 * widths[0] * widths[1] + 9 * widths[1] ** 2 + 2 * widths[1]
    for before, width in pairwise(widths[1:]):
        count += 9 * before * width + 9 * width**2 + 2 * width
    return count + 3 * widths[-1] + 3


def test_a_model_is_embedded_or_public_and_named_for_itself():
    assert len(PUBLIC) >= 12 and len(EMBEDDED) + len(PUBLIC) == len(NAMED)
    for name, model in NAMED.items():
        assert model.name == name
        assert model.source and model.licence and model.why


def test_public_files_tell_their_own_digest_and_do_not_collide():
    for model in PUBLIC:
        assert re.fullmatch(r"https://\S+[_/]\S+\.pth", model.url) and model.url.startswith(model.source)
        assert re.fullmatch(r"[0-9a-f]{8}", model.sha256) and f"-{model.sha256}." in model.url
    assert len({cached_file(model) for model in PUBLIC}) == len(PUBLIC)


def test_the_listed_sizes_follow_from_the_architecture():
    for model in PUBLIC:
        networks = 1 if model.name.startswith("dissect/") else 3  # generator, its average, a discriminator of its size
        assert model.megabytes == pytest.approx(networks * parameters(model.resolution) * 4 / 1e6, rel=0.005)


def test_embedded_models_are_what_the_registry_says():
    for model in EMBEDDED:
        generator = gandid.load_generator(model.name)
        assert generator.resolution == model.resolution
        assert model.default_layer in generator.layers
        assert model.megabytes == model.weights.stat().st_size / 1e6


def test_public_models_have_the_papers_layer_and_no_judge():
    for model in PUBLIC:
        assert model.default_layer == "layer4"
        assert load_discriminator(model.name) is None


def test_models_are_listed_with_what_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("GANDID_CACHE", str(tmp_path))
    cached_file(NAMED["dissect/kitchen"]).write_bytes(b"a file of that name")
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines() if " px " in line}
    assert set(rows) == set(NAMED)
    assert rows["rooms"] == "64 px 1 MB here"
    assert rows["dissect/kitchen"] == "256 px 92 MB here"
    assert rows["ganzoo/celebahq-512"] == "512 px 277 MB to be downloaded"
    assert str(tmp_path) in done.stdout


def test_the_papers_setting_is_a_valid_study():
    config = StudyConfig.read(EXAMPLE)
    model = NAMED[config.generator]
    assert (config.layer, config.units) == (model.default_layer, 20)
    assert config.targets == ("chair", "painting", "lamp", "light")
    assert config.segmenter == "nvidia/segformer-b0-finetuned-ade-512-512"
