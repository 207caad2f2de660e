"""The same experiment under variants of its design: at other doses, with other sites held, with the units of no object.

A variant is a study's design with other edits or other held sets, or the same seen by another segmenter. It is measured as the study is, on its first latents, and
stored as a panel (docs/panel.md) of `pixels` and `inside`, or as several along one more dimension. What is done lies in a
hidden folder of the run until a store is whole, so that a run that was cut short goes on with the part that it was at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from gandid.did.shapley import EXACT, coalitions, sampled_weights
from gandid.errors import GandidError, UsageError
from gandid.files import remove, replacing
from gandid.interventions import Edit, Runner, ablate
from gandid.segmenters import Segmenter
from gandid.studies.design import Design, Held
from gandid.studies.executors import Executor, Failed
from gandid.studies.folder import fingerprint
from gandid.studies.latents import chunked, latents
from gandid.studies.panel import empty_panel
from gandid.studies.store import explained, read_panel, write_dataset
from gandid.studies.worker import Worker, arithmetic, fewer_rows

DOSE, SITES, PLACEBOS, SECOND = "dose.zarr", "sites.zarr", "placebos.zarr", "second.zarr"
PARTS = ".variants"  # what is done of them

LATENTS, FEWER = 128, 64  # of the study's latents, the first; fewer of sites and placebos, which have most arms
LATENTS_KEPT = 16  # in a part
ORDERS = 16  # orders of the sites, each with its reverse, where there are too many sites for all coalitions
TOLERANCE = 0.02  # of the energy that a placebo is to have
COUNTS = ("pixels", "inside")

Advance = Callable[[int], None]  # told how many images were made


def dose(design: Design, alphas: Sequence[float]) -> dict[float, Design]:
    """The design at each dose: every edit moves its units the share `alpha` of the way, whatever share the study's does."""

    def at(alpha: float) -> Design:
        def moved(edits: Mapping[str, Edit]) -> dict[str, Edit]:
            return {target: replace(edit, alpha=alpha) for target, edit in edits.items()}

        return replace(
            design, edits=moved(design.edits), twins={twin: moved(its) for twin, its in design.twins.items()}
        )

    return {alpha: at(alpha) for alpha in alphas}


def sites(design: Design, runner: Runner, control: str, seed: int = 0) -> Design:
    """The design whose held sets are the complements of the coalitions of live sites (THEORY, "Which site").

    All of them up to `gandid.did.shapley.EXACT` sites, beyond those that `sampled_weights(sites, ORDERS, seed)` meets. A held
    set is named by its sites, in the order of the network; sites that cannot respond take no part.

    Raises
    ------
    UsageError
        If no site can respond.
    """
    among = _responding(runner)
    live = coalitions(len(among)) if len(among) <= EXACT else sampled_weights(len(among), ORDERS, seed)[0]
    held = (tuple(site for s, site in enumerate(among) if s not in some) for some in live)
    return Design(design.edits, tuple(Held(control, "+".join(some)) for some in held if some), design.shrinking)


def placebos(
    design: Design,
    energies: np.ndarray,
    count: int,
    seed: int,
    ablation: str = "zero",
    means: Tensor | None = None,
) -> list[Design]:
    """Designs that edit, in place of each target's units, as many others of about the same energy (see `matched`).

    Parameters
    ----------
    design : Design
        Its controls whose baseline is the reference are kept.
    energies, means : (C,)
        Of each unit, see `moments`; the means are those of mean ablation.
    count : int
        How many designs; fewer where a target's units leave fewer sets.
    seed : int
        Of the sets; fewer draws are the first of more.
    ablation : {"zero", "mean", "resample"}
        That of the design's edits.

    Raises
    ------
    UsageError
        If the design has no such control, or a target's units are more than the others.
    """
    design = _exact(design)
    count = _draws(design, len(energies), count)
    drawn = {
        target: matched(energies, edit.units, count, TOLERANCE, np.random.default_rng([seed, t]))
        for t, (target, edit) in enumerate(design.edits.items())
    }

    def another(target: str, draw: int) -> Edit:
        edit = design.edits[target]
        return ablate(tuple(drawn[target][draw].tolist()), ablation, means=means, alpha=edit.alpha, region=edit.region)

    return [replace(design, edits={target: another(target, draw) for target in drawn}) for draw in range(count)]


