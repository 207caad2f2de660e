"""Credibility: what could make an estimate untrue, measured, with a bound and a verdict.

**Support** asks whether an arm is a world that the network could be in. An arm is judged by its *typical*
image (the mean over the images that show the target) against the *range* of the unedited images (all but the
most extreme twentieth of them): an arm is flagged when its typical image lies where only one unedited image
in twenty does. Single extreme images do not flag an arm, since the unedited world has them too; a shift of
the whole arm does. The live arm is judged like the others, since an ablation can leave the range by itself,
but an effect counts as supported if its *held* arm is: live is what the network does, and only the control
can be an artefact of the experiment.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from gandid.did import blocks, estimands
from gandid.did.counts import Counts, gather
from gandid.did.inference import ratio_from_sums

SUPPORT = ("strain", "realism", "unknown", "unknown_inside", "uncertain")
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
    uncertain: float = 0.005
    """Share of an image's pixels of which the segmenter may be uncertain, even on sound images: as `unknown`."""
    recall: float = 0.8
    """Share of an object's pixels, on renders, that a segmenter should call by its name: below, undoing its confusions makes
    errors of counts more than 1.7 times as large (`gandid.did.instrument.invert`)."""
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
    - ``uncertain`` (support): mean share of pixels of which the segmenter is uncertain, as `unknown`.
    - ``responds`` (per held arm, in a network with a site that cannot): how many of the held sites respond to
      an edit at all. *flagged* where none does: the DID is 0 because it could be nothing else.
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
    return judge(panel, list(gather(panel)), mean_gains(panel), bounds)


def judge(
    panel: xr.Dataset, counted: Sequence[Counts], gains: Mapping[str, Mapping[str, float]], bounds: Bounds
) -> pd.DataFrame:
    """What `checks` returns, from the sums of the panel's counts (in turns of targets) and its mean gains."""
    found = [
        *(row for counts in counted for row in _target_seen(counts, bounds)),
        *_strain(panel, counted, bounds),
        *_realism(panel, counted, bounds),
        *(row for counts in counted for row in _unknown(panel, counts, bounds)),
        *(row for counts in counted for row in _unknown_inside(panel, counts, bounds)),
        *_uncertain(panel, counted, bounds),
        *_responds(panel),
        *_baseline_gap(panel, bounds),
        *_placebo_site(panel),
        *_gain(panel, gains, bounds),
        *(row for counts in counted for row in _stability(panel, counts, bounds)),
    ]
    return pd.DataFrame(found, columns=COLUMNS)


def mean_gains(panel: xr.Dataset) -> dict[str, dict[str, float]]:
    """By target, the means over latents of `gain` and `gain_outside`, where the panel has them."""
    found: dict[str, dict[str, float]] = {str(target): {} for target in panel["target"].values}
    for name in ("gain", "gain_outside"):
        if name in panel:
            for target, summary in zip(found, _summaries(panel, name, "target"), strict=True):
                if summary.measured:
                    found[target][name] = summary.total / summary.measured
    return found


Row = dict[str, Any]


def row(check: str, value: float, bound: float, good: bool, bad: str = "flagged", **rest: str) -> Row:
    """A row of the checks: `ok` or `bad`; `rest` are its target, arm and detail, where it has them."""
    where = {"target": "", "arm": "", "detail": ""} | rest
    return {
        "check": check,
        "value": float(value),
        "bound": float(bound),
        "verdict": "ok" if good else bad,
    } | where


def bonferroni(errors: float, comparisons: int) -> float:
    """The bound that several comparisons together pass as rarely as one passes `errors` standard errors."""
    return float(stats.norm.isf(stats.norm.sf(errors) / comparisons))


class _Summary(NamedTuple):
    """Of the values that were measured (not NaN) over latents."""

    measured: int
    largest: float
    total: float


