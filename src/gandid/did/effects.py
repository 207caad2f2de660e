"""Effects: every estimate of a panel, with its errors, ready to be read, tabulated and drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from gandid import outcomes
from gandid.did import estimands
from gandid.did.checks import DEFAULTS, SUPPORT, Bounds, checks
from gandid.did.inference import bh, bootstrap, mean_effect, permutation, ratio_effect

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
    "arm",
    "kind",
    "estimable",
    "supported",
]
# One family of hypotheses per value: effects on the target itself and on the background are often certain,
# and must not make those on other objects, which the claims are about, easier to declare.
FAMILY = {"target": "target", "object": "object", "background": "background", "unknown": "background"}


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
        and percentile interval (NaN for means); `arm`; `kind`, what the object is to the target (``target``,
        ``object``, ``background``, ``unknown``); `estimable`; `supported`: none of the held arm's support
        checks is flagged.

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
    Intervals are t intervals with n - 1 degrees of freedom.

    `p` is the sign-flip permutation p-value rather than the t test's (`p_t`), because many pairs of classes
    meet in a few latents only, where the t test is too easily convinced. It flips, per latent, the
    difference of the two arms' contributions: for mean outcomes ``delta(z)``, for ratio outcomes ``a_live /
    mean(b_live) - a_held / mean(b_held)``, whose mean is the DID exactly. `q` is Benjamini-Hochberg over all
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
    judged = checks(panel, bounds)
    panel = estimands.prepare(panel)
    latents = panel.sizes["latent"]
    seen = {t: bool(estimands.showing(panel, t).sum() >= 2) for t in panel["target"].values.astype(str)}
    kind = {target: estimands.kinds(panel, target) for target in seen}
    parts: list[dict[str, np.ndarray]] = []
    values: list[np.ndarray] = []
    ratios: list[tuple[np.ndarray, ...]] = []
    for target, arm, outcome, live, held in estimands.pairs(panel):
        index = estimands.rows(outcome, kind[target])
        wide = np.ones(len(index))
        flagged = judged[(judged["target"] == target) & (judged["arm"] == arm.name) & (judged["verdict"] != "ok")]
        part = _part(outcome, live, held, index, level)
        estimable = seen[target] & np.isfinite(part["se"])
        labels = {
            "target": target,
            "outcome": outcome,
            "control": arm.control,
            "held": arm.held,
            "arm": arm.name,
        }
        part |= {name: np.full(len(index), label, object) for name, label in labels.items()}
        part |= {
            "object": panel["object"].values.astype(str).astype(object)[index],
            "kind": kind[target].astype(object)[index],
            "estimable": estimable,
            "supported": estimable & (not flagged["check"].isin(SUPPORT).any()),
        }
        parts.append(part)
        values.append((live.values - held.values)[:, index])
        if outcome in outcomes.RATIOS:
            ratios.append((live.numerator[:, index], np.outer(live.denominator, wide)))
            ratios.append((held.numerator[:, index], np.outer(held.denominator, wide)))
    if not parts:
        return Effects(pd.DataFrame(columns=COLUMNS + MORE), judged, latents, level, _units(panel), dict(panel.attrs))
    frame = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    frame["p"] = permutation(np.concatenate(values, 1), flips, seed)
    _add_bootstrap(frame, ratios, level, resamples, seed)
    # A target that no image shows has no effects, whatever its units do to other things.
    numbers = [name for name in frame if frame[name].dtype == float]
    frame.loc[~frame["estimable"], numbers] = np.nan
    moved = np.concatenate([np.any(value != 0, axis=0) for value in values])
    frame["q"] = _q(frame, moved)
    frame = frame[COLUMNS + MORE]
    return Effects(frame, judged, latents, level, _units(panel), dict(panel.attrs))


def _part(
    outcome: str, live: estimands.Contribution, held: estimands.Contribution, index: np.ndarray, level: float
) -> dict[str, np.ndarray]:
    """Columns of one (target, arm, outcome), one row per class of `index`."""
    a, b = live.numerator[:, index], held.numerator[:, index]
    if outcome in outcomes.RATIOS:
        did = ratio_effect(a, live.denominator, b, held.denominator, level=level)
        one = ratio_effect(a, live.denominator, level=level)
        other = ratio_effect(b, held.denominator, level=level)
    else:
        did, one, other = mean_effect(a - b, level), mean_effect(a, level), mean_effect(b, level)
    part = {"tau_live": one.value, "tau_held": other.value, "did": did.value, "p_t": did.p}
    for name, found in (("", did), ("live", one), ("held", other)):
        part |= {f"se_{name}".strip("_"): found.se}
        part |= {"_".join(filter(None, ("ci", name, end))): getattr(found, end) for end in ("low", "high")}
    return part | {"n": np.full(len(index), did.n)}


def _add_bootstrap(
    frame: pd.DataFrame, ratios: list[tuple[np.ndarray, ...]], level: float, resamples: int, seed: int
) -> None:
    """Fill the bootstrap's columns: live and held share resamples, so their difference is paired."""
    frame[["se_boot", "ci_boot_low", "ci_boot_high"]] = np.nan
    if not ratios or resamples < 2:
        return
    # `ratios` alternates between live and held, each pair with as many columns as its part has rows.
    above, below = (np.concatenate([ratio[i] for ratio in ratios[0::2] + ratios[1::2]], 1) for i in (0, 1))
    live, held = np.split(bootstrap(above, below, resamples, seed), 2, axis=1)
    draws = live - held
    # Resamples without the target say nothing about it; a target in no image has none left.
    usable = np.isfinite(draws).sum(0) >= 2
    tails = [50 * (1 - level), 50 * (1 + level)]
    result = np.full((3, draws.shape[1]), np.nan)
    result[0, usable] = np.nanstd(draws[:, usable], 0, ddof=1)
    result[1:, usable] = np.nanpercentile(draws[:, usable], tails, 0)
    where = frame["outcome"].isin(outcomes.RATIOS)
    frame.loc[where, ["se_boot", "ci_boot_low", "ci_boot_high"]] = result.T


def _q(frame: pd.DataFrame, moved: np.ndarray) -> pd.Series:
    """Benjamini-Hochberg within each family; 1 where the two arms agree in every latent."""
    q = frame["p"].where(~moved | frame["p"].isna(), np.nan)
    family = [frame["outcome"], frame["control"], frame["held"], frame["kind"].map(FAMILY)]
    tested = frame["p"].where(moved)
    return q.fillna(tested.groupby(family).transform(lambda p: bh(p.to_numpy())))


def _units(panel: xr.Dataset) -> dict[str, int]:
    if "units" not in panel:
        return {}
    return {str(t): int((panel["units"].sel(target=t) >= 0).sum()) for t in panel["target"].values}
