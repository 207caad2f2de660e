"""What the next live site makes of what holding a site displaces: known in closed form for two normalizations in a chain."""

import numpy as np
import pytest
import torch
from planted import PlantedGenerator, PlantedSegmenter

from gandid.estimation import did
from gandid.generators.pggan import PixelNorm
from gandid.latents import latents
from gandid.study import Study


class Chain(PlantedGenerator):
    """The planted generator with a second normalization behind the first, and a bias of unit W between them."""

    def __init__(self, bias: float):
        super().__init__()
        self.bias, self.then = torch.tensor([0.0, 0.0, bias])[:, None, None], PixelNorm()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.then(super().forward(z) + self.bias)


@pytest.mark.parametrize("bias", [0.0, 1.5])
@pytest.mark.parametrize("rows", [64, 4])  # with live and held in passes of their own, too
def test_the_next_live_site_undoes_a_known_share(bias, rows):
    """All of it without a bias, since the second site divides by the same scale; of a sum with a bias what that leaves of the scale."""
    study = Study(Chain(bias), PlantedSegmenter(), layer="paint", seed=3)
    study.rows = rows
    panel = study.run({"a": [0]}, control=["capped"], hold=["first"], latents=12, ranking_latents=8)
    shown = (latents(3, range(12), 1)[:, 0] > 0).numpy().astype(float)  # of unit B, in the half where A is ablated
    held, live = (np.sqrt((a + shown + 1) / 3) for a in (9, 0))
    first = np.log(held / live) / 2  # the other half of the image is as it was
    sizes = [np.sqrt(shown / by**2 + (1 / by + bias) ** 2) for by in (held, live)]
    second = np.abs(np.log(sizes[0] / sizes[1])) / 2
    np.testing.assert_allclose(
        panel["rescaling"].sel(arm="capped:first")[:, 0], np.stack([first, second], axis=1), rtol=1e-4
    )
    assert (panel["rescaling"].sel(arm="live") == 0).all()
    row = did(panel).checks.set_index("check").loc["undone"]
    assert (row["arm"], row["verdict"]) == ("capped:first", "ok")
    assert row["value"] == pytest.approx(second.mean() / first.mean(), rel=1e-4)
    assert (row["value"] == pytest.approx(1, rel=1e-4)) == (bias == 0)
    assert "undone" not in set(did(panel.drop_vars("rescaling")).checks["check"])  # as of an older panel


class Ramp(torch.nn.Module):
    """Three equal units that rise over 256 positions, from 1 to exp(z)."""

    latent_dim, resolution = 1, 16

    def __init__(self):
        super().__init__()
        self.paint, self.norm = torch.nn.Identity(), PixelNorm()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        rise = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
        return self.norm(self.paint((z[:, :, None, None] * rise).exp().expand(-1, 3, -1, -1)))


def test_the_range_is_that_of_both_ends_of_one_per_cent():
    """As strain is, whose larger end of two is compared with it: the 98 % point of the absolute log-ratio of two latents."""
    study = Study(Ramp(), PlantedSegmenter(), layer="paint", seed=3)
    panel = study.run({"a": [0]}, control=["capped"], hold=["first"], latents=4, ranking_latents=8)
    own, others = latents(3, range(4), 1), latents(3, range(4), 1, "typical")
    expected = (own - others).abs()[:, 0].numpy() * 250 / 255
    np.testing.assert_allclose(panel["range"][:, 0], expected, rtol=1e-3)
