"""The training of a segmenter of rooms, and what it is held against.

It is to judge a generator's images, edited ones too, so half of what it learns from are such images, whose scenes are known; of
an ablated pixel the target is what was there and what is behind it, each by its share (`lab.edits`), so that the probabilities say
how much of an object is left. The other half are renders, worn and corrupted as `lab.corruptions` says, from which it learns what
belongs to no room.

`python -m lab.segmenter --generator FILE --out FILE`, and `--evaluate SEGMENTER --against OTHER` for the numbers of the card.
"""

from __future__ import annotations

import argparse
import math
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
from gandid.generators.pggan import Generator
from gandid.segmenters import load_segmenter
from gandid.segmenters.names import UNKNOWN
from gandid.segmenters.network import ARCHITECTURES, NetworkSegmenter, save_segmenter
from gandid.segmenters.pixelwise import Convolution, PixelNetwork
from lab import corruptions, edits, rooms
from lab.corruptions import IGNORED, Draw

CLASSES = (*rooms.CLASSES, UNKNOWN)
SCENES = 12_000  # painted once, before the first step
BATCH = 32
STEPS = 3_600
RATE = 4e-3  # the learning rate's maximum, after a twentieth of the steps; then half a cosine to 0
AVERAGING = 0.995  # decay of the moving average of the weights, which is what is kept
IMPERFECT_UNKNOWN = 0.002  # share of imperfect renders' pixels that `unknown` may take: see `price_unknown`
EVALUATION = 990_001  # seed of the scenes that measure; training takes others
BINS = 10  # of the reliability diagram
CLEAR = 0.75  # of an object's pixel that is gone, from which it is clearly gone
# What a segmenter must reach: intersection over union on clean renders, pixels of them that it may call unknown, and the share of
# every held-out corruption that it must. The second segmenter is smaller, and declines to name less.
IOU_BARS = dict.fromkeys(rooms.CLASSES, 0.95) | dict.fromkeys(("lamp", "chair", "plant", "floor lamp"), 0.85)
CLEAN_BAR = 0.005
RECALL_BARS = {"unet": 0.8, "dilated": 0.5}


@dataclass(frozen=True)
class Pictures:
    """Pictures, uint8 (n, 3, H, W); the class of each pixel, int64 (n, H, W), or `IGNORED`; another that has a share of it, and the share."""

    images: Tensor
    labels: Tensor
    others: Tensor
    shares: Tensor

    def take(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`n` of them, with colours in [-1, 1]."""
        rows = torch.randint(len(self.images), (n,), generator=random)
        return self.images[rows].float() / 127.5 - 1, self.labels[rows], self.others[rows], self.shares[rows]


def painted(n: int, resolution: int, seed: int) -> Pictures:
    """The scenes of the first `n` latents of a seed."""
    images, labels = rooms.paint(rooms.latents(n, seed), resolution)
    return Pictures(_bytes(images), labels, labels, torch.zeros(labels.shape))


def generated(generators: Sequence[Generator], n: int, seed: int) -> Pictures:
    """About `n` images of generators, a quarter of them unedited; pixels of which it is not known what they show are `IGNORED`."""
    images, labels, others, shares = [], [], [], []
    for number, generator in enumerate(generators):
        for edited in edits.edits(generator, n // (edits.TOGETHER * len(generators)), seed + number):
            shown = edited.gone.isfinite()
            same = corruptions.change(edited.before, edited.after) < edits.ELSEWHERE
            known = edited.drawn & (shown | (edited.labels == edited.bare) & same)
            plain = torch.arange(len(shown))[:, None, None] < len(shown) // 4
            images.append(_bytes(torch.where(plain[:, None], edited.before, edited.after)))
            labels.append(torch.where(torch.where(plain, edited.drawn, known), edited.labels, IGNORED))
            others.append(edited.bare)
            shares.append(torch.where(shown & ~plain, edited.gone, 0.0))
    return Pictures(*(torch.cat(parts) for parts in (images, labels, others, shares)))


def batch(scenes: Pictures, made: Pictures | None, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A training batch: images, the class of each pixel, the class that has a share of it, and that share.

    Half are renders, worn and corrupted (all of them, where no images were made); half generated images, worn.
    """
    half = BATCH if made is None else BATCH // 2
    images, named, others, shares = scenes.take(half, random)
    images, named = corruptions.training_batch(images, named, len(rooms.CLASSES), random)
    if made is None:
        return images, named, others, shares
    more = list(made.take(BATCH - half, random))
    more[0] = corruptions.imperfect(more[0], Draw(random, BATCH - half, images.shape[-1])).clamp(-1, 1)
    parts = (images, named, others, shares), more
    return tuple(torch.cat(both) for both in zip(*parts, strict=True))  # type: ignore[return-value]


def train(
    out: Path,
    architecture: str = "unet",
    generators: Sequence[Generator] = (),
    *,
    seed: int = 0,
    steps: int = STEPS,
    scenes: int = SCENES,
    resolution: int = 64,
) -> None:
    """Train a segmenter and write it to the file `out`. The same settings give the same weights, with as many threads."""
    torch.manual_seed(seed)
    network = ARCHITECTURES[architecture](len(CLASSES), normalized=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGING), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate(0.0), weight_decay=1e-3)
    source = (seed + 1) * 1_000_000
    rendered = painted(scenes, resolution, source)
    made = generated(generators, scenes, source + 1) if generators else None
    network.train()
    for step in track(range(steps), description=f"training {architecture}"):
        images, named, others, shares = batch(rendered, made, torch.Generator().manual_seed(source + step))
        scores = network(images).flatten(0, 4)
        named, others, shares = (fold_blocks(each).flatten() for each in (named, others, shares))
        counted = named != IGNORED
        loss = (1 - shares) * F.cross_entropy(scores, named, reduction="none", ignore_index=IGNORED)
        loss = (loss + counted * shares * F.cross_entropy(scores, others, reduction="none")).sum() / counted.sum()
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


