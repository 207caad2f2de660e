"""Sites: normalizations whose statistic an experiment can hold, and the controls that say what they are held at.

A site works in two steps: it takes a statistic of its input (a scale and, where it subtracts one, a mean), and applies it.
A module is a site if it offers the two steps as methods, `statistic(x)` and `apply_statistic(x, sigma)`, as PG-GAN's pixel
normalization does; or if its type is registered with an adapter, as PyTorch's own normalizations are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gandid.errors import UsageError, first_line
from gandid.interventions.normalizations import ADAPTERS, Adapter, Statistic, pixel_norm

if TYPE_CHECKING:
    from gandid.interventions.arms import Arm
    from gandid.interventions.runner import Readings

_OWN = dict(ADAPTERS)  # those of PyTorch's own normalizations


def register_site(kind: type[nn.Module], adapter: Adapter | None = None) -> None:
    """Have every module of a type, and of its subclasses, taken as a site.

    Parameters
    ----------
    kind : type
        Called with the input alone, or with what `adapter.apply` takes beside it.
    adapter : Adapter, optional
        Its two steps. Without one it is a pixel normalization, `x / sqrt(mean_c x^2 + eps)`, whose `eps` is the module's
        attribute `eps` or `epsilon`, 1e-8 where there is neither.

    Notes
    -----
    What is registered is believed only as far as it is true: a `Runner` compares the two steps with the module's own
    `forward`, and refuses a site where they differ.

    Examples
    --------
    >>> class Hypersphere(nn.Module):
    ...     def forward(self, x):
    ...         return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    >>> register_site(Hypersphere)
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UsageError(f"a site is registered by the type of its module, not by {kind!r}")
    ADAPTERS[kind] = adapter or pixel_norm()


def registered_sites() -> dict[type[nn.Module], Adapter]:
    """What has been registered in this process: for `register_sites` in another one."""
    return {kind: adapter for kind, adapter in ADAPTERS.items() if _OWN.get(kind) is not adapter}


def register_sites(registered: Mapping[type[nn.Module], Adapter]) -> None:
    """Register what another process has registered."""
    for kind, adapter in registered.items():
        register_site(kind, adapter)


@dataclass(frozen=True)
class Site:
    """A module of a network with the two steps of its normalization.

    Attributes
    ----------
    responds : bool
        Whether the statistic depends on the input at all. That of batch normalization in evaluation mode does not: it is
        stored. Holding such a site changes nothing.
    """

    name: str
    module: nn.Module
    adapter: Adapter

    @property
    def responds(self) -> bool:
        return self.adapter.responds(self.module)

    def statistic(self, x: Tensor) -> Statistic:
        return self.adapter.statistic(self.module, x)

    def apply(self, x: Tensor, statistic: Statistic, *args: Any) -> Tensor:
        return self.adapter.apply(self.module, x, statistic, *args)

    def check(self, args: Sequence[Any], output: Any) -> Statistic:
        """The statistic of what the module was given, if its two steps make of it what the module itself made.

        Raises
        ------
        UsageError
            If they do not.
        """
        kind = type(self.module).__name__
        advice = "register its type with an adapter of its own (gandid.interventions.register_site)"
        try:
            x, *others = args
            statistic = self.statistic(x)
            result = self.apply(x, statistic, *others)
            fits = result.shape == output.shape and len(statistic.scale) == len(x)
        except Exception as error:
            raise UsageError(
                f"site '{self.name}' ({kind}) is not what it was taken for ({first_line(error)}): {advice}"
            ) from error
        scale, tolerance = output.abs().max(), max(1e-3, 16 * torch.finfo(output.dtype).eps)
        if not fits or (result - output).abs().max() > tolerance * scale:
            raise UsageError(f"site '{self.name}' ({kind}) computes something else than it was taken for: {advice}")
        return statistic


def find_sites(network: nn.Module) -> dict[str, Site]:
    """All sites of a network, by dotted module name, in the order of registration; what is inside of a site is no site."""
    sites: dict[str, Site] = {}
    for name, module in network.named_modules():
        adapter = _adapter(module)
        if adapter and not any(name.startswith(f"{outer}.") for outer in sites):
            sites[name] = Site(name, module, adapter)
    return sites


_METHODS = Adapter(
    statistic=lambda module, x: Statistic(module.statistic(x)),
    apply=lambda module, x, statistic: module.apply_statistic(x, statistic.scale),
)


