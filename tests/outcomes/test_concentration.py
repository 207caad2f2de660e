"""Concentration and overlap: closed forms, a reference implementation, and what must not change them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gandid.outcomes.concentration import effective_units, gini, overlap, share

# Effects of any scale and sign, at least one of them positive.
EFFECTS = arrays(float, st.integers(1, 40), elements=st.floats(-1, 1, width=32)).filter(lambda a: a.max() > 1e-6)
MEASURES = [gini, effective_units]


def test_one_unit_carries_all():
    ace = np.array([0, 0, 0.3, 0, -0.2])
    assert gini(ace) == pytest.approx(1 - 1 / 5)
    assert effective_units(ace) == 1
    assert share(ace, [2]) == 1
    assert share(ace, [0, 1, 3, 4]) == 0


def test_all_units_carry_the_same():
    ace = np.full(8, 0.02)
    assert gini(ace) == 0
    assert effective_units(ace) == pytest.approx(8)
    assert share(ace, [1, 6]) == pytest.approx(1 / 4)


def test_a_geometric_sequence_has_a_closed_form():
    ace = 0.5 ** np.arange(20)
    rest = 0.5**20
    assert share(ace, range(3)) == pytest.approx((1 - 0.5**3) / (1 - rest))
    assert effective_units(ace) == pytest.approx(3 * (1 - rest) / (1 + rest))


def test_a_linear_sequence_has_the_gini_of_a_uniform_distribution():
    # Values 1..n: (n - 1) / (3 n), which goes to the 1/3 of the uniform distribution.
    assert gini(np.arange(1, 11)) == pytest.approx(9 / 30)


def test_overlap_is_a_cosine_of_positive_parts():
    assert overlap([1, 0, -3], [0, 2, -3]) == 0
    assert overlap([1, 1, 0], [1, 0, 0]) == pytest.approx(np.sqrt(0.5))
    assert overlap([0.1, 0.2, -5], [1, 2, 7]) == pytest.approx(np.sqrt(5 / 54))


def test_where_no_unit_matters_nothing_is_said():
    for measure in MEASURES:
        assert np.isnan(measure(np.array([0, -0.1, -0.2])))
    assert np.isnan(overlap([0, -1], [1, 1]))


@given(EFFECTS)
def test_gini_agrees_with_its_definition(ace):
    part = np.clip(ace, 0, None)
    difference = np.abs(part[:, None] - part[None]).mean()
    assert gini(ace) == pytest.approx(difference / (2 * part.mean()), abs=1e-9)


@given(EFFECTS, st.floats(1e-200, 1e200), st.randoms(use_true_random=False))
def test_scale_order_and_negative_effects_do_not_matter(ace, scale, random):
    order = random.sample(range(len(ace)), len(ace))
    for measure in MEASURES:
        value = measure(ace)
        assert measure(ace[order]) == pytest.approx(value)
        assert measure(np.where(ace < 0, 3 * ace, ace)) == value
        if (ace[ace > 0] * scale > 1e-300).all():
            assert measure(ace * scale) == pytest.approx(value)


@given(EFFECTS)
def test_bounds(ace):
    n = len(ace)
    assert 0 <= gini(ace) <= 1 - 1 / n + 1e-12
    assert 1 - 1e-12 <= effective_units(ace) <= (ace > 0).sum() + 1e-9
    shares = [float(share(ace, range(count))) for count in range(n + 1)]
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    assert np.all(np.diff(shares) >= -1e-15)


@given(EFFECTS, st.randoms(use_true_random=False))
def test_overlap_is_symmetric_and_at_most_that_with_itself(ace, random):
    other = ace[random.sample(range(len(ace)), len(ace))]
    assert overlap(ace, other) == pytest.approx(overlap(other, ace))
    assert 0 <= overlap(ace, other) <= 1
    assert overlap(ace, ace) == pytest.approx(1)


def test_many_objects_at_once():
    ace = np.random.default_rng(0).normal(size=(3, 4, 16))
    for measure in MEASURES:
        np.testing.assert_allclose(measure(ace), [[measure(one) for one in row] for row in ace], rtol=1e-12)
    assert overlap(ace[:, :, None], ace[:, None]).shape == (3, 4, 4)
