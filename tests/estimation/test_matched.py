"""Matched removal: what is in-painted per removed pixel, live and held, where one of them removes less."""

import numpy as np
import pandas as pd
import pytest
from panels import make_panel

from gandid.estimation.contents import Contents
from gandid.estimation.families import doses
from gandid.estimation.matched import matched

DOSES = (0.2, 0.4, 0.6, 0.8, 1.0)


def rows(live, held, noise=0.0):
    """Of a panel in which a dose removes so much, and in-paints so much of what it removes, in each regime."""

    def plan(arm):
        removed, painted = live if arm.held == "none" else held
        return {"painting": painted * removed * arm.dose, "wall": (1 - painted) * removed * arm.dose}

    made = make_panel(60, ["window"], controls=["capped"], holds=["all"], doses=DOSES, plan=plan, noise=noise, size=128)
    contents = Contents(made)
    found = pd.concat(matched(contents, 0.95)), pd.concat(doses(contents, 0.95))
    return [one[(one["outcome"] == "inpainted") & (one["object"] == "painting")] for one in found]


def test_self_repair_with_the_same_in_painting_per_removed_pixel_is_no_in_painting():
    equal, plain = rows((0.6, 0.3), (0.9, 0.3))
    assert equal["removal"].tolist() == [0.25, 0.5]  # live never removes three quarters
    np.testing.assert_allclose(equal["did"], 0, atol=0.004)  # pixels are whole
    np.testing.assert_allclose(equal["tau_live"], 0.3 * equal["removal"], atol=0.004)
    assert plain.loc[plain["dose"] == 1, "did"].item() == pytest.approx(-0.09, abs=0.004)


def test_more_in_painting_per_removed_pixel_is_seen_where_the_plain_effect_hides_it():
    equal, plain = rows((0.6, 0.45), (0.9, 0.3))
    np.testing.assert_allclose(equal["did"], 0.15 * equal["removal"], atol=0.004)
    assert plain.loc[plain["dose"] == 1, "did"].item() == pytest.approx(0, abs=0.004)


def test_the_interval_covers_what_was_planted():
    equal, _ = rows((0.8, 0.4), (0.9, 0.3), noise=0.05)
    assert (equal["ci_low"] < 0.1 * equal["removal"]).all() and (0.1 * equal["removal"] < equal["ci_high"]).all()
    assert (equal["ci_high"] - equal["ci_low"]).between(0.001, 0.1).all()
