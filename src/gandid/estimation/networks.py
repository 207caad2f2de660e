"""The network as the cluster: effects over several networks, twins or distilled ones, by random effects."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from gandid import outcomes
from gandid.estimation.contents import Contents
from gandid.estimation.contrast import Parts, contrast, parts
from gandid.estimation.families import rows, sides, visible
from gandid.estimation.sums import gather
from gandid.stats import Networks, detectable, difference, prediction, random_effects


def distilled(contents: Contents, level: float) -> Iterator[pd.DataFrame]:
    """Networks that learned the same images with their normalizations, less those that learned them without, at every dose.

    With normalizations are the placebo distillations, or the network itself where there are not two of them. A mean over networks is a
    contrast of their arms, so that its error over latents is paired; to it comes that of networks (`gandid.stats.random_effects` of either
    side, `gandid.stats.difference`), and the half-widths add in squares. `between` is the standard deviation of a pair's effect, and
    `next_low`, `next_high` the interval of prediction for the next pair.
    """
    placebos, without = (
        [one.arm for one in contents.regimes if one.control == kind] for kind in ("placebo", "distilled")
    )
    if not without:
        return
    kept = placebos if len(placebos) > 1 else [contents.live]
    weights = np.repeat([1 / len(kept), -1 / len(without)], [len(kept), len(without)])
    places = [contents.place(arm) for arm in (*kept, *without)]
    seen = [(dose, 0) for dose in contents.doses[1:] or [contents.dose]]
    seen += [(contents.dose, s) for s in range(1, len(contents.segmenters)) if contents.rows(places, s)]
    for dose, s in seen:
        arms = [arm._replace(dose=dose) for arm in (*kept, *without)]
        places = [contents.place(arm) for arm in arms]
        sums = gather(contents, places, s, contents.rows(places, s))
        at = sums.at(arms)
        for t, target in enumerate(contents.targets):
            for outcome in contents.pair if visible(sums, t) else ():
                found = parts(contents, sums, t, outcome, s)
                gap, ends = contrast(found, weights @ at, level), _over_networks(found, at, len(kept), level)
                half = {name: np.hypot(ends.pop(name), gap.high - gap.value) for name in ("ci", "next")}
                ends["se"] = np.hypot(ends["se"], gap.se)
                ends |= {f"{name}_low": gap.value - size for name, size in half.items()}
                ends |= {f"{name}_high": gap.value + size for name, size in half.items()}
                about: dict[str, Any] = {
                    "contrast": "networks",
                    "control": "distilled",
                    "held": "networks",
                    "arm": "distilled",
                }
                about |= {"target": target, "outcome": outcome, "dose": dose, "segmenter": contents.segmenters[s]}
                columns = sides(found, weights.clip(min=0) @ at, -weights.clip(max=0) @ at, level)
                yield rows(found, about, columns | ends | {"p_t": np.array(np.nan), "n": np.array(len(arms))})


def _over_networks(found: Parts, at: np.ndarray, kept: int, level: float) -> dict[str, np.ndarray]:
    """Error and half-widths over networks, of K classes, from the weights of their arms; the first `kept` are those with normalizations.

    What latents leave open of a network is its error about the mean of its side, paired by latent. The network itself, alone, is fixed.
    """
    groups = list[list[Networks]]()
    for side in (at[:kept], at[kept:]):
        values, about = contrast(found, side, level).value, contrast(found, side - side.mean(axis=0), level).se
        errors = np.sqrt((about**2).sum(axis=0) / max(len(side) - 1, 1))
        groups.append(
            [random_effects(one, np.full(len(side), se), level) for one, se in zip(values.T, errors, strict=True)]
        )
    counts = [kept, len(at) - kept]
    taken = slice(0 if kept > 1 else 1, None)
    pairs = [difference(list(zip(each, counts, strict=True))[taken], level) for each in zip(*groups, strict=True)]
    columns = [(one.se, one.high - one.mean, one.tau, next_one[1]) for one, next_one in pairs]
    return dict(zip(("se", "ci", "between", "next"), np.transpose(columns), strict=True))


def networks(frame: pd.DataFrame, level: float) -> Iterator[pd.DataFrame]:
    """A live network against its twins, as the next of theirs would be: the network is the cluster.

    Intervals over latents say how well *these* networks are known. What was assigned is the network, so that the error comes from
    their number (Moulton 1990). `tau_held`, `se_held` and its interval are the twins' mean by random effects (`gandid.stats.random_effects`),
    `between` is the standard deviation between twins, and the interval of `did` that of prediction: beyond it, the live network is not what
    the next training without normalization would be. `detectable` is the power of so many networks. NaN errors below three twins.
    """
    twins = frame[(frame["contrast"] == "did") & (frame["control"] == "twin") & frame["outcome"].isin(outcomes.WHOLE)]
    about = {"contrast": "networks", "control": "twin", "held": "networks", "arm": "twin"}
    for (target, outcome, name), one in twins.groupby(["target", "outcome", "object"], sort=False):
        first, count = one.iloc[0], len(one)
        found = random_effects(one["tau_held"].to_numpy(), one["se_held"].to_numpy(), level)
        se, half = prediction(found, count, first["se_live"], level)
        did = float(first["tau_live"] - found.mean)
        row = {"target": target, "outcome": outcome, "object": name, "kind": first["kind"], "n": 1 + count, "did": did}
        row |= {"se": se, "ci_low": did - half, "ci_high": did + half, "between": found.tau}
        row |= {"tau_live": first["tau_live"], "se_live": first["se_live"], "tau_held": found.mean, "se_held": found.se}
        row |= {"ci_held_low": found.low, "ci_held_high": found.high, "next_low": did - half, "next_high": did + half}
        yield pd.DataFrame([about | row | {"detectable": float(detectable(np.array(se), count - 1, level=level))}])
