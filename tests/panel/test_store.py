"""The store: grown by latents and by arms, published in one file, and what was lost of it is seen."""

import shutil

import numpy as np
import pytest
import xarray as xr

from gandid.errors import GandidError, UsageError
from gandid.panel.schema import Classes, empty_panel
from gandid.panel.store import PanelStore, read_counts, read_panel
from gandid.panel.table import dose_blocks, placebo_blocks, study_block

STUDY = study_block([("capped", "first"), ("mean", "all")], ["all"])
EXTRA = [*dose_blocks(STUDY, [0.5]), *placebo_blocks(STUDY, 2)]
ONE = {"one": Classes(("wall", "a", "b"), ("wall",))}
TWO = ONE | {"two": Classes(("b", "sea"), ("sea",))}


def blank(blocks=(STUDY,), segmenters=ONE, draws=0):
    units = np.arange(12).reshape(2, 3, 1, 2)[:, : 1 + draws]
    return empty_panel(
        blocks,
        targets=["a"],
        segmenters=segmenters,
        sites={"first": True, "second": False},
        networks=["own", "all"],
        units=units,
        values=None,
        energy=np.ones((1 + draws, 1)),
        attrs={"alpha": 1.0, "version": "test"},
        without=["features", "placebo_gap"],
    )


def names(block):
    return [arm.name() for arm in block.arms]


def rows(block, start, count, segmenters=1, objects=3):
    """Counts that say where they belong."""
    shape = segmenters, count, 1, len(block.arms), objects
    counts = np.arange(start, start + count)[:, None, None, None] + np.zeros(shape, np.int32)
    rows = {"pixels": counts.astype(np.int32), "inside": counts.astype(np.int32)}
    if block is STUDY:
        rows |= {"latent": np.arange(start, start + count), "gain": np.ones((count, 1)), "range": np.zeros((count, 2))}
        rows["strain"] = np.zeros((count, 1, len(block.arms), 2, 3))
    return rows


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path):
    store = PanelStore.create(tmp_path / "panel.zarr" if request.param == "disk" else None, blank())
    store.write(names(STUDY), (0,), 0, rows(STUDY, 0, 16))
    store.write(names(STUDY), (0,), 16, rows(STUDY, 16, 4))
    return store


def test_it_grows_by_latents_arms_draws_and_segmenters(store):
    store.extend(blank([STUDY, *EXTRA], TWO, draws=2))
    dosed = EXTRA[0]
    store.write(names(dosed), (0,), 0, rows(dosed, 0, 16, objects=4))
    store.write(names(STUDY), (1,), 0, rows(STUDY, 0, 8, objects=4))
    panel = store.read().load()
    assert panel["latent"].values.tolist() == list(range(20))
    assert panel["object"].values.tolist() == ["wall", "a", "b", "sea"]
    assert panel["known"].values.tolist() == [[True, True, True, False], [False, False, True, True]]
    own = panel["pixels"].sel(segmenter="one", arm=names(STUDY))
    np.testing.assert_array_equal(own.isel(object=slice(3)), rows(STUDY, 0, 20)["pixels"][0])
    assert (own.sel(object="sea") == 0).all()  # of a class that it does not know it sees nothing
    measured = panel["measured"].sel(segmenter="one")
    assert measured.sel(arm="live@0.5") == 16 and measured.sel(arm="live#1") == 0 and measured.sel(arm="live") == 20
    assert panel["latents"].sel(arm="live@0.5") == 16
    assert (panel["measured"].sel(segmenter="two", arm=names(STUDY)) == 8).all()
    assert (panel["pixels"].sel(segmenter="one", arm="live#2") == -1).all()
    assert np.isnan(panel["strain"].sel(arm="live@0.5")).all()
    assert panel["units"].shape == (2, 3, 1, 2)
    assert panel["units"].dtype == np.int32
    assert panel["pixels"].dtype == np.int32
    if store.root.__class__.__name__ != "MemoryStore":
        xr.testing.assert_identical(PanelStore(store.root).read().load(), panel)


