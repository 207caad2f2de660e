"""The learned `alpha`: the same each time, within bounds, and of use."""

import numpy as np
from planted_relation import UNITS, RelationGenerator, RelationSegmenter

from gandid.interventions import Runner
from gandid.latents import latents
from gandid.ranking.gradients import STEPS, optimize


def learned(rows=128, target=1, advance=lambda steps: None):
    z = latents(2, range(40), 3, "ranking")
    shows = z[z[:, target - 1] > 0]
    return optimize(Runner(RelationGenerator(), "painter"), RelationSegmenter(), shows, target, rows, advance)


def test_the_same_latents_give_the_same_alpha_whatever_fits_the_memory():
    steps = []
    one = learned(advance=steps.append)
    assert sum(steps) == STEPS
    np.testing.assert_array_equal(one, learned())
    np.testing.assert_allclose(one, learned(rows=12), atol=1e-3)


def test_alpha_is_of_the_units_that_remove_the_target():
    for target, units in enumerate(UNITS.values(), start=1):
        alpha = learned(target=target)
        assert set(np.argsort(-alpha)[:2]) == set(units)
        assert alpha.min() >= 0 and alpha.max() <= 1


def test_a_target_that_no_latent_shows_has_none():
    z = latents(2, range(4), 3, "ranking")[:0]
    assert (optimize(Runner(RelationGenerator(), "painter"), RelationSegmenter(), z, 1, 128) == 0).all()
