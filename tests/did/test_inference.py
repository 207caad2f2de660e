import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from gandid.did import inference

# The deprecations are pyfixest's use of pandas.
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
numbers = st.floats(-100, 100, width=32)


def did_data(n, seed=0):
    """Potential outcomes of n latents: unedited and edited, live and held; shape (n,) each."""
    rng = np.random.default_rng(seed)
    level = rng.normal(size=n)
    y00, y01 = level + rng.normal(size=n) * 0.1, level + rng.normal(size=n) * 0.1
    return {
        (0, 0): y00,
        (0, 1): y01,
        (1, 0): y00 + 0.5 + rng.normal(size=n),
        (1, 1): y01 + 0.9 + rng.exponential(size=n),
    }


class TestMean:
    def test_closed_form(self):
        delta = np.array([1.0, 2.0, 6.0])
        found = inference.mean_effect(delta)
        se = np.sqrt(7 / 3)
        half = stats.t.ppf(0.975, 2) * se
        assert found.n == 3
        np.testing.assert_allclose(found[:5], [3, se, 3 - half, 3 + half, 2 * stats.t.sf(3 / se, 2)])

    def test_is_the_one_sample_t_test(self):
        delta = np.random.default_rng(0).normal(0.2, 1, (50, 4))
        found, known = inference.mean_effect(delta, 0.9), stats.ttest_1samp(delta, 0)
        np.testing.assert_allclose(found.p, known.pvalue)
        interval = known.confidence_interval(0.9)
        np.testing.assert_allclose([found.low, found.high], [interval.low, interval.high])

    def test_is_the_interaction_of_a_regression_clustered_by_latent(self):
        pf = pytest.importorskip("pyfixest")
        n = 40
        data = did_data(n)
        long = pd.DataFrame(
            [{"y": y[i], "edit": edit, "live": live, "latent": i} for (edit, live), y in data.items() for i in range(n)]
        )
        mine = inference.mean_effect(data[1, 1] - data[0, 1] - data[1, 0] + data[0, 0])
        # With fixed effects nested in the clusters, 4 parameters count: edit, live, product, constant.
        # With every fixed effect counted, n + 3 do.
        for counted, parameters in (("nonnested", 4), ("full", n + 3)):
            fit = pf.feols(
                "y ~ edit * live | latent",
                long,
                vcov={"CRV1": "latent"},
                ssc=pf.ssc(k_adj=True, k_fixef=counted, G_adj=True),
            )
            tidy = fit.tidy().loc["edit:live"]
            assert tidy["Estimate"] == pytest.approx(mine.value, rel=1e-9)
            factor = np.sqrt((4 * n - 1) / (4 * n - parameters))
            assert tidy["Std. Error"] == pytest.approx(mine.se * factor, rel=1e-9)
        # Without that adjustment of degrees of freedom, the two are one.
        bare = pf.feols(
            "y ~ edit * live | latent", long, vcov={"CRV1": "latent"}, ssc=pf.ssc(k_adj=False, G_adj=True)
        ).tidy()
        assert bare.loc["edit:live", "Std. Error"] == pytest.approx(mine.se, rel=1e-9)
        assert bare.loc["edit:live", "Pr(>|t|)"] == pytest.approx(mine.p, rel=1e-6)

    def test_constant_differences_have_no_error(self):
        found = inference.mean_effect(np.full((7, 2), [0.1, 0.0]))
        np.testing.assert_allclose(found.value, [0.1, 0])
        np.testing.assert_array_equal(found.se, [0, 0])
        np.testing.assert_array_equal(found.p, [0, 1])

    @pytest.mark.parametrize("n", [0, 1])
    def test_too_few_latents_give_nan_without_a_warning(self, n):
        found = inference.mean_effect(np.ones((n, 3)))
        assert np.isnan(found.se).all()
        assert np.isnan(found.p).all()
        assert np.isnan(found.value).all() == (n == 0)

    @given(arrays(np.float64, 12, elements=numbers), st.permutations(range(12)))
    def test_order_does_not_matter(self, delta, order):
        one, other = inference.mean_effect(delta), inference.mean_effect(delta[list(order)])
        np.testing.assert_allclose(one[:4], other[:4], rtol=1e-9, atol=1e-9)

    def test_intervals_cover(self):
        rng = np.random.default_rng(1)
        found = inference.mean_effect(rng.normal(1, 2, (15, 4000)))
        assert np.mean((found.low <= 1) & (found.high >= 1)) == pytest.approx(0.95, abs=0.012)


