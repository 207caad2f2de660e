"""How wrong could we be: bounds on a DID whose control does not have exactly parallel trends.

For controls with another baseline (`mean`, `twin`) the DID is causal if, had the mechanism not acted, live would have moved as the
control did. Rambachan and Roth ("A More Credible Approach to Parallel Trends", Review of Economic Studies 2023) ask instead how
large a violation would have to be, in units of one that can be seen, to overturn the finding.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr

from gandid.did import blocks, estimands
from gandid.did.checks import EXACT_CONTROLS, Row, row
from gandid.did.totals import TOGETHER, about_the_whole, objects_inpainted

COLUMNS = [
    "target",
    "object",
    "outcome",
    "control",
    "held",
    "arm",
    "variation",
    "did",
    "ci_low",
    "ci_high",
    "breakdown",
]
ALIKE = 0.7  # to 1 / 0.7: mean areas of a class with which two generators pass for trained on the same scenes


def robust_interval(low: np.ndarray, high: np.ndarray, seen: np.ndarray, times: float) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a DID under a violation of parallel trends of at most `times` the one that was seen.

    Their relative magnitudes restriction, ``|violation| <= times * seen``, in its fixed-length form: the interval grows by the bound
    at either end.

    Parameters
    ----------
    low, high
        Ends of the interval under parallel trends.
    seen
        Size of the violation that can be seen, at least 0: the baseline gap of the outcome, or the largest difference of live and
        held at doses where the mechanism hardly acts.
    times
        Its multiple; 0 gives the interval back.
    """
    grown = times * np.abs(np.asarray(seen, np.float64))
    return np.asarray(low) - grown, np.asarray(high) + grown


