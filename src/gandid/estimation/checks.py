"""Checks of the study's own arms: what could make an estimate untrue, measured, with a bound and a verdict.

**Support** asks whether an arm is a world that the network could be in: whether its images are further from the live ones than those of
another dose are (`gandid.estimation.distance`). An effect is supported if its *held* arm is: live is what the network does, and only the
control can be an artefact of the experiment. docs/credibility.md describes every check.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from gandid.estimation.bounds import CHECKS, Bounds, Row, row
from gandid.estimation.contents import Contents, Regime
from gandid.estimation.contrast import Parts, contrast, parts
from gandid.estimation.distance import Distance, distance_rows
from gandid.estimation.sums import Sums, slices, stream
from gandid.stats import bonferroni, welch_z


def checks(contents: Contents, sums: Sums, apart: Sequence[Distance], bounds: Bounds) -> pd.DataFrame:
    """Check a panel's own arms; docs/credibility.md describes every check.

    Support: `distance`. Must hold exactly: `baseline_gap` (of exact controls), `placebo_site`, `gain`. Besides: `strain`, which tells
    where an arm strains the network most, `undone`, which has no bound, `target_seen`, `responds`, `stability`. Checks whose variables
    the panel lacks are left out.

    Returns
    -------
    pandas.DataFrame
        Columns ``check, target, value, bound, verdict, arm, detail``; `verdict` is ``ok``, ``flagged`` or ``failed``; `target` or `arm`
        is empty where a check is not about one.
    """
    found = [
        *_target_seen(contents, sums, bounds),
        *_strain(contents, sums, bounds),
        *_undone(contents, sums),
        *distance_rows(apart, bounds),
        *_responds(contents),
        *_exact(contents, bounds),
        *_stability(contents, sums, bounds),
    ]
    return pd.DataFrame(found, columns=CHECKS)


class _Summary(NamedTuple):
    """Of the values that were measured (not NaN) over latents."""

    measured: int
    largest: float
    mean: float


def _summaries(panel: xr.Dataset, name: str, dim: str) -> list[_Summary]:
    """Of a variable along `latent` and `dim`, for each place on `dim`."""

    def summarize(block: slice) -> tuple[np.ndarray, ...]:
        values = _read(panel, name, block, dim)
        measured = ~np.isnan(values)
        return measured.sum(0), np.fmax.reduce(values, 0), np.where(measured, values, 0).sum(0, np.float64)

    size = panel.sizes[dim]
    count, largest, total = np.zeros(size, int), np.full(size, np.nan), np.zeros(size)
    for one in stream(summarize, slices(panel, [name])):
        count, largest, total = count + one[0], np.fmax(largest, one[1]), total + one[2]
    return [_Summary(int(c), float(m), float(s / max(c, 1))) for c, m, s in zip(count, largest, total, strict=True)]


def _read(panel: xr.Dataset, name: str, block: slice, *dims: str) -> np.ndarray:
    """A variable's values of some latents; axes `latent` and then `dims`."""
    return panel[name].isel(latent=block).transpose("latent", *dims).values


def _held(contents: Contents) -> list[Regime]:
    """The held arms of the generator itself: nothing of another network is held."""
    return [regime for regime in contents.regimes if regime.arm.network == "own"]


def _target_seen(contents: Contents, sums: Sums, bounds: Bounds) -> Iterator[Row]:
    total = len(sums.shown)
    for target, count in zip(contents.targets, sums.shown.sum(0), strict=True):
        if count < 2:
            seen = f"no image of {total:,} shows" if count == 0 else f"only one image of {total:,} shows"
            detail = f"{seen} '{target}': not estimable"
        else:
            detail = f"{count:,} of {total:,} images {'have the region' if contents.inserts else 'show it'}"
        bad = "failed" if count < 2 else "flagged"
        yield row("target_seen", count, bounds.seen, count >= bounds.seen, bad, target=target, detail=detail)


def _strain(contents: Contents, sums: Sums, bounds: Bounds) -> Iterator[Row]:
    panel, held = contents.panel, _held(contents)
    if "strain" not in panel or "range" not in panel or panel.sizes["site"] == 0 or not held:
        return
    range_ = panel["range"].quantile(1 - bounds.tail, "latent").values
    sites, shown = panel["site"].values.astype(str), sums.shown
    panel = panel[["strain"]].isel(arm=[contents.place(regime.arm) for regime in held])

    def add_up(block: slice) -> np.ndarray:
        """Over the images that show the target, strain and how often it is beyond its range: (2, target, arm, site)."""
        values = _read(panel, "strain", block, "target", "arm", "site", "quantile")
        extreme = np.abs(values).max(-1, initial=0).astype(np.float64)
        return np.stack([np.einsum("nt,ntas->tas", shown[block], each) for each in (extreme, extreme > range_)])

    blocks = slices(panel, ["strain"], len(shown))
    totals = sum(stream(add_up, blocks), np.zeros((2, shown.shape[1], len(held), len(sites))))
    for t, (target, count) in enumerate(zip(contents.targets, shown.sum(0), strict=True)):
        for a, regime in enumerate(held if count else []):
            typical, beyond = totals[:, t, a] / count
            # The worst site is the one furthest out of its own range, not the one with the largest number.
            worst = int(np.argmax(typical / np.maximum(range_, 1e-6)))
            value, bound = typical[worst], range_[worst]
            detail = f"worst at {sites[worst]}; {beyond[worst]:.0%} of the images beyond the unedited range"
            yield row("strain", value, bound, value <= bound, target=target, arm=regime.name, detail=detail)


