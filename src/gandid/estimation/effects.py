"""Effects: every estimate of a panel, with its errors, ready to be read, tabulated and drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from gandid import outcomes, verdicts
from gandid.estimation import families
from gandid.estimation.bounds import CHECKS, DEFAULTS, SUPPORT, Bounds
from gandid.estimation.checks import checks
from gandid.estimation.contents import Contents
from gandid.estimation.contrast import BOUNDS, Parts, bounds_of, parts, study_contrast
from gandid.estimation.credibility import credibility
from gandid.estimation.distance import Distance, distances
from gandid.estimation.halves import halvings, with_choice
from gandid.estimation.matched import matched
from gandid.estimation.networks import distilled, networks
from gandid.estimation.standard import truths
from gandid.estimation.strengths import strengths, surface
from gandid.estimation.sums import Sums, gather
from gandid.files import TEXT, read_table
from gandid.stats import bootstrap, detectable, false_discovery, permutation, sequence_half_width, t_interval
from gandid.text import count
from gandid.verdicts import RELEVANT, SOLID

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The columns that other programs rely on, in their order; what follows them may grow.
COLUMNS = ["target", "object", "outcome", "control", "held", "tau_live", "tau_held", "did", "se", "ci_low", "ci_high"]
COLUMNS += ["p", "q", "n"]
MORE = ["contrast", "verdict", "settled_by", "arm", "kind", "dose", "strength", "draw", "site", "segmenter"]
MORE += ["estimable", "supported", "p_t"]
MORE += ["se_live", "ci_live_low", "ci_live_high", "se_held", "ci_held_low", "ci_held_high"]
MORE += ["se_boot", "ci_boot_low", "ci_boot_high", "cs_low", "cs_high", "detectable", "carriers", "energy", "breakdown"]
MORE += ["band_low", "band_high", "kappa", "kappa_low", "kappa_high", "removal", "fcr_low", "fcr_high"]
MORE += ["between", "next_low", "next_high", "se_units", "ci_units_low", "ci_units_high", *BOUNDS]
# One family of hypotheses per value: effects on the target itself and on the background are often certain, and must not make those
# on other objects, which the claims are about, easier to declare. The sum of all objects is no further hypothesis beside its parts.
FAMILY = {"target": "target", "object": "object", "background": "background", "unknown": "background"}
FAMILY |= {"together": "together"}
BOOTSTRAP = ["se_boot", "ci_boot_low", "ci_boot_high"]


@dataclass(frozen=True, repr=False)
class Effects:
    """The estimates of a panel.

    Made by `did`, or read from a run's folder by `read_effects`; print it, or take `to_frame`, `summary`, `sentences`, `plot`.
    """

    frame: pd.DataFrame
    """As `to_frame` returns it."""
    checks: pd.DataFrame
    """As `gandid.estimation.checks.checks` returns it, with the rows of `gandid.estimation.credibility`."""
    latents: int
    level: float = 0.95
    units: Mapping[str, int] = field(default_factory=dict)
    """Number of edited units per target, where the panel names them."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """The panel's attributes."""
    relevant: float = RELEVANT
    """The smallest effect of interest, a share of the object's pixels, by which the verdicts are passed."""

    @property
    def main(self) -> pd.DataFrame:
        """The rows of the contrast `did`: live less held at the study's dose, under its first segmenter, on all latents."""
        return self.frame[self.frame["contrast"] == "did"]

    @property
    def targets(self) -> list[str]:
        """The targets, in the panel's order."""
        return list(dict.fromkeys(self.main["target"]))

    @property
    def arms(self) -> list[str]:
        """The held arms and the other networks, in the panel's order."""
        return list(dict.fromkeys(self.main["arm"]))

    @property
    def pair(self) -> outcomes.Pair:
        """The outcomes that say what became of a target's place."""
        return outcomes.pair_of(self.attrs)

    @property
    def control(self) -> str:
        """The control that the words speak about: capped (it removes amplification alone), of insertions frozen, if present."""
        controls = list(dict.fromkeys(self.main["control"]))
        first = "frozen" if self.pair.inserts else "capped"
        return first if first in controls else controls[0] if controls else ""

    def to_frame(self) -> pd.DataFrame:
        """One row per contrast, target, held arm, outcome and class; docs/inference.md describes contrasts and columns.

        `tau_live` and `tau_held` are effects of the edit, shares in -1 .. 1 (of the image for `area` and `collateral`, of the target's
        original pixels for `removed` and `inpainted`, of an insertion's region for `inserted` and `displaced`, of images for `emerged`);
        `did` is their difference; `se`, `ci_low`, `ci_high` its linearized error and t interval; `p` its sign-flip p-value and `q` the
        Benjamini-Yekutieli q-value (of the contrast `did` only); `n` the latents that inform it; `verdict` is passed on the interval
        (`gandid.verdicts`).

        Returns
        -------
        pandas.DataFrame
            A copy. Rows of a target that fewer than two images show are NaN and not `estimable`.
        """
        return self.frame.copy()

    def sentences(self, control: str | None = None) -> list[str]:
        """One passage per target in plain words: what the edit does, and what normalization causes of it."""
        from gandid.estimation.sentences import sentence

        return [sentence(self, target, control or self.control) for target in self.targets]

    def summary(self) -> str:
        """The whole effects in plain text, and the checks that did not pass."""
        from gandid.estimation.sentences import summary

        return summary(self)

    def tidy(self) -> pd.DataFrame:
        """The whole effects: a row per target, held arm and outcome.

        Outcomes are `removed` of the target and `inpainted` by all other objects, or `inserted` of it and `displaced` of them. Among the
        arms are those that were held in part, and distilled networks together (`distilled`), whose `n` are networks. `to_frame` has the
        effects class by class, and every other contrast.
        """
        own = self.main.drop_duplicates("contrast")[["dose", "segmenter"]].to_records(index=False).tolist()
        more = self.frame["contrast"].eq("strength") & self.frame["strength"].lt(1)
        more |= self.frame["contrast"].eq("networks") & self.frame[["dose", "segmenter"]].apply(tuple, axis=1).isin(own)
        rows = self.frame[self.frame["contrast"].eq("did") | more]
        rows = rows[outcomes.whole(rows)]
        columns = ["target", "outcome", "arm", "tau_live", "tau_held", "did", "ci_low", "ci_high"]
        columns += ["verdict", "supported", "n"]
        order = {name: place for place, name in enumerate(self.targets)}
        return rows[columns].sort_values("target", key=lambda name: name.map(order), kind="stable", ignore_index=True)

    def plot(self, control: str | None = None, *, kind: str | None = None) -> "Figure":
        """Live minus held around 0, a line per target and held arm; a band marks what is too small to matter.

        Hollow marks are out of range.

        Parameters
        ----------
        control
            Whose held arms are drawn; `Effects.control` by default.
        kind : {"removed", "inpainted", "inserted", "displaced"}, optional
            The effect on the target, or on all other objects together; by default both that the study has.
        """
        from gandid.estimation.plot import forest

        return forest(self, control or self.control, kind)

    def __repr__(self) -> str:
        return (
            f"<gandid.estimation.Effects: {count(len(self.targets), 'target')} ({', '.join(self.targets)}), {self.latents:,} latents, "
            f"live against {', '.join(self.arms)}, {len(self.frame):,} estimates>"
        )

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        from gandid.estimation.plot import table

        return table(self)


