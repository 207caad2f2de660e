"""The training of a segmenter of the second rooms, and what it is held against.

It is to judge a generator's images, edited ones too, so it learns three things. Of renders, worn and corrupted as
`lab.corruptions` says, what belongs to no room. Of *blends*, in which a region turns by a share into what another scene, or the
bare wall and floor, has there, what a smudge most looks like: its target is both classes, each with its share, so that the
probabilities say how much of an object is left. And of generators' own images, whose scenes are known, what they do to edges.

`python -m lab.segmenter --out FILE`, and `--evaluate FILE` for the numbers of the card.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from gandid.generators import load_generator
from gandid.segmenters import load_segmenter
from gandid.segmenters.names import UNKNOWN
from gandid.segmenters.network import ARCHITECTURES, NetworkSegmenter, save_segmenter
from lab import corruptions, rooms
from lab.corruptions import IGNORED, Draw
from lab.first.segmenter import fold_blocks, folded, price_unknown, rate

CLASSES = (*rooms.CLASSES, UNKNOWN)
SCENES = 12_000  # painted once, before the first step
BATCH = 32
STEPS = {"unet": 3_600, "dilated": 2_400}
AVERAGING = 0.995  # decay of the moving average of the weights, which is what is kept
SPOILT = 0.8  # difference of a colour channel (of 2) at which a generated pixel does not show its scene
EVALUATION = 990_001  # seed of the scenes that measure; training takes others
BINS = 10  # of the reliability diagram


@dataclass(frozen=True)
class Pictures:
    """Pictures with the class of each pixel; uint8 (n, 3, H, W) and int64 (n, H, W), 0 to the number of classes or `IGNORED`."""

    images: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Colours in [-1, 1], and labels."""
        return self.images[rows].float() / 127.5 - 1, self.labels[rows].clone()


def painted(n: int, resolution: int, seed: int, *, furnished: bool = True) -> Pictures:
    """The scenes of the first `n` latents of a seed."""
    images, labels = rooms.paint(rooms.latents(n, seed), resolution, furnished=furnished)
    return Pictures(_bytes(images), labels)


@torch.inference_mode()
def generated(paths: Sequence[Path], n: int, seed: int) -> Pictures:
    """`n` images of each generator; pixels that do not show the scene of their latent are `IGNORED`."""
    images, labels = [], []
    for number, path in enumerate(paths):
        generator = load_generator(path)
        for z in rooms.latents(n, seed + number).split(64):
            made = generator(z).clamp(-1, 1)
            scene, named = rooms.paint(z, made.shape[-1])
            images.append(_bytes(made))
            labels.append(torch.where(corruptions.change(made, scene) > SPOILT, IGNORED, named))
    return Pictures(torch.cat(images), torch.cat(labels))


