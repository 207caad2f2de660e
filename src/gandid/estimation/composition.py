"""The whole of the hole: what the target's original pixels became, in shares that sum to 1."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from gandid.estimation.contents import Contents
from gandid.estimation.contrast import ratio_parts, study_contrast
from gandid.estimation.families import estimated, labels, rows, sides, visible
from gandid.estimation.sums import Sums, gather

COMPOSITION = "composition"


def composition(contents: Contents, sums: Sums, level: float) -> Iterator[pd.DataFrame]:
    """Shares of the target's original pixels that sum to 1, live and held, under each segmenter; background classes stand together.

    `sums` are those of the first segmenter.
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
            yield rows(found, labels(held, target, COMPOSITION) | {"contrast": COMPOSITION, "segmenter": name}, columns)