def did(
    panel: xr.Dataset,
    *,
    level: float = 0.95,
    flips: int = 9999,
    resamples: int = 2000,
    seed: int = 0,
    bounds: Bounds = DEFAULTS,
    confusion: pd.DataFrame | None = None,
    relevant: float = RELEVANT,
) -> Effects:
    """Estimate ``DID = tau_live - tau_held`` for every target, class, outcome, control and held set, and all that bears on it.

    Every estimate is a contrast: weights over the arms of the panel (`gandid.estimation.contrast`), estimated from sums over groups of
    latents; up to 1,024 latents each is a group by itself (docs/inference.md, "Large panels"). Intervals are t intervals with n - 1
    degrees of freedom; where fewer than 30 latents carry a DID (live and held differ in them), as many as those, less one.

    `p` is the sign-flip permutation p-value rather than the t test's (`p_t`), because many pairs of classes meet in a few latents
    only, where the t test is too easily convinced. It flips, per latent, the difference of the two arms' contributions
    (`gandid.estimation.contrast.flip_values`). `q` is Benjamini-Yekutieli over all pairs (target, class) within one (outcome, control,
    held) and one kind of class: the target itself, other objects, all of them together, background and `unknown`. Pairs whose two arms
    agree in every latent cannot be rejected whatever the signs; they have p = q = 1 and are no members of the family (Gilbert 2005).

    Parameters
    ----------
    panel
        As ``docs/panel.md`` describes it; it may be opened lazily and larger than memory. The order of its latents does not matter.
    level
        Coverage of the intervals.
    flips, resamples, seed
        Sign flips, bootstrap resamples, and the random seed of both.
    bounds
        Bounds of the checks, which decide `supported`.
    confusion
        Of the first segmenter, rows the true class and columns the named one, for the contrast `corrected`.
    relevant
        The smallest effect of interest, a share, by which the verdicts are passed.

    Returns
    -------
    Effects

    Raises
    ------
    ValueError
        If the panel lacks a variable, arm or attribute that every estimate needs, has no latent, or nothing to compare live with.
    """
    contents = Contents(panel)
    if not contents.regimes:
        raise ValueError(
            "the panel has no held arm or other network to compare live with: keep one where arms are selected"
        )
    sums = gather(contents, contents.study)
    found = [_target(contents, sums, t, level, flips, resamples, seed) for t in range(len(contents.targets))]
    frame = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*COLUMNS, *MORE, "moved"])
    frame["q"] = _q(frame)
    apart = list(distances(contents, sums, level))
    judged = checks(contents, sums, apart, bounds)
    if len(frame):
        near = {(one.target, one.arm) for one in apart if one.kappa <= bounds.distance}
        more = [*strengths(contents, level, near), *families.doses(contents, level), *matched(contents, level)]
        more += [*surface(contents, level), *families.shares(contents, level)]
        more += [*families.placebos(contents, level), *families.segmenters(contents, level)]
        more += [*distilled(contents, level), *families.composition(contents, sums, level)]
        more += halvings(contents, level)
        if confusion is not None:
            more += families.corrected(contents, sums, confusion, level)
        frame = pd.concat([frame, *more], ignore_index=True)
        frame = frame.reindex(columns=[*COLUMNS, *MORE])
        more = [*families.violations(contents, sums, frame), *networks(frame, level)]
        frame = pd.concat([frame, *more], ignore_index=True)
        tests = [*credibility(contents, sums, frame, confusion, bounds), *truths(contents, frame)]
        rows = pd.DataFrame(tests, columns=CHECKS)
        judged = pd.concat([judged, rows], ignore_index=True)
    latents = int(sums.latents.sum())
    table = _judged(_finished(contents, frame, judged, apart), latents, level, relevant, bounds.seen)
    return Effects(table, judged, latents, level, contents.units(), dict(panel.attrs), relevant)


