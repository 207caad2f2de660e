"""The regression of claim 2 finds what is planted, with least squares and jackknife errors as computed by hand."""

import numpy as np
import pandas as pd
import pytest

import gandid
from benchmarks import claim2

OBJECTS = ("window", "painting", "lamp", "chair", "plant", "rug")
PLANTED = {"overlap": 0.02, "concentration": 0.0, "energy": 0.0, "gain": -0.015}
NOTHING = dict.fromkeys(PLANTED, 0.0)


def invented(slopes=PLANTED, seed=0, layers=4, shared=0.5, noise=0.01, objects=OBJECTS) -> pd.DataFrame:
    """Pairs whose DID is linear in their relations, with a level per layer and errors that pairs of a target share."""
    rng, rows = np.random.default_rng(seed), []
    for layer in range(layers):
        for target in objects:
            of_target = {name: rng.normal() for name in claim2.OF_TARGET}
            common = rng.normal() * shared**0.5
            for other in objects:
                if other == target:
                    continue
                row = of_target | {name: rng.normal() for name in claim2.OF_PAIR}
                did = 0.1 * layer + sum(slopes[name] * row[name] for name in claim2.RELATIONS)
                did += noise * (common + rng.normal() * (1 - shared) ** 0.5)
                rows.append(row | {"layer": f"layer{layer}", "target": target, "object": other, "did": did})
    return pd.DataFrame(rows).assign(arm="capped:first", same_as="frozen:first", se=noise / 10, supported=True)


def by_hand(data: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Standardized slopes within layers and their jackknife errors over clusters (MacKinnon, Nielsen and Webb 2023, eq. 20)."""
    values = data[["did", *PLANTED]]
    within = values - values.groupby(data.layer).transform("mean")
    scaled = (within / within.std()).to_numpy()
    layers = pd.get_dummies(data.layer, dtype=float).to_numpy()
    x, y = np.column_stack([scaled[:, 1:], layers]), scaled[:, 0]
    slopes = np.linalg.lstsq(x, y)[0][:4]
    clusters = data.groupby(["layer", "target"]).ngroup().to_numpy()
    count = clusters.max() + 1
    without = [np.linalg.lstsq(x[clusters != g], y[clusters != g])[0][:4] for g in range(count)]
    return slopes, np.sqrt(((np.array(without) - slopes) ** 2).sum(0) * (count - 1) / count)


@pytest.mark.slow
def test_planted_slopes_are_found_and_nothing_else():
    data = invented()
    table = claim2.regress(data, draws=999).set_index("term")
    slopes, errors = by_hand(data)
    np.testing.assert_allclose(table.loc[[*PLANTED], "coefficient"], slopes, rtol=1e-9)
    np.testing.assert_allclose(table.loc[[*PLANTED], "se"], errors, rtol=1e-9)
    assert list(table.index[claim2.beyond_noise(table)]) == ["overlap", "gain"]
    assert table.loc[claim2.TOGETHER, "partial_r2"] > 0.7 and table.loc[claim2.TOGETHER, "p_permuted"] == 1e-3
    assert (table.n == 120).all() and (table.clusters == 24).all() and (table.left_out == 0).all()
    assert not claim2.beyond_noise(claim2.regress(invented(NOTHING, seed=1), draws=999)).any()


@pytest.mark.slow
def test_pairs_out_of_range_are_left_out_and_counted():
    data = invented()
    data.loc[(data.layer == "layer1") & (data.target == "rug"), "supported"] = False
    data.loc[(data.layer != "layer0") & (data.target == "lamp"), "did"] = np.nan
    spoiled = data.assign(did=data.did.where(data.supported, 99.0))
    table, same = (claim2.regress(one, draws=99) for one in (data, spoiled))
    assert (table.n == 100).all() and (table.left_out == 20).all() and (table.clusters == 20).all()
    pd.testing.assert_frame_equal(table, same)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (invented(layers=2, objects=OBJECTS[:2]), "4 clusters (layer and target) are too few"),
        (invented(layers=3, objects=OBJECTS[:2]), "there are too few pairs"),
        (invented().assign(did=0.0), "did is the same for all pairs of a layer"),
        (invented().assign(energy=lambda data: 2 * data.overlap), "the relations cannot be told apart"),
        (invented().assign(supported=False), "no pair is in range"),
    ],
)
def test_what_cannot_be_estimated_says_why_and_has_no_numbers(data, why):
    table = claim2.regress(data, draws=9)
    assert table["why"].str.startswith(why).all() and table["q"].isna().all()
    assert claim2.draw_claim(data, table) is None


def test_arms_that_are_identical_at_every_layer_stand_once():
    both, apart = [("a", "b"), ("c",)], [("a",), ("b",), ("c",)]
    assert claim2.identical_arms([both, both]) == {"a": "b", "c": ""}
    assert claim2.identical_arms([both, apart]) == {"a": "", "b": "", "c": ""}


def test_the_pairs_of_a_run_have_its_effects_and_its_relation(tmp_path):
    """A real run of the planted standard, capped and frozen alike at its first site for all but the plant."""
    study = gandid.Study(gandid.load_generator("planted"), gandid.load_segmenter("planted"))
    study.run(["rug", "painting"], latents=48, ranking_latents=8, hold="first", store=tmp_path / "run")
    table = claim2.pairs([tmp_path / "run"])
    assert set(table["arm"]) == {"capped:first"} and set(table["same_as"]) == {"frozen:first"}
    window = table[(table["target"] == "painting") & (table["object"] == "window")].iloc[0]
    assert 0.2 < window["did"] < 0.6  # 0.4 is planted
    assert (
        table[list(claim2.RELATIONS)].notna().all(axis=None) and (table["concentration"] == 1).all()
    )  # one unit makes each
