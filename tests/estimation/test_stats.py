"""Statistics on arrays: closed forms, reference libraries, simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, stats
from statsmodels.stats.power import TTestPower

from gandid.stats import (
    CARRIERS,
    TUNED,
    bonferroni,
    bootstrap,
    boundary,
    detectable,
    difference,
    false_discovery,
    permutation,
    prediction,
    random_effects,
    sequence_half_width,
    share_at_most,
    t_interval,
    welch_z,
)

pytestmark = pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # of what other tests left to the collector


class TestInterval:
    def test_is_the_one_sample_t_test(self):
        values = np.random.default_rng(0).normal(0.2, 1, (50, 4))
        found = t_interval(values.mean(0), values.std(0, ddof=1) / np.sqrt(50), 50, np.inf, 0.9)
        known = stats.ttest_1samp(values, 0)
        np.testing.assert_allclose(found.p, known.pvalue)
        interval = known.confidence_interval(0.9)
        np.testing.assert_allclose([found.low, found.high], [interval.low, interval.high])

    def test_few_carriers_make_as_few_degrees_of_freedom(self):
        few, many, single = (t_interval(np.array(1.0), np.array(1.0), 200, c) for c in (7, CARRIERS, 1))
        assert few.high - 1 == pytest.approx(stats.t.ppf(0.975, 6))
        assert many.high - 1 == pytest.approx(stats.t.ppf(0.975, 199))
        assert np.isinf(single.high) and single.p == 1

    def test_certainty_and_ignorance(self):
        found = t_interval(np.array([0.1, 0.0, 0.3]), np.array([0.0, 0.0, np.nan]), 10, np.inf)
        assert found.p[:2].tolist() == [0, 1]
        assert found.low[0] == found.high[0] == 0.1
        assert np.isnan([found.low[2], found.p[2]]).all()


class TestPermutation:
    def test_few_latents_are_enumerated_by_hand(self):
        # Of 8 sign vectors of (1, 2, 3), only the two of equal signs reach the sum 6.
        assert permutation(np.array([[1.0], [2.0], [3.0]]), 20000) == pytest.approx(0.25, abs=0.01)

    def test_agrees_with_the_t_test_where_that_holds(self):
        values = np.random.default_rng(3).normal(0.15, 1, (200, 5))
        np.testing.assert_allclose(permutation(values), stats.ttest_1samp(values, 0).pvalue, atol=0.015)

    def test_is_uniform_under_the_null(self):
        values = np.random.default_rng(4).normal(0, 1, (30, 1500))
        assert stats.kstest(permutation(values, 999), "uniform").pvalue > 0.01

    def test_ties_count(self):
        # A difference that never varies reaches its own sum only if all signs agree; zero does always.
        p = permutation(np.stack([np.full(6, 0.1), np.zeros(6), np.full(6, np.nan)], 1), 20000)
        assert p[0] == pytest.approx(2 / 64, abs=0.005)
        assert p[1] == 1
        assert np.isnan(p[2])

    def test_the_smallest_is_the_number_of_draws(self):
        assert permutation(np.ones((100, 1)), 99) == pytest.approx(0.01)


def test_the_bootstrap_of_a_mean_has_its_error():
    values = np.random.default_rng(0).exponential(size=(300, 2))
    draws = bootstrap(values, np.ones((300, 1)), 4000)
    np.testing.assert_allclose(draws.std(0), values.std(0) / np.sqrt(300), rtol=0.05)
    assert np.isnan(bootstrap(np.zeros((10, 1)), np.zeros((10, 1)), 10)).all()


class TestMultiplicity:
    @given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
    def test_q_values_are_scipys(self, p):
        np.testing.assert_allclose(false_discovery(p), stats.false_discovery_control(p, method="by"), atol=1e-12)

    def test_untested_do_not_count(self):
        np.testing.assert_allclose(false_discovery(np.array([0.01, np.nan, 0.04])), [0.03, np.nan, 0.06])
        assert np.isnan(false_discovery(np.array([np.nan]))).all()

    def test_the_bound_of_several_comparisons(self):
        assert bonferroni(3, 1) == pytest.approx(3)
        assert stats.norm.sf(bonferroni(3, 8)) * 8 == pytest.approx(stats.norm.sf(3))


def test_welchs_z_is_that_of_his_test():
    rng = np.random.default_rng(0)
    one, two = rng.normal(0, 1, (20, 3)), rng.normal(0.5, 2, (35, 3))
    sizes = np.array([20]), np.array([35])
    z = welch_z(one.mean(0) - two.mean(0), (one.var(0, ddof=1) / 20, two.var(0, ddof=1) / 35), sizes)
    np.testing.assert_allclose(2 * stats.norm.sf(z), stats.ttest_ind(one, two, equal_var=False).pvalue)


class TestSequences:
    @given(st.floats(0.5, 0.99), st.integers(50, 5000))
    def test_the_boundary_is_narrowest_where_it_is_tuned(self, level, tuned):
        """Up to the approximation in the paper: no other rho is better by 1 %."""
        others = [boundary(tuned, level, other) for other in np.geomspace(tuned / 50, tuned * 50, 101)]
        assert boundary(tuned, level, tuned) <= 1.01 * min(others)

    def test_the_boundary_at_its_best_is_that_of_the_paper(self):
        x = 2 * np.log(20) + np.log(2 * np.log(20) + 1)
        assert boundary(TUNED) == pytest.approx(np.sqrt(2 * (x + 1) / x * np.log(np.sqrt(x + 1) / 0.05)))
        assert (boundary(np.arange(1, 5000)) > stats.norm.ppf(0.975)).all()

    def test_a_random_walk_crosses_the_boundary_as_rarely_as_stated_although_an_interval_is_crossed_often(self):
        steps = np.random.default_rng(0).standard_normal((2000, 3000))
        n = np.arange(1, 3001)
        z = np.abs(steps.cumsum(1)) / np.sqrt(n)
        assert (z > boundary(n)).any(1).mean() <= 0.055
        assert (z > stats.norm.ppf(0.975)).any(1).mean() > 0.4

    def test_the_sequence_says_nothing_of_what_hardly_any_latent_carries(self):
        widths = sequence_half_width(np.array([0.1, 0.1, 0.0, np.nan]), 200, np.array([CARRIERS - 1, CARRIERS, 200, 0]))
        assert np.isinf(widths[0])
        assert widths[1] == pytest.approx(0.1 * boundary(200))
        assert widths[2] == 0
        assert np.isnan(widths[3])

    @given(st.integers(0, 29), st.integers(60, 4000), st.sampled_from([0.9, 0.95]))
    def test_the_bound_of_a_share_is_where_the_likelihood_ratio_of_the_mixture_crosses(self, carriers, others, level):
        n = carriers + others
        bound = float(share_at_most(carriers, n, level))
        assert carriers / n < bound <= 1

        def ratio(p):
            beta = stats.betabinom.logpmf(carriers, n, 1, TUNED) - stats.binom.logpmf(carriers, n, p)
            return beta + np.log(1 - level)

        assert bound == pytest.approx(optimize.brentq(ratio, max(carriers / n, 1e-12), 1 - 1e-12), rel=1e-6)
        assert share_at_most(carriers, n + 100, level) < bound < share_at_most(carriers + 1, n + 1, level)

    def test_a_bound_of_a_share_is_crossed_at_any_size_as_rarely_as_stated(self):
        rng = np.random.default_rng(0)
        weight = rng.random((2000, 2000)) ** 2
        # The larger the hole, the likelier it carries: a bound that counted images alone would miss.
        carries = rng.random(weight.shape) < 0.03 * weight
        true = 0.03 * (1 / 5) / (1 / 3)  # E[w^2] / E[w], with w = u^2
        sizes = np.arange(9, 2000, 10)
        n, carriers = (values.cumsum(1)[:, sizes] for values in (weight, weight * carries))
        assert (share_at_most(carriers, n) < true).any(1).mean() <= 0.055
        counted = share_at_most(carries.cumsum(1)[:, sizes], sizes + 1)
        assert (counted < true).any(1).mean() > 0.2


@pytest.mark.parametrize("n", [5, 30, 400])
def test_the_detectable_effect_has_the_stated_power(n):
    """Against statsmodels' noncentral t, which the sum of two quantiles approximates."""
    effect = float(detectable(np.array(0.3 / np.sqrt(n)), n))
    assert TTestPower().power(effect / 0.3, n, 0.05) == pytest.approx(0.8, abs=0.03)
    assert detectable(np.array(0.3), 400, 10) == pytest.approx(
        detectable(np.array(0.3), 10)
    )  # as the interval's degrees
    assert detectable(np.array(0.0), n, 0) == pytest.approx(3 / n)  # nothing differed: the rule of three
    assert np.isnan(detectable(np.array(0.1), 1))