class TestRatio:
    @staticmethod
    def draw(n, seed=0):
        rng = np.random.default_rng(seed)
        size = rng.integers(1, 200, n) * (rng.random(n) < 0.8)
        live = rng.binomial(size, np.clip(rng.normal(0.6, 0.15, n), 0, 1))
        held = rng.binomial(size, np.clip(rng.normal(0.7, 0.15, n), 0, 1))
        return live.astype(float), held.astype(float), size.astype(float)

    def test_closed_form(self):
        found = inference.ratio_effect(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
        # R = 4/6; psi = (a - R b) / 3 = (-1/9, 1/9)
        assert found.value == pytest.approx(2 / 3)
        assert found.se == pytest.approx(1 / 9)

    def test_over_ones_is_the_mean(self):
        delta = np.random.default_rng(0).normal(size=(30, 3))
        np.testing.assert_allclose(
            np.stack(inference.ratio_effect(delta, np.ones(30))[:5]),
            np.stack(inference.mean_effect(delta)[:5]),
        )

    def test_is_weighted_least_squares_clustered_by_latent(self):
        # A ratio of sums is the weighted mean of per-image ratios, weights the target's pixels.
        pf = pytest.importorskip("pyfixest")
        live, _, size = self.draw(60)
        seen = size > 0
        data = pd.DataFrame({"y": live[seen] / size[seen], "w": size[seen], "latent": np.arange(seen.sum())})
        fit = pf.feols("y ~ 1", data, vcov={"CRV1": "latent"}, weights="w", ssc=pf.ssc(k_adj=False, G_adj=True))
        found = inference.ratio_effect(live, size)
        assert found.value == pytest.approx(fit.tidy()["Estimate"].iloc[0])
        assert found.se == pytest.approx(fit.tidy()["Std. Error"].iloc[0])

    def test_error_agrees_with_the_bootstrap(self):
        live, held, size = self.draw(400)
        found = inference.ratio_effect(live, size, held, size)
        draws = inference.bootstrap(np.stack([live, held], 1), np.stack([size, size], 1), 4000)
        did = draws[:, 0] - draws[:, 1]
        assert found.se == pytest.approx(did.std(ddof=1), rel=0.06)
        np.testing.assert_allclose([found.low, found.high], np.percentile(did, [2.5, 97.5]), atol=0.25 * found.se)

    def test_error_agrees_with_the_bootstrap_where_the_denominators_differ(self):
        live, held, size = self.draw(400)
        rng = np.random.default_rng(5)
        other = size + rng.poisson(30, 400)
        found = inference.ratio_effect(live, size, held, other)
        draws = inference.bootstrap(np.stack([live, held], 1), np.stack([size, other], 1), 4000)
        assert found.se == pytest.approx((draws[:, 0] - draws[:, 1]).std(ddof=1), rel=0.06)

    @given(st.integers(0, 1000))
    def test_swapping_the_arms_turns_the_sign(self, seed):
        live, held, size = self.draw(25, seed)
        one = inference.ratio_effect(live, size, held, size)
        other = inference.ratio_effect(held, size, live, size)
        assert one.value == pytest.approx(-other.value)
        assert one.se == pytest.approx(other.se)
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))

    @given(st.integers(0, 1000), st.integers(0, 30))
    def test_latents_without_the_target_change_nothing(self, seed, more):
        live, held, size = self.draw(25, seed)
        pad = [np.concatenate([x, np.zeros(more)]) for x in (live, size, held, size)]
        assert inference.ratio_effect(*pad) == pytest.approx(inference.ratio_effect(live, size, held, size))

    def test_a_target_never_seen_gives_nan_without_a_warning(self):
        nothing = np.zeros(10)
        found = inference.ratio_effect(nothing, nothing, nothing, nothing)
        assert found.n == 0
        assert np.isnan(found[:5]).all()
        assert np.isnan(inference.bootstrap(nothing[:, None], nothing[:, None], 10)).all()

    def test_intervals_cover(self):
        truth, hits = -0.1, 0
        for seed in range(400):
            live, held, size = self.draw(80, seed)
            found = inference.ratio_effect(live, size, held, size)
            hits += found.low <= truth <= found.high
        # Clipping the shares to 0 .. 1 moves the truth by less than a tenth of the error.
        assert hits / 400 == pytest.approx(0.95, abs=0.03)


class TestPermutation:
    def test_few_latents_are_enumerated_by_hand(self):
        # Of 8 sign vectors of (1, 2, 3), only the two of equal signs reach the sum 6.
        assert inference.permutation(np.array([[1.0], [2.0], [3.0]]), 20000) == pytest.approx(0.25, abs=0.01)

    def test_agrees_with_the_t_test_where_that_holds(self):
        values = np.random.default_rng(3).normal(0.15, 1, (200, 5))
        np.testing.assert_allclose(inference.permutation(values), inference.mean_effect(values).p, atol=0.015)

    def test_is_uniform_under_the_null(self):
        values = np.random.default_rng(4).normal(0, 1, (30, 1500))
        assert stats.kstest(inference.permutation(values, 999), "uniform").pvalue > 0.01

    def test_ties_count(self):
        # A difference that never varies reaches its own sum only if all signs agree; zero does always.
        values = np.stack([np.full(6, 0.1), np.zeros(6), np.full(6, np.nan)], 1)
        p = inference.permutation(values, 20000)
        assert p[0] == pytest.approx(2 / 64, abs=0.005)
        assert p[1] == 1
        assert np.isnan(p[2])

    def test_the_smallest_is_the_number_of_draws(self):
        assert inference.permutation(np.ones((100, 1)), 99) == pytest.approx(0.01)


class TestBh:
    @given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
    def test_is_scipys(self, p):
        np.testing.assert_allclose(inference.bh(p), stats.false_discovery_control(p), atol=1e-12)

    def test_untested_do_not_count(self):
        p = np.array([0.01, np.nan, 0.04])
        np.testing.assert_allclose(inference.bh(p), [0.02, np.nan, 0.04])
        assert np.isnan(inference.bh(np.array([np.nan]))).all()