def _adapter(module: nn.Module) -> Adapter | None:
    if hasattr(module, "statistic") and hasattr(module, "apply_statistic"):
        return _METHODS
    return next((ADAPTERS[kind] for kind in type(module).__mro__ if kind in ADAPTERS), None)


def held_statistic(
    control: str, reference: Statistic, taken: Statistic, constant: Statistic | None = None, strength: float = 1.0
) -> Statistic:
    """The statistic that a held site is given (docs/theory.md, "Identification").

    Parameters
    ----------
    control : {"capped", "frozen", "mean"}
        `frozen` gives `reference`, the mean included; `capped` gives the scale `max(reference, taken)`, so that the site may
        attenuate as it would but not amplify beyond what it did before the edit, and leaves the mean live; `mean` gives
        `constant`.
    reference : Statistic
        What the site took for the same latent with no edit and nothing held.
    taken : Statistic
        What the site would take of what it is given.
    constant : Statistic, optional
        The site's average over latents and positions (`average`).
    strength : float
        Share of the way from `taken` to that, in [0, 1]: of the logarithm of the scale, and of the mean.

    Raises
    ------
    ValueError
        If the control is unknown, or `mean` has no constant.
    """
    if control == "frozen":
        held = reference
    elif control == "capped":
        held = Statistic(torch.maximum(reference.scale, taken.scale), taken.mean)
    elif control == "mean":
        if constant is None:
            raise ValueError("the control 'mean' needs constants: call Runner.calibrate first")
        scale = constant.scale.to(taken.scale).expand_as(taken.scale)
        held = Statistic(scale, None if constant.mean is None else constant.mean.to(scale).expand_as(scale))
    else:
        raise ValueError(f"unknown control '{control}'")
    if strength == 1:
        return held
    scale = torch.lerp(taken.scale.log(), held.scale.log(), strength).exp()
    if taken.mean is None or held.mean is None:
        return Statistic(scale)
    return Statistic(scale, torch.lerp(taken.mean, held.mean, strength))


def average(parts: Sequence[Statistic]) -> Statistic:
    """One constant per site, or per channel where the statistic is a channel's own: the average over latents and positions."""
    whole = Statistic.join(parts)
    # Maps are (N, C, h, w), sequences (N, ..., C).
    over = (0, *range(2, whole.scale.ndim)) if whole.scale.ndim == 4 else tuple(range(whole.scale.ndim - 1))
    return whole.map(lambda part: part.mean(over, keepdim=True))


@contextlib.contextmanager
def governed(
    site: Site, holding: dict[int, Arm], shape: tuple[int, int], readings: Readings | None, constant: Statistic | None
) -> Iterator[None]:
    """Give a site, for the blocks of rows in `holding`, the statistic that the control of their arm says.

    The batch is of `shape` (blocks, n). Where nothing is held the module's own `forward` runs; a site that cannot respond
    would be given what it has.
    """
    own = site.module.forward
    if not site.responds:
        holding = {}

    def scales(statistic: Statistic) -> Tensor:
        """By block and latent; where the site folds more into its rows (windows), that comes third."""
        return statistic.scale.unflatten(0, (*shape, -1)).squeeze(2)

    alike: dict[tuple[str, float], list[int]] = {}  # the blocks that are held in one way
    for block, arm in holding.items():
        alike.setdefault((arm.held[site.name], arm.strength), []).append(block)

    def hold(taken: Statistic) -> Statistic:
        blocks = taken.map(lambda part: part.unflatten(0, (shape[0], -1)))
        held = blocks.map(torch.clone)
        for (control, strength), some in alike.items():
            given = held_statistic(control, blocks.at([0]), blocks.at(some), constant, strength)
            for into, part in zip(held, given, strict=True):
                if into is not None and part is not None:
                    into[some] = part
        return held.map(lambda part: part.flatten(0, 1))

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        taken = site.statistic(x)
        held = hold(taken) if holding else taken
        if readings is not None:
            readings.taken[site.name] = scales(taken)
            readings.held[site.name] = scales(held) if holding else readings.taken[site.name]
        return site.apply(x, held, *args) if holding else own(x, *args, **kwargs)

    with _replaced(site.module, forward):
        yield


@contextlib.contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    """Shadow a module's `forward`; what it was is back afterwards."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
