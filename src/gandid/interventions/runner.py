"""The one-batch runner: every arm of an experiment is rows of one pass.

The network runs on `n` latents up to the edited layer. There the batch fans out to `n * a` rows, one block of `n` per
arm, and each block gets its arm's edit. From there on a held site reads, for the rows of the arms that hold it, the
statistics of block 0, the reference arm, which is neither edited nor held. Nothing is recorded in one pass and replayed
in another, so the arms are paired exactly, and the prefix runs once.

Where more of the network depends on the latents than what passes through the layer (skip connections, styles), the rows
downstream would meet `n` others there. Such a network fans out at its latents instead, and the prefix runs once per arm.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gandid.errors import GandidError, UsageError, did_you_mean, first_line
from gandid.interventions.arms import REFERENCE, Arm
from gandid.interventions.edits import ablate
from gandid.interventions.foreign import adapted, whole
from gandid.interventions.functional import functional_normalizations
from gandid.interventions.normalizations import Statistic, check_mode
from gandid.interventions.sites import Site, average, find_sites, governed

_NAMED = 20  # layers that an error names
BEYOND = 3  # size of colours from which on they are warned of
BYTES = 16  # and from which on they are no colours in [-1, 1]
ADVICE = (
    "what normalizes there is a function, so make it a module, and register that (gandid.interventions.register_site)"
)


@dataclass
class Readings:
    """What was measured on the way: scales of the sites by name, and the edited layer's unedited output."""

    closed_form: bool  # see `Runner`
    layer: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, C, h, w)
    taken: dict[str, Tensor] = field(default_factory=dict)  # site -> (a, n, ...): what it would take by itself
    held: dict[str, Tensor] = field(default_factory=dict)  # site -> (a, n, ...): what it was given

    def gain(self, site: str, block: int | Sequence[int]) -> Tensor:
        """How much more an arm is amplified than the reference: the ratio of their scales at a site, (n, h, w); of several, (a, n, h, w).

        At the layer's positions: the median over the scales of one position, if the site takes several there (one per
        channel; those of ablated units are no gain of anything), and the same everywhere, if its scales have no positions.
        """
        before, size = self.taken[site][0], self.layer.shape[2:]
        ratio = before / self.taken[site][block]
        several = ratio.shape[: 1 + ratio.ndim - before.ndim]
        ratio = ratio.flatten(0, ratio.ndim - before.ndim)
        if ratio.ndim != 4:
            return ratio.flatten(1).median(dim=1).values[:, None, None].expand(-1, *size).unflatten(0, several)
        ratio = ratio.median(dim=1, keepdim=True).values if ratio.shape[1] > 1 else ratio
        ratio = ratio if ratio.shape[2:] == size else F.interpolate(ratio, size=size, mode="area")
        return ratio[:, 0].unflatten(0, several)


