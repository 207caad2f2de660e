"""Confidence sequences, power, Shapley shares and sensitivity: closed forms, references and planted games."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.power import TTestPower

from gandid.did.inference import CARRIED, ratio_from_sums
from gandid.did.power import smallest_effect
from gandid.did.sensitivity import breakdown, robust_interval
from gandid.did.sequences import TUNED, boundary, half_width
from gandid.did.shapley import exact_weights, sampled_weights


@given(st.floats(0.5, 0.99), st.integers(50, 5000))
def test_the_boundary_is_narrowest_where_it_is_tuned(level: float, tuned: int) -> None:
    """rho minimizes the width at `tuned` only up to the approximation in the paper: no other rho is better by 1 %."""
    at = boundary(tuned, level, tuned)
    others = [boundary(tuned, level, other) for other in np.geomspace(tuned / 50, tuned * 50, 101)]
    assert at <= 1.01 * min(others)


def test_the_boundary_at_its_best_is_that_of_the_paper() -> None:
    # rho^2 n solves (x + 1) / x^2 * log(...) by hand for level 0.95: x = 2 log 20 + log(2 log 20 + 1) = 7.936
    x = 2 * np.log(20) + np.log(2 * np.log(20) + 1)
    assert boundary(TUNED) == pytest.approx(np.sqrt(2 * (x + 1) / x * np.log(np.sqrt(x + 1) / 0.05)))
    assert boundary(TUNED) == pytest.approx(3.0, abs=0.1)
    assert (boundary(np.arange(1, 5000)) > stats.norm.ppf(0.975)).all()


def test_a_random_walk_crosses_the_boundary_as_rarely_as_stated_although_an_interval_is_crossed_often() -> None:
    steps = np.random.default_rng(0).standard_normal((2000, 3000))
    n = np.arange(1, 3001)
    z = np.abs(steps.cumsum(1)) / np.sqrt(n)
    assert (z > boundary(n)).any(1).mean() <= 0.055
    assert (z > stats.norm.ppf(0.975)).any(1).mean() > 0.4


def test_the_sequence_says_nothing_of_what_hardly_any_latent_carries() -> None:
    widths = half_width(np.array([0.1, 0.1, 0.0, np.nan]), 200, np.array([CARRIED - 1, CARRIED, 200, 0]))
    assert np.isinf(widths[0])
    assert widths[1] == pytest.approx(0.1 * boundary(200))
    assert widths[2] == 0
    assert np.isnan(widths[3])


@pytest.mark.parametrize("n", [5, 30, 400])
def test_the_smallest_effect_has_the_stated_power(n: int) -> None:
    """Against statsmodels' noncentral t, which the sum of two quantiles approximates."""
    sd = 0.3
    effect = float(smallest_effect(np.array(sd / np.sqrt(n)), n))
    assert TTestPower().power(effect / sd, n, 0.05) == pytest.approx(0.8, abs=0.03)


def test_one_latent_could_have_seen_nothing() -> None:
    assert np.isnan(smallest_effect(np.array(0.1), 1))


def game(sites: int, seed: int) -> dict[frozenset[int], float]:
    values = np.random.default_rng(seed).normal(size=2**sites)
    sets = [frozenset(s) for k in range(sites + 1) for s in itertools.combinations(range(sites), k)]
    return dict(zip(sets, values, strict=True))


@given(st.integers(1, 5), st.integers(0, 1000))
def test_exact_shares_are_the_mean_over_all_orders_and_sum_to_the_whole(sites: int, seed: int) -> None:
    v = game(sites, seed)
    sets, weights = exact_weights(sites)
    shares = weights @ np.array([v[live] for live in sets])
    added = np.zeros(sites)
    orders = list(itertools.permutations(range(sites)))
    for order in orders:
        for place, site in enumerate(order):
            added[site] += v[frozenset(order[: place + 1])] - v[frozenset(order[:place])]
    np.testing.assert_allclose(shares, added / len(orders), atol=1e-12)
    assert shares.sum() == pytest.approx(v[frozenset(range(sites))] - v[frozenset()])


@given(st.integers(2, 12), st.integers(1, 20), st.integers(0, 1000))
def test_sampled_shares_sum_to_the_whole_in_every_order(sites: int, orders: int, seed: int) -> None:
    sets, weights = sampled_weights(sites, orders, seed)
    values = np.random.default_rng(seed).normal(size=len(sets))
    whole = values[sets.index(frozenset(range(sites)))] - values[sets.index(frozenset())]
    np.testing.assert_allclose((weights @ values).sum(1), whole, atol=1e-10)


def test_sampled_shares_come_to_the_exact_ones_within_their_errors() -> None:
    v = game(5, 7)
    sets, weights = exact_weights(5)
    exact = weights @ np.array([v[live] for live in sets])
    met, drawn = sampled_weights(5, 400, seed=1)
    each = drawn @ np.array([v[live] for live in met])
    se = each.std(0, ddof=1) / np.sqrt(len(each))
    assert (np.abs(each.mean(0) - exact) < 4 * se).all()


def test_a_site_without_a_part_has_no_share_and_equals_share_alike() -> None:
    sets, weights = exact_weights(3)
    v = np.array([float(0 in live and 1 in live) for live in sets])
    np.testing.assert_allclose(weights @ v, [0.5, 0.5, 0.0], atol=1e-12)


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0.001, 1))
def test_at_the_breakdown_value_the_robust_interval_just_touches_zero(value: float, half: float, seen: float) -> None:
    low, high = np.array(value - half), np.array(value + half)
    times = float(breakdown(low, high, np.array(seen)))
    if low <= 0 <= high:
        assert times == 0
        return
    ends = robust_interval(low, high, np.array(seen), times)
    assert min(abs(float(end)) for end in ends) < 1e-9
    root = optimize.brentq(lambda m: min(abs(float(low)), abs(float(high))) - m * seen, 0, 1e6)
    assert times == pytest.approx(root)


def test_nothing_seen_breaks_nothing_down() -> None:
    assert breakdown(np.array([0.1, -0.1]), np.array([0.2, 0.1]), np.zeros(2)).tolist() == [np.inf, 0.0]


def test_an_interval_that_few_latents_carry_has_as_few_degrees_of_freedom() -> None:
    gaps, n = np.zeros(200, int), 200
    gaps[:7] = [3, 1, 2, 5, 1, 4, 2]
    one = np.ones(n, int)
    v = np.stack([gaps, one, 0 * one, one])
    sums, products = v.sum(1)[:, None], (v @ v.T)[:, :, None]
    few, many = (ratio_from_sums(sums, products, n, carried=np.array([c])) for c in (7, CARRIED))
    assert (few.high - few.value) / few.se == pytest.approx(stats.t.ppf(0.975, 6))
    assert (many.high - many.value) / many.se == pytest.approx(stats.t.ppf(0.975, n - 1))
    single = ratio_from_sums(sums, products, n, carried=np.array([1]))
    assert np.isinf(single.high) and single.p == 1
