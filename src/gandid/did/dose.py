"""Dose-response: the edit carried out by a share alpha, live and held, and what the DID does as it grows.

It plays the part that the event-study plot plays in econometrics: at dose 0 nothing is edited and every difference is 0; the curves
of live and held part where the mechanism acts.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from gandid import outcomes
from gandid.did import estimands
from gandid.did.checks import DEFAULTS, EXACT_CONTROLS, Bounds, Row, bonferroni, row
from gandid.did.combinations import Numerators, combine, numerators, shown, signed_z, tidy
from gandid.did.inference import Estimate
from gandid.did.totals import about_the_whole

COLUMNS = ["target", "object", "outcome", "kind", "control", "held", "arm", "alpha"]
COLUMNS += ["tau_live", "ci_live_low", "ci_live_high", "tau_held", "ci_held_low", "ci_held_high"]
COLUMNS += ["did", "se", "ci_low", "ci_high", "did_z", "step", "step_z", "departure", "departure_z"]
GONE = 0.8  # share of the target that one regime has lost from which on the two can only meet again
ZERO = 1e-3  # effect without an edit that rounding may make: an image's edges between classes flip by single pixels


def curve(dose: xr.Dataset, level: float = 0.95) -> pd.DataFrame:
    """Estimate live, held and DID at every dose.

    All doses share their latents, so that the step from one dose to the next, and the difference of two controls at one dose, have
    errors of their own, much smaller than those of their parts.

    Parameters
    ----------
    dose
        A panel (docs/panel.md) with a dimension `dose`, whose coordinate is alpha; it is read as a whole.
    level
        Coverage of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row per target, held arm, outcome, class (of `inpainted` also `other objects`) and dose, doses rising. `tau_live`,
        `tau_held` and `did` with intervals are in the units of `gandid.did.Effects.to_frame`; where few latents carry `tau_live` or
        `tau_held`, their intervals are widened as those of a DID are. `step` is the change of the DID from the dose before (NaN at
        the first). `departure` is by how much the DID exceeds that of an exact control at the same dose and held set: of frozen if there
        is one, since parallel trends are about what the network would do if its normalization did not respond, else of capped; at
        the set `all` where none holds the same; NaN where the control is exact itself, or the study has none. `did_z`, `step_z` and
        `departure_z` are these in their own standard errors. NaN where fewer than two images show the target.
    """
    dose = estimands.prepare(dose).sortby("dose").load()
    held = estimands.held_arms(dose)
    parts = []
    for target in dose["target"].values.astype(str):
        visible = shown(dose, target) >= 2
        for outcome in outcomes.OUTCOMES:
            found = numerators(dose, target, outcome)
            for h, arm in enumerate(held):
                columns = _columns(found, 1 + h, _exact(held, arm), level)
                if not visible:
                    columns = {name: np.full_like(values, np.nan) for name, values in columns.items()}
                part = tidy(found, "alpha", dose["dose"].values, columns)
                labels = {"control": arm.control, "held": arm.held, "arm": arm.name}
                parts.append(part.assign(target=target, outcome=outcome, **labels))
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def checks(curve: pd.DataFrame, bounds: Bounds = DEFAULTS) -> Iterator[Row]:
    """Judge a dose-response: rows ``dose``, and ``parallel_trends`` of controls with a baseline of their own.

    ``dose`` (per target and held arm) asks whether the DID of `removed` and that of `inpainted` by other objects grow with the
    dose, in the direction in which they are largest. Its value is the largest step against that direction, in the
    step's own standard errors, and its bound that of `Bounds.stability` for as many comparisons as the row makes (Bonferroni). An
    effect at dose 0, where there is no edit, is *failed*: the experiment does what it should not. Growing with the dose is what a
    mechanism does and an artefact of one dose does not; but an artefact that grows with the dose passes too. Where one regime
    has lost `GONE` of the target, live and held must meet again, so that steps of `removed` from there on are not judged; the DID at the
    highest dose then understates what happened on the way, and the detail says how large it was.

    ``parallel_trends`` (per target and arm of the controls `mean` and `twin`) asks whether live and control move alike at the
    lowest dose above 0, where the edit hardly acts. If normalization acts at all it acts there too, so that a DID of 0 is not
    what parallel trends imply; what they imply is the DID of the frozen control, whose baseline is the network's own, and which at
    so small a dose is hardly strained. So the value is `departure` of `curve` in its own standard errors, and the DID itself only
    where the study has no exact control. It is a test at one dose: that the regimes move alike there does not make them do so at the
    full one, and what too few latents cannot see is no evidence of parallel trends (Roth 2022, "Pretest with Caution"); the
    detail has the size in points, from which `gandid.did.sensitivity.table` goes on.

    Parameters
    ----------
    curve
        As `curve` returns it.
    bounds
        `stability` is used.
    """
    for (target, arm), of in curve.groupby(["target", "arm"], sort=False):
        about = about_the_whole(of[of["se"].notna()])
        if len(about):
            yield _grows(about, bounds, str(target), str(arm))
            if about["control"].iloc[0] not in EXACT_CONTROLS and (about["alpha"] > 0).any():
                yield _parallel(about, bounds, str(target), str(arm))


def _exact(held: Sequence[estimands.Held], arm: estimands.Held) -> int | None:
    """Place on the axis of edited arms of the exact control that an arm is compared with."""
    if arm.control in EXACT_CONTROLS:
        return None
    rank = {
        (control, which): place
        for place, (which, control) in enumerate((w, c) for w in (arm.held, "all") for c in ("frozen", "capped"))
    }
    fitting = [
        (rank[other.control, other.held], 1 + h) for h, other in enumerate(held) if (other.control, other.held) in rank
    ]
    return min(fitting)[1] if fitting else None


def _columns(found: Numerators, held: int, exact: int | None, level: float) -> dict[str, np.ndarray]:
    """Estimates of one (target, outcome, held arm), each (dose, K)."""
    doses, arms = found.denominator.shape[1:]
    a, b = found.numerator.reshape(len(found.numerator), doses * arms, -1), found.denominator.reshape(-1, doses * arms)
    at = np.eye(doses * arms).reshape(doses, arms, -1)  # weights of a single arm at a single dose
    gap = at[:, 0] - at[:, held]
    live, other, did = (combine(a, b, weights, level) for weights in (at[:, 0], at[:, held], gap))
    columns = {"did": did.value, "se": did.se, "did_z": signed_z(did), "ci_low": did.low, "ci_high": did.high}
    for name, of in (("live", live), ("held", other)):
        columns |= {f"tau_{name}": of.value, f"ci_{name}_low": of.low, f"ci_{name}_high": of.high}
    nothing = np.full_like(did.value, np.nan)
    columns |= {"step": nothing.copy(), "step_z": nothing.copy(), "departure": nothing, "departure_z": nothing}
    if doses > 1:
        columns["step"][1:], columns["step_z"][1:] = _size(combine(a, b, gap[1:] - gap[:-1], level))
    if exact is not None:
        columns["departure"], columns["departure_z"] = _size(combine(a, b, at[:, exact] - at[:, held], level))
    return columns


def _size(estimate: Estimate) -> tuple[np.ndarray, np.ndarray]:
    return estimate.value, signed_z(estimate)


def _grows(about: pd.DataFrame, bounds: Bounds, target: str, arm: str) -> Row:
    unedited = about[about["alpha"] == 0]
    nothing = float(np.abs(unedited[["tau_live", "tau_held"]].to_numpy()).max(initial=0))
    if nothing > ZERO:
        detail = "the largest effect at dose 0, where there is no edit"
        return row("dose", nothing, ZERO, False, "failed", target=target, arm=arm, detail=detail)
    largest = about.loc[about["did"].abs().groupby(about["outcome"]).idxmax()].set_index("outcome")["did"]
    reached = about[["tau_live", "tau_held"]].max(axis=1).groupby(about["outcome"]).shift()
    open_ = (about["outcome"] != "removed") | (reached < GONE)
    falls = (-np.sign(about["outcome"].map(largest)) * about["step_z"])[open_].dropna()
    if falls.empty:
        return row("dose", 0.0, 0.0, True, target=target, arm=arm, detail="a single dose")
    worst = about.loc[falls.idxmax()]
    value, bound = max(0.0, float(falls.max())), bonferroni(bounds.stability, len(falls))
    detail = "the DID shrinks at no step"
    if value > 0:
        before = about.loc[(about["outcome"] == worst["outcome"]) & (about["alpha"] < worst["alpha"]), "alpha"].max()
        detail = (
            f"the DID of {worst['outcome']} shrinks by {100 * abs(worst['step']):.1f} points from dose {before:g} to "
            f"{worst['alpha']:g}"
        )
    detail += f"; worst of {len(falls)} steps, in standard errors"
    removed = about[about["outcome"] == "removed"]
    if len(removed):
        peak = int(removed["did"].abs().argmax())
        dose, did = (float(removed[name].iloc[peak]) for name in ("alpha", "did"))
        detail += f"; the DID of removed is largest at dose {dose:g}, {100 * did:+.1f} points"
    return row("dose", value, bound, value <= bound, target=target, arm=arm, detail=detail)


def _parallel(about: pd.DataFrame, bounds: Bounds, target: str, arm: str) -> Row:
    lowest = about[about["alpha"] == about.loc[about["alpha"] > 0, "alpha"].min()]
    known = lowest["departure"].notna().all()
    size = lowest["departure" if known else "did"]
    z = lowest["departure_z" if known else "did_z"]
    value, bound = float(z.abs().max()), bonferroni(bounds.stability, len(lowest))
    points = ", ".join(f"{100 * one:+.1f} points of {name}" for one, name in zip(size, lowest["outcome"], strict=True))
    of = "DID less that of the exact control" if known else "DID, without an exact control to compare it with"
    detail = f"{of}, at dose {lowest['alpha'].iloc[0]:g}: {points}; in standard errors"
    return row("parallel_trends", value, bound, value <= bound, target=target, arm=arm, detail=detail)
