"""The choice of units: halves of a ranking, what their units do, and an interval that covers it."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from panels import make_panel
from planted import PlantedGenerator, PlantedSegmenter

from gandid.estimation import did
from gandid.estimation.halves import halves, ranking, with_choice
from gandid.study import Study


def relation_of(drop, objects, shown=1.0):
    """A relation in which every image shows everything, from losses (latents, units, objects)."""
    area = ("latent", "object"), np.full((len(drop), len(objects)), shown)
    ace = ("unit", "object"), drop.mean(axis=0)
    return xr.Dataset({"drop": (("latent", "unit", "object"), drop), "ace": ace, "area": area}, {"object": objects})


@pytest.fixture
def world():
    """A panel, and a relation whose first 20 units after the fifth stand out for the window, and none for the lamp."""
    panel = make_panel(40, ("window", "lamp"))
    objects = list(panel["object"].values)
    drop = np.random.default_rng(0).standard_normal((64, 200, len(objects)))
    drop[:, 5:25, objects.index("window")] += 3
    relation = relation_of(drop, objects)
    panel["units"][0, 0, 0] = range(5, 25)
    panel["units"][0, 0, 1] = np.argsort(-relation["ace"].sel(object="lamp").values)[:20]
    return panel, relation


def test_halves_of_a_ranking_agree_on_units_that_stand_out_and_not_on_noise(world):
    panel, relation = world
    found = pd.DataFrame(ranking(panel, relation)).set_index("target")
    assert found.loc["window", ["value", "verdict"]].tolist() == [1, "ok"]
    # Of units that are alike, two halves share as many as chance gives: 20 of 200.
    assert found.loc["lamp", "verdict"] == "flagged" and found.loc["lamp", "value"] == pytest.approx(0.1, abs=0.08)
    panel["units"][0, 0, 0, 0] = 100
    assert {one["target"] for one in ranking(panel, relation)} == {"lamp"}  # the window's units were named


def test_each_half_chooses_by_its_own_latents(world):
    panel, relation = world
    own = {name: panel["units"].values[0, 0, t].tolist() for t, name in enumerate(("window", "lamp"))}
    chosen = halves(relation, own, [*own], 2)
    assert len(chosen) == 4 and all({*one["window"]} == {*range(5, 25)} for one in chosen)
    assert {*chosen[0]["lamp"]} != {*own["lamp"]} != {*chosen[1]["lamp"]}
    # What only the first latent loses is chosen by the half that it is in, and by no other.
    drop = np.zeros((8, 30, 1))
    drop[:, :2], drop[0, 7] = 1.0, 100.0
    alone = halves(relation_of(drop, ["lamp"]), {"lamp": [7, 0]}, ["lamp"], 3)
    assert all(
        sorted([7 in one["lamp"], 7 in two["lamp"]]) == [False, True]
        for one, two in zip(alone[::2], alone[1::2], strict=True)
    )
    assert halves(relation, {"lamp": [0, 1]}, ["lamp"], 2) == halves(relation, own, [], 2) == []


def test_the_effect_of_either_half_and_the_interval_that_covers_the_choice():
    """In-painting held half: 0.1 with the own units, 0.3 and 0.1 with those of the halves, on the latents that all are measured on."""

    def plan(arm):
        live = {0: 0.3, -1: 0.45, -2: 0.25}[arm.draw]
        return {"painting": live if arm.held == "none" else 0.2 if arm.strength == 0.5 else 0.15, "wall": 0.1}

    options = {"controls": ["capped"], "holds": ["all"], "strengths": (0.5,), "halvings": 1, "noise": 0.02, "size": 128}
    effects = did(make_panel(60, ["window"], plan=plan, **options), flips=9, resamples=2)
    frame = effects.frame[effects.frame["object"] == "other objects"].set_index("contrast")
    row = frame.loc["ranking"]
    assert (row["arm"], row["draw"]) == ("capped:all@k0.5", 1)
    np.testing.assert_allclose(row[["tau_live", "tau_held", "did"]].astype(float), [0.25, 0.05, 0.2], atol=0.02)
    strength = frame.loc["strength"].set_index("strength").loc[0.5]
    assert strength["se_units"] == pytest.approx(abs(row["did"]) / 2)
    assert strength["ci_units_low"] < strength["ci_low"] - 0.2 and strength["ci_units_high"] > strength["ci_high"] + 0.2
    assert np.isnan(frame.loc["did", "se_units"])  # of the full hold nothing is known
    flagged = effects.checks[effects.checks["check"] == "ranking"]
    assert flagged["verdict"].tolist() == ["flagged"] and flagged["arm"].tolist() == ["capped:all@k0.5"]


def simulated(rng, spread, error, splits, studies=1, n=60):
    """Estimates of an effect of 0, whose units were chosen on twice as many latents as those of the halves."""
    target = np.arange(studies).astype(str)
    where = {
        "target": target,
        "arm": "capped:all@k0.5",
        "outcome": "removed",
        "object": target,
        "se": error,
        "n": n,
        "p_t": 0.5,
    }
    did = rng.normal(0, np.hypot(spread, error), studies)
    found = [
        pd.DataFrame(
            where | {"contrast": "strength", "did": did, "ci_low": did - 2 * error, "ci_high": did + 2 * error}
        )
    ]
    for gaps in rng.normal(0, 2 * spread, (splits, studies)):
        found.append(pd.DataFrame(where | {"contrast": "ranking", "did": gaps, "ci_low": np.nan, "ci_high": np.nan}))
    return pd.concat(found, ignore_index=True)


@pytest.mark.parametrize(("spread", "error", "splits"), [(1.0, 0.3, 1), (0.5, 0.5, 1), (1.0, 0.5, 6), (0.0, 1.0, 1)])
def test_the_interval_covers_the_effect_of_any_ranking(spread, error, splits):
    rows = with_choice(simulated(np.random.default_rng(0), spread, error, splits, 2000), 0.95)[:2000]
    plain, wide = ((rows[f"{name}_low"].lt(0) & rows[f"{name}_high"].gt(0)).mean() for name in ("ci", "ci_units"))
    assert wide >= 0.945
    assert plain == wide if spread == 0 else plain < 0.87


def test_a_study_measures_what_its_halves_choose_unless_units_were_named():
    study = Study(PlantedGenerator(), PlantedSegmenter(), layer="paint", seed=3)
    options = {"control": "capped", "hold": "all", "latents": 48, "ranking_latents": 8}
    panel = study.run(["a"], units=1, halvings=2, **options)
    names = [str(name) for name in panel["arm"].values if "#" in str(name)]
    assert names == [f"{arm}#half{k}" for k in (1, 2, 3, 4) for arm in ("live", "capped:all@k0.5")]
    for name in names:  # every half finds the one unit that paints `a`
        for counts in (panel["pixels"], panel["inside"]):
            own, same = (counts.sel(arm=arm).values[:, :40] for arm in (name.split("#")[0], name))
            np.testing.assert_array_equal(same, own)
    rows = did(panel, flips=9, resamples=2).checks.query("check == 'ranking'")
    assert rows["value"].tolist() == [0]
    assert study.run({"a": [0]}, **options).sizes["draws"] == 1
