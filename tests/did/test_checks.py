import numpy as np
import pytest
from panels import make_panel

from gandid.did import Bounds, checks
from gandid.did.checks import COLUMNS, SUPPORT

pytestmark = pytest.mark.filterwarnings("error")


def pick(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


@pytest.fixture(scope="module")
def panel():
    return make_panel(80, noise=0.05)


def test_a_good_panel_passes_every_check(panel):
    found = checks(panel)
    assert list(found.columns) == COLUMNS
    assert COLUMNS[:5] == ["check", "target", "value", "bound", "verdict"]
    assert (found["verdict"] == "ok").all()
    expected = {*SUPPORT, "target_seen", "baseline_gap", "placebo_site", "gain", "stability"}
    assert set(found["check"]) == expected
    assert not found.duplicated(["check", "target", "arm"]).any()
    assert found[["value", "bound"]].notna().all(axis=None)


def test_an_arm_outside_the_range_is_flagged_and_no_other():
    found = checks(make_panel(80, noise=0.05, strained=["frozen:all"]))
    bad = found[found["verdict"] != "ok"]
    assert set(bad["arm"]) == {"frozen:all"}
    assert set(bad["check"]) == {"strain", "realism", "unknown", "uncertain"}


def test_strain_names_the_site_furthest_out_of_its_own_range(panel):
    panel = panel.copy(deep=True)
    panel["natural"][:] = np.float32(1.0)
    panel["natural"].loc[{"site": "layer6.norm"}] = np.float32(0.1)
    row = pick(checks(panel), check="strain", target="window", arm="capped:all").iloc[0]
    assert row["verdict"] == "flagged"
    assert row["bound"] == pytest.approx(0.1)
    assert "layer6.norm" in row["detail"]


def test_strain_is_judged_on_images_that_show_the_target(panel):
    # Strong strain where there is no window is none of the window's effects' business.
    panel = panel.copy(deep=True)
    shows = panel["pixels"].sel(target="window", arm="reference", object="window") > 0
    panel["strain"] = panel["strain"] * shows + 5 * ~shows
    assert (pick(checks(panel), check="strain", target="window")["verdict"] == "ok").all()
    assert (pick(checks(panel), check="strain", target="lamp")["verdict"] == "flagged").all()


def test_unknown_in_the_hole_is_measured_against_live(panel):
    panel = panel.copy(deep=True)

    def smear(arm, share):
        wall = panel["inside"].sel(arm=arm, object="wall")
        moved = (wall * share).round().astype(np.int32)
        panel["inside"].loc[{"arm": arm, "object": "unknown"}] += moved
        panel["inside"].loc[{"arm": arm, "object": "wall"}] -= moved

    smear("capped:first", 0.5)
    found = pick(checks(panel), check="unknown_inside", target="window").set_index("arm")
    assert found.loc["capped:first", "verdict"] == "flagged"
    assert found.loc["capped:first", "value"] == pytest.approx(0.25, abs=0.03)
    smear("live", 0.5)
    found = pick(checks(panel), check="unknown_inside", target="window").set_index("arm")
    assert found.loc["live", "verdict"] == "flagged"
    assert found.loc["capped:first", "verdict"] == "ok"


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
    assert list(bad["check"]) == [check]
    assert list(bad["verdict"]) == [verdict]
    assert bad["value"].iloc[0] == pytest.approx(value)


def test_baselines_of_other_controls_are_flagged_not_failed():
    panel = make_panel(40, noise=0.05, controls=["mean"], unedited=True)
    panel["baseline_gap"][:8] = 0.2
    rows = pick(checks(panel), check="baseline_gap")
    assert list(rows["verdict"]) == ["flagged", "flagged"]
    assert rows["detail"].str.contains("parallel trends").all()


def test_halves_that_disagree_are_flagged():
    panel = make_panel(80, noise=0.02)
    late = panel["latent"] >= 40
    for arm in ("capped:all",):
        inside = panel["inside"].sel(arm=arm)
        live = panel["inside"].sel(arm="live")
        # The second half has no effect at all.
        panel["inside"].loc[{"arm": arm}] = inside.where(~late, live).astype(np.int32)
    rows = pick(checks(panel), check="stability")
    assert set(rows.loc[rows["verdict"] == "flagged", "arm"]) == {"capped:all"}
    assert (pick(checks(panel, Bounds(stability=1e3)), check="stability")["verdict"] == "ok").all()


def test_targets_seldom_or_never_seen():
    panel = make_panel(80, noise=0.05, absent=["lamp"])
    rows = pick(checks(panel), check="target_seen").set_index("target")
    assert rows.loc["lamp", "verdict"] == "failed"
    assert rows.loc["lamp", "detail"] == "no image of 80 shows 'lamp': not estimable"
    assert rows.loc["window", "verdict"] == "ok"
    rows = pick(checks(panel, Bounds(seen=1000)), check="target_seen").set_index("target")
    assert rows.loc["window", "verdict"] == "flagged"


def test_what_the_panel_lacks_is_left_out(panel):
    bare = panel.drop_vars(["realism", "uncertain", "strain", "natural", "placebo_gap", "gain", "gain_error"])
    bare = bare.isel(object=slice(0, -1))
    assert set(checks(bare)["check"]) == {"target_seen", "baseline_gap", "stability"}


def test_a_gain_without_a_closed_form_is_no_check(panel):
    assert "gain" not in set(checks(panel.assign(gain_error=panel["gain_error"] * np.nan))["check"])
