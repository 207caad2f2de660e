"""The check `truth`: what is estimated of the planted standard, held against what is planted in it (`gandid.truth`)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from gandid import outcomes
from gandid.estimation.bounds import EXACT, CheckRow, row
from gandid.estimation.contents import Contents
from gandid.panel.coalitions import exact_weights
from gandid.panel.table import Coordinates, is_twin
from gandid.stats import bonferroni
from gandid.truth import CLASSES, FIRST, NETWORKS, OBJECTS, SECOND, UNKNOWN, hole
from gandid.verdicts import interval

LEVEL = 1.96  # standard errors of the intervals
STUDY = {
    "generator": "planted",
    "layer": "layer1",
    "ablation": "zero",
    "edit": None,
    "region": None,
}  # of which the truth is known
SEEN = ("planted", "planted-careful", "planted-unsure")  # and by whom
ARMS = ("did", "second", "strength", "dose", "surface", "placebo", "networks")  # contrasts that are live less held
SITES = (FIRST, SECOND)


# Of an estimate: what is said of it beside its row, its value, interval and truth, and what is planted in words.
Judged = tuple[list[str], float, tuple[float, float], float, str]


def truths(contents: Contents, frame: pd.DataFrame) -> Iterator[CheckRow]:
    """Hold each effect against its truth: of `removed` and `inpainted`, under every segmenter, control, network, dose, strength and set of units.

    An effect has a row where its truth or its estimate is not 0, and either end of the bounds of a whole effect has one where pixels are
    not recognized. The value is the estimate, the bound the truth, and the row is ok where its interval, widened for as many as there are,
    has the truth in it.
    """
    if "units" not in contents.panel or any(contents.panel.attrs.get(name) != value for name, value in STUDY.items()):
        return
    rows = frame[frame["contrast"].isin([*ARMS, "share"]) & frame["outcome"].isin(contents.pair)]
    rows = rows[(rows["contrast"] != "strength") | (rows["strength"] < 1)]  # at 1 it is the effect itself
    rows = rows[rows["object"].isin([*OBJECTS.values(), outcomes.TOGETHER])]
    rows = rows[rows[["did", "ci_low"]].notna().all(axis=1)]
    rows = rows.assign(segmenter=rows["segmenter"].where(rows["segmenter"].notna(), contents.segmenters[0]))
    rows = rows[rows["segmenter"].isin(SEEN) & (rows["draw"] != 0)]  # of placebos, draw 0 is the effect itself
    found = [(one, judged) for one in rows.to_dict("records") for judged in _judged(contents, one)]
    wider = bonferroni(LEVEL, max(len(found), 1)) / LEVEL
    for one, (which, value, ends, truth, planted) in found:
        if abs(value) + abs(truth) < 1e-12:
            continue
        low, high = (value + wider * (end - value) for end in ends)
        about = [one["object"], *which, f"seen by {one['segmenter']}"]
        about += [
            f"{name} {one[name]}"
            for name in ("dose", "draw", "site")
            if one["contrast"] not in ("did", "networks") and pd.notna(one[name])
        ]
        detail = f"{one['outcome']}, {', '.join(about)}; planted: {planted}"
        good = low - EXACT <= truth <= high + EXACT
        yield row("truth", value, truth, good, target=one["target"], arm=one["arm"], detail=detail)


def _judged(contents: Contents, one: Mapping[Any, Any]) -> Iterator[Judged]:
    """What of a row has a truth: the effect on an object, and the bounds of a whole effect."""
    if one["contrast"] == "share":
        live, held = _shapley(contents, one), 0.0
    else:
        sides = _sides(contents, one)
        if not {arm.network for side in sides for arm in side} <= _loaded(contents).keys():
            return
        places = [[_place(contents, one, arm, arm.sites(SITES)) for arm in side] for side in sides]
        live, held = (float(np.mean([_share(place, one) for place in side])) for side in places)
        yield from _bounds(one, live - held, places[0][0] == UNKNOWN, places[1][0] == UNKNOWN)
    if one["object"] in OBJECTS.values():
        yield [], one["did"], interval(one), live - held, f"live {live:.0%}, held {held:.0%}"


def _bounds(one: Mapping[Any, Any], truth: float, live: np.ndarray, held: np.ndarray) -> Iterator[Judged]:
    """Both ends of the bounds of a whole effect (`gandid.estimation.contrast.bounds_of`), from which pixels are not recognized."""
    if one["kind"] != outcomes.WHOLE[one["outcome"]] or not live.any() | held.any():
        return
    planted = f"not recognized live {live.mean():.0%}, held {held.mean():.0%}"
    for name, words in (("worst", ""), ("paired", ", if paired")):
        both = live & held if name == "paired" else np.array(False)
        ends = {"low": -(held & ~both).mean(), "high": (live & ~both).mean()}
        if one["outcome"] in outcomes.FALLING:
            ends = {"low": -ends["high"], "high": -ends["low"]}
        for end, size in ends.items() if pd.notna(one[f"{name}_low"]) else ():
            value, outer = one[f"{name}_{end}"], one[f"ci_{name}_{end}"]
            which = f"at {'least' if end == 'low' else 'most'}{words}"
            yield [which], value, (min(outer, 2 * value - outer), max(outer, 2 * value - outer)), truth + size, planted


def _sides(contents: Contents, one: Mapping[Any, Any]) -> tuple[list[Coordinates], list[Coordinates]]:
    """The arms whose means are live and held, at the dose and with the units of a row."""
    live, held = [contents.live], [regime.arm for regime in contents.regimes if regime.control == one["control"]]
    if one["contrast"] != "networks":
        held = [contents.arms[contents.names.index(one["arm"])]]
    elif one["control"] == "distilled":
        placebos = [regime.arm for regime in contents.regimes if regime.control == "placebo"]
        live = placebos if len(placebos) > 1 else live
    dose, draw = (usual if pd.isna(one[name]) else one[name] for name, usual in (("dose", held[0].dose), ("draw", 0)))
    one_side, other = ([arm._replace(dose=float(dose), draw=int(draw)) for arm in arms] for arms in (live, held))
    return one_side, other


def _loaded(contents: Contents) -> dict[str, str]:
    """Which of `NETWORKS` the networks of the panel's arms are, by name."""
    named = (text.partition(": ")[::2] for text in ["own: planted", *contents.panel.attrs.get("networks", [])])
    return {name: loaded for name, loaded in named if loaded in NETWORKS}


