"""The regression of claim 2 recovers what is planted, is calibrated with few clusters, and agrees with others' errors."""

import numpy as np
import pandas as pd
import pyfixest
import pytest
import statsmodels.api as sm
from panels import make_panel

from gandid import did
from gandid.did import claim2
from gandid.did.totals import objects_inpainted

OBJECTS = ("window", "painting", "lamp", "chair", "plant", "rug")
PLANTED = {"overlap": 0.02, "concentration": 0.0, "energy": 0.0, "gain": -0.015}
NOTHING = dict.fromkeys(PLANTED, 0.0)


def pairs(slopes=PLANTED, seed=0, layers=4, shared=0.5, noise=0.01, objects=OBJECTS) -> pd.DataFrame:
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


def test_planted_slopes_are_found_with_their_signs_and_nothing_else():
    table = claim2.regress(pairs()).set_index("term")
    for name, slope in PLANTED.items():
        row = table.loc[name]
        scale = row.slope / row.coefficient  # from standard deviations to the units of both
        assert row.ci_low * scale < slope < row.ci_high * scale
    assert list(table.index[claim2.shown(table)]) == ["overlap", "gain"]
    assert (table.loc[["overlap", "gain"], "p_target"] < 0.05).all()
    assert table.loc[claim2.ALL, "partial_r2"] > 0.7 and table.loc[claim2.ALL, "p_permuted"] == 1e-4
    assert (table.n == 120).all() and (table.clusters == 24).all() and (table.left_out == 0).all()
    [said, holds] = claim2.sentences(table.reset_index(), 4)
    assert "more in-painting is caused where overlap is larger" in said
    assert "less in-painting is caused where gain is larger" in said
    assert "energy" not in said and "concentration" not in said
    assert "these 4 layers" in holds


def test_where_nothing_is_planted_nothing_is_said():
    table = claim2.regress(pairs(NOTHING, seed=1))
    assert not claim2.shown(table).any()
    assert "no relation goes with the DID" in claim2.sentences(table, 4)[0]
    assert claim2.headline(table).startswith("Claim 2 is not shown here")


def test_without_noise_the_slopes_are_exact():
    table = claim2.regress(pairs(noise=0.0), draws=99).set_index("term")
    np.testing.assert_allclose(table.loc[[*PLANTED], "slope"], [*PLANTED.values()], atol=1e-12)
    assert table.loc[claim2.ALL, "partial_r2"] == pytest.approx(1)


def test_intervals_cover_and_tests_reject_as_often_as_they_say():
    """200 tables with 24 clusters and strong dependence within them: where the usual clustered errors are too small."""
    covered, rejected, usual = [], [], []
    for seed in range(200):
        data = pairs(PLANTED, seed=seed, shared=0.8)
        table = claim2.regress(data, draws=99, seed=seed).set_index("term").loc[[*PLANTED]]
        scale = table.slope / table.coefficient
        truth = np.array([*PLANTED.values()])
        covered.append((table.ci_low * scale <= truth) & (truth <= table.ci_high * scale))
        rejected.append(table.loc[["concentration", "energy"], ["p_wild", "p_permuted"]] < 0.05)
        design = pd.concat([data[[*PLANTED]], pd.get_dummies(data.layer, dtype=float)], axis=1)
        groups = data.groupby(["layer", "target"]).ngroup()
        fit = sm.OLS(data.did, design).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
        usual.append(fit.pvalues["concentration"] < 0.05)
    # Binomial bounds: 3.5 standard errors of 200 tables.
    assert (np.mean(covered, axis=0) > 0.95 - 3.5 * np.sqrt(0.95 * 0.05 / 200)).all()
    assert (np.mean(covered, axis=0) < 0.995).all()
    assert (np.mean(rejected, axis=0) < 0.05 + 3.5 * np.sqrt(0.95 * 0.05 / 200)).all()
    assert np.mean(usual) > 0.1


def test_errors_agree_with_pyfixest():
    data = pairs(seed=3)
    table = claim2.regress(data, draws=99).set_index("term").loc[[*PLANTED]]
    within = claim2.within(data[["did", *PLANTED]], data.layer)
    scaled = (within / within.std()).assign(layer=data.layer, cluster=data.layer + data.target)
    formula = "did ~ overlap + concentration + energy + gain + C(layer)"
    fit = pyfixest.feols(formula, scaled, vcov={"CRV3": "cluster"}, ssc=pyfixest.ssc(k_adj=False, G_adj=False))
    np.testing.assert_allclose(table.coefficient, fit.coef()[[*PLANTED]], rtol=1e-9)
    # The jackknife's factor (G - 1) / G (MacKinnon, Nielsen and Webb 2023, eq. 20) pyfixest leaves to its `ssc`.
    np.testing.assert_allclose(table.se, fit.se()[[*PLANTED]] * np.sqrt(23 / 24), rtol=1e-9)


def test_the_bootstraps_statistic_is_the_clustered_t():
    data = pairs(seed=4)
    within = claim2.within(data[["did", *PLANTED]], data.layer)
    layers = pd.get_dummies(data.layer, dtype=float)
    groups = data.groupby(["layer", "target"]).ngroup().to_numpy()
    design = pd.concat([within[[*PLANTED]], layers], axis=1)
    fit = sm.OLS(within.did, design).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    rest = claim2._Rest(design.drop(columns="energy").to_numpy())
    own, outcome = (rest.residual(within[[name]].to_numpy()) for name in ("energy", "did"))
    n, k, g = len(data), design.shape[1], 24
    factor = np.sqrt(g / (g - 1) * (n - 1) / (n - k))
    assert claim2._t(own, outcome, groups)[0] / factor == pytest.approx(fit.tvalues["energy"])