def _finished(contents: Contents, frame: pd.DataFrame, judged: pd.DataFrame, apart: Sequence[Distance]) -> pd.DataFrame:
    """The table in its columns, with what all rows have."""
    flagged = judged[judged["check"].isin(SUPPORT) & (judged["verdict"] != "ok")]
    outside = set(zip(flagged["target"], flagged["arm"], strict=True))
    frame = frame.reindex(columns=[*COLUMNS, *MORE])
    frame["dose"] = frame["dose"].astype(float).fillna(contents.dose)
    reached = {one.name: one.arm.strength for one in contents.graded}
    frame["strength"] = frame["strength"].astype(float).fillna(frame["arm"].map(reached)).fillna(1.0)
    frame["draw"] = frame["draw"].astype(float).fillna(0).astype(int)
    frame["segmenter"] = frame["segmenter"].where(frame["segmenter"].notna(), contents.segmenters[0])
    estimable = frame["estimable"].where(frame["contrast"] == "did", frame["did"].notna()).astype(bool)
    inside = [pair not in outside for pair in zip(frame["target"], frame["arm"], strict=True)]
    known = pd.DataFrame(apart, columns=Distance._fields).set_index(["target", "arm"])[["kappa", "low", "high"]]
    places = pd.MultiIndex.from_frame(frame[["target", "arm"]])
    frame[["kappa", "kappa_low", "kappa_high"]] = known.reindex(places).to_numpy(float)
    frame["estimable"], frame["supported"] = estimable, estimable & np.array(inside, bool)
    text = [name for name in TEXT if name in frame]
    frame[text] = frame[text].astype(object).fillna("")
    return frame


