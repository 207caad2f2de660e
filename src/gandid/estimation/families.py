"""Which contrasts a panel has beside the study's own: weights over arms, sites, draws, segmenters and classes.

Each function takes the sums of the arms that it needs and gives rows of ``effects.csv`` for one target (docs/inference.md lists them).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from gandid import outcomes
from gandid.estimation.bounds import CONDITION
from gandid.estimation.contents import Contents, Regime
from gandid.estimation.contrast import (
    Estimate,
    Parts,
    bounds_of,
    contrast,
    parts,
    place_parts,
    ratio_parts,
    study_contrast,
)
from gandid.estimation.sums import Sums, gather
from gandid.panel.coalitions import exact_weights, sampled_weights
from gandid.panel.table import EXACT_CONTROLS, coalition_arm


def rows(parts: Parts, labels: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A table of W contrasts of K classes, one row each: `labels` are single values or (W, 1), `columns` (W, K)."""
    shape = np.broadcast_shapes(*(np.shape(values) for values in columns.values()), (1, len(parts.objects)))
    named = {"object": parts.objects, "kind": parts.kinds} | dict(labels) | dict(columns)
    return pd.DataFrame({name: np.broadcast_to(values, shape).ravel() for name, values in named.items()})


def estimated(estimate: Estimate) -> dict[str, np.ndarray]:
    """The columns of a contrast itself."""
    found = {"did": estimate.value, "se": estimate.se, "ci_low": estimate.low, "ci_high": estimate.high}
    return found | {"p_t": estimate.p, "n": estimate.groups, "carriers": estimate.carriers}


def of_arm(name: str, estimate: Estimate) -> dict[str, np.ndarray]:
    """The columns of one of the two sides, `live` or `held`."""
    found = {f"tau_{name}": estimate.value, f"se_{name}": estimate.se}
    return found | {f"ci_{name}_low": estimate.low, f"ci_{name}_high": estimate.high}