def matched(
    energy: np.ndarray, own: Sequence[int], count: int, tolerance: float, rng: np.random.Generator
) -> np.ndarray:
    """Random sets of units, as many as a set's own and none of them, whose summed energy is about that of its own.

    Each begins as random units. One of them is swapped for one outside, at random among the swaps that bring the sum nearer and
    give a set not found before, until the sum is near enough or no such swap is left. So all sets differ; where the own units
    are the strongest, no set is near enough, and the nearest stand together.

    Parameters
    ----------
    energy : (C,)
        Of every unit, not negative.
    own : sequence of int
        K units.
    count : int
        How many sets.
    tolerance : float
        How far the sum may be from that of the own, as a share of it.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        Shape (count, K), each set in rising order.

    Raises
    ------
    ValueError
        If there are fewer sets.
    """
    size, others = len(own), np.setdiff1d(np.arange(len(energy)), own)
    if count > comb(len(others), size):
        raise ValueError(f"{len(others)} units have fewer than {count} sets of {size}")
    found: dict[frozenset[int], None] = {}
    wanted = energy[list(own)].sum()
    for _ in range(count):
        order = rng.permutation(others)  # the first of them are the set
        while _set(order[:size]) in found:
            order = rng.permutation(others)
        gap = energy[order[:size]].sum() - wanted
        while abs(gap) > tolerance * wanted:
            change = energy[order[size:]] - energy[order[:size], None]
            for out, into in rng.permutation(np.argwhere(abs(gap + change) < abs(gap))):
                swapped = order.copy()
                swapped[[out, size + into]] = order[[size + into, out]]
                if _set(swapped[:size]) not in found:
                    order, gap = swapped, gap + change[out, into]
                    break
            else:
                break
        found[_set(order[:size])] = None
    return np.array([sorted(some) for some in found], int).reshape(count, size)


