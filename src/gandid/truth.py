"""The planted standard: what is planted in it, and the truth of every effect, in closed form. `gandid.generators.planted` is the network.

Layer 1 lays out a plan of objects and is the layer to be edited. Layer 2 starts with the first site and thresholds each object; layer 3
starts with the second, doubles the map and passes on. Layer 4 and the output have no normalization. There is one latent number per
chance, three in all, and what is uniform is so exactly: a coordinate of a point on the sphere in three dimensions is (Archimedes).

Everywhere a *filler* of 1 keeps the statistic from vanishing. An object's own unit is `STRONG` at its place, 2, and
another unit there may be *weak*, uniform from 0 to 1. Ablating the strong one divides the first site's statistic by
`sqrt((5 + w^2) / (1 + w^2))`, and the weak unit, `w / sqrt(5 + w^2)` before, becomes `w / sqrt(1 + w^2)` (both times
`sqrt(UNITS)`). A threshold lies between what it can be before, 0.41 at most, and what it can be after. A single positive
unit of layer 2 becomes `sqrt(UNITS)` at the second site, however small it is: a thing is drawn in full, or not at all.

| ablated | with everything live | with the first site held |
| --- | --- | --- |
| lamp | it goes | the same |
| window, mirror | they go | the same |
| rug | it goes, unless its weak unit is beyond 0.75: **self-repair** of 25 % | it goes |
| painting | it goes; a window takes its place if the window's weak unit is beyond 0.6: **in-painting** of 40 % | wall |
| chair | it goes; if a weak unit is beyond 0.7 the wall has a stain, which one segmenter of two calls mirror: **30 % that are nobody's** | wall |
| plant | it goes | the same; but with the second site *frozen* a glow like a lamp's: **an artefact of strain** |

Why the glow: without the plant a unit of layer 2 that it inhibited is free, four times as strong as anything else. A live site keeps
every value at `sqrt(UNITS)` or less, and the glow needs twice that. Frozen at what it was, the second site lets 3.2 times
that through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The places of the objects, by initial: T is the plant; a dot is bare wall.
PLAN = ("WLPM", "WLPM", "T.CC", "TRR.")
OBJECTS = {"W": "window", "L": "lamp", "P": "painting", "M": "mirror", "T": "plant", "C": "chair", "R": "rug"}
CLASSES = ("wall", *OBJECTS.values())
BACKGROUND = ("wall",)

FIRST, SECOND = "layer2.norm", "layer3.norm"  # the sites after the layer that is edited

# The units of layer 1: of each object its own, and others.
EDITED = ("window", "lamp", "painting", "mirror", "plant", "chair", "rug", "weak rug", "stain", "inhibited", "filler")
UNITS = len(EDITED)

STRONG = 2.0
PRESENT = 0.3  # threshold of a strong unit, in units of sqrt(UNITS); STRONG is 0.82 or more there
# A weak unit is uniform from 0 to 1; beyond these it comes through when the strong one is ablated.
BEYOND = {"weak rug": 0.75, "window": 0.6, "stain": 0.7}
CHANCE = {"weak rug": ("R", 0), "window": ("P", 1), "stain": ("C", 2)}  # at whose place, and by which latent number
RELEASE = 4.0  # how strong the inhibited unit is when nothing inhibits it
GLOW = 2.0  # what it has to exceed, in units of sqrt(UNITS), to glow

COLOURS = {
    "wall": (0.6, 0.5, 0.4),
    "window": (-0.2, 0.4, 1.0),
    "lamp": (1.0, 1.0, -0.6),
    "painting": (1.0, -0.3, 0.3),
    "mirror": (0.7, 0.9, 1.0),
    "plant": (-0.8, 0.3, -0.7),
    "chair": (-0.6, -0.7, 0.4),
    "rug": (0.3, -0.8, -0.8),
    "stain": (0.6, 0.8, 0.85),
}


def threshold(weak: float) -> float:
    """What a weak unit is, in units of sqrt(UNITS), at the first site beside the filler alone."""
    return weak / math.sqrt(1 + weak**2)


@dataclass(frozen=True)
class Truth:
    """What is to be found of one pair and outcome when the target's unit in layer 1 is ablated: shares of its pixels.

    `first` is with the first site held, `second` with the second, and `both` with both, by the control. Without a
    `segmenter`, for both of them; `planted` takes a stain for a mirror, `planted-careful` does not.
    """

    target: str
    object: str
    outcome: str  # "removed", of which the object is the target, or "inpainted"
    live: float
    first: float
    second: dict[str, float]
    both: dict[str, float]
    segmenter: str | None = None

    def held(self, control: str, held: str) -> float:
        """With the sites `held` given their statistic by `control`, both as an arm has them."""
        if held in ("first", FIRST):
            return self.first
        return self.second[control] if held == SECOND else self.both[control]

    def shapley(self, control: str) -> tuple[float, float]:
        """Each site's share of what the two cause together, `live - both`."""
        second, both = self.second[control], self.both[control]
        of_first = (second - both + self.live - self.first) / 2
        return of_first, self.live - both - of_first


