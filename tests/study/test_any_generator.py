"""A network that nobody here made: the trained DCGAN inside of the package gan-face-generate.

Its normalizations are batch normalizations, which in evaluation mode cannot respond to an edit. With others in their
place, given the same scales and shifts, they can. The package is installed without its dependencies (`make install`).
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from gandid.estimation import did
from gandid.generators import load_generator
from gandid.interventions import REFERENCE, Arm, ablate, hold
from gandid.segmenters import load_segmenter
from gandid.study import Study

FACTORY = '''
from pathlib import Path

import gan_face_generate
import torch
from gan_face_generate.models import Generator
from torch import nn

from gandid.segmenters import FunctionSegmenter


class Faces(nn.Module):
    """The DCGAN takes latents (N, 100, 1, 1)."""

    latent_dim = 100

    def __init__(self, norm=None):
        super().__init__()
        self.net = Generator(ngpu=1, nc=3, nz=100, ngf=64)
        file = Path(gan_face_generate.__file__).with_name("weights.tar")
        self.net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["netG_state_dict"])
        for place in (1, 4, 7, 10) if norm else ():
            batch = self.net.main[place]
            self.net.main[place] = norm(batch.num_features)
            self.net.main[place].load_state_dict({"weight": batch.weight, "bias": batch.bias})

    def forward(self, z):
        return self.net(z[:, :, None, None])


def batch():
    return Faces()


def group():
    return Faces(lambda channels: nn.GroupNorm(8, channels))


def instance():
    return Faces(lambda channels: nn.InstanceNorm2d(channels, affine=True))


def colours():
    def label(images):
        red, _, blue = images.unbind(1)
        light = images.mean(1)
        return torch.where((red - blue > 0.2) & (light > -0.6), 1, torch.where(light < -0.6, 2, 0))

    return FunctionSegmenter(label, ["rest", "skin", "dark"], background=["rest"])
'''
LAYER = "net.main.3"  # 256 units at 8x8, before the second normalization
SITES = ("net.main.4", "net.main.7", "net.main.10")
UNITS = tuple(range(40))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("faces") / "faces.py"
    path.write_text(FACTORY, encoding="utf-8")
    return path


def study_of(file: Path, name: str) -> Study:
    return Study(load_generator(f"{file}:{name}"), load_segmenter(f"{file}:colours"), layer=LAYER, seed=1)


def measured(file: Path, name: str, latents: int = 32, **options):
    study = study_of(file, name)
    assert study.runner.downstream == SITES and study.runner.image_size == (64, 64)
    panel = study.run({"skin": UNITS}, control=["capped", "frozen"], hold=["first", "all"], latents=latents, **options)
    return study, panel, did(panel)


def test_the_weights_are_the_trained_ones(file):
    """Smooth images, redder in the middle than at the border, and other ones for other latents."""
    generator = load_generator(f"{file}:batch")
    z = torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        images = generator(z)
    assert images.shape == (64, 3, 64, 64) and images.abs().max() <= 1
    middle, border = images[:, :, 20:44, 20:44].mean((0, 2, 3)), images[:, :, :, [0, -1]].mean((0, 2, 3))
    assert (middle - border)[0] > 0.05  # a face is redder than what is behind it
    assert middle[0] > middle[1] > middle[2]  # and the colour of skin
    assert images.std(dim=0).mean() > 0.3
    smooth = (images[..., 1:] - images[..., :-1]).abs().mean()
    assert smooth < 0.1  # untrained weights give noise


def test_batch_normalization_cannot_respond_and_the_report_says_why(file, tmp_path):
    study, panel, effects = measured(file, "batch", store=tmp_path / "run")
    assert not any(study.runner.responds.values())
    frame = effects.to_frame().query("contrast == 'did'")
    assert frame.query("outcome == 'removed'")["tau_live"].iloc[0] > 0.02  # the edit does something
    assert (frame["did"].dropna() == 0).all() and (frame["tau_live"] - frame["tau_held"]).dropna().eq(0).all()
    assert (panel["strain"].isel(arm=panel["block"].values == "study") == 0).all() and (panel["range"] == 0).all()
    assert panel["gain_error"].isnull().all() and (panel["gain"].dropna("latent") == 1).all()
    assert not panel["responds"].any()
    rows = effects.checks.query("check == 'responds'")
    assert set(rows["arm"]) == {"capped:first", "capped:all", "frozen:first", "frozen:all"}
    assert (rows["verdict"] == "flagged").all() and (rows["value"] == 0).all()
    # The images too are equal to the last bit, not their labels alone.
    edit, downstream = ablate(UNITS), study.runner.downstream
    arms = [REFERENCE, Arm(edit), *(Arm(edit, hold(c, "all", downstream)) for c in ("capped", "frozen"))]
    images = study.runner.run(torch.randn(4, 100, generator=torch.Generator().manual_seed(0)), arms)
    assert torch.equal(images[1], images[2]) and torch.equal(images[1], images[3])


@pytest.mark.parametrize("name", ["group", "instance"])
def test_with_other_normalizations_it_can(file, name):
    study, panel, effects = measured(file, name)
    assert all(study.runner.responds.values()) and not study.runner.closed_form
    assert "responds" not in set(effects.checks["check"])
    assert panel["gain_error"].isnull().all() and panel["gain"].notnull().any()
    assert panel["baseline_gap"].max() == 0 and panel["placebo_gap"].max() == 0
    removed = effects.to_frame().query("contrast == 'did'").query("outcome == 'removed'").set_index(["control", "held"])
    assert (removed["did"].xs("all", level="held") != 0).all()
    assert removed.loc[("frozen", "all"), "p"] < 0.01
    assert abs(removed.loc[("frozen", "all"), "did"]) > 0.02
    if name == "instance":
        # Each unit has a scale of its own: at the first site nothing amplifies the survivors of a whole unit.
        assert removed.loc[("capped", "first"), "did"] == 0
        np.testing.assert_array_equal(panel["gain"].dropna("latent"), 1)
    else:
        assert removed.loc[("capped", "first"), "did"] != 0
