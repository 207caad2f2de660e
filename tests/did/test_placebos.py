import numpy as np
import pandas as pd
import pytest
import xarray as xr
from panels import make_panel

import gandid
from gandid.did.placebos import OWN, checks, compare, permuted, random_object
from gandid.did.totals import TOGETHER, objects_inpainted

pytestmark = pytest.mark.filterwarnings("error")

DRAWS = 39


def make_study(live=0.4, held=0.1, latents=40, noise=0.05, **kwargs):
    """The target's own units: `live` of its pixels become painting when the sites are live, `held` when they are held."""
    plan = {"live": {"painting": live}, "all": {"painting": held}}
    return make_panel(latents, ["window"], controls=["capped"], holds=["all"], plan=plan, noise=noise, **kwargs)


def make_placebos(effects, energy=1.0, latents=40, noise=0.02):
    """Random units, one DID of `inpainted` by painting for each draw."""
    made = [make_study(0.3 + effect, 0.3, latents, noise) for effect in effects]
    placebos = xr.concat([one[["pixels", "inside"]] for one in made], "draw", data_vars="all")
    placebos = placebos.assign_coords(draw=np.arange(len(made))).assign_attrs(made[0].attrs)
    return placebos.assign(energy=(("draw", "target"), np.full((len(made), 1), energy)))


def spread(largest, draws=DRAWS):
    return np.linspace(-largest, largest, draws)


def by_outcome(rows):
    return {row["detail"].replace("random units do as much: ", "").split(":")[0]: row for row in rows}


def test_own_units_are_the_study_s_and_random_ones_have_what_was_planted():
    study = make_study()
    frame = compare(study, make_placebos([0.1, -0.2, 0.0], noise=0))
    assert list(frame.columns)[:8] == ["target", "control", "held", "arm", "outcome", "object", "draw", "energy"]
    assert list(frame["draw"]) == [OWN, 0, 1, 2] * 2
    own = frame[frame["draw"] == OWN].set_index("outcome")
    whole, removed = objects_inpainted(study).iloc[0], gandid.did.estimate(study, flips=1, resamples=0).to_frame()
    removed = removed[removed["outcome"] == "removed"].iloc[0]
    for column in ("did", "ci_low", "ci_high"):
        assert own.loc["inpainted", column] == pytest.approx(whole[column])
        assert own.loc["removed", column] == pytest.approx(removed[column])
    assert own.loc["inpainted", "object"] == TOGETHER and own.loc["removed", "object"] == "window"
    random = frame[(frame["draw"] != OWN) & (frame["outcome"] == "inpainted")]
    np.testing.assert_allclose(random["did"], [0.1, -0.2, 0.0], atol=0.005)  # of whole pixels


def test_own_units_are_estimated_on_the_latents_of_the_random_ones():
    study = make_study(latents=80)
    few = study.isel(latent=[7, 3, 20, 11])
    placebos = make_placebos([0.0], latents=80).isel(latent=[20, 3, 7, 11])
    own = compare(study, placebos)
    assert own.equals(compare(few, placebos))
    assert not own.equals(compare(study, make_placebos([0.0], latents=80)))


def test_an_effect_beyond_those_of_random_units_passes():
    rows = by_outcome(checks(compare(make_study(), make_placebos(spread(0.1)))))
    assert set(rows) == {"removed", "inpainted"}
    for row in rows.values():
        assert row["verdict"] == "ok" and row["value"] == pytest.approx(1 / (1 + DRAWS))
        assert row["target"] == "window" and row["arm"] == "capped:all"


def test_an_effect_that_random_units_have_too_is_flagged():
    rows = by_outcome(checks(compare(make_study(), make_placebos(spread(0.5)))))
    for row in rows.values():
        assert row["verdict"] == "flagged" and "random units do as much" in row["detail"]
        # Of draws from -0.5 to 0.5, those beyond 0.3 on either side.
        beyond = int((np.abs(spread(0.5)) >= 0.3).sum())
        assert row["value"] == pytest.approx((1 + beyond) / (1 + DRAWS), abs=2.1 / (1 + DRAWS))


