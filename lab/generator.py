"""The training of a rooms generator: it copies the scenes that `lab.rooms` paints of its latents.

Run it with `python -m lab.generator --out FOLDER`; the same command goes on where it was stopped. README.md in this
folder has the reasons. Everything random at a step is drawn from the run's seed and the step's number alone, so a run
that was killed and resumed ends with the weights of one that was not (on one machine, with as many threads).
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gandid.errors import UsageError
from gandid.files import is_aside, load_checkpoint, remove, replacing, save_checkpoint
from gandid.generators.pggan import Generator
from gandid.generators.storage import save_generator
from lab import rooms
from lab.growing import Growing
from lab.muon import Muon


@dataclass(frozen=True)
class Phase:
    """A part of the training, at one resolution.

    `images` counts training images, `fade` those at the start over which the resolution fades in, `cool` those at the end
    over which the rate of learning falls to nothing. After each number of images in `keep` the generator as it is then is
    kept in a file of its own.
    """

    pixels: int
    images: int
    rate: float  # of learning
    fade: int = 0
    cool: int = 0
    keep: tuple[int, ...] = ()

    def slowed(self, seen: int) -> float:
        """The part of the rate that is left after so many images."""
        return min(1.0, (self.images - seen) / self.cool) if self.cool else 1.0


@dataclass(frozen=True)
class Schedule:
    """What a training consists of; the defaults make the embedded `rooms`."""

    channels: tuple[int, ...] = (128, 128, 64, 32, 24)  # at 4, 8, 16, ... px: 2.9 MB
    pixel_norm: bool = True
    phases: tuple[Phase, ...] = (
        Phase(8, 48_000, 2e-2),
        Phase(16, 64_000, 2e-2, fade=16_000),
        Phase(32, 96_000, 2e-2, fade=16_000),
        Phase(64, 160_000, 2e-2, fade=16_000, cool=80_000, keep=(32_000, 80_000)),
    )
    batch: int = 16
    half_life: int = 10_000  # of the moving average of the weights, in images
    seed: int = 0

    def plan(self) -> list[tuple[int, int, float]]:
        """Tell of every step of the run the number of its phase, its own within it, and what is left of the rate."""
        return [
            (number, step, phase.slowed(step * self.batch))
            for number, phase in enumerate(self.phases)
            for step in range(phase.images // self.batch)
        ]


# At 32 px, networks small enough that many can be trained: several seeds, and the twin without normalization.
SCHEDULES = {
    64: Schedule(),
    32: Schedule(
        channels=(96, 96, 64, 32),
        phases=(
            Phase(8, 48_000, 2e-2),
            Phase(16, 64_000, 2e-2, fade=16_000),
            Phase(32, 192_000, 2e-2, fade=16_000, cool=96_000, keep=(32_000,)),
        ),
    ),
}


UNNORMALIZED = 0.25  # of the rate of copying, without pixel norm: at the whole rate it learned less with every phase
AHEAD = 4  # steps whose scenes are painted at once


class Trainer:
    """The network, its moving average, and the optimizers; `step` trains on one batch."""

    def __init__(self, schedule: Schedule, compiled: bool = False):
        torch.manual_seed(schedule.seed)
        layout: Any = dict(memory_format=torch.channels_last)
        self.schedule = schedule
        self.generator = Growing(schedule.channels, rooms.LATENT, schedule.pixel_norm).to(**layout)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.draw = torch.compile(self.generator) if compiled else self.generator
        self.done = 0  # steps
        self.optimizers: list[torch.optim.Optimizer] = []
        self.painted: list[tuple[Tensor, Tensor]] = []
        self.reset_optimizers(schedule.phases[0])

    def reset_optimizers(self, phase: Phase) -> None:
        """Start the optimizers afresh, as at the beginning of every phase."""
        layers = [own for name, own in self.generator.net.named_parameters() if own.dim() == 4 and "output" not in name]
        others = [own for own in self.generator.parameters() if not any(own is layer for layer in layers)]
        rate = phase.rate if self.schedule.pixel_norm else phase.rate * UNNORMALIZED
        self.optimizers = [Muon(layers, rate), torch.optim.Adam(others, rate / 4, (0.9, 0.99))]

    def state(self) -> dict[str, Any]:
        return {
            "schedule": asdict(self.schedule),
            "done": self.done,
            "networks": [network.state_dict() for network in (self.generator, self.average)],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state. What is still ahead may have been changed since; what is behind may not.

        Raises
        ------
        UsageError
            If the schedule would have led elsewhere.
        """
        before, now = dict(state["schedule"]), asdict(self.schedule)
        phases = [Phase(**phase) for phase in before.pop("phases")]
        del now["phases"]
        plan, done = self.schedule.plan(), state["done"]
        behind = replace(self.schedule, phases=tuple(phases)).plan()[:done]
        begun = behind[-1][0] + 1 if behind else 0
        kinds, same = (
            [replace(phase, images=0, cool=0, keep=()) for phase in part[:begun]]
            for part in (phases, self.schedule.phases)
        )
        if before != now or plan[:done] != behind or kinds != same:
            raise UsageError("the checkpoint in the output folder was made with another schedule: choose another --out")
        for network, saved in zip((self.generator, self.average), state["networks"], strict=True):
            network.load_state_dict(saved)
        if begun:
            self.reset_optimizers(self.schedule.phases[begun - 1])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.done = done

    def step(self, phase: Phase, step: int) -> float:
        """Train on one batch, the phase's step number `step`; returns the loss."""
        if step == 0:
            self.reset_optimizers(phase)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * phase.slowed(step * self.schedule.batch)
        stage, alpha = _stage(phase), self.alpha(phase, step)
        z, real = self.scenes(phase, step)
        if alpha < 1:
            real = torch.lerp(F.interpolate(F.avg_pool2d(real, 2), scale_factor=2, mode="nearest"), real, alpha)
        real = real.contiguous(memory_format=torch.channels_last)
        # What fades in has another blend at every step, for each of which it would be compiled.
        loss = copying((self.draw if alpha == 1 else self.generator)(z, stage, alpha), real)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self._move_average()
        self.done += 1
        return loss.item()

    def scenes(self, phase: Phase, step: int) -> tuple[Tensor, Tensor]:
        """Latents and scenes of a step; several steps' are painted at once, which takes a third of the time each."""
        batch, place = self.schedule.batch, step % AHEAD
        if place == 0 or not self.painted:
            # Seeds above a million: evaluations use small ones, so no scene is seen in both.
            first = 1_000_000 + self.schedule.seed * 100_000_000 + self.done - place
            z = torch.cat([rooms.latents(batch, first + number) for number in range(AHEAD)])
            # Painted at 32 px at least: at 8 px, three samples a pixel would miss a table's foot in one place and not in the next.
            pixels = max(32, phase.pixels)
            pictures = F.avg_pool2d(rooms.pictures(z, pixels), pixels // phase.pixels)
            self.painted = list(zip(z.split(batch), pictures.split(batch), strict=True))
        return self.painted[place]

    def alpha(self, phase: Phase, step: int) -> float:
        return min(1.0, step * self.schedule.batch / phase.fade) if phase.fade else 1.0

    @torch.no_grad()
    def _move_average(self) -> None:
        # Early in a run the average is of the last tenth of it, or it would long remember how it began.
        half_life = min(self.schedule.half_life, self.done * self.schedule.batch / 10 + 1)
        keep = 0.5 ** (self.schedule.batch / half_life)
        for mean, weight in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(weight, 1 - keep)


def copying(images: Tensor, scenes: Tensor) -> Tensor:
    """How far images (N, 3, H, W) are from the scenes that they should be.

    The mean absolute error, of the pixels and as much again of their differences across and down, is content with
    nothing but the likelier of two contents and sharp edges; but while a network knows little it is content without
    whatever is in less than half of the scenes, which the squared error is not.
    """
    error = images - scenes
    across, down = error.diff(dim=3).abs().mean(), error.diff(dim=2).abs().mean()
    return error.abs().mean() + (across + down) / 2 + 2 * error.square().mean()


def train(
    out: Path, schedule: Schedule, save_seconds: float = 120, sample_every: int = 1000, compiled: bool = False
) -> None:
    """Train in the folder `out`, going on from the checkpoint there if one is.

    Writes `checkpoint.pt` every `save_seconds`, and every `sample_every` steps a line of `log.csv`, a grid of samples,
    `samples-STEP.png`, and `generator.safetensors`: the moving average at the resolution reached.

    Raises
    ------
    UsageError
        If the checkpoint in `out` belongs to another schedule.
    """
    out.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():
        if is_aside(path.name):  # half of what was being written when a run was killed
            remove(path)
    trainer, checkpoint = Trainer(schedule, compiled), out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(load_checkpoint(checkpoint))
    plan = schedule.plan()
    saved = reported = time.monotonic()
    losses: list[float] = []
    for number, step, _ in plan[trainer.done :]:
        phase = schedule.phases[number]
        losses.append(trainer.step(phase, step))
        last = trainer.done == len(plan) or plan[trainer.done][0] != number  # of the phase
        seen = (step + 1) * schedule.batch
        if any(seen - schedule.batch < images <= seen for images in phase.keep):
            _export(out / f"generator-{number}-{seen:07d}.safetensors", trainer, phase)
        if trainer.done % sample_every == 0 or last:
            rate = schedule.batch * len(losses) / (time.monotonic() - reported)
            _report(out / "log.csv", trainer, number, seen, losses, rate)
            _save_samples(out / f"samples-{trainer.done:06d}.png", trainer, phase, trainer.alpha(phase, step))
            _export(out / "generator.safetensors", trainer, phase)
            reported, losses = time.monotonic(), []
        if last or time.monotonic() - saved > save_seconds:
            save_checkpoint(checkpoint, trainer.state())
            saved = time.monotonic()


def _stage(phase: Phase) -> int:
    return (phase.pixels // 4).bit_length() - 1


def _report(path: Path, trainer: Trainer, number: int, seen: int, losses: list[float], rate: float) -> None:
    """Append a line to a log: the phase, its images so far, the mean loss since the last line, images per second."""
    if not path.exists():
        path.write_text("step,phase,pixels,images,loss,images_per_second\n")
    line = f"{trainer.done},{number},{trainer.schedule.phases[number].pixels},{seen},{np.mean(losses):.4f},{rate:.1f}"
    with path.open("a") as log:
        log.write(line + "\n")
    print(line, flush=True)


@torch.inference_mode()
def _save_samples(path: Path, trainer: Trainer, phase: Phase, alpha: float, side: int = 8) -> None:
    """Write a grid of images of the averaged generator; the latents are the same for every grid."""
    images = trainer.average(rooms.latents(side * side, seed=0), _stage(phase), alpha)
    size = images.shape[-1]
    grid = images.view(side, side, 3, size, size).permute(0, 3, 1, 4, 2).reshape(side * size, side * size, 3)
    picture = Image.fromarray(grid.add(1).mul(127.5).round().clamp(0, 255).byte().numpy())
    with replacing(path) as aside:
        picture.resize((side * max(size, 128),) * 2, Image.Resampling.NEAREST).save(aside)


def _export(path: Path, trainer: Trainer, phase: Phase) -> None:
    """Write the averaged generator as one that ends at the phase's resolution."""
    stage, growing = _stage(phase), trainer.average
    generator = Generator(trainer.schedule.channels[: stage + 1], rooms.LATENT, trainer.schedule.pixel_norm)
    weights = growing.net.state_dict()
    weights |= {f"output.{name}": value for name, value in growing.outputs[stage].state_dict().items()}
    generator.load_state_dict({name: weights[name] for name in generator.state_dict()})
    save_generator(generator, path)


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description="Train a rooms generator, or go on training it.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resolution", type=int, choices=sorted(SCHEDULES), default=64, help="in pixels (64)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and latents (0)")
    parser.add_argument("--without-normalization", action="store_true", help="train the twin without pixel norm")
    parser.add_argument("--compile", action="store_true", help="copy with compiled layers (takes a C++ compiler)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (2)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    schedule = replace(SCHEDULES[given.resolution], seed=given.seed, pixel_norm=not given.without_normalization)
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(given.out / ".lock", timeout=0):  # the kernel frees it when the process dies
            train(given.out, schedule, compiled=given.compile)
    except filelock.Timeout:
        parser.exit(1, f"another process is training in {given.out}\n")
    except UsageError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
