"""Networks on disk: safetensors, with the architecture in the file's metadata. Nothing in such a file is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gandid.errors import UsageError
from gandid.generators.pggan import Discriminator, Generator

Network = TypeVar("Network", bound=nn.Module)


def save_generator(generator: Generator, path: Path) -> Path:
    """Write a generator's weights and architecture; returns `path`."""
    architecture = {
        "channels": generator.channels,
        "latent_dim": generator.latent_dim,
        "pixel_norm": generator.pixel_norm,
    }
    return _save(generator, "generator", architecture, path)


def save_discriminator(discriminator: Discriminator, path: Path) -> Path:
    """Write a discriminator's weights and architecture; returns `path`."""
    architecture = {"channels": discriminator.channels, "spread": discriminator.spread}
    return _save(discriminator, "discriminator", architecture, path)


def read_generator(path: Path) -> Generator:
    """Read what `save_generator` wrote. Raises `UsageError` if the file is something else."""
    return _build(Generator, path, *_read(path, "generator"))


def read_discriminator(path: Path) -> Discriminator:
    """Read what `save_discriminator` wrote. Raises `UsageError` if the file is something else."""
    return _build(Discriminator, path, *_read(path, "discriminator"))


def _save(network: nn.Module, kind: str, architecture: dict, path: Path) -> Path:
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # One entry: the order of several differs from save to save, and with it the file's hash.
    save_file(weights, path, metadata={"gandid": json.dumps({"kind": kind, "architecture": architecture})})
    return path


def _read(path: Path, kind: str) -> tuple[dict, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        about = json.loads(metadata.get("gandid", "{}"))
        found, architecture = about.get("kind"), about.get("architecture")
    except (json.JSONDecodeError, AttributeError):
        found, architecture = None, None
    if found != kind or not isinstance(architecture, dict):
        raise UsageError(f"{path} is a safetensors file, but not a gandid {kind}")
    return architecture, weights


def _build(kind: type[Network], path: Path, architecture: dict, weights: dict[str, Tensor]) -> Network:
    try:
        network = kind(**architecture)
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{path} does not hold the network that its own description names") from error
    return network.eval().requires_grad_(False)