def folded(network: PixelNetwork) -> PixelNetwork:
    """Give the same function without batch normalizations: each is folded into the convolution before it.

    In inference a batch normalization is `(y - mean) / sqrt(var + eps) * gamma + beta` per channel, so scaling the
    convolution's weights and shifting its bias does the same.
    """
    plain = type(network)(network.classes, normalized=False, **network.shape)
    plain.load_state_dict(network.state_dict(), strict=False)
    for name, source in network.named_modules():
        if isinstance(source, Convolution) and isinstance(source.norm, torch.nn.BatchNorm2d):
            mean, variance = source.norm.running_mean, source.norm.running_var
            gain = source.norm.weight / torch.sqrt(variance + source.norm.eps)
            target = plain.get_submodule(name).conv
            target.weight.data = (source.conv.weight * gain[:, None, None, None]).detach()
            target.bias.data = (source.norm.bias - mean * gain).detach()
    return plain.eval()


def fold_blocks(pixels: Tensor) -> Tensor:
    """Undo `gandid.segmenters.pixelwise.unfold_blocks`: (N, H, W) to (N, H / 2, W / 2, 2, 2)."""
    n, height, width = pixels.shape
    return pixels.view(n, height // 2, 2, width // 2, 2).transpose(2, 3)


@torch.inference_mode()
def price_unknown(segmenter: NetworkSegmenter, images: Tensor) -> None:
    """Shift the score of `unknown` until it takes a share `IMPERFECT_UNKNOWN` of imperfect renders.

    How readily training makes it say `unknown` depends on how many corruptions it showed. This fixes the
    price instead: how many sound, if imperfect, pixels it may cost to find what is not of a room.
    """
    unknown, margins = segmenter.classes.index(UNKNOWN), []
    for some in images.split(64):
        scores = segmenter.network(some)
        margins.append((scores[..., unknown] - scores[..., :unknown].amax(dim=-1)).flatten())
    margin = torch.cat(margins)
    limit = margin.kthvalue(math.ceil(len(margin) * (1 - IMPERFECT_UNKNOWN))).values
    bias = segmenter.network.score.bias
    assert bias is not None
    bias.view(4, len(segmenter.classes))[:, unknown] -= limit


def rate(done: float) -> float:
    """Give the learning rate at a share `done` of the steps."""
    return RATE * (min(done / 0.05, 1.0) * 0.5 * (1 + math.cos(math.pi * max(0.0, (done - 0.05) / 0.95))))


@torch.inference_mode()
def evaluate(segmenter: NetworkSegmenter, scenes: int = 500, resolution: int = 64) -> tuple[pd.DataFrame, pd.Series]:
    """Measure a segmenter on renders that it never saw.

    Returns
    -------
    by class : DataFrame
        Intersection over union on `clean` and on `worn` renders; of "unknown", the share of pixels called so.
    recall : Series
        By kind of held-out corruption, the share of the pixels it changed visibly that are called unknown.
    """
    clean, columns = rooms.paint(rooms.latents(scenes, EVALUATION), resolution), {}
    unknown = CLASSES.index(UNKNOWN)
    for name, (images, labels) in {"clean": clean, "worn": _worn(scenes, resolution, EVALUATION)}.items():
        named = segmenter(images)
        values = [
            float(((named == k) & (labels == k)).sum() / ((named == k) | (labels == k)).sum().clamp(min=1))
            for k in range(len(rooms.CLASSES))
        ]
        columns[name] = [*values, float((named == unknown).float().mean())]
    recall = {}
    for name, corrupt in corruptions.HELD_OUT.items():
        images, labels = clean
        spoilt = corrupt(images, labels, Draw(torch.Generator().manual_seed(EVALUATION), scenes, resolution))
        visible = corruptions.change(images, spoilt) > corruptions.VISIBLE
        recall[name] = float((segmenter(spoilt.clamp(-1, 1)) == unknown)[visible].float().mean())
    return pd.DataFrame(columns, index=pd.Index(CLASSES, name="class")), pd.Series(recall, name="recall")


@torch.no_grad()
def reliability(segmenter: NetworkSegmenter, generator: Generator, count: int = 120) -> pd.DataFrame:
    """Hold probabilities against the truth, on pixels of ablated objects.

    Returns
    -------
    DataFrame
        By the probability that is given to the object that was there, in `BINS` bins: `pixels`, mean `probability`, and mean share
        of the object that is `left`.
    """
    given, left = [], []
    for edited in edits.edits(generator, count, EVALUATION):
        shown = edited.gone.isfinite()
        own = segmenter.probabilities(edited.after).gather(1, edited.labels[:, None])[:, 0]
        given.append(own[shown])
        left.append(1 - edited.gone[shown])
    table = pd.DataFrame({"probability": torch.cat(given).numpy(), "left": torch.cat(left).numpy()})
    bins = np.minimum((table["probability"] * BINS).astype(int), BINS - 1)
    grouped = table.groupby(bins.rename("bin"))
    return grouped.size().rename("pixels").to_frame().join(grouped.mean())


def agreement(
    segmenter: NetworkSegmenter,
    other: NetworkSegmenter,
    generator: Generator,
    layer: str = "layer4",
    units: int = 20,
    images: int = 64,
) -> pd.DataFrame:
    """How often two segmenters name the same in the place of an ablated object.

    Returns
    -------
    DataFrame
        One row per object that is ablated, and one for `all`, of the pixels in which the first saw it before: `removed`, the share of which it no
        longer says so; `place`, on which share the two agree; `hole`, the same of the removed; `clear`, of those of which at least
        `CLEAR` is truly gone; `unknown` and `unknown_other`, which share of the removed each calls unknown.
    """
    counts = {}
    unknown = CLASSES.index(UNKNOWN)
    z = rooms.latents(8 * images, EVALUATION)
    labels = rooms.paint(z, generator.resolution)[1]
    for target in rooms.OBJECTS:
        shown = (labels == rooms.CLASSES.index(target)).flatten(1).any(dim=1)
        edited = edits.ablate(generator, z[shown][:images], target, layer, units)
        place = segmenter(edited.before) == CLASSES.index(target)
        one, two = segmenter(edited.after), other(edited.after)
        hole = place & (one != CLASSES.index(target))
        clear = place & (edited.gone >= CLEAR)
        parts = {"place": place, "hole": hole, "clear": clear}
        alike = {f"{name} alike": mask & (one == two) for name, mask in parts.items()}
        unnamed = {"unknown": hole & (one == unknown), "unknown_other": hole & (two == unknown)}
        counts[target] = {name: int(mask.sum()) for name, mask in (parts | alike | unnamed).items()}
    table = pd.DataFrame.from_dict(counts, orient="index").rename_axis("object")
    table.loc["all"] = table.sum()
    shares = {"removed": table["hole"] / table["place"]}
    shares |= {name: table[f"{name} alike"] / table[name] for name in ("place", "hole", "clear")}
    return pd.DataFrame(shares | {name: table[name] / table["hole"] for name in ("unknown", "unknown_other")})


def _worn(n: int, resolution: int, seed: int) -> tuple[Tensor, Tensor]:
    images, labels = rooms.paint(rooms.latents(n, seed), resolution)
    draw = Draw(torch.Generator().manual_seed(seed), n, resolution)
    return corruptions.worn(images, labels, draw, len(rooms.CLASSES))


def _bytes(images: Tensor) -> Tensor:
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def main() -> None:
    """Train, or measure, as the command line says."""
    parser = argparse.ArgumentParser(description="Train a segmenter of rooms, or measure one.")
    parser.add_argument("--out", type=Path, help="file to write")
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="unet", help="of the network (unet)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and batches (0)")
    parser.add_argument(
        "--generator",
        action="append",
        default=[],
        help="a name or a file: whose images, edited ones too, it learns from or is measured on; may be repeated",
    )
    parser.add_argument("--evaluate", help="measure this segmenter instead, a name or a file")
    parser.add_argument("--against", help="and how often it agrees with this one")
    given = parser.parse_args()
    generators = [load_generator(name) for name in given.generator]
    if given.evaluate:
        segmenter = load_segmenter(given.evaluate)
        tables = [*evaluate(segmenter), *(reliability(segmenter, generator) for generator in generators)]
        if given.against:
            other = load_segmenter(given.against)
            tables += [agreement(segmenter, other, generator) for generator in generators]
        print("\n\n".join(table.round(3).to_string() for table in tables))
    elif given.out is None:
        parser.error("--out is needed")
    else:
        train(given.out, given.architecture, generators, seed=given.seed)


if __name__ == "__main__":
    main()
