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
