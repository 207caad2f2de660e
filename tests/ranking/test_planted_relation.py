"""The planted relation is recovered exactly by every measure and every ranking."""

import numpy as np
import pytest
from planted_relation import AREA, UNITS, RelationGenerator, RelationSegmenter

from gandid.errors import UsageError
from gandid.interventions import Runner
from gandid.latents import latents
from gandid.ranking import relate, top_units

N = 48
LATENTS = latents(2, range(N), 3, "ranking")


@pytest.fixture(scope="module")
def runner():
    return Runner(RelationGenerator(), "painter")


@pytest.fixture(scope="module")
def exact(runner):
    return relate(runner, RelationSegmenter(), LATENTS)


def planted(values):
    """(unit, object) with `values` by object at its units, and 0 elsewhere."""
    grid = np.zeros((9, 4))
    for i, (name, units) in enumerate(UNITS.items()):
        grid[list(units), i + 1] = values[name]
    return grid


def shown():
    """Whether each latent shows each object."""
    return LATENTS.numpy() > 0


def test_ace_is_the_area_of_the_units_own_object_where_it_is_shown(exact):
    share = dict(zip(AREA, shown().mean(axis=0), strict=True))
    expected = planted({name: AREA[name] * share[name] for name in AREA})
    expected[:, 0] = -expected.sum(axis=1)  # the wall comes in its place
    np.testing.assert_allclose(exact["ace"], expected, atol=1e-8)
    error = {name: AREA[name] * np.sqrt(share[name] * (1 - share[name]) / (N - 1)) for name in AREA}
    np.testing.assert_allclose(exact["ace_se"][:, 1:], planted(error)[:, 1:], atol=1e-8)
    assert exact["exact"].all()


@pytest.mark.parametrize("threshold", ["quantile", "maximizing"])
def test_iou_and_energy_are_one_for_the_right_pairs_and_zero_elsewhere(runner, exact, threshold):
    relation = relate(runner, RelationSegmenter(), LATENTS, iou_threshold=threshold)
    right = planted(dict.fromkeys(AREA, 1))[:, 1:]
    painters = [unit for units in UNITS.values() for unit in units]
    np.testing.assert_array_equal(relation["iou"][painters, 1:], right[painters])
    np.testing.assert_allclose(relation["energy"][painters, 1:], right[painters])
    # What is the same everywhere is active nowhere; its energy on a class is the class's area.
    np.testing.assert_array_equal(relation["iou"][[3, 7]], 0)
    np.testing.assert_allclose(relation["energy"][3], relation["area"].mean("latent"), rtol=1e-6)
    # That unit avoids a's cells, where it would show b and c as the wall.
    assert relation["iou"].sel(unit=8, object="a") == 0


def test_drops_and_areas_are_told_per_latent(exact):
    for i, (name, units) in enumerate(UNITS.items()):
        np.testing.assert_array_equal(exact["area"].sel(object=name), np.float32(AREA[name]) * shown()[:, i])
        for unit in units:
            np.testing.assert_array_equal(exact["drop"].sel(unit=unit, object=name), exact["area"].sel(object=name))


def test_units_are_shown_on_the_first_latents_that_they_paint(exact):
    for i, (name, units) in enumerate(UNITS.items()):
        first = np.flatnonzero(shown()[:, i])[:6]
        for unit in units:
            np.testing.assert_array_equal(exact["top_latent"].sel(unit=unit), first)
            painted = exact["top_map"].sel(unit=unit).values >= exact["threshold"].sel(unit=unit).item()
            assert (painted.sum(axis=(1, 2)) == 64 * AREA[name]).all()
    assert set(np.unique(exact["top_latent"])) == set(exact["shown"].values)
    assert exact["image"].shape == (exact.sizes["shown"], 8, 8, 3)


@pytest.mark.parametrize("ranking", ["screened", "optimized"])
def test_other_rankings_find_the_planted_units(runner, exact, ranking):
    relation = relate(runner, RelationSegmenter(), LATENTS, ranking=ranking, count=2)
    for name, units in UNITS.items():
        assert set(top_units(relation, name, 2)) == set(units)
    if ranking == "screened":
        assert relation.attrs["ablations"] < 9 * N / 2
        settled = relation["exact"].values
        np.testing.assert_array_equal(relation["ace"][settled, 1:], exact["ace"][settled, 1:])
    else:
        np.testing.assert_array_equal(relation["ace"], exact["ace"])
        alpha, mine = relation["alpha"].values[:, 1:], planted(dict.fromkeys(AREA, 1))[:, 1:] == 1
        assert alpha[mine].min() > 2 * alpha[~mine].max()
        assert alpha.min() >= 0 and alpha.max() <= 1
        assert np.isnan(relation["alpha"].sel(object="wall")).all()


@pytest.mark.parametrize("ranking", ["screened", "optimized"])
def test_a_segmenter_without_gradients_is_refused_in_one_line(runner, ranking):
    class WithoutProbabilities(RelationSegmenter):
        probabilities = None

    class WithoutGradients(RelationSegmenter):
        def probabilities(self, images):
            return super().probabilities(images).detach()

    for segmenter in (WithoutProbabilities(), WithoutGradients()):
        with pytest.raises(UsageError, match="--ranking exact") as error:
            relate(runner, segmenter, LATENTS[:4], ranking=ranking)
        assert "\n" not in str(error.value)
