"""Checks by what a panel has beside the study's own arms: doses, sites, random units, a second segmenter, a known truth."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from gandid import outcomes
from gandid.estimation import bounds as limits
from gandid.estimation.bounds import Bounds, CheckRow, row
from gandid.estimation.contents import Contents
from gandid.estimation.contrast import Parts, contrast
from gandid.estimation.families import invert
from gandid.estimation.halves import halvings_rows
from gandid.estimation.sums import Sums
from gandid.panel.table import EXACT_CONTROLS
from gandid.stats import bonferroni, signed_z

OBJECTS = 400  # placebo objects: their share of excluding intervals has an error of 1.1 points where it is 5 %
LATENTS = 4096  # of which a placebo object is dealt out to the holes


def credibility(
    contents: Contents, sums: Sums, frame: pd.DataFrame, confusion: pd.DataFrame | None, bounds: Bounds
) -> list[CheckRow]:
    """Check what the rows of `frame` (as `gandid.estimation.effects.did` makes them) say of the study's effects."""
    frame = frame[frame["contrast"] != "did"]
    about = frame[outcomes.whole(frame)]
    found = [*_placebo_object(contents), *_baseline_area(contents, sums)]
    doses = about[about["contrast"].isin(["dose", "step", "departure"])]
    for (target, arm), some in doses.groupby(["target", "arm"], sort=False):
        found.append(_dose(some, bounds, str(target), str(arm)))
        if some["control"].iloc[0] not in EXACT_CONTROLS:
            found.append(_parallel_trends(some, bounds, str(target), str(arm)))
    shares = frame[frame["contrast"] == "share"]
    found += [_shapley_efficiency(some, str(target)) for target, some in shares.groupby("target", sort=False)]
    placebos = frame[frame["contrast"] == "placebo"]
    for (target, arm, outcome), some in placebos.groupby(["target", "arm", "outcome"], sort=False):
        found.append(_placebo_units(some, str(target), str(arm), str(outcome)))
    found += halvings_rows(frame, bounds)
    if confusion is not None:
        found.append(_ground_truth(contents, confusion, bounds))
    differences = about[about["contrast"] == "difference"]
    for (target, arm), some in differences.groupby(["target", "arm"], sort=False):
        found.append(_second_segmenter(some, bounds, str(target), str(arm)))
    return found


def permuted(rows: pd.DataFrame) -> tuple[float, np.ndarray, float]:
    """Of one effect's rows `placebo`: the own units' DID, those of the random sets, and the permutation p-value.

    ``p = (1 + #{|random| >= |own|}) / (1 + draws)``: how often a random set does at least as much, the own units counted among them
    (Phipson and Smyth 2010).
    """
    own = float(rows.loc[rows["draw"] == 0, "did"].iloc[0])
    others = rows.loc[rows["draw"] != 0, "did"].dropna().to_numpy()
    return own, others, (1 + int((np.abs(others) >= abs(own) - 1e-12).sum())) / (1 + len(others))


def _placebo_object(contents: Contents) -> Iterator[CheckRow]:
    """Whether the intervals of this panel exclude a true 0 as rarely as they say.

    A placebo object is dealt out at random: each pixel of every arm's image belongs to it with the probability q, the mean area of the
    other object classes that the unedited images show. Of a target's b original pixels it then has a number that is Binomial(b, q), live
    and held alike, and its DID of `inpainted` is 0. Of 400 such classes, intervals of 95 % may exclude 0 in one of twenty; beyond the
    99.9 % point of that binomial share the row is flagged. All that the panel contributes is its holes; controls with images of their
    own have a row each. Of a panel with more latents the first 4,096 are used.
    """
    rows = min(contents.rows(contents.study), LATENTS)
    order = (
        np.argsort(contents.panel["latent"].values[:rows], kind="stable") if "latent" in contents.panel.coords else ...
    )
    few = contents.panel[["pixels", "inside"]].isel(segmenter=0, latent=slice(rows))
    own = [regime.name for regime in contents.regimes if regime.control not in EXACT_CONTROLS]
    holes = few["inside"].sel(arm=["live", *own]).sum("object").transpose("latent", "target", "arm").values[order]
    areas = few["pixels"].isel(target=0).sel(arm="reference").mean("latent").values / contents.size
    bound = float(stats.binom.ppf(0.999, OBJECTS, limits.UNLIKELY)) / OBJECTS
    for t, target in enumerate(contents.targets):
        others = areas[(contents.kinds(target) == "object") & (areas > 0)]
        rng = np.random.default_rng([0, t])
        for arm, held in zip(["", *own], holes[:, t].T, strict=True):
            both = np.stack([holes[:, t, 0], held], axis=1)
            if len(others) == 0 or min(np.count_nonzero(both, axis=0)) < 2:
                continue
            both = both[both.any(axis=1)]
            drawn = [rng.binomial(hole[:, None], others.mean(), (len(hole), OBJECTS)) for hole in both.T]
            dealt, some = np.stack(drawn, axis=1).astype(float), np.arange(OBJECTS)
            found = contrast(Parts(some, some, dealt, both.astype(float)), [1, -1])
            share = float(np.mean((found.low > 0) | (found.high < 0)))
            detail = (
                f"share of {OBJECTS} classes dealt out at random over {len(both):,} images whose interval excludes 0"
            )
            yield row("placebo_object", share, bound, share <= bound, target=target, arm=arm, detail=detail)


