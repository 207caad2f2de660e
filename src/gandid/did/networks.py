"""Several trained networks: the network is the cluster.

Intervals over latents say how well *this* network is known. One network is one draw of training, though: another seed gives another
generator, and what differs between a generator with normalization and one without it may be the seed. The unit that was randomly
assigned is the network, so that the error of a comparison of networks comes from their number, however many latents each was given
(Moulton 1990; with few groups Donald and Lang 2007, "Inference with Difference-in-Differences and Other Panel Data").
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from gandid.did.totals import TOGETHER

LABELS = ["target", "outcome", "object"]


class Network(NamedTuple):
    """An effect in one network."""

    value: float
    se: float = np.nan
    """Over latents."""


class Pooled(NamedTuple):
    """A difference of means over networks with normalization and without."""

    did: float
    se: float
    """Over networks; NaN for one and one."""
    low: float
    high: float
    p: float
    """Two-sided p-value of difference 0; 1 where `did` and `se` are both 0."""
    degrees: float
    """Of freedom of the t distribution; NaN where networks of a kind agree exactly."""
    se_latents: float
    """The error if training made no difference between networks of a kind: over latents alone."""
    networks: tuple[int, int]


def pooled(with_norm: Sequence[Network], without_norm: Sequence[Network], level: float = 0.95) -> Pooled:
    """Compare networks with normalization to networks without it, each network one observation.

    - Two or more of each: Welch's t interval over networks (1947), ``se^2 = s_1^2 / k_1 + s_2^2 / k_2``. What latents add to the
      spread of the values is in the s already.
    - One of a kind and K >= 2 of the other: the spread of the one over trainings cannot be seen, and is taken to be that of the others,
      which are taken to be normal: is the one a *new draw* of theirs, shifted by the effect? ``se = s sqrt(1 + 1 / K)``, a t interval
      with K - 1 degrees of freedom. This is the interval of Donald and Lang for one treated group; Conley and Taber ("Inference with
      Difference in Differences with a Small Number of Policy Changes", 2011) put the empirical distribution of the controls in place of
      the normal one, which takes more of them than anyone trains: K of them rank the one at p >= 1 / (K + 1).
    - One and one: there is no interval over networks.

    Parameters
    ----------
    with_norm, without_norm
        The effects, one per network; at least one of each.
    level
        Coverage of the interval.

    Raises
    ------
    ValueError
        If there is no network of a kind.
    """
    counts = len(with_norm), len(without_norm)
    if not all(counts):
        raise ValueError(f"{counts[0]} networks with normalization and {counts[1]} without: a comparison needs both")
    values = [np.array([network.value for network in kind], np.float64) for kind in (with_norm, without_norm)]
    errors = [np.array([network.se for network in kind], np.float64) for kind in (with_norm, without_norm)]
    did = float(values[0].mean() - values[1].mean())
    se_latents = float(np.sqrt(sum((of**2).sum() / len(of) ** 2 for of in errors)))
    spread = [float(of.var(ddof=1)) if len(of) > 1 else np.nan for of in values]
    if min(counts) > 1:
        parts = [variance / count for variance, count in zip(spread, counts, strict=True)]
        square = sum(parts)
        below = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
        degrees = square**2 / below if below > 0 else np.nan
    else:
        many = max(counts)
        square, degrees = (spread[int(np.argmax(counts))] * (1 + 1 / many), many - 1.0) if many > 1 else (np.nan,) * 2
    se = float(np.sqrt(square))
    # Where networks agree exactly (nothing is in-painted in any of them), there is no spread to scale with.
    half, p = (0.0, float(did == 0)) if se == 0 else (stats.t.ppf((1 + level) / 2, degrees) * se, np.nan)
    if se > 0:
        p = float(2 * stats.t.sf(abs(did) / se, degrees))
    return Pooled(did, se, did - float(half), did + float(half), p, float(degrees), se_latents, counts)


def table(frame: pd.DataFrame, together: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """A live network against its twins, with the network as the cluster: `twins.csv`.

    Parameters
    ----------
    frame
        What `gandid.did.Effects.to_frame` returns for a panel with the control `twin`.
    together
        What `gandid.did.totals.objects_inpainted` returns for it.
    level
        Coverage of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row per target and what it is about, `removed` (of the target) and `inpainted` (by all `other objects` together, then by each
        class): `target`, `outcome`, `object`, `tau_live`, per twin `tau_` and its arm, `did` (live less the twins' mean), `se`, `ci_low`,
        `ci_high` over networks (`pooled`; NaN with one twin), `se_latents` and `networks`; NaN where fewer than two images of a
        network show the target. Empty without twins.
    """
    single = frame[(frame["control"] == "twin") & frame["outcome"].isin(["removed", "inpainted"])]
    joint = together[together["control"] == "twin"].assign(outcome="inpainted", object=TOGETHER)
    for arm in ("live", "held"):  # of a target that fewer than two images show there is no estimate
        joint[f"tau_{arm}"] = joint[f"tau_{arm}"].where(joint[f"se_{arm}"].notna())
    arms = list(dict.fromkeys(single["arm"]))
    needed = [*LABELS, "arm", "tau_live", "se_live", "tau_held", "se_held"]
    order = {target: number for number, target in enumerate(dict.fromkeys(single["target"]))}
    rows = pd.concat([single.loc[single["outcome"] == "removed", needed], joint[needed]])
    rows = pd.concat([rows, single.loc[single["outcome"] == "inpainted", needed]])
    found = []
    for labels, of in rows.groupby(LABELS, sort=False):
        twins = [Network(value, se) for value, se in zip(of["tau_held"], of["se_held"], strict=True)]
        live = Network(of["tau_live"].iloc[0], of["se_live"].iloc[0])
        one = pooled([live], twins, level)
        row: dict[str, object] = dict(zip(LABELS, labels, strict=True)) | {"tau_live": live.value}
        row |= {f"tau_{arm}": twin.value for arm, twin in zip(of["arm"], twins, strict=True)}
        row |= {"did": one.did, "se": one.se, "ci_low": one.low, "ci_high": one.high, "se_latents": one.se_latents}
        found.append(row | {"networks": f"1 live, {len(twins)} twin{'s' * (len(twins) > 1)}"})
    columns = [*LABELS, "tau_live", *(f"tau_{arm}" for arm in arms)]
    columns += ["did", "se", "ci_low", "ci_high", "se_latents", "networks"]
    result = pd.DataFrame(found, columns=columns)
    return result.sort_values("target", key=lambda names: names.map(order), kind="stable", ignore_index=True)
