import numpy as np
import pytest
import xarray as xr
from panels import make_panel

import gandid
from gandid.did.dose import checks, curve
from gandid.did.totals import TOGETHER

pytestmark = pytest.mark.filterwarnings("error")

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Shares of the target's original pixels that become painting; the rest of what is removed becomes wall.
LIVE, HELD = (0.0, 0.1, 0.2, 0.3, 0.4), (0.0, 0.05, 0.1, 0.15, 0.2)


def make_dose(latents=60, doses=DOSES, noise=0.0, seed=0, controls=("capped",), holds=("all",), **arms):
    """A dose-response; `arms` give the share that becomes painting by dose, `live` and CONTROL (`capped`, ...)."""
    arms = {"live": LIVE, "capped": HELD} | arms

    def plan(d):
        def shares(arm):
            return {"painting": arms[arm][d], "wall": arms[arm][d]} if doses[d] or arms[arm][d] else {}

        return {"live": shares("live")} | {f"{c}:{h}": shares(c) for c in controls for h in holds}

    made = [
        make_panel(latents, ["window"], controls=controls, holds=holds, plan=plan(d), noise=noise, seed=seed)
        for d in range(len(doses))
    ]
    counts = [one[["pixels", "inside"]] for one in made]
    return xr.concat(counts, xr.Variable("dose", list(doses)), data_vars="all").assign_attrs(made[0].attrs)


def own_baseline(dose, arm):
    """The same with an unedited arm of its own, a copy of the reference."""
    other = dose.sel(arm=["reference"]).assign_coords(arm=[f"{arm}/unedited"])
    return xr.concat([dose, other], "arm")


