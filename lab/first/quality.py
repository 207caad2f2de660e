"""How good a rooms generator is: its samples against renders, class by class."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress

from gandid.generators import load_generator
from gandid.latents import latents
from gandid.outcomes.counts import pixels
from gandid.segmenters import Segmenter, load_segmenter
from lab.first import rooms

AREA_BAR = 0.30  # relative difference of the mean area
PRESENCE_BAR = 0.12  # difference of the share of images in which a class is present
PRESENCE = 0.003  # share of an image's pixels from which a class counts as present


@torch.inference_mode()
def evaluate_generator(
    generator: Any, segmenter: Segmenter, samples: int = 2000, seed: int = 0, progress: bool = False
) -> pd.DataFrame:
    """Compare segmented samples with as many renders.

    Renders are counted by their exact masks.

    Returns
    -------
    DataFrame
        One row per class: `area` and `area_renders`, mean shares of the image; `presence` and `presence_renders`, shares
        of images in which the class covers at least 0.3 %; `area_ok` and `presence_ok`, whether the bars are met. The row
        `unknown` has the share of pixels that the segmenter cannot place, and no bar.
    """
    classes, size = segmenter.classes, generator.resolution
    device = next(generator.parameters()).device
    made, rendered = [], []
    with Progress(disable=not progress) as bar:
        for start in bar.track(range(0, samples, 100), description="sampling"):
            indices = range(start, min(start + 100, samples))
            images = generator(latents(seed, indices, generator.latent_dim).to(device))
            made.append(pixels(segmenter(images), len(classes)).cpu().numpy())
            _, labels = rooms.render(len(indices), size, seed=50_000 + seed + start)
            rendered.append(pixels(labels, len(rooms.CLASSES)).numpy())
    ours = np.concatenate(made) / size**2
    theirs = np.concatenate(rendered) / size**2
    rows = []
    for name in rooms.CLASSES:
        a, b = ours[:, classes.index(name)], theirs[:, rooms.CLASSES.index(name)]
        area, area_renders = a.mean(), b.mean()
        presence, presence_renders = (a >= PRESENCE).mean(), (b >= PRESENCE).mean()
        rows.append(
            {
                "class": name,
                "area": area,
                "area_renders": area_renders,
                "area_ok": abs(area / area_renders - 1) <= AREA_BAR,
                "presence": presence,
                "presence_renders": presence_renders,
                "presence_ok": abs(presence - presence_renders) <= PRESENCE_BAR,
            }
        )
    if "unknown" in classes:
        rows.append({"class": "unknown", "area": ours[:, classes.index("unknown")].mean()})
    return pd.DataFrame(rows).set_index("class")


def main() -> None:
    """Print how good a generator of rooms is."""
    parser = argparse.ArgumentParser(description="Compare the samples of a generator of the first rooms with renders.")
    parser.add_argument("generator", nargs="?", default="rooms", help="a name or a file (rooms)")
    given = parser.parse_args()
    print(evaluate_generator(load_generator(given.generator), load_segmenter("rooms"), progress=True).to_string())


if __name__ == "__main__":
    main()