def test_relations_are_dealt_out_where_they_belong():
    data = pairs().sort_values(["layer", "target", "object"])
    layer, cluster = data.layer.to_numpy(), data.groupby(["layer", "target"]).ngroup().to_numpy()
    deal = claim2._dealer(layer, cluster)
    of_pair, of_target = (np.concatenate(list(deal(which, 50, 0))) for which in (True, False))
    assert of_pair.shape == of_target.shape == (50, 120)
    # A pair's relation goes to a pair of the same target; all of them are dealt out, once.
    assert (cluster[of_pair] == cluster).all()
    assert (np.sort(of_pair, axis=1) == np.arange(120)).all()
    # A target's goes to all pairs of one target of the same layer.
    assert (layer[of_target] == layer).all()
    given = cluster[of_target]
    assert all(len(np.unique(row[cluster == 7])) == 1 for row in given)
    assert all(len(np.unique(row)) == 24 for row in given)
    assert (given != cluster).any() and (of_pair != np.arange(120)).any()


def test_pairs_out_of_support_are_left_out_and_counted():
    data = pairs()
    data.loc[(data.layer == "layer1") & (data.target == "rug"), "supported"] = False
    data.loc[data.target == "lamp", "did"] = np.where(data.loc[data.target == "lamp", "layer"] == "layer0", np.nan, 0.1)
    spoiled = data.copy()
    spoiled.loc[~data.supported, "did"] = 99.0
    table, same = (claim2.regress(one, draws=99) for one in (data, spoiled))
    assert (table.n == 110).all() and (table.left_out == 10).all() and (table.clusters == 22).all()
    pd.testing.assert_frame_equal(table, same)
    assert "10 left out" in claim2.sentences(table, 4)[0]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (pairs(layers=2, objects=OBJECTS[:2]), "4 clusters (layer and target) are too few"),
        (pairs(layers=3, objects=OBJECTS[:2]), "there are too few pairs"),
        (pairs().assign(did=0.0), "did is the same for all pairs of a layer"),
        (pairs().assign(gain=1.0), "gain is the same for all pairs of a layer"),
        (pairs().assign(energy=lambda data: 2 * data.overlap), "the relations cannot be told apart"),
        (pairs().assign(supported=False), "no pair is in support"),
    ],
)
def test_what_cannot_be_estimated_says_why_and_has_no_numbers(data, why):
    table = claim2.regress(data, draws=99)
    assert table["why"].str.startswith(why).all()
    assert table[["coefficient", "se", "p", "q", "partial_r2"]].isna().all(axis=None)
    assert why in claim2.sentences(table, 2)[0]
    assert claim2.headline(table).startswith("Claim 2 could not be tested")


def test_arms_are_tested_together():
    """The false discovery rate is over all arms: one among many must stand out more."""
    alone = claim2.regress(pairs(seed=2), draws=999)
    among = [pairs(NOTHING, seed=seed).assign(arm=f"arm{seed}") for seed in range(5)]
    together = claim2.regress(pd.concat([pairs(seed=2), *among]), draws=999)
    first = together[together.arm == "capped:first"]
    assert (first.p_wild.dropna().to_numpy() == alone.p_wild.dropna().to_numpy()).all()
    assert (first.q.dropna().to_numpy() >= alone.q.dropna().to_numpy()).all()


def test_all_objects_together_are_the_sum_with_its_own_error():
    panel = make_panel(latents=60, noise=0.1, seed=2)
    effects = did.estimate(panel).to_frame()
    of_objects = effects[(effects.outcome == "inpainted") & (effects.kind == "object")]
    summed = of_objects.groupby(["target", "arm"], sort=False)[["tau_live", "tau_held", "did"]].sum()
    found = objects_inpainted(panel).set_index(["target", "arm"])
    np.testing.assert_allclose(found[["tau_live", "tau_held", "did"]], summed.loc[found.index], atol=1e-12)
    # One class in place of the objects: then it is an effect like any other.
    for target in ("window", "lamp"):
        objects = [name for name in panel["object"].values if name not in ("wall", "floor", "unknown", target)]
        merged = _merged(panel.sel(target=[target]), objects)
        expected = did.estimate(merged).to_frame().set_index(["outcome", "object", "arm"])
        for arm in ("capped:first", "frozen:all"):
            row = expected.loc[("inpainted", objects[0], arm)]
            names = ["did", "se", "ci_low", "ci_high", "se_live", "ci_live_low", "se_held", "ci_held_high", "n"]
            np.testing.assert_allclose(
                found.loc[(target, arm), names].astype(float), row[names].astype(float), rtol=1e-9
            )
            assert found.loc[(target, arm), "p"] == pytest.approx(row["p_t"])


def _merged(panel, objects):
    """A panel in which several classes are one, under the name of the first."""
    first, others = objects[0], objects[1:]
    kept = [name for name in panel["object"].values if name not in others]
    small = panel.sel(object=kept)
    return small.assign(
        {
            name: small[name]
            .where(small["object"] != first, panel[name].sel(object=objects).sum("object"))
            .transpose(*panel[name].dims)
            .astype(panel[name].dtype)
            for name in ("pixels", "inside")
        }
    )