def test_a_segmenter_may_see_the_first_rows_only(tmp_path):
    store = PanelStore.create(tmp_path / "panel.zarr", blank(segmenters=TWO))
    some = rows(STUDY, 0, 6, 2, objects=4)
    some["pixels"][1, 4:] = some["inside"][1, 4:] = -1
    store.write(names(STUDY), (0, 1), 0, some)
    assert store.read()["measured"].values[:, 0].tolist() == [6, 4]


def test_arms_are_measured_row_by_row(store):
    store.extend(blank([STUDY, *EXTRA], draws=2))
    with pytest.raises(ValueError, match="cannot be written from row 4"):
        store.write(names(EXTRA[0]), (0,), 4, rows(EXTRA[0], 4, 4))
    with pytest.raises(ValueError, match="arm are not the first"):
        store.extend(blank([STUDY, EXTRA[1]], draws=2))


def test_what_was_not_published_is_cut_off(tmp_path):
    root = tmp_path / "panel.zarr"
    store = PanelStore.create(root, blank())
    store.write(names(STUDY), (0,), 0, rows(STUDY, 0, 8))
    published, before = (root / ".zmetadata").read_bytes(), read_panel(root).load()
    # As if a writer had been killed just before it published, with everything else written.
    store.write(names(STUDY), (0,), 8, rows(STUDY, 8, 8))
    (root / ".zmetadata").write_bytes(published)
    (root / "pixels" / ".77-0.0").write_bytes(b"half")
    (root / "pixels" / "0.0.0.0.abc.partial").write_bytes(b"half")
    xr.testing.assert_identical(read_panel(root).load(), before)
    store = PanelStore(root)
    assert store.latents == list(range(8))
    assert not [path for path in root.rglob("*") if path.suffix == ".partial" or path.name.startswith(".77")]
    store.extend(blank([STUDY, *EXTRA], TWO, draws=2))
    (root / ".zmetadata").write_bytes(published)
    xr.testing.assert_identical(PanelStore(root).read().load(), before)
    store = PanelStore(root)
    store.write(names(STUDY), (0,), 8, rows(STUDY, 8, 8))
    np.testing.assert_array_equal(store.read()["pixels"][0], rows(STUDY, 0, 16)["pixels"][0])


def test_a_chunk_that_was_lost_is_seen(tmp_path):
    root = tmp_path / "panel.zarr"
    store = PanelStore.create(root, blank())
    store.write(names(STUDY), (0,), 0, rows(STUDY, 0, 8))
    store.extend(blank([STUDY, *EXTRA], draws=2))
    store.write(names(EXTRA[0]), (0,), 0, rows(EXTRA[0], 0, 8))
    everything = slice(0, 8)
    assert (
        read_counts(read_panel(root), "pixels", everything)[:, :, -1] == -1
    ).all()  # of an arm that was not measured
    # Of arms that are run apart `pixels` may be missing where an image does not show the target, `inside` never.
    for name, chunk, arms in (("inside", "0.0.0.1.0", [7]), ("pixels", "0.0.0.0.0", [0, 1])):
        shutil.copy(root / name / chunk, tmp_path / "kept")
        (root / name / chunk).unlink()
        with pytest.raises(GandidError, match="counts are missing for latents 0 to 7"):
            read_counts(read_panel(root), name, everything, arms)
        shutil.copy(tmp_path / "kept", root / name / chunk)
    damaged = bytearray((root / "pixels" / chunk).read_bytes())
    damaged[-3] ^= 1
    (root / "pixels" / chunk).write_bytes(damaged)
    with pytest.raises(GandidError, match="is damaged"):
        read_counts(read_panel(root), "pixels", everything)


def test_a_panel_of_the_first_version_is_told(tmp_path):
    xr.Dataset({"pixels": ("latent", [1])}, attrs={"version": "0.1.0"}).to_zarr(tmp_path / "panel.zarr", zarr_format=2)
    with pytest.raises(UsageError, match=r"was made by gandid 0\.1\.0: run the study again"):
        read_panel(tmp_path / "panel.zarr")