def _summaries(panel: xr.Dataset, name: str, dim: str) -> list[_Summary]:
    """Of a variable along `latent` and `dim`, for each place on `dim`."""

    def summarize(block: slice) -> tuple[np.ndarray, ...]:
        values = blocks.read(panel, name, block, dim)
        measured = ~np.isnan(values)
        return measured.sum(0), np.fmax.reduce(values, 0), np.where(measured, values, 0).sum(0, np.float64)

    size = panel.sizes[dim]
    count, largest, total = np.zeros(size, int), np.full(size, np.nan), np.zeros(size)
    for one in blocks.stream(summarize, blocks.slices(panel, [name])):
        count, largest, total = count + one[0], np.fmax(largest, one[1]), total + one[2]
    return [_Summary(int(c), float(m), float(s)) for c, m, s in zip(count, largest, total, strict=True)]


def _at_sites(panel: xr.Dataset) -> list[estimands.Held]:
    """The held arms of the generator itself: nothing of a twin is held."""
    return [arm for arm in estimands.held_arms(panel) if arm.control != "twin"]


def _edited(panel: xr.Dataset) -> list[str]:
    return ["live", *(arm.name for arm in estimands.held_arms(panel))]


def _target_seen(counts: Counts, bounds: Bounds) -> Iterator[Row]:
    total = len(counts.shown)
    for target, count in zip(counts.targets, counts.shown.sum(0), strict=True):
        if count < 2:
            seen = f"no image of {total:,} shows" if count == 0 else f"only one image of {total:,} shows"
            detail = f"{seen} '{target}': not estimable"
        else:
            detail = f"{count:,} of {total:,} images show it"
        bad = "failed" if count < 2 else "flagged"
        yield row("target_seen", count, bounds.seen, count >= bounds.seen, bad, target=target, detail=detail)


def _strain(panel: xr.Dataset, counted: Sequence[Counts], bounds: Bounds) -> Iterator[Row]:
    held = _at_sites(panel)
    if "strain" not in panel or "natural" not in panel or panel.sizes["site"] == 0 or not held:
        return
    range_ = panel["natural"].quantile(1 - bounds.tail, "latent").values
    sites = panel["site"].values.astype(str)
    shown = np.concatenate([counts.shown for counts in counted], 1)
    arms = [panel["arm"].values.astype(str).tolist().index(arm.name) for arm in held]

    def add_up(block: slice) -> np.ndarray:
        """Over the images that show the target, strain and how often it is beyond its range: (2, target, arm, site)."""
        values = blocks.read(panel, "strain", block, "target", "arm", "site", "quantile")
        target, latent = np.nonzero(shown[block].T)
        extreme = np.abs(values[latent, target][:, arms]).max(-1, initial=0).astype(np.float64)
        first = np.flatnonzero(np.diff(target, prepend=-1))
        result = np.zeros((2, shown.shape[1], len(arms), len(sites)))
        if len(first):
            for i, each in enumerate((extreme, extreme > range_)):
                result[i, target[first]] = np.add.reduceat(each.astype(np.float64), first, axis=0)
        return result

    totals = np.zeros((2, shown.shape[1], len(arms), len(sites)))
    for some in blocks.stream(add_up, blocks.slices(panel, ["strain"])):
        totals += some
    for t, (target, count) in enumerate(zip(panel["target"].values.astype(str), shown.sum(0), strict=True)):
        for a, arm in enumerate(held if count else []):
            typical, beyond = totals[:, t, a] / count
            # The worst site is the one furthest out of its own range, not the one with the largest number.
            worst = int(np.argmax(typical / np.maximum(range_, 1e-6)))
            yield row(
                "strain",
                typical[worst],
                range_[worst],
                typical[worst] <= range_[worst],
                target=target,
                arm=arm.name,
                detail=f"worst at {sites[worst]}; {beyond[worst]:.0%} of the images beyond the natural range",
            )


