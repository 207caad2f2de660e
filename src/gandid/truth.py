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

Other networks make the same images of what is not edited (`NETWORKS`). Three have both normalizations and let weaker units through. Four
have none: their layer 2 is a threshold that is `SHARP`, and 1 less what is above 0, twice over, cuts at 1 what is drawn. Three of them let
only stronger units through; in the fourth, the twin, everything just goes.

Why the glow: without the plant a unit of layer 2 that it inhibited is free, four times as strong as anything else. A live site keeps
every value at `sqrt(UNITS)` or less, and the glow needs twice that. Frozen at what it was, the second site lets 3.2 times
that through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

# The places of the objects, by initial: T is the plant; a dot is bare wall.
PLAN = ("WLPM", "WLPM", "T.CC", "TRR.")
OBJECTS = {"W": "window", "L": "lamp", "P": "painting", "M": "mirror", "T": "plant", "C": "chair", "R": "rug"}
CLASSES = ("wall", *OBJECTS.values())
BACKGROUND = ("wall",)
UNKNOWN = len(CLASSES)  # of `planted-unsure`, which has this class more
DIM = 2  # row of the plan in whose upper half `planted-unsure` recognizes no wall

FIRST, SECOND = "layer2.norm", "layer3.norm"  # the sites after the layer that is edited

# The units of layer 1: of each object its own, and others.
EDITED = ("window", "lamp", "painting", "mirror", "plant", "chair", "rug", "weak rug", "stain", "inhibited", "filler")
UNITS = len(EDITED)

STRONG = 2.0
PRESENT = 0.3  # threshold of a strong unit, in units of sqrt(UNITS); STRONG is 0.82 or more there
# A weak unit is uniform from 0 to 1; beyond these it comes through when the strong one is ablated.
BEYOND = {"weak rug": 0.75, "window": 0.6, "stain": 0.7}
# Whether a network has its normalizations, and by how much its weak units have to be larger than that.
NETWORKS = {"planted": (True, 0.0), "planted-twin": (False, 0.4)}
NETWORKS |= {f"planted/placebo-{number}": (True, later) for number, later in ((1, -0.1), (2, -0.05), (3, 0.0))}
NETWORKS |= {f"planted/distilled-{number}": (False, later) for number, later in ((1, 0.1), (2, 0.15), (3, 0.2))}
SHARP = 1e4  # slope of a threshold without normalization
CHANCE = {"weak rug": ("R", 0), "window": ("P", 1), "stain": ("C", 2)}  # at whose place, and by which latent number
RELEASE = 4.0  # how strong the inhibited unit is when nothing inhibits it
EPS = 1e-12  # of the normalizations
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


def plan_units(initial: str) -> tuple[np.ndarray, np.ndarray]:
    """What the units of layer 1 are at a place by its initial: a constant, and what the weak one is multiplied by, (UNITS,) each."""
    fixed, weak = np.zeros((2, UNITS))
    fixed[EDITED.index("filler")] = 1
    if initial in OBJECTS:
        fixed[EDITED.index(OBJECTS[initial])] = STRONG
    if initial == "T":
        fixed[EDITED.index("inhibited")] = 1
    for name, (place, _) in CHANCE.items():
        weak[EDITED.index(name)] = place == initial
    return fixed, weak