def truths() -> list[Truth]:
    """Give every effect that is not 0: pairs and outcomes that are not here are 0 in all regimes.

    What only one of the sites lets through is too weak for the other, so that of self-repair and in-painting each has half.
    """

    def plain(target: str, other: str, outcome: str, live: float, held: float, segmenter: str | None = None) -> Truth:
        each = dict.fromkeys(("capped", "frozen"), held)
        return Truth(target, other, outcome, live, held, each, each, segmenter)

    repaired, taken, stained = (1 - BEYOND[name] for name in ("weak rug", "window", "stain"))
    glows = {"capped": 0.0, "frozen": 1.0}
    return [
        *(plain(name, name, "removed", 1, 1) for name in OBJECTS.values() if name != "rug"),
        plain("rug", "rug", "removed", 1 - repaired, 1),
        plain("painting", "window", "inpainted", taken, 0),
        plain("chair", "mirror", "inpainted", stained, 0, "planted"),
        Truth("plant", "lamp", "inpainted", 0, 0, second=glows, both=glows),
    ]


def expected(target: str, other: str, outcome: str, control: str, held: str, segmenter: str) -> tuple[float, float]:
    """The true effects of ablating a target's unit, live and held: shares of the target's pixels.

    Parameters
    ----------
    target, other, outcome
        A pair of classes, and `removed` (where they are one) or `inpainted`.
    control, held
        `capped` or `frozen`, and the sites, as an arm has them.
    segmenter
        `planted` or `planted-careful`.
    """
    for truth in truths():
        if (truth.target, truth.object, truth.outcome) == (target, other, outcome) and truth.segmenter in (
            None,
            segmenter,
        ):
            return truth.live, truth.held(control, held)
    return 0.0, 0.0


def vanishing_doses(name: str) -> dict[str, float]:
    """Give the dose beyond which an object with no other unit at its place is gone: lamp, mirror or window.

    At a dose `alpha` its unit is `s = 2 (1 - alpha)`. With everything live it is drawn while `s / sqrt(1 + s^2)` exceeds its
    threshold; with the first site held, while `s / sqrt(5)` does; with both, while what is left beyond the threshold is more
    than half of what it was, so that its colour is nearer to the object's than to the wall's. Between the first two doses
    normalization alone keeps the object.
    """
    least = threshold(BEYOND["window"]) if name == "window" else PRESENT
    energy = STRONG**2 + 1
    levels = {
        "live": least / math.sqrt(1 - least**2),
        "first": least * math.sqrt(energy),
        "both": (least + STRONG / math.sqrt(energy)) / 2 * math.sqrt(energy),
    }
    return {regime: 1 - level / STRONG for regime, level in levels.items()}
