"""What a panel has: its arms by what is done in them, and what its classes are to a target."""

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
import xarray as xr

from gandid import outcomes
from gandid.panel.schema import PRESENCE, VARIABLES, arm_table
from gandid.panel.table import STRENGTH, STUDY, Coordinates

COUNTS = ("pixels", "inside")
# Coordinates that several dimensions have, or that say more of a segmenter.
ABOUT = {"known": ("segmenter", "object"), "background": ("segmenter", "object"), "fingerprint": ("segmenter",)}
ABOUT |= {"measured": ("segmenter", "arm")}


class Regime(NamedTuple):
    """Something that is held, or another network, as the study compares it with live."""

    name: str
    control: str
    """`capped`, `frozen`, `mean`, or for another network `twin`, `distilled` or `placebo`."""
    held: str
    """The held sites, or the name of the other network."""
    arm: Coordinates
    """Its arm at the study's dose, with the target's own units, held fully unless it is one of `Contents.graded`."""


class Contents:
    """A panel (docs/panel.md), checked; nothing along `latent` is read.

    Raises
    ------
    ValueError
        If a variable, an arm or an attribute that every estimate needs is absent, counts are no whole numbers, a target is no class,
        or the panel has no latent.
    """

    def __init__(self, panel: xr.Dataset):
        panel = _whole(panel)
        _check(panel)
        self.panel = panel
        self.arms = arm_table(panel)
        self.names = [str(name) for name in panel["arm"].values]
        self.classes = panel["object"].values.astype(str).astype(object)
        self.targets = [str(target) for target in panel["target"].values]
        self.segmenters = [str(name) for name in panel["segmenter"].values]
        self.size = int(panel.attrs["image_pixels"])
        self.dose = float(panel.attrs.get("alpha", 1.0))
        self.live = self.arms[self.names.index("live")]._replace(latents=0)
        """What is done in the arm `live`."""
        self._places = {arm._replace(latents=0): place for place, arm in enumerate(self.arms)}
        if self.rows(self.study) == 0:
            raise ValueError("the panel has no latent")

    @property
    def pair(self) -> outcomes.Pair:
        """The outcomes that say what became of the target's place."""
        return outcomes.pair_of(self.panel.attrs)

    @property
    def inserts(self) -> bool:
        """Whether the targets were inserted, so that their place is a region of every image."""
        return self.pair.inserts

    @property
    def present(self) -> int:
        """Pixels from which a class counts as present."""
        return math.ceil(float(self.panel.attrs.get("presence", PRESENCE)) * self.size)

    def has(self, arm: Coordinates) -> bool:
        """Whether the panel has an arm."""
        return arm._replace(latents=0) in self._places

    def place(self, arm: Coordinates) -> int:
        """The place of an arm in the panel; raises `ValueError` where it has none."""
        if (place := self._places.get(arm._replace(latents=0))) is None:
            raise ValueError(f"the panel has no arm '{arm.name(self.dose)}'")
        return place

    def baseline(self, arm: Coordinates) -> int:
        """The place of the arm that is an arm's unedited image; the reference where the panel has no other."""
        return self._places.get(arm.baseline._replace(latents=0), self.names.index("reference"))

    @property
    def compared(self) -> list[Coordinates]:
        """Live, and what the study compares it with."""
        return [self.live, *(regime.arm for regime in self.regimes)]

    @cached_property
    def study(self) -> list[int]:
        """Places of the study's own arms: reference, live, held arms and networks, and their unedited images."""
        blocks = self.panel["block"].values.astype(str)
        return [place for place in range(len(self.arms)) if blocks[place] == STUDY]

    @cached_property
    def regimes(self) -> list[Regime]:
        """What the study compares live with, in the panel's order."""
        found = []
        for place in self.study:
            arm = self.arms[place]._replace(latents=0)
            if arm.edit and arm != self.live and arm.dose == self.live.dose:
                found.append(Regime(self.names[place], *arm.regime, arm))
        return found

    @cached_property
    def graded(self) -> list[Regime]:
        """What is held partly, at the study's dose, and beside it what is held fully: by regime, rising in strength."""
        blocks, found = self.panel["block"].values.astype(str), []
        for whole in self.regimes:
            partly = [
                Regime(self.names[place], whole.control, whole.held, arm._replace(latents=0))
                for place, arm in enumerate(self.arms)
                if blocks[place] == STRENGTH and arm._replace(strength=1.0, latents=0) == whole.arm
            ]
            partly.sort(key=lambda one: one.arm.strength)
            found += [*partly, whole] if partly else []
        return found

    @cached_property
    def doses(self) -> list[float]:
        """The doses of a dose-response, rising, from 0 on; empty where the panel has none beside the study's own."""
        all_doses = {arm.dose for arm in self.arms if arm.edit}
        own = {dose for dose in all_doses if all(self.has(arm._replace(dose=dose)) for arm in self.compared)}
        return sorted({0.0, *own}) if len(own) > 1 else []

    @cached_property
    def draws(self) -> list[int]:
        """The random sets of units, from 1 on."""
        return sorted({arm.draw for arm in self.arms if arm.draw > 0})

    def seen(self, segmenter: int, partly: bool = False) -> tuple[list[Regime], list[int], int]:
        """What the study compares, as a segmenter sees it: regimes, places of all arms that it labelled, and on how many rows.

        What is held `partly` is among them only if asked for.
        """
        regimes = dict.fromkeys([*self.regimes, *(self.graded if partly else [])])
        known = dict.fromkeys([*self.study, *(self.place(regime.arm) for regime in regimes)])
        places = [place for place in known if self.rows([place], segmenter) > 0]
        held = [regime for regime in regimes if self.place(regime.arm) in places]
        return held, places, self.rows(places, segmenter) if places else 0

    def rows(self, places: list[int], segmenter: int = 0) -> int:
        """How many of the panel's rows (the first) hold measured counts of all of some arms."""
        if "measured" not in self.panel.coords:
            return self.panel.sizes["latent"]
        return int(self.panel["measured"].values[segmenter, places].min(initial=self.panel.sizes["latent"]))

    def known(self, segmenter: int = 0) -> np.ndarray:
        """Which classes a segmenter knows, (C,)."""
        return self.panel["known"].values[segmenter].astype(bool)

    def kinds(self, target: str, segmenter: int = 0) -> np.ndarray:
        """What each class is to a target: `target`, `object`, `background` or `unknown`; empty for classes not known; (C,)."""
        background = self.panel["background"].values[segmenter].astype(bool)
        kinds = np.where(background, "background", "object").astype(object)
        kinds[self.classes == "unknown"] = "unknown"
        kinds[self.classes == target] = "target"
        kinds[~self.known(segmenter)] = ""
        return kinds

    def units(self) -> dict[str, int]:
        """How many units are edited, by target, where the panel names them."""
        if "units" not in self.panel:
            return {}
        own = self.panel["units"].values[0, 0]
        return {target: int((ranks >= 0).sum()) for target, ranks in zip(self.targets, own, strict=True)}


