"""Effects: every estimate of a panel, with its errors, ready to be read, tabulated and drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from gandid import outcomes
from gandid.did import estimands
from gandid.did.checks import DEFAULTS, SUPPORT, Bounds, judge, mean_gains
from gandid.did.counts import Counts, Pair, gather
from gandid.did.inference import bh, bootstrap, permutation, ratio_from_sums
from gandid.did.power import smallest_effect
from gandid.did.sequences import half_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The columns that other programs rely on, in their order; what follows them may grow.
COLUMNS = [
    "target",
    "object",
    "outcome",
    "control",
    "held",
    "tau_live",
    "tau_held",
    "did",
    "se",
    "ci_low",
    "ci_high",
    "p",
    "q",
    "n",
]
MORE = [
    "p_t",
    "se_live",
    "ci_live_low",
    "ci_live_high",
    "se_held",
    "ci_held_low",
    "ci_held_high",
    "se_boot",
    "ci_boot_low",
    "ci_boot_high",
    "cs_low",
    "cs_high",
    "smallest",
    "carried",
    "arm",
    "kind",
    "estimable",
    "supported",
]
# One family of hypotheses per value: effects on the target itself and on the background are often certain,
# and must not make those on other objects, which the claims are about, easier to declare.
FAMILY = {"target": "target", "object": "object", "background": "background", "unknown": "background"}

BOOTSTRAP = ["se_boot", "ci_boot_low", "ci_boot_high"]


@dataclass(frozen=True, repr=False)
class Effects:
    """The estimates of a panel.

    Made by `estimate` (``gandid.did(panel)``); print it, or take `to_frame`, `summary`, `sentences`, `plot`.
    """

    frame: pd.DataFrame
    """As `to_frame` returns it."""
    checks: pd.DataFrame
    """As `gandid.did.checks` returns it."""
    latents: int
    level: float = 0.95
    units: Mapping[str, int] = field(default_factory=dict)
    """Number of edited units per target, where the panel names them."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """The panel's attributes."""
    alike: tuple[tuple[str, ...], ...] = ()
    """The held arms, those that have the same counts in every latent together."""
    gains: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By target, the means over latents of `gain` and `gain_outside`, where the panel has them."""
    evidence: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """What else bears on the effects, by name (`gandid.did.weigh`)."""

    @property
    def targets(self) -> list[str]:
        """The targets, in the panel's order."""
        return list(dict.fromkeys(self.frame["target"]))

    @property
    def arms(self) -> list[str]:
        """The held arms (``CONTROL:HELD``), in the panel's order."""
        return list(dict.fromkeys(self.frame["arm"]))

    @property
    def control(self) -> str:
        """The control that the words speak about: capped (it removes amplification alone) if present."""
        controls = list(dict.fromkeys(self.frame["control"]))
        return "capped" if "capped" in controls else controls[0] if controls else ""

    def to_frame(self) -> pd.DataFrame:
        """One row per (target, object, outcome, control, held).

        `tau_live` and `tau_held` are effects of the edit, shares in -1 .. 1 (of the image for `area` and
        `collateral`, of the target's original pixels for `removed` and `inpainted`, of images for
        `emerged`); `did` is their difference; `se`, `ci_low`, `ci_high` its linearized error and t interval;
        `p` its sign-flip p-value and `q` the Benjamini-Hochberg q-value; `n` the latents that inform it.

        Then, per arm, errors and intervals; `p_t`, of the t test; for ratio outcomes the bootstrap's error
        and percentile interval (NaN for means); `cs_low`, `cs_high`, the confidence sequence, which holds at every
        size of the study at once (infinite where too few latents carry the effect); `smallest`, the effect that a study
        of this size finds in four cases of five; `carried`, latents in which live and held differ (of more than 1,024,
        groups of neighbours); `arm`; `kind`, what the object is to the target (``target``, ``object``, ``background``,
        ``unknown``); `estimable`; `supported`: none of the held arm's support checks is flagged.

        Returns
        -------
        pandas.DataFrame
            A copy. Rows of a target that fewer than two images show are NaN and not `estimable`.
        """
        return self.frame.copy()

    def sentences(self, control: str | None = None) -> list[str]:
        """One passage per target in plain words: what ablating it does, what normalization causes of it.

        Effects count as shown if their q-value is below 0.05 and their held arm is supported.

        Parameters
        ----------
        control
            The control to speak about; `Effects.control` by default.
        """
        from gandid.did.words import sentence

        return [sentence(self, target, control or self.control) for target in self.targets]

    def summary(self) -> str:
        """The whole in plain text: a table per held arm, the sentences, and the checks that did not pass."""
        from gandid.did.words import summary

        return summary(self)

    def plot(self, control: str | None = None) -> "Figure":
        """Forest plot: per target, how much of its area each other object in-paints, live and held.

        Hollow marks are arms outside the network's range.
        """
        from gandid.did.forest import forest

        return forest(self, control or self.control)

    def __repr__(self) -> str:
        return (
            f"<gandid.did.Effects: {len(self.targets)} targets ({', '.join(self.targets)}), "
            f"{self.latents:,} latents, live against {', '.join(self.arms)}, {len(self.frame):,} estimates>"
        )

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return self.frame[COLUMNS].to_html(float_format=lambda x: f"{x:.4g}", index=False)