def layers(network: str = "planted") -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Weight (out, in) and bias (out,) of layers 2 to 4 and of the output, all at the middle of the kernel; ReLU after all but the output."""
    unit, root = EDITED.index, math.sqrt(UNITS)
    normalized, later = NETWORKS[network]
    beyond = {name: level + later for name, level in BEYOND.items()}
    if normalized:
        beyond = {name: threshold(level) * root for name, level in beyond.items()}
    # Layer 2: a threshold for each object; a unit draws the object that it is named after.
    weight, bias = np.zeros((UNITS, UNITS)), np.zeros(UNITS)
    for name in ("lamp", "painting", "mirror", "plant", "chair"):
        weight[unit(name), unit(name)], bias[unit(name)] = 1, -PRESENT * root if normalized else -STRONG / 2
    for name in ("window", "stain"):
        weight[unit(name), unit(name)], bias[unit(name)] = 1, -beyond[name]
        if not normalized:  # nothing else keeps it from what the strong unit there draws
            weight[unit(name), unit(OBJECTS[CHANCE[name][0]])] = -1
    weight[unit("rug"), unit("rug")] = weight[unit("rug"), unit("weak rug")] = 1
    bias[unit("rug")] = -beyond["weak rug"]
    # The output: the wall, and what is drawn instead of it.
    wall, colours = np.array(COLOURS["wall"]), np.zeros((3, UNITS))
    for name in EDITED:
        if colour := COLOURS.get("lamp" if name == "inhibited" else name):
            colours[:, unit(name)] = colour - wall
    if not normalized:
        cut = -np.eye(UNITS), np.ones(UNITS)
        return (SHARP * weight, SHARP * bias), cut, cut, (colours, wall)
    weight[unit("inhibited"), unit("inhibited")], weight[unit("inhibited"), unit("plant")] = RELEASE, -RELEASE
    # Layer 3: what is drawn in full is 1; the inhibited unit glows beyond what a live site lets through.
    glow = np.zeros(UNITS)
    glow[unit("inhibited")] = -GLOW
    return (weight, bias), (np.eye(UNITS) / root, glow), (np.eye(UNITS), np.zeros(UNITS)), (colours, wall)


WEAK = (np.arange(1000) + 0.5) / 1000  # levels of a weak unit, which stand for all from 0 to 1


def _images(
    units: np.ndarray, given: Mapping[str, np.ndarray], strength: float, network: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Colours (places, levels, 3) of what layer 1 puts out, (places, levels, UNITS); and what either site takes, (places, levels)."""
    *hidden, (colours, wall) = layers(network)
    taken = {}
    for site, (weight, bias) in zip((FIRST, SECOND, ""), hidden, strict=True):
        if site and NETWORKS[network][0]:
            taken[site] = scale = np.sqrt(np.square(units).mean(axis=-1) + EPS)
            if site in given:
                held = np.maximum(given[site], scale) if "capped" in given else given[site]
                scale = scale ** (1 - strength) * held**strength
            units = units / scale[..., None]
        units = np.maximum(units @ weight.T + bias, 0)
    return units @ colours.T + wall, taken


@cache
def _unedited() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Layer 1 at every cell of the plan and every level of its weak unit, (16, levels, UNITS), and what the sites take."""
    places = [plan_units(initial) for line in PLAN for initial in line]
    units = np.stack([fixed + WEAK[:, None] * weak for fixed, weak in places])
    return units, _images(units, {}, 1.0, "planted")[1]


def _labels(colours: np.ndarray, segmenter: str) -> np.ndarray:
    """What a segmenter calls colours (places, levels, 3), the nearest class's: places in `CLASSES` of each place's upper and lower pixels.

    `planted` takes stains for mirrors, `planted-careful` for wall; `planted-unsure` calls them unknown, and in `DIM` the wall, too.
    """
    names = [*CLASSES] if segmenter == "planted" else [*CLASSES, "stain"]
    palette = np.array([COLOURS[name] for name in names])
    away = np.square(palette).sum(axis=-1) - 2 * colours @ palette.T  # squared distances, less the colours' own squares
    labels = away.argmin(axis=-1)[..., None].repeat(2, axis=-1)
    if segmenter != "planted-unsure":
        return labels % len(CLASSES)
    upper = labels.reshape(len(PLAN), -1, 2)[DIM, :, 0]
    upper[upper == 0] = UNKNOWN
    return labels


@cache
def hole(
    target: str,
    units: tuple[int, ...],
    segmenter: str,
    dose: float = 1.0,
    control: str = "none",
    held: tuple[str, ...] = (),
    strength: float = 1.0,
    network: str = "planted",
) -> np.ndarray:
    """What a target's original pixels are called after an edit of some units, over all latents: places in `CLASSES`, or `UNKNOWN`.

    The network is computed anew here, cell by cell, for all levels of the cell's weak unit (`WEAK`).

    Parameters
    ----------
    target, segmenter
        A class, and `planted`, `planted-careful` or `planted-unsure`.
    units, dose
        What is edited in layer 1, and how far it is moved to 0.
    control, held, strength
        `capped`, `frozen` or `mean`, the sites that are held by it, and how far. The constants of `mean` are those of all latents.
    network
        One of `NETWORKS`.
    """
    before, taken = _unedited()
    given = {site: np.asarray(taken[site].mean()) if control == "mean" else taken[site] for site in held}
    after = before.copy()
    after[..., list(units)] *= 1 - dose
    given |= {"capped": np.array(0)} if control == "capped" else {}
    ours, theirs = (_labels(_images(x, given, strength, network)[0], segmenter) for x in (before, after))
    return theirs[ours == CLASSES.index(target)]


def shares(*about: Any, **how: Any) -> dict[str, float]:
    """What a target's original pixels are after an edit: shares of all classes, in expectation over latents. As `hole` takes it."""
    found = hole(*about, **how)
    counts = np.bincount(found, minlength=UNKNOWN + 1) / max(found.size, 1)
    return dict(zip((*CLASSES, "unknown"), counts.tolist(), strict=True))
