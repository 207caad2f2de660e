"""The relation after an ablation is what was planted: an object whose ACE normalization raises, and one that it leaves alone."""

import numpy as np
import pytest
import torch
import xarray as xr
from planted_figure import SEED, planted_stores, read
from planted_scene import SIZE, UNITS, SceneGenerator, SceneSegmenter
from scipy import stats

from gandid.interventions import Arm, Edit, Runner, ablate
from gandid.latents import latents
from gandid.ranking.after import LATENTS, losses, object_units

BRIGHT = (latents(SEED, range(LATENTS), 1, "ranking") > 0)[:, 0].numpy()  # latents in which b hides behind a


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    stores = planted_stores(tmp_path_factory.mktemp("run"))
    stores.write_after(lambda images: None)
    return read(stores.folder / "after.zarr")


def test_normalization_raises_what_hid_behind_the_target(after):
    share = BRIGHT.mean()
    assert 0.3 < share < 0.7
    of_a = after.sel(target="a")
    np.testing.assert_allclose(of_a["ratio"].sel(object="b"), [1 + 2 * share, 1])
    np.testing.assert_allclose(of_a["ratio"].sel(object="c"), [1, 1])
    np.testing.assert_allclose(of_a["ratio_did"].sel(arm="capped:first", object=["b", "c"]), [2 * share, 0])
    # b makes more of the image than c then, where it made less.
    assert of_a["rank_before"].sel(object=["b", "c"]).values.tolist() == [[2, 1], [2, 1]]
    assert of_a["rank"].sel(object=["b", "c"]).values.tolist() == [[1, 2], [2, 1]]


def test_the_interval_is_that_of_a_share(after):
    """The ratio is 1 + 2 x a share of latents: its percentile interval is that of a binomial share."""
    share = BRIGHT.mean()
    low, high = 1 + 2 * stats.binom.ppf([0.025, 0.975], LATENTS, share) / LATENTS
    of_b = after.sel(target="a", object="b")
    assert of_b["ratio_low"].sel(arm="live") == pytest.approx(low, abs=2 / LATENTS + 1e-9)
    assert of_b["ratio_high"].sel(arm="live") == pytest.approx(high, abs=2 / LATENTS + 1e-9)
    assert of_b["ratio_low"].sel(arm="capped:first") == of_b["ratio_high"].sel(arm="capped:first") == 1
    # Held, the ratio is 1 in every resample, so that the difference varies as the live one does.
    live, held = of_b.sel(arm="live"), of_b.sel(arm="capped:first")
    assert held["ratio_did_low"] == live["ratio_low"] - 1
    assert held["ratio_did_high"] == live["ratio_high"] - 1


def test_what_hides_nothing_changes_nothing(after):
    for target, others in (("b", ["a", "c"]), ("c", ["a", "b"])):
        of = after.sel(target=target, object=others)
        np.testing.assert_allclose(of["ratio"], 1)
        np.testing.assert_array_equal(of["rank"], of["rank_before"])


def test_nothing_is_said_of_the_target_itself_nor_of_what_is_no_object(after):
    assert np.isnan(after["ratio"].sel(target="a", object=["a", "wall", "unknown"])).all()
    assert after["arm"].values.tolist() == ["live", "capped:first"]
    assert (after.attrs["latents"], after.attrs["units"]) == (LATENTS, 1)


def test_what_the_ranking_left_out_is_measured(after, tmp_path):
    """As after a screening: some units were ablated on some latents only."""
    stores = planted_stores(tmp_path)
    known = stores.after_images()
    stores = planted_stores(tmp_path)
    stores.relation["drop"][2:9, 1] = np.nan
    assert stores.after_images() == known + LATENTS * (1 + len(UNITS))
    stores.write_after(lambda images: None)
    xr.testing.assert_allclose(read(tmp_path / "after.zarr"), after)


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_losses_do_not_depend_on_how_many_images_are_made_at_once(rows):
    runner, segmenter = Runner(SceneGenerator(), "scene"), SceneSegmenter()
    z = latents(SEED, range(LATENTS), 1, "ranking")
    made = []
    found = losses(runner, segmenter, z, [1, 3], ablate((0,)), {"norm": "capped"}, rows=rows, advance=made.append)
    assert sum(made) == 3 * LATENTS  # the arm itself, and each unit's
    expected = np.zeros((LATENTS, 2, 5))
    expected[:, 0, [0, 2]] = np.array([-2, 2]) / SIZE**2  # wall takes b's place
    expected[:, 1, [0, 3]] = np.array([-3, 3]) / SIZE**2
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_an_edit_follows_another():
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    donor = -x
    both = Edit((0,), None, 0.5, then=ablate((2,)))
    edited = both.apply_(x.clone(), donor)
    assert torch.equal(edited[:, 0], torch.zeros(2, 2, 2))
    assert torch.equal(edited[:, 1], x[:, 1])
    assert not edited[:, 2].any()
    # The runner makes the same of it.
    runner = Runner(SceneGenerator(), "scene")
    z = latents(SEED, range(4), 1)
    joint = runner.run(z, [Arm(), Arm(ablate((0, 3))), Arm(Edit((0,), torch.zeros(1), then=ablate((3,))))])
    assert torch.equal(joint[1], joint[2])


@pytest.mark.parametrize(("ablation", "alpha"), [("mean", 1.0), ("resample", 1.0), ("zero", 0.0)])
def test_the_study_s_own_ablation_is_what_comes_before(tmp_path, ablation, alpha):
    means = torch.tensor([3 / 16, 0, 1, 0])
    edits = {name: ablate((unit,), ablation, means=means, alpha=alpha) for name, unit in UNITS.items()}
    stores = planted_stores(tmp_path, edits=edits)
    stores.write_after(lambda images: None)
    ratio = read(tmp_path / "after.zarr")["ratio"].sel(target="a", object=["b", "c"])
    # A's mean over positions is 3/16: b is seen behind it. Another latent's A is this one's, and so is none of it ablated.
    expected = 1 + 2 * BRIGHT.mean() if ablation == "mean" else 1
    np.testing.assert_allclose(ratio.sel(arm="live"), [expected, 1])
    np.testing.assert_allclose(ratio.sel(arm="capped:first"), 1)


def test_objects_that_hardly_appear_are_left_out():
    names = [f"o{i}" for i in range(20)]
    area = np.tile(np.arange(20) / 1000, (3, 1))
    relation = xr.Dataset(
        {"area": (("latent", "object"), area), "ace": (("unit", "object"), np.random.default_rng(0).random((5, 20)))},
        coords={"object": names},
    )
    own = object_units(relation, names, 2)
    assert list(own) == names[8:]
    assert all(len(units) == 2 for units in own.values())
