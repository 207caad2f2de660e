"""Generators: the PG-GAN network, its files, and the models that ship with the package."""

from __future__ import annotations

from pathlib import Path

import torch

from gandid.errors import UsageError
from gandid.generators.checkpoints import read_checkpoint
from gandid.generators.download import fetch
from gandid.generators.factory import is_factory, load_factory
from gandid.generators.named import NAMED, NamedModel
from gandid.generators.pggan import Discriminator, Generator
from gandid.generators.storage import read_discriminator

__all__ = ["NAMED", "Discriminator", "Generator", "NamedModel", "load_discriminator", "load_generator"]


def load_generator(name_or_path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """Load a generator, ready for inference.

    Parameters
    ----------
    name_or_path : str or Path
        A name (see `gandid models`; a public model is downloaded when first used); or the file of a PG-GAN in any
        public format (`checkpoints.read_checkpoint`); or `FILE.py:FACTORY`, a function of yours that returns one (`factory.load_factory`).
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
    if is_factory(str(name_or_path)):
        return load_factory(str(name_or_path), device)
    if str(name_or_path) in NAMED:
        path = fetch(NAMED[str(name_or_path)])
    else:
        path = Path(name_or_path)
        if path.is_dir():
            raise UsageError(f"{path} is a folder: a generator is a file or one of {', '.join(NAMED)}")
        if not path.is_file():
            raise UsageError(f"unknown generator '{name_or_path}': neither a file nor one of {', '.join(NAMED)}")
    generator = read_checkpoint(path).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator.name = str(name_or_path)
    return generator


def load_discriminator(name: str, device: str | torch.device = "cpu") -> Discriminator | None:
    """Load the discriminator that was trained against an embedded generator; None where there is none."""
    model = NAMED.get(name)
    if model is None or model.discriminator is None:
        return None
    return read_discriminator(model.discriminator).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
