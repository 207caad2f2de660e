"""Placebos: what has no effect by design, or should have less, estimated as the effect is.

*Placebo units* ask whether the target's own units matter: as many random others, of about the same energy, are edited instead.
*Placebo objects* ask whether the intervals of this panel can be trusted: classes that are dealt out to pixels at random have an
effect of exactly 0, and an interval of 95 % must exclude it in one of twenty.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from gandid.did import estimands
from gandid.did.checks import EXACT_CONTROLS, Row, row
from gandid.did.combinations import combine, numerators, shown
from gandid.did.inference import ratio_effect

OWN = -1  # the draw that stands for the target's own units
LEVEL = 0.05  # of the test of own against random units
ENERGY = 0.10  # by which the energy of random units may differ from that of the target's
OBJECTS = 400  # placebo objects: their share of excluding intervals has an error of 1.1 points where it is 5 %
LATENTS = 4096  # of which a placebo object is dealt out to the holes


def compare(panel: xr.Dataset, placebos: xr.Dataset, level: float = 0.95) -> pd.DataFrame:
    """Estimate the DID of `removed` and of `inpainted` by other objects, of a target's own units and of random ones.

    Parameters
    ----------
    panel
        The study's (docs/panel.md).
    placebos
        A panel with a dimension `draw`, and `energy` (draw, target): of the random units over the target's own. Its held arms are of
        exact controls; those that the panel has too are compared, on the latents that both have.
    level
        Coverage of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row per target, held arm, outcome and draw: `energy`, `did`, `ci_low`, `ci_high`; draw -1 is the target's own units,
        with energy 1. Targets that fewer than two of the images show are left out.
    """
    numbers = np.intersect1d(panel["latent"].values, placebos["latent"].values)
    both = estimands.prepare(placebos.sel(latent=numbers)).transpose("latent", "draw", ...).load()
    arms = [str(name) for name in both["arm"].values if name in panel["arm"].values]
    both, own = both.sel(arm=arms), panel[list(estimands.NEEDED)].sel(latent=numbers, arm=arms).load()
    own = own.assign_attrs(panel.attrs)
    draws = both["draw"].values
    parts = []
    for target in both["target"].values.astype(str):
        if shown(own, target) < 2:
            continue
        energy = np.append(1.0, both["energy"].sel(target=target).values)
        for outcome in ("removed", "inpainted"):
            ours, random = numerators(own, target, outcome), numerators(both, target, outcome)
            a = np.concatenate([ours.numerator[:, None], random.numerator], 1)[..., -1:]  # (N, own and draws, arm, 1)
            b = np.concatenate([ours.denominator[:, None], random.denominator], 1)
            for h, arm in enumerate(estimands.held_arms(both)):
                at = np.eye(b[0].size).reshape(*b.shape[1:], -1)
                found = combine(a.reshape(len(a), -1, 1), b.reshape(len(b), -1), at[:, 0] - at[:, 1 + h], level)
                columns = {"did": found.value[:, 0], "ci_low": found.low[:, 0], "ci_high": found.high[:, 0]}
                labels = {"target": target, "control": arm.control, "held": arm.held, "arm": arm.name}
                labels |= {"outcome": outcome, "object": ours.objects[-1]}
                rows = labels | {"draw": np.append(OWN, draws), "energy": energy} | columns
                parts.append(pd.DataFrame(rows))
    names = ["target", "control", "held", "arm", "outcome", "object", "draw", "energy", "did", "ci_low", "ci_high"]
    return pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)


def permuted(rows: pd.DataFrame) -> tuple[float, np.ndarray, float]:
    """Of one effect in what `compare` returns: the own units' DID, those of the random sets, and the permutation p-value.

    ``p = (1 + #{|random| >= |own|}) / (1 + draws)``: how often a random set does at least as much, the own units counted among them.
    """
    own = float(rows.loc[rows["draw"] == OWN, "did"].iloc[0])
    others = rows.loc[rows["draw"] != OWN, "did"].dropna().to_numpy()
    return own, others, (1 + int((np.abs(others) >= abs(own) - 1e-12).sum())) / (1 + len(others))


def checks(compared: pd.DataFrame) -> Iterator[Row]:
    """Ask whether random units would do the same: rows ``placebo_units`` per target, held arm and outcome.

    The value is the permutation p-value ``(1 + #{|DID of random units| >= |own DID|}) / (1 + draws)`` (Phipson and Smyth 2010). A row is
    flagged if the own DID's interval excludes 0 although random units do as much (p above 0.05): the DID is then what any edit of
    that energy does through the normalization, and says nothing of the target. It is flagged too if most draws missed the
    energy of the target's units by more than 10 %: units that carry an object are often the strongest, and then weaker ones
    prove little. Random units have their energy elsewhere in the image; that they do less *in the target's place* is part of what is
    tested, not a defect of the test.

    Parameters
    ----------
    compared
        As `compare` returns it.
    """
    for (target, arm, outcome), of in compared.groupby(["target", "arm", "outcome"], sort=False):
        own, random = of[of["draw"] == OWN].iloc[0], of[of["draw"] != OWN]
        _, _, p = permuted(of)
        excludes = own["ci_low"] > 0 or own["ci_high"] < 0
        unmatched = ~((random["energy"] - 1).abs() <= ENERGY)  # NaN, of silent units, is no match
        same, loose = bool(excludes and p > LEVEL), bool(unmatched.mean() > 0.5)
        low, high = random["did"].min(), random["did"].max()
        detail = (
            f"{outcome}: {100 * own['did']:+.1f} points, {len(random)} sets of random units {100 * low:+.1f} to "
            f"{100 * high:+.1f}, with {random['energy'].min():.0%} to {random['energy'].max():.0%} of the energy"
        )
        detail = f"random units do as much: {detail}" if same else detail
        detail += f"; {unmatched.mean():.0%} of the sets miss the energy by more than {ENERGY:.0%}" if loose else ""
        good = not (same or loose)
        yield row("placebo_units", p, LEVEL, good, target=str(target), arm=str(arm), detail=detail)


def random_object(panel: xr.Dataset, seed: int = 0) -> Iterator[Row]:
    """Ask whether the intervals of this panel exclude a true 0 as rarely as they say: rows ``placebo_object``.

    A placebo object is dealt out at random: each pixel of every arm's image belongs to it with the probability q, the mean area of
    the other object classes that the unedited images show, independently. Of a target's b original pixels it then has a
    number that is Binomial(b, q), live and held alike, and its DID of `inpainted` is 0. Of 400 such classes, intervals of 95 % may
    exclude 0 in one of twenty; beyond the 99.9 % point of that binomial share the row is flagged.

    The only thing that the panel contributes is its holes: few of them, or one that outweighs all others, break the normal limit on which
    the intervals are built. Controls whose baseline is the reference have live's holes, so that one row per target stands for
    all of them; one with a baseline of its own has a row of its own. What it cannot show: pixels of real classes come in
    patches, and a class that fills a hole or leaves it is harder on an interval than one that is sprinkled over it
    (docs/calibration.md). Of a panel with more latents the first 4,096 are used.

    Parameters
    ----------
    panel
        As docs/panel.md describes it.
    seed
        Of the placebo objects.
    """
    panel = estimands.prepare(panel)
    few = panel.isel(latent=slice(LATENTS))
    own = [arm.name for arm in estimands.held_arms(panel) if arm.control not in EXACT_CONTROLS]
    holes = few["inside"].sel(arm=["live", *own]).sum("object").transpose("latent", "target", "arm").values
    areas = few["pixels"].isel(target=0).sel(arm="reference").mean("latent").values / int(panel.attrs["image_pixels"])
    bound = float(stats.binom.ppf(0.999, OBJECTS, LEVEL)) / OBJECTS
    for t, target in enumerate(panel["target"].values.astype(str)):
        others = areas[(estimands.kinds(panel, target) == "object") & (areas > 0)]
        rng = np.random.default_rng([seed, t])
        for arm, other in zip(["", *own], holes[:, t].T, strict=True):
            live, held = holes[:, t, 0], other
            if len(others) == 0 or min(np.count_nonzero(live), np.count_nonzero(held)) < 2:
                continue
            informs = (live > 0) | (held > 0)
            live, held = live[informs], held[informs]
            took, kept = (rng.binomial(hole[:, None], others.mean(), (len(hole), OBJECTS)) for hole in (live, held))
            carried = (took * held.sum() != kept * live.sum()).sum(axis=0)
            found = ratio_effect(took, live, kept, held, carried=carried)
            share = float(((found.low > 0) | (found.high < 0)).mean())
            detail = (
                f"share of {OBJECTS} classes dealt out at random over {len(live):,} images whose interval excludes 0"
            )
            yield row("placebo_object", share, bound, share <= bound, target=target, arm=arm, detail=detail)
