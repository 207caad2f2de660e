"""How well a generator draws the scenes of its latents, class by class: `python -m lab.quality GENERATOR`."""

from __future__ import annotations

import argparse
from typing import Any

import pandas as pd
import torch

from gandid.generators import load_generator
from gandid.outcomes.counts import pixels
from gandid.segmenters import Segmenter, load_segmenter
from gandid.segmenters.names import UNKNOWN
from lab import rooms

AREA_BAR = 0.10  # relative difference of the mean area
PRESENCE_BAR = 0.05  # difference of the share of images in which a class is present
UNKNOWN_BAR = 0.005  # share of pixels that the segmenter cannot place
PRESENCE = 0.003  # share of an image's pixels from which a class counts as present


@torch.inference_mode()
def quality(generator: Any, segmenter: Segmenter, scenes: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Compare segmented images with the scenes of the same latents, counted by their exact masks.

    Returns
    -------
    DataFrame
        One row per class: `area` and `area_scenes`, mean shares of the image; `ratio`, the one by the other; `presence` and
        `presence_scenes`, shares of images in which the class covers at least 0.3 %; `same`, the share of the scenes' pixels of the
        class that are named so. The row `unknown` has the share of pixels that the segmenter cannot place.
    """
    classes, size = segmenter.classes, generator.resolution
    place = torch.tensor([classes.index(name) for name in rooms.CLASSES])
    made, painted = [], []
    hits = torch.zeros(len(rooms.CLASSES))
    for z in rooms.latents(scenes, seed).split(100):
        named, (_, labels) = segmenter(generator(z)), rooms.paint(z, size)
        made.append(pixels(named, len(classes)).double())
        painted.append(pixels(labels, len(rooms.CLASSES)).double())
        hits += torch.bincount(labels[named == place[labels]], minlength=len(hits))
    ours, theirs = (torch.cat(parts) / size**2 for parts in (made, painted))
    own = ours[:, place]
    columns = {
        "area": own.mean(0),
        "area_scenes": theirs.mean(0),
        "ratio": own.mean(0) / theirs.mean(0),
        "presence": (own >= PRESENCE).double().mean(0),
        "presence_scenes": (theirs >= PRESENCE).double().mean(0),
        "same": hits / (theirs.sum(0) * size**2),
    }
    table = pd.DataFrame({name: values.numpy() for name, values in columns.items()}, index=list(rooms.CLASSES))
    if UNKNOWN in classes:
        table.loc[UNKNOWN, "area"] = float(ours[:, classes.index(UNKNOWN)].mean())
    return table.rename_axis("class")


def missed(table: pd.DataFrame) -> list[str]:
    """Which bars the numbers of `quality` miss, in words; none is the aim."""
    found, known = [], table.drop(index=UNKNOWN, errors="ignore")
    for name, row in known.iterrows():
        if abs(row["ratio"] - 1) > AREA_BAR:
            found.append(f"{name}: {row['ratio']:.2f} of the area")
        if abs(row["presence"] - row["presence_scenes"]) > PRESENCE_BAR:
            found.append(
                f"{name}: in {100 * row['presence']:.1f} % of images, not {100 * row['presence_scenes']:.1f} %"
            )
    if UNKNOWN in table.index and table.loc[UNKNOWN, "area"] > UNKNOWN_BAR:
        found.append(f"{100 * table.loc[UNKNOWN, 'area']:.2f} % of the pixels unknown")
    return found


def main() -> None:
    """Print the table of a generator, and which bars it misses."""
    parser = argparse.ArgumentParser(description="Compare a generator's images with the scenes of their latents.")
    parser.add_argument("generator", nargs="?", default="rooms", help="a name or a file (rooms)")
    parser.add_argument("--segmenter", default="rooms", help="a name or a file (rooms)")
    parser.add_argument("--scenes", type=int, default=2000, help="how many (2000)")
    given = parser.parse_args()
    table = quality(load_generator(given.generator), load_segmenter(given.segmenter), given.scenes)
    print(table.round(4).to_string())
    print("Bars missed:", "; ".join(missed(table)) or "none")


if __name__ == "__main__":
    main()
