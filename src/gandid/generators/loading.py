"""Generators by name, from a checkpoint's file, or from a factory in a Python file of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gandid.errors import UsageError, did_you_mean
from gandid.factory import call_factory, digest, is_factory
from gandid.generators.checkpoints import read_checkpoint
from gandid.generators.download import fetch
from gandid.generators.named import NAMED
from gandid.generators.pggan import Discriminator, Generator
from gandid.generators.planted import planted
from gandid.generators.storage import read_discriminator
from gandid.interventions import adapted, read_inputs
from gandid.truth import NETWORKS


def load_generator(
    name_or_path: str | Path, device: str | torch.device = "cpu", *, inputs: Sequence[str] = ()
) -> Generator:
    """Load a generator, ready for inference.

    Parameters
    ----------
    name_or_path : str or Path
        One of

        - a name (see `gandid models`; a public model is downloaded when it is first used);
        - the file of a PG-GAN in any public format (`checkpoints.read_checkpoint`). Of several generators in one file
          the moving average is taken; where that leaves more than one, `FILE#NETWORK` names it;
        - `FILE.py:FACTORY`: the file is run, and `FACTORY()` returns a module that makes images (N, 3, H, W) in [-1, 1] of
          latents; docs/generators.md says of which. The file can import modules that lie beside it.
    device : str or torch.device
    inputs : sequence of str
        What the generator of a factory takes beside latents, such as `label=0..9` (drawn) or `label=3` (fixed).

    Returns
    -------
    Generator
        `generator(z)` maps latents (N, latent_dim) to images (N, 3, H, W), about in [-1, 1]. Its attribute `name` is what it
        was loaded by, and `source` the network that was taken from a file which holds several ("" otherwise).

    Raises
    ------
    UsageError
        If there is no such model, the file is not a generator's checkpoint, or the factory fails; the line names the file.
    """
    name = str(name_or_path)
    if is_factory(name):
        return _make(name, device, inputs)
    if inputs:
        raise UsageError(f"{name} takes latents alone: leave out --input")
    path, network = Path(name), ""
    if name in NETWORKS:
        return planted(name).to(device=device)
    if name in NAMED:
        path = fetch(NAMED[name])
    elif not path.exists() and "#" in name:
        path, network = Path(name.rpartition("#")[0]), name.rpartition("#")[2]
    if path.is_dir():
        raise UsageError(f"{path} is a folder: a generator is a file or one of {', '.join(NAMED)}")
    if not path.is_file():
        hint = did_you_mean(name, NAMED)
        raise UsageError(f"unknown generator '{name}'{hint} it is neither a file nor one of {', '.join(NAMED)}")
    generator = read_checkpoint(path, network).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator.name = name
    return generator


def load_discriminator(name: str, device: str | torch.device = "cpu") -> Discriminator | None:
    """Load the discriminator that was trained against an embedded generator; None where there is none."""
    model = NAMED.get(name)
    if model is None or model.discriminator is None:
        return None
    return read_discriminator(model.discriminator).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _make(name: str, device: str | torch.device, inputs: Sequence[str]) -> Any:
    """Call the factory of `FILE.py:FACTORY` and check what it returns."""
    generator = call_factory(name)
    if not isinstance(generator, nn.Module):
        raise UsageError(f"{name} returned a {type(generator).__name__}: it must return a torch.nn.Module")
    try:
        made = adapted(generator.to(device).eval(), read_inputs(inputs))
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    made.name = name
    # The file decides the images as the weights do: a study's fingerprint counts it.
    made.settings = {**getattr(made, "settings", {}), "file": digest(name)}
    made.asked = {"inputs": tuple(inputs)}
    return made
