"""Networks on disk: safetensors, with the architecture in the file's metadata. Nothing in such a file is executed."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gandid.errors import UsageError
from gandid.files import read_safetensors, write_safetensors
from gandid.generators.pggan import Discriminator, Generator

Network = TypeVar("Network", bound=nn.Module)

STAGES = 9  # of resolution, the first 4 px: up to 1024 px
WIDEST = 2048  # channels of a stage, or numbers of a latent


def save_generator(generator: Generator, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a generator's weights, as `dtype`, and architecture; returns `path`. They are read as float32."""
    architecture = {name: getattr(generator, name) for name in ("channels", "latent_dim", "pixel_norm")}
    # What is as usual is left out, so that the embedded weights are the same file as before these could differ.
    for name, usual in inspect.signature(Generator).parameters.items():
        if usual.kind is usual.KEYWORD_ONLY and getattr(generator, name) != usual.default:
            architecture[name] = getattr(generator, name)
    return _save(generator, "generator", architecture, path, dtype)


def save_discriminator(discriminator: Discriminator, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a discriminator's weights, as `dtype`, and architecture; returns `path`. They are read as float32."""
    architecture = {"channels": discriminator.channels, "spread": discriminator.spread}
    return _save(discriminator, "discriminator", architecture, path, dtype)


def build_generator(path: Path, about: dict[str, Any], weights: dict[str, Tensor]) -> Generator:
    """Build a generator of what `read_safetensors` found in the file that `save_generator` wrote; raises `UsageError` if it is another."""
    architecture = _architecture(path, about, "generator")
    try:
        check_architecture(architecture)
    except UsageError as error:
        raise UsageError(f"{path} {error}") from None
    return _build(Generator, path, architecture, weights)


def read_discriminator(path: Path) -> Discriminator:
    """Read what `save_discriminator` wrote. Raises `UsageError` if the file is something else."""
    about, weights = read_safetensors(path)
    return _build(Discriminator, path, _architecture(path, about, "discriminator"), weights)


def check_architecture(architecture: dict[str, Any]) -> None:
    """Refuse, before anything is built, what no PG-GAN is.

    Raises
    ------
    UsageError
        One line, to be put after the file's name, if there are not 1 to 9 stages (4 to 1024 px), if a stage or the
        latent is not 1 to `WIDEST` wide, or if `eps` or `slope` is not from 0 to 1.
    """
    channels, latent_dim = architecture.get("channels"), architecture.get("latent_dim")
    if not isinstance(channels, list | tuple) or not 1 <= len(channels) <= STAGES:
        raise UsageError(f"is of no PG-GAN, which makes images of 4, 8, 16, ... or {4 * 2 ** (STAGES - 1)} px")
    for width, noun in [(latent_dim, "numbers in a latent"), *((width, "channels in a stage") for width in channels)]:
        if type(width) is not int or not 1 <= width <= WIDEST:
            count = width if type(width) is int else "no number of"
            raise UsageError(f"has {count} {noun}, where 1 to {WIDEST} can be read")
    for name in ("eps", "slope"):
        number = architecture.get(name, 0.0)
        if type(number) not in (int, float) or not 0 <= number <= 1:
            raise UsageError(f"has an {name} that is no number from 0 to 1")


def _save(network: nn.Module, kind: str, architecture: dict, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    weights = {name: value.to(dtype) for name, value in network.state_dict().items()}
    return write_safetensors(path, weights, {"kind": kind, "architecture": architecture})


def _architecture(path: Path, about: dict[str, Any], kind: str) -> dict[str, Any]:
    architecture = about.get("architecture")
    if about.get("kind") != kind or not isinstance(architecture, dict):
        raise UsageError(f"{path} is a safetensors file, but not a gandid {kind}")
    return architecture


def _build(kind: type[Network], path: Path, architecture: dict, weights: dict[str, Tensor]) -> Network:
    if not all(value.is_floating_point() and bool(value.isfinite().all()) for value in weights.values()):
        raise UsageError(f"{path} holds weights that are no finite floating-point numbers")
    try:
        with torch.device("meta"):  # nothing is allocated: the weights of the file become the network's
            network = kind(**architecture)
        # Copies, for the file's own are mapped from it and would change with it.
        network.load_state_dict(
            {name: value.to(torch.float32, copy=True) for name, value in weights.items()}, assign=True
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{path} does not hold the network that its own description names") from error
    return network.eval().requires_grad_(False)