class Runner:
    """Runs the arms of an experiment on a generator.

    Parameters
    ----------
    generator : nn.Module
        Maps latents to images (N, 3, H, W), each a function of its latent alone; docs/generators.md says what it may be. Its
        normalizations are sites (`gandid.interventions.sites`).
    layer : str
        Dotted name of the module whose output is edited; (N, C, h, w), taken before the next normalization.

    Attributes
    ----------
    upstream, downstream : tuple of str
        The sites that run before and after the layer, in the order in which they run.
    responds : dict of str to bool
        Whether the statistic of a downstream site depends on its input (`Site.responds`).
    closed_form : bool
        Whether the first site divides by the root mean square over channels of the layer's own output, as pixel
        normalization does. Then the gain has a closed form (docs/theory.md), and an ablation towards zero can only lower the
        statistic: `capped` and `frozen` agree at this site.
    units, map_size : int, tuple of int
        Channels of the layer's output, and its height and width.
    image_size : tuple of int
        Height and width of the images.
    device : torch.device
        Where the generator is.
    constants : mapping of str to Statistic
        Those of the control `mean` by site, which `calibrate` takes.

    Raises
    ------
    UsageError
        If the generator has no such layer, or is no function from latents to images; the line says what to do.
    """

    def __init__(self, generator: nn.Module, layer: str):
        generator = whole(generator)
        modules = dict(generator.named_modules())
        if layer not in modules or layer == "":
            raise UsageError(
                f"unknown layer '{layer}'{did_you_mean(layer, modules)} this generator has {layers_of(generator)}"
            )
        self.generator: Any = adapted(generator)
        check_mode(generator)
        self.layer = layer
        self._layer_module, self._sites = modules[layer], find_sites(generator)
        self.constants: Mapping[str, Statistic] = {}
        place = next(chain(generator.parameters(), generator.buffers()), torch.empty(0))
        self.device = place.device
        self._rounding = torch.finfo(getattr(self.generator, "dtype", torch.float32)).eps  # of the network's weights
        z = torch.randn(2, self.generator.latent_dim, generator=torch.Generator().manual_seed(0))
        self._trace(z.to(self.device))

    @torch.inference_mode()
    def check_sites(self) -> None:
        """Refuse a layer after which there is nothing to hold, naming the normalizations that are functions, if any.

        Raises
        ------
        UsageError
            If no site is downstream.
        """
        if self.downstream:
            return
        z = torch.zeros(2, self.generator.latent_dim, device=self.device)
        called = functional_normalizations(self._layer_module, lambda: self.generator(z))
        hint = f"; its forward calls {', '.join(called[:4])}: {ADVICE}" if called else ""
        raise UsageError(f"no normalization runs after layer '{self.layer}': there is nothing to hold{hint}")

    def __repr__(self) -> str:
        sites = ", ".join(self.downstream) or "no sites"
        return f"<gandid.Runner at {self.layer}: {self.units} units of {' x '.join(map(str, self.map_size))}, then {sites}>"

    @torch.inference_mode()
    def run(self, z: Tensor, arms: Sequence[Arm], *, donors: Tensor | None = None) -> Tensor:
        """Images of every arm: (a, n, 3, H, W) for latents `z` (n, latent_dim).

        `arms[0]` must be the reference arm. `donors` (n, latent_dim) are the other latents of resample ablation.
        """
        images, _ = self._run(z, arms, donors, read=False)
        return images

    @torch.inference_mode()
    def read(self, z: Tensor, arms: Sequence[Arm], *, donors: Tensor | None = None) -> tuple[Tensor, Readings]:
        """As `run`, and what the sites took and were given."""
        return self._run(z, arms, donors, read=True)

    @torch.inference_mode()
    def calibrate(self, parts: Iterable[Tensor]) -> dict[str, Statistic]:
        """Take, and give, the constants of the control `mean`: each downstream site's statistic, averaged over latents and positions.

        Parameters
        ----------
        parts : iterable of Tensor (n, latent_dim)
            The latents, so many at a time as may be run at once.
        """
        found: dict[str, list[Statistic]] = {name: [] for name in self.downstream}
        with contextlib.ExitStack() as stack:
            for name, statistics in found.items():
                site = self._sites[name]

                def meet(module: nn.Module, args: tuple, site: Site = site, into: list[Statistic] = statistics) -> None:
                    into.append(site.statistic(args[0]))

                stack.callback(site.module.register_forward_pre_hook(meet).remove)
            for z in parts:
                self.generator(z)
        self.constants = {name: average(statistics) for name, statistics in found.items()}
        return self.constants

    @torch.inference_mode()
    def activations(self, z: Tensor) -> Tensor:
        """The layer's output (n, C, h, w) with no edit."""
        return self._run(z, [REFERENCE], None, read=True)[1].layer

    def scaled(self, z: Tensor, scale: Tensor, latent: Tensor | None = None) -> Tensor:
        """Images (rows, 3, H, W) with the layer's units multiplied, every site live; differentiable in `scale`.

        Parameters
        ----------
        z : Tensor of shape (n, latent_dim)
        scale : Tensor of shape (rows, C)
            Of each unit in each row: 1 leaves it as it is, 0 ablates it.
        latent : Tensor of shape (rows,), int64, optional
            Which of the latents each row is of; by default they are as many as the rows, in their order. The network runs on
            each of them once up to the layer.
        """
        fans, early = 0, self._fans_out_at_latents and latent is not None

        def multiply(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            nonlocal fans
            fans += 1
            rows = output.detach() if latent is None or early else output.detach()[latent]
            return rows * scale.to(rows.dtype)[:, :, None, None]

        handle = self._layer_module.register_forward_hook(multiply)
        try:
            images = self.generator(z[latent] if early else z)
        finally:
            handle.remove()
        self._check_once(fans)
        return images

    @torch.inference_mode()
    def placebo(self, z: Tensor, edit: Arm) -> Tensor:
        """Images (2, n, 3, H, W) of an edited arm, and of the same with every *upstream* site held.

        Here the batch fans out at the latents, so that the upstream sites really run on both arms' rows.
        """
        arms = [REFERENCE, edit, Arm(edit.edit, dict.fromkeys(self.upstream, "frozen"))]
        images, _ = self._run(z, arms, None, read=False, fan_out_at_latents=True)
        return images[1:]

    def _run(
        self, z: Tensor, arms: Sequence[Arm], donors: Tensor | None, *, read: bool, fan_out_at_latents: bool = False
    ) -> tuple[Tensor, Readings]:
        if arms[0].edit is not None or arms[0].held:
            raise ValueError("arms[0] must be the reference arm")
        readings, n = Readings(self.closed_form), len(z)
        early = fan_out_at_latents or self._fans_out_at_latents
        # Fanned out early, the donors' rows go all the way as a block after the arms', and are dropped at the end.
        blocks = len(arms) + (early and donors is not None)
        fans = 0

        def fan_out(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            nonlocal fans
            fans += 1
            if len(output) != len(inputs) + (0 if donors is None else n):
                raise GandidError(
                    f"layer '{self.layer}' is given {len(output)} rows of a batch of {len(inputs)}: let the generator make a batch in "
                    "one pass, not in parts (such as the slices of an image decoder: disable_slicing)"
                )
            donor = output[-n:] if donors is not None else None
            # Copies, laid out in memory as they were: a module downstream may work in place and would overwrite what was kept here.
            rows = output.clone() if early else torch.cat([output[:n]] * len(arms))
            if read:
                readings.layer = output[:n].clone()
            start = 0
            for _, same in groupby(arms, lambda arm: id(arm.edit)):  # arms of one edit lie side by side
                edits = [arm.edit for arm in same]
                stop = start + len(edits) * n
                if edits[0] is not None:
                    edits[0].apply_(rows[start:stop], donor)
                start = stop
            return rows

        inputs = z.repeat(len(arms), 1) if early else z
        with contextlib.ExitStack() as stack:
            handle = self._layer_module.register_forward_hook(fan_out)
            stack.callback(handle.remove)
            for name in self.upstream * fan_out_at_latents + self.downstream:
                holding = {block: arm for block, arm in enumerate(arms) if name in arm.held and arm.strength}
                if holding or read:
                    constant = self.constants.get(name)
                    read_into = readings if read else None
                    stack.enter_context(governed(self._sites[name], holding, (blocks, n), read_into, constant))
            rows = self.generator(inputs if donors is None else torch.cat([inputs, donors]))
        self._check_once(fans)
        if tuple(rows.shape[2:]) != self.image_size:
            sizes = " px, and of others ".join("{} x {}".format(*size) for size in (rows.shape[2:], self.image_size))
            raise GandidError(f"the generator makes images of {sizes} px: let all have one size")
        for scales in (readings.taken, readings.held) if blocks > len(arms) else ():
            scales.update({name: scale[: len(arms)] for name, scale in scales.items()})
        images = rows[: len(arms) * n].unflatten(0, (len(arms), n))
        finite = (0 * images).flatten(2).sum(2).isfinite().all(0)  # ten times as quick as to ask each value
        if not finite.all():
            broken = n - int(finite.sum())
            raise GandidError(f"the generator gives no finite image (NaN or infinite) for {broken} of {n} latents")
        return images, readings

    def _check_once(self, fans: int) -> None:
        if fans != 1:
            raise GandidError(f"layer '{self.layer}' ran {fans} times in one pass: choose a layer that runs once")

    @torch.inference_mode()
    def _trace(self, z: Tensor) -> None:
        """Run on a few latents to learn what runs before and after the layer, and whether a batch can fan out there."""
        order: list[str] = []
        outputs: list[Any] = []
        taken: dict[str, Statistic] = {}
        with contextlib.ExitStack() as stack:
            for site in self._sites.values():

                def meet(module: nn.Module, args: tuple, output: Tensor, site: Site = site) -> None:
                    order.append(site.name)
                    taken[site.name] = site.check(args, output)

                stack.callback(site.module.register_forward_hook(meet).remove)

            def note(module: nn.Module, args: tuple, output: Any) -> None:
                order.append("")
                outputs.append(output.clone() if isinstance(output, Tensor) else output)

            stack.callback(self._layer_module.register_forward_hook(note).remove)
            images = self._generate(z)
        if len(outputs) != 1 or getattr(outputs[0], "ndim", 0) != 4:
            raise UsageError(f"layer '{self.layer}' does not give one map of units per pass: choose another layer")
        repeated = next((name for name in order if order.count(name) > 1), None)
        if repeated is not None:
            raise UsageError(
                f"site '{repeated}' runs {order.count(repeated)} times in one pass: give each place a module of its own"
            )
        here = order.index("")
        self.upstream, self.downstream = tuple(order[:here]), tuple(order[here + 1 :])
        self.responds = {name: self._sites[name].responds for name in self.downstream}
        self.units, self.map_size = outputs[0].shape[1], tuple(outputs[0].shape[2:])
        self.image_size = tuple(images.shape[2:])
        self.closed_form = bool(self.downstream) and _is_root_mean_square(taken[self.downstream[0]], outputs[0])
        self._check_images(z, images)
        self._fans_out_at_latents = False
        if not self._pairs(z, images):
            self._fans_out_at_latents = True
            if not self._pairs(z, images):
                raise UsageError(
                    "the generator gives other images of the same latents in another arm, without an edit: let the first axis "
                    "be the latents' wherever it normalizes"
                )

    def _generate(self, z: Tensor) -> Tensor:
        """Images of latents as the generator makes them, with an error that says what a generator must be."""
        try:
            images = self.generator(z)
        except (GandidError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            small = any(one.is_floating_point() and one.itemsize == 1 for one in self.generator.parameters())
            advice = (
                "weights of 8 bits do not compute everywhere, so give them another type (generator.to(torch.bfloat16))"
                if small
                else "docs/generators.md says how it tells what its latents are, and what else it takes"
            )
            raise UsageError(
                f"the generator fails on {len(z)} latents of {z.shape[1]} numbers ({first_line(error)}): {advice}"
            ) from error
        shape = images.shape if isinstance(images, Tensor) else ()
        if len(shape) != 4 or shape[:2] != (len(z), 3):
            got = f"images of shape {tuple(shape)}" if shape else f"a {type(images).__name__}"
            raise UsageError(f"the generator gives {got} for {len(z)} latents: it must give (N, 3, height, width)")
        if not images.is_floating_point():
            raise UsageError(
                f"the generator gives images of type {images.dtype}: they must be floats, about in [-1, 1]"
            )
        return images

    def _check_images(self, z: Tensor, images: Tensor) -> None:
        """Refuse a generator whose image is no function of its latent alone; warn of colours out of range."""
        if not images.isfinite().all():
            raise UsageError("the generator gives images that are not finite (NaN or infinite)")
        kept = {name: buffer.clone() for name, buffer in self.generator.named_buffers()}
        alone = torch.cat([self._generate(latent) for latent in z.split(1)])
        for name, buffer in self.generator.named_buffers():
            if not torch.equal(buffer, kept[name]):
                raise UsageError(
                    f"the generator changes its buffer '{name}' whenever it makes images, so that they depend on how often it did: "
                    "call generator.eval(), or take that away"
                )
        if not self._agree(alone, images, tolerance=1e-3 if images.device.type == "cpu" else 1e-2):
            if not self._agree(self._generate(z), images):
                raise UsageError(
                    "the generator gives other images of the same latents the second time: take its noise away, or fix it per "
                    "latent"
                )
            raise UsageError(
                "the generator gives another image of a latent beside other latents than of the latent alone: take statistics "
                "of the batch away (batch normalization in evaluation mode has stored ones)"
            )
        low, high = float(images.min()), float(images.max())
        fault = f"the generator's images range from {low:.3g} to {high:.3g}, and colours in [-1, 1] are expected"
        if low > -1 and high > BYTES:
            raise UsageError(f"{fault}: rescale them, as images / 127.5 - 1 does where they are 0 to 255")
        if low >= 0 or max(-low, high) > BEYOND:
            warnings.warn(f"{fault}: rescale them, or the segmenter sees other pictures than meant", stacklevel=2)

    def _pairs(self, z: Tensor, images: Tensor) -> bool:
        """Whether the reference arm, and an arm that holds every site without an edit, are what the generator makes alone."""
        held = Arm(None, dict.fromkeys(self.downstream, "frozen"))
        try:
            arms = self.run(z, [REFERENCE, held, Arm(ablate(tuple(range(0, self.units, 2))))])[:2]
        except torch.OutOfMemoryError:
            raise
        except GandidError as error:
            if self._fans_out_at_latents:
                raise UsageError(f"with every other unit of layer '{self.layer}' ablated, {error}") from None
            return False
        except Exception:  # rows that do not meet
            return False
        return arms.shape[1:] == images.shape and all(self._agree(arm, images) for arm in arms)

    def _agree(self, one: Tensor, other: Tensor, tolerance: float = 1e-2) -> bool:
        """Whether images are the same up to rounding."""
        limit = max(tolerance, 16 * self._rounding) * other.abs().max()
        return bool((one - other).abs().max() <= limit)


def layers_of(generator: nn.Module) -> str:
    """The layers that a generator names itself, or its modules: for an error to list."""
    known = list(getattr(generator, "layers", None) or [name for name, _ in generator.named_modules() if name])
    return ", ".join(known[:_NAMED]) + (f" and {len(known) - _NAMED} more" if len(known) > _NAMED else "")


def _is_root_mean_square(statistic: Statistic, x: Tensor) -> bool:
    """Whether a statistic is that of pixel normalization of `x` (n, C, h, w), up to its eps."""
    if statistic.mean is not None or statistic.scale.shape != (len(x), 1, *x.shape[2:]):
        return False
    expected = x.float().square().mean(dim=1, keepdim=True).sqrt()
    return bool((statistic.scale - expected).abs().max() <= 1e-3 * expected.max())
