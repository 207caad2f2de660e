"""Graded hold: the planted curve, its slope at 0, and a band that covers it at all strengths at once."""

import numpy as np
import pandas as pd
import pytest
from panels import make_panel

from gandid.estimation import did
from gandid.estimation.contents import Contents
from gandid.estimation.strengths import slope_weights, strengths, surface
from gandid.stats import max_t

FAST = {"flips": 9, "resamples": 2}
STRENGTHS = (0.25, 0.5, 0.75)


def graded(latents=60, noise=0.0, seed=0, effect=lambda k: 0.2 * k):
    def plan(arm):
        return {"painting": 0.6 - effect(arm.strength if arm.held != "none" else 0.0), "wall": 0.2}

    options = {"controls": ["capped"], "holds": ["all"], "strengths": STRENGTHS, "noise": noise, "seed": seed}
    return make_panel(latents, ["window"], plan=plan, **options)


def rows(panel, contrast, **where):
    graded = contrast in ("strength", "slope")
    frame = pd.concat(strengths(Contents(panel), 0.95)) if graded else did(panel, **FAST).frame
    where = {"contrast": contrast, "outcome": "inpainted", "object": "painting"} | where
    return frame[np.logical_and.reduce([frame[name] == value for name, value in where.items()])]


def test_the_curve_is_the_planted_one_and_ends_at_the_full_hold():
    panel = graded(effect=lambda k: 0.2 * k**2)
    curve = rows(panel, "strength")
    assert curve["arm"].tolist() == [*(f"capped:all@k{k:g}" for k in STRENGTHS), "capped:all"]
    np.testing.assert_allclose(curve["did"], [0.0125, 0.05, 0.1125, 0.2], atol=0.02)  # pixels are whole
    for name in ("tau_live", "tau_held", "did", "se"):
        assert curve[name].iloc[-1] == rows(panel, "did")[name].item()


@pytest.mark.parametrize(("effect", "slope"), [(lambda k: 0.2 * k, 0.2), (lambda k: 0.4 * k - 0.2 * k**2, 0.4)])
def test_the_slope_is_exact_of_lines_and_parabolas(effect, slope):
    reached = np.array([0.25, 0.5, 1.0])
    assert slope_weights(reached) @ effect(reached) == pytest.approx(slope)
    assert slope_weights(np.array([0.5])) @ np.array([0.1]) == pytest.approx(0.2)
    assert slope_weights(reached, 1) @ effect(reached) == pytest.approx((effect(0.5001) - effect(0.4999)) / 0.0002)
    found = rows(graded(effect=effect), "slope")
    assert (found["did"].item(), found["arm"].item()) == (pytest.approx(slope, abs=0.03), "capped:all@k0.25")


def test_beyond_the_range_the_curve_is_continued_and_the_curvature_told_that_would_overturn_it():
    """psi(k) = 0.2 k + 0.2 k^2 has a curvature of 0.4: from its last strength in range the full effect is as far from its tangent."""
    panel = graded(60, 0.02, effect=lambda k: 0.2 * k + 0.2 * k**2)
    near = {("window", f"capped:all@k{k:g}") for k in (0.25, 0.5)}
    frame = pd.concat(strengths(Contents(panel), 0.95, near))
    row = frame[(frame["contrast"] == "beyond") & (frame["object"] == "painting")].iloc[0]
    assert (row["arm"], row["strength"]) == ("capped:all@k0.5", 0.5)
    assert row["did"] == pytest.approx(0.4 - 0.4 * 0.5**2 / 2, abs=2.5 * row["se"]) and row["se"] < 0.03
    assert row["breakdown"] == pytest.approx(8 * row["ci_low"]) and row["ci_low"] > 0
    for some in ({("window", "capped:all@k0.5")}, {("window", one.name) for one in Contents(panel).graded}):
        frame = pd.concat(strengths(Contents(panel), 0.95, some))
        assert "beyond" not in set(frame["contrast"])  # out of range at once; in range to the end


def test_the_band_covers_the_whole_curve():
    """Independent noise at every strength makes a band much wider than the intervals, which miss it more often."""
    inside, each = [], []
    for seed in range(24):
        curve = rows(graded(40, 0.1, seed), "strength")
        truth = 0.2 * curve["strength"]
        # Holes are whole pixels and shares are clipped, which moves the truth a little.
        inside.append(((curve["band_low"] <= truth + 0.004) & (truth - 0.004 <= curve["band_high"])).all())
        each.append(((curve["ci_low"] <= truth + 0.004) & (truth - 0.004 <= curve["ci_high"])).all())
        assert (curve["band_low"] <= curve["ci_low"]).all() and (curve["band_high"] >= curve["ci_high"]).all()
    assert np.mean(inside) >= 0.9 and np.mean(each) <= np.mean(inside)


def test_the_surface_is_the_curve_at_every_dose():
    plan = {"live": {"painting": 0.6}, "all": {"painting": 0.2}}
    options = {"controls": ["capped"], "holds": ["all"], "plan": plan, "size": 128}
    panel = make_panel(40, ["window"], strengths=(0.25, 0.5), doses=(0.5, 1.0), **options)
    found = pd.concat(surface(Contents(panel), 0.95))
    found = found[found["outcome"] == "inpainted"]
    assert found[["arm", "dose"]].to_numpy().tolist() == [
        [f"capped:all@k{k}", dose] for k in (0.25, 0.5) for dose in (0.5, 1.0)
    ]
    np.testing.assert_allclose(found["did"], [0.05, 0.1, 0.1, 0.2], atol=0.005)


def test_the_largest_of_several_t_values():
    same = np.tile(np.random.default_rng(0).standard_normal((200, 1)), 3)
    assert max_t(same, 1e6) == pytest.approx(1.96, abs=0.05)
    apart = np.random.default_rng(0).standard_normal((100_000, 4))
    assert max_t(apart, 1e6) == pytest.approx(2.491, abs=0.05)  # Sidak: the normal quantile of 0.95^(1/4)
    assert max_t(same, 4) == pytest.approx(2.776, abs=0.15) and max_t(same, 0) == np.inf


def test_what_is_quoted_of_a_strength_has_an_interval():
    frame = did(graded(noise=0.05), **FAST).frame
    partly = frame[(frame["contrast"] == "strength") & frame["se"].gt(0)]
    assert len(partly)
    assert (partly["fcr_low"] <= partly["ci_low"] + 1e-12).all() and (
        partly["fcr_high"] >= partly["ci_high"] - 1e-12
    ).all()
