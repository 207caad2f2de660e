"""The worker: holds the networks and measures latents by their numbers, wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gandid.errors import GandidError
from gandid.generators import Discriminator
from gandid.interventions import Runner
from gandid.segmenters import Segmenter
from gandid.studies.design import Design, exact_checks, measure, typical_statistics
from gandid.studies.latents import chunked, latents
from gandid.studies.store import SUMMED

CHECKED = 8  # latents on which the exact checks (baseline gap, placebo site) are made
JUDGED = 256  # latents whose images the discriminator scores
TYPICAL = 8  # latents whose statistics stand for those of other images


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
    ):
        self.runner = Runner(generator, layer)
        self.segmenter, self.discriminator = segmenter, discriminator
        self.design, self.seed, self.precision, self.batch, self.rows = design, seed, precision, batch, rows
        self.device = self.runner.device
        self.resamples = any(edit.values is None for edit in design.edits.values())
        with arithmetic(self.device, precision):
            self._typical = typical_statistics(self.runner, self._latents(range(TYPICAL), "typical"))

    def measure(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Measure some latents: the panel's rows (`latent` among them) and the sums over them."""
        step = max(1, min(self.batch, self.rows // 2))  # each latent comes with its reference arm at least
        with arithmetic(self.device, self.precision):
            batches = [self._batch(some) for some in chunked(numbers, step)]
            checks = self._checks(numbers)
        rows = {name: _joined(name, [batch[name] for batch in batches]) for name in batches[0]}
        return rows | checks | {"latent": np.array(numbers)}

    def _batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        if len(numbers) > max(1, self.rows // 2):  # fewer fit than was thought
            middle = len(numbers) // 2
            halves = [self._batch(numbers[:middle]), self._batch(numbers[middle:])]
            return {name: _joined(name, [half[name] for half in halves]) for name in halves[0]}
        judged = np.array(numbers) < JUDGED
        try:
            measured = measure(
                self.runner,
                self.segmenter,
                self.design,
                self._latents(numbers),
                {site: of[[number % len(of) for number in numbers]] for site, of in self._typical.items()},
                rows=self.rows,
                donors=self._latents(numbers, "donors") if self.resamples else None,
                discriminator=self.discriminator if judged.any() else None,
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

    def _latents(self, numbers: Sequence[int], stream: str = "effects") -> Tensor:
        generator: Any = self.runner.generator
        return latents(self.seed, numbers, generator.latent_dim, stream).to(self.device)


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    """A variable of several batches as one: along the latents, or summed over them."""
    return np.sum(parts, axis=0) if name in SUMMED else np.concatenate(parts)
