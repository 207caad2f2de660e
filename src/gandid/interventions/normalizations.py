"""What each kind of normalization takes of its input, and what it does with that: PyTorch's own, and pixel normalization.

    kind                       statistic, per row               over
    pixel norm (PG-GAN)        root mean square                 channels, at each position
    RMSNorm                    root mean square                 the last `normalized_shape` axes
    LayerNorm                  mean and standard deviation      the last `normalized_shape` axes
    GroupNorm                  mean and standard deviation      positions and the channels of a group
    InstanceNorm               mean and standard deviation      positions of a channel
    BatchNorm, eval mode       mean and standard deviation      none: they are stored
    Constant                   that of the module it replaces   none: it is stored

Every root has the module's `eps` added under it, as PyTorch does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from gandid.errors import UsageError


class Statistic(NamedTuple):
    """What a normalization takes of its input (N, ...), and subtracts and divides by: one row per row of the input."""

    scale: Tensor  # broadcastable to the input
    mean: Tensor | None = None  # of the scale's shape; None: nothing is subtracted

    def at(self, rows: Sequence[int]) -> Statistic:
        """Some of the rows."""
        return self.map(lambda part: part[rows])

    def map(self, work: Callable[[Tensor], Tensor]) -> Statistic:
        """What `work` makes of the scale and, where there is one, of the mean."""
        return Statistic(work(self.scale), None if self.mean is None else work(self.mean))

    @staticmethod
    def join(parts: Sequence[Statistic]) -> Statistic:
        """Rows one after the other."""
        means = [part.mean for part in parts if part.mean is not None]
        return Statistic(torch.cat([part.scale for part in parts]), torch.cat(means) if means else None)


@dataclass(frozen=True)
class Adapter:
    """The two steps of a type of module, as functions of the module.

    Attributes
    ----------
    statistic : callable
        `(module, x) -> Statistic`.
    apply : callable
        `(module, x, statistic, *args) -> Tensor`: the module's output for `x`, had it taken this statistic. `args` is what
        the module is called with beside its input.
    responds : callable
        `module -> bool`: whether the statistic depends on `x`.
    """

    statistic: Callable[[Any, Tensor], Statistic]
    apply: Callable[..., Tensor]
    responds: Callable[[Any], bool] = lambda module: True


def normalize(x: Tensor, statistic: Statistic) -> Tensor:
    """`(x - mean) / scale`."""
    return (x if statistic.mean is None else x - statistic.mean) / statistic.scale


def moments(x: Tensor, dims: tuple[int, ...], eps: float, centered: bool = True) -> Statistic:
    """Root mean square, or mean and standard deviation, over `dims`; of half precision in single."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if not centered:
        return Statistic((x.square().mean(dims, keepdim=True) + eps).sqrt())
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return Statistic((variance + eps).sqrt(), mean)


def pixel_norm(eps: float | None = None) -> Adapter:
    """The adapter of `x / sqrt(mean_c x(c, p)^2 + eps)` (Karras et al. 2018, section 4.2).

    Parameters
    ----------
    eps : float, optional
        The module's own by default: its attribute `eps` or `epsilon`, or 1e-8.
    """

    def statistic(module: Any, x: Tensor) -> Statistic:
        own = getattr(module, "eps", getattr(module, "epsilon", 1e-8))
        return moments(x, (1,), own if eps is None else eps, centered=False)

    return Adapter(statistic, lambda module, x, statistic: normalize(x, statistic).to(x.dtype))


def _affine(module: Any, y: Tensor, shaped: Callable[[Tensor], Tensor]) -> Tensor:
    if module.weight is not None:
        y = y * shaped(module.weight)
    if getattr(module, "bias", None) is not None:
        y = y + shaped(module.bias)
    return y


def _over_channels(module: Any, x: Tensor, statistic: Statistic) -> Tensor:
    """Normalize, then the affine map per channel of batch, instance and group normalization."""
    return _affine(module, normalize(x, statistic), lambda values: _per_channel(values, x)).to(x.dtype)


