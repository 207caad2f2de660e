"""Types: the rule at its thresholds, probabilities against the exact binomial, and what they must not depend on."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from panels import make_panel, panel_of
from scipy import stats

from gandid.estimation import did
from gandid.estimation.types import COLUMNS, classify, types

THRESHOLDS = SimpleNamespace(removed=0.8, concentration=0.5, inpainted=0.05)
NOISE = 4 * np.sqrt(0.25 / 2000)  # of a share of 2,000 resamples


def test_the_rule_at_its_thresholds():
    removed = [0.79, 0.8, 0.8, 0.8, 1.0, 1.0]
    inpainted = [0.0, 0.049, 0.05, 0.0, 1.0, 0.0]
    concentration = [1.0, 0.5, 0.5, 0.49, 0.49, 1.0]
    expected = ["type-1", "disentangled", "type-2", "type-1", "type-1", "disentangled"]
    assert classify(removed, inpainted, concentration, THRESHOLDS).tolist() == expected


def test_a_type_is_claimed_only_if_it_holds_whatever_the_unrecognized_pixels_are():
    removed, inpainted = [0.7, 0.9, 0.9, 0.9, 0.9, 0.9], [0.0, 0.02, 0.02, 0.06, 0.06, 0.0]
    unknown = [0.5, 0.02, 0.04, 0.05, 0.2, 0.2]
    expected = ["type-1", "disentangled", "not identified", "type-2", "not identified", "not identified"]
    assert classify(removed, inpainted, [1.0] * 6, THRESHOLDS, unknown).tolist() == expected
    assert classify(0.9, 0.0, 0.4, THRESHOLDS, 0.9) == "type-1"


def test_segmenters_that_disagree_identify_no_type_and_share_the_probability():
    seen = [{"live": {"wall": 1.0}}, {"live": {"wall": 0.9, "painting": 0.1}}]
    panel = make_panel(60, ["window"], holds=["first"], plan=seen[0] | {"first": {}}, second=seen[1] | {"first": {}})
    drop = np.zeros((8, 40, panel.sizes["object"]))
    drop[:, 0] = 1
    variables = {"drop": (("latent", "unit", "object"), drop), "ace": (("unit", "object"), drop.mean(axis=0))}
    relation = xr.Dataset(variables, coords={"object": panel["object"].values})
    (row,) = types(panel, relation, THRESHOLDS).to_dict("records")
    assert row["type"] == "not identified"
    assert [row[f"p_{name}"] for name in ("disentangled", "type_1", "type_2", "not_identified")] == [0.5, 0, 0.5, 0]


def world(lost: np.ndarray, painted: np.ndarray, hole: np.ndarray) -> xr.Dataset:
    """A panel in which so many pixels of target `a` are lost, and turn into object `b`, in each latent."""
    inside = np.zeros((len(hole), 3, 3), np.int32)
    inside[:, 0, 1] = hole
    inside[:, 1:, 0] = (lost - painted)[:, None]
    inside[:, 1:, 1] = (hole - lost)[:, None]
    inside[:, 1:, 2] = painted[:, None]
    panel = panel_of(inside, ("wall", "a", "b"), size=10)
    panel["units"][:] = -1
    panel["units"][..., 0] = 0
    return panel


def relation_of(drop: np.ndarray) -> xr.Dataset:
    """A relation of target `a` from the losses (latents, units) of its area."""
    full = np.stack([np.zeros_like(drop), drop, np.zeros_like(drop)], axis=2).astype(np.float32)
    return xr.Dataset(
        {"drop": (("latent", "unit", "object"), full), "ace": (("unit", "object"), full.mean(axis=0))},
        coords={"object": ["wall", "a", "b"]},
    )


CONCENTRATED = relation_of(np.tile([1.0, 0.0, 0.0], (8, 1)))


@pytest.mark.parametrize(("n", "count"), [(50, 41), (40, 31), (4000, 3220)])
def test_the_probability_from_the_effects_latents_is_binomial(n, count):
    """Each latent loses all of the target or nothing: `removed` of a resample is a binomial share."""
    lost = np.zeros(n, int)
    # In a large panel neighbours are resampled together: shuffled, they are a sample of independent groups.
    lost[np.random.default_rng(0).permutation(n)[:count]] = 10
    (row,) = types(world(lost, 0 * lost, np.full(n, 10)), CONCENTRATED, THRESHOLDS).to_dict("records")
    below = stats.binom.cdf(np.ceil(0.8 * n) - 1, n, count / n)
    assert row["removed"] == count / n
    assert row["p_type_1"] == pytest.approx(below, abs=NOISE + 0.02 * (n > 1024))
    assert row["p_type_1"] + row["p_disentangled"] == pytest.approx(1)
    assert row["type"] == ("type-1" if count / n < 0.8 else "disentangled")


def test_removed_and_inpainted_are_resampled_together():
    """In half of the latents nothing is lost, in the others half of it turns into b: the two shares go hand in hand."""
    lost = np.repeat([0, 10], 30)
    bounds = SimpleNamespace(removed=0.5, inpainted=0.25, concentration=0.5)
    (row,) = types(world(lost, lost // 2, np.full(60, 10)), CONCENTRATED, bounds).to_dict("records")
    # Whenever enough is removed, enough is in-painted: nothing is ever disentangled.
    assert row["p_disentangled"] == 0
    assert row["p_type_1"] == pytest.approx(stats.binom.cdf(29, 60, 0.5), abs=NOISE)
    assert row["inpainted_objects"] == 0.25


def test_the_probability_from_the_ranking_latents_is_binomial():
    """Each latent of the ranking has its whole effect in unit 0 or in unit 1: the share of unit 0 is a binomial share."""
    drop = np.zeros((30, 3))
    drop[:16, 0] = drop[16:, 1] = 0.1
    panel = world(np.full(20, 10), np.zeros(20, int), np.full(20, 10))
    (row,) = types(panel, relation_of(drop), THRESHOLDS).to_dict("records")
    assert row["share_top"] == pytest.approx(16 / 30)
    assert row["effective_units"] == pytest.approx(1 / ((16 / 30) ** 2 + (14 / 30) ** 2))
    # Below a half, type-1; at a half exactly rounding decides.
    least, most = stats.binom.cdf([14, 15], 30, 16 / 30)
    assert least - NOISE <= row["p_type_1"] <= most + NOISE


def test_after_a_screening_what_was_expected_counts():
    """Unit 0 was ablated on all latents, the others on a few; the rest is what the screening expects."""
    drop = np.array([[0.1, 0.06, 0.05]] * 8 + [[0.1, 0.0, 0.0]] * 2)
    relation, full = relation_of(drop), relation_of(drop)
    relation["expected"] = full["drop"]
    relation["exact"] = ("unit", np.array([True, False, False]))
    relation["drop"][3:, 1:] = np.nan
    panel = world(np.full(20, 10), np.zeros(20, int), np.full(20, 10))
    frame = types(panel, relation, THRESHOLDS)
    pd.testing.assert_frame_equal(frame, types(panel, full, THRESHOLDS))
    assert frame["share_top"].item() == pytest.approx(1 / 1.88)
    # The others carry 0.11 on eight latents of ten: more than unit 0 only where none of the two is drawn.
    assert frame["p_type_1"].item() == pytest.approx(stats.binom.sf(9, 10, 0.8), abs=NOISE)


def panel_and_relation(n: int) -> tuple[xr.Dataset, xr.Dataset]:
    panel = make_panel(n, ("window", "lamp"), noise=0.1)
    drop = np.random.default_rng(0).exponential(1, (24, 40, panel.sizes["object"])) * np.arange(40)[:, None] - 3
    variables = {"drop": (("latent", "unit", "object"), drop), "ace": (("unit", "object"), drop.mean(axis=0))}
    return panel, xr.Dataset(variables, coords={"object": panel["object"].values})


def test_they_agree_with_the_effects_and_not_with_the_order_of_latents():
    panel, relation = panel_and_relation(80)
    frame = types(panel, relation, THRESHOLDS)
    assert list(frame.columns) == COLUMNS and frame["target"].tolist() == ["window", "lamp"]
    shuffled = panel.isel(latent=np.random.default_rng(1).permutation(80))
    pd.testing.assert_frame_equal(types(shuffled, relation, THRESHOLDS), frame)
    effects = did(panel, flips=9, resamples=2).main
    for row in frame.to_dict("records"):
        rows = effects[(effects.target == row["target"]) & (effects.arm == "capped:first")]
        assert row["removed"] == rows.loc[rows.outcome == "removed", "tau_live"].item()
        inpainted = rows[rows.outcome == "inpainted"].set_index("object")["tau_live"]
        assert row["inpainted_objects"] == pytest.approx(inpainted["other objects"])
        assert row["unknown"] == pytest.approx(inpainted["unknown"])
        assert sum(row[f"p_{name}"] for name in ("disentangled", "type_1", "type_2")) == pytest.approx(1)


def test_what_cannot_be_told_is_left_out():
    panel, relation = panel_and_relation(40)
    relation["ace"].loc[{"object": "lamp"}] = -0.1
    assert types(panel, relation, THRESHOLDS)["target"].tolist() == ["window"]
    assert types(make_panel(40, absent=["window"]), relation, THRESHOLDS)["target"].tolist() == []
