"""The worker: holds the networks and measures latents by their numbers, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gandid.errors import GandidError
from gandid.generators import Discriminator
from gandid.interventions import Runner
from gandid.segmenters import Segmenter
from gandid.studies.design import Design, Held, count, exact_checks, joined, measure, typical_statistics
from gandid.studies.latents import chunked, latents
from gandid.studies.store import SUMMED

CHECKED = 8  # latents on which the exact checks (baseline gap, placebo site) are made
JUDGED = 256  # latents whose images the discriminator scores
TYPICAL = 8  # latents whose statistics stand for those of other images
CALIBRATED = 128  # latents over which the constants of the control `mean` are taken


def arithmetic(device: torch.device, precision: str) -> torch.autocast:
    """The networks' arithmetic: fp32, or bf16 where PyTorch's autocast allows it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def fewer_rows(rows: int, device: torch.device) -> int:
    """Half as many images at once, after a device ran out of memory; raises `GandidError` where they are two already."""
    if rows <= 2:
        raise GandidError(f"one image and its reference do not fit the memory of {device}")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return rows // 2


def calibrate(runner: Runner, design: Design, seed: int, rows: int) -> None:
    """Give a runner the constants of the control `mean`, where an arm needs them."""
    if any(held.control == "mean" for held in design.held):
        z = latents(seed, range(CALIBRATED), runner.generator.latent_dim, "calibration").to(runner.device)
        runner.calibrate(z.split(max(1, rows)))


class Worker:
    """Measures the latents of one study: a function of their numbers and of nothing else.

    Parameters
    ----------
    generator, segmenter, discriminator
        The networks, on their device; no discriminator: no `realism`.
    layer : str
        The edited layer.
    design : Design
        The arms.
    seed : int
        Of the latents.
    batch : int
        Latents that are taken together.
    precision : {"fp32", "bf16"}
        Of the networks' arithmetic.
    rows : int
        Images that may be made at once. Where they do not fit a GPU after all, it is halved, and the work goes on.
    twins : mapping of Held to nn.Module
        The networks of the design's twins; each has a layer of the same name.
    plain : bool
        Whether to measure no more than `pixels` and `inside`.
    """

    def __init__(
        self,
        generator: nn.Module,
        segmenter: Segmenter,
        discriminator: Discriminator | None,
        layer: str,
        design: Design,
        seed: int,
        precision: str,
        batch: int,
        rows: int,
        twins: Mapping[Held, nn.Module] = MappingProxyType({}),
        plain: bool = False,
    ):
        self.runner = Runner(generator, layer)
        self.twins = {twin: Runner(twins[twin], layer) for twin in design.twins}
        self.segmenter, self.discriminator = segmenter, discriminator
        self.design, self.seed, self.precision, self.batch, self.rows = design, seed, precision, batch, rows
        self.device, self.plain = self.runner.device, plain
        self.resamples = any(edit.values is None for edit in design.edits.values())
        with arithmetic(self.device, precision):
            typical = self._latents(range(TYPICAL), "typical")
            self._typical = {} if plain else typical_statistics(self.runner, typical)
            calibrate(self.runner, design, seed, rows)

    def measure(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Measure some latents: the panel's rows (`latent` among them) and the sums over them."""
        step = max(1, min(self.batch, self.rows // 2))  # each latent comes with its reference arm at least
        with arithmetic(self.device, self.precision):
            batches = [self._batch(some) for some in chunked(numbers, step)]
            checks = {} if self.plain else self._checks(numbers)
        rows = {name: _joined(name, [batch[name] for batch in batches]) for name in batches[0]}
        return rows | checks | {"latent": np.array(numbers)}

    def _batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        if len(numbers) > max(1, self.rows // 2):  # fewer fit than was thought
            middle = len(numbers) // 2
            halves = [self._batch(numbers[:middle]), self._batch(numbers[middle:])]
            return {name: _joined(name, [half[name] for half in halves]) for name in halves[0]}
        judged = np.array(numbers) < JUDGED
        how: dict[str, Any] = {
            "rows": self.rows,
            "discriminator": self.discriminator if judged.any() else None,
        }
        typical = {site: of[[number % len(of) for number in numbers]] for site, of in self._typical.items()}

        def of(runner: Runner, design: Design, typical: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
            z = self._latents(numbers, "effects", runner)
            donors = self._latents(numbers, "donors", runner) if self.resamples else None
            if self.plain:
                return count(runner, self.segmenter, design, z, rows=self.rows, donors=donors)
            return measure(runner, self.segmenter, design, z, typical, donors=donors, **how)

        try:
            measured = joined(
                self.runner,
                self.design,
                of(self.runner, self.design, typical),
                {twin: of(runner, self.design.of_twin(twin), {}) for twin, runner in self.twins.items()},
            )
        except torch.OutOfMemoryError:
            self.rows = fewer_rows(self.rows, self.device)
            return self._batch(numbers)
        if self.discriminator is not None:
            shape = (len(numbers), *measured["strain"].shape[1:3])
            scores = measured.get("realism", np.full(shape, np.nan, np.float32))
            measured["realism"] = np.where(judged[:, None, None], scores, np.nan).astype(np.float32)
        return measured

    def _checks(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """`baseline_gap` and `placebo_gap` of the first latents of a study; NaN for the others."""
        blank = {"baseline_gap": len(self.design.arms)}
        if self.runner.upstream and not self.resamples:
            blank["placebo_gap"] = len(self.design.edits)
        checks = {name: np.full((len(numbers), width), np.nan, np.float32) for name, width in blank.items()}
        for row, number in enumerate(numbers):
            if number < CHECKED:
                for name, values in exact_checks(self.runner, self.design, self._latents([number])).items():
                    checks[name][row] = values[0]
        return checks

    def _latents(self, numbers: Sequence[int], stream: str = "effects", runner: Runner | None = None) -> Tensor:
        generator: Any = (runner or self.runner).generator
        return latents(self.seed, numbers, generator.latent_dim, stream).to(self.device)


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    """A variable of several batches as one: along the latents, or summed over them."""
    return np.sum(parts, axis=0) if name in SUMMED else np.concatenate(parts)
