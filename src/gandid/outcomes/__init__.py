"""The outcomes, ratios of counts (`gandid.estimation.contrast`), and from label maps to counts (`gandid.outcomes.counts`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """What became of a place: shares of the pixels that an edit is about, the target's original ones or an insertion's region."""

    own: str
    """Of the target."""
    others: str
    """Of each other class, and of all other objects together."""

    @property
    def inserts(self) -> bool:
        """Whether the targets are inserted, so that their place is a region of every image."""
        return self.own == "inserted"

    @property
    def done(self) -> str:
        """What the targets are: `ablated`, or `inserted`."""
        return "inserted" if self.inserts else "ablated"


PAIRS = {"ablate": Pair("removed", "inpainted"), "insert": Pair("inserted", "displaced")}  # by the edit
# The kind of class that stands for the whole effect: the target, or all other objects together.
WHOLE = {outcome: kind for pair in PAIRS.values() for outcome, kind in zip(pair, ("target", "together"), strict=True)}
FALLING = ("removed", "displaced")  # the larger, the less of the class is left
TOGETHER = "other objects"  # in tables, all other objects as one
# In tables, and as the subject of a sentence.
FULL = {outcome: outcome for outcome in WHOLE} | {
    "inpainted": f"inpainted by {TOGETHER}",
    "displaced": f"displaced of {TOGETHER}",
}
NAMES = {
    "removed": "removal",
    "inpainted": f"in-painting by {TOGETHER}",
    "inserted": "insertion",
    "displaced": f"displacement of {TOGETHER}",
}


def pair_of(attrs: Mapping[str, Any]) -> Pair:
    """The outcomes of a panel that say what became of a place, by its attributes."""
    return PAIRS[str(attrs.get("edit", "ablate"))]


def whole(rows: Any) -> Any:
    """Which rows of a table of effects are about the target as a whole, or about all other objects together."""
    return rows["kind"].eq(rows["outcome"].map(WHOLE))
