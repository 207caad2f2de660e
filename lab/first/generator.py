"""Progressive growing (Karras et al. 2018): each resolution fades in, then stabilizes, before the next one starts.

The loss is the non-saturating one of Goodfellow et al. 2014 with the lazy R1 penalty (Mescheder et al. 2018; Karras et
al. 2020). Everything random at a step is drawn from the run's seed and the step's number alone, so a run that was killed
and resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from gandid.errors import UsageError
from gandid.files import load_checkpoint, replacing, save_checkpoint
from gandid.generators.pggan import Discriminator
from gandid.generators.storage import save_discriminator, save_generator
from lab.first import rooms
from lab.growing import Growing


@dataclass(frozen=True)
class Schedule:
    """What a training run consists of; its defaults made the embedded rooms generator, `SCHEDULES[32]` the seeds of docs/twins.md.

    `images` counts training images per stage (4, 8, 16, ... pixels); a stage without images is skipped. `fade` counts those
    at the start of a stage over which its resolution fades in.
    """

    channels: tuple[int, ...] = (128, 128, 64, 32, 16)
    latent_dim: int = 64
    pixel_norm: bool = True
    images: tuple[int, ...] = (0, 24_000, 64_000, 72_000, 96_000)
    fade: tuple[int, ...] = (0, 0, 21_333, 34_667, 36_000)
    batch: int = 16
    learning_rate: float = 2e-3
    r1: float = 0.5
    r1_every: int = 16
    half_life: int = 5_000  # of the moving average of the weights, in images
    scenes: int = 24_576
    seed: int = 0

    @property
    def resolution(self) -> int:
        return 4 * 2 ** (len(self.channels) - 1)

    def steps(self) -> Iterator[tuple[int, int, float]]:
        """Yield (stage, step within the stage, alpha) for every step of the run."""
        for stage, (images, fade) in enumerate(zip(self.images, self.fade, strict=True)):
            for step in range(images // self.batch):
                yield stage, step, min(1.0, step * self.batch / fade) if fade else 1.0


# By resolution. At 32 px, networks small enough that one core trains one in a quarter of an hour: many seeds tell more than one
# good one of how far training itself decides an effect.
SCHEDULES = {
    64: Schedule(),
    32: Schedule(channels=(64, 64, 48, 24), images=(0, 16_000, 48_000, 64_000), fade=(0, 0, 16_000, 24_000)),
}


class Trainer:
    """The networks, their moving average and their optimizers; `step` trains on one batch.

    Parameters
    ----------
    schedule : Schedule
    device : str or torch.device
    """

    def __init__(self, schedule: Schedule, device: str | torch.device = "cpu"):
        torch.manual_seed(schedule.seed)
        layout: Any = dict(device=device, memory_format=torch.channels_last)
        self.schedule, self.device = schedule, torch.device(device)
        self.generator = Growing(schedule.channels, schedule.latent_dim, schedule.pixel_norm).to(**layout)
        self.discriminator = Discriminator(schedule.channels).to(**layout)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.done = 0  # steps
        self.reset_optimizers()

    def reset_optimizers(self) -> None:
        """Start Adam afresh, as at every new resolution."""
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=self.schedule.learning_rate, betas=(0.0, 0.99))
            for network in (self.generator, self.discriminator)
        ]

    def state(self) -> dict:
        return {
            "schedule": asdict(self.schedule),
            "done": self.done,
            "networks": [network.state_dict() for network in (self.generator, self.discriminator, self.average)],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict) -> None:
        if {**state["schedule"]} != asdict(self.schedule):
            raise UsageError("the checkpoint in the output folder was made with another schedule: choose another --out")
        for network, saved in zip((self.generator, self.discriminator, self.average), state["networks"], strict=True):
            network.load_state_dict(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.done = state["done"]

    def step(self, scenes: np.ndarray, stage: int, step: int, alpha: float) -> dict[str, float]:
        """Train both networks on one batch; `scenes` are (n, 3, R, R) uint8. Returns the two losses."""
        if step == 0:
            self.reset_optimizers()
        batch = self.schedule.batch
        random = torch.Generator().manual_seed(self.schedule.seed * 1_000_003 + self.done)
        z = torch.randn(batch, self.schedule.latent_dim, generator=random).to(self.device)
        real = self.real(scenes, stage, alpha, random)
        optimize_generator, optimize_discriminator = self.optimizers

        fake = self.generator(z, stage, alpha)
        loss_d = (
            F.softplus(self.discriminator(fake.detach(), stage, alpha)).mean()
            + F.softplus(-self.discriminator(real, stage, alpha)).mean()
        )
        loss_d.backward()
        if self.done % self.schedule.r1_every == 0:
            real.requires_grad_()
            (slope,) = torch.autograd.grad(self.discriminator(real, stage, alpha).sum(), real, create_graph=True)
            penalty = slope.square().sum(dim=(1, 2, 3)).mean()
            (self.schedule.r1 / 2 * self.schedule.r1_every * penalty).backward()
        optimize_discriminator.step()
        optimize_discriminator.zero_grad()

        self.discriminator.requires_grad_(False)
        loss_g = F.softplus(-self.discriminator(fake, stage, alpha)).mean()
        loss_g.backward()
        self.discriminator.requires_grad_(True)
        optimize_generator.step()
        optimize_generator.zero_grad()

        keep = 0.5 ** (batch / self.schedule.half_life)
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                mean.lerp_(weight, 1 - keep)
        self.done += 1
        return {"discriminator": loss_d.item(), "generator": loss_g.item()}

    def real(self, scenes: np.ndarray, stage: int, alpha: float, random: torch.Generator) -> Tensor:
        """Draw a batch of scenes at the stage's resolution, half of them mirrored, faded like the generator's images."""
        chosen = torch.randint(len(scenes), (self.schedule.batch,), generator=random)
        images = torch.from_numpy(scenes[chosen.numpy()]).to(self.device).float().div_(127.5).sub_(1)
        mirrored = torch.rand(self.schedule.batch, generator=random).to(self.device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        images = F.avg_pool2d(images, self.schedule.resolution // (4 * 2**stage))
        if alpha < 1:
            images = torch.lerp(F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="nearest"), images, alpha)
        return images.contiguous(memory_format=torch.channels_last)


def train_generator(
    out: Path,
    schedule: Schedule | None = None,
    device: str = "cpu",
    save_every: int = 500,
    stop_after: int | None = None,
) -> Path:
    """Train a rooms generator in `out`, going on from the checkpoint there if one is.

    Writes `checkpoint.pt` every `save_every` steps, `samples-STEP.png` beside it, and at the end `generator.safetensors`
    (moving-average weights) and `discriminator.safetensors`.

    Parameters
    ----------
    out : Path
        Folder of the run.
    schedule : Schedule, optional
    device : str
    save_every : int
        Steps between two checkpoints.
    stop_after : int, optional
        Stop (resumably) after this many steps in all.

    Returns
    -------
    Path
        Of the generator's weights.

    Raises
    ------
    UsageError
        If the checkpoint in `out` belongs to another schedule.
    """
    schedule = schedule or Schedule()
    trainer, checkpoint = Trainer(schedule, device), out / "checkpoint.pt"
    plan = list(schedule.steps())
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns) as progress:
        if checkpoint.exists():
            trainer.restore(load_checkpoint(checkpoint))
        scenes = _scenes(out / "scenes.npy", schedule, progress)
        task = progress.add_task("training", total=len(plan), completed=trainer.done)
        for stage, step, alpha in plan[trainer.done : stop_after]:
            losses = trainer.step(scenes, stage, step, alpha)
            progress.update(
                task,
                advance=1,
                description=f"{4 * 2**stage} px, alpha {alpha:.2f}, losses {losses['discriminator']:.2f} {losses['generator']:.2f}",
            )
            if trainer.done % save_every == 0 or trainer.done == len(plan):
                save_checkpoint(checkpoint, trainer.state())
                _save_samples(out / f"samples-{trainer.done:06d}.png", trainer, stage, alpha)
    return _export(out, trainer)


def _scenes(path: Path, schedule: Schedule, progress: Progress) -> np.ndarray:
    """The training scenes as bytes, rendered once per run folder."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        size, chunk = schedule.resolution, 1024
        scenes = np.empty((schedule.scenes, 3, size, size), dtype=np.uint8)
        for start in progress.track(range(0, schedule.scenes, chunk), description="rendering scenes"):
            # Training seeds start at 1,000,000: evaluation uses small ones, so no scene is seen in both.
            seed = 1_000_000 + schedule.seed * 10_000 + start // chunk
            images, _ = rooms.render(min(chunk, schedule.scenes - start), size, seed=seed)
            scenes[start : start + chunk] = images.add(1).mul(127.5).round().byte().numpy()
        with replacing(path) as aside:
            np.save(aside, scenes)
    return np.load(path, mmap_mode="r")