def _realism(panel: xr.Dataset, counted: Sequence[Counts], bounds: Bounds) -> Iterator[Row]:
    if "realism" not in panel:
        return

    def scored(block: slice) -> tuple[np.ndarray, np.ndarray]:
        values = blocks.read(panel, "realism", block, "target", "arm")
        # Only the first latents are scored; the rest is NaN.
        where = np.flatnonzero(~np.isnan(values).all((1, 2)))
        return where + block.start, values[where].astype(np.float64)

    latents, scores = map(np.concatenate, zip(*blocks.stream(scored, blocks.slices(panel, ["realism"])), strict=True))
    shown = np.concatenate([counts.shown for counts in counted], 1)[latents]
    names = panel["arm"].values.astype(str).tolist()
    for t, target in enumerate(panel["target"].values.astype(str)):
        reference = scores[:, t, names.index("reference")]
        shows = shown[:, t] & ~np.isnan(reference)
        if not shows.any():
            continue
        low, usual = float(np.nanquantile(reference, bounds.tail)), float(np.nanmean(reference))
        live = float(scores[shows, t, names.index("live")].mean())
        for arm in _edited(panel):
            value = float(scores[shows, t, names.index(arm)].mean())
            least = low if arm == "live" else min(low, live - (usual - low))
            detail = f"unedited images: {usual:.2f} on average; live: {live:.2f}"
            yield row("realism", value, least, value >= least, target=target, arm=arm, detail=detail)


def _unknown(panel: xr.Dataset, counts: Counts, bounds: Bounds) -> Iterator[Row]:
    if "unknown" not in panel["object"].values:
        return
    names, size = panel["arm"].values.astype(str).tolist(), int(panel.attrs["image_pixels"])
    high = max(float(np.quantile(counts.unedited_unknown, 1 - bounds.tail)) / size, bounds.unknown)
    usual = float(counts.unedited_unknown.mean()) / size
    for t, (target, count) in enumerate(zip(counts.targets, counts.shown.sum(0), strict=True)):
        if not count:
            continue
        shares = counts.unknown[t] / (count * size)
        live = float(shares[names.index("live")])
        for arm in _edited(panel):
            value = float(shares[names.index(arm)])
            most = high if arm == "live" else max(high, live + high - usual)
            detail = f"unedited images: {usual:.2%} on average; live: {live:.2%}"
            yield row("unknown", value, most, value <= most, target=target, arm=arm, detail=detail)


def _unknown_inside(panel: xr.Dataset, counts: Counts, bounds: Bounds) -> Iterator[Row]:
    classes = panel["object"].values.astype(str).tolist()
    if "unknown" not in classes:
        return
    became, hole = counts.sums["filled"].sum(0)[..., classes.index("unknown")], counts.holes["sums"].sum(0)
    for t in np.flatnonzero(counts.shown.any(0)):
        shares = became[t] / hole[t]
        for arm, value in zip(_edited(panel), shares, strict=True):
            high = bounds.unknown_inside + (0.0 if arm == "live" else shares[0])
            detail = "share of the target's original pixels"
            target = counts.targets[t]
            yield row("unknown_inside", value, high, value <= high, target=target, arm=arm, detail=detail)


