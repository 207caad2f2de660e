"""An experiment: the arm table with its edits, and how the arms of a block become row blocks of one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from gandid.interventions import Arm, Edit, Rectangle, Runner
from gandid.panel.schema import Classes, empty_panel
from gandid.panel.table import EXACT_CONTROLS, REFERENCE, Block, Coordinates

TargetEdits = Mapping[str, Edit]  # by target


class RowBlocks(NamedTuple):
    """Row blocks of one pass through one network.

    An arm that is one and the same as another has no row block of its own; the first row block is the reference.
    """

    network: str
    targets: list[int]
    """Places of the targets that are tried."""
    blocks: list[tuple[str | None, Coordinates]]
    """Target (None for unedited) and arm of each row block."""
    places: list[int]
    """Places, among the arms of the block, of this network's arms."""
    rows: np.ndarray
    """The row block of every arm of the network: (target, arm)."""
    pairs: np.ndarray
    """What is counted in a target's place, (pairs, 3): which of the targets, a row block, and the one of its arm's baseline."""
    pair: np.ndarray
    """Which of them every arm of the network is: (target, arm)."""


@dataclass(frozen=True)
class Experiment:
    """What is tried: blocks of arms, the edits, and which arms coincide.

    Parameters
    ----------
    blocks : tuple of Block
        The block of the study is the first.
    edits : mapping of (network, draw) to TargetEdits
        Draw 0 has the target's own units, at the study's dose; other draws as in `gandid.panel.table.Coordinates`.
    downstream : tuple of str
        The sites after the edited layer, in the order of the network.
    inert : frozenset of str
        Those of them that do not respond to an edit: an arm that holds no others is the live arm.
    shrinking : bool
        Whether every edit can only lower the first site's statistic, so that there `capped` and `frozen` are the same.
    region : Rectangle or Tensor, optional
        To which the edits are limited; a target's original pixels are counted within it.
    inserts : bool
        Whether the edits insert the targets, of which all of the region is the place.
    """

    blocks: tuple[Block, ...]
    edits: Mapping[tuple[str, int], TargetEdits]
    downstream: tuple[str, ...]
    inert: frozenset[str] = frozenset()
    shrinking: bool = False
    region: Rectangle | torch.Tensor | None = None
    inserts: bool = False

    @property
    def study(self) -> Block:
        return self.blocks[0]

    @property
    def own(self) -> TargetEdits:
        """The study's edits of the generator itself."""
        return self.edits["own", 0]

    @property
    def dose(self) -> float:
        """The study's own dose."""
        return next(arm.dose for arm in self.study.arms if arm.edit)

    @property
    def targets(self) -> list[str]:
        return list(self.own)

    @property
    def networks(self) -> list[str]:
        """`own`, and the twins."""
        return list(dict.fromkeys(network for network, _ in self.edits))

    @property
    def resamples(self) -> bool:
        """Whether units are moved to their values for another latent."""
        return any(edit.values is None for edit in self.own.values())

    def place(self, target: str, classes: Sequence[str], labels: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
        """Which pixels a target's outcomes are about, bool (..., H, W): its original ones within the region (H, W), or all of that.

        `labels` are those of the unedited images, places in `classes`; none are about a target that is not among these.
        """
        if target not in classes:
            return torch.zeros_like(labels, dtype=torch.bool)
        return within.expand(labels.shape) if self.inserts else (labels == classes.index(target)) & within

    def exact_held(self) -> dict[str, dict[str, str]]:
        """The study's held arms whose baseline is the reference, by name, as {site: control}."""
        held = [arm for arm in self.study.arms if arm.edit and arm.control in EXACT_CONTROLS]
        return {arm.name(self.dose): dict.fromkeys(arm.sites(self.downstream), arm.control) for arm in held}

    def canonical(self, arm: Coordinates) -> Coordinates:
        """The arm that is run in place of an edited arm."""
        arm = arm._replace(latents=0)
        if arm.held != "none" and set(arm.sites(self.downstream)) <= self.inert:
            return arm._replace(control="none", held="none", strength=0.0)
        if self.shrinking and arm.held == "first" and arm.control in EXACT_CONTROLS:
            held = next(other for other in self.study.arms if other.held == "first" and other.control in EXACT_CONTROLS)
            return arm._replace(control=held.control)
        return arm

    def arm(self, target: str | None, arm: Coordinates) -> Arm:
        """An arm of a target as the runner takes it."""
        held = dict.fromkeys(arm.sites(self.downstream), arm.control)
        edit = None if target is None else self.edits[arm.network, arm.draw][target]
        if edit is not None and edit.alpha != arm.dose:
            edit = replace(edit, alpha=arm.dose)
        return Arm(edit, held, arm.strength)

    def layouts(self, block: Block) -> list[RowBlocks]:
        """The passes of a block: one per network, or where the targets are run apart, one per network and target."""
        every = list(range(len(self.targets)))
        groups = [[target] for target in every] if block.apart else [every]
        networks = dict.fromkeys(arm.network for arm in block.arms)
        return [self._layout(block, network, targets) for network in networks for targets in groups]

    def selects(self, block: Block) -> bool:
        """Whether a block's arms are run on the images alone that show the target; what is inserted has a place in every image."""
        return block.apart and not self.inserts

    def images(self, block: Block, shown: Sequence[float] | None = None) -> float:
        """Images that are made of each latent; where targets are run apart, of one that shows a share `shown` of each (all of it by default)."""
        layouts = self.layouts(block)
        if not self.selects(block):
            return sum(len(layout.blocks) for layout in layouts)
        unedited = {layout.network: sum(target is None for target, _ in layout.blocks) for layout in layouts}
        parts = [1.0 if shown is None else shown[layout.targets[0]] for layout in layouts]
        return sum(unedited.values()) + sum(p * len(layout.blocks) for p, layout in zip(parts, layouts, strict=True))

    def batch(self, block: Block, rows: int, most: int) -> int:
        """Latents that are taken together: as many as make `rows` images, at most `most`."""
        return max(1, min(rows // len(self.layouts(block)[0].blocks), most))

    def _layout(self, block: Block, network: str, targets: list[int]) -> RowBlocks:
        places = [place for place, arm in enumerate(block.arms) if arm.network == network]
        arms = [block.arms[place] for place in places]
        reference = REFERENCE._replace(network=network)
        blocks: list[tuple[str | None, Coordinates]] = [
            (None, arm) for arm in dict.fromkeys([reference, *(arm.baseline for arm in arms)])
        ]
        tried = list(dict.fromkeys(self.canonical(arm) for arm in arms if arm.edit))
        named = [self.targets[target] for target in targets]
        blocks += [(target, arm) for target in named for arm in tried]
        at = {key: row for row, key in enumerate(blocks)}
        unedited = [at[None, arm.baseline] for arm in arms]
        rows = [
            [at[target, self.canonical(arm)] if arm.edit else base for arm, base in zip(arms, unedited, strict=True)]
            for target in named
        ]
        each = np.stack(np.broadcast_arrays(np.arange(len(targets))[:, None], rows, unedited), axis=-1)
        pairs, pair = np.unique(each.reshape(-1, 3), axis=0, return_inverse=True)
        return RowBlocks(network, targets, blocks, places, np.array(rows), pairs, pair.reshape(each.shape[:2]))

    def panel(
        self,
        runner: Runner,
        segmenters: Mapping[str, Classes],
        energy: np.ndarray,
        attrs: Mapping[str, object],
    ) -> xr.Dataset:
        """The empty panel of this experiment; `energy` is (draws, target), in the order of the edits."""
        networks, draws = self.networks, list(dict.fromkeys(draw for _, draw in self.edits))
        rank = max(len(edit.units) for edit in self.own.values())
        shape = len(networks), len(draws), len(self.targets), rank
        units, values = np.full(shape, -1, np.int32), np.full(shape, np.nan, np.float32)
        for (network, draw), own in self.edits.items():
            for t, edit in enumerate(own.values()):
                at = networks.index(network), draws.index(draw), t, slice(len(edit.units))
                units[at] = edit.units
                if edit.values is not None:
                    values[at] = edit.values
        without = {"placebo_gap": runner.upstream and not self.resamples, "shared": "soft" not in attrs}
        return empty_panel(
            self.blocks,
            targets=self.targets,
            segmenters=segmenters,
            sites=runner.responds,
            networks=networks,
            units=units,
            values=None if self.resamples else values,
            energy=energy,
            attrs=attrs,
            draws=draws,
            without=[name for name, there in without.items() if not there],
        )


def restored_edits(
    panel: xr.Dataset, region: Rectangle | torch.Tensor | None
) -> dict[tuple[str, int], dict[str, Edit]]:
    """The edits of a panel by network and draw, from what it says of them, in its region."""
    targets, alpha = [str(target) for target in panel["target"].values], float(panel.attrs["alpha"])
    units, values = panel["units"].values, panel["values"].values if "values" in panel else None
    edits: dict[tuple[str, int], dict[str, Edit]] = {}
    for n, d in np.ndindex(units.shape[:2]):
        if (units[n, d] < 0).all():
            continue
        own = {}
        for t, target in enumerate(targets):
            count = int((units[n, d, t] >= 0).sum())
            chosen = tuple(int(unit) for unit in units[n, d, t, :count])
            to = None if values is None else torch.from_numpy(values[n, d, t, :count].copy())
            own[target] = Edit(chosen, to, alpha, region)
        edits[str(panel["networks"].values[n]), int(panel["draws"].values[d])] = own
    return edits