def sides(found: Parts, live: np.ndarray, held: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """The columns of live, of held and of live less held, from weights over arms of either: (arm,) or (W, arm)."""
    one, other = (contrast(found, weights, level, np.inf) for weights in (live, held))
    return of_arm("live", one) | of_arm("held", other) | estimated(contrast(found, live - held, level))


def labels(regimes: Sequence[Regime], target: str, outcome: str, each: int = 1) -> dict[str, Any]:
    """What rows are about: `each` contrasts of every regime, one regime after the other."""
    table = np.repeat(np.array([(one.control, one.held, one.name) for one in regimes], object), each, axis=0)
    names = dict(zip(("control", "held", "arm"), np.hsplit(table, 3), strict=True))
    return {"target": target, "outcome": outcome} | names


def visible(sums: Sums, target: int) -> bool:
    """Whether two unedited images show the target, so that anything can be said of it."""
    return bool(sums.shown[:, target].sum() >= 2)


def chosen(found: Parts, kinds: tuple[str, ...]) -> Parts:
    """Only the classes of some kinds."""
    kept = np.isin(found.kinds, kinds)
    return Parts(found.objects[kept], found.kinds[kept], found.numerator[..., kept], found.denominator)


def together(found: Parts) -> Parts:
    """The last class only: the target, or all other objects together."""
    return Parts(found.objects[-1:], found.kinds[-1:], found.numerator[..., -1:], found.denominator)


# Doses


def doses(contents: Contents, level: float) -> Iterator[pd.DataFrame]:
    """Live, held and DID at every dose, the steps from one dose to the next, and departures from an exact control.

    All doses share their latents, so that steps and departures have errors of their own, much smaller than those of their parts. At
    dose 0 every arm is its unedited image. `departure` is by how much a DID exceeds that of an exact control at the same dose and held
    set: of frozen if there is one, since parallel trends are about what the network would do if its normalization did not respond,
    else of capped; at the set `all` where none holds the same.
    """
    if not contents.doses:
        return
    count, (sums, places) = len(contents.doses), at_doses(contents)
    live, *held = np.eye(len(sums.arms))[np.array(places)]  # each (dose, arm)
    held = np.array(held)
    exact = {h: e for h, one in enumerate(contents.regimes) if (e := exact_control(contents.regimes, one)) is not None}
    every, apart = np.array(contents.doses), [contents.regimes[h] for h in exact]
    gap = live - held
    for t, target in enumerate(contents.targets):
        if not visible(sums, t):
            continue
        for outcome in (*contents.pair, "area"):
            found = parts(contents, sums, t, outcome)
            found = chosen(found, ("object",)) if outcome == "area" else found
            about = labels(contents.regimes, target, outcome, count) | {"dose": np.tile(every, len(held))[:, None]}
            columns = sides(found, np.tile(live, (len(held), 1)), held.reshape(-1, len(sums.arms)), level)
            yield rows(found, about | {"contrast": "dose"}, columns)
            if outcome == "area":
                continue
            found, steps = together(found), np.diff(gap, axis=1).reshape(-1, len(sums.arms))
            about = labels(contents.regimes, target, outcome, count - 1) | {
                "dose": np.tile(every[1:], len(held))[:, None]
            }
            yield rows(found, about | {"contrast": "step"}, estimated(contrast(found, steps, level)))
            if apart:
                departures = (held[list(exact.values())] - held[list(exact)]).reshape(-1, len(sums.arms))
                about = labels(apart, target, outcome, count) | {"dose": np.tile(every, len(apart))[:, None]}
                yield rows(found, about | {"contrast": "departure"}, estimated(contrast(found, departures, level)))


def at_doses(contents: Contents) -> tuple[Sums, list[list[int]]]:
    """Sums of live and of each regime at every dose, and the places of their arms there: (regime, dose), from dose 0 on."""
    arms = [[arm._replace(dose=dose) for dose in contents.doses[1:]] for arm in contents.compared]
    sums = gather(contents, [contents.place(arm) for of_regime in arms for arm in of_regime])
    unedited = [sums.arms.index(contents.baseline(arm)) for arm in contents.compared]
    return sums, [[first, *sums.index(of_regime)] for first, of_regime in zip(unedited, arms, strict=True)]


def exact_control(regimes: list[Regime], regime: Regime) -> int | None:
    """Place of the exact control that a control with a baseline of its own is compared with."""
    if regime.arm.exact:
        return None
    order = [(control, held) for held in (regime.held, "all") for control in ("frozen", "capped")]
    fitting = [(order.index(key), h) for h, one in enumerate(regimes) if (key := (one.control, one.held)) in order]
    return min(fitting)[1] if fitting else None


# Sites


class _Game(NamedTuple):
    """The shares as linear maps of the arms."""

    regime: Regime
    sites: list[str]
    arms: list[int]
    """Places of the arms of all coalitions."""
    weights: np.ndarray
    """(order, site, coalition); one order where all coalitions were measured."""
    live: int
    """Which coalition is that of all sites."""
    held: int
    """Which is empty."""


def shares(contents: Contents, level: float) -> Iterator[pd.DataFrame]:
    """Each site's Shapley share of the DID of holding all of them (`gandid.panel.coalitions`).

    A share is a contrast of the arms of all coalitions. Where random orders stand for all, a second error is added, that of the
    orders: the spread of one order's share over the root of their number; the two half-widths add in squares. `tau_live` and `tau_held`
    are the effects with all sites live and with all held, whose difference the shares make up.
    """
    game = _game(contents)
    if game is None:
        return
    sums = gather(contents, game.arms)
    at = sums.at(contents.arms[place] for place in game.arms)
    live, held = (at[place] for place in (game.live, game.held))
    each = game.weights @ at  # (order, site, arm)
    for t, target in enumerate(contents.targets):
        if not visible(sums, t):
            continue
        for outcome in contents.pair:
            found = chosen(parts(contents, sums, t, outcome), ("target", "object", "together"))
            share = contrast(found, each.mean(axis=0), level)
            se, half = share.se, share.high - share.value
            if len(each) > 1:
                of_orders = np.stack([contrast(found, weights, level).value for weights in each])
                between = of_orders.std(axis=0, ddof=1) / np.sqrt(len(each))
                se, half = np.hypot(se, between), np.hypot(half, between * stats.t.ppf((1 + level) / 2, len(each) - 1))
            about = {"contrast": "share", "site": np.array(game.sites, object)[:, None]}
            columns = sides(found, live, held, level) | estimated(share)
            columns |= {"se": se, "ci_low": share.value - half, "ci_high": share.value + half}
            yield rows(found, about | labels([game.regime], target, outcome), columns)


def _game(contents: Contents) -> _Game | None:
    """The game of the panel's coalitions; none where no block of them was measured."""
    if "sites" not in contents.panel["block"].values.astype(str):
        return None
    regime = next(regime for regime in contents.regimes if regime.control in EXACT_CONTROLS)
    responds = contents.panel["responds"].values.astype(bool)
    sites = [str(site) for site in contents.panel["site"].values[responds]]
    orders = int(contents.panel.attrs.get("orders", 0))
    if orders:
        coalitions, weights = sampled_weights(len(sites), orders, int(contents.panel.attrs["orders_seed"]))
    else:
        coalitions, weights = exact_weights(len(sites))
    arms = []
    for live in coalitions:
        closed = [site for place, site in enumerate(sites) if place not in live]
        arms.append(contents.names.index(coalition_arm(contents.names, regime.control, closed, sites)))
    regime = regime._replace(held="all", name=f"{regime.control}:all")
    sizes = [len(live) for live in coalitions]
    ends = int(np.argmax(sizes)), int(np.argmin(sizes))
    return _Game(regime, sites, arms, weights.reshape(-1, *weights.shape[-2:]), *ends)


# Random units


def placebos(contents: Contents, level: float) -> Iterator[pd.DataFrame]:
    """The DID of random units by draw, and as draw 0 that of the target's own on the same latents; exact controls only."""
    if not contents.draws:
        return
    draws = [0, *contents.draws]
    exact = [regime for regime in contents.regimes if regime.arm.exact]
    arms = [arm._replace(draw=draw) for arm in (contents.live, *(regime.arm for regime in exact)) for draw in draws]
    sums = gather(contents, [contents.place(arm) for arm in arms])
    at = sums.at(arms).reshape(-1, len(draws), len(sums.arms))
    energy, gaps = contents.panel["energy"].sel(draws=draws).values, (at[0] - at[1:]).reshape(-1, len(sums.arms))
    for t, target in enumerate(contents.targets):
        for outcome in contents.pair if visible(sums, t) else ():
            found = together(parts(contents, sums, t, outcome))
            about = labels(exact, target, outcome, len(draws)) | {"contrast": "placebo"}
            about |= {"draw": np.tile(draws, len(exact))[:, None], "energy": np.tile(energy[:, t], len(exact))[:, None]}
            yield rows(found, about, estimated(contrast(found, gaps, level)))


# Segmenters


def segmenters(contents: Contents, level: float) -> Iterator[pd.DataFrame]:
    """The DID under every further segmenter, and the first's less that one's, paired by latent, of what both know.

    In the rows of the difference `tau_live` and `tau_held` are the DIDs under the first and under the other segmenter.
    """
    for s, name in list(enumerate(contents.segmenters))[1:]:
        held, places, count = contents.seen(s, partly=True)
        if not held:
            continue
        both = [gather(contents, places, segmenter, count) for segmenter in (0, s)]
        gap = both[0].at([contents.live]) - both[0].at(regime.arm for regime in held)
        first, other = (np.kron(side, gap) for side in ([[1, 0]], [[0, 1]]))
        for t, target in enumerate(contents.targets):
            for outcome in contents.pair if target in contents.classes[contents.known(s)] else ():
                found = _common(contents, both, t, outcome, s)
                one, two, apart = (contrast(found, weights, level) for weights in (first, other, first - other))
                if not all(visible(sums, t) for sums in both):
                    one = two = apart = Estimate(*(np.full_like(values, np.nan, float) for values in one))
                about = labels(held, target, outcome) | {"segmenter": name}
                arms = slice(len(both[0].arms), None)
                seen = found._replace(numerator=found.numerator[:, arms], denominator=found.denominator[:, arms])
                ends = bounds_of(contents, both[1], seen, t, outcome, held, level, s)
                yield rows(found, about | {"contrast": "second"}, estimated(two) | ends)
                columns = of_arm("live", one) | of_arm("held", two) | estimated(apart)
                yield rows(found, about | {"contrast": "difference"}, columns)


def _common(contents: Contents, both: list[Sums], target: int, outcome: str, segmenter: int) -> Parts:
    """An outcome of the classes that two segmenters know, the arms under the first and then under the other."""
    kinds = ("target", "object", "together")
    one, two = (
        chosen(parts(contents, sums, target, outcome, s), kinds) for sums, s in zip(both, (0, segmenter), strict=True)
    )
    names = [name for name in one.objects if name in two.objects]
    where = [[list(found.objects).index(name) for name in names] for found in (one, two)]
    numerator = np.concatenate([one.numerator[..., where[0]], two.numerator[..., where[1]]], axis=1)
    denominator = np.concatenate([one.denominator, two.denominator], axis=1)
    return Parts(one.objects[where[0]], one.kinds[where[0]], numerator, denominator)


def invert(confusion: pd.DataFrame) -> tuple[np.ndarray, float]:
    """The inverse of a segmenter's confusion: true counts are it times named counts (Buonaccorsi 2010, *Measurement Error*, chapter 3).

    Parameters
    ----------
    confusion
        Rows the true class, columns the class that is named, both in the same order: shares of the true class's pixels.

    Returns
    -------
    inverse, condition
        The inverse (true class, named class), NaN where the condition number is above `gandid.estimation.bounds.CONDITION` or a class
        was never seen. With recalls of at least r > 1/2 the errors of the counts, added up in size, grow by no more than ``1 / (2 r -
        1)`` (Varah 1975, for dominant diagonals).

    Raises
    ------
    ValueError
        If rows and columns are not the same classes.
    """
    if list(confusion.index) != list(confusion.columns):
        raise ValueError("a confusion that is undone has the same classes as rows and columns, in the same order")
    matrix = confusion.to_numpy(np.float64)
    condition = float(np.linalg.cond(matrix)) if np.isfinite(matrix).all() else np.inf
    if condition > CONDITION:
        return np.full_like(matrix, np.nan), condition
    return np.linalg.inv(matrix).T, condition


def corrected(contents: Contents, sums: Sums, confusion: pd.DataFrame, level: float) -> Iterator[pd.DataFrame]:
    """The DID from counts whose confusions are undone: weights over classes, the rows of the confusion's inverse.

    Which pixels are the target's original ones stays as the segmenter named them. The confusion counts as known, and as the same on
    the generator's images as on the renders on which it was measured, whatever the shares of the classes.

    Raises
    ------
    ValueError
        If the confusion is of other classes than the panel's first segmenter.
    """
    known = contents.known()
    classes = list(contents.classes[known])
    if [str(name) for name in confusion.index] != classes:
        names = ", ".join(map(str, confusion.index))
        raise ValueError(f"the confusion is of {names}, the panel of {', '.join(classes)}")
    inverse = np.zeros((len(known), len(known)))
    inverse[np.ix_(known, known)] = invert(confusion)[0]
    if not np.isfinite(inverse).all():
        return
    gap = sums.at([contents.live]) - sums.at(contents.compared[1:])
    for t, target in enumerate(contents.targets):
        if not visible(sums, t):
            continue
        for outcome in contents.pair:
            # Undoing confusions moves pixels between classes and keeps their number, which is the denominator.
            found = place_parts(sums, t, outcome, contents.classes, contents.kinds(target), inverse)
            found = chosen(found, ("target", "object", "together"))
            about = {"contrast": "corrected"} | labels(contents.regimes, target, outcome)
            yield rows(found, about, estimated(contrast(found, gap, level)))


# The whole of the hole


def composition(contents: Contents, sums: Sums, level: float) -> Iterator[pd.DataFrame]:
    """What became of the target's place: shares of its pixels that sum to 1, live and held, under each segmenter.

    Background classes stand together. `sums` are those of the first segmenter.
    """
    for s, name in enumerate(contents.segmenters):
        held, places, count = contents.seen(s)
        seen = gather(contents, places, s, count) if s and held else sums
        for t, target in enumerate(contents.targets if held else []):
            if target not in contents.classes[contents.known(s)] or not visible(seen, t):
                continue
            kinds = contents.kinds(target, s)
            own = np.flatnonzero(np.isin(kinds, ["target", "object"]))
            own = own[np.argsort(kinds[own] == "object", kind="stable")]  # the target first
            weights = np.concatenate([np.eye(len(kinds))[own], [kinds == kind for kind in ("background", "unknown")]])
            objects, about = [*contents.classes[own], "background", "unknown"], [*kinds[own], "background", "unknown"]
            found = ratio_parts(seen, t, np.array(objects, object), np.array(about, object), weights)
            live, *others = seen.index([contents.live, *(regime.arm for regime in held)])
            at = np.eye(len(seen.arms))
            columns = sides(found, at[live], at[others], level)
            columns |= estimated(study_contrast(found, live, others, level)[0])
            yield rows(
                found, labels(held, target, "composition") | {"contrast": "composition", "segmenter": name}, columns
            )


# What follows from rows


def violations(contents: Contents, sums: Sums, frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Intervals of the whole effects under violations of parallel trends, of controls with a baseline of their own.

    Rambachan and Roth ("A More Credible Approach to Parallel Trends", 2023) let the violation be at most as large as one that was seen:
    the interval grows by that at either end, and `breakdown` is the multiple of it from which on the interval contains 0. Seen is

    - `gap`: the difference of the regimes' unedited images in the pixels of the target, as a share of those that the network itself
      shows (for `removed`, which is a share of them), or in the share of all pixels that are of other objects (for `inpainted`); of
      insertions, the difference in the share of the region's pixels;
    - `trend`: what the violation would be at the study's dose if it grew from dose 0 as up to the lowest dose above, where the edit
      hardly acts: `departure` there (the DID itself without an exact control) times the ratio of the doses.
    """
    did = frame[(frame["contrast"] == "did") & outcomes.whole(frame)]
    did = did[did["estimable"] & ~did["control"].isin(EXACT_CONTROLS)]
    share = sums.pixels[:, 0].sum(axis=0) / (sums.latents.sum() * contents.size)  # the same for all targets
    near = frame[frame["contrast"].isin(["dose", "departure"]) & (frame["dose"] > 0)]
    near = near[(near["dose"] == near["dose"].min()) & outcomes.whole(near)]
    keys = ["target", "arm", "outcome"]
    seen = near.sort_values("contrast").drop_duplicates(keys).set_index(keys)  # a departure goes before a dose
    for one in did.to_dict("records"):
        kinds = contents.kinds(one["target"])
        about = kinds == ("target" if one["kind"] == "target" else "object")
        if contents.inserts:
            inside = sums.inside[:, contents.targets.index(one["target"])].sum(axis=0)
            share = inside / inside[0].sum()
        gap = share[sums.baselines[sums.arms.index(contents.names.index(one["arm"]))]] - share[0]
        size = share[0][about].sum() if one["outcome"] == "removed" else 1.0
        found = [("gap", float(gap[about].sum() / size))] if size else []
        if (key := tuple(one[name] for name in keys)) in seen.index:
            trend = seen.loc[key]
            found.append(("trend", float(trend["did"] * contents.dose / trend["dose"])))
        for name, violation in found:
            yield pd.DataFrame([one | _off(one["ci_low"], one["ci_high"], abs(violation)) | {"contrast": name}])


def _off(low: float, high: float, violation: float) -> dict[str, float]:
    """The interval and the breakdown value under a violation of a size."""
    distance = max(low, -high, 0.0)
    breakdown = 0.0 if distance == 0 else distance / violation if violation else np.inf
    return {"ci_low": low - violation, "ci_high": high + violation, "breakdown": breakdown}
