"""A hole's pixels that the segmenter declines: what is planted under them lies within the bounds, and not where naming ends."""

import numpy as np
import pytest
import torch
from panels import make_panel, panel_of
from planted import PlantedGenerator, PlantedSegmenter
from scipy import stats

from gandid.estimation import did
from gandid.estimation.contents import Contents
from gandid.estimation.contrast import bounds_of, contrast, parts
from gandid.estimation.sums import gather
from gandid.interventions import REFERENCE, Arm, Runner, ablate
from gandid.latents import latents
from gandid.stats import identified_interval
from gandid.study import Study

CLASSES = ("wall", "a", "b", "unknown")
WALL, A, B, UNKNOWN = range(4)
# What pixels of an ablated `a` are, live and held, as which they are named, and how many of them there are.
PIXELS = [
    ((B, B), (UNKNOWN, B), 0.25),  # half of the pixels are declined, and more of them live
    ((B, WALL), (B, WALL), 0.05),
    ((WALL, WALL), (WALL, WALL), 0.30),
    ((WALL, WALL), (UNKNOWN, UNKNOWN), 0.20),
    ((A, A), (A, A), 0.10),
    ((WALL, WALL), (WALL, UNKNOWN), 0.10),
]
TRUE, NAMED = 0.05, 0.05 - 0.25  # in-painting by b, live less held
OTHERWISE = 0.25  # the same, if what is declined in both arms is b live and wall held


