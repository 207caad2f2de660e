"""Insertion makes the planted object appear exactly where, and on the ground on which, it must."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from planted_scene import CELLS, SIZE, UNITS, SceneGenerator, SceneSegmenter

import gandid
from gandid.interventions import Runner
from gandid.relation import insertion
from gandid.relation.insertion import LATENTS, centres, choose, levels, measure, regions
from gandid.studies.latents import latents

SEED, CLASSES = 3, list(SceneSegmenter.classes)
ARMS = ["live", "capped:first", "frozen:first"]


@pytest.fixture(scope="module")
def inserted(tmp_path_factory):
    store = tmp_path_factory.mktemp("run") / "run"
    gandid.Study(SceneGenerator(), SceneSegmenter(), layer="scene", seed=SEED).run(
        ["a"],
        units=1,
        control=["capped", "frozen"],
        hold="first",
        latents=6,
        ranking_latents=30,
        figure=True,
        store=store,
    )
    with xr.open_zarr(store / "insertion.zarr", chunks=None) as stored:
        return stored.load()


def test_it_appears_on_the_ground_that_lets_it(inserted):
    of_a = inserted["appeared"].sel(target="a")
    assert of_a["arm"].values.tolist() == ARMS
    expected = {"wall": [1, 1, 1], "b": [1, 1, 1], "c": [0, 0, 1]}
    for ground, shares in expected.items():
        assert of_a.sel(object=ground).values.tolist() == shares
    assert np.isnan(of_a.sel(object=["a", "unknown"])).all()  # there it was; and that is nowhere
    assert inserted["did"].sel(target="a", object="c").values.tolist() == [0, 0, -1]
    # The same in every latent: no interval is wide.
    seen = inserted.sel(object=["wall", "b", "c"])
    for low, value, high in (("low", "appeared", "high"), ("did_low", "did", "did_high")):
        np.testing.assert_array_equal(seen[low], seen[value])
        np.testing.assert_array_equal(seen[high], seen[value])


def test_all_positions_together(inserted):
    """The patches tile the map, so that each cell is in one region once."""
    weights = inserted["weight"].sel(target="a")
    for ground in ("wall", "b", "c"):
        assert weights.sel(object=ground) == CELLS[ground] * LATENTS
    assert weights.sel(object="a") == 0
    total = inserted.sel(target="a")
    np.testing.assert_allclose(total["total"], [57 / 60, 57 / 60, 1])
    np.testing.assert_allclose(total["total_did"], [0, 0, -3 / 60])
    assert inserted["side"].values.tolist() == [2]


def test_where_it_appears(inserted):
    live, _, frozen = inserted["appeared_map"].sel(target="a").values
    expected = np.ones((4, 4))
    expected[0, 0] = np.nan  # all of it was a
    np.testing.assert_array_equal(frozen, expected)
    expected[3, 2:] = 3 / 4, 2 / 4  # one cell of c, two cells
    np.testing.assert_array_equal(live, expected)
    assert inserted["v"].values.tolist() == inserted["u"].values.tolist() == [1, 3, 5, 7]


def test_the_levels_are_the_means_where_it_is_seen():
    z = latents(SEED, range(30), 1, "ranking")
    known = levels(Runner(SceneGenerator(), "scene"), SceneSegmenter(), z, 0.003, rows=8)
    bright = (z > 0).float().mean().item()
    means = dict(zip(CLASSES, known.means.numpy(), strict=True))
    np.testing.assert_allclose(means["a"], [3, bright, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(means["b"], [0, 3, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(means["c"], [0, 0, 1, 7], rtol=1e-6)
    assert np.isnan(means["unknown"]).all()
    assert known.cells.tolist() == [CELLS.get(name, 0) for name in CLASSES]


def test_the_size_of_an_object_is_that_where_it_shows():
    """Specks below the threshold of presence say nothing of its size."""

    class Sometimes(SceneSegmenter):
        def __call__(self, images):
            labels = super().__call__(images)
            labels[1::2, :2, :2] = 0
            labels[1::2, 0, 0] = 1  # one cell in 64
            return labels

    z = latents(SEED, range(30), 1, "ranking")
    for presence, cells in ((0.003, 2.5), (0.05, 4)):
        known = levels(Runner(SceneGenerator(), "scene"), Sometimes(), z, presence, rows=8)
        assert known.cells[1] == pytest.approx(cells)


def test_the_picture_shows_the_insertion_in_its_region_alone(inserted):
    one = inserted.sel(target="a")
    assert one["arm2"].values.tolist() == ["original", *ARMS]
    labels, region = one["label"].values, one["region"].values
    assert region.sum() == 4
    before = labels[0]
    assert not (before[region] == 1).any()
    assert (labels[1:, region] == 1).any(axis=1).all()
    for label in labels[1:]:
        np.testing.assert_array_equal(label[~region], before[~region])
    assert (one["image"].values[0] == one["image"].values[1])[~region].all()
    assert one["shown_latent"] in range(LATENTS)
    v, u = one["shown_centre"].values
    rows, columns = np.nonzero(region)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == (v, u)


def test_the_units_and_their_levels_are_told(inserted):
    assert inserted["units"].values.tolist() == [[UNITS["a"]]]
    assert inserted["levels"].values.tolist() == [[3]]
    assert inserted.attrs["latents"] == LATENTS


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_nothing_depends_on_how_many_images_are_made_at_once(rows):
    runner, segmenter, z = Runner(SceneGenerator(), "scene"), SceneSegmenter(), latents(SEED, range(LATENTS), 1)
    known = levels(runner, segmenter, z, 0.003, rows)
    made = []
    found = measure(runner, segmenter, z, "a", (0,), known, [{"norm": "frozen"}], rows=rows, on_progress=made.append)
    assert sum(made) == insertion.images(runner.map_size, held=1)
    assert found.before.sum(axis=(0, 1)).tolist() == [CELLS.get(name, 0) * LATENTS for name in CLASSES]
    in_c = CLASSES.index("c")
    assert found.appeared[:, :, :, in_c].sum(axis=(1, 2)).tolist() == [0, CELLS["c"] * LATENTS]


def test_what_was_never_seen_is_not_inserted():
    runner, segmenter, z = Runner(SceneGenerator(), "scene"), SceneSegmenter(), latents(SEED, range(LATENTS), 1)
    known = levels(runner, segmenter, z, 0.003, 64)
    found = measure(runner, segmenter, z, "unknown", (0,), known, [], rows=64)
    assert not found.appeared.any()
    assert found.chosen.tolist() == [-1, -1]
    summary = insertion.summarize(
        {"unknown": found}, {"unknown": (0,)}, known, ["live"], CLASSES, runner.map_size, range(LATENTS)
    )
    assert np.isnan(summary["appeared"]).all()
    assert np.isnan(summary["levels"]).all()
    assert summary["shown_latent"].values.tolist() == [-1]


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 2000))
def test_every_patch_lies_whole_in_the_map(h, w, cells):
    patches = regions((h, w), cells)
    side = insertion.side_of((h, w), cells)
    assert len(patches) == len(centres((h, w))) == min(h, 4) * min(w, 4)
    assert (patches.sum(dim=(1, 2)) == side**2).all()
    for patch in patches:
        rows, columns = torch.nonzero(patch, as_tuple=True)
        assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == side
    assert 1 <= side <= min(h, w)
    # The side is that of the square of that many cells, but for rounding and the map's size.
    assert abs(side - np.clip(np.sqrt(cells), 1, min(h, w))) <= 0.5


def test_the_example_is_the_median_one():
    before = np.zeros((3, 2, 2), int)
    before[..., 0] = 10
    before[0, 0] = 8, 2  # shows some of the target: not to be chosen
    appeared = np.zeros_like(before)
    appeared[..., 0] = [[9, 1], [0, 5], [7, 0]]
    assert choose(before, appeared, target=1) == (1, 1)  # 1, 5 and 7 of 10 elsewhere
    assert choose(before, np.zeros_like(before), target=1) == (1, 1)  # never: the middle of the five, in order
    before[..., 1] = 1
    assert choose(before, appeared, target=1) == (-1, -1)


def test_the_planted_scene_is_what_it_says():
    labels = SceneSegmenter()(SceneGenerator()(latents(SEED, range(5), 1)))
    for name, cells in CELLS.items():
        assert ((labels == CLASSES.index(name)).sum(dim=(1, 2)) == cells).all()
    assert sum(CELLS.values()) == SIZE**2