def _judged(
    frame: pd.DataFrame, latents: int, level: float, relevant: float, seen: int = verdicts.SEEN
) -> pd.DataFrame:
    """The table with its verdicts, and intervals that may be quoted of effects because they were picked by their verdicts.

    Of R effects that are picked among m, intervals of ``1 - R / m (1 - level)`` are in error, on average over the picked ones, as rarely as
    `level` says (false coverage rate: Benjamini and Yekutieli 2005); R counts the claims of a family, m what was tested in it. Each
    strength is a family of its own. Other contrasts are not picked among, and keep their intervals.
    """
    frame = verdicts.judged(with_choice(frame, level), latents, relevant, seen)
    frame.loc[frame["contrast"] == "beyond", "verdict"] = verdicts.UNSETTLED  # without a bound on the curvature
    main = frame[frame["contrast"].isin(["did", "strength"])]
    family = [main[name] for name in ("contrast", "strength", "outcome", "control", "held")]
    family.append(main["kind"].map(FAMILY))
    picked, tested = (
        some.groupby(family, dropna=False).transform("sum")
        for some in (main["verdict"].isin(SOLID), main["carriers"] > 0)
    )
    share = (picked.clip(lower=1) / tested.clip(lower=1)).clip(upper=1).to_numpy()
    did, se, n, carriers = (main[name].to_numpy(float) for name in ("did", "se", "n", "carriers"))
    found = t_interval(did, se, n, carriers, 1 - share * (1 - level))
    frame[["fcr_low", "fcr_high"]] = frame[["ci_low", "ci_high"]]
    frame.loc[main.index, ["fcr_low", "fcr_high"]] = np.stack([found.low, found.high], axis=1)
    return frame


