"""The check `truth`: what is estimated of the planted standard, held against what is planted in it (`gandid.truth`)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from gandid.estimation.bounds import EXACT, CheckRow, row
from gandid.estimation.contents import Contents
from gandid.panel.coalitions import exact_weights
from gandid.panel.table import Coordinates
from gandid.stats import bonferroni
from gandid.truth import FIRST, OBJECTS, SECOND, shares
from gandid.verdicts import interval

LEVEL = 1.96  # standard errors of the intervals
STUDY = {
    "generator": "planted",
    "layer": "layer1",
    "ablation": "zero",
    "edit": None,
    "region": None,
}  # of which the truth is known
SEEN = ("planted", "planted-careful")  # and by whom
ARMS = ("did", "second", "strength", "dose", "surface", "placebo")  # contrasts that are live less held
SITES = (FIRST, SECOND)


def truths(contents: Contents, frame: pd.DataFrame) -> Iterator[CheckRow]:
    """Hold each effect against its truth: of `removed` and `inpainted`, under every segmenter, control, dose, strength and set of units.

    An effect has a row where its truth or its estimate is not 0. The value is the estimate, the bound the truth, and the row is ok
    where its interval, widened for as many effects as there are, has the truth in it.
    """
    if "units" not in contents.panel or any(contents.panel.attrs.get(name) != value for name, value in STUDY.items()):
        return
    rows = frame[frame["contrast"].isin([*ARMS, "share"]) & frame["outcome"].isin(contents.pair)]
    rows = rows[(rows["contrast"] != "strength") | (rows["strength"] < 1)]  # at 1 it is the effect itself
    other = [one.name for one in contents.regimes if one.arm.network != "own"]
    rows = rows[rows["object"].isin(OBJECTS.values()) & rows["did"].notna() & ~rows["arm"].isin(other)]
    rows = rows.assign(segmenter=rows["segmenter"].where(rows["segmenter"].notna(), contents.segmenters[0]))
    rows = rows[rows["segmenter"].isin(SEEN) & (rows["draw"] != 0)]  # of placebos, draw 0 is the effect itself
    wider = bonferroni(LEVEL, max(len(rows), 1)) / LEVEL
    for one in rows.to_dict("records"):
        live, held = _shapley(contents, one) if one["contrast"] == "share" else _sides(contents, one)
        value, truth = one["did"], live - held
        if abs(value) + abs(truth) < 1e-12:
            continue
        low, high = (value + wider * (end - value) for end in interval(one))
        about = [one["object"], f"seen by {one['segmenter']}"]
        about += [
            f"{name} {one[name]}"
            for name in ("dose", "draw", "site")
            if one["contrast"] != "did" and pd.notna(one[name])
        ]
        detail = f"{one['outcome']}, {', '.join(about)}; planted: live {live:.0%}, held {held:.0%}"
        good = low - EXACT <= truth <= high + EXACT
        yield row("truth", value, truth, good, target=one["target"], arm=one["arm"], detail=detail)


def _share_of(contents: Contents, one: Mapping[Any, Any], arm: Coordinates, held: tuple[str, ...]) -> float:
    """What the outcome of a row is in truth, with its units ablated and some sites held as in an arm."""
    place = list(contents.panel["draws"].values).index(arm.draw)
    units = contents.panel["units"].values[0, place, contents.targets.index(one["target"])]
    after = shares(
        one["target"], tuple(units[units >= 0].tolist()), one["segmenter"], arm.dose, arm.control, held, arm.strength
    )
    share = after[one["object"]]
    return 1 - share if one["outcome"] == "removed" else share


def _sides(contents: Contents, one: Mapping[Any, Any]) -> tuple[float, float]:
    """An outcome live and held, at the dose and with the units of a row."""
    arm = contents.arms[contents.names.index(one["arm"])]
    dose, draw = (usual if pd.isna(one[name]) else one[name] for name, usual in (("dose", arm.dose), ("draw", 0)))
    arm = arm._replace(dose=float(dose), draw=int(draw))
    return _share_of(contents, one, arm, ()), _share_of(contents, one, arm, arm.sites(SITES))


def _shapley(contents: Contents, one: Mapping[Any, Any]) -> tuple[float, float]:
    """A site's Shapley share, as what it is above 0."""
    arm = contents.live._replace(control=one["control"], strength=1.0)
    live_sets, weights = exact_weights(len(SITES))
    worth = [
        _share_of(contents, one, arm, tuple(site for place, site in enumerate(SITES) if place not in live))
        for live in live_sets
    ]
    return float((weights @ np.array(worth)).reshape(-1)[SITES.index(one["site"])]), 0.0
