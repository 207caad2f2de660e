"""How well a generator has learned its latents' scenes: needs no segmenter, for the scene of each latent is known.

`python -m lab.quality training/rooms-v2/generator.safetensors`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

from gandid.generators import load_generator
from gandid.generators.pggan import Generator
from lab import rooms

NEAR = 0.2  # largest difference of a colour channel, of a scale of 2, at which a pixel counts as drawn
DRAWN = 0.8  # share of an object's pixels from which it counts as drawn


@torch.inference_mode()
def quality(generator: Generator, scenes: int = 512, seed: int = 0) -> pd.DataFrame:
    """Compare a generator's images with the scenes of their latents.

    Returns
    -------
    DataFrame
        One row per class: `area`, its share of the scenes' pixels; `drawn`, the share of its pixels of which the image has
        the colour; `objects`, how many scenes have it; `whole`, the share of those in which `DRAWN` of it is drawn; `error`,
        the mean absolute difference of a colour channel there, of a scale of 2.
    """
    size = generator.resolution
    z = rooms.latents(scenes, seed)
    right, wrong, masks = [], [], []
    for part in z.split(64):
        images, labels = rooms.paint(part, size)
        error = (generator(part) - images).abs()
        right.append(error.amax(dim=1) <= NEAR)
        wrong.append(error.mean(dim=1))
        masks.append(labels)
    drawn, error, labels = (torch.cat(parts) for parts in (right, wrong, masks))
    rows = []
    for number, name in enumerate(rooms.CLASSES):
        mask = labels == number
        pixels = mask.sum(dim=(1, 2))
        shares = (drawn & mask).sum(dim=(1, 2))[pixels > 0] / pixels[pixels > 0]
        rows.append(
            {
                "class": name,
                "area": mask.float().mean().item(),
                "drawn": drawn[mask].float().mean().item(),
                "objects": len(shares),
                "whole": (shares >= DRAWN).float().mean().item(),
                "error": error[mask].mean().item(),
            }
        )
    return pd.DataFrame(rows).set_index("class")


def main() -> None:
    """Print the table for a generator's file."""
    parser = argparse.ArgumentParser(description="Compare a generator's images with the scenes of their latents.")
    parser.add_argument("generator", type=Path, help="a generator.safetensors of lab.generator")
    parser.add_argument("--scenes", type=int, default=512, help="how many (512)")
    given = parser.parse_args()
    print(quality(load_generator(given.generator), given.scenes).round(3).to_string())


if __name__ == "__main__":
    main()