def breakdown(low: np.ndarray, high: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The multiple of the seen violation from which on the interval contains 0: the breakdown value.

    Parameters
    ----------
    low, high, seen
        As in `robust_interval`.

    Returns
    -------
    numpy.ndarray
        0 where the interval contains 0 as it is; infinite where nothing was seen and it does not.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    distance = np.where(np.isnan(low) | np.isnan(high), np.nan, np.maximum(np.maximum(low, -high), 0.0))
    seen = np.abs(np.asarray(seen, np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / seen)


def table(
    effects: pd.DataFrame,
    panel: xr.Dataset,
    curve: pd.DataFrame | None = None,
    second: pd.DataFrame | None = None,
    corrected: pd.DataFrame | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Tabulate how wrong the DIDs of `removed` and of `inpainted` by other objects could be.

    Variations, one row each:

    - ``as measured``;
    - ``second segmenter`` and ``confusion corrected`` (`gandid.did.instrument`);
    - ``parallel trends off by the gap``, of controls with a baseline of their own: the interval if trends were not parallel by as
      much as the baselines are apart (`robust_interval` with `times` 1), and the breakdown value. `removed` and `inpainted` are
      changes, 0 without an edit in either regime, and have no gap; but they are shares of pixels that are, or are no longer, of
      some class, and the regimes' unedited images differ in the share of pixels that are: of the target, for `removed`, and of the
      other objects together, for `inpainted`. That difference is what is seen.
    - ``parallel trends off as at the lowest dose``, where there is a dose-response: Rambachan and Roth's relative magnitudes with
      the dose in the place of time. They let the violation grow from one period to the next by at most `times` what it grew by at
      most before the treatment. Before the treatment there is the lowest dose above 0, where it hardly acts: from dose 0, at which
      there is no violation, to alpha the violation grew by `departure` (`gandid.did.dose.curve`; the DID itself where the study
      has no exact control). At that rate it is ``departure * full / alpha`` at the study's own dose, which is what is seen. It counts as
      known, though it has an error that is multiplied by as much: in a small study, the bound is wide for want of latents.

    Parameters
    ----------
    effects
        As `gandid.did.Effects.to_frame` returns it.
    panel
        From which it was estimated.
    curve
        As `gandid.did.dose.curve` returns it, of the same study.
    second, corrected
        As `gandid.did.instrument.second` and `gandid.did.instrument.corrected` return them.
    level
        Coverage of the intervals.

    Returns
    -------
    pandas.DataFrame
        `COLUMNS`; `breakdown` is the multiple of the seen violation that overturns the sign (`breakdown`), NaN in rows that assume no
        violation. Targets that are not estimable are left out.
    """
    removed = effects[(effects["outcome"] == "removed") & effects["estimable"].astype(bool)]
    taken = objects_inpainted(panel, level).assign(object=TOGETHER, outcome="inpainted")
    taken = taken[taken["target"].isin(removed["target"])]
    measured = pd.concat([removed, taken]).assign(variation="as measured", breakdown=np.nan)[COLUMNS]
    parts = [measured]
    if second is not None:
        again = {"did_second": "did", "ci_second_low": "ci_low", "ci_second_high": "ci_high"}
        parts.append(second.drop(columns=[*again.values()]).rename(columns=again).assign(variation="second segmenter"))
    if corrected is not None:
        parts.append(corrected.assign(variation="confusion corrected"))
    apart = measured[~measured["control"].isin(EXACT_CONTROLS)]
    if len(apart):
        parts.append(_off(apart, _gaps(panel), "parallel trends off by the gap"))
        if curve is not None:
            parts.append(
                _off(apart, _trends(curve, float(panel.attrs["alpha"])), "parallel trends off as at the lowest dose")
            )
    found = [part.reindex(columns=COLUMNS) for part in parts if len(part)]
    if not found:  # no target is estimable
        return pd.DataFrame(columns=COLUMNS)
    whole = pd.concat(found, ignore_index=True)
    # All classes of a second segmenter and of a correction are in tables of their own.
    about = about_the_whole(whole)
    order = {name: place for place, name in enumerate(panel["target"].values.astype(str))}
    return about.sort_values("target", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def baseline_area(panel: xr.Dataset) -> Iterator[Row]:
    """Ask whether both regimes show as much of the target: rows ``baseline_area``, of arms with a baseline of their own.

    The value is the target's mean area in the control's unedited images over that in the network's own. It should lie between 0.7 and
    1 / 0.7, the bar for a twin that is trained on the same scenes; the bound is the end that is nearer. Equal areas do not make
    trends parallel, but a regime that hardly draws the target says little of its ablation.

    Parameters
    ----------
    panel
        As docs/panel.md describes it.
    """
    areas = _areas(panel)
    for target in panel["target"].values.astype(str):
        for arm in _apart(panel):
            usual, own = float(areas.loc["reference", target]), float(areas.loc[arm.baseline, target])
            if usual > 0:
                value, bound = own / usual, ALIKE if own < usual else 1 / ALIKE
                detail = f"{own:.1%} of the control's unedited images, {usual:.1%} of the network's own"
                good = ALIKE <= value <= 1 / ALIKE
                yield row("baseline_area", value, bound, good, target=target, arm=arm.name, detail=detail)


def _apart(panel: xr.Dataset) -> list[estimands.Held]:
    return [arm for arm in estimands.held_arms(panel) if arm.control not in EXACT_CONTROLS]


def _areas(panel: xr.Dataset) -> pd.DataFrame:
    """Mean share of the unedited images that each class covers: one row per unedited arm, one column per class."""
    arms = ["reference", *dict.fromkeys(arm.baseline for arm in _apart(panel))]
    unedited = panel[["pixels"]].isel(target=0).sel(arm=arms)  # the same for all targets
    some = blocks.slices(unedited, ["pixels"])
    total = sum(
        blocks.stream(lambda block: blocks.read(unedited, "pixels", block, "arm", "object").sum(0, np.int64), some)
    )
    share = total / (panel.sizes["latent"] * int(panel.attrs["image_pixels"]))
    return pd.DataFrame(share, arms, panel["object"].values.astype(str))


def _gaps(panel: xr.Dataset) -> dict[tuple[str, str, str], float]:
    """By (target, arm, outcome), the difference of the unedited images in the share of pixels that the outcome is about."""
    areas, found = _areas(panel), {}
    for target in panel["target"].values.astype(str):
        objects = estimands.kinds(panel, target) == "object"
        for arm in _apart(panel):
            gap = areas.loc["reference"] - areas.loc[arm.baseline]
            found[target, arm.name, "removed"] = float(gap[target])
            found[target, arm.name, "inpainted"] = float(gap[objects].sum())
    return found


def _trends(curve: pd.DataFrame, full: float) -> dict[tuple[str, str, str], float]:
    """By (target, arm, outcome), the violation at the dose `full` if it goes on as up to the lowest dose above 0."""
    rows = about_the_whole(curve[curve["alpha"] > 0])
    rows = rows[rows["alpha"] == rows["alpha"].min()]
    seen = rows["departure"].fillna(rows["did"]) * full / rows["alpha"]
    return dict(zip(zip(rows["target"], rows["arm"], rows["outcome"], strict=True), seen, strict=True))


def _off(measured: pd.DataFrame, seen: dict[tuple[str, str, str], float], variation: str) -> pd.DataFrame:
    """What was measured, with trends not parallel by what was seen."""
    keys = zip(measured["target"], measured["arm"], measured["outcome"], strict=True)
    violation = np.array([seen.get(key, np.nan) for key in keys])
    low, high = robust_interval(measured["ci_low"].to_numpy(), measured["ci_high"].to_numpy(), violation, 1)
    times = breakdown(measured["ci_low"].to_numpy(), measured["ci_high"].to_numpy(), violation)
    return measured.assign(variation=variation, ci_low=low, ci_high=high, breakdown=times)