def moments(runner: Runner, z: Tensor, rows: int) -> tuple[Tensor, np.ndarray]:
    """Each unit's mean, and its energy, the mean of its square, over latents (n, latent_dim) and positions: (C,) both."""
    sums = torch.zeros(2, runner.units, dtype=torch.float64)
    for some in z.split(max(1, rows // 2)):
        x = runner.activations(some).double()
        sums += torch.stack([x.mean(dim=(2, 3)), x.square().mean(dim=(2, 3))]).sum(dim=1).cpu()
    means, energies = sums / len(z)
    return means.float(), energies.numpy()


def _exact(design: Design) -> Design:
    """The design with those of its held sets whose baseline is the reference."""
    if not design.exact:
        raise UsageError("sites and placebos need a control whose baseline is the unedited image: add capped or frozen")
    return replace(design, held=design.exact, twins={})


def _responding(runner: Runner) -> list[str]:
    among = [site for site in runner.downstream if runner.responds[site]]
    if not among:
        raise UsageError(f"no site after {runner.layer} responds to an edit: there is no effect to share out")
    return among


def _draws(design: Design, units: int, count: int) -> int:
    """How many of the placebos that are asked for there are."""
    for target, edit in design.edits.items():
        size, others = len(edit.units), units - len(edit.units)
        if others < size:
            raise UsageError(f"{target}: {size} of {units} units are edited, which leaves no placebo: edit fewer")
        count = min(count, comb(others, size))
    return count


def _set(units: np.ndarray) -> frozenset[int]:
    return frozenset(units.tolist())


@dataclass(frozen=True)
class Variant:
    """A store that is asked for."""

    name: str
    """Of its folder."""
    told: str
    """What it is, for a line of progress."""
    images: int
    """How many images it takes."""
    blank: xr.Dataset
    """It, without the counts."""
    write: Callable[[Advance], None]
    """Measures it and writes it, whole."""


@dataclass
class Variants:
    """What is measured of one study under variants of its design.

    Parameters
    ----------
    folder : Path
        Of the run.
    runner, segmenter
        The networks.
    design : Design
        The arms of the study.
    attrs : mapping
        Of the study's panel; its `ablation`, `seed` and `precision` are used.
    latents, ranking : int
        How many the study has, and how many its units were ranked on.
    rows : int
        Images that may be made at once.
    executor : Executor
        Where the latents are measured.
    twins : mapping of Held to nn.Module
        The networks of the design's twins.
    """

    folder: Path
    runner: Runner
    segmenter: Segmenter
    design: Design
    attrs: Mapping[str, Any]
    latents: int
    ranking: int
    rows: int
    executor: Executor
    twins: Mapping[Held, nn.Module] = field(default_factory=dict)

    def asked(
        self, alphas: Sequence[float] = (), sites: bool = False, placebos: int = 0, second: Segmenter | None = None
    ) -> list[Variant]:
        """The variants that are asked for; what they take can be told before anything is measured.

        Parameters
        ----------
        alphas : sequence of float
            Doses in [0, 1], of which one is above 0; none: no dose-response.
        sites : bool
            Whether the effect is to be shared out among the sites.
        placebos : int
            How many random sets of units for each target.
        second : Segmenter, optional
            Another segmenter, which looks at the targets that it knows.

        Raises
        ------
        UsageError
            If the doses are none, no site responds, the design has no arms or no units for placebos, or the second segmenter knows no
            target.
        """
        return [
            *([self._dose(sorted({float(alpha) for alpha in alphas}))] if alphas else []),
            *([self._sites()] if sites else []),
            *([self._placebos(placebos)] if placebos else []),
            *([self._second(second)] if second is not None else []),
        ]

    def has(self, variant: Variant) -> bool:
        """Whether the run's folder has a variant: of these latents, arms and segmenter, and of these doses or draws among others."""
        path = self.folder / variant.name
        if not path.is_dir():
            return False
        stored, asked = read_panel(path), _coords(variant.blank)
        if stored.attrs.get("segmenter_weights") != variant.blank.attrs.get("segmenter_weights"):
            return False
        more = {name: asked[name].values for name in ("dose", "draw") if name in asked}
        if not all(np.isin(values, stored[name]).all() for name, values in more.items()):
            return False
        return _coords(stored.sel(more)).equals(asked)

    def clear(self) -> None:
        """Remove what was kept to go on with."""
        with explained(self.folder):
            remove(self.folder / PARTS)

    def _dose(self, alphas: list[float]) -> Variant:
        if not (0 <= alphas[0] <= alphas[-1] <= 1 and alphas[-1] > 0):
            raise UsageError(f"doses {', '.join(map(str, alphas))}: choose some between 0 and 1, one of them above 0")
        blank = self._blank(self.design, LATENTS).assign_coords(dose=alphas)
        del blank.attrs["alpha"]
        designs = dose(self.design, [alpha for alpha in alphas if alpha > 0])

        def write(advance: Advance) -> None:
            counts = self._measure(list(designs.values()), blank, advance)
            if alphas[0] == 0:  # an edit that goes no way leaves every arm its baseline
                unedited = _baselines(self.design)
                counts = {name: np.concatenate([of[:1, :, :, unedited], of]) for name, of in counts.items()}
            self._write(DOSE, blank, counts, "dose")

        return Variant(DOSE, "dose-response", self._images(designs.values(), blank), blank, write)

    def _sites(self) -> Variant:
        seed, among = int(self.attrs["seed"]), _responding(self.runner)
        whole = sites(self.design, self.runner, _exact(self.design).held[0].control, seed)
        orders = 0 if len(among) <= EXACT else ORDERS
        blank = self._blank(whole, FEWER).sel(site=among).assign_attrs(orders=orders, orders_seed=seed)
        # There are so many arms that each target is measured by itself.
        designs = [replace(whole, edits={target: edit}) for target, edit in whole.edits.items()]

        def write(advance: Advance) -> None:
            counts = self._measure(designs, blank, advance)
            self._write(SITES, blank, {name: np.concatenate(of, axis=1) for name, of in counts.items()})

        return Variant(SITES, "sites", self._images(designs, blank), blank, write)

    def _placebos(self, count: int) -> Variant:
        design = _exact(self.design)
        draws = _draws(design, self.runner.units, count)
        blank = self._blank(design, FEWER).assign_coords(draw=np.arange(draws))
        blank = blank.drop_vars(["units", "values"], errors="ignore")

        def write(advance: Advance) -> None:
            means, energies = self._moments()
            how = self.attrs["ablation"], means
            designs = placebos(design, energies, draws, int(self.attrs["seed"]), *how)
            counts = self._measure(designs, blank, advance)
            units = np.stack([self._frame(one)["units"].values for one in designs])
            energy = [[energies[list(edit.units)].sum() for edit in one.edits.values()] for one in (design, *designs)]
            with np.errstate(divide="ignore", invalid="ignore"):  # units that are silent
                ratio = np.divide(energy[1:], energy[0])
            drawn = blank.assign(units=(("draw", "target", "rank"), units), energy=(("draw", "target"), ratio))
            self._write(PLACEBOS, drawn, counts, "draw")

        return Variant(PLACEBOS, "placebo units", self._images([design] * draws, blank), blank, write)

    def _second(self, segmenter: Segmenter) -> Variant:
        def known(edits: Mapping[str, Edit]) -> dict[str, Edit]:
            return {target: edit for target, edit in edits.items() if target in segmenter.classes}

        name = getattr(segmenter, "name", None) or type(segmenter).__name__
        design = replace(
            self.design,
            edits=known(self.design.edits),
            twins={twin: known(its) for twin, its in self.design.twins.items()},
        )
        if not design.edits:
            targets = ", ".join(self.design.edits)
            raise UsageError(f"the second segmenter, {name}, knows no {targets}: name one that does, or another target")
        by = replace(self, segmenter=segmenter)
        blank = by._blank(design, LATENTS).assign_attrs(segmenter=name, segmenter_weights=by._weights)

        def write(advance: Advance) -> None:
            counts = by._measure([design], blank, advance)
            by._write(SECOND, blank, {name: of[0] for name, of in counts.items()})

        return Variant(SECOND, "second segmenter", by._images([design], blank), blank, write)

    def _moments(self) -> tuple[Tensor, np.ndarray]:
        generator: Any = self.runner.generator
        z = latents(int(self.attrs["seed"]), range(self.ranking), generator.latent_dim, "ranking")
        while True:
            try:
                with arithmetic(self.runner.device, self.attrs["precision"]):
                    return moments(self.runner, z.to(self.runner.device), self.rows)
            except torch.OutOfMemoryError:
                self.rows = fewer_rows(self.rows, self.runner.device)

    def _frame(self, design: Design) -> xr.Dataset:
        """The panel of a design, without latents."""
        return empty_panel(self.runner, self.segmenter, design, self.attrs, judged=False)

    def _blank(self, design: Design, latents: int) -> xr.Dataset:
        """What a panel of a design says of itself, on the first latents of the study."""
        frame = self._frame(design).drop_dims(["latent", "quantile", "v", "u", "y", "x"])
        return frame.assign_coords(latent=np.arange(min(self.latents, latents))).assign_attrs(batch=self._batch(design))

    def _batch(self, design: Design) -> int:
        return max(1, min(self.rows // len(design.distinct()), LATENTS_KEPT))

    def _images(self, designs: Iterable[Design], blank: xr.Dataset) -> int:
        return blank.sizes["latent"] * sum(design.images for design in designs)

    def _measure(self, designs: Sequence[Design], blank: xr.Dataset, advance: Advance) -> dict[str, np.ndarray]:
        """The counts of some designs of the same arms: (design, latent, target, arm, object)."""
        parts = chunked(blank["latent"].values.tolist(), LATENTS_KEPT)
        chunks = {(d, *part): self._part(one, part) for d, one in enumerate(designs) for part in parts}
        left = [chunk for chunk, path in chunks.items() if not path.is_file()]
        advance(sum((len(chunk) - 1) * designs[chunk[0]].images for chunk in chunks.keys() - set(left)))
        how: dict[str, Any] = {
            "generator": self.runner.generator,
            "segmenter": self.segmenter,
            "discriminator": None,
            "layer": self.runner.layer,
            "seed": int(self.attrs["seed"]),
            "precision": self.attrs["precision"],
            "batch": self._batch(designs[0]),
            "rows": self.rows,
            "twins": self.twins,
        }
        failed = ""
        for chunk, measured in self.executor.map(partial(_Worker, designs, **how), left):
            if isinstance(measured, Failed):
                failed = measured.reason
                continue
            path = chunks[chunk]
            with explained(path):
                path.parent.mkdir(exist_ok=True)
                with replacing(path) as aside, aside.open("wb") as file:
                    np.savez_compressed(file, **{name: measured[name] for name in COUNTS})  # type: ignore[arg-type]
            advance((len(chunk) - 1) * designs[chunk[0]].images)
        if failed:
            raise GandidError(f"some latents could not be measured: {failed}; the same call tries them again")
        kept = [_read(path) for path in chunks.values()]
        joined = {name: np.concatenate([part[name] for part in kept]) for name in COUNTS}
        return {name: rows.reshape(len(designs), -1, *rows.shape[1:]) for name, rows in joined.items()}

    @cached_property
    def _weights(self) -> str:
        return fingerprint(self.segmenter)

    def _part(self, design: Design, numbers: Sequence[int]) -> Path:
        """Where the counts of some latents are kept: a name that no other design has."""
        edits = [design.edits, *design.twins.values()]
        told = [
            [(t, e.units, e.alpha, None if e.values is None else e.values.tolist()) for t, e in its.items()]
            for its in edits
        ]
        seen = told, design.arms, self._weights
        digest = hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
        return self.folder / PARTS / f"{digest}-{numbers[0]}-{numbers[-1]}.npz"

    def _write(self, variant: str, blank: xr.Dataset, counts: Mapping[str, np.ndarray], *more: str) -> None:
        """Write a store; `more` are the dimensions that it has and a panel has not."""
        dims = (*more, "latent", "target", "arm", "object")
        write_dataset(self.folder / variant, blank.assign({name: (dims, of) for name, of in counts.items()}))


class _Worker(Worker):
    """Measures the counts of several designs of the same arms; a chunk is a design's number and then its latents."""

    def __init__(self, designs: Sequence[Design], **how: Any):
        super().__init__(design=designs[0], plain=True, **how)
        self.designs = designs

    def measure(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """See `Worker.measure`."""
        self.design = self.designs[numbers[0]]
        return super().measure(numbers[1:])


def _baselines(design: Design) -> list[int]:
    """The place of each arm's baseline among the arms; that of an unedited arm is its own."""
    names = design.arms
    edited = [name for name in names if name != "reference" and not name.endswith("/unedited")]
    own = {name: f"{name}/unedited" if f"{name}/unedited" in names else "reference" for name in edited}
    return [names.index(own.get(name, name)) for name in names]


def _read(path: Path) -> dict[str, np.ndarray]:
    with explained(path), np.load(path) as stored:
        return dict(stored)


def _coords(dataset: xr.Dataset) -> xr.Dataset:
    return xr.Dataset(coords=dataset.coords)