def test_no_effect_needs_no_random_units_to_doubt_it():
    rows = by_outcome(checks(compare(make_study(0.3, 0.3, noise=0.2), make_placebos(spread(0.5)))))
    assert all(row["verdict"] == "ok" and row["value"] > 0.05 for row in rows.values())


@pytest.mark.parametrize("energy", [0.5, 1.11, np.nan])
def test_random_units_of_another_energy_are_flagged(energy):
    placebos = make_placebos(spread(0.1), energy)
    rows = list(checks(compare(make_study(), placebos)))
    assert all(row["verdict"] == "flagged" and "miss the energy" in row["detail"] for row in rows)
    placebos["energy"][: DRAWS // 2 + 1] = 0.95
    assert all(row["verdict"] == "ok" for row in checks(compare(make_study(), placebos)))


def test_too_few_random_units_cannot_show_anything():
    rows = list(checks(compare(make_study(), make_placebos([0.0] * 5))))
    assert all(row["verdict"] == "flagged" and row["value"] == pytest.approx(1 / 6) for row in rows)


def test_arms_that_random_units_lack_and_targets_that_no_image_shows_are_left_out():
    study = make_panel(
        20, ["window", "lamp"], controls=["capped", "mean"], holds=["all"], unedited=True, absent=["lamp"]
    )
    exact = study.sel(arm=["reference", "live", "capped:all"])[["pixels", "inside"]].expand_dims(draw=[0])
    frame = compare(study, exact.assign(energy=(("draw", "target"), np.ones((1, 2)))))
    assert set(frame["arm"]) == {"capped:all"} and set(frame["target"]) == {"window"}


def test_intervals_of_a_panel_with_many_holes_can_be_trusted():
    rows = list(random_object(make_panel(80)))
    assert [(row["check"], row["target"], row["arm"]) for row in rows] == [
        ("placebo_object", "window", ""),
        ("placebo_object", "lamp", ""),
    ]
    for row in rows:
        assert row["verdict"] == "ok" and 0.02 <= row["value"] <= row["bound"] < 0.1
    assert rows == list(random_object(make_panel(80)))


def uneven(large, small, latents):
    """One image with a hole of `large` pixels, all others with one of `small`."""
    panel = make_panel(latents, ["window"], controls=["capped"], holds=["all"], size=256).copy(deep=True)
    panel["inside"][:] = 0
    panel["inside"].loc[{"object": "window"}] = small
    panel["inside"].loc[{"object": "window", "latent": 0}] = large
    return panel


def test_one_hole_that_outweighs_all_others_is_flagged():
    """An error is estimated from latents that hardly count, and hardly from the one that does."""
    (row,) = random_object(uneven(60_000, 300, 40))
    assert row["verdict"] == "flagged" and row["value"] > 0.2
    (row,) = random_object(uneven(300, 300, 40))
    assert row["verdict"] == "ok"


def test_a_control_with_its_own_images_has_a_row_of_its_own():
    panel = make_panel(60, ["window"], controls=["capped", "mean"], holds=["all"], unedited=True)
    assert [row["arm"] for row in random_object(panel)] == ["", "mean:all"]


def test_without_other_objects_or_with_a_single_image_nothing_is_dealt_out():
    bare = make_panel(60, ["window"], plan={"live": {"wall": 0.5}}, classes=("wall", "floor", "window"))
    assert not list(random_object(bare))
    one = make_panel(60, ["window"]).copy(deep=True)
    one["inside"].loc[{"latent": one["latent"].values[1:]}] = 0
    assert not list(random_object(one))


def test_sets_that_do_as_much_count_whatever_rounding_says():
    """The same pixels over the same hole, summed in another order."""
    rows = pd.DataFrame({"draw": [OWN, 0, 1], "did": [0.1 + 0.2, 0.3, 0.1]})
    assert permuted(rows)[2] == 2 / 3
