"""A study may stop when it is precise enough: closed forms, invariants, and coverage where studies stop by looking."""

import itertools

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from panels import make_panel
from scipy import optimize, stats

from gandid.did import estimate, stopping
from gandid.did.sequences import TUNED, half_width, share_at_most
from gandid.did.totals import objects_inpainted

CLASSES = ("wall", "a", "b", "c")


def panel_of(holes: np.ndarray, removed: np.ndarray, painted: np.ndarray) -> xr.Dataset:
    """A panel of the target `a` from its pixels (n,), and those that are removed and that b takes, live and held (n, 2)."""
    inside = np.zeros((len(holes), 1, 3, len(CLASSES)), np.int32)
    inside[:, 0, 0, 1] = holes
    inside[:, 0, 1:, 1] = holes[:, None] - removed
    inside[:, 0, 1:, 2] = painted
    inside[:, 0, 1:, 0] = removed - painted
    return xr.Dataset(
        dict.fromkeys(("pixels", "inside"), (("latent", "target", "arm", "object"), inside)),
        coords={
            "target": ["a"],
            "arm": ["reference", "live", "capped:first"],
            "object": list(CLASSES),
            "edit": ("arm", [False, True, True]),
            "control": ("arm", ["none", "none", "capped"]),
            "held": ("arm", ["none", "none", "first"]),
            "background": ("object", [True, False, False, False]),
        },
        attrs={"image_pixels": 400},
    )


def widths_of(panel: xr.Dataset, outcome: str) -> pd.Series:
    found = stopping.half_widths(panel)
    return found[found["outcome"] == outcome].iloc[0]


def test_where_many_carry_it_is_the_half_width_of_the_confidence_sequence():
    panel = make_panel(150, noise=0.1)
    widths = stopping.half_widths(panel)
    frame, together = estimate(panel, flips=9, resamples=2).to_frame(), objects_inpainted(panel)
    removed = frame[frame["outcome"] == "removed"].set_index(["target", "arm"])
    for row in widths.itertuples():
        if row.outcome == "removed":
            of = removed.loc[(row.target, row.arm)]
            assert row.half_width == pytest.approx((of["cs_high"] - of["cs_low"]) / 2)
        else:
            of = together.set_index(["target", "arm"]).loc[(row.target, row.arm)]
            assert row.half_width == pytest.approx(float(half_width(of["se"], of["n"], row.carried)))
        assert (row.did, row.n) == (pytest.approx(of["did"]), of["n"])
    assert len(widths) == 2 * 4 * 2  # targets, held arms, outcomes
    assert (widths["carried"] >= 30).all()


def test_where_nothing_ever_differs_it_is_the_rule_of_three_of_a_sequence():
    """Holes of one size: (1 - p)^n = (1 - level) tuned / (n + tuned), instead of the (1 - p)^n = 1 - level of a single look."""
    for n in (10, 500, 4000):
        panel = panel_of(np.full(n, 20), np.full((n, 2), 20), np.zeros((n, 2), int))
        row = widths_of(panel, "removed")
        assert (row["did"], row["carried"], row["n"]) == (0, 0, n)
        assert row["half_width"] == pytest.approx(1 - (0.05 * TUNED / (n + TUNED)) ** (1 / n))
        assert row["half_width"] > 1 - 0.05 ** (1 / n)


def test_few_pixels_in_few_latents_count_for_little():
    """A quarter of the hole differs in 20 of 500 latents of one hole size: as much as five whole ones."""
    holes = np.full(500, 20)
    removed = np.full((500, 2), 20)
    removed[:20, 1] -= 5
    row = widths_of(panel_of(holes, removed, np.zeros((500, 2), int)), "removed")
    assert (row["carried"], row["did"]) == (20, pytest.approx(0.01))
    assert row["half_width"] == pytest.approx(0.01 + float(share_at_most(5, 500)))


@given(st.integers(0, 29), st.integers(60, 4000), st.sampled_from([0.9, 0.95]))
def test_the_bound_of_a_share_is_where_the_likelihood_ratio_of_the_mixture_crosses(carriers, others, level):
    n = carriers + others
    bound = float(share_at_most(carriers, n, level))
    assert carriers / n < bound <= 1

    def ratio(p: float) -> float:
        beta = stats.betabinom.logpmf(carriers, n, 1, TUNED) - stats.binom.logpmf(carriers, n, p)
        return beta + np.log(1 - level)

    assert bound == pytest.approx(optimize.brentq(ratio, max(carriers / n, 1e-12), 1 - 1e-12), rel=1e-6)
    assert share_at_most(carriers, n + 100, level) < bound < share_at_most(carriers + 1, n + 1, level)


def test_a_bound_of_a_share_is_crossed_at_any_size_as_rarely_as_stated():
    rng = np.random.default_rng(0)
    weight = rng.random((2000, 2000)) ** 2
    part = rng.random(weight.shape)
    # The larger the hole, the likelier it carries: a bound that counted images alone would miss.
    carries = rng.random(weight.shape) < 0.03 * weight
    true = 0.03 * (1 / 5) / (1 / 3)  # E[w^2] / E[w], with w = u^2
    sizes = np.arange(9, 2000, 10)
    n, carriers = (of.cumsum(1)[:, sizes] for of in (weight, weight * carries))
    bound = share_at_most(carriers, n)
    missed = (bound < true).any(1)
    assert missed.mean() <= 0.055
    halves = share_at_most((weight * carries * part).cumsum(1)[:, sizes], n)
    assert (halves < true / 2).any(1).mean() <= 0.055
    assert (halves < 0.9 * bound).mean() > 0.9
    counted = share_at_most(carries.cumsum(1)[:, sizes], sizes + 1)
    assert (counted < true).any(1).mean() > 0.2


