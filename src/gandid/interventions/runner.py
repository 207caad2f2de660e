"""The one-batch runner: every arm of an experiment is rows of one pass.

The network runs on `n` latents up to the edited layer. There the batch fans out to `n * a` rows, one block of `n` per
arm, and each block gets its arm's edit. From there on a held site reads, for the rows of the arms that hold it, the
statistics of block 0, the reference arm, which is neither edited nor held. Nothing is recorded in one pass and replayed
in another, so the arms are paired exactly, and the prefix runs once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gandid.errors import GandidError, UsageError
from gandid.interventions.arms import REFERENCE, Arm
from gandid.interventions.sites import find_sites, held_statistic


@dataclass
class Readings:
    """What was measured on the way: site statistics by name, and the edited layer's unedited output."""

    layer: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, C, h, w)
    natural: dict[str, Tensor] = field(default_factory=dict)  # site -> (a, n, ...): what it would have taken
    held: dict[str, Tensor] = field(default_factory=dict)  # site -> (a, n, ...): what it was given


class Runner:
    """Runs the arms of an experiment on a generator.

    Parameters
    ----------
    generator : nn.Module
        Maps latents (N, latent_dim) to images (N, 3, H, W); any module whose sites follow `sites.Site`.
    layer : str
        Dotted name of the module whose output is edited; (N, C, h, w), taken before the next normalization.

    Attributes
    ----------
    upstream, downstream : tuple of str
        The sites that run before and after the layer, in the order in which they run.
    units : int
        Channels of the layer's output.

    Raises
    ------
    UsageError
        If the generator has no such layer.
    """

    def __init__(self, generator: nn.Module, layer: str):
        modules = dict(generator.named_modules())
        if layer not in modules or layer == "":
            known = getattr(generator, "layers", None) or [name for name in modules if name]
            raise UsageError(f"unknown layer '{layer}': this generator has {', '.join(known)}")
        self.generator: Any = generator
        self.layer = layer
        self._layer_module, self._sites = modules[layer], find_sites(generator)
        self.upstream, self.downstream, shape = self._trace()
        self.units, self.map_size = shape[1], tuple(shape[2:])

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
    def activations(self, z: Tensor) -> Tensor:
        """The layer's output (n, C, h, w) with no edit."""
        return self._run(z, [REFERENCE], None, read=True)[1].layer

    @torch.inference_mode()
    def placebo(self, z: Tensor, edit: Arm, control: str = "frozen") -> Tensor:
        """Images (2, n, 3, H, W) of an edited arm, and of the same with every *upstream* site held.

        Here the batch fans out at the latents, so that the upstream sites really run on both arms' rows.
        """
        arms = [REFERENCE, edit, Arm(edit.edit, dict.fromkeys(self.upstream, control))]
        images, _ = self._run(z, arms, None, read=False, fan_out_at_latents=True)
        return images[1:]

    def _run(
        self, z: Tensor, arms: Sequence[Arm], donors: Tensor | None, *, read: bool, fan_out_at_latents: bool = False
    ) -> tuple[Tensor, Readings]:
        if arms[0].edit is not None or arms[0].held:
            raise ValueError("arms[0] must be the reference arm")
        readings, n = Readings(), len(z)
        if fan_out_at_latents:
            z = z.repeat(len(arms), 1)
        fans = 0

        def fan_out(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            nonlocal fans
            fans += 1
            donor = output[n:] if donors is not None else None
            # Copies: a module downstream may work in place and would overwrite what was kept here.
            rows = output.clone() if fan_out_at_latents else output[:n].repeat(len(arms), 1, 1, 1)
            if output.is_contiguous(memory_format=torch.channels_last):
                rows = rows.contiguous(memory_format=torch.channels_last)
            if read:
                readings.layer = output[:n].clone()
            for block, arm in enumerate(arms):
                if arm.edit is not None:
                    arm.edit.apply_(rows[block * n : (block + 1) * n], donor)
            return rows

        with contextlib.ExitStack() as stack:
            handle = self._layer_module.register_forward_hook(fan_out)
            stack.callback(handle.remove)
            for name in self.upstream * fan_out_at_latents + self.downstream:
                controls = {block: arm.held[name] for block, arm in enumerate(arms) if name in arm.held}
                if controls or read:
                    stack.enter_context(_governed(self._sites[name], name, controls, n, readings if read else None))
            rows = self.generator(z if donors is None else torch.cat([z, donors]))
        if fans != 1:
            raise GandidError(f"layer '{self.layer}' ran {fans} times in one pass: choose a layer that runs once")
        return rows.unflatten(0, (len(arms), n)), readings

    @torch.inference_mode()
    def _trace(self) -> tuple[tuple[str, ...], tuple[str, ...], torch.Size]:
        """Run once to learn which sites run before and after the layer, and the shape of its output."""
        order: list[str] = []
        shape: list[torch.Size] = []
        with contextlib.ExitStack() as stack:
            for name, site in self._sites.items():
                handle = site.register_forward_hook(lambda *_, name=name: order.append(name))
                stack.callback(handle.remove)

            def note(module: nn.Module, args: tuple, output: Tensor) -> None:
                order.append("")
                shape.append(output.shape)

            handle = self._layer_module.register_forward_hook(note)
            stack.callback(handle.remove)
            parameter = next(self.generator.parameters())
            self.generator(torch.ones(1, self.generator.latent_dim, device=parameter.device, dtype=parameter.dtype))
        if len(shape) != 1 or len(shape[0]) != 4:
            raise UsageError(f"layer '{self.layer}' does not give one map of units per pass: choose another layer")
        here = order.index("")
        return tuple(order[:here]), tuple(order[here + 1 :]), shape[0]


@contextlib.contextmanager
def _governed(site: Any, name: str, controls: dict[int, str], n: int, readings: Readings | None) -> Iterator[None]:
    """Give a site, for the blocks of rows in `controls`, the statistic that their control says."""

    def forward(x: Tensor) -> Tensor:
        natural = site.statistic(x)
        blocks = natural.unflatten(0, (-1, n))
        held = blocks
        if controls:
            held = blocks.clone()
            for block, control in controls.items():
                held[block] = held_statistic(control, blocks[0], blocks[block])
        if readings is not None:
            readings.natural[name], readings.held[name] = blocks, held
        return site.apply_statistic(x, held.flatten(0, 1))

    with _replaced(site, forward):
        yield


@contextlib.contextmanager
def _replaced(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Shadow a module's `forward`; the class's own is back afterwards."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
