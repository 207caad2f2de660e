"""One study, estimated by two econometrics packages: the numbers of `effects.csv` are theirs."""

import numpy as np
import pandas as pd
import pytest
from planted import PlantedGenerator, PlantedSegmenter

import gandid

pf = pytest.importorskip("pyfixest")
peer = pytest.importorskip("diff_diff")

N = 150


@pytest.fixture(scope="module")
def panel():
    study = gandid.Study(PlantedGenerator(), PlantedSegmenter(), layer="paint", seed=0)
    return study.run({"a": [0]}, control="frozen", hold="first", latents=N)


@pytest.fixture(scope="module")
def long(panel):
    """Area of `b` per latent, edit and regime; the reference is the unedited arm of both."""
    area = panel["pixels"].sel(target="a", object="b").to_series().unstack("arm") / panel.attrs["image_pixels"]
    cells = {(1, 1): "live", (0, 1): "reference", (1, 0): "frozen:first", (0, 0): "reference"}
    parts = [
        pd.DataFrame({"y": area[arm].to_numpy(), "edit": edit, "live": live, "latent": np.arange(N)})
        for (edit, live), arm in cells.items()
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def mine(panel):
    frame = gandid.did(panel).to_frame()
    return frame[(frame["object"] == "b") & (frame["outcome"] == "area")].iloc[0]


def test_pyfixest_finds_the_same_did_and_error(long, mine):
    ssc = pf.ssc(k_adj=False, G_adj=True)
    fit = pf.feols("y ~ edit * live | latent", long, vcov={"CRV1": "latent"}, ssc=ssc).tidy().loc["edit:live"]
    assert mine["did"] != 0
    assert fit["Estimate"] == pytest.approx(mine["did"])
    assert fit["Std. Error"] == pytest.approx(mine["se"])
    assert [fit["2.5%"], fit["97.5%"]] == pytest.approx([mine["ci_low"], mine["ci_high"]])


def test_diff_diff_finds_the_same_did_and_error(long, mine):
    fit = peer.DifferenceInDifferences(cluster="latent").fit(
        long.rename(columns={"live": "treated", "edit": "after"}), outcome="y", treatment="treated", post="after"
    )
    assert fit.att == pytest.approx(mine["did"])
    # Its small-sample factor counts the four parameters of the regression: (4n - 1) / (4n - 4).
    assert fit.se == pytest.approx(mine["se"] * np.sqrt((4 * N - 1) / (4 * N - 4)))
