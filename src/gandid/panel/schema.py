"""What a panel is made of: its dimensions, coordinates, variables and attributes (docs/panel.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from gandid.panel.table import DOSE, LATENTS, PLACEBOS, RANKING, SURFACE, Block, Coordinates

SCHEMA = 2
QUANTILES = (0.01, 0.5, 0.99)
FEATURED = 128  # latents whose images have features: those of a smaller number
FEATURES = 128  # numbers by which an image is told from another arm's
PARTS = 256  # of a pixel: probabilities are counted in whole numbers of them
PRESENCE = 0.003  # share of the image from which a class counts as present
NOT_MEASURED = -1  # of counts; NaN of everything else

COUNTS = ("segmenter", "latent", "target", "arm", "object")
# Every variable: its dimensions and its type. Whole numbers are -1 and others NaN where nothing was measured.
VARIABLES: dict[str, tuple[tuple[str, ...], type]] = {
    "pixels": (COUNTS, np.int32),
    "inside": (COUNTS, np.int32),
    "shared": (COUNTS[:-1], np.int32),
    "features": (("latent", "target", "arm", "feature"), np.float16),
    "strain": (("latent", "target", "arm", "site", "quantile"), np.float32),
    "rescaling": (("latent", "target", "arm", "site"), np.float32),
    "range": (("latent", "site"), np.float32),
    "gain": (("latent", "target"), np.float32),
    "gain_outside": (("latent", "target"), np.float32),
    "gain_error": (("latent", "target"), np.float32),
    "placebo_gap": (("latent", "target"), np.float32),
    "baseline_gap": (("latent", "arm"), np.float32),
    "units": (("networks", "draws", "target", "rank"), np.int32),
    "values": (("networks", "draws", "target", "rank"), np.float32),
    "energy": (("draws", "target"), np.float32),
}


class Classes(NamedTuple):
    """The classes of one segmenter."""

    names: tuple[str, ...]
    background: tuple[str, ...]
    fingerprint: str = ""
    """What tells its weights from others."""


def fill(dtype: Any) -> float:
    """What stands in a variable of a type where nothing was measured."""
    return NOT_MEASURED if np.dtype(dtype).kind in "iu" else np.nan


def arm_coordinates(blocks: Sequence[Block], dose: float) -> dict[str, tuple[str, Any]]:
    """The coordinates along `arm` of the arms of some blocks; `dose` is the study's own."""
    arms = [arm for block in blocks for arm in block.arms]
    table: dict[str, tuple[str, Any]] = {
        field: ("arm", np.array([getattr(arm, field) for arm in arms])) for field in Coordinates._fields
    }
    table["block"] = "arm", np.array([block.name for block in blocks for _ in block.arms])
    table["arm"] = "arm", np.array([arm.name(dose) for arm in arms])
    return table


def arm_table(panel: xr.Dataset) -> list[Coordinates]:
    """The arms of a panel, in its order, as `Coordinates`; their `latents` are those of the coordinate."""
    columns = [panel[field].values.tolist() for field in Coordinates._fields]
    return [Coordinates(*row) for row in zip(*columns, strict=True)]


def empty_panel(
    blocks: Sequence[Block],
    *,
    targets: Sequence[str],
    segmenters: Mapping[str, Classes],
    sites: Mapping[str, bool],
    networks: Sequence[str],
    units: np.ndarray,
    values: np.ndarray | None,
    energy: np.ndarray,
    attrs: Mapping[str, Any],
    draws: Sequence[int] | None = None,
    without: Collection[str] = (),
) -> xr.Dataset:
    """A panel in which nothing has been measured: it has no latents.

    Parameters
    ----------
    blocks : sequence of Block
        Whose arms the panel has, in this order.
    targets : sequence of str
    segmenters : mapping of str to Classes
        The classes of each by its name; the study's segmenter first.
    sites : mapping of str to bool
        The sites after the edited layer in the order of the network, and whether the statistic of each responds to its input.
    networks : sequence of str
        `own`, and the names of the twins.
    units : int32 (networks, draws, target, rank)
        Which are edited; -1 pads.
    values : float32 (networks, draws, target, rank), optional
        What they are moved to; NaN pads; None for resample ablation.
    energy : float32 (draws, target)
        Summed energy of the drawn units over that of the target's own.
    attrs : mapping
        See docs/panel.md; `alpha` is the study's dose.
    draws : sequence of int, optional
        Their numbers; 0, 1, 2, ... by default.
    without : collection of str
        Variables that do not apply.
    """
    objects = list(dict.fromkeys(name for classes in segmenters.values() for name in classes.names))
    arms = arm_coordinates(blocks, float(attrs["alpha"]))
    sizes = {
        "segmenter": len(segmenters),
        "latent": 0,
        "target": len(targets),
        "arm": len(arms["arm"][1]),
        "object": len(objects),
        "site": len(sites),
        "quantile": len(QUANTILES),
        "feature": FEATURES,
    }
    given = {"units": units, "energy": energy} | ({} if values is None else {"values": values})
    variables: dict[str, Any] = {}
    for name, (dims, dtype) in VARIABLES.items():
        if name in given:
            variables[name] = dims, np.asarray(given[name], dtype)
        elif name not in without and name != "values":
            variables[name] = dims, np.full([sizes[dim] for dim in dims], fill(dtype), dtype)
    return xr.Dataset(
        variables,
        coords={
            "segmenter": list(segmenters),
            "latent": np.arange(0),
            "target": list(targets),
            **arms,
            "object": objects,
            "background": (("segmenter", "object"), _among(objects, [c.background for c in segmenters.values()])),
            "known": (("segmenter", "object"), _among(objects, [c.names for c in segmenters.values()])),
            "fingerprint": ("segmenter", [c.fingerprint for c in segmenters.values()]),
            "site": list(sites),
            "responds": ("site", np.array(list(sites.values()), bool)),
            "quantile": list(QUANTILES),
            "networks": list(networks),
            "draws": np.arange(len(energy)) if draws is None else list(draws),
            "measured": (("segmenter", "arm"), np.zeros((sizes["segmenter"], sizes["arm"]), int)),
        },
        attrs={**attrs, "schema": SCHEMA},
    )


def _among(objects: Sequence[str], sets: Sequence[Sequence[str]]) -> np.ndarray:
    """Which of the objects are in each set: (set, object)."""
    return np.array([[name in members for name in objects] for members in sets], bool)


def blocks_of(panel: xr.Dataset) -> list[Block]:
    """The blocks that the arms of a panel were measured in; what was added later is one with what it joins once it is measured."""
    arms, names, measured = arm_table(panel), panel["block"].values.tolist(), panel["measured"].values.T.tolist()
    groups = groupby(zip(names, arms, measured, strict=True), lambda one: _apart(*one))
    found = [(name, [arm._replace(latents=LATENTS[name]) for _, arm, _ in group]) for (name, *_), group in groups]
    return [Block(name, tuple(members), LATENTS[name]) for name, members in found]


def _apart(name: str, arm: Coordinates, measured: list[int]) -> tuple:
    """What tells a block from the next: every dose, every draw and every halving has one of its own."""
    draw = arm.draw if name == PLACEBOS else (1 - arm.draw) // 2 if name == RANKING else 0
    return name, measured, arm.dose if name in (DOSE, SURFACE) else 0.0, draw
