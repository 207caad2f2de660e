"""Which site makes the effect: Shapley shares with errors, from the arms of all coalitions of sites."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from gandid import outcomes
from gandid.did import estimands
from gandid.did.checks import Row, row
from gandid.did.combinations import combine, numerators, shown, tidy
from gandid.did.shapley import exact_weights, sampled_weights

COLUMNS = ["target", "object", "outcome", "kind", "control", "site", "share", "se", "ci_low", "ci_high", "did"]
EXACT = 1e-9  # by which rounding may part sums of shares
# Between two measurements of one latent single pixels change their class: batches of another size round otherwise.
ROUNDING = 1e-4


class _Game(NamedTuple):
    """The shares as linear maps of the edited arms, `live` and then the held ones."""

    control: str
    sites: list[str]
    weights: np.ndarray
    """(order, site, arm); one order where all coalitions were run."""
    whole: np.ndarray
    """Weights of the DID, (arm,)."""


def shares(sites: xr.Dataset, level: float = 0.95) -> pd.DataFrame:
    """Estimate each site's Shapley share of the DID of holding all of them (`gandid.did.shapley`).

    A share is a linear combination of the edited arms, so that its value per latent, and with it its error, is the same combination
    of theirs. Where random orders stand for all, a second error is added, that of the orders: the spread of one order's share over
    the root of their number; the two half-widths add in squares.

    Parameters
    ----------
    sites
        A panel (docs/panel.md) with one arm ``CONTROL:SITE+SITE`` per non-empty set of held sites that a share needs, under one
        control with an exact baseline; attributes `orders` (0: all sets) and `orders_seed`, as in
        `gandid.did.shapley.sampled_weights`. It is read as a whole.
    level
        Coverage of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row per target, outcome, class (of `inpainted` also `other objects`) and site, in the network's order: `share`, `se`,
        `ci_low`, `ci_high`, and `did`, which the shares of all sites make up. NaN where fewer than two images show the target.

    Raises
    ------
    ValueError
        If an arm that a share needs is absent.
    """
    sites = estimands.prepare(sites).load()
    game = _game(sites)
    parts = []
    for target in sites["target"].values.astype(str):
        visible = shown(sites, target) >= 2
        for outcome in outcomes.OUTCOMES:
            found = numerators(sites, target, outcome)
            columns = _share(found.numerator, found.denominator, game, level)
            if not visible:
                columns = {name: np.full_like(values, np.nan) for name, values in columns.items()}
            part = tidy(found, "site", game.sites, columns)
            parts.append(part.assign(target=target, outcome=outcome, control=game.control))
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def _game(panel: xr.Dataset) -> _Game:
    held = estimands.held_arms(panel)
    if not held:
        raise ValueError("the panel holds no site, so that there are no shares")
    sites = max((arm.held.split("+") for arm in held), key=len)
    places: dict[frozenset[str], int] = {frozenset(): 0} | {
        frozenset(arm.held.split("+")): 1 + h for h, arm in enumerate(held)
    }
    orders = int(panel.attrs.get("orders", 0))
    if orders:
        coalitions, weights = sampled_weights(len(sites), orders, int(panel.attrs["orders_seed"]))
    else:
        coalitions, weights = exact_weights(len(sites))
    arms = np.zeros((*weights.reshape(-1, *weights.shape[-2:]).shape[:2], 1 + len(held)))
    for c, live in enumerate(coalitions):
        still = frozenset(sites) - {sites[i] for i in live}
        if still not in places:
            name = f"{held[0].control}:{'+'.join(site for site in sites if site in still)}"
            raise ValueError(f"the panel has no arm '{name}', which the shares of its sites need")
        arms[:, :, places[still]] = weights[..., c]
    whole = np.zeros(1 + len(held))
    whole[[0, places[frozenset(sites)]]] = 1, -1
    return _Game(held[0].control, sites, arms, whole)


def _share(numerator: np.ndarray, denominator: np.ndarray, game: _Game, level: float) -> dict[str, np.ndarray]:
    """Shares and the DID of one outcome, each (site, K)."""
    found = combine(numerator, denominator, game.weights.mean(axis=0), level)
    se, half = found.se, found.high - found.value
    if len(game.weights) > 1:
        total = denominator.sum(axis=0)[:, None]
        ratios = numerator.sum(axis=0) / np.where(total > 0, total, np.nan)
        each = game.weights @ ratios  # (order, site, K)
        between = each.std(axis=0, ddof=1) / np.sqrt(len(each))
        se, half = np.hypot(se, between), np.hypot(half, between * stats.t.ppf((1 + level) / 2, len(each) - 1))
    whole = combine(numerator, denominator, game.whole, level).value
    columns = {"share": found.value, "se": se, "ci_low": found.value - half, "ci_high": found.value + half}
    return columns | {"did": np.broadcast_to(whole, found.value.shape)}


def checks(shares: pd.DataFrame, sites: xr.Dataset, panel: xr.Dataset) -> Iterator[Row]:
    """Ask whether the shares sum to the DID that the *study* measured: row ``shapley_efficiency`` per target.

    That they sum to the DID of their own arms is arithmetic. That this is the panel's DID of ``CONTROL:all`` on the same latents is
    not: it fails if a coalition's arm is not what its name says, if a site is missing, or if the two were measured with other
    edits, networks or latents. Compared are `area` and `collateral` of all classes, whose denominator is the image (so that
    `removed` and `inpainted` are too); the value is the largest gap, in shares of the image. Where the panel lacks the arm or some
    of the latents, what remains is the arithmetic.

    Parameters
    ----------
    shares
        As `shares` returns it.
    sites
        From which it was made.
    panel
        The study's.
    """
    arm = f"{shares['control'].iloc[0]}:all"
    same = np.isin(sites["latent"].values, panel["latent"].values).all() and arm in panel["arm"].values
    if same:
        panel = panel.sel(latent=sites["latent"].values, arm=["reference", "live", arm]).load()
    for target, of in shares[shares["share"].notna()].groupby("target", sort=False):
        gaps = [0.0]
        for outcome in ("area", "collateral"):
            summed = of[of["outcome"] == outcome].groupby("object", sort=False).agg({"share": "sum", "did": "first"})
            if same:
                found = numerators(panel, str(target), outcome)
                did = combine(found.numerator, found.denominator, np.array([1, -1])).value[0]
                gaps.append(float(np.abs(summed["share"].reindex(found.objects).fillna(0) - did).max()))
            else:
                gaps.append(float((summed["share"] - summed["did"]).abs().max()))
        bound = ROUNDING if same else EXACT
        whose = (
            f"{arm} in the panel" if same else "their own arms alone: the panel has not measured it on their latents"
        )
        detail = f"largest gap between the sum of the shares and the DID of {whose}, in shares of the image"
        yield row(
            "shapley_efficiency", max(gaps), bound, max(gaps) <= bound, "failed", target=str(target), detail=detail
        )
