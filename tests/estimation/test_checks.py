"""Checks of the study's own arms: what is planted is seen, and nothing else."""

import numpy as np
import pytest
from panels import make_panel

from gandid.estimation import Bounds, did
from gandid.estimation.bounds import CHECKS

pytestmark = pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # of what other tests left to the collector


def checks(panel, bounds=None):
    return did(panel, flips=9, resamples=2, bounds=bounds or Bounds()).checks


def pick(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


@pytest.fixture(scope="module")
def panel():
    return make_panel(80, noise=0.05)


def test_a_good_panel_passes_every_check(panel):
    found = checks(panel)
    assert list(found.columns) == CHECKS
    assert CHECKS[:5] == ["check", "target", "value", "bound", "verdict"]
    assert (found["verdict"] == "ok").all()
    expected = {"strain", "target_seen", "baseline_gap", "placebo_site", "gain", "stability", "placebo_object"}
    assert set(found["check"]) == expected
    assert not found.duplicated(["check", "target", "arm"]).any()
    assert found[["value", "bound"]].notna().all(axis=None)


def test_an_arm_outside_the_range_is_flagged_and_no_other():
    found = checks(make_panel(80, noise=0.05, strained=["frozen:all"]))
    bad = found[found["verdict"] != "ok"]
    assert set(bad["arm"]) == {"frozen:all"}
    assert set(bad["check"]) == {"strain", "distance"}
    # By twice the logarithm in every image, where unedited ones move by some 0.6 of it.
    assert pick(bad, check="strain")["detail"].str.contains("100% of the images beyond").all()


def test_strain_names_the_site_furthest_out_of_its_own_range(panel):
    panel = panel.copy(deep=True)
    panel["range"][:] = np.float32(1.0)
    panel["range"].loc[{"site": "layer6.norm"}] = np.float32(0.1)
    row = pick(checks(panel), check="strain", target="window", arm="capped:all").iloc[0]
    assert row["verdict"] == "flagged"
    assert row["bound"] == pytest.approx(0.1)
    assert "layer6.norm" in row["detail"]


def test_strain_counts_on_images_that_show_the_target(panel):
    # Strong strain where there is no window is none of the window's effects' business.
    panel = panel.copy(deep=True)
    shows = panel["pixels"].isel(segmenter=0).sel(target="window", arm="reference", object="window") > 0
    panel["strain"] = panel["strain"] * shows + 5 * ~shows
    assert (pick(checks(panel), check="strain", target="window")["verdict"] == "ok").all()
    assert (pick(checks(panel), check="strain", target="lamp")["verdict"] == "flagged").all()


@pytest.mark.parametrize(
    ("variable", "where", "value", "check", "verdict"),
    [
        ("baseline_gap", {"arm": "capped:all", "latent": 3}, 0.1, "baseline_gap", "failed"),
        ("placebo_gap", {"target": "lamp", "latent": 3}, 1e-7, "placebo_site", "failed"),
        ("gain_error", {"target": "lamp", "latent": 3}, 0.01, "gain", "flagged"),
    ],
)
def test_a_broken_identity_is_seen(panel, variable, where, value, check, verdict):
    panel = panel.copy(deep=True)
    panel[variable].loc[where] = value
    found = checks(panel)
    bad = found[found["verdict"] != "ok"]
    assert bad[["check", "verdict"]].to_numpy().tolist() == [[check, verdict]]
    assert bad["value"].iloc[0] == pytest.approx(value)


def test_baselines_of_other_controls_are_flagged_not_failed():
    panel = make_panel(40, noise=0.05, controls=["mean"])
    panel["baseline_gap"][:8] = 0.2
    assert list(pick(checks(panel), check="baseline_gap")["verdict"]) == ["flagged", "flagged"]


def test_sites_that_cannot_respond_are_told(panel):
    still = panel.assign_coords(responds=("site", [False, True, True]))
    rows = pick(checks(still), check="responds").set_index("arm")
    assert rows.loc["capped:first", ["value", "verdict"]].tolist() == [0, "flagged"]
    assert rows.loc["capped:all", ["value", "verdict"]].tolist() == [2, "ok"]


def test_halves_that_disagree_are_flagged():
    panel = make_panel(80, noise=0.02)
    # The second half has no effect at all.
    late = panel["latent"] >= 40
    inside, live = panel["inside"].sel(arm="capped:all"), panel["inside"].sel(arm="live")
    panel["inside"].loc[{"arm": "capped:all"}] = inside.where(~late, live).astype(np.int32)
    rows = pick(checks(panel), check="stability")
    assert set(rows.loc[rows["verdict"] == "flagged", "arm"]) == {"capped:all"}
    assert (pick(checks(panel, Bounds(stability=1e3)), check="stability")["verdict"] == "ok").all()


def test_targets_seldom_or_never_seen():
    panel = make_panel(80, noise=0.05, absent=["lamp"])
    rows = pick(checks(panel), check="target_seen").set_index("target")
    assert rows.loc["lamp", ["value", "verdict"]].tolist() == [0, "failed"]
    assert rows.loc["window", "verdict"] == "ok"
    rows = pick(checks(panel, Bounds(seen=1000)), check="target_seen").set_index("target")
    assert rows.loc["window", "verdict"] == "flagged"


def test_what_the_panel_lacks_is_left_out(panel):
    bare = panel.drop_vars(["strain", "range", "placebo_gap", "gain", "gain_error"])
    bare = bare.isel(object=slice(0, -1))
    assert set(checks(bare)["check"]) == {"target_seen", "baseline_gap", "stability", "placebo_object"}
    assert "gain" not in set(checks(panel.assign(gain_error=panel["gain_error"] * np.nan))["check"])


def rows_of(panel, check):
    return pick(checks(panel), check=check)


def test_intervals_of_a_panel_with_many_holes_can_be_trusted(panel):
    rows = rows_of(panel, "placebo_object")
    assert rows[["target", "arm"]].to_numpy().tolist() == [["window", ""], ["lamp", ""]]
    assert rows["value"].between(0.02, 0.1).all()


def test_one_hole_that_outweighs_all_others_is_flagged():
    """An error is estimated from latents that hardly count, and hardly from the one that does."""
    for large, verdict in ((60_000, "flagged"), (300, "ok")):
        panel = make_panel(40, ["window"], controls=["capped"], holds=["all"], size=256)
        panel["inside"][:] = 0
        panel["inside"].loc[{"object": "window"}] = 300
        panel["inside"].loc[{"object": "window", "latent": 0}] = large
        assert rows_of(panel, "placebo_object")["verdict"].tolist() == [verdict]


def test_a_control_with_its_own_images_has_a_placebo_object_of_its_own():
    panel = make_panel(60, ["window"], controls=["capped", "mean"], holds=["all"])
    assert list(rows_of(panel, "placebo_object")["arm"]) == ["", "mean:all"]


def test_without_other_objects_or_with_a_single_image_nothing_is_dealt_out():
    bare = make_panel(60, ["window"], plan={"live": {"wall": 0.5}}, classes=("wall", "floor", "window"))
    assert rows_of(bare, "placebo_object").empty
    one = make_panel(60, ["window"])
    one["inside"].loc[{"latent": one["latent"].values[1:]}] = 0
    assert rows_of(one, "placebo_object").empty
