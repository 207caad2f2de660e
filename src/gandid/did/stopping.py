"""Until precise enough: what a study waits for, at which sizes it looks, and why it stopped.

A study that is asked for a half-width measures some latents, looks at its confidence sequences, and goes on while one of them is
wider than that. Sequences hold at every look together (`gandid.did.sequences`), so that stopping at one of them costs no coverage,
whatever else was seen when it was decided to stop or to go on. (Where nothing but the width is looked at, ordinary intervals hold in
the limit, too: Chow and Robbins 1965.) Each covers with its level by itself, as the intervals of `effects.csv` do, not all of them
jointly.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gandid.did import blocks, estimands
from gandid.did.inference import CARRIED, ratio_from_sums
from gandid.did.sequences import half_width, share_at_most
from gandid.did.totals import TOGETHER

GROWTH = 4  # a look comes after a quarter more latents: no study is more than a quarter longer than it need be


def next_look(latents: int, most: int) -> int:
    """The size after `latents` at which to look, at most `most`: it depends on nothing else, so that a killed run looks where it would have."""
    return min(latents + max(latents // GROWTH, 1), most)


def half_widths(panel: xr.Dataset, level: float = 0.95) -> pd.DataFrame:
    """How precisely a panel knows what ``--until`` waits for: per target and held arm, `removed`, and `inpainted` by all other objects.

    (Of the single objects most never meet a target, and those that do are part of the sum.) The half-width is that of the confidence
    sequence of the DID, from `CARRIED` latents on in which live and held differ. Below, where its normal limit cannot be trusted, it
    follows from how little they do differ,

        ``|DID| <= share of the target's original pixels that are counted in one of the two only``,

    and of that share `gandid.did.sequences.share_at_most` is a bound: each latent weighs as many of the largest hole seen as its own
    is. Thus a DID that is 0 because nothing ever differs becomes precise, too: to 0.5 points after some thousand latents that show the
    target. (Where a latent's hole is not the same live and held, as under `mean` and `twin`, all of its pixels are counted.)

    Parameters
    ----------
    panel
        As docs/panel.md describes it; read once, some latents at a time.
    level
        Of the sequences.

    Returns
    -------
    pandas.DataFrame
        One row per target, held arm and outcome: `target`, `outcome`, `object` (the target, or `other objects`), `control`, `held`,
        `arm`, `did`, `half_width` (a share of the target's original pixels; infinite where nothing can be said), `n` (latents that show
        the target, in the regime in which it is rarer), `carried` (latents in which live and held differ).
    """
    panel = estimands.prepare(panel)
    arms, held = [str(name) for name in panel["arm"].values], estimands.held_arms(panel)
    classes, targets = ([str(name) for name in panel[name].values] for name in ("object", "target"))
    place = [classes.index(target) for target in targets]
    others = np.array([estimands.kinds(panel, target) == "object" for target in targets])
    live, of = arms.index("live"), [arms.index(arm.name) for arm in held]

    def count(block: slice) -> tuple[np.ndarray, ...]:
        """Sums over some latents, axes (..., outcome, target, held arm), and the largest weight."""
        inside = blocks.read(panel, "inside", block, "target", "arm", "object").astype(np.int64)
        hole = inside.sum(axis=3)
        lost = hole - inside[:, range(len(targets)), :, place].transpose(1, 0, 2)
        taken = np.stack([lost, np.einsum("ntac,tc->nta", inside, others)])
        v = np.stack(np.broadcast_arrays(taken[..., [live]], hole[..., [live]], taken[..., of], hole[..., of]))
        carries = (v[:2] != v[2:]).any(axis=0)
        weight = np.maximum(v[1], v[3])
        gap = np.where(v[1] == v[3], np.abs(v[0] - v[2]), weight)
        shares = np.stack([weight, gap, weight > 0, v[1] > 0, v[3] > 0, carries]).sum(axis=2)
        return v.sum(axis=2), np.einsum("iontk,jontk->ijotk", v, v), shares, weight.max(axis=1, initial=0)

    parts = list(blocks.stream(count, blocks.slices(panel, ("inside",))))
    sums, products, shares = (np.sum([part[i].astype(object) for part in parts], axis=0) for i in range(3))
    largest = np.max([part[3] for part in parts], axis=0)
    rows = []
    for t, target in enumerate(targets):
        for h, arm in enumerate(held):
            for o, (outcome, name) in enumerate((("removed", target), ("inpainted", TOGETHER))):
                weight, gap, either, in_live, in_held, carried = (int(count) for count in shares[:, o, t, h])
                found = ratio_from_sums(sums[:, o, t, h, None], products[:, :, o, t, h, None], either, level)
                did, n, half = float(found.value[0]), min(in_live, in_held), np.inf
                if n and carried < CARRIED:
                    size = int(largest[o, t, h])
                    half = abs(did) + float(share_at_most(gap / size, weight / size, level))
                elif n:
                    half = float(half_width(found.se[0], either, carried, level))
                row: dict[str, object] = {"target": target, "outcome": outcome, "object": name}
                row |= {"control": arm.control, "held": arm.held, "arm": arm.name, "did": did}
                rows.append(row | {"half_width": half, "n": n, "carried": carried})
    columns = ["target", "outcome", "object", "control", "held", "arm", "did", "half_width", "n", "carried"]
    return pd.DataFrame(rows, columns=columns)


def rare(widths: pd.DataFrame, latents: int, most: int) -> pd.Series:
    """Whether a row's target is shown so rarely that, at this rate, `most` latents hold fewer than `CARRIED` images of it.

    No study waits for those: they could not be told at its end either.
    """
    return widths["n"] * most < CARRIED * latents


def is_precise(widths: pd.DataFrame, until: float, latents: int, most: int) -> bool:
    """Whether a study of `latents` may stop: no half-width that is waited for is above `until`."""
    return bool((widths["half_width"] <= until)[~rare(widths, latents, most)].all())


def reason(widths: pd.DataFrame, until: float, latents: int, most: int) -> str:
    """One or two sentences: why a study stopped at `latents`, with the widest half-width named.

    Parameters
    ----------
    widths
        What `half_widths` returns for its panel.
    until, most
        The half-width that was asked for, and the latents that were allowed.
    latents
        How many were measured.
    """
    left_out = rare(widths, latents, most)
    said, waited = [], widths[~left_out]
    asked = f"the half-width asked for is {_points(until)}"
    if waited.empty:
        said.append(f"Stopped at {latents:,} latents: there is nothing to wait for.")
    else:
        worst = waited.iloc[int(waited["half_width"].argmax())]
        what = f"{worst['outcome']}{'' if worst['outcome'] == 'removed' else f' by {TOGETHER}'}"
        where = f"{_points(worst['half_width'])} ({worst['target']}, {what}, {worst['arm']})"
        if worst["half_width"] <= until:
            told = f"Stopped at {latents:,} latents, precise enough"
        elif latents >= most:
            told = f"Went on to {latents:,} latents, as many as were allowed, and is not precise enough"
        else:
            told = f"Was cut short at {latents:,} latents, not precise enough yet"
        said.append(f"{told}: {asked}, the widest is {where}.")
    if left_out.any():
        names = ", ".join(dict.fromkeys(widths.loc[left_out, "target"]))
        said.append(f"Not waited for, since fewer than {CARRIED} of {most:,} images would show it: {names}.")
    return " ".join(said)


def explain(panel: xr.Dataset, config: Mapping[str, Any]) -> str:
    """`reason`, of a run's panel and its configuration as ``config.yaml`` has it; empty where no half-width was asked for."""
    if config.get("until") is None:
        return ""
    return reason(half_widths(panel), config["until"], config["latents"], config["max_latents"])


def _points(share: float) -> str:
    """A half-width in points, as precise as it takes to tell it from one that is asked for."""
    return f"{100 * share:.3g} points"