def _whole(panel: xr.Dataset) -> xr.Dataset:
    """A panel of which one target, segmenter or latent was selected, or some latents, as one that has no others."""
    if not isinstance(panel, xr.Dataset):
        raise ValueError(f"a panel is an xarray.Dataset, not {type(panel).__name__}")
    for name in COUNTS:
        if name not in panel:
            raise ValueError(f"the panel has no variable '{name}'")
    for dim in ("arm", "object"):
        if dim in panel.coords and dim not in panel.dims:
            raise ValueError(f"effects compare several of the panel's '{dim}': select them with a list, or not at all")
    for dim in [dim for dim in ("segmenter", "target", "latent") if dim in panel.coords and dim not in panel.dims]:
        value, had = panel[dim].values, {name: dims for name, (dims, _) in VARIABLES.items()} | ABOUT
        names = [str(name) for name in panel.variables if dim in had.get(str(name), ())]
        found = {name: panel[name].variable.set_dims((dim, *panel[name].dims)) for name in names}
        panel = panel.drop_vars([dim, *names]).assign(found).set_coords([name for name in names if name in ABOUT])
        panel = panel.assign_coords({dim: value[None]})
    if "measured" in panel.coords and (panel["measured"] > panel.sizes["latent"]).any():
        known = (panel["inside"] >= 0).all(["target", "object"])
        rows = known.cumprod("latent").sum("latent").transpose(*panel["measured"].dims)
        panel = panel.assign_coords(measured=(rows.dims, rows.values))
    return panel


def _check(panel: xr.Dataset) -> None:
    for name in COUNTS:
        if panel[name].dtype.kind not in "iu":
            raise ValueError(f"the panel's '{name}' are {panel[name].dtype}, not whole numbers of pixels")
    if "segmenter" not in panel["pixels"].dims:
        raise ValueError("the panel was made by gandid 0.1: run the study again")
    if "image_pixels" not in panel.attrs:
        raise ValueError("the panel has no attribute 'image_pixels'")
    names = [str(name) for name in panel["arm"].values]
    for name in ("reference", "live"):
        if name not in names:
            raise ValueError(f"the panel has no arm '{name}'")
    classes = set(panel["object"].values.astype(str))
    for target in panel["target"].values.astype(str):
        if target not in classes:
            raise ValueError(f"the panel's target '{target}' is not among its classes")
