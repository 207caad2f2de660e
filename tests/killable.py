"""A study that a test can start in another process, kill, and start again."""

import sys
import time
from pathlib import Path

import torch
from planted import PlantedGenerator, PlantedSegmenter

from gandid.measure import filling
from gandid.study import Study

LATENTS = 120


def planted(store: Path | None, latents: int = LATENTS, slow: float = 0.0, **asked):
    """Run the planted study in small chunks; `slow` seconds are spent on each batch, as a real network would."""
    torch.set_num_threads(1)
    filling.BETWEEN = 0.0  # every chunk is written by itself, so that there are many moments to kill
    study = Study(PlantedGenerator(), Unhurried(slow), layer="paint", seed=5)
    study.rows = 44  # four latents at a time
    return study.run(
        ["a", "b"], units=1, control=["capped", "frozen"], latents=latents, ranking_latents=12, store=store, **asked
    )


class Unhurried(PlantedSegmenter):
    """Takes its time, which changes nothing else."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __call__(self, images):
        time.sleep(self.seconds)
        return super().__call__(images)


def main(store: str, slow: str) -> None:
    """What a killed process ran."""
    planted(Path(store), slow=float(slow))


if __name__ == "__main__":
    main(*sys.argv[1:])
