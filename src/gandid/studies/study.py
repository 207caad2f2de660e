"""`Study`: a generator, a segmenter and a layer; ranks units, runs the arms, and keeps the potential outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from rich.progress import Progress
from torch import Tensor, nn

from gandid.errors import UsageError
from gandid.generators import NAMED, load_discriminator
from gandid.interventions import Runner, ablate
from gandid.relation import relate, top_units
from gandid.segmenters import Segmenter
from gandid.studies import folder
from gandid.studies.config import StudyConfig
from gandid.studies.design import CHECKED, JUDGED, QUANTILES, Design, Held, exact_checks, measure
from gandid.studies.examples import collect
from gandid.studies.latents import latents

UNITS = 20  # as in Liu et al.; a fifth of the layer's units if that is fewer
PRESENCE = 0.003  # share of the image from which a class counts as present
_ROWS = 128  # images made at once: more of them no longer fit the cache


class Study:
    """An experiment on one layer of a generator.

    Parameters
    ----------
    generator : nn.Module
        Maps latents (N, latent_dim) to images (N, 3, H, W) in [-1, 1]; see `gandid.load_generator`.
    segmenter : Segmenter
        See `gandid.load_segmenter`.
    layer : str, optional
        Whose output is edited; the default layer of an embedded model.
    seed : int
        Of the latents. Ranking and effects use different latents of the same seed.

    Raises
    ------
    UsageError
        If there is no such layer, no normalization after it, or no layer was named and the generator has no default.
    """

    def __init__(self, generator: nn.Module, segmenter: Segmenter, layer: str | None = None, seed: int = 0):
        name = getattr(generator, "name", None) or type(generator).__name__
        if layer is None:
            if name not in NAMED:
                known = ", ".join(getattr(generator, "layers", ()))
                raise UsageError(f"name the layer to edit: this generator has {known}")
            layer = NAMED[name].default_layer
        self.generator: Any = generator
        self.segmenter, self.seed, self.name = segmenter, seed, name
        self.runner = Runner(generator, layer)
        if not self.runner.downstream:
            raise UsageError(f"no normalization runs after layer '{layer}': there is nothing to hold")
        self.device = next(generator.parameters()).device
        self.discriminator = load_discriminator(name, self.device)

    @property
    def layer(self) -> str:
        """The layer whose output is edited."""
        return self.runner.layer

    @property
    def objects(self) -> tuple[str, ...]:
        """The segmenter's object classes: neither background nor `unknown`."""
        return tuple(c for c in self.segmenter.classes if c not in self.segmenter.background and c != "unknown")

    def relate(self, latents: int = 128, progress: Progress | None = None) -> xr.Dataset:
        """ACE, IoU and energy of every unit for every class, over `latents` latents: see `gandid.relation.relate`."""
        z = self._latents(range(latents), "ranking")
        with _Task(progress, "ranking units", latents) as task:
            return relate(self.runner, self.segmenter, z, task.advance)

    def run(
        self,
        targets: str | Sequence[str] | Mapping[str, Sequence[int]] | None = None,
        units: int | None = None,
        control: str | Sequence[str] = "capped",
        hold: str | Sequence[str] = ("first", "all"),
        latents: int = 512,
        *,
        ablation: str = "zero",
        alpha: float = 1.0,
        ranking_latents: int = 128,
        store: str | Path | None = None,
        progress: Progress | None = None,
        command: str | None = None,
    ) -> xr.Dataset:
        """Run every arm on every latent: the panel of potential outcomes.

        Parameters
        ----------
        targets : str, sequence of str, or mapping of str to units, optional
            The classes whose units are ablated, all objects by default. A mapping names the units; otherwise they are the
            `units` of largest ACE on the class.
        units : int, optional
            How many; 20 by default, or a fifth of the layer's units if that is fewer.
        control : str or sequence of str
            `capped`, `frozen` (THEORY, "Objects").
        hold : str or sequence of str
            `first`, `all`, or site names joined by `+`; each is a held set of its own.
        latents : int
            How many.
        ablation, alpha
            `zero`, `mean` or `resample`, and the share of the way there.
        ranking_latents : int
            Latents on which the units are ranked; not those of the effects.
        store : str or Path, optional
            Folder to write the run into (DESIGN, "Public contract"). If it already holds this study, that one is returned.
        progress : rich.progress.Progress, optional
            Where to show progress.
        command : str, optional
            What reproduces the run; kept in `config.yaml`.

        Returns
        -------
        xarray.Dataset
            See docs/panel.md.

        Raises
        ------
        UsageError
            If a target, unit, control or site is unknown, or `store` is something else than this study.
        """
        config = StudyConfig.check(
            generator=self.name,
            segmenter=getattr(self.segmenter, "name", None) or type(self.segmenter).__name__,
            layer=self.layer,
            targets={k: tuple(v) for k, v in targets.items()} if isinstance(targets, Mapping) else targets,
            units=units,
            control=control,
            hold=hold,
            latents=latents,
            ablation=ablation,
            alpha=alpha,
            ranking_latents=ranking_latents,
            seed=self.seed,
        )
        named = self._targets(config)
        held = self._held(config)
        description: dict[str, Any] = config.model_dump(mode="json")
        resolved = {
            "version": folder.package_version(),
            "weights": {
                "generator": folder.fingerprint(self.generator),
                "segmenter": folder.fingerprint(self.segmenter),
            },
        }
        if store is not None and folder.holds_same(Path(store), {**description, "resolved": resolved}):
            return folder.open_panel(Path(store))

        relation = None
        chosen = {target: units for target, units in named.items() if units is not None}
        if len(chosen) < len(named):
            relation = self.relate(config.ranking_latents, progress)
            count = config.units or min(UNITS, max(1, self.runner.units // 5))
            chosen = {target: units or top_units(relation, target, count) for target, units in named.items()}
        means = self._means(config.ranking_latents) if config.ablation == "mean" else None
        design = Design(
            {t: ablate(u, config.ablation, means=means, alpha=config.alpha) for t, u in chosen.items()},
            held,
            shrinking=config.ablation == "zero" and self.generator.__class__.__module__.startswith("gandid."),
        )
        panel = self._measure(design, config, progress)
        panel = panel.assign(units=(("target", "rank"), _padded(list(chosen.values()))))
        if store is not None:
            description["resolved"] = resolved | {
                "command": command,
                "chosen": {target: list(units) for target, units in chosen.items()},
            }
            with _Task(progress, "writing the run", 1), folder.writing(Path(store)) as aside:
                examples = collect(self.runner, self.segmenter, design, panel, self.seed)
                folder.write_parts(aside, description, panel, relation, examples)
        return panel

    def _targets(self, config: StudyConfig) -> dict[str, tuple[int, ...] | None]:
        """{target: units, or None where they are to be ranked}."""
        asked = config.targets or self.objects
        named: dict[str, tuple[int, ...] | None] = dict(asked) if isinstance(asked, dict) else dict.fromkeys(asked)
        for target, units in named.items():
            if target not in self.segmenter.classes or target == "unknown":
                known = ", ".join(c for c in self.segmenter.classes if c != "unknown")
                raise UsageError(f"unknown class '{target}': this segmenter sees {known}")
            if units is not None:
                wrong = [unit for unit in units if not 0 <= unit < self.runner.units]
                if wrong or not units:
                    told = f"unit {wrong[0]} is out of range" if wrong else "no units are named"
                    raise UsageError(f"{target}: {told}; {self.layer} has units 0 to {self.runner.units - 1}")
                named[target] = tuple(dict.fromkeys(units))
        if config.units is not None and config.units > self.runner.units:
            raise UsageError(f"{config.units} units are asked for, but {self.layer} has only {self.runner.units}")
        return named

    def _held(self, config: StudyConfig) -> tuple[Held, ...]:
        for which in config.hold:
            for site in [] if which in ("first", "all") else which.split("+"):
                if site not in self.runner.downstream:
                    known = ", ".join(self.runner.downstream)
                    raise UsageError(f"unknown site '{site}': after {self.layer} come {known} (or say first, all)")
        return tuple(Held(control, which) for control in config.control for which in config.hold)

    def _means(self, latents: int) -> Tensor:
        """Each unit's mean over latents and positions: (C,)."""
        z = self._latents(range(latents), "ranking")
        return torch.cat([self.runner.activations(some).mean(dim=(2, 3)) for some in z.split(64)]).mean(dim=0)

    def _latents(self, indices: range, stream: str = "effects") -> Tensor:
        return latents(self.seed, indices, self.generator.latent_dim, stream).to(self.device)

    def _measure(self, design: Design, config: StudyConfig, progress: Progress | None) -> xr.Dataset:
        batch = max(2, _ROWS // len(design.distinct()))
        chunks: list[dict[str, np.ndarray]] = []
        with _Task(progress, "running the arms", config.latents) as task:
            for start in range(0, config.latents, batch):
                indices = range(start, min(start + batch, config.latents))
                donors = self._latents(indices, "donors") if config.ablation == "resample" else None
                chunks.append(
                    measure(
                        self.runner,
                        self.segmenter,
                        design,
                        self._latents(indices),
                        donors=donors,
                        discriminator=self.discriminator if start < JUDGED else None,
                    )
                )
                task.advance(len(indices))
        checks = exact_checks(self.runner, design, self._latents(range(min(CHECKED, config.latents))))
        return self._panel(design, config, chunks, checks)

    def _panel(
        self, design: Design, config: StudyConfig, chunks: list[dict[str, np.ndarray]], checks: dict[str, np.ndarray]
    ) -> xr.Dataset:
        """Label the measured arrays (docs/panel.md)."""
        n, classes = config.latents, self.segmenter.classes
        dims = {
            "pixels": ("latent", "target", "arm", "object"),
            "inside": ("latent", "target", "arm", "object"),
            "realism": ("latent", "target", "arm"),
            "strain": ("latent", "target", "arm", "site", "quantile"),
            "natural": ("latent", "site"),
            "gain": ("latent", "target"),
            "gain_outside": ("latent", "target"),
            "gain_error": ("latent", "target"),
            "placebo_gap": ("latent", "target"),
            "baseline_gap": ("latent", "arm"),
            "gain_map": ("target", "v", "u"),
            "inpainted_map": ("target", "arm", "y", "x"),
        }
        variables: dict[str, Any] = {}
        for name, axes in dims.items():
            if axes[0] != "latent":
                values = np.sum([chunk[name] for chunk in chunks], axis=0).astype(np.float32) / n
            else:
                parts = [checks[name]] if name in checks else [chunk[name] for chunk in chunks if name in chunk]
                if not parts:
                    continue
                values = np.concatenate(parts)
                if len(values) < n:  # measured on the first latents only
                    values = np.concatenate([values, np.full((n - len(values), *values.shape[1:]), np.nan, np.float32)])
            variables[name] = (axes, values)
        arms = design.arms
        return xr.Dataset(
            variables,
            coords={
                "latent": np.arange(n),
                "target": list(design.edits),
                "arm": arms,
                "object": list(classes),
                "site": list(self.runner.downstream),
                "quantile": list(QUANTILES),
                "edit": ("arm", np.array([arm != "reference" for arm in arms])),
                "control": ("arm", ["none", "none", *(h.control for h in design.held)]),
                "held": ("arm", ["none", "none", *(h.which for h in design.held)]),
                "background": ("object", np.array([c in self.segmenter.background for c in classes])),
            },
            attrs={
                "generator": config.generator,
                "segmenter": config.segmenter,
                "layer": self.layer,
                "ablation": config.ablation,
                "alpha": config.alpha,
                "seed": config.seed,
                "image_pixels": self.generator.resolution**2,
                "presence": PRESENCE,
                "version": folder.package_version(),
            },
        )


class _Task:
    """A line of a progress display, where there is one."""

    def __init__(self, progress: Progress | None, description: str, total: int):
        self.progress = progress
        self.task = progress.add_task(description, total=total) if progress else None

    def __enter__(self) -> _Task:
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress and self.task is not None:
            self.progress.update(self.task, completed=self.progress.tasks[self.task].total)

    def advance(self, steps: int) -> None:
        if self.progress and self.task is not None:
            self.progress.advance(self.task, steps)


def _padded(rows: list[tuple[int, ...]]) -> np.ndarray:
    """Rows of different lengths as one array, -1 where a row ends early."""
    table = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
