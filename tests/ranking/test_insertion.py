"""Insertion makes the planted object appear exactly where, and on the ground on which, it must."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted_figure import SEED, planted_stores, read
from planted_scene import CELLS, SIZE, SceneGenerator, SceneSegmenter

from gandid.interventions import Runner
from gandid.latents import latents
from gandid.ranking import insertion
from gandid.ranking.insertion import LATENTS, Insertion, choose, levels, regions

CLASSES = list(SceneSegmenter.classes)
ARMS = ["live", "capped:first", "frozen:first"]


@pytest.fixture(scope="module")
def inserted(tmp_path_factory):
    stores = planted_stores(tmp_path_factory.mktemp("run"))
    stores.write_insertion(lambda images: None)
    return read(stores.folder / "insertion.zarr")


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


def planted(rows, target, units, held):
    runner, z = Runner(SceneGenerator(), "scene"), latents(SEED, range(LATENTS), 1)
    known = levels(runner, SceneSegmenter(), z, 0.003, rows)
    return Insertion(runner, SceneSegmenter(), target, units, known, held, rows), z


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_nothing_depends_on_how_many_images_are_made_at_once(rows):
    of_a, z = planted(rows, "a", (0,), [{"norm": "frozen"}])
    made = []
    before, *appeared = np.moveaxis(of_a.count(z, advance=made.append), 1, 0)
    assert sum(made) == insertion.images((SIZE, SIZE), held=1)
    assert before.sum(axis=(0, 1)).tolist() == [CELLS.get(name, 0) * LATENTS for name in CLASSES]
    in_c = CLASSES.index("c")
    assert [arm[:, :, in_c].sum() for arm in appeared] == [0, CELLS["c"] * LATENTS]
    # The patches tile the map, row by row: live, c stays in the last two, on one cell and on two.
    live = appeared[0].sum(axis=(0, 2)) / LATENTS
    assert live.tolist() == [4] * 14 + [3, 2]


def test_what_was_never_seen_is_not_inserted():
    unknown, z = planted(64, "unknown", (0,), [])
    counts = unknown.count(z)
    assert not counts.any()
    summary = unknown.summarize(counts, z, range(LATENTS))
    assert np.isnan(summary["appeared"]).all()
    assert not summary["region"].any()
    assert summary["shown_latent"].item() == -1


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 2000))
def test_every_patch_lies_whole_in_the_map(h, w, cells):
    patches = regions((h, w), cells)
    side = round(float(patches[0].sum()) ** 0.5)
    assert len(patches) == min(h, 4) * min(w, 4)
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
    assert choose(before, appeared, target=1) is None


def test_the_planted_scene_is_what_it_says():
    labels = SceneSegmenter()(SceneGenerator()(latents(SEED, range(5), 1)))
    for name, cells in CELLS.items():
        assert ((labels == CLASSES.index(name)).sum(dim=(1, 2)) == cells).all()
    assert sum(CELLS.values()) == SIZE**2
