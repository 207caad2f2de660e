"""Linear combinations of arms: a step from one dose to the next, a Shapley share, one control less another.

`gandid.did.counts` keeps sums over latents of live with each held arm, for panels of any size. The variants of a study (its doses,
its sets of sites, its random units) are measured on a hundred latents or so; here every latent is kept, and any combination of
any number of arms is estimated, paired by latent.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy import stats

from gandid import outcomes
from gandid.did import estimands
from gandid.did.inference import TIE, Estimate, mean_effect
from gandid.did.totals import TOGETHER


class Numerators(NamedTuple):
    """An outcome's parts, per latent and edited arm (live, then the held ones); ``...`` are dimensions such as the dose."""

    objects: np.ndarray
    """Names of the K classes that the outcome is about; `inpainted` has `TOGETHER` as its last."""
    kind: np.ndarray
    """What each is to the target (`gandid.did.estimands.kinds`); of `TOGETHER`, ``together``."""
    numerator: np.ndarray
    """(N, ..., arm, K)."""
    denominator: np.ndarray
    """(N, ..., arm); ones for outcomes that are means."""


def numerators(panel: xr.Dataset, target: str, outcome: str) -> Numerators:
    """An outcome of one target, latent by latent.

    Parameters
    ----------
    panel
        As docs/panel.md describes it, with any dimensions beside; it should be in memory.
    target
        The class whose units are edited.
    outcome
        One of `gandid.outcomes.OUTCOMES`.
    """
    names, held = [str(name) for name in panel["arm"].values], estimands.held_arms(panel)
    edited = [names.index("live"), *(names.index(arm.name) for arm in held)]
    baseline = [names.index("reference"), *(names.index(arm.baseline) for arm in held)]
    objects, kind = panel["object"].values.astype(str).astype(object), estimands.kinds(panel, target).astype(object)
    pixels, inside = (
        panel[name].sel(target=target).transpose("latent", ..., "arm", "object").values for name in estimands.NEEDED
    )
    index = estimands.rows(outcome, kind)
    if outcome in outcomes.RATIOS:
        place = int(np.flatnonzero(kind == "target")[0])
        if outcome == "removed":
            found = outcomes.removed(inside[..., edited, :], place)
            return Numerators(objects[index], kind[index], found.numerator[..., None], found.denominator)
        found = outcomes.inpainted(inside[..., edited, :], place)
        taken = found.numerator[..., kind == "object"].sum(-1, keepdims=True)
        return Numerators(
            np.append(objects[index], TOGETHER),
            np.append(kind[index], "together"),
            np.concatenate([found.numerator[..., index], taken], -1),
            found.denominator,
        )
    size, after, before = int(panel.attrs["image_pixels"]), pixels[..., edited, :], pixels[..., baseline, :]
    if outcome == "area":
        change = outcomes.area(after, size) - outcomes.area(before, size)
    elif outcome == "collateral":
        change = outcomes.collateral(after, inside[..., edited, :], size) - outcomes.collateral(
            before, inside[..., baseline, :], size
        )
    else:
        change = outcomes.emerged(before, after, size, float(panel.attrs.get("presence", 0.003)))
    return Numerators(objects[index], kind[index], change[..., index], np.ones(change.shape[:-1]))


def combine(numerator: np.ndarray, denominator: np.ndarray, weights: npt.ArrayLike, level: float = 0.95) -> Estimate:
    """Estimate ``sum_j w_j sum(a_j) / sum(b_j)`` for each of several vectors of weights w.

    The influence value of a latent is the same combination of those of the ratios (delta method, `gandid.did.inference.ratio_effect`);
    it has the error and the interval that `gandid.did.estimate` gives a DID, to which weights 1 and -1 come down.

    Parameters
    ----------
    numerator, denominator
        a, (N, J, K) and b, (N, J): of J arms and K classes.
    weights
        (W, J). All rows are estimated on the latents that inform one of the arms that any of them uses.
    level
        Coverage of the t interval, whose degrees of freedom are as in `gandid.did.inference.ratio_from_sums`.

    Returns
    -------
    Estimate
        Fields of shape (W, K); NaN where an arm has no denominator.
    """
    weights = np.atleast_2d(np.asarray(weights, np.float64))
    used = np.flatnonzero(weights.any(axis=0))
    a, b, weights = numerator[:, used], denominator[:, used], weights[:, used]
    informs = (b > 0).any(axis=1)
    a, b, total = a[informs], b[informs], b.sum(axis=0)
    if not (total > 0).all():
        nothing = np.full((len(weights), numerator.shape[-1]), np.nan)
        return Estimate(nothing, nothing, nothing, nothing, nothing, 0)
    scale = len(a) / total
    own = _sum(weights * scale, a)
    expected = _sum(weights * scale, b[:, :, None] * (a.sum(axis=0) / total[:, None]))
    return mean_effect(own.mean(axis=0) + own - expected, level, (own != 0).sum(axis=0))


def _sum(weights: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Sums of weighted terms, (W, J) and (N, J, K) -> (N, W, K), with 0 where they cancel.

    There the sum is rounding, which must not pass for a small effect with a smaller error.
    """
    total, size = np.matmul(weights, terms), np.matmul(np.abs(weights), np.abs(terms))
    return np.where(np.abs(total) <= TIE * size, 0.0, total)


def signed_z(estimate: Estimate) -> np.ndarray:
    """An estimate in its own standard errors, as the normal quantile of the same two-sided p-value; 0 where it is certainly 0."""
    return np.sign(estimate.value) * stats.norm.isf(np.maximum(estimate.p, 1e-300) / 2)


def tidy(
    found: Numerators, along: str, places: Sequence[Any] | np.ndarray, columns: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """A table of estimates of shape (place, K): one row per class, and in it per place; `object`, `kind`, `along`, `columns`."""
    rows: dict[str, Any] = {"object": np.repeat(found.objects, len(places)), "kind": np.repeat(found.kind, len(places))}
    rows[along] = np.tile(np.asarray(places, object), len(found.objects))
    return pd.DataFrame(rows | {name: values.T.ravel() for name, values in columns.items()}).infer_objects()


def shown(panel: xr.Dataset, target: str) -> int:
    """How many unedited images show the target; with fewer than two nothing can be said of it."""
    seen = panel["pixels"].sel(target=target, arm="reference", object=target) >= max(estimands.present(panel), 1)
    return int(seen.any([dim for dim in seen.dims if dim != "latent"]).sum())
