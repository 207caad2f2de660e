"""The embedded segmenters: a network that scores pixels, and the files that hold one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from gandid.errors import UsageError
from gandid.files import read_safetensors, write_safetensors
from gandid.segmenters.pixelwise import Dilated, PixelNetwork, UNet, unfold_blocks

FORMAT = "gandid-segmenter-1"
ARCHITECTURES: dict[str, type[PixelNetwork]] = {"unet": UNet, "dilated": Dilated}
_CHUNK = 24  # images labelled at once on a CPU: their maps stay in the cache


class NetworkSegmenter(nn.Module):
    """A `Segmenter` made of a `PixelNetwork`.

    Parameters
    ----------
    network : PixelNetwork
        Trained, its batch normalizations folded into the convolutions.
    classes : tuple of str
        Name of each score; the last may be `"unknown"`.
    background : tuple of str
        Those that are not objects.
    device : str or torch.device
        Where to compute; labels are returned there.
    """

    def __init__(
        self,
        network: PixelNetwork,
        classes: tuple[str, ...],
        background: tuple[str, ...],
        device: str | torch.device = "cpu",
    ):
        super().__init__()
        self.network: PixelNetwork = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
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

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Label each pixel; the same batch gives the same labels.

        Parameters
        ----------
        images : Tensor, float, shape (N, 3, H, W), H and W divisible by the network's `multiple`
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
        return self._each(images, lambda scores: scores.max(dim=-1).indices)

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Give the probability of each class at each pixel, (N, C, H, W) float32, for images as in a call; differentiable."""
        return self._each(images, lambda scores: scores.float().softmax(dim=-1)).permute(0, 3, 1, 2)

    def _each(self, images: torch.Tensor, reading: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What `reading` makes of the scores of so many images as fit a cache, with the pixels in place."""
        multiple = self.network.multiple
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % multiple or images.shape[3] % multiple:
            raise UsageError(
                f"this segmenter takes images of shape (N, 3, H, W) with H and W divisible by {multiple}, "
                f"not {tuple(images.shape)}"
            )
        if not len(images):
            return self._each(images.new_zeros(1, *images.shape[1:]), reading)[:0]
        parts = images.split(_CHUNK if self.device.type == "cpu" else 40 * _CHUNK)
        return torch.cat([unfold_blocks(reading(self.network(part.to(self.device, torch.float32)))) for part in parts])


def save_segmenter(path: Path, segmenter: NetworkSegmenter) -> None:
    """Write a segmenter as safetensors, with what is needed to build it again in the file's metadata."""
    kind = type(segmenter.network)
    about = {
        "format": FORMAT,
        "architecture": next(name for name, known in ARCHITECTURES.items() if known is kind),
        **segmenter.network.shape,
        "classes": segmenter.classes,
        "background": segmenter.background,
    }
    write_safetensors(path, segmenter.network.state_dict(), about)


def read_segmenter(path: Path, device: str | torch.device = "cpu") -> NetworkSegmenter:
    """Read what `save_segmenter` wrote.

    Raises
    ------
    UsageError
        If the file is no safetensors file, or holds something else than a segmenter.
    """
    about, state = read_safetensors(path)
    if about.get("format") != FORMAT:
        raise UsageError(f"{path} holds no gandid segmenter: its metadata does not say format {FORMAT!r}")
    try:
        classes, background = tuple(about["classes"]), tuple(about["background"])
        build = ARCHITECTURES[about.get("architecture", "unet")]  # the first files name none
        shape = {name: about[name] for name in about.keys() - {"format", "architecture", "classes", "background"}}
        network = build(len(classes), normalized=False, **shape)
        network.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path} is a damaged gandid segmenter ({type(error).__name__}: {error})") from None
    return NetworkSegmenter(network, classes, background, device)
