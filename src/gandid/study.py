"""`Study`: a generator, a segmenter and a layer; ranks units, runs the arms, and keeps the potential outcomes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import torch
import xarray as xr
from rich.progress import Progress
from torch import Tensor, nn

from gandid import runs
from gandid.config import NETWORKS, Dtype, Ranking, StudyConfig, Threshold
from gandid.errors import UsageError, did_you_mean
from gandid.execution import Execution, ProgressLine
from gandid.generators import NAMED, load_discriminator, load_generator
from gandid.generators.distilled import distilled_files, read_distilled
from gandid.generators.named import short_names
from gandid.interventions import REFERENCE, Rectangle, Runner, layers_of, read_mask, whole
from gandid.latents import latents
from gandid.measure.executors import Executor, Local
from gandid.measure.memory import FEW_ROWS, keep_freed_memory, rows_that_fit
from gandid.measure.worker import arithmetic, fewer_rows
from gandid.panel.table import EXACT_CONTROLS, is_twin
from gandid.ranking import relate
from gandid.ranking.gradients import check_gradients, has_gradients
from gandid.segmenters import SECOND, Segmenter, check_segmenter, load_segmenter, name_of, objects_of

Result = TypeVar("Result")

UNITS = 20  # as in Liu et al.; a fifth of the layer's units if that is fewer
SETTLED = (*NETWORKS, "seed", "dtype", "twin", "distilled")  # by the study, of a configuration


class Study:
    """An experiment on one layer of a generator.

    Parameters
    ----------
    generator : nn.Module
        Makes images (N, 3, H, W) in [-1, 1] of latents; see `gandid.load_generator` and docs/generators.md.
    segmenter : Segmenter
        See `gandid.load_segmenter`.
    layer : str, optional
        Layer whose units are edited; the default layer of an embedded model.
    seed : int
        Random seed for the latents. Ranking and effects use different latents of the same seed.
    dtype : {"fp32", "tf32", "bf16"}
        Arithmetic of the networks; statistics of sites are computed in fp32 either way.
    memory : int, optional
        Bytes that the run may use beside the weights; half of what is free by default.
    twins : mapping of str to nn.Module, optional
        By name, generators that were trained on the same data without the normalization: the control `twin`. An embedded
        generator brings its own.
    distilled : sequence of str or Path
        Files that `gandid distil` made of the generator at the layer, or folders of them: the control `distilled`. An embedded
        generator brings those of its default layer.

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
        dtype: Dtype = "fp32",
        memory: int | None = None,
        twins: Mapping[str, nn.Module] | None = None,
        distilled: Sequence[str | Path] = (),
    ):
        keep_freed_memory()
        StudyConfig.check(seed=seed, dtype=dtype)
        generator = whole(generator)
        name = getattr(generator, "name", None) or type(generator).__name__
        if layer is None:
            if name not in NAMED:
                raise UsageError(f"name the layer to edit: this generator has {layers_of(generator)}")
            layer = NAMED[name].default_layer
        self.segmenter, self.seed, self.name, self.dtype = segmenter, seed, name, dtype
        self.runner = Runner(generator, layer)
        self.generator: Any = self.runner.generator
        self.runner.check_sites()
        self.device = self.runner.device
        if dtype == "tf32" and self.device.type != "cuda":
            raise UsageError(
                f"tf32 is arithmetic of NVIDIA GPUs, and the generator is on {self.device}: say fp32 or bf16"
            )
        self.discriminator = load_discriminator(name, self.device)
        self._check_segmenter(segmenter)
        with arithmetic(self.device, dtype):
            fit = rows_that_fit(self.runner, segmenter, self.latents(range(2)), memory)
        self.workers = max(1, min(torch.get_num_threads(), fit // FEW_ROWS)) if self.device.type == "cpu" else 1
        self.rows = fit // self.workers
        self.twins = {name: self._twin(name, network) for name, network in (twins or {}).items()}
        self.distilled, self._learned = tuple(map(str, distilled)), dict[str, Runner]()
        self._seconds: dict[str, Segmenter] = {}
        self.region: Rectangle | Tensor | None = None
        """To which the configuration that was checked last limits the edit: a rectangle, or the mask that it names."""

    def __repr__(self) -> str:
        segmenter = name_of(self.segmenter)
        return f"<gandid.Study of {self.name}, {self.layer} ({self.runner.units} units), seen by {segmenter}, seed {self.seed}>"

    def _repr_html_(self) -> str:
        sites, seen = ", ".join(self.runner.downstream), ", ".join(self.objects)
        facts = self._own() | {"units": self.runner.units, "normalizations after them": sites, "objects": seen}
        lines = (f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
        return f"<table>{''.join(lines)}</table>"

    @property
    def layer(self) -> str:
        """The layer whose units are edited."""
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
        ranking: Ranking | None = None,
        targets: Sequence[str] | None = None,
        units: int | None = None,
        iou_threshold: Threshold = "quantile",
        runner: Runner | None = None,
    ) -> xr.Dataset:
        """ACE, IoU and energy of every unit for every class, over `latents` latents: see `gandid.ranking.relate`.

        `units` are how many are to be chosen for each target, as in `run`; `runner` is that of a twin.
        """
        runner = runner or self.runner
        z = self.latents(range(latents), "ranking", runner)
        count = units or self.unit_count(StudyConfig())
        ranking = ranking or self.default_ranking
        how: dict[str, Any] = {"ranking": ranking, "targets": targets, "count": count, "iou_threshold": iou_threshold}
        label = "ranking units" if runner is self.runner else "ranking a twin's units"

        def rank() -> xr.Dataset:
            with ProgressLine(progress, label, latents) as line:
                return relate(
                    runner, self.segmenter, z, line.advance, rows=self.rows, threads=self.workers, kept=kept, **how
                )

        return self.fitted(rank)

    def fitted(self, work: Callable[[], Result]) -> Result:
        """Do some work in the arithmetic of the study, with half as many `rows` whenever the device runs out of memory."""
        while True:
            try:
                with arithmetic(self.device, self.dtype):
                    return work()
            except torch.OutOfMemoryError:
                self.rows = fewer_rows(self.rows, self.device)

    def run(
        self,
        targets: str | Sequence[str] | Mapping[str, Sequence[int]] | None = None,
        units: int | None = None,
        *,
        store: str | Path | None = None,
        executor: Executor | None = None,
        progress: Progress | None = None,
        command: str | None = None,
        **options: Any,
    ) -> xr.Dataset:
        """Run every arm on every latent: the panel of potential outcomes.

        Parameters
        ----------
        targets : str, sequence of str, or mapping of str to units, optional
            The classes whose units are edited, all objects by default. A mapping names the units; otherwise they are the
            `units` of largest ACE on the class.
        units : int, optional
            Number of units; 20 by default, or a fifth of the layer's units if that is fewer.
        store : str or Path, optional
            Folder to write the run into. What it already holds of this study is kept and not computed again: a run that was cut short
            goes on, and one of fewer latents or fewer arms is extended.
        executor : Executor, optional
            Where the latents are measured; this process by default.
        progress : rich.progress.Progress, optional
            Where to show progress.
        command : str, optional
            What reproduces the run; kept in `config.yaml`.
        **options
            Any other field of `gandid.config.StudyConfig`, such as `control`, `hold`, `latents`, `dose` or `placebos`.

        Returns
        -------
        xarray.Dataset
            See docs/panel.md.

        Raises
        ------
        UsageError
            If an option, target, unit, control or site is unknown, `store` is something else than this study, or `figure` is asked
            for without a `store`.
        """
        for option in options:
            if option in SETTLED:
                raise UsageError(f"{option} is a property of the study: give it to gandid.Study")
        if isinstance(targets, Mapping):
            targets = {target: tuple(own) for target, own in targets.items()}
        config = StudyConfig.check(targets=targets, units=units, **options)
        return self.execute(config, store=store, executor=executor, progress=progress, command=command)

    def execute(
        self,
        config: StudyConfig,
        *,
        store: str | Path | None = None,
        executor: Executor | None = None,
        progress: Progress | None = None,
        command: str | None = None,
        finish: runs.Finish | None = None,
    ) -> xr.Dataset:
        """As `run`, of a configuration; its networks, layer, seed and dtype are this study's.

        `finish` is called with the folder of the run once its effects are there: `gandid.report.build` is one.
        """
        config = self._settled(config)
        self._check(config)
        if store is None:
            if config.figure:
                raise UsageError("a figure is written into a run's folder: name a store")
            execution = Execution(self, config, None, executor or Local(), progress)
            execution.measure()
            return execution.panel.read().load()
        path = Path(store)
        with runs.writing(path, self.description(config, command)):
            execution = Execution(self, config, path, executor or Local(), progress)
            execution.complete(self.description(execution.config, command))
            if finish:
                finish(path)
            return runs.open_panel(path)

    def check(self, config: StudyConfig, store: Path | None = None) -> None:
        """Raise the `UsageError` that `execute` would, before anything is computed or written."""
        config = self._settled(config)
        self._check(config)
        if store is not None and (store / "config.yaml").is_file():
            runs.check_same(store, self.description(config, None))

    def targets(self, config: StudyConfig) -> dict[str, tuple[int, ...] | None]:
        """The targets of a configuration, and the units of each, or None where they are to be ranked."""
        asked = config.targets or self.objects
        if not asked:
            raise UsageError(
                f"every class of {name_of(self.segmenter)} is background: name what to edit with --target, or other background "
                "classes with --background"
            )
        named: dict[str, tuple[int, ...] | None] = dict(asked) if isinstance(asked, dict) else dict.fromkeys(asked)
        known = [name for name in self.segmenter.classes if name != "unknown"]
        for target, units in named.items():
            if target not in known:
                hint = did_you_mean(target, known)
                raise UsageError(f"unknown class '{target}'{hint} this segmenter sees {', '.join(known)}")
            if units is not None:
                wrong = [unit for unit in units if not 0 <= unit < self.runner.units]
                if wrong or not units:
                    fault = f"unit {wrong[0]} is out of range" if wrong else "no units are named"
                    raise UsageError(f"{target}: {fault}; {self.layer} has units 0 to {self.runner.units - 1}")
                named[target] = tuple(dict.fromkeys(units))
        if config.units is not None and config.units > self.runner.units:
            raise UsageError(f"{config.units} units are asked for, but {self.layer} has only {self.runner.units}")
        return named

    def unit_count(self, config: StudyConfig) -> int:
        """How many units are edited of a target whose units are not named."""
        own = NAMED[self.name].units if self.name in NAMED else None
        return config.units or own or min(UNITS, max(1, self.runner.units // 5))

    def held(self, config: StudyConfig) -> list[tuple[str, str]]:
        """The held arms of a configuration, as (control, held)."""
        held = [control for control in config.control if control not in ("twin", "distilled")]
        return [(control, which) for control in held for which in config.hold]

    def networks(self, config: StudyConfig) -> dict[str, Runner]:
        """The other networks that a configuration asks for, as their arms are named; a twin is `all` where there is one."""
        learned = self._known_distilled() if "distilled" in config.control else {}
        if "twin" not in config.control:
            return learned
        twins = self._known_twins()
        if not twins:
            raise UsageError(
                "the control twin needs a generator that was trained on the same data without the normalization: "
                "name it with --twin"
            )
        names = short_names(list(twins)) if len(twins) > 1 else ["all"]
        if not all(map(is_twin, names)):
            raise UsageError("a twin has the name of a distilled network: rename its file")
        return learned | dict(zip(names, twins.values(), strict=True))

    @cached_property
    def default_ranking(self) -> Ranking:
        """`screened` where images can be differentiated by the units, else `exact`."""
        with arithmetic(self.device, self.dtype):
            return "screened" if has_gradients(self.runner, self.segmenter, self.latents(range(1))) else "exact"

    def second_segmenter(self, name: str) -> Segmenter:
        """A segmenter that labels the same images as the study's, by name."""
        if name not in self._seconds:
            # The embedded pair knows the same classes.
            paired = SECOND.get(name_of(self.segmenter)) == name
            background = self.segmenter.background if paired else None
            self._seconds[name] = load_segmenter(name, self.device, background=background)
            self._check_segmenter(self._seconds[name])
        return self._seconds[name]

    def second_name(self, config: StudyConfig) -> str | None:
        """The name of the second segmenter: the one that is asked for, or else the embedded one's own."""
        return config.second_segmenter or SECOND.get(name_of(self.segmenter))

    def description(self, config: StudyConfig, command: str | None) -> dict[str, Any]:
        """What `config.yaml` says of a run."""
        return config.model_dump(mode="json") | {"resolved": self._resolved(config) | {"command": command}}

    def ranking_file(self, beside: Path, config: StudyConfig) -> Path:
        """Where a ranking that is to be written to `beside` may be kept while it is under way: hidden, and of this one alone."""
        ranked = config.model_dump(mode="json") | self._own() | self._resolved(config)
        digest = hashlib.sha256(repr(ranked).encode()).hexdigest()[:12]
        return beside.with_name(f".{beside.stem}-{digest}{runs.RANKING}")

    def latents(self, indices: Sequence[int], stream: str = "effects", runner: Runner | None = None) -> Tensor:
        """Latents of this study by number, (n, latent_dim)."""
        generator: Any = (runner or self.runner).generator
        return latents(self.seed, indices, generator.latent_dim, stream).to(self.device)

    def _check_segmenter(self, segmenter: Segmenter) -> None:
        """Ask a segmenter about two images of the generator; see `check_segmenter`."""
        with arithmetic(self.device, self.dtype):
            check_segmenter(segmenter, self.runner.run(self.latents(range(2)), [REFERENCE])[0])

    def _check(self, config: StudyConfig) -> None:
        named = self.targets(config)
        for which in config.hold:
            for site in [] if which in ("first", "all") else which.split("+"):
                if site not in self.runner.downstream:
                    known = self.runner.downstream
                    hint = did_you_mean(site, known)
                    raise UsageError(
                        f"unknown site '{site}'{hint} after {self.layer} come {', '.join(known)} (or say first, all)"
                    )
        compared = config.figure or config.sites or config.placebos
        if compared and not set(config.control) & set(EXACT_CONTROLS):
            raise UsageError(
                "a figure, sites and placebos compare live with capped or frozen: name one of them with --control"
            )
        if config.sites and not any(self.runner.responds.values()):
            raise UsageError(f"no site after {self.layer} responds to an edit: there is no effect to share out")
        self.networks(config)
        region = config.region
        self.region = read_mask(region, self.runner.image_size) if isinstance(region, str) else region
        second = self.second_name(config)
        if second is not None and not set(named) & set(self.second_segmenter(second).classes):
            raise UsageError(
                f"the second segmenter, {second}, knows no {', '.join(named)}: name one that does, or another target"
            )
        if config.ranking != "exact" and (None in named.values() or config.twin):
            with arithmetic(self.device, self.dtype):
                check_gradients(self.runner, self.segmenter, self.latents(range(1)))

    def _settled(self, config: StudyConfig) -> StudyConfig:
        """A configuration with what this study has settled in place of what it says."""
        own = self._own() | {"twin": tuple(self._known_twins()) if "twin" in config.control else ()}
        own |= {"distilled": self.distilled if "distilled" in config.control else ()}
        own["ranking"] = config.ranking or self.default_ranking
        return StudyConfig.check(**config.model_dump() | own)

    def _own(self) -> dict[str, Any]:
        """What of a configuration this study has settled."""
        asked = {**getattr(self.generator, "asked", {}), **getattr(self.segmenter, "asked", {})}
        names = {"generator": self.name, "segmenter": name_of(self.segmenter), "layer": self.layer}
        return {**names, **asked, "seed": self.seed, "dtype": self.dtype}

    def _known_twins(self) -> dict[str, Runner]:
        """The twins by name: those that were given, or else the generator's own."""
        model = NAMED.get(self.name)
        if not self.twins and model is not None and model.twin is not None:
            self.twins = {model.twin: self._twin(model.twin, load_generator(model.twin, self.device))}
        return self.twins

    def _known_distilled(self) -> dict[str, Runner]:
        """The distilled networks and their placebos by name: those that were given, or else the generator's own."""
        model = NAMED.get(self.name)
        if not self.distilled and (model is None or not model.distilled or model.default_layer != self.layer):
            raise UsageError(
                f"the control distilled needs networks that were distilled after {self.layer}: make them with 'gandid distil' "
                "and name them with --distilled"
            )
        if not self._learned:
            for path in distilled_files(self.distilled) or model.distilled:  # type: ignore[union-attr]
                name, network = read_distilled(path, self.generator, self.layer)
                if name in self._learned:
                    raise UsageError(f"{path}: another network is {name} already: distil it with another --seed")
                self._learned[name] = Runner(network, self.layer)
            if not any(name.startswith("distilled") for name in self._learned):
                raise UsageError(
                    "among the distilled networks is none without normalization: distil one without --placebo"
                )
        return self._learned

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

    def _resolved(self, config: StudyConfig) -> dict[str, Any]:
        """What a run's numbers depend on beside what was asked."""
        weights: dict[str, Any] = {"generator": self._fingerprints[0], "segmenter": self._fingerprints[1]}
        if config.twin:
            weights["twins"] = [runs.fingerprint(twin.generator) for twin in self.twins.values()]
        if "distilled" in config.control:
            weights["distilled"] = {
                name: runs.fingerprint(one.generator) for name, one in self._known_distilled().items()
            }
        if isinstance(self.region, Tensor):
            weights["region"] = hashlib.sha256(self.region.numpy().tobytes()).hexdigest()
        return {"versions": runs.versions(), "weights": weights}

    @cached_property
    def _fingerprints(self) -> tuple[str, str]:
        return runs.fingerprint(self.generator), runs.fingerprint(self.segmenter)
