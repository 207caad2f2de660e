"""The embedded segmenter: a U-Net small enough to label a thousand 64 px images a second on two cores.

Two things make it quick. Blocks of 2 x 2 pixels are folded into channels, so that the widest maps have a
quarter of the positions, and the last convolution unfolds them again. And the batch normalizations that
training needs are folded into the convolutions before the weights are stored, so that the stored network has
none.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import nn

from gandid.errors import UsageError
from gandid.files import write_safetensors

UNKNOWN = "unknown"
WIDTHS = (24, 48, 96)
FORMAT = "gandid-segmenter-1"
MULTIPLE = 8  # height and width must be divisible by this: one folding and two halvings
_CHUNK = 64  # images labelled at once on a CPU: their maps stay in the cache


class Convolution(nn.Module):
    """A 3 x 3 convolution, batch normalization while it trains, and a rectifier."""

    def __init__(self, inputs: int, outputs: int, normalized: bool, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=not normalized)
        self.norm: nn.Module = nn.BatchNorm2d(outputs) if normalized else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class UNet(nn.Module):
    """Class scores for each pixel, from maps at a half, a quarter and an eighth of the resolution.

    Parameters
    ----------
    classes : int
        How many classes to score.
    widths : tuple of three int
        Channels at a half, a quarter and an eighth of the resolution.
    normalized : bool
        With batch normalization (to train) or without (`folded()` makes one of the other).
    """

    def __init__(self, classes: int, widths: tuple[int, int, int] = WIDTHS, normalized: bool = True):
        super().__init__()
        self.classes, self.widths, self.normalized = classes, widths, normalized
        half, quarter, eighth = widths
        self.at_half = nn.Sequential(Convolution(12, half, normalized), Convolution(half, half, normalized))
        self.at_quarter = nn.Sequential(
            Convolution(half, quarter, normalized, stride=2), Convolution(quarter, quarter, normalized)
        )
        # The dilated one sees most of a 64 px picture: whether something belongs to a room depends on where
        # it is.
        self.at_eighth = nn.Sequential(
            Convolution(quarter, eighth, normalized, stride=2),
            Convolution(eighth, eighth, normalized, dilation=2),
            Convolution(eighth, eighth, normalized),
        )
        self.to_quarter = nn.Conv2d(eighth, quarter, 1)
        self.up_quarter = Convolution(quarter, quarter, normalized)
        self.to_half = nn.Conv2d(quarter, half, 1)
        self.up_half = Convolution(half, half, normalized)
        self.score = nn.Conv2d(half, 4 * classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score each pixel.

        Parameters
        ----------
        images : Tensor, shape (N, 3, H, W), H and W divisible by 8
            Colours in [-1, 1].

        Returns
        -------
        Tensor, shape (N, H / 2, W / 2, 2, 2, classes)
            Scores (logits), with the two rows and two columns of each block of pixels apart: the classes lie
            next to each other in memory, where finding the largest is quickest. `unfold_blocks` puts blocks
            in place.
        """
        folded = F.pixel_unshuffle(images, 2).contiguous(memory_format=torch.channels_last)
        half = self.at_half(folded)
        quarter = self.at_quarter(half)
        eighth = self.at_eighth(quarter)
        quarter = self.up_quarter(quarter + F.interpolate(self.to_quarter(eighth), scale_factor=2))
        half = self.up_half(half + F.interpolate(self.to_half(quarter), scale_factor=2))
        n, _, rows, columns = half.shape
        return self.score(half).permute(0, 2, 3, 1).reshape(n, rows, columns, 2, 2, self.classes)

    def folded(self) -> UNet:
        """Give the same function without batch normalizations: each folded into the convolution before it.

        In inference a batch normalization is `(y - mean) / sqrt(var + eps) * gamma + beta` per channel, so
        scaling the convolution's weights and shifting its bias does the same.
        """
        plain = UNet(self.classes, self.widths, normalized=False)
        plain.load_state_dict(self.state_dict(), strict=False)
        for name, source in self.named_modules():
            if isinstance(source, Convolution) and isinstance(source.norm, nn.BatchNorm2d):
                mean, variance = source.norm.running_mean, source.norm.running_var
                assert mean is not None
                assert variance is not None
                gain = source.norm.weight / torch.sqrt(variance + source.norm.eps)
                target = plain.get_submodule(name)
                assert isinstance(target, Convolution)
                assert target.conv.bias is not None
                target.conv.weight.data = (source.conv.weight * gain[:, None, None, None]).detach()
                target.conv.bias.data = (source.norm.bias - mean * gain).detach()
        return plain.eval()