def _baseline_area(contents: Contents, sums: Sums) -> Iterator[CheckRow]:
    """Whether both regimes show as much of the target, of controls with a baseline of their own: the ratio of its mean areas."""
    totals = (
        sums.pixels[:, 0].sum(axis=0) if contents.targets else sums.pixels[:0]
    )  # unedited images are the same for all
    whole = sums.latents.sum() * contents.size
    for target in contents.targets:
        place = list(contents.classes).index(target)
        for regime, arm in zip(contents.regimes, sums.index(contents.compared[1:]), strict=True):
            baseline = sums.baselines[arm]
            usual, own = float(totals[0, place] / whole), float(totals[baseline, place] / whole)
            if usual > 0 and regime.control not in EXACT_CONTROLS:
                value, bound = own / usual, limits.SIMILAR if own < usual else 1 / limits.SIMILAR
                detail = f"{own:.1%} of the control's unedited images, {usual:.1%} of the network's own"
                good = limits.SIMILAR <= value <= 1 / limits.SIMILAR
                yield row("baseline_area", value, bound, good, target=target, arm=regime.name, detail=detail)


def _dose(some: pd.DataFrame, bounds: Bounds, target: str, arm: str) -> CheckRow:
    """Whether the DIDs of the whole effects grow with the dose, in the direction in which they are largest.

    The value is the largest step against that direction, in its own standard errors; the bound that of `Bounds.stability` for as many
    comparisons. Where one regime has lost `GONE` of the target, live and held must meet again, so that steps of `removed` from there on do
    not count; the detail says how large its DID was on the way. An effect at dose 0 is *failed*.
    """
    curve, steps = (some[some["contrast"] == name] for name in ("dose", "step"))
    nothing = float(curve.loc[curve["dose"] == 0, ["tau_live", "tau_held"]].abs().to_numpy().max())
    about = {"target": target, "arm": arm}
    if nothing > limits.UNEDITED:
        detail = "the largest effect at dose 0, where there is no edit"
        return row("dose", nothing, limits.UNEDITED, False, "failed", detail=detail, **about)
    falls = list[tuple[float, str, float, float, float]]()
    for outcome, rising in curve.groupby("outcome", sort=False):
        step = steps[steps["outcome"] == outcome]
        largest = rising["did"].iloc[int(rising["did"].abs().argmax())]
        z = -np.sign(largest) * signed_z(step["did"].to_numpy(), step["p_t"].to_numpy())
        reached = rising[["tau_live", "tau_held"]].max(axis=1)
        before = zip(z, reached, rising["dose"], step["dose"], step["did"].abs(), strict=False)
        falls += [
            (fall, str(outcome), last, dose, size)
            for fall, gone, last, dose, size in before
            if np.isfinite(fall) and (outcomes.WHOLE[str(outcome)] != "target" or gone < limits.GONE)
        ]
    if not falls:
        return row("dose", 0.0, 0.0, True, detail="a single dose", **about)
    worst = max(falls, key=lambda fall: fall[0])
    value, bound = max(0.0, worst[0]), bonferroni(bounds.stability, len(falls))
    detail = "the DID shrinks at no step"
    if value > 0:
        _, outcome, last, dose, size = worst
        detail = f"the DID of {outcome} shrinks by {100 * size:.1f} points from dose {last:g} to {dose:g}"
    own = curve[curve["kind"] == "target"]
    peak = own.iloc[int(own["did"].abs().argmax())]
    detail += f"; worst of {len(falls)} steps, in standard errors; the DID of {peak['outcome']} is largest at dose {peak['dose']:g}, "
    return row("dose", value, bound, value <= bound, detail=f"{detail}{100 * peak['did']:+.1f} points", **about)


def _parallel_trends(some: pd.DataFrame, bounds: Bounds, target: str, arm: str) -> CheckRow:
    """Whether live and a control with its own baseline move alike at the lowest dose above 0, where the edit hardly acts.

    If normalization acts at all it acts there too, so that a DID of 0 is not what parallel trends imply; what they imply is the DID of
    the exact control, so that the value is the departure from it in its own standard errors (the DID itself without an exact control).
    What too few latents cannot see is no evidence of parallel trends (Roth 2022, "Pretest with Caution").
    """
    lowest = some[some["dose"] == some.loc[some["dose"] > 0, "dose"].min()]
    known = (lowest["contrast"] == "departure").any()
    lowest = lowest[lowest["contrast"] == ("departure" if known else "dose")]
    z = signed_z(lowest["did"].to_numpy(), lowest["p_t"].to_numpy())
    value, bound = float(np.abs(z).max()), bonferroni(bounds.stability, len(lowest))
    sizes = zip(lowest["did"], lowest["outcome"], strict=True)
    points = ", ".join(f"{100 * size:+.1f} points of {name}" for size, name in sizes)
    what = "DID less that of the exact control" if known else "DID, without an exact control to compare it with"
    detail = f"{what}, at dose {lowest['dose'].iloc[0]:g}: {points}; in standard errors"
    return row("parallel_trends", value, bound, value <= bound, target=target, arm=arm, detail=detail)


