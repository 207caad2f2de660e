"""What all other objects together in-paint: one effect per target and held arm."""

import numpy as np
import pandas as pd
import xarray as xr

from gandid.did import blocks, estimands
from gandid.did.inference import ratio_from_sums

TOGETHER = "other objects"  # what tables call them all, in the place of an object's name


def about_the_whole(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are about a target's whole effects: `removed`, and `inpainted` by all other objects together."""
    return table[(table["outcome"] == "removed") | (table["object"] == TOGETHER)]


def objects_inpainted(panel: xr.Dataset, level: float = 0.95) -> pd.DataFrame:
    """Estimate the share of each target's original pixels that other objects take, whichever they are.

    The values are sums over the objects of the estimates of `inpainted`; the errors are those of the sums.

    Parameters
    ----------
    panel
        As docs/panel.md describes it; read some latents at a time.
    level
        Coverage of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row per target and held arm: `target`, `control`, `held`, `arm`, and of the columns of
        `gandid.did.Effects.to_frame` the estimates, errors and intervals, and the t test's `p`; NaN where fewer than two images
        show the target.
    """
    panel = estimands.prepare(panel)
    arms, held = [str(name) for name in panel["arm"].values], estimands.held_arms(panel)
    targets = [str(name) for name in panel["target"].values]
    live, others = arms.index("live"), np.array([estimands.kinds(panel, target) == "object" for target in targets])
    of = [arms.index(arm.name) for arm in held]

    def count(block: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums over some latents for `ratio_from_sums`, and how many inform either arm, live, held, and the DID: (..., target, held arm)."""
        inside = blocks.read(panel, "inside", block, "target", "arm", "object").astype(np.int64)
        taken, hole = np.einsum("ntac,tc->nta", inside, others), inside.sum(axis=3)
        v = np.stack(np.broadcast_arrays(taken[..., [live]], hole[..., [live]], taken[..., of], hole[..., of]))
        shown = v[1::2] > 0
        informing = np.stack([shown.any(axis=0), *shown, (v[:2] != v[2:]).any(axis=0)]).sum(axis=1)
        return v.sum(axis=1), np.einsum("intk,jntk->ijtk", v, v), informing

    parts = list(blocks.stream(count, blocks.slices(panel, ("inside",))))
    sums, products, informing = (np.sum([part[i].astype(object) for part in parts], axis=0) for i in range(3))
    rows = []
    for t, target in enumerate(targets):
        n, live_n, held_n, carried = informing[:, t]
        for h, arm in enumerate(held):
            one, both = sums[:, t, h, None], products[:, :, t, h, None]
            estimates = {
                "": ratio_from_sums(one, both, n[h], level, carried[h, None].astype(float)),
                "live": ratio_from_sums(one[:2], both[:2, :2], live_n[h], level),
                "held": ratio_from_sums(one[2:], both[2:, 2:], held_n[h], level),
            }
            row: dict[str, object] = {"target": target, "control": arm.control, "held": arm.held, "arm": arm.name}
            for name, found in estimates.items():
                of_arm = f"_{name}" if name else ""
                row |= {f"tau{of_arm}" if name else "did": found.value[0], f"se{of_arm}": found.se[0]}
                row |= {f"ci{of_arm}_low": found.low[0], f"ci{of_arm}_high": found.high[0]}
            rows.append(row | {"p": estimates[""].p[0], "n": n[h]})
    return pd.DataFrame(rows)