def unfold_blocks(blocks: torch.Tensor) -> torch.Tensor:
    """Put the 2 x 2 blocks of (N, H / 2, W / 2, 2, 2, ...) in place: (N, H, W, ...)."""
    n, rows, columns = blocks.shape[:3]
    return blocks.transpose(2, 3).reshape(n, 2 * rows, 2 * columns, *blocks.shape[5:])


def fold_blocks(pixels: torch.Tensor) -> torch.Tensor:
    """Undo `unfold_blocks`: (N, H, W) to (N, H / 2, W / 2, 2, 2)."""
    n, height, width = pixels.shape
    return pixels.view(n, height // 2, 2, width // 2, 2).transpose(2, 3)


class UNetSegmenter(nn.Module):
    """A `Segmenter` made of a folded `UNet`.

    Parameters
    ----------
    network : UNet
        Trained, with or without batch normalizations.
    classes : tuple of str
        Name of each score; the last may be `"unknown"`.
    background : tuple of str
        Those that are not objects.
    device : str or torch.device
        Where to compute; labels are returned there.
    """

    def __init__(
        self,
        network: UNet,
        classes: tuple[str, ...],
        background: tuple[str, ...],
        device: str | torch.device = "cpu",
    ):
        super().__init__()
        if network.normalized:
            network = network.folded()
        self.network: UNet = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name: str | None = None  # under which it was loaded
        self.classes, self.background = tuple(classes), tuple(background)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.score.weight.device

    @property
    def settings(self) -> dict[str, list[str]]:
        """What else than the weights decides a study, as plain values: for its fingerprint."""
        return {"classes": list(self.classes), "background": list(self.background)}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Label each pixel; the same batch gives the same labels.

        Parameters
        ----------
        images : Tensor, float, shape (N, 3, H, W), H and W divisible by 8
            Colours in [-1, 1]. The rooms weights were trained at 64 px.

        Returns
        -------
        Tensor, int64, shape (N, H, W)
            Index into `classes`.

        Raises
        ------
        UsageError
            If the shape is another one.
        """
        self._check(images)
        labels = torch.empty(len(images), *images.shape[2:], dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            for rows in self._chunks(len(images)):
                labels[rows] = unfold_blocks(self._score(images[rows]).max(dim=-1).indices)
        return labels

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Give the probability of each class at each pixel, (N, C, H, W) float32, for images as in a call; differentiable."""
        self._check(images)
        parts = [self._score(images[rows]).softmax(dim=-1) for rows in self._chunks(len(images))]
        return unfold_blocks(torch.cat(parts)).permute(0, 3, 1, 2)

    def _check(self, images: torch.Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % MULTIPLE or images.shape[3] % MULTIPLE:
            raise UsageError(
                f"this segmenter takes images of shape (N, 3, H, W) with H and W divisible by {MULTIPLE}, "
                f"not {tuple(images.shape)}"
            )

    def _chunks(self, n: int) -> list[slice]:
        size = _CHUNK if self.device.type == "cpu" else 16 * _CHUNK
        return [slice(start, start + size) for start in range(0, n, size)]

    def _score(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images.to(self.device, torch.float32))


def save_segmenter(path: Path, segmenter: UNetSegmenter) -> None:
    """Write a segmenter as safetensors, with what is needed to build it again in the file's metadata."""
    about = {
        "format": FORMAT,
        "widths": segmenter.network.widths,
        "classes": segmenter.classes,
        "background": segmenter.background,
    }
    write_safetensors(path, segmenter.network.state_dict(), about)


def read_segmenter(path: Path, device: str | torch.device = "cpu") -> UNetSegmenter:
    """Read what `save_segmenter` wrote.

    Raises
    ------
    UsageError
        If the file is missing, is no safetensors file, or holds something else than a segmenter.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}: a segmenter is a name or a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a safetensors file ({error})") from None
    try:
        about = json.loads(metadata.get("gandid", "{}"))
        if about.get("format") != FORMAT:
            raise UsageError(f"{path} holds no gandid segmenter: its metadata does not say format {FORMAT!r}")
        classes, background = tuple(about["classes"]), tuple(about["background"])
        network = UNet(len(classes), tuple(about["widths"]), normalized=False)
        network.load_state_dict(state)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path} is a damaged gandid segmenter ({type(error).__name__}: {error})") from None
    return UNetSegmenter(network, classes, background, device)