def _shapley_efficiency(some: pd.DataFrame, target: str) -> CheckRow:
    """Whether the shares sum to the DID of holding all sites on the same latents."""
    summed = some.groupby(["outcome", "object"], sort=False).agg(
        {"did": "sum", "tau_live": "first", "tau_held": "first"}
    )
    gap = float((summed["did"] - (summed["tau_live"] - summed["tau_held"])).abs().max())
    detail = "largest gap between the sum of the shares and the DID of holding all sites, on the same latents"
    return row("shapley_efficiency", gap, limits.EXACT, gap <= limits.EXACT, "failed", target=target, detail=detail)


def _placebo_units(some: pd.DataFrame, target: str, arm: str, outcome: str) -> CheckRow:
    """Whether random units would do the same: the permutation p-value of the own units' DID.

    Flagged if the own DID's interval excludes 0 although random units do as much: the DID is then what any edit of that energy does
    through the normalization. Flagged too if most draws missed the energy of the target's units by more than `ENERGY`: units that carry
    an object are often the strongest, and then weaker ones prove little.
    """
    own, random = some[some["draw"] == 0].iloc[0], some[some["draw"] != 0]
    _, _, p = permuted(some)
    excludes = own["ci_low"] > 0 or own["ci_high"] < 0
    unmatched = ~((random["energy"] - 1).abs() <= limits.ENERGY)  # NaN, of silent units, is no match
    same, loose = bool(excludes and p > limits.UNLIKELY), bool(unmatched.mean() > 0.5)
    detail = (
        f"{outcome}: {100 * own['did']:+.1f} points, {len(random)} sets of random units {100 * random['did'].min():+.1f} to "
        f"{100 * random['did'].max():+.1f}, with {random['energy'].min():.0%} to {random['energy'].max():.0%} of the energy"
    )
    few = 1 / (len(random) + 1) > limits.UNLIKELY  # the smallest p that so many sets can give
    detail = f"{'too few sets to tell' if few else 'random units do as much'}: {detail}" if same else detail
    detail += f"; {unmatched.mean():.0%} of the sets miss the energy by more than {limits.ENERGY:.0%}" if loose else ""
    return row("placebo_units", p, limits.UNLIKELY, not (same or loose), target=target, arm=arm, detail=detail)


def _ground_truth(contents: Contents, confusion: pd.DataFrame, bounds: Bounds) -> CheckRow:
    """The smallest recall among the object classes, on renders."""
    kept = contents.known() & ~contents.panel["background"].values[0].astype(bool) & (contents.classes != "unknown")
    recalls = pd.Series({name: confusion.loc[name, name] for name in contents.classes[kept]}, dtype=float).fillna(0.0)
    worst, condition = str(recalls.idxmin()), invert(confusion)[1]
    detail = f"worst is {worst}; condition number of the confusion {condition:.2f}"
    detail += "" if condition <= limits.CONDITION else ": no correction"
    return row("ground_truth", recalls[worst], bounds.recall, bool(recalls[worst] >= bounds.recall), detail=detail)


def _second_segmenter(some: pd.DataFrame, bounds: Bounds, target: str, arm: str) -> CheckRow:
    """Whether another segmenter confirms the DIDs: both intervals exclude 0 on the same side, or both contain it.

    The value is the largest difference of the two, in its own paired standard errors, among those that are not confirmed (0 where all
    are): flagged where the segmenters both contradict each other and differ beyond chance.
    """
    bound = bonferroni(bounds.stability, len(some))
    if some["did"].isna().any():
        detail = "too few images show it to one of the segmenters"
        return row("second_segmenter", np.inf, bound, False, target=target, arm=arm, detail=detail)
    sides = [
        np.sign(some[f"ci_{name}_low"]) * (np.sign(some[f"ci_{name}_low"]) == np.sign(some[f"ci_{name}_high"]))
        for name in ("live", "held")
    ]
    confirmed = (sides[0] == sides[1]).to_numpy()
    z = np.abs(signed_z(some["did"].to_numpy(), some["p_t"].to_numpy()))
    value = float(z[~confirmed].max()) if not confirmed.all() else 0.0
    names = [
        f"{outcomes.FULL[one['outcome']]}: {100 * one['tau_live']:+.1f} points, "
        f"second {100 * one['tau_held']:+.1f}{'' if sure else ' (not confirmed)'}"
        for one, sure in zip(some.to_dict("records"), confirmed, strict=True)
    ]
    return row("second_segmenter", value, bound, value <= bound, target=target, arm=arm, detail="; ".join(names))
