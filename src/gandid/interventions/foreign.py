"""Generators as others have made them, as the rest of the house knows one: latents (N, latent_dim) to images (N, 3, H, W).

A latent is a row of standard normal numbers, and all that a generator takes is made of it: the first numbers are its own latent, in
its shape and dtype, and every further input that is drawn has numbers of its own behind them. So what is drawn goes with its latent
wherever that goes: to another arm, another batch, another machine, and a run that goes on.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gandid.errors import UsageError

SEED = 2  # numbers of a latent whose bits are the seed of a generator's own `sample`
IMAGES = ("sample", "images")  # what diffusers and others call them
ADVICE = "say what with its attribute inputs, such as {'label': range(10)}, or with --input label=0..9"


class ForeignGenerator(nn.Module):
    """A generator of any signature, as one that maps latents (N, latent_dim) to images.

    Parameters
    ----------
    network : nn.Module
        What it says of itself is described in docs/generators.md: `latent_dim` or `sample`, `inputs` and `output`.
    inputs : mapping of str to object, optional
        In place of, or beside, what `network.inputs` says.

    Attributes
    ----------
    latent_dim : int
        Numbers of a latent, those of its further inputs among them.
    dtype : torch.dtype
        Of the network's weights, and so of the latents that it is given.
    settings : dict
        What else than the weights decides its images, as plain values: for a study's fingerprint.

    Raises
    ------
    UsageError
        If the network does not say what its latents are, takes something of which nothing is said, or cannot be looked into.
    """

    def __init__(self, network: nn.Module, inputs: Mapping[str, Any] | None = None):
        super().__init__()
        self.network: Any = network
        self.training = network.training
        for name, module in network.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                where = f"'{name}' in the generator" if name else "the generator"
                raise UsageError(
                    f"{where} is a TorchScript module, which runs no hooks: give the module it was made of"
                )
        weights = [*network.parameters(), *network.buffers(), torch.empty(0)]
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if value.is_meta or is_lazy(value):
                raise UsageError(f"'{name}' in the generator holds no numbers yet: load its weights first")
        self.dtype = next(one.dtype for one in weights if one.is_floating_point() and one.itemsize > 1)
        output, own, settings = (getattr(network, name, None) for name in ("output", "inputs", "settings"))
        self.output = output if isinstance(output, str | int) else None  # a layer may have that name
        self.shape = _shape(network)
        self.inputs = {**(own if isinstance(own, Mapping) else {}), **(inputs or {})}
        self.inputs |= _assumed(network, self.inputs, sampled=not self.shape)
        for name, value in self.inputs.items():
            if isinstance(value, Tensor):
                self.register_buffer(f"input_{name}", value.to(weights[0].device))
        self._own = math.prod(self.shape) if self.shape else SEED
        self.latent_dim = self._own + sum(map(_numbers, self.inputs.values()))
        self.settings = {
            **(settings if isinstance(settings, Mapping) else {}),
            "network": type(network).__qualname__,
            "latent": list(self.shape),
            "inputs": {name: str(value) for name, value in self.inputs.items() if not isinstance(value, Tensor)},
            "output": self.output,
        }

    def __getattr__(self, name: str) -> Any:
        """What this module has not and the network has: its layers by name, and what else it says of itself."""
        modules, buffers = (self.__dict__.get(place, {}) for place in ("_modules", "_buffers"))
        own = name in modules or name in buffers or not modules
        return super().__getattr__(name) if own else getattr(modules["network"], name)

    def named_modules(self, *args: Any, **rest: Any) -> Any:
        """Those of the network: layers and sites have the names that it gives them."""
        return self.network.named_modules(*args, **rest)

    def forward(self, z: Tensor) -> Tensor:
        """Images of latents (N, latent_dim), which are left as they are."""
        latent, rest, given = z[:, : self._own], z[:, self._own :], {}
        for name, value in self.inputs.items():
            mine, rest = rest.split([_numbers(value), rest.shape[1] - _numbers(value)], dim=1)
            given[name] = self._input(name, value, mine)
        args = [latent.reshape(-1, *self.shape).clone()] if self.shape else self._sampled(latent)
        images = images_of(self.network(*(self._cast(arg) for arg in args), **given), self.output)
        if not (isinstance(images, Tensor) and images.is_floating_point()):
            return images
        return images.to(torch.float32, copy=True)  # a network may write its next images where these are

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value

    def _input(self, name: str, value: Any, numbers: Tensor) -> Any:
        """What a further input is for some latents, of its `numbers` (N, ...)."""
        n = len(numbers)
        if isinstance(value, range):  # the normal distribution's own quantile of a number is uniform
            place = (torch.special.ndtr(numbers[:, 0].double()) * len(value)).long().clamp_(max=len(value) - 1)
            return value.start + value.step * place
        if isinstance(value, tuple):
            return self._cast(numbers.reshape(n, *value).clone())
        if isinstance(value, list):
            parts = numbers.split([_numbers(one) for one in value], dim=1)
            return [self._input(name, one, part) for one, part in zip(value, parts, strict=True)]
        if isinstance(value, Tensor):
            return self._cast(getattr(self, f"input_{name}")).expand(n, *value.shape)
        if isinstance(value, Integral) and not isinstance(value, bool):
            return torch.full((n,), int(value), device=numbers.device)
        return value

    def _sampled(self, numbers: Tensor) -> list[Tensor]:
        """What the network's own `sample` draws for each latent alone, seeded by the bits of its numbers."""
        parts = []
        for seed in numbers.float().cpu().contiguous().view(torch.int64)[:, 0].tolist():
            drawn: Any = self.network.sample(1, torch.Generator().manual_seed(seed))
            parts.append(drawn if isinstance(drawn, tuple | list) else (drawn,))
        return [torch.cat(part).to(numbers.device) for part in zip(*parts, strict=True)]


