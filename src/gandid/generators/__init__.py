"""Generators: the PG-GAN network, its files, and the models that ship with the package."""

from __future__ import annotations

from pathlib import Path

import torch

from gandid.errors import UsageError
from gandid.generators.named import NAMED, NamedModel
from gandid.generators.pggan import Discriminator, Generator
from gandid.generators.storage import read_discriminator, read_generator

__all__ = ["NAMED", "Discriminator", "Generator", "NamedModel", "load_discriminator", "load_generator"]


def load_generator(name_or_path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """Load a generator, ready for inference.

    Parameters
    ----------
    name_or_path : str or Path
        A name of an embedded model (see `gandid models`), or a safetensors file that `gandid train generator` wrote.
    device : str or torch.device

    Returns
    -------
    Generator
        `generator(z)` maps latents (N, latent_dim) to images (N, 3, H, W) in about [-1, 1].

    Raises
    ------
    UsageError
        If there is no such model, or the file is not a generator's checkpoint.
    """
    if str(name_or_path) in NAMED:
        path = NAMED[str(name_or_path)].weights
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(f"unknown generator '{name_or_path}': neither a file nor one of {', '.join(NAMED)}")
    generator = read_generator(path).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator.name = str(name_or_path)
    return generator


def load_discriminator(name: str, device: str | torch.device = "cpu") -> Discriminator | None:
    """Load the discriminator that was trained against an embedded generator; None where there is none."""
    model = NAMED.get(name)
    if model is None:
        return None
    return read_discriminator(model.discriminator).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
