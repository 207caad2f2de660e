"""Until precise enough: what a study waits for, at which sizes it looks, and why it stopped.

A study that is asked for a half-width measures some latents, looks at its confidence sequences, and goes on while one of them is
wider than that. Sequences hold at every look together (`gandid.stats.boundary`), so that stopping at one of them costs no coverage. Each
covers with its level by itself, as the intervals of `effects.csv` do, not all of them jointly.
"""

import numpy as np
import pandas as pd
import xarray as xr

from gandid.estimation.contents import Contents
from gandid.estimation.contrast import parts, study_contrast
from gandid.estimation.families import labels, rows, together
from gandid.estimation.sums import gather
from gandid.outcomes import FULL
from gandid.stats import CARRIERS, sequence_half_width, share_at_most

LEVEL = 0.95  # coverage of each confidence sequence
GROWTH = 4  # a look comes after a quarter more latents: no study is more than a quarter longer than it need be
COLUMNS = ["target", "outcome", "object", "control", "held", "arm", "did", "half_width", "n", "carriers"]


def next_look(latents: int, most: int) -> int:
    """The size after `latents` at which to look, at most `most`: it depends on nothing else, so that a killed run looks where it would have."""
    return min(latents + max(latents // GROWTH, 1), most)


def half_widths(panel: xr.Dataset) -> pd.DataFrame:
    """How precisely a panel knows what ``--until`` waits for: per target and held arm, its two whole effects.

    The half-width is that of the confidence sequence of the DID, from `gandid.stats.CARRIERS` latents on in which live and held differ.
    Below, where its normal limit cannot be trusted, it follows from how little they do differ,

        ``|DID| <= share of the target's original pixels that are counted in one of the two only``,

    and of that share `gandid.stats.share_at_most` is a bound: each latent weighs as much of a whole image as its hole is, since the largest
    hole is not known beforehand. Thus a DID that is 0 because nothing ever differs becomes precise, too, to 0.5 points once the target's
    pixels would fill some 800 images. (Where a latent's hole is not the same live and held, as under `mean` and `twin`, all of its
    pixels are counted.)

    Parameters
    ----------
    panel
        As docs/panel.md describes it; read once, some latents at a time.

    Returns
    -------
    pandas.DataFrame
        One row per target, held arm and outcome, columns `COLUMNS`: `half_width` is a share of the target's original pixels, infinite
        where nothing can be said; `n` are the latents that show the target, in the regime in which it is rarer; `carriers` those in
        which live and held differ (of more than 1,024, groups of neighbours).
    """
    contents = Contents(panel)
    sums, found = gather(contents, contents.study), []
    live, *held = sums.index(contents.compared)
    for t, target in enumerate(contents.targets if held else []):
        for o, outcome in enumerate(contents.pair):
            part = together(parts(contents, sums, t, outcome))
            estimate, _ = study_contrast(part, live, held, LEVEL)
            discordant, n = sums.discordant[o, t, held], np.minimum(sums.informing[t, live], sums.informing[t, held])
            value, carriers = np.abs(estimate.value[:, 0]), estimate.carriers[:, 0]
            few = value + share_at_most(discordant / contents.size, sums.weight[t, held] / contents.size, LEVEL)
            many = sequence_half_width(estimate.se[:, 0], sums.either[t, held], carriers, LEVEL)
            half = np.where(n == 0, np.inf, np.where(carriers < CARRIERS, few, many))
            columns = {"did": estimate.value, "half_width": half[:, None], "n": n[:, None]}
            columns["carriers"] = carriers[:, None]
            found.append(rows(part, labels(contents.regimes, target, outcome), columns))
    return pd.concat(found, ignore_index=True)[COLUMNS] if found else pd.DataFrame(columns=COLUMNS)


def rare(widths: pd.DataFrame, latents: int, most: int) -> pd.Series:
    """Whether a row's target is so rare that, at this rate, `most` latents hold fewer than `gandid.stats.CARRIERS` images of it.

    No study waits for those: they could not be told at its end either.
    """
    return widths["n"] * most < CARRIERS * latents


def is_precise(widths: pd.DataFrame, until: float, latents: int, most: int) -> bool:
    """Whether a study of `latents` may stop: no half-width that is waited for is above `until`."""
    return bool((widths["half_width"] <= until)[~rare(widths, latents, most)].all())


def stop_reason(panel: xr.Dataset, until: float, latents: int, most: int) -> str:
    """One or two sentences: why a study stopped at `latents`, with the widest half-width named.

    Parameters
    ----------
    panel
        The study's.
    until, most
        The half-width that was asked for, and the latents that were allowed.
    latents
        How many were measured.
    """
    widths = half_widths(panel)
    left_out = rare(widths, latents, most)
    parts, waited = [], widths[~left_out]
    if waited.empty:
        parts.append(f"Stopped at {latents:,} latents: there is nothing to wait for.")
    else:
        worst = waited.iloc[int(waited["half_width"].argmax())]
        where = f"{_points(worst['half_width'])} ({worst['target']}, {FULL[worst['outcome']]}, {worst['arm']})"
        if worst["half_width"] <= until:
            how = f"Stopped at {latents:,} latents, precise enough"
        elif latents >= most:
            how = f"Went on to {latents:,} latents, as many as were allowed, and is not precise enough"
        else:
            how = f"Was cut short at {latents:,} latents, not precise enough yet"
        parts.append(f"{how}: the half-width asked for is {_points(until)}, the widest is {where}.")
    if left_out.any():
        names = ", ".join(dict.fromkeys(widths.loc[left_out, "target"]))
        parts.append(f"Not waited for, since fewer than {CARRIERS} of {most:,} images would show it: {names}.")
    return " ".join(parts)


def _points(share: float) -> str:
    """A half-width in points, as precise as it takes to tell it from one that is asked for."""
    return f"{100 * share:.3g} points"