def whole(generator: nn.Module) -> Any:
    """The network itself, of one that is wrapped to be spread over several GPUs: hooks would see parts of each batch.

    Raises
    ------
    UsageError
        If it is no network, but the name of one, say.
    """
    if not isinstance(generator, nn.Module):
        raise UsageError(
            f"a generator is a torch.nn.Module, not {generator!r:.80}: gandid.load_generator makes one of a name or a file"
        )
    spread = isinstance(generator, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return generator.module if spread else generator


def adapted(generator: nn.Module, inputs: Mapping[str, Any] | None = None) -> Any:
    """A generator that maps latents (N, latent_dim) to images: itself, if it is known to; see `ForeignGenerator`."""
    generator = whole(generator)
    single = all(value.dtype == torch.float32 for value in generator.parameters())
    known = isinstance(generator, ForeignGenerator) or (getattr(generator, "maps_rows", False) is True and single)
    return generator if known else ForeignGenerator(generator, inputs)


def read_inputs(words: Iterable[str]) -> dict[str, Any]:
    """Inputs as they are written: `label=3` and `truncation=0.7` are fixed, `label=0..4` is drawn.

    Raises
    ------
    UsageError
        If one of them is not written so.
    """
    inputs: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name.isidentifier() and text) or name in inputs:
            raise UsageError(
                f"--input {word}: write NAME=NUMBER, or NAME=FIRST..LAST to draw a class, once for each name"
            )
        try:
            first, dots, last = text.partition("..")
            value: Any = range(int(first), int(last) + 1) if dots else float(text)
        except ValueError:
            value = text
        if isinstance(value, float) and text.lstrip("+-").isdigit():
            value = int(text)
        if isinstance(value, range) and not value:
            raise UsageError(f"--input {word}: the first of them is above the last")
        inputs[name] = value
    return inputs


