"""Distillation: what follows a layer learns to make the same images again, without its normalizations or with them.

Whatever runs up to the layer is frozen, so that its units and their ablation are the same. Without normalizations, each site divides by
a constant, its average over unedited latents. Either kind starts from the generator's own weights with the same noise and learns by the
same schedule, from unedited latents alone: what differs between them is the normalization, not the re-learning (Heimersheim 2024,
"You can remove GPT2's LayerNorm by fine-tuning").
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gandid.errors import GandidError, UsageError
from gandid.files import load_checkpoint, save_checkpoint
from gandid.generators import Generator
from gandid.generators.distilled import AGREEMENT, DIFFERENCE, KINDS, without, write_distilled
from gandid.interventions import Runner
from gandid.latents import latents
from gandid.measure.worker import CALIBRATED
from gandid.segmenters import Segmenter, labelled

COMPARED = 512  # latents on which the network is compared with its generator
WARM = 50  # batches in which the learning rate rises
POOL = 16  # batches whose examples are kept at a time
ECHOES = 4  # times that each is shown
EVERY = 30.0  # seconds after which what is learned is kept


@dataclass(frozen=True)
class Schedule:
    """How a network learns; both kinds alike."""

    batches: int = 600
    batch: int = 8
    """Latents of each."""
    rate: float = 0.04
    """Of learning (Adam), relative to the root mean square of each tensor; it falls to 0 in a line."""
    noise: float = 0.2
    """Standard deviation of what is added to each tensor at the start, in those of its values."""


class Distillation:
    """A network that learns; `step` is one batch.

    Parameters
    ----------
    generator : nn.Module
    layer : str
        What follows it learns.
    placebo : bool
        Keep the normalizations.
    seed : int
        Random seed for the latents and the noise.
    schedule : Schedule

    Raises
    ------
    UsageError
        If there is no such layer, or no normalization after it that responds to an edit.
    """

    def __init__(self, generator: nn.Module, layer: str, placebo: bool, seed: int, schedule: Schedule):
        runner = Runner(generator, layer)
        sites = [name for name, responds in runner.responds.items() if responds]
        if not sites:
            raise UsageError(
                f"no normalization after layer '{layer}' responds to an edit: there is none to distil away"
            )
        # Copies, laid out so that learning is faster: a third of its time on a CPU.
        self.teacher: Any = copy.deepcopy(runner.generator).to(memory_format=torch.contiguous_format)
        self.layer, self.seed, self.schedule, self.device, self.done = layer, seed, schedule, runner.device, 0
        self.splits = isinstance(runner.generator, Generator)
        self.sites = [] if placebo else sites
        self.about = {"kind": KINDS[placebo], "layer": layer, "seed": seed, "sites": self.sites, **asdict(schedule)}
        found = runner.calibrate(self._latents(range(CALIBRATED), "calibration").split(schedule.batch))
        # Clones, since nothing that was made in inference mode takes part in learning.
        constants = {name: found[name].map(torch.clone) for name in self.sites}
        self.network = without(self.teacher, constants).requires_grad_(False)
        self.trained = {
            f"{name}.{own}": value.requires_grad_()
            for name, module in _following(self.network, layer, self._latents(range(1))).items()
            for own, value in module.named_parameters(recurse=False)
        }
        noise, groups = torch.Generator().manual_seed(seed), []
        with torch.no_grad():
            sizes = [float(value.square().mean().sqrt()) for value in self.trained.values()]
            for value, size in zip(self.trained.values(), sizes, strict=True):
                spread = float(value.std()) if value.numel() > 1 else 0.0
                value += schedule.noise * spread * torch.randn(value.shape, generator=noise).to(value)
                groups.append({"params": [value], "size": size or max(sizes)})
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self._pool: tuple[int, Tensor, Tensor] | None = None

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on."""
        weights = {name: value.detach() for name, value in self.trained.items()}
        return {"about": self.about, "done": self.done, "weights": weights, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; raises `UsageError` if it is of another distillation."""
        weights = state.get("weights", {})
        shapes = {name: value.shape for name, value in weights.items()}
        if state.get("about") != self.about or shapes != {name: value.shape for name, value in self.trained.items()}:
            raise UsageError("what is kept beside --out is of another distillation: choose another --out")
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(weights[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]

    def step(self) -> float:
        """Learn from one batch; returns the loss: mean squared and absolute error of the images."""
        schedule = self.schedule
        rate = schedule.rate * min((self.done + 1) / WARM, 1 - self.done / schedule.batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["size"]
        given, wanted = self._examples()
        error = self._follow(self.network, given) - wanted
        loss = error.square().mean() + error.abs().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        return float(loss.detach())

    @torch.no_grad()
    def compare(self, segmenter: Segmenter) -> tuple[float, float]:
        """Round the weights to half precision and compare unedited images with the generator's.

        Returns
        -------
        agreement, difference : float
            Share of the pixels with the same label, in [0, 1]; root mean square difference of images in [-1, 1].
        """
        for value in self.trained.values():
            value.copy_(value.half())
        same = square = 0.0
        for z in latents(0, range(COMPARED), self.teacher.latent_dim).to(self.device).split(self.schedule.batch):
            wanted, made = self.teacher(z), self.network(z)
            same += float((labelled(segmenter, wanted) == labelled(segmenter, made)).float().mean()) * len(z) / COMPARED
            square += float((wanted - made).square().mean()) * len(z) / COMPARED
        return same, math.sqrt(square)

    def _examples(self) -> tuple[Tensor, Tensor]:
        """What the next batch is given, and the images that are wanted of it.

        Each latent is shown `ECHOES` times, in batches that are drawn anew (Choi et al. 2019, "Faster Neural Network Training with
        Data Echoing"), since the generator's own pass costs as much as half a step.
        """
        size = self.schedule.batch
        pool, step = divmod(self.done, POOL * ECHOES)
        if self._pool is None or self._pool[0] != pool:
            parts = self._latents(range(pool * POOL * size, (pool + 1) * POOL * size)).split(size)
            with torch.no_grad():
                given = [self._lead(z) for z in parts]
                wanted = [self._follow(self.teacher, x) for x in given]
            self._pool = pool, torch.cat(given), torch.cat(wanted)
        echo, batch = divmod(step, POOL)
        order = torch.randperm(POOL * size, generator=torch.Generator().manual_seed(pool * ECHOES + echo))
        chosen = order[batch * size : (batch + 1) * size].to(self.device)
        return self._pool[1][chosen], self._pool[2][chosen]

    def _lead(self, z: Tensor) -> Tensor:
        """What of a pass is the same for both networks."""
        return self.teacher.prefix(z, self.layer) if self.splits else z

    def _follow(self, network: Any, x: Tensor) -> Tensor:
        return network.suffix(x, self.layer) if self.splits else network(x)

    def _latents(self, numbers: range, stream: str = "distillation") -> Tensor:
        return latents(self.seed, numbers, self.teacher.latent_dim, stream).to(self.device)


def distil(
    distillation: Distillation,
    segmenter: Segmenter,
    out: Path,
    advance: Callable[[int], None] = lambda steps: None,
) -> tuple[Path, float, float]:
    """Let a network learn and write it to the file `out` (.safetensors), or into the folder `out` by its kind and seed.

    Returns the file, and the agreement and the difference, see `Distillation.compare`. What is learned is kept in a hidden file beside
    it every `EVERY` seconds, from which the same call goes on.

    Raises
    ------
    UsageError
        If the file is there.
    GandidError
        If the network does not make the same images: nothing is written.
    """
    if out.suffix != ".safetensors":
        out = out / "{kind}-{seed}.safetensors".format(**distillation.about)
    if out.exists():
        raise UsageError(f"{out} exists: choose another --out, or remove it")
    kept = out.with_name(f".{out.stem}.checkpoint")
    if kept.is_file():
        distillation.restore(load_checkpoint(kept))
        advance(distillation.done)
    saved = time.monotonic()
    while distillation.done < distillation.schedule.batches:
        loss = distillation.step()
        if not math.isfinite(loss):
            raise GandidError("what is learned is no longer finite: choose a lower rate")
        advance(1)
        if time.monotonic() - saved >= EVERY or distillation.done == distillation.schedule.batches:
            save_checkpoint(kept, distillation.state())
            saved = time.monotonic()
    agreement, difference = distillation.compare(segmenter)
    if agreement < AGREEMENT or difference > DIFFERENCE:
        raise GandidError(
            f"the network does not make the generator's images: labels agree on {agreement:.1%} of the pixels (at least "
            f"{AGREEMENT:.0%} are needed), and images differ by {difference:.3f} (at most {DIFFERENCE}): give more --batches, "
            "in another --out"
        )
    bars = {"agreement": round(agreement, 5), "difference": round(difference, 5)}
    write_distilled(out, distillation.network, distillation.trained, distillation.about | bars)
    kept.unlink()
    return out, agreement, difference


def _following(network: nn.Module, layer: str, z: Tensor) -> dict[str, nn.Module]:
    """The modules that begin to run after a layer, and not before it."""
    before, after, passed, handles = set[str](), dict[str, nn.Module](), [False], []
    for name, module in network.named_modules():

        def begin(module: nn.Module, args: tuple, name: str = name) -> None:
            if passed[0]:
                after[name] = module
            else:
                before.add(name)

        handles.append(module.register_forward_pre_hook(begin))
    handles.append(dict(network.named_modules())[layer].register_forward_hook(lambda *_: passed.__setitem__(0, True)))
    try:
        with torch.no_grad():
            network(z)
    finally:
        for handle in handles:
            handle.remove()
    return {name: module for name, module in after.items() if name not in before}
