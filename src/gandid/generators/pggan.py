"""Progressive GAN (Karras et al. 2018, "Progressive Growing of GANs for Improved Quality, Stability, and Variation").

The generator is laid out as GAN Dissection lays it out (Bau et al. 2019): `layer1`, `layer2` make 4x4 maps, `layer3`,
`layer4` 8x8, and so on. Each layer *starts* with the pixel normalization of what it is given, so a layer's output is
the activation before normalization, and an edit of that output reaches the next layer's `norm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLU


class PixelNorm(nn.Module):
    """Divide by the root mean square over channels at each position: a *site* (Karras et al. 2018, section 4.2).

    `x / sigma` with `sigma(p) = sqrt(mean_c x(c, p)^2 + eps)`. The two steps are methods of their own so that an
    experiment can give the site another statistic than the one it would take.
    """

    def __init__(self, eps: float = 1e-8):
        super().__init__()
        self.eps = eps

    def statistic(self, x: Tensor) -> Tensor:
        """`sigma`, shape (N, 1, H, W), of an input of shape (N, C, H, W); in single precision or better."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return (x.square().mean(dim=1, keepdim=True) + self.eps).sqrt()

    def apply_statistic(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Normalize `x` (N, C, H, W) with a given `sigma` (N, 1, H, W)."""
        return (x / sigma).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_statistic(x, self.statistic(x))

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class EqualConv2d(nn.Module):
    """Convolution with the equalized learning rate: weights are stored unscaled and multiplied by `gain / sqrt(fan_in)`."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, padding: int, gain: float = math.sqrt(2)):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = gain / math.sqrt(in_channels * kernel * kernel)
        self.padding = padding

    def forward(self, x: Tensor, resample: str | None = None) -> Tensor:
        """Convolve (N, C, H, W); `resample` "up" doubles the map first (nearest), "down" averages 2x2 afterwards.

        Either resampling is one strided convolution with the four shifted copies of the kernel summed: the same map at
        4/9 of the multiplications (`fused_scale` in the code of Karras et al. 2018).
        """
        if resample is None:
            return F.conv2d(x, self.kernel(), self.bias, padding=self.padding)
        if resample == "up":
            return F.conv_transpose2d(x, self.kernel("up"), self.bias, stride=2, padding=1)
        return F.conv2d(x, self.kernel("down"), self.bias, stride=2, padding=1)

    def kernel(self, resample: str | None = None) -> Tensor:
        """The scaled weights, as `forward` convolves with them; made in every pass, since weights may be edited between two."""
        weight = self.weight * self.scale
        if resample is None:
            return weight
        kernel = F.pad(weight, (1, 1, 1, 1))
        kernel = kernel[..., 1:, 1:] + kernel[..., :-1, 1:] + kernel[..., 1:, :-1] + kernel[..., :-1, :-1]
        return kernel.flip(2, 3).transpose(0, 1) if resample == "up" else kernel * 0.25


class DenseConv2d(EqualConv2d):
    """Makes a 4x4 map of a 1x1 map, with a bias per channel *and position*: a dense layer and a reshape."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel=4, padding=3)
        self.bias = nn.Parameter(torch.zeros(out_channels, 4, 4))

    def forward(self, x: Tensor, resample: str | None = None) -> Tensor:
        return F.conv2d(x, self.kernel(), padding=self.padding) + self.bias


class Layer(nn.Module):
    """Normalize, upsample where the resolution doubles, convolve, activate."""

    def __init__(self, norm: nn.Module, conv: EqualConv2d, slope: float, upsample: bool = False):
        super().__init__()
        self.norm, self.conv, self.slope, self.upsample = norm, conv, slope, upsample

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(self.norm(x), "up" if self.upsample else None), self.slope, inplace=True)


class Output(nn.Module):
    """Normalize and project the channels of one resolution to RGB."""

    def __init__(self, norm: nn.Module, in_channels: int):
        super().__init__()
        self.norm = norm
        self.conv = EqualConv2d(in_channels, 3, 1, 0, gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class Generator(nn.Module):
    """The generator of a Progressive GAN.

    Parameters
    ----------
    channels : sequence of int
        Channels at 4, 8, 16, ... pixels; the last entry belongs to the output resolution.
    latent_dim : int
        Length of a latent. Latents are normalized to the hypersphere of radius `sqrt(latent_dim)`.
    pixel_norm : bool
        False builds the same network without its pixel normalizations (the latent's, `layer1.norm`, stays).
    unnormalized : sequence of str
        Layers (or "output") that start without a normalization whatever `pixel_norm` says: published networks differ.
    eps : float
        Of the pixel normalizations.
    slope : float
        Of the leaky ReLU.
    dense_bias : bool
        Whether `layer1` has a bias per channel and position, as a dense layer has.
    """

    maps_rows = True  # see gandid.interventions.adapted

    def __init__(
        self,
        channels: Sequence[int],
        latent_dim: int,
        pixel_norm: bool = True,
        *,
        unnormalized: Sequence[str] = (),
        eps: float = 1e-8,
        slope: float = SLOPE,
        dense_bias: bool = False,
    ):
        super().__init__()
        self.name: str | None = None  # of the embedded model or the file that the weights came from
        self.source = ""  # which network of a file that holds several
        self.channels, self.latent_dim, self.pixel_norm = tuple(channels), latent_dim, pixel_norm
        self.unnormalized, self.eps, self.slope, self.dense_bias = tuple(unnormalized), eps, slope, dense_bias
        self.resolution = 4 * 2 ** (len(channels) - 1)

        def norm(layer: str) -> nn.Module:
            # The latent is put on the hypersphere, which a network without pixel normalization needs too.
            normalized = (pixel_norm or layer == "layer1") and layer not in unnormalized
            return PixelNorm(eps) if normalized else nn.Identity()

        before = latent_dim
        for stage, width in enumerate(channels):
            opening, closing = f"layer{2 * stage + 1}", f"layer{2 * stage + 2}"
            if stage == 0:  # turns a 1x1 map into 4x4: a full convolution, equal to a dense layer and a reshape
                conv = DenseConv2d(before, width) if dense_bias else EqualConv2d(before, width, kernel=4, padding=3)
            else:
                conv = EqualConv2d(before, width, kernel=3, padding=1)
            self.add_module(opening, Layer(norm(opening), conv, slope, upsample=stage > 0))
            self.add_module(closing, Layer(norm(closing), EqualConv2d(width, width, kernel=3, padding=1), slope))
            before = width
        self.output = Output(norm("output"), before)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in order."""
        return tuple(f"layer{number + 1}" for number in range(2 * len(self.channels)))

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the normalizations, in order."""
        return tuple(name for name, module in self.named_modules() if isinstance(module, PixelNorm))

    def prefix(self, z: Tensor, layer: str) -> Tensor:
        """Run up to and including `layer`: (N, latent_dim) -> (N, C, h, w), before the next normalization."""
        x = z[:, :, None, None]
        for name in self.layers[: self.layers.index(layer) + 1]:
            x = self.get_submodule(name)(x)
        return x

    def suffix(self, x: Tensor, layer: str) -> Tensor:
        """Run from the output of `layer` to the image: (N, C, h, w) -> (N, 3, resolution, resolution)."""
        for name in self.layers[self.layers.index(layer) + 1 :]:
            x = self.get_submodule(name)(x)
        return self.output(x)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents (N, latent_dim) to images (N, 3, resolution, resolution), about in [-1, 1]."""
        last = self.layers[-1]
        return self.suffix(self.prefix(z, last), last)


class Discriminator(nn.Module):
    """The mirror image of the generator, with the minibatch standard deviation before its last convolution.

    Parameters
    ----------
    channels : sequence of int
        As for the generator: channels at 4, 8, 16, ... pixels.
    spread : float, optional
        The minibatch standard deviation of ordinary images. Given, it stands in for that of the batch, so that an
        image's score does not depend on the images it is scored with. None (training): groups of `GROUP` images.
    """

    GROUP = 4

    def __init__(self, channels: Sequence[int], spread: float | None = None):
        super().__init__()
        self.channels, self.spread = tuple(channels), spread
        self.from_rgb = nn.ModuleList(EqualConv2d(3, width, 1, 0) for width in channels)
        self.blocks = nn.ModuleList(
            nn.ModuleList([EqualConv2d(width, width, 3, 1), EqualConv2d(width, before, 3, 1)])
            for before, width in pairwise(channels)
        )
        width = channels[0]
        self.conv = EqualConv2d(width + 1, width, 3, 1)
        self.dense = EqualConv2d(width, width, 4, 0)
        self.score = EqualConv2d(width, 1, 1, 0, gain=1.0)

    def forward(self, images: Tensor, stage: int | None = None, alpha: float = 1.0) -> Tensor:
        """Score images (N, 3, H, W) of a stage (the last by default): (N,), higher is more realistic."""
        return self.score(self.features(images, stage, alpha)[:, :, None, None]).flatten()

    def features(self, images: Tensor, stage: int | None = None, alpha: float = 1.0) -> Tensor:
        """What the last layer scores, (N, channels at 4 pixels)."""
        stage = len(self.channels) - 1 if stage is None else stage
        x = F.leaky_relu(self.from_rgb[stage](images), SLOPE)
        for level in range(stage, 0, -1):
            full, halving = self.blocks[level - 1].children()
            x = F.leaky_relu(halving(F.leaky_relu(full(x), SLOPE), "down"), SLOPE)
            if level == stage and alpha < 1:
                coarse = F.leaky_relu(self.from_rgb[stage - 1](F.avg_pool2d(images, 2)), SLOPE)
                x = torch.lerp(coarse, x, alpha)
        x = torch.cat([x, self.deviation(x)], dim=1)
        x = F.leaky_relu(self.conv(x), SLOPE)
        return F.leaky_relu(self.dense(x), SLOPE).flatten(1)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Fix `spread` to that of a batch of ordinary images (N, 3, H, W), N a multiple of `GROUP`."""
        self.spread, seen = None, []
        handle = self.conv.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, -1].mean().item()))
        self(images)
        handle.remove()
        self.spread = seen[0]

    def deviation(self, x: Tensor) -> Tensor:
        """Standard deviation over a group of images, averaged over channels and positions: (N, 1, H, W)."""
        n, _, height, width = x.shape
        if self.spread is not None:
            return x.new_full((n, 1, height, width), self.spread)
        size = self.GROUP if n % self.GROUP == 0 else n
        groups = x.view(size, n // size, *x.shape[1:])
        spread = (groups.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
        return spread.repeat(size)[:, None, None, None].expand(n, 1, height, width)
