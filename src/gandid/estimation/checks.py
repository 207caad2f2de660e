"""Checks of the study's own arms: what could make an estimate untrue, measured, with a bound and a verdict.

**Support** asks whether an arm is a world that the network could be in: whether its images are further from the live ones than those of
another dose are (`gandid.estimation.distance`). An effect is supported if its *held* arm is: live is what the network does, and only the
control can be an artefact of the experiment. docs/credibility.md describes every check.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import pandas as pd
import xarray as xr

from gandid.estimation.bounds import CHECKS, Bounds, CheckRow, row
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


def _summaries(panel: xr.Dataset, name: str, dim: str) -> list[tuple[int, float, float]]:
    """Of a variable along `latent` and `dim`, for each place on `dim`: how many values were measured, the largest, and their mean."""
    values = panel[name].transpose("latent", dim).values
    count, total = (~np.isnan(values)).sum(0), np.nansum(values, 0, np.float64)
    return [*zip(count.tolist(), np.fmax.reduce(values, 0).tolist(), total / np.maximum(count, 1), strict=True)]


def _means(
    contents: Contents, name: str, regimes: Sequence[Regime], sums: Sums, work: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """What `work` makes of some arms' (latent, target, arm, site, ...), averaged over images that show the target: (..., target, arm, site)."""

    def add_up(block: slice) -> np.ndarray:
        values = few[name].isel(latent=block).transpose("latent", "target", "arm", "site", ...).values
        return np.einsum("nt,...ntas->...tas", sums.shown[block], work(values))

    few = contents.panel[[name]].isel(arm=[contents.place(regime.arm) for regime in regimes])
    totals = np.sum([*stream(add_up, slices(few, [name], len(sums.shown)))], axis=0)
    return totals / np.maximum(sums.shown.sum(0), 1)[:, None, None]


def _held(contents: Contents) -> list[Regime]:
    """The held arms of the generator itself: nothing of another network is held."""
    return [regime for regime in contents.regimes if regime.arm.network == "own"]


def _target_seen(contents: Contents, sums: Sums, bounds: Bounds) -> Iterator[CheckRow]:
    total = len(sums.shown)
    for target, count in zip(contents.targets, sums.shown.sum(0), strict=True):
        if count < 2:
            seen = f"no image of {total:,} shows" if count == 0 else f"only one image of {total:,} shows"
            detail = f"{seen} '{target}': not estimable"
        else:
            detail = f"{count:,} of {total:,} images {'have the region' if contents.inserts else 'show it'}"
        bad = "failed" if count < 2 else "flagged"
        yield row("target_seen", count, bounds.seen, count >= bounds.seen, bad, target=target, detail=detail)


def _strain(contents: Contents, sums: Sums, bounds: Bounds) -> Iterator[CheckRow]:
    panel, held = contents.panel, _held(contents)
    if "strain" not in panel or "range" not in panel or panel.sizes["site"] == 0 or not held:
        return
    range_, sites = panel["range"].quantile(1 - bounds.tail, "latent").values, panel["site"].values.astype(str)

    def strained(values: np.ndarray) -> np.ndarray:
        """Strain, and whether it is beyond its range: (2, latent, target, arm, site)."""
        extreme = np.abs(values).max(-1, initial=0).astype(np.float64)
        return np.stack([extreme, extreme > range_])

    means = _means(contents, "strain", held, sums, strained)
    for t, target in enumerate(contents.targets):
        for a, regime in enumerate(held if sums.shown[:, t].any() else []):
            typical, beyond = means[:, t, a]
            # The worst site is the one furthest out of its own range, not the one with the largest number.
            worst = int(np.argmax(typical / np.maximum(range_, 1e-6)))
            value, bound = typical[worst], range_[worst]
            detail = f"worst at {sites[worst]}; {beyond[worst]:.0%} of the images beyond the unedited range"
            yield row("strain", value, bound, value <= bound, target=target, arm=regime.name, detail=detail)


def _undone(contents: Contents, sums: Sums) -> Iterator[CheckRow]:
    """How much of what holding a single site displaces the next live site takes back.

    A live network's output has a root mean square of 1; holding multiplies it by a scale, and so does what comes next: the value is the
    mean absolute log scale of what the next site divides by, over that of the held one (held against live). It tells of sizes,
    not of directions. That a hold is undone is no fault of it, so that nothing is flagged.
    """
    panel = contents.panel
    if "rescaling" not in panel:
        return
    sites, responds = panel["site"].values.astype(str).tolist(), panel["responds"].values.astype(bool)
    single = [one for one in _held(contents) if one.arm.held == "first" or one.arm.held in sites]
    means = _means(contents, "rescaling", single, sums, lambda values: np.nan_to_num(values).astype(np.float64))
    for (t, target), (a, regime) in product(enumerate(contents.targets), enumerate(single)):
        held = sites.index(regime.arm.sites(sites)[0])
        here, *after = [place for place in range(held, len(sites)) if place == held or responds[place]]
        scales = means[t, a]
        if after and scales[here] > 0:
            share = scales[after[0]] / scales[here]
            detail = f"holding {sites[here]} displaces its output by a mean absolute log scale of {scales[here]:.3f}, "
            detail += f"of which the next live site, {sites[after[0]]}, undoes {share:.0%}"
            detail += f"; {scales[after[1]]:.3f} is left at {sites[after[1]]}" if after[1:] else ""
            yield row("undone", share, np.nan, True, target=target, arm=regime.name, detail=detail)


def _responds(contents: Contents) -> Iterator[CheckRow]:
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


def _exact(contents: Contents, bounds: Bounds) -> Iterator[CheckRow]:
    """What the experiment must do exactly: `baseline_gap`, `placebo_site` and `gain`."""
    panel = contents.panel
    if "baseline_gap" in panel:
        few = panel.isel(arm=[contents.place(regime.arm) for regime in contents.regimes])
        for regime, (count, value, _) in zip(contents.regimes, _summaries(few, "baseline_gap", "arm"), strict=True):
            if count:
                detail = f"largest change of {count} unedited images"
                detail += "" if regime.arm.exact else "; DID needs parallel trends"
                good, bad = value <= bounds.baseline_gap, "failed" if regime.arm.exact else "flagged"
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
                    if name in names and by_name[name][t][0]:
                        detail += f"; mean gain {by_name[name][t][2]:.2f} {where}"
                good = value <= bounds.gain_error
                yield row("gain", value, bounds.gain_error, good, target=target, detail=detail)


def _stability(contents: Contents, sums: Sums, bounds: Bounds) -> Iterator[CheckRow]:
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
