"""From label maps to counts, and from counts to the five outcomes; arrays only."""

from gandid.outcomes.counts import inside, pixels
from gandid.outcomes.measures import MEANS, OUTCOMES, RATIOS, Ratio, area, collateral, emerged, inpainted, removed

__all__ = [
    "MEANS",
    "OUTCOMES",
    "RATIOS",
    "Ratio",
    "area",
    "collateral",
    "emerged",
    "inpainted",
    "inside",
    "pixels",
    "removed",
]
