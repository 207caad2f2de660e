"""What the study's own arms tell besides counts: strain, the network's own range, gain, and checks whose answer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gandid.interventions import REFERENCE, Arm, Edit, Readings, Runner
from gandid.measure.experiment import Experiment, RowBlocks
from gandid.panel.schema import QUANTILES
from gandid.panel.table import Coordinates

CHECKED = 8  # latents on which the exact checks (baseline gap, placebo site) are made
TYPICAL = 8  # latents whose statistics stand for those of other images
GAINS = ("gain", "gain_outside", "gain_error")


class Diagnosis:
    """What one network's row blocks tell of some latents, gathered pass by pass.

    Parameters
    ----------
    runner : Runner
    experiment : Experiment
    numbers : sequence of int
        The latents.
    typical : mapping of str to Tensor (n, ...), optional
        Per downstream site the statistic of another latent's unedited image; None for a twin, of which no site is looked at.
    """

    def __init__(
        self,
        runner: Runner,
        experiment: Experiment,
        numbers: Sequence[int],
        typical: Mapping[str, Tensor] | None,
    ):
        self.runner, self.experiment, self.typical, self.latents = runner, experiment, typical, len(numbers)
        self._by_block: dict[str, list[np.ndarray]] = {}
        self._live: dict[str, Tensor] = {}  # what each site divides by in the live arm of each target
        self._by_latent: dict[str, np.ndarray] = {}
        if typical is not None:
            blank = np.full((len(numbers), len(experiment.targets)), np.nan, np.float32)
            self._by_latent = {name: blank.copy() for name in GAINS}

    def add(
        self,
        group: Sequence[tuple[str | None, Coordinates]],
        fresh: slice,
        readings: Readings,
        original: Tensor,
        classes: Sequence[str],
    ) -> None:
        """Take in a pass of the row blocks `group`, of which `fresh` are new.

        `original` (n, H, W) are the labels of the unedited images, places in `classes`.
        """
        if self.typical is None:
            return
        strain = _strain(readings, self.runner.downstream, [arm for _, arm in group], self.latents)
        self._by_block.setdefault("strain", []).append(strain[fresh])
        live = next(arm for arm in self.experiment.study.arms if arm.edit)
        self._by_block.setdefault("rescaling", []).append(self._rescaling(group, live, readings)[fresh])
        if "range" not in self._by_latent:
            self._by_latent["range"] = _own_range(readings, self.typical)
        blocks = {
            t: group.index((target, live)) for t, target in enumerate(self.experiment.own) if (target, live) in group
        }
        if blocks and self.runner.downstream:
            edits = [self.experiment.own[self.experiment.targets[t]] for t in blocks]
            places = torch.stack([original == classes.index(self.experiment.targets[t]) for t in blocks])
            found = _gain(readings, self.runner.downstream[0], list(blocks.values()), edits, places)
            for name, values in zip(GAINS, found.cpu().numpy(), strict=True):
                self._by_latent[name][:, list(blocks)] = values.T

    def _rescaling(
        self, group: Sequence[tuple[str | None, Coordinates]], live: Coordinates, readings: Readings
    ) -> np.ndarray:
        """Mean over positions of |log(what a site divides by / what it divides by in the live arm)|: (blocks, n, site); NaN unedited."""
        found = np.full((len(group), self.latents, len(self.runner.downstream)), np.nan, np.float32)
        places = {target: t for t, target in enumerate(self.experiment.targets)}
        # The live arm comes before a target's other arms, if in an earlier pass.
        first = [(block, places[target]) for block, (target, arm) in enumerate(group) if target and arm == live]
        others = [(block, places[target]) for block, (target, arm) in enumerate(group) if target and arm != live]
        found[[block for block, _ in first]] = 0
        for s, site in enumerate(self.runner.downstream):
            given = readings.held[site].float().flatten(2)
            kept = self._live.setdefault(site, given.new_empty(len(places), *given.shape[1:]))
            for block, target in first:
                kept[target] = given[block]
            if others:
                blocks, of = map(list, zip(*others, strict=True))
                found[blocks, :, s] = (given[blocks] / kept[of]).log().abs().mean(dim=2).cpu().numpy()
        return found

    def put(self, rows: dict[str, np.ndarray], layout: RowBlocks, arms: int) -> None:
        """Write into a panel's rows, of so many arms, what is known of the arms of a layout; nothing of a twin is strained."""
        n, targets = self.latents, len(self.experiment.targets)
        for name, parts in self._by_block.items():
            values = np.concatenate(parts)
            blank = np.full((n, targets, arms, *values.shape[2:]), 0 if name == "strain" else np.nan, np.float32)
            rows.setdefault(name, blank)[:, :, layout.places] = np.moveaxis(values[layout.rows], 2, 0)
        rows.update(self._by_latent)


