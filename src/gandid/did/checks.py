"""Credibility: what could make an estimate untrue, measured, with a bound and a verdict.

**Support** asks whether an arm is a world that the network could be in. An arm is judged by its *typical*
image (the mean over the images that show the target) against the *range* of the unedited images (all but the
most extreme twentieth of them): an arm is flagged when its typical image lies where only one unedited image
in twenty does. Single extreme images do not flag an arm, since the unedited world has them too; a shift of
the whole arm does. The live arm is judged like the others, since an ablation can leave the range by itself,
but an effect counts as supported if its *held* arm is: live is what the network does, and only the control
can be an artefact of the experiment.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from gandid.did import estimands
from gandid.did.inference import ratio_effect

SUPPORT = ("strain", "realism", "unknown", "unknown_inside")
COLUMNS = ["check", "target", "value", "bound", "verdict", "arm", "detail"]
# Controls under which holding sites without an edit changes nothing, by construction.
EXACT_CONTROLS = ("capped", "frozen")


@dataclass(frozen=True)
class Bounds:
    """The bounds of the checks; each can be chosen, and the defaults say why they are what they are."""

    tail: float = 0.05
    """Share of the unedited images that lie beyond "their range", on the side that matters."""
    unknown: float = 0.005
    """Share of an image's pixels that a good segmenter may call `unknown` by mistake, even on clean images:
    where the unedited range is narrower than that, it is not held against an arm."""
    unknown_inside: float = 0.10
    """Share of the target's original pixels that may become `unknown` beyond what the live arm makes
    unknown: they could belong to any class, so in-painting shares could be off by as much."""
    seen: int = 30
    """Images showing the target below which its intervals, built on a normal limit, are flagged."""
    baseline_gap: float = 1e-3
    """Change of the unedited image, on the scale -1 .. 1, that float rounding may make: an eighth of one step
    of an 8-bit image."""
    gain_error: float = 1e-3
    """Relative deviation of the gain from its closed form. The normalization's eps (1e-8, beside an energy
    near 1) explains that much only where the survivors carry less than some 1e-5 of the energy."""
    stability: float = 3.0
    """Standard errors by which the two halves of the latents may differ, for one comparison; a row that makes
    several has the bound at which all of them together exceed it as rarely (Bonferroni)."""


DEFAULTS = Bounds()


def checks(panel: xr.Dataset, bounds: Bounds = DEFAULTS) -> pd.DataFrame:
    """Judge a panel's credibility.

    Checks whose variables the panel lacks (no discriminator, no `unknown` class, no upstream site) are left
    out.

    - ``target_seen``: images that show the target (from the panel's `presence` on). None or one: *failed*,
      not estimable.
    - ``strain`` (support; per held arm, at its worst site): 99 % of positions of a typical image have a held
      statistic within this log-ratio of what the site would have taken. The bound is the natural range: how
      far the statistic moves, on 99 % of positions, between two unedited images. Large frozen strains divide
      new activations by old statistics; what they paint is the control's, not the network's.
    - ``realism`` (support): the discriminator's mean score, against the low end of the unedited images'.
    - ``unknown`` (support): mean share of pixels that belong to no class, against the high end of the
      unedited images'. For both, the edit may leave the range by itself, and then the live arm is flagged;
      a held arm is held to what *holding* adds: beyond the live arm it may go as far as the end of the
      unedited range lies from its mean.
    - ``unknown_inside`` (support): share of the target's original pixels that belong to no class after the
      edit. Unedited images have none by definition; a held arm may add `Bounds.unknown_inside` to what the
      live arm has.
    - ``baseline_gap`` (per arm): what holding does to the unedited image; *failed* for capped and frozen,
      where it must be rounding, *flagged* for other controls, whose DID then needs parallel trends.
    - ``placebo_site``: holding a site upstream of the edit must change nothing, exactly.
    - ``gain``: measured gain at the first site against ``(1 - e_U)^(-1/2)``.
    - ``stability``: DID of `removed` and of `inpainted` by objects in the two halves of the latents; the
      worst Welch z.

    Parameters
    ----------
    panel
        As ``docs/panel.md`` describes it.
    bounds
        The bounds.

    Returns
    -------
    pandas.DataFrame
        Columns ``check, target, value, bound, verdict, arm, detail``; `verdict` is ``ok``, ``flagged`` or
        ``failed``; `target` or `arm` is empty where a check is not about one.

    Raises
    ------
    ValueError
        If the panel lacks what every estimate needs (`gandid.did.estimands.prepare`).
    """
    panel = estimands.prepare(panel)
    found = [
        *_target_seen(panel, bounds),
        *_strain(panel, bounds),
        *_realism(panel, bounds),
        *_unknown(panel, bounds),
        *_unknown_inside(panel, bounds),
        *_baseline_gap(panel, bounds),
        *_placebo_site(panel),
        *_gain(panel, bounds),
        *_stability(panel, bounds),
    ]
    return pd.DataFrame(found, columns=COLUMNS)


Row = dict[str, Any]


def _row(check: str, value: float, bound: float, good: bool, bad: str = "flagged", **rest: str) -> Row:
    where = {"target": "", "arm": "", "detail": ""} | rest
    return {
        "check": check,
        "value": float(value),
        "bound": float(bound),
        "verdict": "ok" if good else bad,
    } | where


def _shown(panel: xr.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Targets that any image shows, and which images."""
    for target in panel["target"].values.astype(str):
        shows = estimands.showing(panel, target)
        if shows.any():
            yield target, shows


def _edited(panel: xr.Dataset) -> list[str]:
    return ["live", *(arm.name for arm in estimands.held_arms(panel))]


def _target_seen(panel: xr.Dataset, bounds: Bounds) -> Iterator[Row]:
    total = panel.sizes["latent"]
    for target in panel["target"].values.astype(str):
        count = int(estimands.showing(panel, target).sum())
        if count < 2:
            seen = f"no image of {total:,} shows" if count == 0 else f"only one image of {total:,} shows"
            detail = f"{seen} '{target}': not estimable"
        else:
            detail = f"{count:,} of {total:,} images show it"
        bad = "failed" if count < 2 else "flagged"
        yield _row("target_seen", count, bounds.seen, count >= bounds.seen, bad, target=target, detail=detail)


def _strain(panel: xr.Dataset, bounds: Bounds) -> Iterator[Row]:
    if "strain" not in panel or "natural" not in panel or panel.sizes["site"] == 0:
        return
    range_ = panel["natural"].quantile(1 - bounds.tail, "latent").values
    sites = panel["site"].values.astype(str)
    extreme = abs(panel["strain"]).max("quantile").transpose("latent", "target", "arm", "site")
    for target, shows in _shown(panel):
        for arm in estimands.held_arms(panel):
            strain = extreme.sel(target=target, arm=arm.name).values[shows]
            typical = strain.mean(0)
            # The worst site is the one furthest out of its own range, not the one with the largest number.
            worst = int(np.argmax(typical / np.maximum(range_, 1e-6)))
            beyond = (strain[:, worst] > range_[worst]).mean()
            yield _row(
                "strain",
                typical[worst],
                range_[worst],
                typical[worst] <= range_[worst],
                target=target,
                arm=arm.name,
                detail=f"worst at {sites[worst]}; {beyond:.0%} of the images beyond the natural range",
            )


def _realism(panel: xr.Dataset, bounds: Bounds) -> Iterator[Row]:
    if "realism" not in panel:
        return
    for target, shows in _shown(panel):
        scores = panel["realism"].sel(target=target)
        low = float(scores.sel(arm="reference").quantile(bounds.tail))
        usual = float(scores.sel(arm="reference").mean())
        # Scored on the first latents only: NaN elsewhere.
        shows = shows & scores.sel(arm="reference").notnull().values
        if not shows.any():
            continue
        live = float(scores.sel(arm="live").values[shows].mean())
        for arm in _edited(panel):
            value = float(scores.sel(arm=arm).values[shows].mean())
            least = low if arm == "live" else min(low, live - (usual - low))
            detail = f"unedited images: {usual:.2f} on average; live: {live:.2f}"
            yield _row("realism", value, least, value >= least, target=target, arm=arm, detail=detail)


def _unknown(panel: xr.Dataset, bounds: Bounds) -> Iterator[Row]:
    if "unknown" not in panel["object"].values:
        return
    shares = panel["pixels"].sel(object="unknown") / panel.attrs["image_pixels"]
    for target, shows in _shown(panel):
        unedited = shares.sel(target=target, arm="reference")
        high = max(float(unedited.quantile(1 - bounds.tail)), bounds.unknown)
        usual, live = float(unedited.mean()), float(shares.sel(target=target, arm="live").values[shows].mean())
        for arm in _edited(panel):
            value = float(shares.sel(target=target, arm=arm).values[shows].mean())
            most = high if arm == "live" else max(high, live + high - usual)
            detail = f"unedited images: {usual:.2%} on average; live: {live:.2%}"
            yield _row("unknown", value, most, value <= most, target=target, arm=arm, detail=detail)


def _unknown_inside(panel: xr.Dataset, bounds: Bounds) -> Iterator[Row]:
    if "unknown" not in panel["object"].values:
        return
    for target, _ in _shown(panel):
        counts = panel["inside"].sel(target=target)
        share = counts.sel(object="unknown").sum("latent") / counts.sum(("latent", "object"))
        live = float(share.sel(arm="live"))
        for arm in _edited(panel):
            value = float(share.sel(arm=arm))
            high = bounds.unknown_inside + (0.0 if arm == "live" else live)
            detail = "share of the target's original pixels"
            yield _row("unknown_inside", value, high, value <= high, target=target, arm=arm, detail=detail)


def _baseline_gap(panel: xr.Dataset, bounds: Bounds) -> Iterator[Row]:
    if "baseline_gap" not in panel:
        return
    for arm in estimands.held_arms(panel):
        gaps = panel["baseline_gap"].sel(arm=arm.name).dropna("latent")
        if gaps.size == 0:
            continue
        value = float(gaps.max())
        exact = arm.control in EXACT_CONTROLS
        detail = f"largest change of {gaps.size} unedited images" + ("" if exact else "; DID needs parallel trends")
        good = value <= bounds.baseline_gap
        bad = "failed" if exact else "flagged"
        yield _row("baseline_gap", value, bounds.baseline_gap, good, bad, arm=arm.name, detail=detail)


def _placebo_site(panel: xr.Dataset) -> Iterator[Row]:
    if "placebo_gap" not in panel:
        return
    for target in panel["target"].values.astype(str):
        gaps = panel["placebo_gap"].sel(target=target).dropna("latent")
        if gaps.size:
            value = float(gaps.max())
            detail = f"largest change of {gaps.size} images when a site upstream of the edit is held"
            yield _row("placebo_site", value, 0.0, value == 0, "failed", target=target, detail=detail)


def _gain(panel: xr.Dataset, bounds: Bounds) -> Iterator[Row]:
    if "gain_error" not in panel:
        return
    for target in panel["target"].values.astype(str):
        # NaN where the closed form does not hold: ablations other than to zero, other normalizations.
        errors = panel["gain_error"].sel(target=target).dropna("latent")
        if errors.size == 0:
            continue
        value = float(errors.max())
        detail = "largest relative deviation from the closed form"
        for name, where in (("gain", "on the target's pixels"), ("gain_outside", "elsewhere")):
            if name in panel:
                gains = panel[name].sel(target=target).dropna("latent")
                detail += f"; mean gain {float(gains.mean()):.2f} {where}" if gains.size else ""
        yield _row("gain", value, bounds.gain_error, value <= bounds.gain_error, target=target, detail=detail)


def _stability(panel: xr.Dataset, bounds: Bounds) -> Iterator[Row]:
    middle = panel.sizes["latent"] // 2
    halves = (slice(None, middle), slice(middle, None))
    worst: dict[tuple[str, str], list[float]] = {}
    for target, arm, outcome, live, held in estimands.pairs(panel):
        kind = estimands.kinds(panel, target)
        wanted = np.flatnonzero(kind == {"removed": "target", "inpainted": "object"}.get(outcome))
        if not len(wanted):
            continue
        first, second = (
            ratio_effect(
                live.take(half).numerator[:, wanted],
                live.take(half).denominator,
                held.take(half).numerator[:, wanted],
                held.take(half).denominator,
            )
            for half in halves
        )
        if min(first.n, second.n) >= 2:
            worst.setdefault((target, arm.name), []).extend(_welch(first, second))
    for (target, name), found in worst.items():
        # The level of one comparison at `stability` standard errors, shared among all of the row.
        bound = float(stats.norm.isf(stats.norm.sf(bounds.stability) / len(found)))
        value = max(found)
        detail = f"worst of {len(found)} differences between the halves, in standard errors"
        yield _row("stability", value, bound, value <= bound, target=target, arm=name, detail=detail)


def _welch(first: Any, second: Any) -> list[float]:
    """Absolute Welch t of the difference of two estimates, as the z of the same tail probability."""
    variances = first.se**2, second.se**2
    pooled = variances[0] + variances[1]
    spread = variances[0] ** 2 / (first.n - 1) + variances[1] ** 2 / (second.n - 1)
    gap = np.abs(first.value - second.value)
    moving = pooled > 0
    degrees = np.divide(pooled**2, spread, out=np.ones_like(pooled), where=moving)
    t = np.divide(gap, np.sqrt(pooled), out=np.zeros_like(gap), where=moving)
    z = stats.norm.isf(np.maximum(stats.t.sf(t, degrees), 1e-300))
    still = np.where(gap <= 1e-12, 0.0, np.inf)
    return [float(value) for value in np.where(moving, z, still)]
