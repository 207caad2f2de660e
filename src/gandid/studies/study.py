"""`Study`: a generator, a segmenter and a layer; ranks units, runs the arms, and keeps the potential outcomes."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import xarray as xr
from rich.progress import Progress
from torch import Tensor, nn

from gandid.did import evidence, stopping
from gandid.errors import GandidError, UsageError
from gandid.generators import NAMED, load_discriminator, load_generator
from gandid.interventions import EXACT_CONTROLS, Edit, Runner, ablate, layers_of
from gandid.relation import relate, top_units
from gandid.relation.soft import check_gradients
from gandid.segmenters import SECOND, Segmenter, load_segmenter, objects_of
from gandid.studies import figure, folder
from gandid.studies.config import Precision, Ranking, StudyConfig, Threshold
from gandid.studies.design import Design, Held, short_names
from gandid.studies.examples import collect
from gandid.studies.executors import Executor, Failed, Local
from gandid.studies.folder import Finish
from gandid.studies.latents import chunked, latents
from gandid.studies.memory import rows_that_fit
from gandid.studies.panel import empty_panel
from gandid.studies.store import SUMMED, PanelStore
from gandid.studies.variants import Variant, Variants
from gandid.studies.worker import Worker, arithmetic, calibrate, fewer_rows
from gandid.training.confusion import confusion, has_truth

UNITS = 20  # as in Liu et al.; a fifth of the layer's units if that is fewer
PRESENCE = 0.003  # share of the image from which a class counts as present
LATENTS_KEPT = 16  # at least so many are measured between two writes to the panel
LATENTS_TOGETHER = 256  # at most so many, but whole batches
MOST_CHUNKS = 256  # a study is written in about so many


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
    precision : {"fp32", "bf16"}
        Of the networks' arithmetic; statistics of sites are computed in fp32 either way.
    memory : int, optional
        Bytes that the run may use beside the weights; half of what is free by default.
    twins : mapping of str to nn.Module, optional
        By name, generators that were trained on the same data without the normalization: the control `twin`. An embedded
        generator brings its own.

    Raises
    ------
    UsageError
        If there is no such layer, no normalization after it, no layer was named and the generator has no default, or a twin is
        none: it has another layer, or makes images of another size.
    """

    def __init__(
        self,
        generator: nn.Module,
        segmenter: Segmenter,
        layer: str | None = None,
        seed: int = 0,
        *,
        precision: Precision = "fp32",
        memory: int | None = None,
        twins: Mapping[str, nn.Module] | None = None,
    ):
        name = getattr(generator, "name", None) or type(generator).__name__
        if layer is None:
            if name not in NAMED:
                raise UsageError(f"name the layer to edit: this generator has {layers_of(generator)}")
            layer = NAMED[name].default_layer
        self.generator: Any = generator
        self.segmenter, self.seed, self.name = segmenter, seed, name
        self.runner = Runner(generator, layer)
        if not self.runner.downstream:
            raise UsageError(f"no normalization runs after layer '{layer}': there is nothing to hold")
        self.device = self.runner.device
        self.discriminator = load_discriminator(name, self.device)
        self.precision = precision
        with arithmetic(self.device, precision):
            self.rows = rows_that_fit(self.runner, segmenter, self._latents(range(2)), memory)
        self.twins = {name: self._twin(name, network) for name, network in (twins or {}).items()}
        self._seconds: dict[str, Segmenter] = {}

    @property
    def layer(self) -> str:
        """The layer whose output is edited."""
        return self.runner.layer

    @property
    def objects(self) -> tuple[str, ...]:
        """The segmenter's object classes: neither background nor `unknown`."""
        return objects_of(self.segmenter)

    def relate(
        self,
        latents: int = 128,
        progress: Progress | None = None,
        kept: Path | None = None,
        *,
        ranking: Ranking = "exact",
        targets: Sequence[str] | None = None,
        units: int | None = None,
        iou_threshold: Threshold = "quantile",
    ) -> xr.Dataset:
        """ACE, IoU and energy of every unit for every class, over `latents` latents: see `gandid.relation.relate`.

        `units` are how many are to be chosen for each target, as in `run`.
        """
        return self._relate(
            self.runner, latents, progress, kept, units, ranking=ranking, targets=targets, iou_threshold=iou_threshold
        )

    def _relate(
        self,
        runner: Runner,
        latents: int,
        progress: Progress | None,
        kept: Path | None,
        units: int | None,
        **how: Any,
    ) -> xr.Dataset:
        """`relate`, of this generator or of a twin."""
        z = self._latents(range(latents), "ranking", runner)
        told = "ranking units" if runner is self.runner else "ranking a twin's"
        while True:
            try:
                with _Task(progress, told, latents) as task, arithmetic(self.device, self.precision):
                    count = units or self._few()
                    return relate(
                        runner, self.segmenter, z, task.advance, count=count, rows=self.rows, kept=kept, **how
                    )
            except torch.OutOfMemoryError:
                self.rows = fewer_rows(self.rows, self.device)

    def run(
        self,
        targets: str | Sequence[str] | Mapping[str, Sequence[int]] | None = None,
        units: int | None = None,
        control: str | Sequence[str] = "capped",
        hold: str | Sequence[str] = ("first", "all"),
        latents: int = 512,
        *,
        until: float | None = None,
        max_latents: int = 20_000,
        ablation: str = "zero",
        alpha: float = 1.0,
        ranking: Ranking = "exact",
        ranking_latents: int = 128,
        iou_threshold: Threshold = "quantile",
        figure: bool = False,
        sites: Literal["shapley"] | None = None,
        dose: bool | Sequence[float] = False,
        placebos: int = 0,
        store: str | Path | None = None,
        chunk: str | None = None,
        executor: Executor | None = None,
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
            `capped`, `frozen`, `mean`, `twin` (THEORY, "Objects"). A twin is compared as a whole: `hold` says nothing of it, and
            its units are ranked on it.
        hold : str or sequence of str
            `first`, `all`, or site names joined by `+`; each is a held set of its own.
        latents : int
            How many.
        until : float, optional
            Go on until the confidence sequences of what is removed and in-painted have this half-width at most, as a share of the
            target's original pixels (`gandid.did.stopping.half_widths`): `latents` are the first look.
        max_latents : int
            How many at most, then.
        ablation, alpha
            `zero`, `mean` or `resample`, and the share of the way there.
        ranking : {"exact", "screened", "optimized"}
            How the units are chosen, where they are not named: by their ACE, measured or screened, or by the `alpha` that is
            learned for all of them together (docs/relation.md).
        ranking_latents : int
            Latents on which the units are ranked; not those of the effects.
        figure : bool
            Measure what the paper's figure shows beside the effects, too: the relation after each ablation, and insertion
            (docs/relation.md). It is written into `store`; a finished run is given it without being run again.
        iou_threshold : {"quantile", "maximizing"}
            Where a unit counts as active for its IoU (docs/relation.md).
        sites : {"shapley"}, optional
            Share each effect out among the sites, too; as `figure`, written into `store`, and so are the next two.
        dose : bool or sequence of float
            Ablate by these shares as well; True: by 0, 0.1, ..., 1.
        placebos : int
            Ablate so many random sets of units as well, for each target, as many and of about the same energy.
        store : str or Path, optional
            Folder to write the run into (DESIGN, "Public contract"). What it already holds of this study is kept and not
            computed again: a run that was cut short goes on, and one of fewer latents is extended.
        chunk : str, optional
            `K/N`: measure only the K-th of N equal parts of the latents, for `gandid.studies.merge` to join.
        executor : Executor, optional
            Where the latents are measured; this process by default.
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
            If a target, unit, control or site is unknown, `store` is something else than this study, or `figure`, `sites`,
            `dose` or `placebos` are asked for without a `store`.
        """
        config = StudyConfig.check(
            targets={k: tuple(v) for k, v in targets.items()} if isinstance(targets, Mapping) else targets,
            units=units,
            control=control,
            hold=hold,
            latents=latents,
            until=until,
            max_latents=max_latents,
            ablation=ablation,
            alpha=alpha,
            ranking=ranking,
            ranking_latents=ranking_latents,
            iou_threshold=iou_threshold,
            figure=figure,
            sites=sites,
            dose=dose,
            placebos=placebos,
            chunk=chunk,
        )
        return self.execute(config, store=store, executor=executor, progress=progress, command=command)

    def execute(
        self,
        config: StudyConfig,
        *,
        store: str | Path | None = None,
        executor: Executor | None = None,
        progress: Progress | None = None,
        command: str | None = None,
        finish: Finish | None = None,
    ) -> xr.Dataset:
        """As `run`, of a configuration; its networks, layer, seed and precision are this study's.

        `finish` is given the folder `store` and the effects of the run in it, once they are there: the report's `build` is one.
        """
        config = self._settled(config)
        named, held, twins = self.targets(config), self._held(config), self._twins(config)
        self._can_rank(config, named)
        self._second(config)
        executor = executor or Local()
        if store is None:
            if config.figure or config.sites or config.dose or config.placebos:
                raise UsageError("a figure, sites, doses and placebos are written into a run's folder: name a store")
            design, _ = self._design(config, named, held, twins, progress)
            panel = self._create(None, design, config)
            self._fill(panel, design, config.numbers(), executor, progress)
            while not _enough(panel.read(), config):
                config = _further(config)
                self._fill(panel, design, config.numbers(), executor, progress)
            return panel.read().load()

        path = Path(store)
        description = self._description(config, command)
        with folder.writing(path, description):
            if (path / "panel.zarr").is_dir():
                panel = PanelStore(path / "panel.zarr")
                design = _restored(panel.read(), held, tuple(twins), **self._alike(config, held))
                if config.until is not None:  # it goes on with the look that was under way
                    there = folder.read_config(path)["latents"]
                    config = config.model_copy(update={"latents": max(config.latents, there)})
            else:
                folder.write_config(path, description)
                design, relation = self._design(config, named, held, twins, progress, path)
                if relation is not None:
                    folder.write_relation(path, relation)
                panel = self._create(path / "panel.zarr", design, config)
                folder.remove_rankings(path)
            calibrate(self.runner, design, self.seed, self.rows)
            description["figure"] = config.figure or figure.is_complete(path)
            # What cannot be measured of this design is told before the arms are.
            self.asked(self.variants(path, config, design, panel.read().attrs, config.latents, executor), config)
            description["latents"] = config.latents
            complete = set(panel.latents) >= set(config.numbers()) and _enough(panel.read(), config)
            if complete and folder.is_finished(path):
                self._add_figure(path, config, design, progress)
                added = self._add_variants(path, config, design, executor, progress)
                measured = folder.open_panel(path)
                effects = folder.revise(path, description, measured, anew=added)
                if finish:
                    finish(path, effects)
                return measured
            folder.remove_estimates(path)  # they would be of another panel
            description["resolved"]["chosen"] = {target: list(edit.units) for target, edit in design.edits.items()}
            folder.write_config(path, description)
            speed = self._fill(panel, design, config.numbers(), executor, progress)
            while not _enough(panel.read(), config):
                config = _further(config)
                folder.write_config(path, description | {"latents": config.latents})
                speed = self._fill(panel, design, config.numbers(), executor, progress)
            description["latents"] = config.latents
            description["resolved"]["images_per_second"] = round(speed, 2)
            folder.write_config(path, description)
            self._add_figure(path, config, design, progress)
            self._add_variants(path, config, design, executor, progress)
            with _Task(progress, "writing the run", 1):
                measured = folder.open_panel(path)
                with arithmetic(self.device, self.precision):
                    examples = collect(self.runner, self.segmenter, design, measured, self.seed, twins)
                folder.write_examples(path, examples)
                effects = folder.write_estimates(path, measured)
            if finish:
                finish(path, effects)
            return measured

    def check(self, config: StudyConfig, store: Path | None = None) -> None:
        """Raise the `UsageError` that `execute` would, before anything is computed or written."""
        config = self._settled(config)
        self._held(config)
        self._twins(config)
        self._second(config)
        self._can_rank(config, self.targets(config))
        if store is not None and (store / "config.yaml").is_file():
            folder.check_same(store, self._description(config, None))

    def _can_rank(self, config: StudyConfig, named: Mapping[str, tuple[int, ...] | None]) -> None:
        """Raise `UsageError` if units are to be ranked by gradients and the segmenter has none."""
        if config.ranking != "exact" and (None in named.values() or config.twin):
            with arithmetic(self.device, self.precision):
                check_gradients(self.runner, self.segmenter, self._latents(range(1)))

    def unit_count(self, config: StudyConfig) -> int:
        """How many units are edited of a target whose units are not named."""
        return config.units or self._few()

    def _few(self) -> int:
        return min(UNITS, max(1, self.runner.units // 5))

    def chunk_length(self, panel: xr.Dataset, latents: int) -> int:
        """Latents that are measured between two writes to a panel: whole batches, few of them in a small study."""
        batch, kept = int(panel.attrs["batch"]), min(max(latents // MOST_CHUNKS, LATENTS_KEPT), LATENTS_TOGETHER)
        return batch * -(-kept // batch)

    def _settled(self, config: StudyConfig) -> StudyConfig:
        """A configuration with what this study has settled in place of what it says."""
        own = self._own() | {"twin": tuple(self._networks()) if "twin" in config.control else ()}
        return StudyConfig.check(**config.model_dump() | own)

    def _description(self, config: StudyConfig, command: str | None) -> dict[str, Any]:
        """What `config.yaml` says of a run."""
        return config.model_dump(mode="json") | {"resolved": self._resolved(config) | {"command": command}}

    def _networks(self) -> dict[str, Runner]:
        """The twins by name: those that were given, or else the generator's own."""
        model = NAMED.get(self.name)
        if not self.twins and model is not None and model.twin is not None:
            self.twins = {model.twin: self._twin(model.twin, load_generator(model.twin, self.device))}
        return self.twins

    def _twins(self, config: StudyConfig) -> dict[Held, Runner]:
        """The twins that a configuration asks for, as their arms are named: `all` where there is one."""
        if "twin" not in config.control:
            return {}
        networks = self._networks()
        if not networks:
            raise UsageError(
                "the control twin needs a generator that was trained on the same data without the normalization: "
                "name it with --twin"
            )
        names = short_names(list(networks)) if len(networks) > 1 else ["all"]
        return {Held("twin", name): runner for name, runner in zip(names, networks.values(), strict=True)}

    def _twin(self, name: str, network: nn.Module) -> Runner:
        try:
            runner = Runner(network, self.layer)
        except UsageError as error:
            raise UsageError(f"the twin {name}: {error}") from None
        if runner.image_size != self.runner.image_size or runner.device != self.device:
            sizes = (f"{height} x {width}" for height, width in (runner.image_size, self.runner.image_size))
            raise UsageError(
                f"the twin {name} makes images of {' px, the generator of '.join(sizes)} px, or computes on another device: "
                "a twin is the same network, trained without the normalization"
            )
        return runner

    def _own(self) -> dict[str, Any]:
        """What of a configuration this study has settled."""
        return {
            "generator": self.name,
            "segmenter": getattr(self.segmenter, "name", None) or type(self.segmenter).__name__,
            **getattr(self.segmenter, "asked", {}),
            "layer": self.layer,
            "seed": self.seed,
            "precision": self.precision,
        }

    def ranking_file(self, beside: Path, config: StudyConfig) -> Path:
        """Where a ranking that is to be written to `beside` may be kept while it is under way: hidden, and of this one alone."""
        ranked = config.model_dump(mode="json") | self._own() | self._resolved(config)
        return beside.with_name(
            f".{beside.stem}-{hashlib.sha256(repr(ranked).encode()).hexdigest()[:12]}{folder.RANKING}"
        )

    def _resolved(self, config: StudyConfig) -> dict[str, Any]:
        """What a run's numbers depend on beside what was asked."""
        weights = {"generator": folder.fingerprint(self.generator), "segmenter": folder.fingerprint(self.segmenter)}
        twins = [folder.fingerprint(twin.generator) for twin in self.twins.values()] if config.twin else []
        return {"versions": folder.versions(), "weights": weights | ({"twins": twins} if twins else {})}

    def _design(
        self,
        config: StudyConfig,
        named: Mapping[str, tuple[int, ...] | None],
        held: tuple[Held, ...],
        twins: Mapping[Held, Runner],
        progress: Progress | None,
        path: Path | None = None,
    ) -> tuple[Design, xr.Dataset | None]:
        """The arms, with the units of each target chosen; and the relation that they were chosen by.

        `path` is the folder in which what is done of the rankings may be kept. The units of a twin are ranked on the twin.
        """
        relation, count = None, self.unit_count(config)
        chosen = {target: units for target, units in named.items() if units is not None}
        if len(chosen) < len(named):
            kept = path and path / folder.RANKING
            relation = self._ranked(config, [t for t, units in named.items() if units is None], progress, kept)
            chosen = {target: units or top_units(relation, target, count) for target, units in named.items()}
        own = {}
        for number, (twin, runner) in enumerate(twins.items()):
            kept = path and path / f"{folder.RANKING}-{number}"
            ranked = self._ranked(config, list(chosen), progress, kept, runner)
            ranks = {target: top_units(ranked, target, len(units)) for target, units in chosen.items()}
            own[twin] = self._edits(config, runner, ranks)
        edits = self._edits(config, self.runner, chosen)
        return Design(edits, held, **self._alike(config, held), twins=own), relation

    def _edits(self, config: StudyConfig, runner: Runner, units: Mapping[str, tuple[int, ...]]) -> dict[str, Edit]:
        means = self._means(config.ranking_latents, runner) if config.ablation == "mean" else None
        return {t: ablate(u, config.ablation, means=means, alpha=config.alpha) for t, u in units.items()}

    def _ranked(
        self,
        config: StudyConfig,
        targets: Sequence[str],
        progress: Progress | None,
        kept: Path | None,
        runner: Runner | None = None,
    ) -> xr.Dataset:
        """The relation as a configuration asks for it."""
        how: dict[str, Any] = {
            "ranking": config.ranking,
            "targets": targets,
            "iou_threshold": config.iou_threshold,
        }
        return self._relate(runner or self.runner, config.ranking_latents, progress, kept, config.units, **how)

    def _alike(self, config: StudyConfig, held: tuple[Held, ...]) -> dict[str, Any]:
        """What tells which arms of a design are one and the same (see `Design`)."""
        responds, downstream = self.runner.responds, self.runner.downstream
        inert = frozenset(h for h in held if not any(responds[site] for site in h.sites(downstream)))
        return {"shrinking": config.ablation == "zero" and self.runner.closed_form, "inert": inert}

    def _create(self, root: Path | None, design: Design, config: StudyConfig) -> PanelStore:
        """An empty panel for this design."""
        batch = max(1, min(self.rows // len(design.distinct()), LATENTS_TOGETHER))
        attrs = {
            "generator": config.generator,
            "segmenter": config.segmenter,
            "layer": self.layer,
            "ablation": config.ablation,
            "alpha": config.alpha,
            "seed": config.seed,
            "precision": config.precision,
            "image_pixels": math.prod(self.runner.image_size),
            "presence": PRESENCE,
            "batch": batch,
            "version": folder.versions()["gandid"],
        }
        empty = empty_panel(self.runner, self.segmenter, design, attrs, judged=self.discriminator is not None)
        return PanelStore.create(root, empty)

    def _fill(
        self, panel: PanelStore, design: Design, numbers: Sequence[int], executor: Executor, progress: Progress | None
    ) -> float:
        """Measure the latents that the panel does not have yet; returns images made per second."""
        start, before, reason = time.perf_counter(), len(panel.latents), ""
        batch, have = int(panel.read().attrs["batch"]), set(panel.latents)
        chunks = chunked(
            [number for number in numbers if number not in have], self.chunk_length(panel.read(), len(numbers))
        )
        make = partial(
            Worker,
            self.generator,
            self.segmenter,
            self.discriminator,
            self.layer,
            design,
            self.seed,
            self.precision,
            batch,
            self.rows,
            self._networks_of(design),
        )
        with _Task(progress, "running the arms", len(numbers)) as task:
            task.advance(len(have & set(numbers)))
            for chunk, measured in executor.map(make, chunks):
                if isinstance(measured, Failed):
                    reason = measured.reason
                    told = f"latents {chunk[0]} to {chunk[-1]} could not be measured: {reason}"
                    warnings.warn(f"{told}; the same call tries them again", stacklevel=3)
                    continue
                panel.append(measured, {name: measured[name] for name in SUMMED})
                task.advance(len(chunk))
        if not panel.latents:
            raise GandidError(f"no latent could be measured: {reason}")
        return (len(panel.latents) - before) * design.images / (time.perf_counter() - start)

    def _networks_of(self, design: Design) -> dict[Held, nn.Module]:
        """The networks of a design's twins."""
        return {twin: runner.generator for twin, runner in zip(design.twins, self.twins.values(), strict=False)}

    def _add_figure(self, path: Path, config: StudyConfig, design: Design, progress: Progress | None) -> None:
        """Measure what the figure shows, if it is asked for and not there: see `gandid.studies.figure`."""
        if not config.figure or figure.is_complete(path):
            return
        relation = folder.read_relation(path)
        if relation is None:  # all units were named
            relation = self._ranked(config, list(design.edits), progress, path / folder.RANKING)
            folder.write_relation(path, relation)
            (path / folder.RANKING).unlink(missing_ok=True)
        additions = self.additions(path, config, design, relation)
        for told, name, images, write in (
            ("relation after ablation", figure.AFTER, additions.after_images, additions.write_after),
            ("insertion", figure.INSERTION, additions.insertion_images, additions.write_insertion),
        ):
            while not (path / name).is_dir():
                try:
                    with _Task(progress, told, images()) as task, arithmetic(self.device, self.precision):
                        write(task.advance)
                except torch.OutOfMemoryError:
                    self.rows = additions.rows = fewer_rows(self.rows, self.device)
        additions.clear()

    def _add_variants(
        self, path: Path, config: StudyConfig, design: Design, executor: Executor, progress: Progress | None
    ) -> bool:
        """Measure the study under the variants of its design that are asked for; whether any was not there."""
        if config.chunk:  # a part of a study: they are of its first latents
            return False
        panel = folder.open_panel(path)
        variants = self.variants(path, config, design, panel.attrs, panel.sizes["latent"], executor)
        missing = [one for one in self.asked(variants, config) if not variants.has(one)]
        for one in missing:
            with _Task(progress, one.told, one.images) as task:
                one.write(task.advance)
        variants.clear()
        if not has_truth(self.name, self.segmenter) or (path / evidence.CONFUSION).is_file():
            return bool(missing)
        folder.write_table(path / evidence.CONFUSION, confusion(self.segmenter, resolution=self.runner.image_size[0]))
        return True

    def variants(
        self,
        path: Path,
        config: StudyConfig,
        design: Design,
        attrs: Mapping[str, Any],
        latents: int,
        executor: Executor,
    ) -> Variants:
        """What can be measured of a study of this network under variants of its design; `attrs` are its panel's."""
        networks = self._networks_of(design)
        ranking, rows = config.ranking_latents, self.rows
        return Variants(path, self.runner, self.segmenter, design, attrs, latents, ranking, rows, executor, networks)

    def asked(self, variants: Variants, config: StudyConfig) -> list[Variant]:
        """The variants that a configuration asks for."""
        return variants.asked(config.dose, config.sites is not None, config.placebos, self._second(config))

    def _second(self, config: StudyConfig) -> Segmenter | None:
        """The segmenter that looks again: the one that is named, or else the embedded one's own."""
        name = config.second_segmenter or SECOND.get(getattr(self.segmenter, "name", None) or "")
        if name is not None and name not in self._seconds:
            # The embedded pair knows the same classes.
            background = None if config.second_segmenter else self.segmenter.background
            self._seconds[name] = load_segmenter(name, self.device, background=background)
        return None if name is None else self._seconds[name]

    def additions(self, path: Path, config: StudyConfig, design: Design, relation: xr.Dataset) -> figure.Additions:
        """What the figure asks for beside the panel, of a design of this study."""
        return figure.Additions(
            path,
            self.runner,
            self.segmenter,
            design,
            relation,
            self.objects,
            self.unit_count(config),
            PRESENCE,
            self.seed,
            self.rows,
        )

    def targets(self, config: StudyConfig) -> dict[str, tuple[int, ...] | None]:
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

    def exact_held(self, config: StudyConfig) -> tuple[Held, ...]:
        """The held sets of a configuration whose baseline is the reference arm."""
        return tuple(held for held in self._held(config) if held.unedited is None)

    def _held(self, config: StudyConfig) -> tuple[Held, ...]:
        for which in config.hold:
            for site in [] if which in ("first", "all") else which.split("+"):
                if site not in self.runner.downstream:
                    known = ", ".join(self.runner.downstream)
                    raise UsageError(f"unknown site '{site}': after {self.layer} come {known} (or say first, all)")
        compared = config.figure or config.sites or config.placebos
        if compared and not set(config.control) & set(EXACT_CONTROLS):
            raise UsageError(
                "a figure, sites and placebos compare live with capped or frozen: name one of them with --control"
            )
        return tuple(Held(control, which) for control in config.control if control != "twin" for which in config.hold)

    def _means(self, latents: int, runner: Runner) -> Tensor:
        """Each unit's mean over latents and positions: (C,)."""
        z = self._latents(range(latents), "ranking", runner)
        with arithmetic(self.device, self.precision):
            parts = [runner.activations(some).float().mean(dim=(2, 3)) for some in z.split(self.rows // 2)]
        return torch.cat(parts).mean(dim=0)

    def _latents(self, indices: range, stream: str = "effects", runner: Runner | None = None) -> Tensor:
        generator: Any = (runner or self.runner).generator
        return latents(self.seed, indices, generator.latent_dim, stream).to(self.device)


class _Task:
    """A line of a progress display, where there is one."""

    def __init__(self, progress: Progress | None, description: str, total: int):
        self.progress = progress
        self.task = progress.add_task(description, total=total) if progress else None

    def __enter__(self) -> _Task:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.progress and self.task is not None and kind is None:  # what was cut short is not shown as done
            self.progress.update(self.task, completed=self.progress.tasks[self.task].total)

    def advance(self, steps: float) -> None:
        if self.progress and self.task is not None:
            self.progress.advance(self.task, steps)


def _enough(panel: xr.Dataset, config: StudyConfig) -> bool:
    """Whether a study is as precise as it is asked to be, or has as many latents as are allowed."""
    if config.until is None or config.latents >= config.max_latents:
        return True
    widths = stopping.half_widths(panel)
    return stopping.is_precise(widths, config.until, config.latents, config.max_latents)


def _further(config: StudyConfig) -> StudyConfig:
    """The same study with the latents of its next look."""
    return config.model_copy(update={"latents": stopping.next_look(config.latents, config.max_latents)})


def _restored(panel: xr.Dataset, held: tuple[Held, ...], twins: Sequence[Held], **alike: Any) -> Design:
    """The design of a panel, from what the panel says of its edits."""

    def edits(units: str, values: str, **of: int) -> dict[str, Edit]:
        found = {}
        for target in map(str, panel["target"].values):
            row = panel[units].isel(of).sel(target=target).values
            chosen = tuple(int(unit) for unit in row if unit >= 0)
            levels = panel[values].isel(of).sel(target=target).values[: len(chosen)] if values in panel else None
            to = None if levels is None else torch.from_numpy(levels)
            found[target] = Edit(chosen, to, float(panel.attrs["alpha"]))
        return found

    own = {twin: edits("twin_units", "twin_values", twin=number) for number, twin in enumerate(twins)}
    return Design(edits("units", "values"), held, **alike, twins=own)
