"""Whatever generator and segmenter are drawn: the numbers of a plain record-and-replay, or one clear line."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gandid.errors import GandidError
from gandid.interventions import register_site
from gandid.latents import latents
from gandid.segmenters import FunctionSegmenter
from gandid.study import Study

WIDTH, SIDE, LATENTS, CLASSES, EDITED = 8, 8, 5, 4, [0, 3]
CLASS_NAMES = ("dark", "middling", "bright")


class RootMeanSquare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


register_site(RootMeanSquare)


def own_statistic(kind: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of each kind of normalization, written out."""
    if kind == "pixel":
        return torch.zeros(()), (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
    if kind == "batch":
        return torch.tensor(0.1), torch.tensor(2.0).add(1e-5).sqrt()
    if kind == "group":
        halves = [own_statistic("layer", half) for half in x.chunk(2, dim=1)]
        return tuple(
            torch.cat([part.expand(-1, WIDTH // 2, 1, 1) for part in parts], 1) for parts in zip(*halves, strict=True)
        )
    dims = {"layer": (1, 2, 3), "instance": (2, 3)}[kind]
    return x.mean(dims, keepdim=True), (x.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()


SITES: dict[str, Any] = {
    "pixel": RootMeanSquare,
    "group": lambda: nn.GroupNorm(2, WIDTH),
    "instance": lambda: nn.InstanceNorm2d(WIDTH),
    "layer": lambda: nn.LayerNorm((WIDTH, SIDE // 2, SIDE // 2)),
    "batch": lambda: nn.BatchNorm2d(WIDTH, affine=False),
    "function": nn.Identity,
}


@dataclass
class Output:
    latent: Tensor
    images: Tensor


GIVE: dict[str, Any] = {
    "tensor": lambda z, x: x,
    "dict": lambda z, x: {"sample": x},
    "tuple": lambda z, x: (z, x),
    "dataclass": lambda z, x: Output(z, x),
}


class Drawn(nn.Module):
    """A layer, a site, and colours; the map after the site also sees the latent, if there is a skip."""

    def __init__(self, case: "Case"):
        super().__init__()
        torch.manual_seed(case.weights)
        self.case, self.latent_dim = case, case.shape
        self.layer, self.site = nn.Linear(4, WIDTH * 16), SITES[case.site]()
        if case.site == "batch":
            self.site.running_mean.fill_(0.1)
            self.site.running_var.fill_(2.0)
        self.spread, self.embed = nn.Unflatten(1, (WIDTH, 4, 4)), nn.Embedding(CLASSES, 4)
        self.colour, self.skip = nn.Conv2d(WIDTH, 3, 3, padding=1), nn.Linear(4, 3)
        if case.fault == "state":
            self.register_buffer("calls", torch.zeros(()))
        if case.extra != "none":
            self.inputs = {"extra": {"drawn": range(CLASSES), "fixed": 2, "noise": (1, 2, 2)}[case.extra]}

    def begin(self, z: Tensor, extra: Any = None) -> tuple[Tensor, Tensor]:
        z = z.flatten(1)
        if self.case.extra in ("drawn", "fixed"):
            z = z + self.embed(extra)
        elif self.case.extra == "noise":
            z = z + extra.flatten(1)
        return z, self.spread(self.layer(z))

    def end(self, z: Tensor, x: Tensor) -> Tensor:
        x = self.colour(F.interpolate(x, scale_factor=2))
        return torch.tanh(x + self.skip(z)[:, :, None, None] if self.case.skip else x)

    def forward(self, z: Tensor, extra: Any = None) -> Any:
        fault = self.case.fault
        if fault == "parts" and len(z) > 2:
            halves = [self(z[rows], None if extra is None else extra[rows]) for rows in (slice(2), slice(2, None))]
            return torch.cat(halves)
        own, x = self.begin(z, extra)
        if fault == "batch statistics":
            x = x - x.mean(0, keepdim=True)
        x = self.end(own, F.instance_norm(self.site(x)) if self.case.site == "function" else self.site(x))
        if fault == "noise":
            x = x + 0.1 * torch.randn_like(x)
        if fault == "nan":
            x = x / 0
        if fault == "bytes":
            x = (127 * x + 128).byte()
        if fault == "state":
            self.calls += 1
        if fault == "numpy images":
            return x.float().numpy()
        z.zero_()  # what it was given is its own
        return GIVE[self.case.output](own, x)


def label(images: Tensor) -> Tensor:
    bright = images.float().mean(1)
    return (bright > -0.05).long() + (bright > 0.05).long()


LABEL: dict[str, Any] = {
    "int64": label,
    "int32": lambda x: label(x).int(),
    "numpy": lambda x: label(x).byte().numpy(),
    "other bytes": lambda x: label(x).numpy().astype(">u2"),
    "view": lambda x: torch.stack([label(x), 1 - label(x)], -1)[..., 0],
    "writes": lambda x: (label(x), x.mul_(0.9))[0],
    "probabilities": lambda x: label(x).float(),
    "scores": lambda x: F.one_hot(label(x)).movedim(-1, 1),
    "smaller": lambda x: label(x)[:, ::2, ::2],
    "void": lambda x: label(x) - 1,
    "more": lambda x: label(x) + 1,
    "random": lambda x: torch.randint(3, x[:, 0].shape),
    "batch": lambda x: label(x - x.mean()) if len(x) > 1 else label(x) * 0,
    "yes or no": lambda x: label(x) > 0,
}


class Seen:
    """A segmenter of one's own, which nothing checks but the study."""

    classes, background = CLASS_NAMES, ("dark",)

    def __init__(self, how: str):
        self.how, self.name = how, how

    def __call__(self, images: Tensor) -> Any:
        return LABEL[self.how](images)


# What is wrong, and a word of the line that says so.
FAULTS = {
    "function": "instance_norm",
    "batch statistics": "beside other latents",
    "noise": "second time",
    "nan": "not finite",
    "bytes": "uint8",
    "probabilities": "float32",
    "scores": "of shape",
    "smaller": "of shape",
    "void": "from -1 to",
    "more": "to 3",
    "random": "second time",
    "batch": "when it is alone",
    "yes or no": "of type bool",
    "state": "changes its buffer 'calls'",
    "parts": "in one pass, not in parts",
    "no weights": "'colour.weight' in the generator holds no numbers",
    "numpy images": "gives a ndarray",
}


@dataclass(frozen=True)
class Case:
    dtype: torch.dtype
    shape: Any
    extra: str
    output: str
    site: str
    skip: bool
    labels: str
    checked: bool
    weights: int
    fault: str | None


CASES = st.builds(
    Case,
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    shape=st.sampled_from([4, np.int32(4), (4, 1, 1), (1, 2, 2)]),
    extra=st.sampled_from(["none", "drawn", "fixed", "noise"]),
    output=st.sampled_from(list(GIVE)),
    site=st.sampled_from([name for name in SITES if name != "function"]),
    skip=st.booleans(),
    labels=st.sampled_from(["int64", "int32", "numpy", "other bytes", "view", "writes"]),
    checked=st.booleans(),
    weights=st.integers(0, 9),
    fault=st.none(),
)


def study_of(case: Case) -> Study:
    network = Drawn(case).eval().to(case.dtype)
    if case.fault == "no weights":
        network.colour.to("meta")
    segmenter = FunctionSegmenter(LABEL[case.labels], CLASS_NAMES, ["dark"]) if case.checked else Seen(case.labels)
    return Study(network, segmenter, layer="spread", seed=3)


@torch.no_grad()
def replayed(case: Case) -> list[Tensor]:
    """Images with no edit, with the edit, and with the edit and the statistic of no edit, without any part of gandid but latents."""
    network = Drawn(case).eval().to(case.dtype)
    row = latents(3, range(LATENTS), 4 + {"drawn": 1, "noise": 4}.get(case.extra, 0))
    uniform = [NormalDist().cdf(number) for number in row[:, -1].tolist()]
    extra = {
        "none": None,
        "drawn": torch.tensor([int(CLASSES * share) for share in uniform]),
        "fixed": torch.full((LATENTS,), 2),
        "noise": row[:, 4:].to(case.dtype),
    }[case.extra]
    z, x = network.begin(row[:, :4].to(case.dtype), extra)
    edited = x.clone()
    edited[:, EDITED] = 0
    arms = []
    for it, statistic in ((x, x), (edited, edited), (edited, x)):
        mean, scale = own_statistic(case.site, statistic.double())
        arms.append(network.end(z, ((it.double() - mean) / scale).to(case.dtype)))
    return arms


@settings(max_examples=10, phases=[Phase.generate])  # to look for a smaller example takes minutes
@given(CASES)
def test_a_study_has_the_numbers_of_a_plain_record_and_replay(case):
    panel = study_of(case).run({"bright": EDITED}, control="frozen", hold="first", latents=LATENTS)
    few = {torch.bfloat16: 12, torch.float16: 3}.get(
        case.dtype, 1
    ) * LATENTS  # pixels of 64 an image that rounding may decide
    hole = None
    for arm, images in zip(("reference", "live", "frozen:first"), replayed(case), strict=True):
        labels = label(images)
        hole = labels == 2 if hole is None else hole
        for name, where in (("pixels", torch.ones_like(hole)), ("inside", hole)):
            counts = torch.stack([((labels == c) & where).sum((1, 2)) for c in range(3)], 1).numpy()
            found = panel[name].isel(segmenter=0, target=0).sel(arm=arm).values
            assert np.abs(found - counts).sum() <= few, (arm, name)
    if case.site != "batch":
        assert panel.sel(arm="live")["pixels"].values.sum() > 0


@pytest.mark.parametrize("fault", FAULTS)
@settings(max_examples=1, phases=[Phase.generate])
@given(case=CASES)
def test_what_would_be_wrong_numbers_is_one_clear_line(fault, case):
    changed = {"labels": fault} if fault in LABEL else {"fault": fault}
    if fault == "parts":
        changed |= {"output": "tensor"}
    if fault == "function":
        changed = {"site": "function"}
    case = Case(**(vars(case) | changed))
    with pytest.raises(GandidError, match=FAULTS[fault]) as refused:
        study_of(case).run({"bright": EDITED}, control="frozen", hold="first", latents=LATENTS)
    assert "\n" not in str(refused.value)
