"""A generator from the user's own Python file: `FILE.py:FACTORY`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gandid.errors import UsageError
from gandid.factory import call_factory, is_factory

__all__ = ["is_factory", "load_factory"]


def load_factory(name: str, device: str | torch.device = "cpu") -> Any:
    """Run a file and call its factory.

    Parameters
    ----------
    name : str
        `FILE.py:FACTORY`. `FACTORY()` returns a module that maps latents (N, latent_dim) to images (N, 3, H, W) in [-1, 1]
        and has the attribute `latent_dim`. Modules beside the file can be imported by it.
    device : str or torch.device

    Returns
    -------
    nn.Module
        In evaluation mode.

    Raises
    ------
    UsageError
        If there is no such file or factory, it fails, or it returns something else; the line names the file, and the
        traceback goes with the error.
    """
    generator = call_factory(name)
    if not isinstance(generator, nn.Module):
        raise UsageError(f"{name} returned a {type(generator).__name__}: it must return a torch.nn.Module")
    if not isinstance(getattr(generator, "latent_dim", None), int):
        raise UsageError(f"{name} returned a module without latent_dim: set it to the length of its latents")
    made: Any = generator.to(device).eval()
    made.name = name
    # The file decides the images as the weights do: a study's fingerprint counts it.
    made.settings = {"file": hashlib.sha256(Path(name.rpartition(":")[0]).read_bytes()).hexdigest()}
    return made
