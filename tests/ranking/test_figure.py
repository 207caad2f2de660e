"""The figure's two stores: whole however often they were cut short, and counted before they are measured."""

import pytest
import xarray as xr
from interrupted import Interrupted
from planted_figure import HELD, planted_stores, read
from planted_scene import SceneSegmenter

from gandid.interventions import ablate
from gandid.ranking.figure import expected_images

FILES = ("after.zarr", "insertion.zarr")


def write(stores, advance=lambda images: None):
    for name, task in zip(FILES, (stores.write_after, stores.write_insertion), strict=True):
        if not (stores.folder / name).exists():
            task(advance)
    stores.clear()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    stores = planted_stores(tmp_path_factory.mktemp("unbroken"))
    write(stores)
    return stores.folder


def same(one, other):
    for name in FILES:
        xr.testing.assert_identical(read(one / name), read(other / name))
    assert sorted(path.name for path in one.iterdir()) == sorted(FILES)


class InterruptedSegmenter(Interrupted, SceneSegmenter):
    """Labels as the planted segmenter does, until it is interrupted."""


def test_stores_that_were_cut_short_go_on_where_they_were(unbroken, tmp_path):
    segmenter, times = InterruptedSegmenter(), 0
    while True:
        # With each attempt the memory holds fewer images.
        stores = planted_stores(tmp_path, segmenter, rows=max(16, 64 - 8 * times))
        segmenter.left = 15
        try:
            write(stores)
            break
        except KeyboardInterrupt:
            times += 1
            segmenter.left = 10**9
            for journal in (tmp_path / ".figure").iterdir():
                with journal.open("ab") as file:
                    file.write(b"ha")  # half a number
    assert times > 5
    same(tmp_path, unbroken)


def test_what_was_begun_for_other_arms_is_not_mistaken_for_these(unbroken, tmp_path):
    segmenter = InterruptedSegmenter()
    other = planted_stores(tmp_path, segmenter, edits={"c": ablate((0, 1)), "b": ablate((1,)), "a": ablate((3,))})
    segmenter.left = 4
    with pytest.raises(KeyboardInterrupt):
        write(other)
    write(planted_stores(tmp_path))
    same(tmp_path, unbroken)


def test_the_images_are_counted_before_they_are_made(unbroken, tmp_path):
    stores, made = planted_stores(tmp_path), []
    write(stores, made.append)
    assert sum(made) == stores.after_images() + stores.insertion_images()
    # Insertion: 24 latents of 16 positions, live and in two held arms, and their unedited image; the levels: 30.
    inserted = 3 * 24 * (1 + 3 * 16)
    assert stores.insertion_images() == inserted
    # After: three units of four, drawn at random, are expected to be 4 x (1 - (3/4)^3) different ones; one is the target's.
    single = round(3 * 2 * 24 * (1 + 4 * (1 - 0.75**3) - 1))
    assert expected_images(stores.runner, [1, 1, 1], 3, 1, 30, len(HELD)) == 30 + single + inserted
