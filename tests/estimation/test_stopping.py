"""A study may stop when it is precise enough: closed forms, invariants, and coverage where studies stop by looking."""

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from panels import make_panel, panel_of

from gandid.estimation import did
from gandid.estimation.stopping import half_widths, is_precise, next_look, stop_reason
from gandid.stats import TUNED, share_at_most


def world(holes: np.ndarray, removed: np.ndarray, painted: np.ndarray) -> xr.Dataset:
    """A panel of the target `a` from its pixels (n,), and those that are removed and that b takes, live and held (n, 2)."""
    inside = np.zeros((len(holes), 3, 4), np.int32)
    inside[:, 0, 1] = holes
    inside[:, 1:, 1] = holes[:, None] - removed
    inside[:, 1:, 2] = painted
    inside[:, 1:, 0] = removed - painted
    return panel_of(inside, ("wall", "a", "b", "c"))


def widths_of(panel: xr.Dataset, outcome: str):
    found = half_widths(panel)
    return found[found["outcome"] == outcome].iloc[0]


def test_where_many_carry_it_is_the_half_width_of_the_confidence_sequence():
    panel = make_panel(150, noise=0.1)
    widths, frame = half_widths(panel), did(panel, flips=9, resamples=2).main
    keys = ["target", "arm", "outcome", "object"]
    both = widths.merge(frame, on=keys, suffixes=("", "_did"))
    assert len(both) == len(widths) == 2 * 4 * 2  # targets, held arms, outcomes
    np.testing.assert_allclose(both["half_width"], (both["cs_high"] - both["cs_low"]) / 2)
    np.testing.assert_allclose(both["did"], both["did_did"])
    assert (both["n"] == both["n_did"]).all() and (both["carriers"] >= 30).all()


def test_where_nothing_ever_differs_it_is_the_rule_of_three_of_a_sequence():
    """Holes of a twentieth of the image: (1 - p)^m = (1 - level) tuned / (m + tuned), m = n / 20, not 1 - level as at a single look."""
    for n in (10, 500, 4000):
        row = widths_of(world(np.full(n, 20), np.full((n, 2), 20), np.zeros((n, 2), int)), "removed")
        assert (row["did"], row["carriers"], row["n"]) == (0, 0, n)
        assert row["half_width"] == pytest.approx(1 - (0.05 * TUNED / (n / 20 + TUNED)) ** (20 / n))
        assert row["half_width"] > 1 - 0.05 ** (20 / n)


def test_few_pixels_in_few_latents_count_for_little():
    """A quarter of the hole differs in 20 of 500 latents, holes of a twentieth of the image: as much as a quarter of 25 images."""
    removed = np.full((500, 2), 20)
    removed[:20, 1] -= 5
    row = widths_of(world(np.full(500, 20), removed, np.zeros((500, 2), int)), "removed")
    assert (row["carriers"], row["did"]) == (20, pytest.approx(0.01))
    assert row["half_width"] == pytest.approx(0.01 + float(share_at_most(0.25, 25)))


def draw(rng: np.random.Generator, latents: int) -> tuple[xr.Dataset, dict[str, float]]:
    """Latents of a world whose DIDs are known: what is removed differs often, what b takes in one image of sixteen."""
    holes = rng.choice([0, 8, 20, 40], latents, p=[0.3, 0.3, 0.3, 0.1])
    spared = (rng.random(latents) < 0.2) * holes // 2  # held only
    removed = np.stack([holes, holes - spared], 1)
    painted = np.zeros((latents, 2), int)
    painted[:, 0] = (rng.random(latents) < 0.06) * holes // 4
    return world(holes, removed, painted), {"removed": 0.1, "inpainted": 0.015}


@pytest.mark.slow
def test_studies_that_stop_by_looking_miss_the_truth_as_rarely_as_stated():
    rng, studies, until, most = np.random.default_rng(1), 24, 0.03, 2000
    missed, stopped = dict.fromkeys(("removed", "inpainted"), 0), []
    for _ in range(studies):
        panel, truth = draw(rng, most)
        latents, wrong = 150, set()
        while True:
            measured = panel.isel(latent=slice(latents)).assign_coords(measured=panel["measured"] * 0 + latents)
            widths = half_widths(measured)
            wrong |= {row.outcome for row in widths.itertuples() if abs(row.did - truth[row.outcome]) > row.half_width}
            if is_precise(widths, until, latents, most) or latents == most:
                break
            latents = next_look(latents, most)
        stopped.append(latents)
        for outcome in wrong:
            missed[outcome] += 1
    assert max(missed.values()) / studies <= 0.125  # 5 %, with the chance of 24 studies
    assert 150 < np.median(stopped) < most


@given(st.integers(1, 5000), st.integers(1, 100_000))
def test_looks_come_after_a_quarter_more_and_end_at_the_most(first, more):
    most, sizes = first + more, [first]
    while sizes[-1] < most:
        sizes.append(next_look(sizes[-1], most))
    assert sizes[-1] == most
    assert all(a < b <= max(a + 1, 1.25 * a) for a, b in itertools.pairwise(sizes))


def test_a_target_that_hardly_any_image_shows_is_not_waited_for():
    panel, _ = draw(np.random.default_rng(0), 1000)
    scarce = panel["inside"].values.copy()
    scarce[:, 3:] = 0
    both = xr.concat([panel, panel.assign(inside=(panel["inside"].dims, scarce))], "target", data_vars="minimal")
    both = both.assign_coords(target=["a", "c"])
    both["inside"].loc[{"target": "c"}] = both["inside"].sel(target="c").roll(object=2, roll_coords=False).values
    widths = half_widths(both)
    known = widths[widths["target"] == "a"]["half_width"].max()
    shown = int(widths[widths["target"] == "c"]["n"].max())
    assert widths[widths["target"] == "c"]["half_width"].min() > 0.3
    # So many latents would hold 30 images of it, and it is waited for; in fewer there would not be as many.
    most = -(-30 * 1000 // shown)
    assert not is_precise(widths, known, 1000, most)
    assert is_precise(widths, known, 1000, most - 1000 // shown - 1)
    assert "Not waited for" in stop_reason(both, known, 1000, most - 1000 // shown - 1)


def test_a_study_says_why_it_stopped():
    panel, _ = draw(np.random.default_rng(0), 2000)
    wide = f"{100 * half_widths(panel)['half_width'].max():.3g} points"
    reason = stop_reason(panel, 0.5, 2000, 4000)
    assert reason.startswith("Stopped at 2,000 latents") and "50 points" in reason and wide in reason
    assert stop_reason(panel, 0.001, 2000, 2000).startswith("Went on to 2,000 latents")
    assert stop_reason(panel, 0.001, 2000, 4000).startswith("Was cut short at 2,000 latents")
    nothing = world(np.zeros(50, int), np.zeros((50, 2), int), np.zeros((50, 2), int))
    assert "nothing to wait for" in stop_reason(nothing, 0.1, 50, 100)


def test_a_panel_without_held_arms_has_nothing_to_wait_for():
    widths = half_widths(make_panel(20, controls=[]))
    assert widths.empty and is_precise(widths, 0.1, 20, 40)
