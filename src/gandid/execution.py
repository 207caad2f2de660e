"""A study being measured: its panel is opened or begun, extended to the arms that are asked for, filled, and followed by estimates."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from rich.progress import Progress

from gandid import runs
from gandid.config import StudyConfig
from gandid.errors import UsageError
from gandid.estimation.halves import halves
from gandid.estimation.stopping import half_widths, is_precise, next_look, stop_reason
from gandid.interventions import Edit, Runner, ablate, insert
from gandid.interventions.normalizations import Statistic
from gandid.measure.examples import collect
from gandid.measure.executors import Executor
from gandid.measure.experiment import Experiment, restored_edits
from gandid.measure.filling import fill, missing_arms, missing_latents
from gandid.measure.placebos import drawn_units, energies, possible_draws
from gandid.measure.worker import CALIBRATED, LATENTS_TOGETHER, Setting, Task, facts
from gandid.panel.coalitions import EXACT, ORDERS
from gandid.panel.schema import PARTS, PRESENCE, Classes, blocks_of
from gandid.panel.store import PanelStore
from gandid.panel.table import Block, extra_blocks, graded, is_twin, study_block
from gandid.ranking import top_units
from gandid.ranking.figure import FigureStores
from gandid.ranking.insertion import Levels, levels
from gandid.segmenters import Segmenter, name_of
from gandid.threads import can_be_copied

if TYPE_CHECKING:
    from gandid.study import Study

FEW = 64  # latents of a ranking, below which it is warned
Edits = dict[tuple[str, int], dict[str, Edit]]


class Execution:
    """A configuration of a study, being measured.

    Parameters
    ----------
    study : Study
    config : StudyConfig
        Checked, with what the study has settled.
    path : Path, optional
        Folder of the run, which is taken by this process; in memory if None.
    executor : Executor
    progress : rich.progress.Progress, optional

    Attributes
    ----------
    config : StudyConfig
        With what was asked of the run before: arms that it has, or is to have, stay asked for.
    panel : PanelStore
    experiment : Experiment
    """

    def __init__(
        self, study: Study, config: StudyConfig, path: Path | None, executor: Executor, progress: Progress | None
    ):
        self.study, self.config, self.path = study, config, path
        self.executor, self.progress = executor, progress
        self._relation: xr.Dataset | None = None
        self._known = dict[str, Any]()
        if config.soft:
            second = study.second_name(config)
            for segmenter in (study.segmenter, *([study.second_segmenter(second)] if second else [])):
                if not hasattr(segmenter, "probabilities"):
                    raise UsageError(f"{name_of(segmenter)} gives labels and no probabilities: leave out --soft")
        self.networks, self.region = {"own": study.runner, **study.networks(config)}, study.region
        if path is not None and (path / "panel.zarr").is_dir():
            self.config = runs.extended(config, runs.read_config(path))
            self.panel = PanelStore(path / "panel.zarr")
        else:
            self.panel = self._begin()
        there = self.panel.read()
        self.attrs = dict(there.attrs)
        self._extend(there)

    def _begin(self) -> PanelStore:
        """Choose the units, and make an empty panel of the study's own arms."""
        config, study = self.config, self.study
        if self.path:
            runs.write_config(self.path, study.description(config, None))
        edits: Edits = {(network, 0): own for network, own in self._chosen().items()}
        block = study_block(study.held(config), list(self.networks)[1:], config.alpha)
        experiment = self._experiment([block], edits)
        attrs = {
            "generator": config.generator,
            "segmenter": config.segmenter,
            "layer": study.layer,
            "ablation": config.ablation,
            "alpha": config.alpha,
            "seed": config.seed,
            "dtype": config.dtype,
            "image_pixels": math.prod(study.runner.image_size) * (PARTS if config.soft else 1),
            "presence": PRESENCE,
            "batch": experiment.batch(block, study.rows, LATENTS_TOGETHER),
            "orders": 0 if sum(study.runner.responds.values()) <= EXACT else ORDERS,
            "orders_seed": config.seed,
            "version": runs.versions()["gandid"],
        }
        if config.edit != "ablate":
            attrs["edit"] = config.edit
        if others := list(self.networks.items())[1:]:
            attrs["networks"] = [f"{name}: {getattr(one.generator, 'name', None) or ''}" for name, one in others]
        if config.region:
            attrs["region"] = config.region if isinstance(config.region, str) else list(config.region)
        if config.soft:
            attrs["soft"] = PARTS
        blank = self._blank(experiment, {config.segmenter: study.segmenter}, np.ones((1, len(experiment.own))), attrs)
        panel = PanelStore.create(self.path and self.path / "panel.zarr", blank)
        if self.path:
            runs.remove_rankings(self.path)
        return panel

    def _chosen(self) -> dict[str, dict[str, Edit]]:
        """The edits of every network; the units of a twin are ranked on the twin, a distilled network has the generator's."""
        config, study = self.config, self.study
        named = study.targets(config)
        ranked = [target for target, units in named.items() if units is None]
        units = {target: own for target, own in named.items() if own is not None}
        if ranked:
            if config.ranking_latents < FEW:
                text = f"units are ranked on {config.ranking_latents} latents only: others would choose other units, and find other effects"
                warnings.warn(
                    f"{text}; the check 'ranking' says by how many; raise --ranking-latents to {FEW} or more",
                    stacklevel=2,
                )
            self._relation = relation = self._ranked(ranked, study.runner, runs.RANKING)
            if self.path:
                runs.write_relation(self.path, relation)
            count = study.unit_count(config)
            units = {target: own or top_units(relation, target, count) for target, own in named.items()}
        chosen = {"own": units}
        for number, (name, runner) in enumerate(list(self.networks.items())[1:]):
            chosen[name] = units
            if is_twin(name):
                relation = self._ranked(list(units), runner, f"{runs.RANKING}-{number}")
                chosen[name] = {target: top_units(relation, target, len(own)) for target, own in units.items()}
        return {name: self._edits(own, name) for name, own in chosen.items()}

    def _ranked(self, targets: Sequence[str], runner: Runner, kept: str) -> xr.Dataset:
        """The relation as the configuration asks for it."""
        config = self.config
        return self.study.relate(
            config.ranking_latents,
            self.progress,
            self.path and self.path / kept,
            ranking=config.ranking,
            targets=targets,
            units=config.units,
            iou_threshold=config.iou_threshold,
            runner=runner,
        )

    def _edits(self, units: Mapping[str, Sequence[int]], network: str = "own") -> dict[str, Edit]:
        """The edit of every target by its units, in one of the networks."""
        config, network = self.config, network if is_twin(network) else "own"  # whose units a distilled one has
        how: dict[str, Any] = {"alpha": config.alpha, "region": self.region}
        if config.edit == "insert":
            known = self._aims(network)
            return {target: insert(tuple(own), known.shown(target), **how) for target, own in units.items()}
        how |= {"kind": config.ablation, "means": self._aims(network) if config.ablation == "mean" else None}
        return {target: ablate(tuple(own), **how) for target, own in units.items()}

    def _aims(self, network: str) -> Any:
        """What units are moved to, over the ranking's latents: `Levels` where they are inserted, else their means (C,)."""
        study, runner = self.study, self.networks[network]
        z = study.latents(range(self.config.ranking_latents), "ranking", runner)

        def measure() -> Levels | torch.Tensor:
            if self.config.edit == "insert":
                return levels(runner, study.segmenter, z, PRESENCE, study.rows)
            parts = [runner.activations(part).float().mean(dim=(2, 3)) for part in z.split(study.rows // 2)]
            return torch.cat(parts).mean(dim=0)

        if network not in self._known:
            self._known[network] = study.fitted(measure)
        return self._known[network]

    def _extend(self, there: xr.Dataset) -> None:
        """Add to the panel the arms and segmenters that are asked for and that it has not; and learn what it has."""
        edits, blocks, config, study = restored_edits(there, self.region), blocks_of(there), self.config, self.study
        energy = dict(zip(there["draws"].values.tolist(), there["energy"].values, strict=True))
        if config.placebos:
            draws = possible_draws(edits["own", 0], study.runner.units, config.placebos)
            if draws not in energy:
                energy |= self._draw(edits, draws)
        # A part of a study has its own arms only.
        energy |= {} if config.chunk or graded(blocks[0]) is None else self._halve(edits)
        names = [str(name) for name in there["segmenter"].values]
        second = study.second_name(config)
        names = list(dict.fromkeys([*names, *([second] if second else [])]))
        self.segmenters = {name: study.second_segmenter(name) if s else study.segmenter for s, name in enumerate(names)}
        sites = [site for site, responds in study.runner.responds.items() if responds] if config.sites else []
        asked = (config.dose, config.strength, sites, max(energy), -min(energy) // 2, config.seed)
        new = [] if config.chunk else extra_blocks(blocks, *asked)
        self.experiment = self._experiment([*blocks, *new], edits)
        if new or len(names) > there.sizes["segmenter"] or len(energy) > there.sizes["draws"]:
            self.panel.extend(self._blank(self.experiment, self.segmenters, np.array([*energy.values()]), self.attrs))

    def _halve(self, edits: Edits) -> dict[int, np.ndarray]:
        """Add the edits of the units that halves of the ranking's latents choose, where they are asked for and not there."""
        wanted = [-draw for draw in range(1, 2 * self.config.halvings + 1) if ("own", -draw) not in edits]
        relation = self._relation if self.path is None or not wanted else runs.read_relation(self.path)
        if relation is None or not wanted:
            return {}
        own = {target: list(edit.units) for target, edit in edits["own", 0].items()}
        ranked = [target for target, units in self.study.targets(self.config).items() if units is None]
        chosen = halves(relation, own, ranked, self.config.halvings)
        if not chosen:
            return {}
        for draw in wanted:
            edits["own", draw] = self._edits(chosen[-draw - 1])
        return {draw: np.full(len(own), np.nan, np.float32) for draw in wanted}

    def _draw(self, edits: Edits, draws: int) -> dict[int, np.ndarray]:
        """Draw matched random sets of units; returns by draw their energy over that of the target's own, (target,)."""
        study, config = self.study, self.config
        z = study.latents(range(config.ranking_latents), "ranking")
        energy = study.fitted(lambda: energies(study.runner, z, study.rows))
        for draw, units in enumerate(drawn_units(edits["own", 0], energy, draws, config.seed), start=1):
            edits["own", draw] = self._edits(units)
        sums = [[energy[list(edit.units)].sum() for edit in edits["own", draw].values()] for draw in range(draws + 1)]
        with np.errstate(divide="ignore", invalid="ignore"):  # units that are silent
            return dict(enumerate(np.divide(sums, sums[0]).astype(np.float32)))

    def _experiment(self, blocks: Sequence[Block], edits: Edits) -> Experiment:
        runner = self.study.runner
        inert = frozenset(site for site, responds in runner.responds.items() if not responds)
        inserts = self.config.edit == "insert"
        shrinking = not inserts and self.config.ablation == "zero" and runner.closed_form
        return Experiment(tuple(blocks), edits, tuple(runner.downstream), inert, shrinking, self.region, inserts)

    def _blank(
        self, experiment: Experiment, segmenters: Mapping[str, Segmenter], energy: np.ndarray, attrs: Mapping[str, Any]
    ) -> xr.Dataset:
        """The empty panel of an experiment."""
        classes = {
            name: Classes(tuple(one.classes), tuple(one.background), runs.fingerprint(one))
            for name, one in segmenters.items()
        }
        return experiment.panel(self.study.runner, classes, energy, attrs)

    # Measuring

    @cached_property
    def setting(self) -> Setting:
        """What a worker needs."""
        study = self.study
        networks = {name: runner.generator for name, runner in self.networks.items()}
        segmenters = list(self.segmenters.values())
        return Setting(
            networks,
            segmenters,
            study.discriminator,
            study.layer,
            self.experiment,
            study.seed,
            int(self.attrs["batch"]),
            study.rows,
            study.workers if can_be_copied([*networks.values(), *segmenters]) else 1,
            study.dtype,
            facts(study.runner),
            constants=self.constants,
            soft="soft" in self.attrs,
        )

    @cached_property
    def constants(self) -> Mapping[str, Statistic]:
        """The constants of the control `mean`, where an arm needs them; the study's runner is given them."""
        study = self.study
        if all(arm.control != "mean" for arm in self.experiment.study.arms):
            return {}
        z = study.latents(range(CALIBRATED), "calibration")
        return study.fitted(lambda: study.runner.calibrate(z.split(study.rows)))

    def missing_latents(self) -> list[Task]:
        """What of the study's own arms is missing."""
        batch = int(self.attrs["batch"])
        return missing_latents(self.panel, self.config.numbers(), batch, len(self.segmenters))

    def missing_arms(self) -> list[Task]:
        """What of the other arms and segmenters is missing; a part of a study measures none."""
        return [] if self.config.chunk else missing_arms(self.panel, self.experiment, len(self.segmenters))

    def measure(self, on_look: Callable[[], None] = lambda: None) -> float:
        """Measure what is missing; returns images of the study's own arms per second, 0 if there were none.

        `on_look` is called when a study that is not precise enough goes on, with more latents in `config`.
        """
        speed = self._fill(self.missing_latents(), "running the arms")
        while not self.is_enough():
            config = self.config
            self.config = config.model_copy(update={"latents": next_look(config.latents, config.max_latents)})
            on_look()
            speed = self._fill(self.missing_latents(), "running the arms")
        self._fill(self.missing_arms(), "running further arms")
        return speed

    def _fill(self, tasks: Sequence[Task], label: str) -> float:
        experiment = self.experiment
        images = round(sum(len(task.numbers) * experiment.images(experiment.blocks[task.block]) for task in tasks))
        start = time.perf_counter()
        if tasks:
            with ProgressLine(self.progress, label, images) as line:
                fill(self.panel, self.experiment, tasks, self.executor, self.setting, line.advance)
        return images / (time.perf_counter() - start) if tasks else 0.0

    def is_enough(self) -> bool:
        """Whether the study is as precise as it is asked to be, or has as many latents as are allowed."""
        config = self.config
        if config.until is None or config.latents >= config.max_latents:
            return True
        return is_precise(half_widths(self.panel.read()), config.until, config.latents, config.max_latents)

    # The folder

    def complete(self, description: dict[str, Any]) -> None:
        """Bring the run's folder up to the configuration, of which `description` is what `config.yaml` is to say."""
        path = self.path
        assert path is not None
        resolved = description["resolved"]
        latents, arms = self.missing_latents(), self.missing_arms()
        if not (latents or arms) and self.is_enough() and runs.is_finished(path):
            self._add_figure()
            self._revise(description)
            return
        runs.remove_estimates(path, examples=bool(latents) or not self.is_enough())  # they would be of another panel
        resolved["chosen"] = {target: list(edit.units) for target, edit in self.experiment.own.items()}

        def write() -> None:
            runs.write_config(path, description | self.config.model_dump(mode="json"))

        write()
        resolved["images_per_second"] = round(self.measure(on_look=write), 2)
        if self.config.until is not None:
            resolved["stopped"] = self._stopped()
        self._add_figure()
        write()
        with ProgressLine(self.progress, "writing the run", 1):
            measured = runs.open_panel(path)
            if not (path / "examples.npz").is_file():
                runs.write_examples(path, self._examples(measured))
            runs.write_estimates(path, measured)

    def _revise(self, description: dict[str, Any]) -> None:
        """Write of a finished run what may be asked of it anew without measuring: verdicts, bounds of the types, another half-width."""
        path, there = self.path, runs.read_config(self.path)  # type: ignore[arg-type]
        assert path is not None
        until = ["until", "max_latents"] if self.config.until is not None else []
        revised = there | {key: description[key] for key in ("relevant", "types", *runs.EXTENDS, *until)}
        if self.config.until is not None:
            revised["resolved"] = there["resolved"] | {"stopped": self._stopped()}
        if revised != there:
            runs.write_config(path, revised)
        if there.get("relevant") != revised["relevant"]:
            runs.write_verdicts(path, runs.open_panel(path))
        if there["types"] != revised["types"] or not (path / runs.TYPES).is_file():
            runs.write_types(path, runs.open_panel(path))

    def _stopped(self) -> str:
        """Why the study stopped where it did."""
        assert self.config.until is not None
        return stop_reason(self.panel.read(), self.config.until, self.config.latents, self.config.max_latents)

    def _examples(self, measured: xr.Dataset) -> dict[str, np.ndarray]:
        study = self.study
        study.runner.constants = self.constants
        return study.fitted(
            lambda: collect(self.networks, study.segmenter, self.experiment, measured, study.seed, study.rows)
        )

    def _add_figure(self) -> None:
        """Measure what the figure shows beside the effects, if it is asked for and not there."""
        path, study = self.path, self.study
        if path is None or not self.config.figure or runs.has_figure(path):
            return
        relation = runs.read_relation(path)
        if relation is None:  # all units were named
            relation = self._ranked(self.experiment.targets, study.runner, runs.RANKING)
            runs.write_relation(path, relation)
            runs.remove_rankings(path)
        stores = FigureStores(
            path,
            study.runner,
            study.segmenter,
            dict(self.experiment.own),
            self.experiment.exact_held(),
            relation,
            study.objects,
            study.unit_count(self.config),
            PRESENCE,
            study.seed,
            study.rows,
        )
        for label, name, images, write in (
            ("relation after ablation", runs.FIGURE[0], stores.after_images, stores.write_after),
            ("insertion", runs.FIGURE[1], stores.insertion_images, stores.write_insertion),
        ):

            def measure(label: str = label, images: Callable = images, write: Callable = write) -> None:
                stores.rows = study.rows
                with ProgressLine(self.progress, label, images()) as line:
                    write(line.advance)

            if not (path / name).is_dir():
                study.fitted(measure)
        stores.clear()


class ProgressLine:
    """A line of a progress display, where there is one."""

    def __init__(self, progress: Progress | None, description: str, total: float):
        self.progress = progress
        self.task = progress.add_task(description, total=total) if progress else None

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.progress and self.task is not None and kind is None:  # what was cut short is not shown as done
            self.progress.update(self.task, completed=self.progress.tasks[self.task].total)

    def advance(self, steps: float) -> None:
        """So much more is done."""
        if self.progress and self.task is not None:
            self.progress.advance(self.task, steps)
