"""The training of the discriminator that says how unusual an edited image is: `python -m lab.discriminator --out FILE`.

The generators copied scenes and never contended with a discriminator, so this one learns afterwards to tell a generator's images from
ablated ones (`lab.edits`): the non-saturating loss of Goodfellow et al. 2014 with the lazy R1 penalty (Mescheder et al. 2018;
Karras et al. 2020). An image's score is the logarithm of the odds that it is unedited.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from gandid.generators import load_discriminator, load_generator
from gandid.generators.pggan import Discriminator, Generator
from gandid.generators.storage import save_discriminator
from lab import edits, rooms

# At 4 to 64 px: it looks at every image of the first 128 latents, and is to cost little beside them.
CHANNELS = (64, 64, 32, 16, 8)
STEPS = 2_000  # of two edits each
RATE = 2e-3
R1, R1_EVERY = 0.5, 16
EVALUATION = 990_003  # seed of the edits that measure


def pairs(generator: Generator, n: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`n` batches of unedited and ablated images of other latents, (2 * `edits.TOGETHER`, 3, H, W) each."""
    plain = rooms.latents(2 * n * edits.TOGETHER, seed + 1).split(2 * edits.TOGETHER)
    per_draw = 100  # edits of the same latents
    for number, z in enumerate(plain):
        if number % per_draw == 0:
            stream = edits.edits(generator, 2 * per_draw, seed + 2 + number)
        with torch.inference_mode():
            usual = generator(z).clamp(-1, 1)
        yield usual, torch.cat([next(stream).after, next(stream).after])


def train(out: Path, generator: Generator, *, seed: int = 0, steps: int = STEPS) -> None:
    """Train it and write it to the file `out`, its minibatch deviation fixed to that of 256 unedited images."""
    torch.manual_seed(seed)
    network = Discriminator(CHANNELS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), RATE, (0.0, 0.99))
    batches = pairs(generator, steps, (seed + 1) * 1_000_000)
    for step, (usual, edited) in track(enumerate(batches), total=steps, description="training"):
        usual, edited = usual.clone(), edited.clone()  # inference tensors cannot be differentiated by
        loss = F.softplus(network(edited)).mean() + F.softplus(-network(usual)).mean()
        if step % R1_EVERY == 0:
            (slope,) = torch.autograd.grad(network(usual.requires_grad_()).sum(), usual, create_graph=True)
            loss = loss + R1 / 2 * R1_EVERY * slope.square().sum(dim=(1, 2, 3)).mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - step / steps))
        optimizer.step()
    with torch.inference_mode():
        network.calibrate(generator(rooms.latents(256, seed=1)))
    save_discriminator(network, out, torch.float16)


@torch.no_grad()
def told_apart(discriminator: Discriminator, generator: Generator, count: int = 60) -> float:
    """Of pairs of an unedited and an ablated image of the same latent, the share in which the unedited one has the higher score."""
    higher = [
        discriminator(edited.before) > discriminator(edited.after)
        for edited in edits.edits(generator, count, EVALUATION)
    ]
    return float(torch.cat(higher).float().mean())


def main() -> None:
    """Train, or measure, as the command line says."""
    parser = argparse.ArgumentParser(description="Train the discriminator of a generator of rooms, or measure it.")
    parser.add_argument("--out", type=Path, help="file to write; without, the embedded one is measured")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images (0)")
    given = parser.parse_args()
    generator = load_generator("rooms")
    if given.out:
        train(given.out, generator, seed=given.seed)
        return
    discriminator = load_discriminator("rooms")
    assert discriminator is not None
    print(f"higher score of the unedited image: {100 * told_apart(discriminator, generator):.1f} % of pairs")


if __name__ == "__main__":
    main()