def estimate(
    panel: xr.Dataset,
    *,
    level: float = 0.95,
    flips: int = 9999,
    resamples: int = 2000,
    seed: int = 0,
    bounds: Bounds = DEFAULTS,
) -> Effects:
    """Estimate ``DID = tau_live - tau_held`` for every target, class, outcome, control and held set.

    Mean outcomes (`area`, `collateral`, `emerged`) have the error ``sd / sqrt(n)``; ratio outcomes
    (`removed`, `inpainted`) are ratios of sums with linearized errors and a bootstrap over latents.
    Intervals are t intervals with n - 1 degrees of freedom; where fewer than 30 latents carry a DID (live and held differ in
    them), as many degrees as those, less one (`gandid.did.inference.ratio_from_sums`).

    The panel is read once, some latents at a time: one that is opened lazily (``xarray.open_zarr(path, chunks=None)``) may be
    larger than memory. Sums are of whole numbers and exact, so that nothing depends on the order of latents. Bootstrap and
    sign flips work on `gandid.did.counts.GROUPS` groups of latents where there are more latents than that
    (docs/inference.md, "Large panels").

    `p` is the sign-flip permutation p-value rather than the t test's (`p_t`), because many pairs of classes
    meet in a few latents only, where the t test is too easily convinced. It flips, per latent, the
    difference of the two arms' contributions: for mean outcomes ``delta(z)``, for ratio outcomes ``(a_live - R b_live) /
    mean(b_live) - (a_held - R b_held) / mean(b_held)`` with R the ratio of both arms together, whose mean is the DID exactly
    (R cancels where both arms have the same original pixels, as under capped and frozen). `q` is Benjamini-Hochberg over all
    pairs (target, class) within one (outcome, control, held) and one kind of class: the target itself, other
    objects, background and `unknown`. Pairs whose two arms agree in every latent cannot be rejected whatever
    the signs; they have p = q = 1 and are no members of the family (Gilbert 2005), so that a class that
    never occurs costs no power.

    Parameters
    ----------
    panel
        As ``docs/panel.md`` describes it; the order of its latents does not matter.
    level
        Coverage of the intervals.
    flips, resamples, seed
        Sign flips, bootstrap resamples, and the seed of both.
    bounds
        Bounds of the checks, which decide `supported`.

    Returns
    -------
    Effects

    Raises
    ------
    ValueError
        If the panel lacks a variable, arm or attribute that every estimate needs, or has no latent.
    """
    panel = estimands.prepare(panel)
    counted: list[Counts] = []
    frames: list[pd.DataFrame] = []
    for counts in gather(panel):
        for t in range(len(counts.targets)):
            frames += _frame(panel, counts, t, level, flips, resamples, seed)
        counts.groups.clear()  # the rest is small
        counted.append(counts)
    gains = mean_gains(panel)
    judged = judge(panel, counted, gains, bounds)
    about: dict[str, Any] = {
        "level": level,
        "units": _units(panel),
        "attrs": dict(panel.attrs),
        "alike": _alike([arm.name for arm in estimands.held_arms(panel)], counted),
        "gains": gains,
    }
    if not frames:
        return Effects(pd.DataFrame(columns=COLUMNS + MORE), judged, panel.sizes["latent"], **about)
    frame = pd.concat(frames, ignore_index=True)
    flagged = judged[judged["check"].isin(SUPPORT) & (judged["verdict"] != "ok")]
    outside = set(zip(flagged["target"], flagged["arm"], strict=True))
    inside = np.array([pair not in outside for pair in zip(frame["target"], frame["arm"], strict=True)])
    frame["supported"] = frame["estimable"] & inside
    frame["q"] = _q(frame)
    return Effects(frame[COLUMNS + MORE], judged, panel.sizes["latent"], **about)