@torch.inference_mode()
def _save_samples(path: Path, trainer: Trainer, stage: int, alpha: float, side: int = 8) -> None:
    """Write a grid of images of the averaged generator; the latents are the same for every grid."""
    z = torch.randn(side * side, trainer.schedule.latent_dim, generator=torch.Generator().manual_seed(0))
    images = trainer.average(z.to(trainer.device), stage, alpha).cpu()
    size = images.shape[-1]
    grid = images.view(side, side, 3, size, size).permute(0, 3, 1, 4, 2).reshape(side * size, side * size, 3)
    enlarged = np.kron(grid.add(1).div(2).clamp(0, 1).numpy(), np.ones((max(1, 128 // size),) * 2 + (1,)))
    matplotlib.image.imsave(path, enlarged)


def _export(out: Path, trainer: Trainer) -> Path:
    z = torch.randn(256, trainer.schedule.latent_dim, generator=torch.Generator().manual_seed(1)).to(trainer.device)
    with torch.inference_mode():
        trainer.discriminator.calibrate(trainer.average.net(z))
    save_discriminator(trainer.discriminator, out / "discriminator.safetensors")
    return save_generator(trainer.average.net, out / "generator.safetensors")


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description="Train a generator of the first rooms, or go on training it.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an interrupted run is continued")
    parser.add_argument("--resolution", type=int, choices=sorted(SCHEDULES), default=64, help="in pixels (64)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the weights, scenes and batches (0)")
    parser.add_argument(
        "--without-normalization", action="store_true", help="train the twin without pixel normalization"
    )
    parser.add_argument("--device", default="cpu", help="device of PyTorch (cpu)")
    given = parser.parse_args()
    schedule = replace(SCHEDULES[given.resolution], seed=given.seed, pixel_norm=not given.without_normalization)
    try:
        print(train_generator(given.out, schedule, given.device))
    except UsageError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
