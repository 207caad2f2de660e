"""From the contents of a checkpoint to its generator: which of the networks in it, and the network of its weights."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gandid.errors import UsageError
from gandid.generators.checkpoints.formats import FORMATS, StoredNetwork, Weights
from gandid.generators.checkpoints.inert import Array, Network, short
from gandid.generators.pggan import Generator
from gandid.generators.storage import check_architecture

DEPTH = 5  # of dictionaries in dictionaries
WRAPPERS = ("module", "_orig_mod")  # of data-parallel training, and of compiled modules
AVERAGES = {"ema", "avg", "average", "averaged", "running", "shadow", "smooth", "gs"}  # words of names, in any case
SIGNATURE = re.compile(rf"(?:(.+?)\.)?(?:{'|'.join(signature for signature, _ in FORMATS)})")


def find_generator(found: Any, network: str = "") -> Generator:
    """Build the generator that is somewhere in the contents of a checkpoint.

    Of several the one whose name says that it is a moving average of the weights is preferred, as its makers do. Its name is
    in the attribute `source`.

    Parameters
    ----------
    found : object
        What a checkpoint holds.
    network : str
        Name of the generator to take.

    Raises
    ------
    UsageError
        One line, to be put after the file's name; also where several complete generators remain.
    """
    everything = list(_networks(found, {}, "", set()))
    candidates = [
        (weights, about, read)
        for weights, about in everything
        for signature, read in FORMATS
        if any(re.match(signature, name) for name in weights.named)
    ]
    if not candidates:
        raise UsageError(_stranger([weights.where + name for weights, _ in everything for name in weights.named]))
    names = [weights.where.rstrip(".") for weights, *_ in candidates]
    if network:
        candidates = [one for one, name in zip(candidates, names, strict=True) if name == network]
        if not candidates:
            raise UsageError(f"has no network '{network}': there are {', '.join(names)}")
    candidates = [one for one in candidates if _is_average(one[0].where)] or candidates
    built: dict[str, Generator] = {}
    for weights, about, read in candidates:
        try:
            built[weights.where.rstrip(".")] = assemble(read(weights, about))
        except UsageError:
            if len(candidates) == 1 or (weights is candidates[-1][0] and not built):
                raise
    source, generator = next(iter(built.items()))
    if any(not _same(generator, other) for other in built.values()):
        raise UsageError(f"holds several generators ({', '.join(built)}): name one of them, as in FILE#{source}")
    generator.source = source if len(everything) > 1 or source else ""
    if len(names) > 1:
        logging.getLogger(__name__).info("of the networks %s, %s is taken", ", ".join(names), source)
    return generator


def assemble(parts: StoredNetwork) -> Generator:
    """Build the network of its parts.

    Raises
    ------
    UsageError
        If the parts do not fit together.
    """
    layers, output, settings = parts.layers, parts.output, parts.settings
    if not layers or len(layers) % 2:
        raise UsageError(f"has {len(layers)} layers, where a PG-GAN has two of each resolution: some are missing")
    channels, latent_dim = [layer.weight.shape[0] for layer in layers[::2]], layers[0].weight.shape[1]
    check_architecture({"channels": channels, "latent_dim": latent_dim, **settings})
    if output.weight.shape[0] != 3:
        raise UsageError(f"makes images of {output.weight.shape[0]} channels, where 3 (red, green, blue) are needed")
    with torch.device("meta"):  # nothing is allocated: the weights of the file become the network's
        network = Generator(channels, latent_dim, **settings)
    state = {}
    for module, layer in zip((*network.layers, "output"), (*layers, output), strict=True):
        for kind in ("weight", "bias"):
            value = getattr(layer, kind)
            expected = network.get_parameter(f"{module}.conv.{kind}").shape
            if value.shape != expected:
                raise UsageError(
                    f"holds {kind} '{layer.name}' of shape {tuple(value.shape)}, where {tuple(expected)} fits the others"
                )
            state[f"{module}.conv.{kind}"] = value.contiguous()
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def _networks(
    found: Any, about: Mapping[str, Any], where: str, seen: set[int]
) -> Iterator[tuple[Weights, Mapping[str, Any]]]:
    """Every set of named weights, with the description that stands beside it or around it."""
    if isinstance(found, Network) and isinstance(found.state, dict):
        name = found.state.get("name")
        yield Weights(_variables(found.state.get("variables")), name if isinstance(name, str) else ""), found.state
    if isinstance(found, list | tuple) and not where:  # Karras et al.: G, D, and Gs, the moving average
        for one in found[:8]:
            if isinstance(one, Network):
                yield from _networks(one, about, where, seen)
    if not isinstance(found, dict) or id(found) in seen or where.count(".") == DEPTH:
        return
    seen.add(id(found))
    about = {**about, **{key: found[key] for key in ("config", "conf") if key in found}}
    named = {}
    for key, value in found.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            named[".".join(part for part in key.split(".") if part not in WRAPPERS)] = value
    for owner, weights in _by_owner(named).items():
        yield Weights(weights, f"{where}{short(owner, 40)}." if owner else where), about
    for key, value in found.items():
        if isinstance(value, dict):
            yield from _networks(value, about, f"{where}{short(key, 40)}.", seen)


def _by_owner(named: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Weights of one dictionary by what stands before their networks' own names ("" where nothing does)."""
    owners = {match[1] for name in named if (match := SIGNATURE.match(name)) and match[1]}
    owned: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in named.items():
        owner = max((owner for owner in owners if name.startswith(f"{owner}.")), key=len, default="")
        owned[owner][name.removeprefix(f"{owner}.")] = value
    return owned


def _variables(found: Any) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for pair in found if isinstance(found, list) else []:
        if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], Array):
            array = pair[1].numpy()
            named[pair[0].replace("/", ".")] = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    return named


def _is_average(where: str) -> bool:
    """Whether a name such as `g_ema`, `avgG`, `EMA` or `params_ema` says that the weights are averaged over training."""
    words = re.findall(r"[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]+|[A-Z]", where)
    return any(word.lower() in AVERAGES for word in words)


def _same(one: Generator, other: Generator) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _stranger(names: list[str]) -> str:
    """What to say of weights that are no generator's."""
    if any(
        re.search(r"discriminator|netD|from_?rgb|rgb_to_features|decisionLayer|\binput\d+\.weight", name, re.IGNORECASE)
        for name in names
    ):
        return "holds a discriminator, and no generator"
    if not names:
        return "holds no network"
    first = ", ".join(short(name, 40) for name in names[:3])
    return f"is of no known PG-GAN: its weights are called {first}{', ...' if len(names) > 3 else ''}"
