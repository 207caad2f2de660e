"""The same study seen by another segmenter: a panel of its own classes, on the same images."""

import numpy as np
import pytest
import torch
import xarray as xr
from planted import PlantedGenerator, PlantedSegmenter
from test_variants import measure, run

import gandid
from gandid.did import instrument
from gandid.errors import UsageError


class Renamed(PlantedSegmenter):
    """Sees what the planted segmenter sees, and numbers it otherwise; it knows no class `b`, and calls it `c`."""

    classes = ("a", "c", "wall")
    background = ("wall",)
    name = "renamed"

    def __call__(self, images):
        return torch.tensor([2, 0, 1, 2])[super().__call__(images)]


@pytest.fixture(scope="module", params=[("capped", "frozen"), ("capped", "twin")])
def seen(request, tmp_path_factory):
    panel, made = run(tmp_path_factory.mktemp("run"), PlantedGenerator(), control=request.param)
    (second,) = measure(made, second=Renamed())
    return panel, made, second


def test_it_is_the_studys_panel_in_the_other_segmenters_words(seen):
    panel, _, second = seen
    assert second.attrs["segmenter"] == "renamed"
    assert list(second["target"].values) == ["a"]  # it does not know the other
    assert list(second["arm"].values) == list(panel["arm"].values)
    for name in ("pixels", "inside"):
        for own, its in (("a", "a"), ("b", "c")):
            wanted = panel[name].sel(target="a", object=own, latent=second["latent"])
            np.testing.assert_array_equal(second[name].sel(target="a", object=its), wanted)
    assert gandid.did.estimate(second).frame["did"].notna().any()


def test_what_both_name_alike_is_confirmed(seen):
    panel, _, second = seen
    table = instrument.second(panel, second)
    assert (table["difference"] == 0).all()
    assert all(row["verdict"] == "ok" for row in instrument.checks(panel, table))


def test_a_segmenter_of_other_classes_or_weights_is_measured_anew(seen):
    _, made, second = seen

    class Blind(Renamed):
        def __call__(self, images):
            return torch.full_like(super().__call__(images), 2)

    (renamed,), (blind,) = made.asked(second=Renamed()), made.asked(second=Blind())
    assert made.has(renamed)
    assert not made.has(blind)
    blind.write(lambda images: None)
    with xr.open_zarr(made.folder / "second.zarr", chunks=None) as stored:
        assert not stored["pixels"].sel(object="a").any()
    renamed.write(lambda images: None)
    with xr.open_zarr(made.folder / "second.zarr", chunks=None) as stored:
        xr.testing.assert_equal(stored.load(), second)


def test_a_segmenter_that_knows_no_target_is_refused(seen):
    _, made, _ = seen

    class Elsewhere(PlantedSegmenter):
        classes = ("sea", "ship", "wave", "sky")
        background = ("sea",)

    with pytest.raises(UsageError, match="the second segmenter, Elsewhere, knows no a, b: name one that does"):
        made.asked(second=Elsewhere())