def _strain(readings: Readings, downstream: Sequence[str], arms: Sequence[Coordinates], n: int) -> np.ndarray:
    """Quantiles over positions of log(given statistic / statistic the site would have taken): (blocks, n, site, quantile); 0 where live."""
    found = np.zeros((len(arms), n, len(downstream), len(QUANTILES)), np.float32)
    for s, site in enumerate(downstream):
        held, taken = readings.held[site], readings.taken[site]
        blocks = [block for block, arm in enumerate(arms) if held is not taken and site in arm.sites(downstream)]
        if blocks:
            ratio = (held[blocks] / taken[blocks]).flatten(2)
            found[blocks, :, s] = np.log(_quantiles(ratio.flatten(0, 1), QUANTILES)).reshape(len(blocks), n, -1)
    return found


def typical_statistics(runner: Runner, z: Tensor) -> dict[str, Tensor]:
    """Per downstream site, the statistics of the unedited images of a few latents (k, latent_dim): (k, ...)."""
    _, readings = runner.read(z, [REFERENCE])
    return {site: readings.taken[site][0] for site in runner.downstream}


def _own_range(readings: Readings, typical: Mapping[str, Tensor]) -> np.ndarray:
    """How far each site's statistic differs between two latents' unedited images: (n, site).

    The 98 % quantile over positions (the larger of two ends of 1 % each) of the absolute log-ratio to the statistic of another
    latent, `typical` (n, ...).
    """
    columns = [
        _quantiles((readings.taken[site][0] / of_others).flatten(1).log().abs(), (0.98,))[:, 0]
        for site, of_others in typical.items()
    ]
    return np.stack(columns, axis=1) if columns else np.empty((0, 0), np.float32)


def _gain(readings: Readings, site: str, blocks: Sequence[int], edits: Sequence[Edit], places: Tensor) -> Tensor:
    """Measured gain of live arms at the first site: `GAINS` (3, target, n), where it was made.

    Means on a target's original pixels, `places` (target, n, H, W), and on the others, and the largest relative deviation from the
    closed form (docs/theory.md, "The gain at the first site"); NaN where there is none.
    """
    energy, measured = readings.layer.float().square(), readings.gain(site, blocks)
    size = measured.shape[2:]
    share = torch.nn.functional.interpolate(places.to(energy), size=size, mode="area")
    error = measured.new_full(measured.shape[:2], torch.nan)
    if readings.closed_form:
        total = energy.sum(dim=1)
        for t, edit in enumerate(edits):
            if edit.then is None and edit.values is not None and not edit.values.any() and edit.alpha == 1:
                lost = 1 - (1 - edit.weights(energy)).square()  # of the energy of the units
                survivors = total - lost * energy[:, list(edit.units)].sum(dim=1)
                closed = (total / survivors.clamp_min(torch.finfo(total.dtype).tiny)).sqrt()
                error[t] = (measured[t] / closed - 1).abs().amax(dim=(1, 2))
    return torch.stack([_weighted_mean(measured, share), _weighted_mean(measured, 1 - share), error])


def exact_checks(runner: Runner, experiment: Experiment, z: Tensor, rows: int) -> dict[str, np.ndarray]:
    """The checks whose right answer is known without sampling: `baseline_gap` (n, arm) and `placebo_gap` (n, target).

    Those of another network, and of the unedited arms themselves, are NaN. At most `rows` images are made at once, or three of each latent.
    """
    arms = experiment.study.arms
    held = [a for a, arm in enumerate(arms) if arm.edit and arm.held != "none"]
    gap = np.full((len(z), len(arms)), np.nan, np.float32)
    gap[:, :2] = 0
    size = max(1, rows // len(z) - 1)  # beside the reference
    for some in (held[start : start + size] for start in range(0, len(held), size)):
        images = runner.run(z, [REFERENCE, *(experiment.arm(None, arms[a]) for a in some)])
        gap[:, some] = _largest(images[1:] - images[:1]).T
    checks = {"baseline_gap": gap}
    if runner.upstream and not experiment.resamples:
        pairs = [runner.placebo(z, Arm(edit)) for edit in experiment.own.values()]
        checks["placebo_gap"] = np.stack([_largest(other - live) for live, other in pairs], axis=1)
    return checks


def _largest(difference: Tensor) -> np.ndarray:
    """Largest absolute value per image: (..., 3, H, W) -> (...)."""
    return difference.float().abs().amax(dim=(-3, -2, -1)).cpu().numpy()


def _quantiles(values: Tensor, quantiles: Sequence[float]) -> np.ndarray:
    """Quantiles of each row of (n, positions), the nearest rank: (n, quantiles)."""
    ranks = [round(q * (values.shape[1] - 1)) for q in quantiles]
    if values.device.type == "cpu":  # where NumPy's sort takes an eighth of the time
        return np.sort(values.float().numpy(), axis=1)[:, ranks]
    return values.sort(dim=1).values[:, ranks].float().cpu().numpy()


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over positions of (..., h, w) with weights; NaN where all weights are 0."""
    total = weights.sum(dim=(-2, -1))
    return (values * weights).sum(dim=(-2, -1)) / total.where(total > 0, torch.nan)