def _place(contents: Contents, one: Mapping[Any, Any], arm: Coordinates, held: tuple[str, ...]) -> np.ndarray:
    """What the original pixels of a row's target are called in an arm, with some sites held."""
    draw = list(contents.panel["draws"].values).index(arm.draw)
    network = list(contents.panel["networks"].values).index(arm.network) if is_twin(arm.network) else 0
    units = contents.panel["units"].values[network, draw, contents.targets.index(one["target"])]
    how = (arm.dose, arm.control, held, arm.strength, _loaded(contents)[arm.network])
    return hole(one["target"], tuple(units[units >= 0].tolist()), one["segmenter"], *how)


def _share(place: np.ndarray, one: Mapping[Any, Any]) -> float:
    """The outcome of a row, from what the pixels of its target are called."""
    names = (
        [one["object"]] if one["object"] in CLASSES else [name for name in OBJECTS.values() if name != one["target"]]
    )
    share = float(np.isin(place, [CLASSES.index(name) for name in names]).sum() / max(place.size, 1))
    return 1 - share if one["outcome"] == "removed" else share


def _shapley(contents: Contents, one: Mapping[Any, Any]) -> float:
    """A site's Shapley share."""
    arm = contents.live._replace(control=one["control"], strength=1.0)
    live_sets, weights = exact_weights(len(SITES))
    closed = [tuple(site for place, site in enumerate(SITES) if place not in live) for live in live_sets]
    worth = [_share(_place(contents, one, arm, held), one) for held in closed]
    return float((weights @ np.array(worth)).reshape(-1)[SITES.index(one["site"])])