def pick(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


def test_the_curve_is_the_planted_one():
    frame = curve(make_dose())
    rows = pick(frame, outcome="inpainted", object="painting")
    assert list(rows["alpha"]) == list(DOSES)
    np.testing.assert_allclose(rows["tau_live"], LIVE, atol=1e-12)
    np.testing.assert_allclose(rows["tau_held"], HELD, atol=1e-12)
    np.testing.assert_allclose(rows["did"], np.subtract(LIVE, HELD), atol=1e-12)
    np.testing.assert_allclose(rows["step"], [np.nan, 0.05, 0.05, 0.05, 0.05], atol=1e-12)
    np.testing.assert_allclose(pick(frame, outcome="removed")["did"], 2 * np.subtract(LIVE, HELD), atol=1e-12)
    together = pick(frame, object=TOGETHER)
    np.testing.assert_allclose(together["did"], rows["did"], atol=1e-12)


def test_every_dose_is_what_its_panel_alone_would_give():
    dose = make_dose(noise=0.1, controls=("capped", "frozen"), frozen=HELD)
    frame = curve(dose)
    assert not frame.duplicated(["target", "object", "outcome", "arm", "alpha"]).any()
    for d, alpha in enumerate(DOSES):
        alone = gandid.did.estimate(dose.isel(dose=d), flips=1, resamples=0).to_frame()
        keys = ["target", "object", "outcome", "arm"]
        both = alone.merge(pick(frame, alpha=alpha), on=keys, suffixes=("", "_curve"))
        assert len(both) == len(alone)
        for column in ("tau_live", "tau_held", "did", "se", "ci_low", "ci_high"):
            np.testing.assert_allclose(both[f"{column}_curve"], both[column], rtol=1e-9, atol=1e-13, err_msg=column)


def test_the_order_in_which_doses_are_stored_does_not_matter():
    dose = make_dose(noise=0.1)
    shuffled = dose.isel(dose=[3, 0, 4, 1, 2])
    assert curve(dose).equals(curve(shuffled))


def test_a_step_is_paired_by_latent():
    """Two doses that differ by four pixels in every latent: a certain step between two uncertain effects."""
    one = make_dose(noise=0.2).sel(dose=[0.5])
    two = one.assign_coords(dose=[1.0]).copy(deep=True)
    two["pixels"].loc[{"arm": "live", "object": "chair"}] += 4
    two["pixels"].loc[{"arm": "live", "object": "wall"}] -= 4
    rows = pick(curve(xr.concat([one, two], "dose")), outcome="area", object="chair")
    assert rows["step"].iloc[1] == pytest.approx(4 / 4096)
    assert rows["step_z"].iloc[1] > 30
    rows = pick(curve(xr.concat([one, two], "dose")), outcome="area", object="painting")
    assert rows["step"].iloc[1] == 0 and rows["step_z"].iloc[1] == 0 and rows["se"].iloc[1] > 0


def test_a_target_that_no_image_shows_has_no_curve_and_no_verdict():
    dose = make_dose().copy(deep=True)
    for name in ("pixels", "inside"):
        dose[name].loc[{"object": "window"}] = 0
    frame = curve(dose)
    assert frame[["tau_live", "did", "ci_low", "step"]].isna().all(axis=None)
    assert not list(checks(frame))


def only(rows, check="dose"):
    (row,) = (row for row in rows if row["check"] == check)
    return row


def test_an_effect_that_grows_with_the_dose_passes():
    row = only(checks(curve(make_dose(noise=0.1))))
    assert row["verdict"] == "ok" and row["arm"] == "capped:all" and row["target"] == "window"
    assert row["bound"] == pytest.approx(3.59, abs=0.01)  # 3 errors for one comparison, here eight
    # A negative effect, self-repair, grows too.
    assert only(checks(curve(make_dose(noise=0.1, live=HELD, capped=LIVE))))["verdict"] == "ok"
    exact = only(checks(curve(make_dose())))
    assert exact["value"] == 0 and "shrinks at no step" in exact["detail"]


def test_an_effect_that_shrinks_on_the_way_is_flagged():
    row = only(checks(curve(make_dose(noise=0.02, live=(0, 0.1, 0.3, 0.1, 0.4)))))
    assert row["verdict"] == "flagged"
    assert "from dose 0.5 to 0.75" in row["detail"]


def test_live_and_held_that_meet_again_where_the_target_is_gone_are_flagged():
    row = only(checks(curve(make_dose(live=(0, 0.3, 0.5, 0.5, 0.5), capped=(0, 0.1, 0.3, 0.4, 0.5)))))
    assert row["verdict"] == "flagged"


def test_an_effect_without_an_edit_is_failed():
    row = only(checks(curve(make_dose(live=(0.05, 0.1, 0.2, 0.3, 0.4)))))
    assert row["verdict"] == "failed" and row["value"] == pytest.approx(0.1)  # what is removed: two classes


def test_chance_is_flagged_rarely():
    """No effect at any dose; what fills the holes of each latent varies by latent, arm and dose."""
    blank = make_dose(25).copy(deep=True)
    edited = {"dose": list(DOSES[1:]), "arm": ["live", "capped:all"]}
    hole = blank["inside"].sel(object="window", arm="reference", dose=0.0)
    rng, flagged = np.random.default_rng(0), 0
    for _ in range(24):
        taken = hole * xr.zeros_like(blank["inside"].sel(edited | {"object": "window"}), float)
        taken = np.floor(hole * (taken + rng.random(taken.shape))).astype(np.int32)
        blank["inside"].loc[edited] = 0
        blank["inside"].loc[edited | {"object": "painting"}] = taken.transpose("dose", "latent", "target", "arm")
        blank["inside"].loc[edited | {"object": "window"}] = (hole - taken).transpose("dose", "latent", "target", "arm")
        flagged += only(checks(curve(blank)))["verdict"] != "ok"
    assert flagged <= 1


@pytest.fixture(scope="module")
def parallel():
    """The control `mean` moves as frozen does; that the mechanism acts at the lowest dose already is no violation."""
    return own_baseline(make_dose(noise=0.05, controls=("frozen", "mean"), frozen=HELD, mean=HELD), "mean:all")


def test_a_control_that_moves_as_the_exact_one_has_parallel_trends(parallel):
    frame = curve(parallel)
    row = only(checks(frame), "parallel_trends")
    assert row["verdict"] == "ok" and row["arm"] == "mean:all"
    assert pick(frame, arm="mean:all", outcome="removed", alpha=0.25)["did_z"].iloc[0] > 3
    assert pick(frame, arm="frozen:all")["departure"].isna().all()


def test_a_control_that_moves_by_itself_is_flagged_and_its_departure_is_what_was_planted():
    away = (0.0, 0.0, 0.1, 0.15, 0.2)
    dose = own_baseline(make_dose(controls=("frozen", "mean"), frozen=HELD, mean=away, noise=0.02), "mean:all")
    row = only(checks(curve(dose)), "parallel_trends")
    assert row["verdict"] == "flagged" and "dose 0.25" in row["detail"]
    exact = own_baseline(make_dose(controls=("frozen", "mean"), frozen=HELD, mean=away), "mean:all")
    rows = pick(curve(exact), arm="mean:all", outcome="inpainted", object=TOGETHER)
    np.testing.assert_allclose(rows["departure"], np.subtract(HELD, away), atol=1e-12)


def test_without_an_exact_control_the_effect_at_the_lowest_dose_must_vanish(parallel):
    alone = parallel.sel(arm=[name for name in parallel["arm"].values if "frozen" not in name])
    row = only(checks(curve(alone)), "parallel_trends")
    assert row["verdict"] == "flagged" and "without an exact control" in row["detail"]


def test_frozen_is_what_a_control_is_compared_with_before_capped_and_all_before_nothing():
    dose = make_dose(controls=("capped", "frozen", "mean"), frozen=(0, 0.1, 0.1, 0.1, 0.1), mean=HELD)
    rows = pick(curve(dose), arm="mean:all", outcome="inpainted", object=TOGETHER)
    np.testing.assert_allclose(rows["departure"], np.subtract((0, 0.1, 0.1, 0.1, 0.1), HELD), atol=1e-12)
    named = dose.assign_coords(held=dose["held"].where(dose["control"] != "mean", "seed1"))
    again = pick(curve(named), arm="mean:all", outcome="inpainted", object=TOGETHER)
    np.testing.assert_allclose(again["departure"], rows["departure"])