def _frame(
    panel: xr.Dataset, counts: Counts, t: int, level: float, flips: int, resamples: int, seed: int
) -> list[pd.DataFrame]:
    """The estimates of one target, none if no arm is held: all columns but `q` and `supported`, and `moved`."""
    classes = panel["object"].values.astype(str).astype(object)
    target = counts.targets[t]
    kind = estimands.kinds(panel, target)
    parts: list[dict[str, np.ndarray]] = []
    values: list[np.ndarray] = []
    for h, arm in enumerate(estimands.held_arms(panel)):
        for outcome in outcomes.OUTCOMES:
            index = estimands.rows(outcome, kind)
            pair = counts.pair(t, h, outcome, index)
            gaps = counts.gaps(t, h, outcome, index[pair.moved])
            carried = np.zeros(len(index))
            carried[pair.moved] = (gaps != 0).sum(0)
            part = _part(pair, carried, level)
            labels = {
                "target": target,
                "outcome": outcome,
                "control": arm.control,
                "held": arm.held,
                "arm": arm.name,
            }
            part |= {name: np.full(len(index), label, object) for name, label in labels.items()}
            part |= {
                "object": classes[index],
                "kind": kind[index].astype(object),
                "estimable": (counts.shown[:, t].sum() >= 2) & np.isfinite(part["se"]),
                "moved": pair.moved,
            }
            part |= _bootstrap(counts, t, h, index, level, resamples, seed) if outcome in outcomes.RATIOS else {}
            parts.append({name: np.full(len(index), np.nan) for name in BOOTSTRAP} | part)
            values.append(gaps)
    if not parts:
        return []
    frame = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    frame["p"] = 1.0
    frame.loc[frame["moved"], "p"] = permutation(np.concatenate(values, 1), flips, seed)
    # A target that no image shows has no effects, whatever its units do to other things.
    numbers = [name for name in frame if frame[name].dtype == float]
    frame.loc[~frame["estimable"], numbers] = np.nan
    return [frame]


def _part(pair: Pair, carried: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """Columns of one (target, arm, outcome), one row per class."""
    did = ratio_from_sums(pair.sums, pair.products, pair.informing, level, carried)
    live = ratio_from_sums(pair.sums[:2], pair.products[:2, :2], pair.informing_live, level)
    held = ratio_from_sums(pair.sums[2:], pair.products[2:, 2:], pair.informing_held, level)
    part = {"tau_live": live.value, "tau_held": held.value, "did": did.value, "p_t": did.p}
    for name, found in (("", did), ("live", live), ("held", held)):
        part |= {f"se_{name}".strip("_"): found.se}
        part |= {"_".join(filter(None, ("ci", name, end))): getattr(found, end) for end in ("low", "high")}
    half = half_width(did.se, did.n, carried, level)
    part |= {"cs_low": did.value - half, "cs_high": did.value + half}
    part |= {"smallest": smallest_effect(did.se, did.n, level), "carried": carried}
    return part | {"n": np.full(len(did.value), did.n)}


def _bootstrap(
    counts: Counts, t: int, h: int, index: np.ndarray, level: float, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """The bootstrap's columns of a ratio: live and held share resamples, so their difference is paired."""
    arms = [0, 1 + h]
    filled, hole = counts.groups["filled"][:, t, arms][:, :, index], counts.groups["hole"][:, t, arms]
    result = np.zeros((3, len(index)))
    result[:, resamples < 2 or not hole.any(0).all()] = np.nan
    # Most classes never take a pixel of most targets, in any resample.
    moving = np.flatnonzero(filled.any((0, 1)) & ~np.isnan(result[0]))
    wide = np.ones(len(moving))
    live, held = (bootstrap(filled[:, i, moving], np.outer(hole[:, i], wide), resamples, seed) for i in (0, 1))
    draws = live - held
    # Resamples without the target say nothing about it.
    usable = np.isfinite(draws).sum(0) >= 2
    tails = [50 * (1 - level), 50 * (1 + level)]
    result[:, moving[~usable]] = np.nan
    result[0, moving[usable]] = np.nanstd(draws[:, usable], 0, ddof=1)
    result[1:, moving[usable]] = np.nanpercentile(draws[:, usable], tails, 0)
    return dict(zip(BOOTSTRAP, result, strict=True))


def _q(frame: pd.DataFrame) -> pd.Series:
    """Benjamini-Hochberg within each family; 1 where the two arms agree in every latent."""
    moved = frame["moved"]
    q = frame["p"].where(~moved | frame["p"].isna(), np.nan)
    family = [frame["outcome"], frame["control"], frame["held"], frame["kind"].map(FAMILY)]
    tested = frame["p"].where(moved)
    return q.fillna(tested.groupby(family).transform(lambda p: bh(p.to_numpy())))


def _units(panel: xr.Dataset) -> dict[str, int]:
    if "units" not in panel:
        return {}
    return {str(t): int((panel["units"].sel(target=t) >= 0).sum()) for t in panel["target"].values}


def _alike(names: list[str], counted: list[Counts]) -> tuple[tuple[str, ...], ...]:
    """The held arms, those that agree for every target joined under the first of them."""
    alike = np.logical_and.reduce([counts.alike for counts in counted]) if counted else np.eye(len(names), dtype=bool)
    first = [int(np.flatnonzero(row)[0]) for row in alike]
    return tuple(tuple(names[j] for j in range(len(names)) if first[j] == i) for i in dict.fromkeys(first))