def draw(rng: np.random.Generator, latents: int) -> tuple[xr.Dataset, dict[str, float]]:
    """Latents of a world whose DIDs are known: what is removed differs often, what b takes in one image of fifty."""
    holes = rng.choice([0, 8, 20, 40], latents, p=[0.3, 0.3, 0.3, 0.1])
    spared = (rng.random(latents) < 0.2) * holes // 2  # held only
    removed = np.stack([holes, holes - spared], 1)
    painted = np.zeros((latents, 2), int)
    painted[:, 0] = (rng.random(latents) < 0.02) * holes // 4
    return panel_of(holes, removed, painted), {"removed": 0.1, "inpainted": 0.005}


def test_studies_that_stop_by_looking_miss_the_truth_as_rarely_as_stated():
    rng, studies, until, most = np.random.default_rng(1), 100, 0.02, 3000
    missed = dict.fromkeys(("removed", "inpainted"), 0)
    stopped = []
    for _ in range(studies):
        panel, truth = draw(rng, most)
        latents, wrong = 150, set()
        while True:
            widths = stopping.half_widths(panel.isel(latent=slice(latents)))
            for row in widths.itertuples():
                if abs(row.did - truth[row.outcome]) > row.half_width:
                    wrong.add(row.outcome)
            if stopping.is_precise(widths, until, latents, most) or latents == most:
                break
            latents = stopping.next_look(latents, most)
        stopped.append(latents)
        for outcome in wrong:
            missed[outcome] += 1
    assert 150 < np.median(stopped) < most
    assert np.mean(np.array(stopped) < most) > 0.9
    assert max(missed.values()) / studies <= 0.055


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_looks_go_on_to_the_most_and_each_is_at_most_a_quarter_further(first, more):
    most, sizes = first + more, [first]
    while sizes[-1] < most:
        sizes.append(stopping.next_look(sizes[-1], most))
    assert sizes[-1] == most
    assert all(a < b <= max(a + 1, 1.25 * a) for a, b in itertools.pairwise(sizes))


def test_a_target_that_hardly_any_image_shows_is_not_waited_for():
    rng = np.random.default_rng(0)
    common, _ = draw(rng, 1000)
    holes = np.zeros(1000, int)
    holes[:3] = 20
    scarce = panel_of(holes, np.repeat(holes[:, None], 2, 1), np.zeros((1000, 2), int))
    panel = xr.concat(
        [common, scarce.assign_coords(target=["c"])],
        "target",
        data_vars="all",
        coords="minimal",
        compat="override",
        join="outer",
    )
    widths = stopping.half_widths(panel)
    known = widths[widths["target"] == "a"]["half_width"].max()
    assert widths[widths["target"] == "c"]["half_width"].min() > 0.3
    # In 10,000 latents there would be 30 images of it, and it is waited for; in 9,000 there would not.
    assert not stopping.is_precise(widths, known, 1000, 10_000)
    assert stopping.is_precise(widths, known, 1000, 9000)
    told = stopping.reason(widths, known, 1000, 9000)
    assert told.startswith("Stopped at 1,000 latents, precise enough")
    assert told.endswith("Not waited for, since fewer than 30 of 9,000 images would show it: c.")
    assert "the widest is 63.2 points (c, removed, capped:first)" in stopping.reason(widths, known, 1000, 10_000)


def test_a_study_says_why_it_stopped():
    widths = stopping.half_widths(draw(np.random.default_rng(0), 2000)[0])
    worst = widths.loc[widths["half_width"].idxmax()]
    wide = f"{100 * worst['half_width']:.3g} points (a, inpainted by other objects, capped:first)"
    assert stopping.reason(widths, 0.5, 2000, 4000) == (
        f"Stopped at 2,000 latents, precise enough: the half-width asked for is 50 points, the widest is {wide}."
    )
    assert stopping.reason(widths, 0.001, 2000, 2000) == (
        "Went on to 2,000 latents, as many as were allowed, and is not precise enough: "
        f"the half-width asked for is 0.1 points, the widest is {wide}."
    )
    assert stopping.reason(widths, 0.001, 2000, 4000).startswith("Was cut short at 2,000 latents")
    nothing = panel_of(np.zeros(50, int), np.zeros((50, 2), int), np.zeros((50, 2), int))
    assert stopping.reason(stopping.half_widths(nothing), 0.1, 50, 100) == (
        "Stopped at 50 latents: there is nothing to wait for. "
        "Not waited for, since fewer than 30 of 100 images would show it: a."
    )


def test_a_panel_without_held_arms_has_nothing_to_wait_for():
    panel = make_panel(20, controls=[])
    widths = stopping.half_widths(panel)
    assert widths.empty
    assert stopping.is_precise(widths, 0.1, 20, 40)