def _over_elements(module: Any, x: Tensor, statistic: Statistic) -> Tensor:
    """Normalize, then the affine map per element of layer and RMS normalization."""
    return _affine(module, normalize(x, statistic), lambda values: values).to(x.dtype)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, ...), to go with `x` (N, C, ...)."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _stored(module: Any, x: Tensor) -> Statistic:
    scale = (_per_channel(module.running_var, x) + module.eps).sqrt()
    mean = _per_channel(module.running_mean, x)
    return Statistic(scale.expand(len(x), *scale.shape[1:]), mean.expand(len(x), *mean.shape[1:]))


def _instance(module: Any, x: Tensor) -> Statistic:
    return _stored(module, x) if module.track_running_stats else moments(x, tuple(range(2, x.ndim)), module.eps)


def _group(module: Any, x: Tensor) -> Statistic:
    groups = x.unflatten(1, (module.num_groups, -1))
    channels = groups.shape[2]
    scale, mean = moments(groups, tuple(range(2, groups.ndim)), module.eps)
    assert mean is not None
    return Statistic(*(each.flatten(1, 2).repeat_interleave(channels, dim=1) for each in (scale, mean)))


def _elements(module: Any) -> tuple[int, ...]:
    return tuple(range(-len(module.normalized_shape), 0))


def _layer(module: Any, x: Tensor) -> Statistic:
    return moments(x, _elements(module), module.eps)


def _rms(module: Any, x: Tensor) -> Statistic:
    eps = torch.finfo(x.dtype).eps if module.eps is None else module.eps
    return moments(x, _elements(module), eps, centered=False)


class Constant(nn.Module):
    """What stands in the place of a normalization where there is none: its two steps with a statistic that is stored.

    Parameters
    ----------
    module : nn.Module
        What is replaced; its affine map stays, where it has one.
    adapter : Adapter
        Of the module.
    statistic : Statistic
        Of one row.
    """

    def __init__(self, module: nn.Module, adapter: Adapter, statistic: Statistic):
        super().__init__()
        self.module, self.adapter = module, adapter
        self.register_buffer("scale", statistic.scale)
        self.register_buffer("mean", statistic.mean)

    def statistic_of(self, x: Tensor) -> Statistic:
        """What is stored, one row per row of `x` (N, ...)."""
        stored: Any = self.scale, self.mean
        return Statistic(*stored).map(lambda part: part.expand(len(x), *part.shape[1:]))

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        return self.adapter.apply(self.module, x, self.statistic_of(x), *args)


# By type, subclasses included; `gandid.interventions.register_site` adds to it.
ADAPTERS: dict[type[nn.Module], Adapter] = {
    _BatchNorm: Adapter(_stored, _over_channels, responds=lambda module: False),
    _InstanceNorm: Adapter(_instance, _over_channels, responds=lambda module: not module.track_running_stats),
    Constant: Adapter(
        Constant.statistic_of,
        lambda module, x, statistic, *args: module.adapter.apply(module.module, x, statistic, *args),
        responds=lambda module: False,
    ),
    nn.GroupNorm: Adapter(_group, _over_channels),
    nn.LayerNorm: Adapter(_layer, _over_elements),
    nn.RMSNorm: Adapter(_rms, _over_elements),
}


def check_mode(network: nn.Module) -> None:
    """Refuse a network whose image of a latent depends on chance, or on the other latents of its batch.

    Raises
    ------
    UsageError
        If it is in training mode and that matters, or a batch normalization has no stored statistics.
    """
    for name, module in network.named_modules():
        kind = type(module).__name__
        stores = isinstance(module, _InstanceNorm) and module.track_running_stats
        if module.training and (stores or isinstance(module, _BatchNorm | _DropoutNd)):
            raise UsageError(f"the generator is in training mode ('{name}', {kind}): call generator.eval() first")
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise UsageError(
                f"'{name}' ({kind}) stores no statistics, so that an image depends on the others of its batch: "
                "give it running statistics (track_running_stats=True), or another normalization"
            )