def images_of(output: Any, key: str | int | None = None) -> Any:
    """The images among what a generator gives: what is no collection, as it is.

    Parameters
    ----------
    output : Tensor, mapping, data class, tuple or list
    key : str or int, optional
        The name or place of the images; by default the only part of shape (N, 3, H, W), or the one that is called `sample` or `images`.

    Raises
    ------
    UsageError
        If there is no such part, or several that it could be.
    """
    if isinstance(output, Mapping):
        parts: dict[Any, Any] = dict(output)
    elif dataclasses.is_dataclass(output):
        parts = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    elif isinstance(output, tuple | list):
        parts = getattr(output, "_asdict", lambda: dict(enumerate(output)))()
        key = next(iter([*parts][key:]), key) if isinstance(key, int) and key >= -len(parts) else key
    else:
        return output
    if key is not None and key in parts:
        return parts[key]
    fitting = [
        name for name, part in parts.items() if isinstance(part, Tensor) and part.ndim == 4 and part.shape[1] == 3
    ]
    named = [name for name in IMAGES if name in fitting] if len(fitting) > 1 else fitting
    if key is None and named:
        return parts[named[0]]
    what = ", ".join(f"{name} {tuple(getattr(part, 'shape', ()))}" for name, part in parts.items()) or "nothing"
    wanted = "several that may be the images" if fitting and key is None else f"no {key or 'images (N, 3, H, W)'}"
    raise UsageError(
        f"the generator gives {what}, with {wanted} among it: its attribute output names the part that is the images"
    )


def _shape(network: nn.Module) -> tuple[int, ...]:
    """The shape of a network's latents; () where it has its own `sample` instead."""
    length: Any = getattr(network, "latent_dim", None)
    sides = (length,) if isinstance(length, Integral) else length
    if (
        isinstance(sides, tuple | list)
        and sides
        and all(isinstance(side, Integral) and int(side) > 0 for side in sides)
    ):
        return tuple(int(side) for side in sides)
    if length is None and callable(getattr(network, "sample", None)):
        return ()
    fault = "does not say what its latents are" if length is None else f"has latents of {length!r} numbers"
    raise UsageError(
        f"the generator {fault}: set its attribute latent_dim to their length or shape, such as 512 or (4, 8, 8), or give it "
        "sample(n, generator)"
    )


def _assumed(network: nn.Module, inputs: Mapping[str, Any], sampled: bool) -> dict[str, range]:
    """What a further input of which nothing is said is taken for: the class, where the network embeds so many and needs one.

    Raises
    ------
    UsageError
        If it needs others, or does not take what is given.
    """
    parameters = list(inspect.signature(network.forward).parameters.values())[1:]
    takes = [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    unknown = [name for name in inputs if name not in takes]
    if unknown and all(one.kind is not one.VAR_KEYWORD for one in parameters):
        raise UsageError(
            f"the generator takes no input '{unknown[0]}': beside the latents it takes {', '.join(takes) or 'nothing'}"
        )
    needed = [
        one.name for one in parameters if one.name in takes and one.default is one.empty and one.name not in inputs
    ]
    if not needed or sampled:  # whose `sample` may give more than one
        return {}
    counts = {module.num_embeddings for module in network.modules() if isinstance(module, nn.Embedding)}
    if len(needed) > 1 or len(counts) != 1:
        raise UsageError(f"the generator takes {', '.join(needed)} beside its latents: {ADVICE}")
    [name], [count] = needed, counts
    warnings.warn(
        f"the generator takes '{name}', and embeds {count} classes: one of them is drawn for each latent, from 0 to {count - 1} "
        f"(--input {name}=0..{count - 1}); --input {name}=0 would be the first alone",
        stacklevel=4,
    )
    return {name: range(count)}


def _numbers(value: Any) -> int:
    """How many numbers of a latent an input is made of."""
    if isinstance(value, list):
        return sum(map(_numbers, value))
    return 1 if isinstance(value, range) else math.prod(value) if isinstance(value, tuple) else 0
