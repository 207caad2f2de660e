"""Distance: arms that are as far from live as another dose is have kappa 1, nearer ones less, and one that is the same 0."""

import numpy as np
import pytest
from panels import featured, make_panel

from gandid.estimation import did
from gandid.estimation.contents import Contents
from gandid.estimation.distance import distances
from gandid.estimation.sums import gather
from gandid.panel.table import near

FAST = {"flips": 9, "resamples": 2}
STRENGTHS = (0.25, 0.5, 0.75)


def panel(away, latents=160, seed=0):
    """Whose arms lie so many standard deviations from live."""
    options = {"controls": ["capped"], "holds": ["all"], "strengths": STRENGTHS, "strained": ["capped:all"]}
    made = make_panel(latents, ["window"], seed=seed, **options)
    shifts = np.array([away.get(str(name), 0.0) for name in made["arm"].values])
    return made.assign(features=featured(np.random.default_rng(seed), latents, 1, shifts))


def measured(made):
    contents = Contents(made)
    return {one.arm: one for one in distances(contents, gather(contents, contents.study))}


def test_kappa_is_a_share_of_what_another_dose_does():
    made = panel(
        {"live@0.8": 1.0, "capped:all@k0.25": 0.3, "capped:all@k0.5": 1.0, "capped:all@k0.75": 2.5, "reference": 4}
    )
    found = measured(made)
    assert (
        found["capped:all@k0.25"].kappa < 0.6 < found["capped:all@k0.5"].kappa < 1.5 < found["capped:all@k0.75"].kappa
    )
    # Two normal distributions a standard deviation apart have an area of 0.76; a classifier that was learned sees a little less.
    assert found["capped:all@k0.5"].dose == pytest.approx(0.76, abs=0.12)
    assert found["live"].area > 0.95  # from the unedited images
    for one in found.values():
        assert one.low <= one.kappa <= one.high


def test_what_is_the_same_has_no_distance():
    made = panel({"live@0.8": 1.0})
    live = made["features"].sel(arm="live")
    made["features"].loc[{"arm": "capped:all"}] = live
    assert measured(made)["capped:all"].kappa == pytest.approx(0, abs=0.02)


def test_the_interval_covers_how_far_arms_are():
    """Arms as far as the other dose: kappa is 1, and in the interval about as often as it says."""
    inside = []
    for seed in range(20):
        one = measured(panel({"live@0.8": 1.0, "capped:all": 1.0}, 120, seed))["capped:all"]
        inside.append(one.low <= 1 <= one.high)
    assert np.mean(inside) >= 0.85


def test_an_artefact_above_a_strength_ends_the_support_below_it():
    effects = did(panel({"live@0.8": 1.0, "capped:all@k0.75": 3.0, "capped:all": 4.0}), **FAST)
    rows = effects.frame[effects.frame["contrast"].isin(["strength", "slope"])]
    supported = rows.groupby("arm")["supported"].all()
    assert supported.to_dict() == dict(zip(sorted(supported.index), [False, True, True, False], strict=True))
    assert not effects.main["supported"].any()
    assert rows["kappa"].notna().all()
    assert "held at strength 0.5" in effects.sentences()[0]


def test_without_features_or_another_dose_nothing_is_said():
    made = panel({"live@0.8": 1.0})
    assert measured(made.drop_vars("features")) == {}
    assert measured(made.isel(arm=made["block"].values != "distance")) == {}
    assert near(Contents(made).live).dose == 0.8
