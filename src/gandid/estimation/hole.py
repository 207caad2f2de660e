"""The whole of the hole: what the target's original pixels became, and what holds whatever the unrecognized ones are.

Shares of a hole sum to 1: still the target, each other object, background, and pixels that the segmenter does not recognize (its class
`unknown`). Those could be anything, so that an effect on a class is known between bounds only (Manski 2003, *Partial Identification of
Probability Distributions*). With shares pi of class c and of unrecognized pixels U, and ``d = pi_c(live) - pi_c(held)``,

- `worst`, whatever they are: ``[d - P(U held), d + P(U live)]``;
- `paired`, if a pixel that is unrecognized in both arms is the same thing in both: ``[d - P(U held, not U live), d + P(U live, not U held)]``.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from gandid.estimation.contents import Contents, Regime
from gandid.estimation.contrast import Estimate, Parts, contrast, parts, ratio_parts, study_contrast
from gandid.estimation.families import WHOLE, chosen, estimated, labels, of_arm, rows, visible
from gandid.estimation.sums import Sums, gather
from gandid.stats import identified_interval

COMPOSITION = "composition"


def hole(contents: Contents, sums: Sums, level: float) -> Iterator[pd.DataFrame]:
    """The contrasts `composition`, `worst` and `paired` of every target, under each segmenter; `sums` are the first one's."""
    for s, name in enumerate(contents.segmenters):
        held, places, count = contents.seen(s)
        if not held:
            continue
        seen = gather(contents, places, s, count) if s else sums
        for t, target in enumerate(contents.targets):
            if target in contents.classes[contents.known(s)] and visible(seen, t):
                for table in (
                    _composition(contents, seen, held, t, s, level),
                    *_bounds(contents, seen, held, t, s, level),
                ):
                    yield table.assign(segmenter=name)


def _composition(
    contents: Contents, sums: Sums, held: list[Regime], target: int, segmenter: int, level: float
) -> pd.DataFrame:
    """Shares of the target's original pixels that sum to 1, live and held; background classes stand together."""
    kinds = contents.kinds(contents.targets[target], segmenter)
    own = np.flatnonzero(np.isin(kinds, ["target", "object"]))
    own = own[np.argsort(kinds[own] == "object", kind="stable")]  # the target first
    weights = np.concatenate([np.eye(len(kinds))[own], [kinds == name for name in ("background", "unknown")]])
    objects, about = [*contents.classes[own], "background", "unknown"], [*kinds[own], "background", "unknown"]
    found = ratio_parts(sums, target, np.array(objects, object), np.array(about, object), weights)
    live, *others = sums.index([contents.live, *(regime.arm for regime in held)])
    columns = estimated(study_contrast(found, live, others, level)[0])
    at = np.eye(len(sums.arms))
    columns |= of_arm("live", contrast(found, at[[live] * len(others)], level, np.inf))
    columns |= of_arm("held", contrast(found, at[others], level, np.inf))
    about_them = labels(held, contents.targets[target], COMPOSITION) | {"contrast": COMPOSITION}
    return rows(found, about_them, columns)


def _bounds(
    contents: Contents, sums: Sums, held: list[Regime], target: int, segmenter: int, level: float
) -> Iterator[pd.DataFrame]:
    """What `removed`, and `inpainted` by each object and by all together, are at least and at most; `did` leaves the pixels unnamed.

    An end of the bounds is a contrast of counts to which unrecognized pixels are added or not. Pixels of two arms can only be paired
    where both have the same hole, under exact controls.
    """
    kinds, place = contents.kinds(contents.targets[target], segmenter), sums.index([contents.live])[0]
    if "unknown" not in kinds:
        return
    unknown = sums.inside[:, target, :, kinds == "unknown"][0][..., None].astype(float)  # (group, arm, 1)
    arms, exact = len(sums.arms), [regime for regime in held if regime.exact]
    live, each, some = (np.eye(arms)[sums.index(one)] for one in ([contents.live], _arms(held), _arms(exact)))
    for outcome in WHOLE:
        found = chosen(parts(contents, sums, target, outcome, segmenter), ("target", "object", "together"))
        least = found.numerator - (unknown if outcome == "removed" else 0)  # a pixel without a name is not the target
        about = labels(held, contents.targets[target], outcome) | {"contrast": "worst"}
        low, high = np.hstack([live + 0 * each, -each]), np.hstack([-each, live + 0 * each])
        yield _between(found, [least, least + unknown], low, high, contrast(found, live - each, level), about, level)
        if sums.shared is None or not exact:
            continue
        both = sums.shared[:, target, :, None]
        ends = [least, least + unknown - both, least - unknown[:, [place]] + both]
        about = labels(exact, contents.targets[target], outcome) | {"contrast": "paired"}
        low, high = np.hstack([live + 0 * some, -some, 0 * some]), np.hstack([live + 0 * some, 0 * some, -some])
        yield _between(found, ends, low, high, contrast(found, live - some, level), about, level)


def _arms(held: list[Regime]) -> list:
    return [regime.arm for regime in held]


def _between(
    found: Parts, ends: list[np.ndarray], low: np.ndarray, high: np.ndarray, named: Estimate, about: dict, level: float
) -> pd.DataFrame:
    """Rows of effects between two bounds, which are weights over the arms as counted in each of `ends`."""
    every = Parts(found.objects, found.kinds, np.concatenate(ends, axis=1), np.tile(found.denominator, len(ends)))
    least, most = contrast(every, low, level), contrast(every, high, level)
    carriers = np.minimum(least.carriers, most.carriers)
    ci = identified_interval(least.value, most.value, (least.se, most.se), least.groups, carriers, level)
    columns = {"did": named.value, "ci_low": ci[0], "ci_high": ci[1], "n": least.groups, "carriers": carriers}
    return rows(found, about, columns | {"bound_low": least.value, "bound_high": most.value})