def declined(seed, n=80):
    """A panel of n latents with such pixels, and estimates of its bounds."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(30 * np.array([share for *_, share in PIXELS]), n)
    counts = rng.multinomial(rng.integers(20, 60, n), shares)
    inside, shared = np.zeros((n, 3, 4), int), np.zeros((1, n, 1, 3), np.int32)
    inside[:, 0, A] = counts.sum(axis=1)
    for (_, named, _), count in zip(PIXELS, counts.T, strict=True):
        for arm, name in enumerate(named, start=1):
            inside[:, arm, name] += count
            shared[0, :, 0, arm] += count * (name == UNKNOWN and named[0] == UNKNOWN)
    panel = panel_of(inside, CLASSES).assign(shared=(("segmenter", "latent", "target", "arm"), shared))
    contents = Contents(panel)
    sums = gather(contents, contents.study)
    part = parts(contents, sums, 0, "inpainted")
    ends = bounds_of(contents, sums, part, 0, "inpainted", contents.regimes)
    plain = contrast(part, sums.at([contents.live]) - sums.at([contents.regimes[0].arm]))
    found = {"did": plain.value, "ci_named_low": plain.low, "ci_named_high": plain.high} | ends
    return panel, {name: values[0, list(part.objects).index("b")] for name, values in found.items()}


def test_bounds_cover_what_is_planted_under_declined_pixels_and_paired_ones_exactly_where_they_may():
    covered = {f"{name}{which}": 0 for name in ("named", "worst", "paired") for which in ("", " otherwise")}
    for seed in range(40):
        _, table = declined(seed)
        for name in ("named", "worst", "paired"):
            low, high = table[f"ci_{name}_low"], table[f"ci_{name}_high"]
            covered[name] += low <= TRUE <= high
            covered[f"{name} otherwise"] += low <= OTHERWISE <= high
    # Both truths lie at the very end of the bounds that hold of them: intervals of 95 % cover 95 % there.
    assert covered["named"] == 0 and covered["worst"] == 40 and covered["paired otherwise"] == 0
    assert covered["worst otherwise"] >= 34 and covered["paired"] >= 34


def test_bounds_and_shares_are_those_of_the_counts():
    panel, table = declined(0)
    inside = panel["inside"].isel(segmenter=0, target=0).sum("latent").values
    live, held = inside[1:] / inside[0].sum()
    both = panel["shared"].sum().item() - inside[1, UNKNOWN]
    gap, alone = live[B] - held[B], both / inside[0].sum()
    assert table["did"] == pytest.approx(gap)
    for name, shared in (("worst", 0), ("paired", alone)):
        ends = gap - held[UNKNOWN] + shared, gap + live[UNKNOWN] - shared
        assert (table[f"{name}_low"], table[f"{name}_high"]) == pytest.approx(ends)
    effects = did(panel, flips=9, resamples=0).frame
    shares = effects[effects["contrast"] == "composition"]
    assert list(shares["object"]) == ["a", "b", "background", "unknown"]
    assert shares[["tau_live", "tau_held"]].sum().tolist() == pytest.approx([1, 1])
    gap, removed = live[A] - held[A], effects[effects["outcome"] == "removed"].iloc[0]
    assert removed["did"] == pytest.approx(-gap)
    assert tuple(removed[["worst_low", "worst_high"]]) == pytest.approx((-gap - live[UNKNOWN], -gap + held[UNKNOWN]))


def test_a_hole_without_declined_pixels_is_known_to_a_point_under_each_segmenter():
    effects = did(
        make_panel(60, noise=0.05, second={"live": {"wall": 0.5}, "first": {}, "all": {}}), flips=9, resamples=0
    )
    for contrast_ in ("did", "second"):
        frame = effects.frame[(effects.frame["contrast"] == contrast_) & (effects.frame["kind"] != "unknown")]
        frame = frame[frame["outcome"].isin(["removed", "inpainted"])]
        for end in ("low", "high"):
            np.testing.assert_allclose(frame[f"worst_{end}"], frame["did"], atol=1e-12)
            np.testing.assert_allclose(frame[f"ci_worst_{end}"], frame[f"ci_{end}"], atol=1e-9)
        assert frame["paired_low"].isna().all()  # the panel does not say which pixels both arms share


def test_the_interval_is_two_sided_where_the_bounds_meet_and_one_sided_far_apart():
    high, errors = np.array([0.0, 1.0, 100.0]), (np.ones(3), np.ones(3))
    reach = -identified_interval(np.zeros(3), high, errors, 10**6, np.inf)[0]
    assert reach[[0, 2]] == pytest.approx([stats.norm.isf(0.025), stats.norm.isf(0.05)], abs=1e-4)
    assert stats.norm.cdf(reach[1] + 1) - stats.norm.cdf(-reach[1]) == pytest.approx(0.95, abs=1e-6)
    assert identified_interval(np.zeros(1), np.ones(1), (np.ones(1), np.ones(1)), 100, 1)[1] == np.inf


class Declining(PlantedSegmenter):
    """Does not recognize every second column of what is neither wall nor `a`, and in the first rows nothing but `a`."""

    classes = ("wall", "a", "b", "unknown")

    def __call__(self, images):
        labels = super().__call__(images)
        strange = labels == 2
        strange[..., ::2] = False
        strange[..., :2, :] = labels[..., :2, :] != 1
        return labels.where(~strange, torch.tensor(UNKNOWN))


def test_a_study_counts_the_pixels_that_are_unknown_in_an_arm_and_in_live():
    study = Study(PlantedGenerator(), Declining(), layer="paint", seed=1)
    panel = study.run({"a": [0], "b": [1]}, latents=10, control="capped", hold="first")
    runner, z = Runner(PlantedGenerator(), "paint"), latents(1, range(10), 1)
    arms = [REFERENCE, Arm(ablate([0])), Arm(ablate([0]), {"norm": "capped"})]
    reference, live, held = Declining()(runner.run(z, arms).flatten(0, 1)).unflatten(0, (3, 10))
    for arm, labels in (("reference", reference), ("live", live), ("capped:first", held)):
        both = ((reference == A) & (live == UNKNOWN) & (labels == UNKNOWN)).sum(dim=(1, 2))
        found = panel["shared"].sel(segmenter="Declining", target="a", arm=arm)
        np.testing.assert_array_equal(found, both)
        assert (arm == "reference") == (both.sum() == 0)
    assert (panel["shared"].sel(arm="live") == panel["inside"].sel(arm="live", object="unknown")).all()