def blended(images: Tensor, others: Tensor, labels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Let a region of each image turn into that of another by a share: the images, and the share of each pixel (n, H, W)."""
    share = draw.region(labels) * draw.uniform()
    return torch.lerp(images, others, share), share[:, 0]


def batch(
    scenes: Pictures, bare: Pictures, made: Pictures | None, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A training batch: images, the class of each pixel, the class that has a share of it, and that share.

    A third are renders, worn and corrupted; a third blends; a third generated images (or more blends), half of them blended.
    """
    size, third = scenes.images.shape[-1], BATCH // 3

    def rows(of: Pictures, n: int) -> Tensor:
        return torch.randint(len(of.images), (n,), generator=random)

    renders, named = corruptions.training_batch(*scenes.take(rows(scenes, third)), len(rooms.CLASSES), random)
    n = BATCH - third
    draw, at = Draw(random, n, size), rows(scenes, n)
    images, labels = scenes.take(at)
    emptied, turned = draw.chance(0.5), scenes.take(rows(scenes, n))
    nothing = bare.take(at)
    others = torch.where(emptied, nothing[0], turned[0])
    classes = torch.where(emptied[:, 0], nothing[1], turned[1])
    if made is not None:
        images[:third], labels[:third] = made.take(rows(made, third))
    images, share = blended(images, others, labels.clamp(min=0), draw)
    share = torch.where((torch.arange(n) < third // 2)[:, None, None] & (made is not None), 0.0, share)
    images = corruptions.imperfect(images, draw).clamp(-1, 1)
    none = torch.zeros_like(named)
    return (
        torch.cat([renders, images]),
        torch.cat([named, labels]),
        torch.cat([none, classes]),
        torch.cat([none.float(), share]),
    )


def train(
    out: Path,
    architecture: str = "unet",
    generators: Sequence[Path] = (),
    *,
    seed: int = 0,
    steps: int | None = None,
    scenes: int = SCENES,
    resolution: int = 64,
) -> None:
    """Train a segmenter and write it to the file `out`. The same settings give the same weights, with as many threads."""
    steps = STEPS[architecture] if steps is None else steps
    torch.manual_seed(seed)
    network = ARCHITECTURES[architecture](len(CLASSES), normalized=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGING), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate(0.0), weight_decay=1e-3)
    source = (seed + 1) * 1_000_000
    rendered = painted(scenes, resolution, source), painted(scenes, resolution, source, furnished=False)
    made = generated(generators, scenes // (2 * len(generators)), source + 1) if generators else None
    network.train()
    for step in track(range(steps), description=f"training {architecture}"):
        images, named, other, share = batch(*rendered, made, torch.Generator().manual_seed(source + step))
        scores = network(images).flatten(0, 4)
        named, other, share = (fold_blocks(each).flatten() for each in (named, other, share))
        loss = (1 - share) * F.cross_entropy(scores, named, reduction="none", ignore_index=IGNORED)
        loss = (loss + share * F.cross_entropy(scores, other, reduction="none")).sum() / (named != IGNORED).sum()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate(step / steps)
        optimizer.step()
        average.update_parameters(network)
    segmenter = NetworkSegmenter(folded(average.module), CLASSES, rooms.BACKGROUND)
    price_unknown(segmenter, _worn(min(scenes, 500), resolution, source + 2)[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    save_segmenter(out, segmenter)


@torch.inference_mode()
def evaluate(segmenter: NetworkSegmenter, scenes: int = 500, resolution: int = 64) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure a segmenter on scenes that it never saw.

    Returns
    -------
    by class : DataFrame
        Intersection over union on clean and on worn renders; of "unknown", the share of pixels called so.
    reliability : DataFrame
        Of blends' pixels, by the probability that is given to the class that was there: mean probability, and mean
        share of that class in the pixel; `pixels` in each bin.
    """
    clean = rooms.paint(rooms.latents(scenes, EVALUATION), resolution)
    columns = {}
    for name, (images, labels) in {"clean": clean, "worn": _worn(scenes, resolution, EVALUATION)}.items():
        named = segmenter(images)
        values = [
            float(((named == k) & (labels == k)).sum() / ((named == k) | (labels == k)).sum().clamp(min=1))
            for k in range(len(rooms.CLASSES))
        ]
        columns[name] = [*values, float((named == CLASSES.index(UNKNOWN)).float().mean())]
    images, labels = clean
    bare, nothing = rooms.paint(rooms.latents(scenes, EVALUATION), resolution, furnished=False)
    mixed, share = blended(images, bare, labels, Draw(torch.Generator().manual_seed(EVALUATION), scenes, resolution))
    object_there = labels != nothing
    given = segmenter.probabilities(mixed).gather(1, labels[:, None])[:, 0][object_there & (share > 0)].numpy()
    left = 1 - share[object_there & (share > 0)].numpy()
    table = pd.DataFrame({"probability": given, "share": left, "bin": np.minimum((given * BINS).astype(int), BINS - 1)})
    reliability = table.groupby("bin").agg(
        pixels=("share", "size"), probability=("probability", "mean"), share=("share", "mean")
    )
    return pd.DataFrame(columns, index=pd.Index(CLASSES, name="class")), reliability


def _worn(n: int, resolution: int, seed: int) -> tuple[Tensor, Tensor]:
    images, labels = rooms.paint(rooms.latents(n, seed), resolution)
    return corruptions.worn(
        images, labels, Draw(torch.Generator().manual_seed(seed), n, resolution), len(rooms.CLASSES)
    )


def _bytes(images: Tensor) -> Tensor:
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def main() -> None:
    """Train, or measure, as the command line says."""
    parser = argparse.ArgumentParser(description="Train a segmenter of the second rooms, or measure one.")
    parser.add_argument("--out", type=Path, help="file to write")
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="unet", help="of the network (unet)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and batches (0)")
    parser.add_argument(
        "--generator",
        type=Path,
        action="append",
        default=[],
        help="a generator of lab.generator whose images it sees, too; may be repeated",
    )
    parser.add_argument("--evaluate", type=Path, help="measure this segmenter instead")
    given = parser.parse_args()
    if given.evaluate:
        for table in evaluate(load_segmenter(given.evaluate)):
            print(table.round(4).to_string())
    elif given.out is None:
        parser.error("--out is needed")
    else:
        train(given.out, given.architecture, given.generator, seed=given.seed)


if __name__ == "__main__":
    main()