def test_two_groups_of_networks_are_compared_as_welch_does():
    ones, others = np.array([0.1, 0.3, 0.2]), np.array([0.4, 0.9])
    groups = [(random_effects(values, np.full(len(values), 1e-9)), len(values)) for values in (ones, others)]
    found, following = difference(groups)
    ends = stats.ttest_ind(ones, others, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-4)
    assert found.tau == pytest.approx(np.hypot(ones.std(ddof=1), others.std(ddof=1)), rel=1e-4)
    assert np.isnan(following).all()  # of two networks there is no prediction
    alone, following = difference(groups[:1])
    assert alone == pytest.approx(groups[0][0], rel=1e-6) and following == prediction(groups[0][0], 3)
    assert np.isnan(difference([(random_effects(ones[:1], ones[:1]), 1)])[0].se)


class TestNetworks:
    def test_the_mean_and_the_next_network_are_covered_as_stated(self):
        """Networks with a spread of 1, each known to a tenth up to six tenths of that."""
        rng, studies, count = np.random.default_rng(0), 600, 5
        means, nexts, spreads = 0, 0, list[float]()
        for _ in range(studies):
            se = rng.uniform(0.1, 0.6, count)
            effects = 0.3 + rng.normal(0, 1, count) + se * rng.standard_normal(count)
            found = random_effects(effects, se)
            means += found.low <= 0.3 <= found.high
            nexts += abs(rng.normal(0.3, 1) - found.mean) <= prediction(found, count)[1]
            spreads.append(found.tau**2)
        assert means / studies == pytest.approx(0.95, abs=0.025)
        assert nexts / studies == pytest.approx(0.95, abs=0.03)
        assert np.mean(spreads) == pytest.approx(1, abs=0.3)

    def test_networks_that_are_known_exactly_are_a_sample(self):
        values = np.array([0.1, 0.2, 0.6])
        found = random_effects(values, np.zeros(3))
        assert (found.mean, found.se) == pytest.approx((0.3, values.std(ddof=1) / np.sqrt(3)), rel=1e-4)
        assert found.high - found.mean == pytest.approx(4.302653 * found.se)
        assert found.tau == pytest.approx(values.std(ddof=1), rel=1e-4)
        se, half = prediction(found, 3)
        assert half == pytest.approx(12.7062 * se, rel=1e-5)  # one degree of freedom

    def test_one_network_has_a_mean_and_no_error_and_two_have_no_prediction(self):
        found = random_effects(np.array([0.5]), np.array([0.1]))
        assert found.mean == 0.5 and np.isnan(found[1:]).all()
        assert np.isnan(prediction(random_effects(np.array([0.1, 0.3]), np.ones(2)), 2)).all()
        assert random_effects(np.zeros(3), np.zeros(3)) == (0, 0, 0, 0, 0)

    def test_networks_that_happen_to_agree_are_known_as_well_as_their_latents_allow(self):
        found = random_effects(np.full(4, 0.5), np.full(4, 0.2))
        assert (found.mean, found.tau) == (0.5, 0)
        assert found.se == pytest.approx(0.1)
        assert found.high - 0.5 == pytest.approx(0.1 * stats.t.ppf(0.975, 3))
        assert np.isnan(random_effects(np.array([0.1, 0.3]), np.array([0.1, np.nan])).se)
