"""Thresholds: what a check may be, and from where on an effect is spoken of."""

from dataclasses import dataclass
from typing import Any

from gandid.verdicts import SEEN

SUPPORT = ("distance",)
CHECKS = ["check", "target", "value", "bound", "verdict", "arm", "detail"]  # columns of checks.csv
VISIBLE = 0.001  # shares smaller than this print as 0.0 % and are not worth a word
UNLIKELY = 0.05  # level of the test of the target's own units against random ones
ENERGY = 0.10  # by which the energy of random units may differ from that of the target's own
GONE = 0.8  # share of the target that one regime has lost from which on live and held can only meet again
UNEDITED = 1e-3  # effect without an edit that rounding may make: the edges between classes flip by single pixels
SIMILAR = 0.7  # to 1 / 0.7: mean areas of a class with which two generators pass for trained on the same scenes
CONDITION = 100.0  # of a matrix of shares that are known to some 0.1 %: beyond, its inverse tells nothing
EXACT = 1e-9  # by which rounding may part sums that are equal


@dataclass(frozen=True)
class Bounds:
    """The bounds of the checks; each can be chosen, and the defaults say why they are what they are."""

    distance: float = 1.0
    """How far an arm's images may be from the live ones, in units of the change of dose from 1 to 0.8."""
    tail: float = 0.05
    """Share of the unedited images whose statistics move further than what `strain` is compared with."""
    recall: float = 0.8
    """Share of an object's pixels, on renders, that a segmenter should call by its name: below, undoing its confusions makes
    errors of counts more than 1.7 times as large (`gandid.estimation.families.invert`)."""
    seen: int = SEEN
    """Images showing the target below which its intervals, built on a normal limit, are flagged and settle nothing."""
    baseline_gap: float = 1e-3
    """Change of the unedited image, on the scale -1 .. 1, that float rounding may make: an eighth of one step
    of an 8-bit image."""
    gain_error: float = 1e-3
    """Relative deviation of the gain from its closed form. The normalization's eps (1e-8, beside an energy
    near 1) explains that much only where the survivors carry less than some 1e-5 of the energy."""
    stability: float = 3.0
    """Standard errors by which the two halves of the latents may differ, for one comparison; a row that makes
    several has the bound at which all of them together exceed it as rarely (Bonferroni)."""


DEFAULTS = Bounds()

CheckRow = dict[str, Any]


def row(check: str, value: float, bound: float, good: bool, bad: str = "flagged", **labels: str) -> CheckRow:
    """A row of checks.csv, its verdict `ok` or `bad`; `labels` are its target, arm and detail, where it has them."""
    where = {"target": "", "arm": "", "detail": ""} | labels
    verdict = "ok" if good else bad
    return {"check": check, "value": float(value), "bound": float(bound), "verdict": verdict} | where
