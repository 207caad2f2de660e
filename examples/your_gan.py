"""A generator of your own, for `gandid run --generator examples/your_gan.py:make`.

    gandid run --generator examples/your_gan.py:make --segmenter examples/your_gan.py:colours --layer net.0 \
        --target bright --units 4 --latents 64 --out runs/your-gan

Put your network in place of `nn.Sequential`, and load its weights in `make`. What gandid asks of it:

- `latent_dim`, the length of a latent; `forward` takes latents (N, latent_dim), drawn from a standard normal, and gives images
  (N, 3, H, W) in [-1, 1]. Where your network takes another shape (N, D, 1, 1) or gives other colours, `forward` is the
  place to convert.
- Its normalizations are modules, each used in one place. PyTorch's own are found; one of your own is registered below.
  A normalization that is only a function called in `forward` cannot be found: make it a module.
- Layers are named as PyTorch names modules (`print(make())`). Edit one whose output a normalization is given.
"""

import torch
from torch import Tensor, nn

from gandid.interventions import register_site
from gandid.segmenters import FunctionSegmenter


class Hypersphere(nn.Module):
    """A pixel normalization: `x / sqrt(mean_c x^2 + eps)` at each position."""

    eps = 1e-8

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(dim=1, keepdim=True) + self.eps).rsqrt()


register_site(Hypersphere)  # a site of another formula takes an Adapter, see gandid.interventions


class YourGAN(nn.Module):
    """Latents of 16 numbers to images of 32 pixels, with random weights."""

    latent_dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ConvTranspose2d(16, 32, 4),  # net.0: 4x4
            Hypersphere(),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),  # net.3: 8x8
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Upsample(scale_factor=4),
            nn.Conv2d(16, 3, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z[:, :, None, None])


def make() -> nn.Module:
    """The generator. Your own: `network.load_state_dict(torch.load("weights.pt", weights_only=True))`."""
    torch.manual_seed(0)
    return YourGAN()


def colours() -> FunctionSegmenter:
    """A segmenter of your own: images (N, 3, H, W) in [-1, 1] to the number of each pixel's class."""

    def label(images: Tensor) -> Tensor:
        brightness = images.mean(dim=1)
        return (brightness > 0).long() + (brightness > 0.2)

    return FunctionSegmenter(label, classes=["dark", "middling", "bright"], background=["middling"])
