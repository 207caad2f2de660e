"""Matched random sets of units: others, all different, and as near in energy as swaps bring them."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import PlantedGenerator

from gandid.errors import UsageError
from gandid.interventions import Runner, ablate
from gandid.latents import latents
from gandid.measure.placebos import TOLERANCE, drawn_units, energies, matched, possible_draws

sets = st.integers(2, 12).flatmap(
    lambda units: st.tuples(
        st.lists(st.floats(0, 100, allow_subnormal=False), min_size=units, max_size=units).map(np.array),
        st.integers(1, units // 2),
        st.integers(0, 2**32),
    )
)


@given(sets, st.integers(1, 20), st.sampled_from([0.02, 0.1, 0.5]))
def test_matched_sets_are_others_differ_and_are_as_near_as_swaps_bring_them(drawn, count, tolerance):
    energy, size, seed = drawn
    own = np.random.default_rng(seed).choice(len(energy), size, replace=False).tolist()
    count = min(count, comb(len(energy) - size, size))
    found = matched(energy, own, count, tolerance, np.random.default_rng(seed))
    assert found.shape == (count, size)
    assert not set(found.ravel().tolist()) & set(own)
    assert all(len(set(units)) == size for units in found.tolist())
    assert len({tuple(units) for units in found.tolist()}) == count
    np.testing.assert_array_equal(found, matched(energy, own, count, tolerance, np.random.default_rng(seed)))
    # Whatever is not near enough has no nearer neighbour that was not found before it.
    wanted, others, before = energy[own].sum(), set(range(len(energy))) - set(own), set()
    slack = 1e-9 * (1 + energy.sum())
    for units in map(frozenset, found.tolist()):
        gap = abs(energy[list(units)].sum() - wanted)
        before.add(units)
        if gap > tolerance * wanted + slack:
            neighbours = (units - {leaving} | {entering} for leaving in units for entering in others - units)
            assert {n for n in neighbours if abs(energy[list(n)].sum() - wanted) < gap - slack} <= before


def test_all_sets_are_found_where_all_are_asked_for():
    energy = np.arange(8.0)
    found = matched(energy, [6, 7], comb(6, 2), 0.02, np.random.default_rng(0))
    assert {tuple(units) for units in found.tolist()} == set(combinations(range(6), 2))
    with pytest.raises(ValueError, match="6 units have fewer than 16 sets of 2"):
        matched(energy, [6, 7], 16, 0.02, np.random.default_rng(0))


def test_sets_of_a_layer_are_matched_and_have_little_in_common():
    energy = np.random.default_rng(0).gamma(2.0, size=128)
    own = np.argsort(energy)[::-1][:60:3]  # 20 of the 60 strongest
    found = matched(energy, own, 50, TOLERANCE, np.random.default_rng(1))
    np.testing.assert_allclose(energy[found].sum(axis=1), energy[own].sum(), rtol=TOLERANCE)
    shared = [len(set(one) & set(other)) for one, other in combinations(found.tolist(), 2)]
    assert np.mean(shared) < 12


def test_energies_are_means_of_squares():
    runner = Runner(PlantedGenerator(faint=0.5), "paint")
    z = latents(3, range(40), 1)
    shown = (z > 0).double().mean().item()
    np.testing.assert_allclose(energies(runner, z, rows=6), [9 / 2, 0.25 / 2 * shown, 1], rtol=1e-6)


def test_there_are_as_many_placebos_as_there_are_sets():
    edits = {"a": ablate((0,)), "b": ablate((1, 2))}
    assert possible_draws(edits, 6, 50) == 5  # b has 6 sets of the others, a only 5
    drawn = drawn_units(edits, np.ones(6), 5, 0)
    assert drawn_units(edits, np.ones(6), 2, 0) == drawn[:2]
    with pytest.raises(UsageError, match="b: 2 of 3 units are edited"):
        possible_draws(edits, 3, 50)
