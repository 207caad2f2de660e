"""Screening is as sure as it says, measures only what it needs, and predicts what it did not measure."""

import numpy as np
import pytest
from interrupted import Interrupted
from planted_relation import RelationGenerator, RelationSegmenter

from gandid.interventions import Runner
from gandid.latents import latents
from gandid.ranking import relate
from gandid.ranking.screening import CONFIDENCE, SHARE, doubts, predict, screen

COUNT = 5


def drawn(seed, n=80, units=40, classes=3, noise=0.8):
    """Drops whose first-order effects are off by a factor and by errors in proportion, on latents of which half show a class."""
    rng = np.random.default_rng(seed)
    shown = rng.random((n, classes)) < 0.5
    typical = rng.exponential(size=(units, classes)) ** 2
    first = shown[:, None, :] * typical * rng.gamma(0.5, 2, size=(n, units, classes))
    drop = first * (1.2 + noise * rng.standard_normal(first.shape))
    return first.astype(np.float32), drop.astype(np.float32), shown


def carried(drop, ace):
    """Share of the sum of the largest true ACEs that the units of largest estimated ACE carry, by class."""
    true = drop.mean(axis=0, dtype=np.float64)
    chosen = np.argsort(-ace, axis=0, kind="stable")[:COUNT]
    return np.take_along_axis(true, chosen, axis=0).sum(axis=0) / np.sort(true, axis=0)[-COUNT:].sum(axis=0)


def screened(first, drop, shown, **asked):
    return screen(first, shown, np.arange(shown.shape[1]), COUNT, lambda latent, unit: drop[latent, unit], **asked)


def test_the_chosen_units_carry_what_is_promised_as_often_as_is_promised():
    shares, parts = [], []
    for seed in range(40):
        first, drop, shown = drawn(seed)
        found = screened(first, drop, shown)
        shares.append(carried(drop, predict(first, found, shown).ace))
        parts.append(np.isfinite(found[..., 0]).mean())
    # Of forty studies two are expected to miss the bar, and a binomial count of them exceeds five once in a hundred times.
    assert (np.array(shares) < SHARE).any(axis=1).sum() <= 5
    assert CONFIDENCE == 1 - 2 / 40
    assert np.mean(parts) < 0.25


def test_what_was_measured_is_exact_and_nothing_is_measured_twice():
    first, drop, shown = drawn(0)
    asked = np.zeros(drop.shape[:2], int)

    def measure(latent, unit):
        np.add.at(asked, (latent, unit), 1)
        return drop[latent, unit]

    found = screen(first, shown, np.arange(3), COUNT, measure)
    assert asked.max() == 1
    np.testing.assert_array_equal(np.isfinite(found[..., 0]), asked == 1)
    np.testing.assert_array_equal(found[asked == 1], drop[asked == 1])


def test_with_all_measured_nothing_is_uncertain():
    first, drop, shown = drawn(1)
    known = predict(first, drop, shown)
    np.testing.assert_allclose(known.ace, drop.mean(axis=0), rtol=1e-5)
    assert (known.error == 0).all()
    lost, chance = doubts(known, COUNT)
    np.testing.assert_allclose(lost, 0, atol=1e-12)
    assert set(np.unique(chance)) == {0, 1} and (chance.sum(axis=0) == COUNT).all()


def test_the_error_of_a_predicted_ace_is_about_what_it_is_said_to_be():
    off = []
    for seed in range(60):
        first, drop, shown = drawn(seed)
        part = drop.copy()
        part[np.random.default_rng(seed).random(part.shape[:2]) < 0.8] = np.nan
        known = predict(first, part, shown)
        off.append((known.ace - drop.mean(axis=0)) / known.error)
    assert 0.75 < np.std(off) < 1.25


def test_a_class_that_no_latent_shows_is_settled_at_once():
    first, drop, shown = drawn(2)
    shown[:, 1], first[..., 1], drop[..., 1] = False, 0, 0
    found = screened(first, drop, shown)
    assert (predict(first, found, shown).ace[:, 1] == 0).all()


def test_only_targets_are_settled():
    first, drop, shown = drawn(3)
    settled = []
    found = screen(first, shown, np.array([2]), COUNT, lambda latent, unit: drop[latent, unit], settled.append)
    assert sum(settled) == 1
    assert np.isfinite(found[..., 0]).sum() < np.isfinite(screened(first, drop, shown)[..., 0]).sum()


class InterruptedSegmenter(Interrupted, RelationSegmenter):
    """Labels as the planted segmenter does, until it is interrupted."""


@pytest.mark.parametrize("ranking", ["exact", "screened", "optimized"])
def test_a_ranking_that_was_cut_short_goes_on_as_if_it_had_not_been(tmp_path, ranking):
    segmenter, runner, z = (
        InterruptedSegmenter(),
        Runner(RelationGenerator(), "painter"),
        latents(2, range(8), 3, "ranking"),
    )
    asked = {"ranking": ranking, "count": 2, "targets": ["a"], "rows": 4}
    kept, times, progress = tmp_path / "kept", 0, []
    whole = relate(runner, segmenter, z, progress.append, **asked)
    assert sum(progress) == pytest.approx(len(z))
    while True:
        segmenter.left = 6
        try:
            again = relate(runner, segmenter, z, **asked, kept=kept)
            break
        except KeyboardInterrupt:
            times += 1
            with kept.open("ab") as file:
                file.write(b"ha")  # half a number
    assert times
    assert whole.identical(again)