def identical(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """The arms of rows of one contrast, in groups that agree in every number: bounds that never bind, networks with one site."""
    groups: dict[bytes, list[str]] = {}
    for arm, own in rows.groupby("arm", sort=False):
        ordered = own.sort_values(["target", "outcome", "object"])[["tau_held", "did", "se"]]
        groups.setdefault(ordered.to_numpy(float).tobytes(), []).append(str(arm))
    return [tuple(names) for names in groups.values()]


def read_effects(folder: Path, panel: xr.Dataset, relevant: float = RELEVANT) -> Effects:
    """The effects of a run as they were written into its folder (`effects.csv`, `checks.csv`).

    Parameters
    ----------
    folder
        Of the run.
    panel
        Its panel, of which units and attributes are read.
    relevant
        The smallest effect of interest, a share, by which the verdicts are passed.
    """
    contents = Contents(panel)
    rows, checks = contents.rows(contents.study), read_table(folder / "checks.csv")
    frame = read_table(folder / "effects.csv").reindex(columns=[*COLUMNS, *MORE])
    frame = _judged(frame, rows, 0.95, relevant)
    return Effects(frame, checks, rows, 0.95, contents.units(), dict(panel.attrs), relevant)


def _target(
    contents: Contents, sums: Sums, t: int, level: float, flips: int, resamples: int, seed: int
) -> pd.DataFrame:
    """The contrasts `did` of one target: all columns but `q` and `supported`, and `moved`."""
    found, values = list[pd.DataFrame](), list[np.ndarray]()
    live, *held = sums.index(contents.compared)
    for outcome in ("area", *contents.pair, "collateral", "emerged"):
        part, ratio = parts(contents, sums, t, outcome), outcome in outcomes.WHOLE
        estimate, flipped = study_contrast(part, live, held, level)
        at = sums.at(contents.compared)
        n = (sums.either[t, held] if ratio else np.full(len(held), sums.latents.sum()))[:, None]
        half = sequence_half_width(estimate.se, n, estimate.carriers, level)
        columns = families.sides(part, at[0], at[1:], level) | families.estimated(estimate)
        columns |= {"n": n, "cs_low": estimate.value - half, "cs_high": estimate.value + half}
        columns |= {"detectable": detectable(estimate.se, n, estimate.carriers, level), "moved": estimate.carriers > 0}
        if ratio:
            columns |= _bootstrap(part, live, held, level, resamples, seed)
            columns |= bounds_of(contents, sums, part, t, outcome, contents.regimes, level)
        labels = families.labels(contents.regimes, contents.targets[t], outcome) | {"contrast": "did"}
        found.append(families.rows(part, labels | {"regime": np.arange(len(held))[:, None]}, columns))
        values.append(flipped.reshape(len(flipped), -1))
    frame = pd.concat(found, ignore_index=True)
    frame["p"] = 1.0
    frame.loc[frame["moved"], "p"] = permutation(np.concatenate(values, 1)[:, frame["moved"]], flips, seed)
    frame["estimable"] = families.visible(sums, t) & np.isfinite(frame["se"])
    # A target that no image shows has no effects, whatever its units do to other things.
    numbers = frame.columns.difference(["moved", "estimable", "regime", *TEXT])
    frame[numbers] = frame[numbers].astype(float).where(frame["estimable"], np.nan)
    return frame.sort_values("regime", kind="stable").drop(columns="regime")


def _bootstrap(
    part: Parts, live: int, held: Sequence[int], level: float, resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """The bootstrap's columns of a ratio, (held arm, class): all arms share resamples, so their differences are paired."""
    result = np.zeros((3, len(held), len(part.objects)))
    result[:, ~part.denominator[:, held].any(axis=0)] = np.nan
    if resamples < 2 or not part.denominator[:, live].any():
        return dict(zip(BOOTSTRAP, result * np.nan, strict=True))
    # Most classes never take a pixel of most targets, in any resample.
    moving = part.numerator[:, [live, *held]].any(axis=(0, 1))
    columns = ((part.numerator[:, arm][:, moving], part.denominator[:, [arm]]) for arm in (live, *held))
    draws = np.stack([bootstrap(above, below, resamples, seed) for above, below in columns], axis=1)
    gaps = draws[:, :1] - draws[:, 1:]
    found = np.full((3, *gaps.shape[1:]), np.nan)
    usable = np.isfinite(gaps).sum(axis=0) >= 2  # resamples without the target say nothing about it
    found[0, usable] = np.nanstd(gaps[:, usable], 0, ddof=1)
    found[1:, usable] = np.nanpercentile(gaps[:, usable], [50 * (1 - level), 50 * (1 + level)], 0)
    result[:, :, moving] = found
    return dict(zip(BOOTSTRAP, result, strict=True))


def _q(frame: pd.DataFrame) -> pd.Series:
    """Benjamini-Yekutieli within each family; 1 where the two arms agree in every latent."""
    moved = frame["moved"].astype(bool)
    q = frame["p"].where(~moved | frame["p"].isna(), np.nan)
    family = [frame["outcome"], frame["control"], frame["held"], frame["kind"].map(FAMILY)]
    tested = frame["p"].where(moved)
    return q.fillna(tested.groupby(family).transform(lambda p: false_discovery(p.to_numpy())))
