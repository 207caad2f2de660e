"""The choice of units is part of an effect: what the units do that either half of the ranking's latents would have chosen."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from gandid.estimation.bounds import Bounds, CheckRow, row
from gandid.estimation.contents import Contents, Regime
from gandid.estimation.contrast import parts
from gandid.estimation.families import labels, rows, sides, together, visible
from gandid.estimation.sums import gather
from gandid.outcomes import FULL
from gandid.stats import bonferroni, signed_z
from gandid.verdicts import SEEN

SPLITS = 20  # random halves of the ranking's latents
AGREEMENT = 0.6  # share of the units on which two halves should agree; of the rooms' objects they do from some 64 to 128 latents on
SEED = 0


def losses(relation: xr.Dataset, target: str) -> np.ndarray:
    """What each latent of the ranking loses of the target by each unit: (latent, unit)."""
    loss = relation["drop"].sel(object=target)
    if "expected" in relation:  # after a screening, for the units that were not ablated on all latents
        loss = loss.where(relation["exact"], relation["expected"].sel(object=target))
    return loss.transpose("latent", "unit").values


def split(relation: xr.Dataset, target: str, own: Sequence[int], splits: int) -> list[list[int]]:
    """The units of largest ACE on a target, as many as its own, on either half of the ranking's latents, one halving after the other.

    Empty where the target's own units are not those of largest ACE on all of the latents: they were named, or learned.
    """
    ace = relation["ace"].sel(object=target).values
    if set(own) != set(np.argsort(-ace, kind="stable")[: len(own)].tolist()):
        return []
    values, rng, found = losses(relation, target), np.random.default_rng(SEED), list[list[int]]()
    known = np.isfinite(values)
    for _ in range(splits):
        for half in np.array_split(rng.permutation(len(values)), 2):
            mean = np.where(known, values, 0)[half].sum(axis=0) / np.maximum(known[half].sum(axis=0), 1)
            found.append(np.argsort(-mean, kind="stable")[: len(own)].tolist())
    return found


def halves(
    relation: xr.Dataset, own: Mapping[str, Sequence[int]], ranked: Sequence[str], splits: int
) -> list[dict[str, list[int]]]:
    """The units of all targets by half; a target's own where it is not `ranked`, or they were learned. Empty where they were of all."""
    known = ranked if "drop" in relation else ()
    found = {target: split(relation, target, units, splits) if target in known else [] for target, units in own.items()}
    number = max(map(len, found.values()), default=0)
    return [
        {target: sets[half] if (sets := found[target]) else list(own[target]) for target in own}
        for half in range(number)
    ]


def halvings(contents: Contents, level: float) -> Iterator[pd.DataFrame]:
    """The contrast `ranking`: an effect with the units of one half of the ranking's latents (`tau_live`), less that with the other's.

    `draw` is the number of the halving, and both are measured on the same latents, so that the error of the difference is paired.
    """
    held = [arm._replace(draw=0, latents=0) for arm in contents.arms if arm.draw == -1 and arm.held != "none"]
    if not held or not contents.has(contents.live._replace(draw=-2)):
        return
    (arm,), numbers = held, sorted({(1 - one.draw) // 2 for one in contents.arms if one.draw < 0})
    regime = Regime(arm.name(contents.dose), *arm.regime, arm)
    draws = [[-2 * k + 1 for k in numbers], [-2 * k for k in numbers]]
    arms = [one._replace(draw=draw) for some in draws for draw in some for one in (contents.live, arm)]
    sums = gather(contents, [contents.place(one) for one in arms])
    one, other = [1, -1] @ sums.at(arms).reshape(2, len(numbers), 2, -1)
    for t, target in enumerate(contents.targets):
        for outcome in contents.pair if visible(sums, t) else ():
            found = together(parts(contents, sums, t, outcome))
            about = labels([regime], target, outcome) | {"contrast": "ranking", "draw": np.array(numbers)[:, None]}
            yield rows(found, about | {"strength": arm.strength}, sides(found, one, other, level))


def with_choice(frame: pd.DataFrame, level: float) -> pd.DataFrame:
    """The table with `se_units`, and an interval of the effect that covers the choice of units, too: `ci_units_low`, `ci_units_high`.

    The variance of an effect over rankings is estimated by half of the squared difference of two halves, over two since all latents
    rank better than half of them: the mean over H halvings of ``(difference / 2)^2``, with H degrees of freedom (half-sample replication:
    McCarthy 1969). It includes the error of the latents on which the halves are compared, so that it is too large rather than too small.
    Half-widths add in squares.
    """
    keys = ["target", "arm", "outcome", "object"]
    spread = frame[frame["contrast"] == "ranking"].assign(square=lambda some: (some["did"] / 2) ** 2)
    both = frame[keys].merge(spread.groupby(keys)["square"].agg(["mean", "count"]).reset_index(), how="left", on=keys)
    asked = frame["contrast"].isin(["did", "strength"]).to_numpy()
    units = np.where(asked, np.sqrt(both["mean"].to_numpy(float)), np.nan)
    half = np.hypot(
        frame["ci_high"] - frame["did"], stats.t.ppf((1 + level) / 2, both["count"].to_numpy(float)) * units
    )
    return frame.assign(se_units=units, ci_units_low=frame["did"] - half, ci_units_high=frame["did"] + half)


def halvings_rows(frame: pd.DataFrame, bounds: Bounds) -> Iterator[CheckRow]:
    """The check `ranking` of an effect: whether the units of two halves of the ranking's latents do alike, in paired standard errors."""
    for (target, arm), some in frame[frame["contrast"] == "ranking"].groupby(["target", "arm"], sort=False):
        z = np.abs(signed_z(some["did"].to_numpy(), some["p_t"].to_numpy()))
        value, bound = float(z.max()), bonferroni(bounds.stability, len(some))
        spread = some.assign(size=some["did"].abs()).groupby("outcome", sort=False)["size"].max()
        points = ", ".join(f"{100 * size:.1f} points of {FULL[str(name)]}" for name, size in spread.items())
        detail = f"units of halves of the ranking's latents differ by up to {points}, in standard errors"
        yield row("ranking", value, bound, value <= bound, target=str(target), arm=str(arm), detail=detail)


def ranking(panel: xr.Dataset, relation: xr.Dataset) -> Iterator[CheckRow]:
    """Whether another ranking would have chosen the same units: the check `ranking`, of every target whose units have the largest ACE.

    The value is the share of units that two halves of the ranking's latents choose alike, on average over `SPLITS` random halves. It is
    flagged, too, where fewer than `gandid.verdicts.SEEN` of the latents show the target: halves may agree, and other latents not.
    """
    for t, target in enumerate(panel["target"].values.astype(str)):
        own = panel["units"].values[0, 0, t]
        own = own[own >= 0].tolist()
        sets = split(relation, target, own, SPLITS)
        if not sets:
            continue
        agreement = [len({*one} & {*other}) / len(own) for one, other in zip(sets[::2], sets[1::2], strict=True)]
        seen = int((relation["area"].sel(object=target) > 0).sum())
        detail = f"share of the {len(own)} units that halves of the ranking's {relation.sizes['latent']} latents choose alike, "
        detail += f"at least {min(agreement):.0%} in {SPLITS} splits; {seen} of the latents show it"
        good = bool(np.mean(agreement) >= AGREEMENT) and seen >= SEEN
        yield row("ranking", float(np.mean(agreement)), AGREEMENT, good, target=target, detail=detail)
