"""Synthetic panels after docs/panel.md, with planted effects, for the tests of `did` and of the report."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

CLASSES = ("wall", "floor", "window", "painting", "lamp", "chair", "plant", "rug", "unknown")
BACKGROUND = ("wall", "floor")
SITES = ("layer5.norm", "layer6.norm", "output.norm")

# Per arm: the share of the target's original pixels that each class carries after the edit; what is left
# stays the target's. The keys beside "live" are arms, or held sets standing for every control.
Plan = Mapping[str, Mapping[str, float]]
PLAN: Plan = {
    "live": {"wall": 0.40, "painting": 0.20},
    "first": {"wall": 0.50, "painting": 0.15},
    "all": {"wall": 0.85, "painting": 0.05},
}


def make_panel(
    latents: int = 80,
    targets: Sequence[str] = ("window", "lamp"),
    *,
    controls: Sequence[str] = ("capped", "frozen"),
    holds: Sequence[str] = ("first", "all"),
    plan: Plan = PLAN,
    noise: float = 0.0,
    absent: Sequence[str] = (),
    strained: Sequence[str] = (),
    classes: Sequence[str] = CLASSES,
    unedited: bool = False,
    size: int = 64,
    seed: int = 0,
) -> xr.Dataset:
    """Make a panel whose effects are known.

    Parameters
    ----------
    latents, targets, controls, holds, classes, size, seed
        Its dimensions; images are `size` x `size` pixels.
    plan
        Shares of the target's original pixels per arm (`Plan`). Without noise they are met exactly: a target
        covers a multiple of 20 pixels.
    noise
        Standard deviation over latents of each share, independent between arms.
    absent
        Targets that no image shows.
    strained
        Arms that leave the network's range: large strain, low realism, unknown and uncertain pixels.
    unedited
        Whether to add a ``CONTROL:HELD/unedited`` arm per held arm (a copy of the reference).
    """
    rng = np.random.default_rng(seed)
    names = ["reference", "live", *(f"{c}:{h}" for c in controls for h in holds)]
    if unedited:
        names += [f"{name}/unedited" for name in names[2:]]
    edit = np.array([name == "live" or (":" in name and "/" not in name) for name in names])
    control = np.array([name.split(":")[0] if ":" in name else "none" for name in names])
    held = np.array([name.split(":")[1].split("/")[0] if ":" in name else "none" for name in names])
    shape = (latents, len(targets), len(names))
    index = {name: i for i, name in enumerate(classes)}

    total = size * size
    scene = _scenes(rng, latents, classes, absent, total)
    pixels = np.zeros((*shape, len(classes)), np.int32)
    inside = np.zeros_like(pixels)
    for t, target in enumerate(targets):
        original = scene[:, index[target]]
        for a, name in enumerate(names):
            filled = np.zeros((latents, len(classes)))
            shares = plan.get(name, plan.get(held[a], {})) if edit[a] else {}
            for c, share in shares.items():
                if c != target:
                    wanted = share + noise * rng.standard_normal(latents)
                    filled[:, index[c]] = np.rint(np.clip(wanted, 0, 1) * original)
            # Noise may ask for more than there is; the last classes then get less.
            filled = np.diff(np.minimum(np.cumsum(filled, 1), original[:, None]), axis=1, prepend=0)
            inside[:, t, a] = filled
            inside[:, t, a, index[target]] += (original - filled.sum(1)).astype(np.int32)
            outside = scene.copy()
            outside[:, index[target]] = 0
            pixels[:, t, a] = outside + inside[:, t, a]
    bad = np.isin(names, list(strained))
    panel = xr.Dataset(
        {
            "pixels": (("latent", "target", "arm", "object"), pixels),
            "inside": (("latent", "target", "arm", "object"), inside),
            **_support(rng, shape, edit & (held != "none"), held == "first", bad),
            **_gains(rng, latents, targets, names, absent),
            "units": (
                ("target", "rank"),
                np.arange(20 * len(targets), dtype=np.int32).reshape(len(targets), 20),
            ),
        },
        coords={
            "latent": np.arange(latents),
            "target": list(targets),
            "arm": names,
            "object": list(classes),
            "site": list(SITES),
            "quantile": [0.01, 0.5, 0.99],
            "edit": ("arm", edit),
            "control": ("arm", control),
            "held": ("arm", held),
            "background": ("object", np.isin(classes, BACKGROUND)),
        },
        attrs={
            "generator": "synthetic",
            "segmenter": "synthetic",
            "layer": "layer4",
            "ablation": "zero",
            "alpha": 1.0,
            "seed": seed,
            "image_pixels": total,
            "presence": 0.003,
            "version": "test",
        },
    )
    heat = rng.random((len(targets), len(names), size, size), np.float32) * edit[:, None, None] * 0.2
    panel["inpainted_map"] = (("target", "arm", "y", "x"), heat)
    panel["gain_map"] = (("target", "v", "u"), 1 + rng.random((len(targets), 8, 8), np.float32))
    if "unknown" in classes and bad.any():
        smear = np.minimum(panel["pixels"].sel(object="wall"), total // 5) * bad[None, None, :]
        panel["pixels"].loc[{"object": "unknown"}] += smear.drop_vars("object").astype(np.int32)
        panel["pixels"].loc[{"object": "wall"}] -= smear.drop_vars("object").astype(np.int32)
    return panel


def _scenes(
    rng: np.random.Generator, latents: int, classes: Sequence[str], absent: Sequence[str], total: int
) -> np.ndarray:
    """Scenes: objects cover multiples of 20 pixels or are absent, floor a quarter, wall the rest."""
    scene = np.zeros((latents, len(classes)), np.int64)
    for i, name in enumerate(classes):
        if name in (*BACKGROUND, "unknown", *absent):
            continue
        scene[:, i] = 20 * rng.integers(1, total // 20 // 12, latents) * (rng.random(latents) < 0.7)
    if "unknown" in classes:
        scene[:, classes.index("unknown")] = rng.binomial(total // 100, 0.2, latents)
    if "floor" in classes:
        scene[:, classes.index("floor")] = total // 4
    scene[:, classes.index("wall")] += total - scene.sum(1)
    return scene


def _support(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    holds: np.ndarray,
    first: np.ndarray,
    bad: np.ndarray,
) -> dict[str, tuple]:
    latents = shape[0]
    scale = np.where(bad, 2.0, 0.2) * holds
    strain = np.abs(rng.normal(1, 0.1, (*shape, len(SITES), 1))) * scale[:, None, None] * np.array([-1.0, 0.0, 0.8])
    strain[:, :, first, 1:] = 0
    natural = rng.gamma(20, 0.03, (latents, len(SITES)))
    score = rng.normal(0, 1, latents)[:, None, None] + rng.normal(0, 0.1, shape) - 4 * bad
    score[:, :, 0] = score[:, :1, 0]
    return {
        "strain": (("latent", "target", "arm", "site", "quantile"), strain.astype(np.float32)),
        "natural": (("latent", "site"), natural.astype(np.float32)),
        "realism": (("latent", "target", "arm"), score.astype(np.float32)),
        "uncertain": (("latent", "target", "arm"), np.broadcast_to(0.003 + 0.05 * bad, shape).astype(np.float32)),
    }


def _gains(
    rng: np.random.Generator,
    latents: int,
    targets: Sequence[str],
    names: Sequence[str],
    absent: Sequence[str],
) -> dict[str, tuple]:
    shown = ~np.isin(targets, list(absent))
    gain = np.where(shown, 1.3 + 0.1 * rng.random((latents, len(targets))), np.nan)
    placebo = np.full((latents, len(targets)), np.nan)
    placebo[:8] = 0
    gap = np.full((latents, len(names)), np.nan)
    gap[:8] = 1e-6
    per_target = ("latent", "target")
    return {
        "gain": (per_target, gain.astype(np.float32)),
        "gain_outside": (per_target, np.full_like(gain, 1.02, dtype=np.float32)),
        "gain_error": (per_target, (1e-5 * rng.random(gain.shape)).astype(np.float32)),
        "placebo_gap": (per_target, placebo.astype(np.float32)),
        "baseline_gap": (("latent", "arm"), gap.astype(np.float32)),
    }
