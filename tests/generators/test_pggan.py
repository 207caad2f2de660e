"""The PG-GAN against its definition, and against the original implementation's answers."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from gandid.errors import UsageError
from gandid.generators import Generator, load_generator
from gandid.generators.pggan import Discriminator, EqualConv2d, PixelNorm
from gandid.generators.storage import save_discriminator, save_generator
from lab.growing import Growing

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def network() -> Generator:
    torch.manual_seed(0)
    return Generator((12, 10, 8), latent_dim=6).eval().requires_grad_(False)


def test_agrees_with_dissect():
    """A network of GAN Dissection's code with random weights, its latents and its images."""
    saved = torch.load(FIXTURES / "dissect_32px.pth", weights_only=True)
    expected = np.load(FIXTURES / "dissect_32px.expected.npz")
    renamed = {
        name.replace("wscale.b", "conv.bias").replace("output_32x32", "output"): value for name, value in saved.items()
    }
    network = Generator((16, 12, 12, 8), latent_dim=16)
    network.load_state_dict(renamed)
    with torch.no_grad():
        images = network(torch.from_numpy(expected["z"]).flatten(1))
    np.testing.assert_allclose(images.numpy(), expected["image"], atol=1e-4)


def test_names_and_shapes(network):
    assert network.layers == ("layer1", "layer2", "layer3", "layer4", "layer5", "layer6")
    assert network.sites == tuple(f"{name}.norm" for name in (*network.layers, "output"))
    assert (network.latent_dim, network.resolution) == (6, 16)
    z = torch.randn(2, 6)
    assert network(z).shape == (2, 3, 16, 16)
    for layer, channels, size in [("layer1", 12, 4), ("layer3", 10, 8), ("layer6", 8, 16)]:
        r = network.prefix(z, layer)
        assert r.shape == (2, channels, size, size)
        torch.testing.assert_close(network.suffix(r, layer), network(z))


def test_without_pixel_norm_only_the_latent_is_normalized():
    network = Generator((12, 10), latent_dim=6, pixel_norm=False)
    assert network.sites == ("layer1.norm",)


def test_latents_lie_on_the_hypersphere(network):
    z = torch.randn(3, 6)
    torch.testing.assert_close(network(z), network(7.5 * z))


def test_pixel_norm_is_the_root_mean_square():
    x = torch.randn(2, 5, 3, 3)
    norm = PixelNorm()
    torch.testing.assert_close(norm(x), x / (x.pow(2).mean(dim=1, keepdim=True) + 1e-8).sqrt())
    torch.testing.assert_close(norm(x).square().mean(dim=1), torch.ones(2, 3, 3))


def test_fused_resampling_equals_resampling_and_convolving():
    torch.manual_seed(0)
    conv, x = EqualConv2d(4, 5, 3, 1), torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(
        conv(x, "up"), conv(F.interpolate(x, scale_factor=2, mode="nearest")), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(conv(x, "down"), F.avg_pool2d(conv(x), 2), atol=1e-5, rtol=1e-4)


def test_equalized_learning_rate():
    torch.manual_seed(0)
    conv = EqualConv2d(64, 256, 3, 1)
    assert conv.weight.std().item() == pytest.approx(1, abs=0.02)
    assert (conv.weight * conv.scale).std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_weights_that_change_are_used_at_once(network):
    """Whatever changes the weights reaches the next image, trained or not."""
    network, z = copy.deepcopy(network), torch.randn(1, network.latent_dim)
    conv = network.layer3.conv

    def changes(change):
        with torch.inference_mode():
            before = network(z)
        change()
        with torch.inference_mode():
            return not torch.equal(before, network(z))

    assert not changes(lambda: None)
    with torch.no_grad():
        assert changes(lambda: conv.weight.mul_(2))
    assert changes(lambda: conv.weight.data[0].zero_())
    assert changes(lambda: network.load_state_dict({name: 2 * value for name, value in network.state_dict().items()}))
    optimizer = torch.optim.SGD([conv.weight.requires_grad_()], lr=1.0)
    network(z).sum().backward()
    assert changes(optimizer.step)
    assert network.double()(z.double()).dtype == torch.float64


def test_fading_in_goes_from_the_coarse_image_to_the_fine_one():
    torch.manual_seed(0)
    growing, z = Growing((8, 8, 6), latent_dim=5), torch.randn(2, 5)
    coarse = F.interpolate(growing(z, 1, 1.0), scale_factor=2, mode="nearest")
    torch.testing.assert_close(growing(z, 2, 0.0), coarse)
    torch.testing.assert_close(growing(z, 2, 1.0), growing.net(z))
    torch.testing.assert_close(growing(z, 2, 0.3), 0.7 * coarse + 0.3 * growing.net(z))


def test_minibatch_deviation_tells_equal_images_from_different_ones():
    torch.manual_seed(0)
    discriminator = Discriminator((8, 8))
    x = torch.randn(4, 8, 4, 4)
    expected = x.std(dim=0, unbiased=False).mean()
    torch.testing.assert_close(discriminator.deviation(x), expected.expand(4, 1, 4, 4), rtol=1e-4, atol=1e-5)
    assert discriminator.deviation(x[:1].expand(4, -1, -1, -1)).max() < 2e-4


def test_a_calibrated_discriminator_scores_each_image_alone():
    torch.manual_seed(0)
    discriminator, images = Discriminator((8, 8, 6)), torch.randn(8, 3, 16, 16)
    loose = discriminator(images)
    assert not torch.allclose(loose[:1], discriminator(images[:1]))
    discriminator.calibrate(images)
    torch.testing.assert_close(discriminator(images)[:1], discriminator(images[:1]))


def test_saved_and_read_back(network, tmp_path):
    path = save_generator(network, tmp_path / "g.safetensors")
    again = load_generator(path)
    z = torch.randn(2, 6)
    torch.testing.assert_close(again(z), network(z))
    assert again.name == str(path)
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_what_is_no_generator_is_refused(tmp_path):
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes((99).to_bytes(8, "little") + b"{garbage")
    other = save_discriminator(Discriminator((8, 8)), tmp_path / "d.safetensors")
    lying = tmp_path / "lying.safetensors"
    about = {"kind": "generator", "architecture": {"channels": [8, 8], "latent_dim": 5, "doors": 3}}
    save_file({"x": torch.zeros(1)}, lying, metadata={"gandid": json.dumps(about)})
    for path, told in [
        (garbage, "not a readable"),
        (other, "not a gandid generator"),
        (lying, "does not hold the network that its own description names"),
    ]:
        with pytest.raises(UsageError, match=told) as error:
            load_generator(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="unknown generator 'palaces': it is neither a file nor one of rooms"):
        load_generator("palaces")
