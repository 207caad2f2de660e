"""Invented evidence: what was measured beside a panel, made to agree with the panel's effects, or to speak against them.

Columns are those of docs/panel.md's tables; sizes are planted as shares of the effects that the panel has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from panels import PLAN, SITES, Plan, make_panel

from gandid.did import Effects, estimate
from gandid.did.totals import TOGETHER, objects_inpainted

CONTROLS = ("capped", "frozen", "mean", "twin")
DOSES = np.round(np.linspace(0, 1, 11), 2)
PARTS = (0.7, 0.25, 0.05)  # of the effect, by site
DRAWS = 50


def panel(
    latents: int = 80,
    targets: Sequence[str] = ("window", "lamp"),
    plan: Plan = PLAN,
    noise: float = 0.1,
    **more: object,
) -> xr.Dataset:
    """A panel with all four controls: capped and frozen at the first and at all sites, mean at all, and one twin."""
    made = make_panel(
        latents,
        targets,
        controls=CONTROLS,
        plan=plan,
        noise=noise,
        unedited=True,
        **more,  # type: ignore[arg-type]
    )
    own = ("mean:all", "twin:all")
    gone = {"mean:first", "twin:first", *(f"{name}/unedited" for name in made["arm"].values if name not in own)}
    # Maps take long to draw, and no question is about them.
    made = made.drop_vars(["inpainted_map", "gain_map"])
    return made.sel(arm=[name for name in made["arm"].values if name not in gone])


def believed(
    made: xr.Dataset,
    *,
    parts: Sequence[float] = PARTS,
    peak: float | None = None,
    random: float = 0.2,
    second: float = 0.9,
    gap: float = 0.02,
    energy: float = 1.0,
) -> Effects:
    """The effects of a panel, with evidence.

    Parameters
    ----------
    made
        As `panel` makes it.
    parts
        Shares of the sites in each effect.
    peak
        Dose at which the DID is largest, twice that of the full dose; None: it grows to the end.
    random
        Largest DID of a random set, as a share of the own one.
    second
        What the second segmenter sees, as a share of what the first one does.
    gap
        By which trends of mean and twin may differ.
    energy
        Of the random sets, over that of the own units.
    """
    effects = estimate(made, resamples=200)
    frame = effects.frame[
        effects.frame["outcome"].isin(["removed", "inpainted"]) & (effects.frame["kind"] != "unknown")
    ]
    together = objects_inpainted(made).assign(outcome="inpainted", object=TOGETHER, kind="together")
    labels = ["target", "object", "outcome", "kind", "control", "held", "arm"]
    ends = [f"ci_{which}{end}" for which in ("", "live_", "held_") for end in ("low", "high")]
    whole = pd.concat([frame, together], ignore_index=True)[[*labels, "tau_live", "tau_held", "did", "se", *ends]]
    about = whole[whole["kind"].isin(["target", "together"])]
    evidence = {
        "dose": _dose(whole, peak),
        "shapley": _shapley(whole[whole["arm"] == "capped:all"], parts),
        "placebos": _placebos(about[about["control"].isin(["capped", "frozen"])], random, energy),
        "sensitivity": _sensitivity(about, second, gap),
    }
    return replace(effects, evidence=evidence)


def without(effects: Effects, *names: str) -> Effects:
    """The same with parts of the evidence left out."""
    kept: Mapping[str, pd.DataFrame] = {name: table for name, table in effects.evidence.items() if name not in names}
    return replace(effects, evidence=kept)


def checked(effects: Effects, check: str, target: str, verdict: str, arm: str = "", detail: str = "") -> Effects:
    """The same with one more row in the checks."""
    row = {
        "check": check,
        "target": target,
        "value": 1.0,
        "bound": 0.5,
        "verdict": verdict,
        "arm": arm,
        "detail": detail,
    }
    return replace(effects, checks=pd.concat([effects.checks, pd.DataFrame([row])], ignore_index=True))


def _dose(whole: pd.DataFrame, peak: float | None) -> pd.DataFrame:
    parts = []
    growth = DOSES if peak is None else np.where(peak >= DOSES, 2 * DOSES / peak, 2 - (DOSES - peak) / (1 - peak))
    for row in whole.to_dict("records"):
        live = row["tau_live"] * DOSES
        did = row["did"] * growth
        width = DOSES * (row["ci_high"] - row["did"])
        part = pd.DataFrame(
            {"alpha": DOSES, "tau_live": live, "tau_held": live - did, "did": did, "se": row["se"] * DOSES}
        )
        for name, value, half in (
            ("ci_live", live, row["ci_live_high"] - row["tau_live"]),
            ("ci_held", live - did, row["ci_held_high"] - row["tau_held"]),
        ):
            part[f"{name}_low"], part[f"{name}_high"] = value - half * DOSES, value + half * DOSES
        part["ci_low"], part["ci_high"] = did - width, did + width
        part["step"] = part["did"].diff()
        part["step_z"] = part["step"] / max(row["se"] / 10, 1e-12)
        parts.append(
            part.assign(
                **{name: row[name] for name in ("target", "object", "outcome", "kind", "control", "held", "arm")}
            )
        )
    return pd.concat(parts, ignore_index=True)


def _shapley(whole: pd.DataFrame, parts: Sequence[float]) -> pd.DataFrame:
    rows = []
    for row in whole.to_dict("records"):
        half = (row["ci_high"] - row["did"]) * 0.3
        for site, part in zip(SITES, parts, strict=True):
            share = part * row["did"]
            labels = {name: row[name] for name in ("target", "object", "outcome", "kind", "control")}
            ends = {"se": row["se"] * 0.3, "ci_low": share - half, "ci_high": share + half}
            rows.append(labels | {"site": site, "share": share, "did": row["did"]} | ends)
    return pd.DataFrame(rows)


def _placebos(about: pd.DataFrame, random: float, energy: float) -> pd.DataFrame:
    rows, spread = [], np.linspace(-random, random, DRAWS)
    for row in about.to_dict("records"):
        labels = {name: row[name] for name in ("target", "control", "held", "arm", "outcome", "object")}
        rows.append(labels | {"draw": -1, "energy": 1.0, "did": row["did"]})
        rows += [
            labels | {"draw": draw, "energy": energy * (1 + 0.02 * np.cos(draw)), "did": part * row["did"]}
            for draw, part in enumerate(spread)
        ]
    return pd.DataFrame(rows)


def _sensitivity(about: pd.DataFrame, second: float, gap: float) -> pd.DataFrame:
    rows = []
    for row in about.to_dict("records"):
        labels = {name: row[name] for name in ("target", "object", "outcome", "control", "held", "arm")}
        half = row["ci_high"] - row["did"]
        for variation, times in (("as measured", 1.0), ("second segmenter", second), ("confusion corrected", 1.05)):
            did = times * row["did"]
            rows.append(labels | {"variation": variation, "did": did, "ci_low": did - half, "ci_high": did + half})
        if row["control"] in ("mean", "twin"):
            ends = {"ci_low": row["ci_low"] - gap, "ci_high": row["ci_high"] + gap}
            distance = max(row["ci_low"], -row["ci_high"], 0.0)
            more = {"variation": "parallel trends off by the gap", "did": row["did"], "breakdown": distance / gap}
            rows.append(labels | more | ends)
    return pd.DataFrame(rows)