def _uncertain(panel: xr.Dataset, counted: Sequence[Counts], bounds: Bounds) -> Iterator[Row]:
    if "uncertain" not in panel:
        return
    names, shown = panel["arm"].values.astype(str).tolist(), np.concatenate([counts.shown for counts in counted], 1)
    reference, before = names.index("reference"), {arm.name: arm.baseline for arm in estimands.held_arms(panel)}

    def add_up(block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Sums over the images that show each target, (target, arm), and each unedited image's share."""
        values = blocks.read(panel, "uncertain", block, "target", "arm").astype(np.float64)
        return np.einsum("nt,nta->ta", shown[block], values), values[:, 0, reference]

    parts = list(blocks.stream(add_up, blocks.slices(panel, ["uncertain"])))
    unedited = np.concatenate([part[1] for part in parts])
    high, usual = max(float(np.quantile(unedited, 1 - bounds.tail)), bounds.uncertain), float(unedited.mean())
    for t, (target, count) in enumerate(zip(panel["target"].values.astype(str), shown.sum(0), strict=True)):
        if not count:
            continue
        shares = sum(part[0][t] for part in parts) / count
        live = float(shares[names.index("live")])
        for arm in _edited(panel):
            value, own = float(shares[names.index(arm)]), float(shares[names.index(before.get(arm, "reference"))])
            most = high if arm == "live" else max(high, live + high - usual)
            detail = f"before the edit: {own:.2%}; live: {live:.2%}; all unedited images: {usual:.2%} on average"
            yield row("uncertain", value, most, value <= most, target=target, arm=arm, detail=detail)


def _responds(panel: xr.Dataset) -> Iterator[Row]:
    if "responds" not in panel.coords or panel["responds"].all():
        return
    responds = dict(zip(panel["site"].values.astype(str), panel["responds"].values.astype(bool), strict=True))
    for arm in _at_sites(panel):
        names = {"first": list(responds)[:1], "all": list(responds)}.get(arm.held, arm.held.split("+"))
        still = [name for name in names if not responds[name]]
        value = len(names) - len(still)
        verb = "normalizes" if len(still) == 1 else "normalize"
        detail = (
            f"{', '.join(still)} {verb} by stored statistics, as batch normalization does in evaluation mode, "
            "and cannot respond to an edit"
        )
        detail = detail if still else "every held site responds to an edit"
        yield row("responds", value, 1, value > 0, arm=arm.name, detail=detail)


def _baseline_gap(panel: xr.Dataset, bounds: Bounds) -> Iterator[Row]:
    if "baseline_gap" not in panel:
        return
    names = panel["arm"].values.astype(str).tolist()
    summaries = _summaries(panel, "baseline_gap", "arm")
    for arm in estimands.held_arms(panel):
        count, value, _ = summaries[names.index(arm.name)]
        if count == 0:
            continue
        exact = arm.control in EXACT_CONTROLS
        detail = f"largest change of {count} unedited images" + ("" if exact else "; DID needs parallel trends")
        good = value <= bounds.baseline_gap
        bad = "failed" if exact else "flagged"
        yield row("baseline_gap", value, bounds.baseline_gap, good, bad, arm=arm.name, detail=detail)


def _placebo_site(panel: xr.Dataset) -> Iterator[Row]:
    if "placebo_gap" not in panel:
        return
    summaries = _summaries(panel, "placebo_gap", "target")
    for target, (count, value, _) in zip(panel["target"].values.astype(str), summaries, strict=True):
        if count:
            detail = f"largest change of {count} images when a site upstream of the edit is held"
            yield row("placebo_site", value, 0.0, value == 0, "failed", target=target, detail=detail)


def _gain(panel: xr.Dataset, gains: Mapping[str, Mapping[str, float]], bounds: Bounds) -> Iterator[Row]:
    if "gain_error" not in panel:
        return
    for target, (count, value, _) in zip(gains, _summaries(panel, "gain_error", "target"), strict=True):
        # NaN where the closed form does not hold: ablations other than to zero, other normalizations.
        if count == 0:
            continue
        detail = "largest relative deviation from the closed form"
        for name, where in (("gain", "on the target's pixels"), ("gain_outside", "elsewhere")):
            if name in gains[target]:
                detail += f"; mean gain {gains[target][name]:.2f} {where}"
        yield row("gain", value, bounds.gain_error, value <= bounds.gain_error, target=target, detail=detail)


def _stability(panel: xr.Dataset, counts: Counts, bounds: Bounds) -> Iterator[Row]:
    for t, target in enumerate(counts.targets):
        kind = estimands.kinds(panel, target)
        for h, arm in enumerate(estimands.held_arms(panel)):
            found: list[float] = []
            for outcome, of in (("removed", "target"), ("inpainted", "object")):
                wanted = np.flatnonzero(kind == of)
                halves = [counts.pair(t, h, outcome, wanted, half) for half in (0, 1)]
                if len(wanted) and min(half.informing for half in halves) >= 2:
                    first, second = (ratio_from_sums(half.sums, half.products, half.informing) for half in halves)
                    found += _welch(first, second)
            if not found:
                continue
            bound, value = bonferroni(bounds.stability, len(found)), max(found)
            detail = f"worst of {len(found)} differences between the halves, in standard errors"
            yield row("stability", value, bound, value <= bound, target=target, arm=arm.name, detail=detail)


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