def _undone(contents: Contents, sums: Sums) -> Iterator[Row]:
    """How much of what holding a single site displaces the next live site takes back.

    A live network's output has a root mean square of 1; holding multiplies it by a scale, and so does what comes next: the value is the
    mean absolute log scale of what the next site divides by, over that of the held one (held against live). It tells of sizes,
    not of directions. That a hold is undone is no fault of it, so that nothing is flagged.
    """
    panel, sites = contents.panel, contents.panel["site"].values.astype(str).tolist()
    responds = panel["responds"].values.astype(bool)
    single = [one for one in _held(contents) if one.arm.held == "first" or one.arm.held in sites]
    if "rescaling" not in panel or not single:
        return
    panel = panel[["rescaling"]].isel(arm=[contents.place(one.arm) for one in single])

    def add_up(block: slice) -> np.ndarray:
        values = _read(panel, "rescaling", block, "target", "arm", "site").astype(np.float64)
        return np.einsum("nt,ntas->tas", sums.shown[block], np.nan_to_num(values))

    totals = np.sum([*stream(add_up, slices(panel, ["rescaling"], len(sums.shown)))], axis=0)
    for (t, target), (a, regime) in product(enumerate(contents.targets), enumerate(single)):
        held = sites.index(regime.arm.sites(sites)[0])
        here, *after = [place for place in range(held, len(sites)) if place == held or responds[place]]
        scales = totals[t, a] / max(sums.shown[:, t].sum(), 1)
        if after and scales[here] > 0:
            share = scales[after[0]] / scales[here]
            detail = f"holding {sites[here]} displaces its output by a mean absolute log scale of {scales[here]:.3f}, "
            detail += f"of which the next live site, {sites[after[0]]}, undoes {share:.0%}"
            detail += f"; {scales[after[1]]:.3f} is left at {sites[after[1]]}" if after[1:] else ""
            yield row("undone", share, np.nan, True, target=target, arm=regime.name, detail=detail)


def _responds(contents: Contents) -> Iterator[Row]:
    panel = contents.panel
    if "responds" not in panel.coords or panel["responds"].all():
        return
    responds = dict(zip(panel["site"].values.astype(str), panel["responds"].values.astype(bool), strict=True))
    for regime in _held(contents):
        names = regime.arm.sites(list(responds))
        still = [name for name in names if not responds[name]]
        value = len(names) - len(still)
        verb = "normalizes" if len(still) == 1 else "normalize"
        detail = "every held site responds to an edit"
        if still:
            detail = f"{', '.join(still)} {verb} by stored statistics, as batch normalization does in evaluation mode, "
            detail += "and cannot respond to an edit"
        yield row("responds", value, 1, value > 0, arm=regime.name, detail=detail)


def _exact(contents: Contents, bounds: Bounds) -> Iterator[Row]:
    """What the experiment must do exactly: `baseline_gap`, `placebo_site` and `gain`."""
    panel = contents.panel
    if "baseline_gap" in panel:
        summaries = _summaries(panel, "baseline_gap", "arm")
        for regime in contents.regimes:
            count, value, _ = summaries[contents.names.index(regime.name)]
            if count:
                detail = f"largest change of {count} unedited images"
                detail += "" if regime.exact else "; DID needs parallel trends"
                good, bad = value <= bounds.baseline_gap, "failed" if regime.exact else "flagged"
                yield row("baseline_gap", value, bounds.baseline_gap, good, bad, arm=regime.name, detail=detail)
    if "placebo_gap" in panel:
        for target, (count, value, _) in zip(contents.targets, _summaries(panel, "placebo_gap", "target"), strict=True):
            if count:
                detail = f"largest change of {count} images when a site upstream of the edit is held"
                yield row("placebo_site", value, 0.0, value == 0, "failed", target=target, detail=detail)
    if "gain_error" in panel:
        names = [name for name in ("gain_error", "gain", "gain_outside") if name in panel]
        by_name = {name: _summaries(panel, name, "target") for name in names}
        for t, (target, (count, value, _)) in enumerate(zip(contents.targets, by_name["gain_error"], strict=True)):
            # NaN where the closed form does not hold: ablations other than to zero, other normalizations.
            if count:
                detail = "largest relative deviation from the closed form"
                for name, where in (("gain", "on the target's pixels"), ("gain_outside", "elsewhere")):
                    if name in names and by_name[name][t].measured:
                        detail += f"; mean gain {by_name[name][t].mean:.2f} {where}"
                good = value <= bounds.gain_error
                yield row("gain", value, bounds.gain_error, good, target=target, detail=detail)


def _stability(contents: Contents, sums: Sums, bounds: Bounds) -> Iterator[Row]:
    live, *held = sums.at(contents.compared)
    for t, target in enumerate(contents.targets):
        every = {outcome: parts(contents, sums, t, outcome) for outcome in contents.pair}
        for regime, weights in zip(contents.regimes, held, strict=True):
            gap, found = live - weights, list[float]()
            for part in every.values():
                about = np.isin(part.kinds, ["target", "object"])
                halves = [contrast(_half(part, about, half), gap, carriers=np.inf) for half in (~sums.late, sums.late)]
                first, second = halves
                if about.any() and min(half.groups[0, 0] for half in halves) >= 2:
                    variances, sizes = (first.se**2, second.se**2), (first.groups, second.groups)
                    found += welch_z(first.value - second.value, variances, sizes)[0].tolist()
            if found:
                bound, value = bonferroni(bounds.stability, len(found)), max(found)
                detail = f"worst of {len(found)} differences between the halves, in standard errors"
                yield row("stability", value, bound, value <= bound, target=target, arm=regime.name, detail=detail)


def _half(part: Parts, about: np.ndarray, half: np.ndarray) -> Parts:
    """Some classes of an outcome on one half of the groups."""
    numerator = part.numerator[half][..., about]
    return Parts(part.objects[about], part.kinds[about], numerator, part.denominator[half])
