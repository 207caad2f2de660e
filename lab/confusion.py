"""What a segmenter calls what, measured on rooms, where the truth is known: `python -m lab.confusion --out FOLDER`.

The embedded segmenters' matrices lie beside their weights, in `NAME-confusion.csv`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

from gandid.errors import UsageError
from gandid.segmenters import NAMED, UNKNOWN, Segmenter, load_segmenter
from lab import corruptions, rooms

CLASSES = (*rooms.CLASSES, UNKNOWN)
SCENES = 480
SEED = 990_002  # of the scenes: neither training nor evaluation has it
_PART = 240  # scenes at a time: ten for each held-out corruption, and as many without any


def confusion(segmenter: Segmenter, scenes: int = SCENES, seed: int = SEED, *, resolution: int = 64) -> pd.DataFrame:
    """Measure what a segmenter of rooms calls each class, on scenes that it was not trained on.

    The scenes are worn as a generator's images are (`corruptions.worn`), and half of them carry one of the held-out corruptions,
    all kinds alike: what these changed visibly is truly `unknown`, and what they changed hardly is left out.

    Parameters
    ----------
    segmenter : Segmenter
        Its classes must be those of the rooms, in any order, with or without `unknown`.
    scenes, seed, resolution : int
        How many scenes, their seed, and their height and width in pixels.

    Returns
    -------
    pandas.DataFrame
        Rows the true class, columns the class that is named, both in the order of the segmenter's classes: shares of the true
        class's pixels, which sum to 1 in each row. NaN where a class has no pixel.

    Raises
    ------
    UsageError
        If the segmenter's classes are others.
    """
    if set(segmenter.classes) - {UNKNOWN} != set(rooms.CLASSES):
        raise UsageError(
            f"the truth is known of {', '.join(rooms.CLASSES)}; this segmenter sees {', '.join(segmenter.classes)}"
        )
    names, generator = list(segmenter.classes), torch.Generator().manual_seed(seed)
    # Where each class is among the segmenter's
    place = torch.tensor([names.index(name) if name in names else -1 for name in CLASSES])
    images, labels = rooms.render(scenes, resolution, seed)
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)
    for start in range(0, scenes, _PART):
        rows = slice(start, start + _PART)
        shown, truth = spoilt(images[rows], labels[rows], generator)
        truth, named = torch.where(truth < 0, -1, place[truth.clamp(min=0)]), segmenter(shown).cpu()
        known = truth >= 0
        pairs = truth[known] * len(names) + named[known]
        counts += torch.bincount(pairs, minlength=counts.numel()).view_as(counts)
    shares = counts / counts.sum(dim=1, keepdim=True)
    return pd.DataFrame(shares.double().numpy(), index=pd.Index(names, name="true"), columns=names)


def spoilt(images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Worn scenes, every second with one of the held-out corruptions, and what they truly show (negative: neither)."""
    size, kinds = images.shape[-1], list(corruptions.HELD_OUT.values())
    draw = corruptions.Draw(generator, len(images), size)
    before, labels = corruptions.worn(images, labels, draw, len(rooms.CLASSES))
    after = before.clone()
    for k, corrupt in enumerate(kinds):
        rows = slice(2 * k, None, 2 * len(kinds))
        if len(some := before[rows]):
            after[rows] = corrupt(some, labels[rows], corruptions.Draw(generator, len(some), size)).clamp(-1, 1)
    return after, corruptions.relabelled(labels, corruptions.change(before, after), len(rooms.CLASSES))


def main() -> None:
    """Measure the embedded segmenters and write what is found."""
    parser = argparse.ArgumentParser(
        description="Measure which class the embedded segmenters take for which other one."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for one NAME-confusion.csv per segmenter")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMED:
        confusion(load_segmenter(name)).to_csv(folder / f"{name}-confusion.csv")


if __name__ == "__main__":
    main()
