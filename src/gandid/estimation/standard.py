"""The check `truth`: what is estimated of the planted standard, held against what is planted in it (`gandid.truth`)."""

from collections.abc import Iterator

import pandas as pd

from gandid.estimation.bounds import Row, row
from gandid.estimation.contents import Contents
from gandid.panel.arms import EXACT_CONTROLS
from gandid.stats import bonferroni
from gandid.truth import CLASSES, EDITED, OBJECTS, expected
from gandid.verdicts import interval

LEVEL = 1.96  # standard errors of the intervals


STUDY = {"generator": "planted", "layer": "layer1", "ablation": "zero", "alpha": 1.0}  # of which the truth is known


def _is_planted(contents: Contents) -> bool:
    """Whether a panel is of the planted standard, each target's own unit fully ablated."""
    if "units" not in contents.panel or any(contents.panel.attrs.get(name) != value for name, value in STUDY.items()):
        return False
    edited = contents.panel["units"].values[0, 0]
    return all(
        target in EDITED and list(units[units >= 0]) == [EDITED.index(target)]
        for target, units in zip(contents.targets, edited, strict=True)
    )


def truths(contents: Contents, frame: pd.DataFrame) -> Iterator[Row]:
    """Hold each effect against its truth: of `removed` and `inpainted`, under both segmenters, of the exact controls.

    An effect has a row where its truth or its estimate is not 0. The value is the estimate, the bound the truth, and the row is ok
    where its interval, widened for as many effects as there are pairs, has the truth in it.
    """
    if not _is_planted(contents):
        return
    rows = frame[frame["contrast"].isin(["did", "second"]) & frame["outcome"].isin(["removed", "inpainted"])]
    rows = rows[~rows["arm"].str.contains("@", regex=False)]  # at other doses and strengths nothing is known
    rows = rows[rows["object"].isin(OBJECTS.values()) & rows["control"].isin(EXACT_CONTROLS) & rows["did"].notna()]
    wider = bonferroni(LEVEL, len(contents.targets) * (len(CLASSES) - 1)) / LEVEL
    rows = rows.assign(segmenter=rows["segmenter"].where(rows["segmenter"].notna(), contents.segmenters[0]))
    for one in rows.to_dict("records"):
        about = one["target"], one["object"], one["outcome"], one["control"], one["held"], one["segmenter"]
        live, held = expected(*about)
        value, truth = one["did"], live - held
        if value == truth == 0:
            continue
        low, high = (value + wider * (end - value) for end in interval(one))
        said = (
            f"{one['outcome']}, {one['object']}, seen by {one['segmenter']}; planted: live {live:.0%}, held {held:.0%}"
        )
        yield row("truth", value, truth, low <= truth <= high, target=one["target"], arm=one["arm"], detail=said)
