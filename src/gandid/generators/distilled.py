"""Distilled networks: a generator with other weights after one layer, and there constants in the place of its normalizations.

A file holds what differs from the generator, so that whatever runs up to the layer is the generator's own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gandid.errors import UsageError
from gandid.files import read_safetensors, write_safetensors
from gandid.generators.planted import planted
from gandid.interventions import Statistic, find_sites
from gandid.interventions.normalizations import Constant
from gandid.truth import NETWORKS

KINDS = ("distilled", "placebo")  # without the normalizations, and re-learned with them
AGREEMENT = 0.97  # of the labels of unedited images with the generator's, at least
DIFFERENCE = 0.15  # root mean square, between unedited images (-1 .. 1) and the generator's, at most


def without(generator: nn.Module, constants: Mapping[str, Statistic]) -> Any:
    """A copy of a generator with constants in the place of some sites, by dotted name."""
    network = copy.deepcopy(generator)
    modules, sites = dict(network.named_modules()), find_sites(network)
    for name, statistic in constants.items():
        holder, _, attribute = name.rpartition(".")
        setattr(modules[holder], attribute, Constant(sites[name].module, sites[name].adapter, statistic))
    return network


def tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """The weights and buffers of a network by the names that it gives its modules."""
    return {
        f"{name}.{own}": value
        for name, module in network.named_modules()
        for own, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    }


def write_distilled(path: Path, network: nn.Module, trained: Iterable[str], about: Mapping[str, Any]) -> Path:
    """Write the tensors that were `trained`, in half precision, and the constants; returns `path`.

    `about` says `kind`, `layer`, `seed` and `sites`, those that were replaced.
    """
    state = tensors(network)
    constants = [f"{site}.{part}" for site in about["sites"] for part in Statistic._fields]
    kept = {name: state[name].half() for name in trained} | {name: state[name] for name in constants if name in state}
    return write_safetensors(path, kept, about)


def distilled_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files themselves, and those in the folders, among some paths; raises `UsageError` where there is none."""
    found: list[Path] = []
    for path in map(Path, paths):
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise UsageError(f"{path} holds no distilled network: 'gandid distil' makes one")
        found += files
    return found


def read_distilled(path: str | Path, generator: Any, layer: str) -> tuple[str, nn.Module]:
    """The name (`distilled-1`, `placebo-1`: kind and seed) and the network that a file makes of a generator.

    `path` may be a name of the planted standard, whose networks are written down and not in a file.

    Raises
    ------
    UsageError
        If the file is something else, of another layer, or of another generator: its unedited images differ from the generator's.
    """
    if path in NETWORKS:
        return str(path).rpartition("/")[2], planted(str(path)).to(next(generator.parameters()).device)
    path = Path(path)
    about, weights = read_safetensors(path)
    if about.get("kind") not in KINDS:
        raise UsageError(f"{path} is no network that 'gandid distil' made")
    if about["layer"] != layer:
        raise UsageError(f"{path} was distilled after {about['layer']}: distil another after {layer}, which is edited")
    try:
        sites = {site: Statistic(weights[f"{site}.scale"], weights.get(f"{site}.mean")) for site in about["sites"]}
        network = without(generator, sites)
        known = tensors(network)
        with torch.no_grad():
            for name, value in weights.items():
                known[name].copy_(value)
    except (KeyError, AttributeError, RuntimeError) as error:
        raise UsageError(f"{path} was distilled from another generator") from error
    device = next(iter(tensors(generator).values())).device
    network = network.to(device).eval().requires_grad_(False)
    network.name = path.stem
    z = torch.randn(16, generator.latent_dim, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        gap = float((network(z) - generator(z)).square().mean().sqrt())
    if not gap <= 2 * DIFFERENCE:
        raise UsageError(
            f"{path} was distilled from another generator: its images differ by {gap:.2f} (root mean square)"
        )
    return f"{about['kind']}-{about['seed']}", network
